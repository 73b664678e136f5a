"""Which functions of ours run during a call, and whether a revision of code covers them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mechocl.analyses.revision import PACKAGES, Code

ROOT = Path(__file__).parent.parent.parent
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def executed(call: Callable[[], Any]) -> set[tuple[str, str]]:
    """(module, outermost function or class) of everything of ours that runs."""
    names = {str(path): ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES}
    found: set[tuple[str, str]] = set()

    def trace(frame: Any, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in names and code.co_name != "<module>":
            found.add((names[code.co_filename], code.co_qualname.split(".")[0]))

    before = sys.getprofile()
    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(before)
    return {(module.removesuffix(".__init__"), name) for module, name in found}


def uncovered(ran: set[tuple[str, str]], code: Code) -> set[tuple[str, str]]:
    return {one for one in ran if one[0] not in code.modules and ":".join(one) not in code.definitions}
