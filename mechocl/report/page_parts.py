"""Styles and scripts that pages share: colours in light and dark, tables that scroll, the contents, figures. They lie in `parts/`."""

from importlib.resources import files


def style(*names: str) -> str:
    """The styles of a page, joined; `names` without their ending, such as "page"."""
    return "\n".join(_read(f"{name}.css") for name in names)


def script(*names: str) -> str:
    """The scripts of a page, joined and strict, safe to stand inside one script element; `names` without their ending."""
    return javascript_for_script("\n".join(['"use strict";', *(_read(f"{name}.js") for name in names)]))


def javascript_for_script(source: str) -> str:
    """JavaScript whose strings may name script tags, made safe to stand inside a script element."""
    return source.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def json_for_script(text: str) -> str:
    """JSON made safe to stand inside a script element. It has no `<`, and it parses to the same value."""
    return text.replace("<", r"\u003c")


def _read(name: str) -> str:
    return files("mechocl.report").joinpath("parts", name).read_text("utf-8")
