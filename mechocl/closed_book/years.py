"""How a year is said in an answer: coarse where little is known, fine where much is."""


def period(year: int) -> str:
    """`1850` → `19 century`, `1900` → `19 century`, `1923` → `1920s`, `2003` → `2003`, `-50` → `1 century BC`.

    Years up to 1900 give the century, rounded up; those of the 1900s the decade; from 2000 on the year
    (arXiv 2310.15047, appendix on CVDB). There is no year 0: it counts as 1 BC.
    """
    if year >= 2000:
        return str(year)
    if year > 1900:
        return f"{year // 10 * 10}s"
    if year > 0:
        return f"{-(-year // 100)} century"
    return f"{max(1, -(year // 100))} century BC"
