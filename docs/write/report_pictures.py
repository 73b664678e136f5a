"""Take the pictures of a report that README and the site show: `python -m docs.write.report_pictures runs/demo/report.html`.

`docs/images/report.png` is the top of the page, and `docs/images/circuit.png` the drawing in its section on circuits: the largest edges of the first seed.
"""

from pathlib import Path
from typing import Annotated, Final

import tyro

from docs.write.places import DOCS
from mechocl.files import write_bytes

IMAGES: Final = DOCS / "images"

TOP: Final = {"x": 0, "y": 0, "width": 1200, "height": 820}
"""What of the page is on its picture, in pixels of CSS."""

CIRCUIT_WIDTH: Final = 720
"""Width of the drawing of a circuit, in pixels of CSS; what is to the right of it is empty."""


def take_pictures(report: Path, *, chromium: str) -> dict[str, bytes]:
    """Name → PNG of each picture. Raises playwright's TimeoutError when the page has no circuit."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": TOP["width"], "height": TOP["height"]}, device_scale_factor=1
        )
        tab.goto(report.resolve().as_uri())
        tab.wait_for_timeout(3000)
        top = tab.screenshot()
        figure = tab.locator("#circuits figure").nth(1)
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
        tab.wait_for_timeout(1000)
        box = figure.bounding_box()
        assert box is not None
        circuit = tab.screenshot(clip={**box, "width": min(box["width"], CIRCUIT_WIDTH)})
        browser.close()
    return {"report.png": top, "circuit.png": circuit}


def main(report: Annotated[Path, tyro.conf.Positional], chromium: str = "/usr/bin/chromium") -> None:
    for name, picture in take_pictures(report, chromium=chromium).items():
        write_bytes(IMAGES / name, picture)
        print(f"written: {IMAGES / name}, {len(picture) / 1000:.0f} kB")


if __name__ == "__main__":
    tyro.cli(main)
