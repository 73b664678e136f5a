"""Styles and scripts that pages share: colours in light and dark, tables that scroll, the contents, figures. They lie in `parts/`.
Words between backticks are code, on a page as in a terminal."""

import re
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

_CODE = re.compile(r"`([^`<>]+)`")
_TAG = re.compile(r"(<[^>]*>)")


def template(name: str, *, package: str = "mechocl.report") -> Template:
    """The template of a page, a file of a package. Its filters are `code`, for text that is shown, and `spoken`, for text in an attribute."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"code": with_code, "spoken": without_marks}
    return environment.from_string(files(package).joinpath(name).read_text("utf-8"))


def with_code(text: str) -> Markup:
    """Text, or trusted HTML as a Markup, in which words between backticks stand in code elements. Plain text is escaped."""
    parts = _TAG.split(str(escape(text)))
    shown = [part if i % 2 else _CODE.sub(r"<code>\1</code>", part) for i, part in enumerate(parts)]
    return Markup("".join(shown))  # escaped above, or trusted by the caller


def without_marks(text: str) -> str:
    """Text without the backticks around code, as it is read aloud."""
    return re.sub(r"`([^`]+)`", r"\1", text)


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
