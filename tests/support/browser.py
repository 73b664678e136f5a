"""A real browser for pages on disk, with no network: what went wrong on a page is recorded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, Route, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class OpenedPage:
    """A page in the browser, and everything on it that a reader should not meet."""

    page: Page
    problems: list[str] = field(default_factory=list)
    """Console errors and warnings, and uncaught exceptions."""
    requests: list[str] = field(default_factory=list)
    """Every address asked for beside the page itself; `data:` and `blob:` stay inside the page."""

    def assert_clean(self) -> None:
        assert not self.problems, self.problems
        assert not self.requests, self.requests


def find_browser() -> str:
    for name in BROWSERS:
        path = shutil.which(name)
        if path:
            return path
    pytest.fail(
        f"none of {', '.join(BROWSERS)} was found: this test needs a real browser. "
        "Install it, on Debian with `apt-get install chromium`."
    )


@contextmanager
def open_page(
    where: Path | str, *, width: int = 1280, height: int = 900, touch: bool = False
) -> Iterator[OpenedPage]:
    """Open an HTML file in a window of `width` by `height` pixels, without network; with `touch`, on a screen that is tapped.

    An address of a server on this machine may be given in place of a file; then what lies under it may be asked for, and nothing else.
    """
    address = where.resolve().as_uri() if isinstance(where, Path) else where
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(ARGUMENTS))
        try:
            context = browser.new_context(viewport={"width": width, "height": height}, has_touch=touch)
            context.set_offline(isinstance(where, Path))
            context.set_default_timeout(120_000)  # a busy machine takes its time
            opened = OpenedPage(context.new_page())

            def is_own(url: str) -> bool:
                return url.partition("#")[0] == address or (
                    not isinstance(where, Path) and url.startswith(address)
                )

            def on_console(message: ConsoleMessage) -> None:
                if message.type in ("error", "warning"):
                    opened.problems.append(f"{message.type}: {message.text}")

            def on_route(route: Route) -> None:
                if route.request.url.startswith("file:") or is_own(route.request.url):
                    route.continue_()
                else:
                    route.abort()

            def on_request(url: str) -> None:
                if not url.startswith(("data:", "blob:")) and not is_own(url):
                    opened.requests.append(url)

            opened.page.on("console", on_console)
            opened.page.on("pageerror", lambda error: opened.problems.append(f"exception: {error}"))
            opened.page.on("request", lambda request: on_request(request.url))
            context.route("**/*", on_route)
            opened.page.goto(address)
            yield opened
        finally:
            browser.close()


def wait_until(page: Page, what: str) -> None:
    """Wait until an expression is true. Playwright's own way may evaluate strings in the page, which pages forbid."""
    for _ in range(2000):
        if page.evaluate(what):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never true: {what}")
