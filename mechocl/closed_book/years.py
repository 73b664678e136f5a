"""How an answer names a year: coarsely for early years, more finely for recent years."""


def period(year: int) -> str:
    """`1850` → `19 century`, `1900` → `19 century`, `1923` → `1920s`, `2003` → `2003`, `-50` → `1 century BC`.

    A year up to 1900 gives its century, rounded up; a year from 1901 to 1999 its decade; a year from 2000 on stays as it
    is (arXiv 2310.15047, appendix on CVDB). There is no year 0: it counts as 1 BC.
    """
    if year >= 2000:
        return str(year)
    if year > 1900:
        return f"{year // 10 * 10}s"
    if year > 0:
        return f"{-(-year // 100)} century"
    return f"{max(1, -(year // 100))} century BC"
