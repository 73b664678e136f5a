"""The pictures in docs/images/, taken of pages in a real browser: `python -m docs.write.pictures --run runs/demo`.

Each picture is a function of what it is taken from, and stands in `PICTURES`. Nothing on the network is asked for.
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import mechocl

IMAGES: Final = Path(__file__).parent.parent / "images"

LARGEST: Final = 200_000
"""Bytes that a picture may have."""

CIRCUIT_WIDTH: Final = 720
"""Width of the drawing of a circuit, in pixels of CSS; what is to the right of it is empty."""

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")

SHOWN: Final = "alias"
"""The position that the lens reads in pictures of the explorer, by its label."""


@dataclass
class Studio:
    """What pictures are taken of, made when the first one needs it, and the browser that takes them."""

    run: mechocl.Run
    folder: Path
    """Where pages are written."""
    browser: Browser

    @cached_property
    def explorer(self) -> Path:
        """The page on single aliases: two seeds, few aliases, every kind of panel."""
        return mechocl.share(
            self.run, out=self.folder / "share.html", seeds=self.run.seeds[:2], aliases=24, checkpoints=6
        )

    @cached_property
    def report(self) -> Path:
        """The report that `mechocl report` wrote. Raises ValueError when there is none."""
        path = self.run.path / "report.html"
        if not path.exists():
            raise ValueError(f"{path} does not exist; run `mechocl report {self.run.path}`")
        return path

    @contextmanager
    def opened(
        self, path: Path, *, width: int, height: int, dark: bool = False, scale: float = 1
    ) -> Iterator[Page]:
        """A page on disk in a window of this many pixels, without network."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            color_scheme="dark" if dark else "light",
        )
        context.set_offline(True)
        try:
            page = context.new_page()
            page.goto(path.resolve().as_uri())
            yield page
        finally:
            context.close()


def explorer_light(studio: Studio) -> bytes:
    """The whole explorer at a desk."""
    with studio.opened(studio.explorer, width=1180, height=900) as page:
        _show_alias(page)
        return page.screenshot(full_page=True)


def explorer_dark(studio: Studio) -> bytes:
    """The same in dark colours, which follow the system."""
    with studio.opened(studio.explorer, width=1180, height=900, dark=True) as page:
        _show_alias(page)
        return page.screenshot(full_page=True)


def explorer_phone(studio: Studio) -> bytes:
    """The same on a phone."""
    with studio.opened(studio.explorer, width=390, height=844, scale=2) as page:
        _show_alias(page)
        page.locator("#said").scroll_into_view_if_needed()
        page.evaluate("window.scrollTo(0, document.getElementById('said').offsetTop - 12)")
        return page.screenshot()


def report(studio: Studio) -> bytes:
    """The top of the run's report."""
    with studio.opened(studio.report, width=1200, height=820) as page:
        page.locator("#verdict").wait_for()
        return page.screenshot()


def circuit(studio: Studio) -> bytes:
    """The drawing in the report's section on circuits: the largest edges of the first seed."""
    with studio.opened(studio.report, width=1200, height=820) as page:
        figure = page.locator("#circuits figure").nth(1)
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
        box = figure.bounding_box()
        assert box is not None
        return page.screenshot(clip={**box, "width": min(box["width"], CIRCUIT_WIDTH)})


def _show_alias(page: Page) -> None:
    """The first alias of d1 after training, the lens at the alias."""
    page.locator("#scatter svg").wait_for()
    page.evaluate(f"change({{ position: drawnView.seed.labels.indexOf('{SHOWN}') }})")
    page.locator("#lens h2", has_text=f"at {SHOWN}:").wait_for()


PICTURES: Final[dict[str, Callable[[Studio], bytes]]] = {
    "report.png": report,
    "circuit.png": circuit,
    "explorer-light.png": explorer_light,
    "explorer-dark.png": explorer_dark,
    "explorer-phone.png": explorer_phone,
}
"""Name of a file in docs/images/ → the function that takes the picture."""


def smaller(png: bytes) -> bytes:
    """The picture in its 256 most fitting colours, with which text and flat areas look the same."""
    with Image.open(io.BytesIO(png)) as image, io.BytesIO() as written:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
        return written.getvalue()


def take(run: mechocl.Run, names: list[str]) -> None:
    """Take these pictures of a run. Raises ValueError for one of more than `LARGEST` bytes."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise ValueError(f"none of {', '.join(BROWSERS)} was found; install a Chromium")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox"])
        studio = Studio(run, Path(folder), browser)
        for name in names:
            taken = smaller(PICTURES[name](studio))
            if len(taken) > LARGEST:
                raise ValueError(f"{name} has {len(taken)} bytes; show less on it")
            (IMAGES / name).write_bytes(taken)
            print(f"{name}: {len(taken) / 1e3:.0f} kB")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the pictures in docs/images/.")
    parser.add_argument("--run", default="runs/demo", help="folder of the run that `make demo` makes")
    parser.add_argument("--only", nargs="+", choices=sorted(PICTURES), default=list(PICTURES))
    chosen = parser.parse_args()
    take(mechocl.open_run(chosen.run), chosen.only)


if __name__ == "__main__":
    main()
