"""The explorer in Python: `mechocl.share` writes the page, `mechocl.explore` shows it in a notebook."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mechocl import files
from mechocl.accepted import seed_number
from mechocl.analyses import jobs as counting
from mechocl.destinations import require_file
from mechocl.errors import MechoclError, note
from mechocl.models import seam
from mechocl.report.explorer.page import SIZE_LIMIT, build_page, write_explorer
from mechocl.report.explorer.story import read_story
from mechocl.runs.run import Run

FEW_SEEDS: Final = 2
"""How many seeds a notebook shows where none are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explorer:
    """The page on some aliases of a run. A notebook shows it where it is a cell's last value; `save` writes it."""

    of: str
    """Name of the run, and what of it is shown."""
    page: str = field(repr=False)
    """The whole page as HTML."""
    height: int = field(repr=False)
    """Height in a notebook in pixels."""

    @property
    def size(self) -> int:
        """Size of the page in bytes, which a notebook grows by."""
        return len(self.page.encode("utf-8"))

    def save(self, path: str | Path) -> Path:
        """Write the page into a file, whose folder is made, and return its path."""
        path = Path(path)
        require_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, self.page)
        return path

    def __repr__(self) -> str:
        return (
            f"<explorer of {self.of}; {self.size / 1e6:.1f} MB; a notebook shows it, .save(path) writes it>"
        )

    def _repr_html_(self) -> str:
        """The page in a frame of its own, whose style and scripts do not meet those of the notebook."""
        frame = (
            f'<iframe srcdoc="{html.escape(self.page)}" title="explorer of {html.escape(self.of)}" '
            f'style="width: 100%; height: {self.height}px; border: 1px solid #888; border-radius: 6px"></iframe>'
        )
        return f'{frame}<div style="font-size: 85%">explorer of {html.escape(self.of)}; {self.size / 1e6:.1f} MB</div>'


def share(
    run: Run,
    *,
    out: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    aliases: int = 50,
    checkpoints: int = 10,
    patching: bool = True,
    story: str = "",
    device: str = "auto",
    jobs: int | None = None,
) -> Path:
    """Write the page on single aliases of a run, as `mechocl share` does, and return its path; by default `share.html` in the run.

    `seeds`: None takes those that learned their definitions. `aliases` of each seed in all, an equal share of each subset, and at
    most `checkpoints` of each seed, evenly along training. `story`: "demo", or a TOML file. Raises MechoclError for seeds that are
    not trained, for a page too large for a browser, and for a story that does not fit the page.
    """
    path = run.path / "share.html" if out is None else Path(out)
    require_file(path)
    size = write_explorer(
        run, _seeds(run, seeds, device, jobs), path, aliases=aliases, checkpoints=checkpoints, patching=patching,
        device=seam.resolve_device(device), jobs=jobs, story=read_story(story) if story else None,
    )  # fmt: skip
    if size > SIZE_LIMIT:
        note(f"{path} has {size / 1e6:.1f} MB; fewer aliases, checkpoints or seeds make it smaller")
    return path


def explore(
    run: Run,
    *,
    seeds: Sequence[int] | None = None,
    aliases: int = 12,
    checkpoints: int = 4,
    patching: bool = True,
    height: int = 900,
    device: str = "auto",
    jobs: int | None = None,
) -> Explorer:
    """The page on single aliases of a run, to be shown in a notebook, which then holds all of it: few aliases keep it small.

    As `share`, and `seeds`: None takes the first two that learned their definitions. `height` in pixels. `mechocl serve` shows every
    alias. Raises MechoclError as `share` does.
    """
    if height < 100:
        raise MechoclError(f"height is {height}; use at least 100 (pixels)")
    chosen = _seeds(run, seeds, device, jobs)
    chosen = chosen[:FEW_SEEDS] if seeds is None else chosen
    page = build_page(
        run, chosen, aliases=aliases, checkpoints=checkpoints, patching=patching, device=seam.resolve_device(device), jobs=jobs,
    )  # fmt: skip
    what = f"seed{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"
    return Explorer(
        of=f"{run.path.name} ({what}; {aliases} aliases of each, at most {checkpoints} checkpoints)",
        page=page,
        height=height,
    )


def _seeds(run: Run, seeds: Sequence[int] | None, device: str, jobs: int | None) -> tuple[int, ...]:
    """The seeds that are named, all of which must be trained; of None those that count (`jobs.count_run`)."""
    there = tuple(folder.seed for folder in run.finished_seeds())
    if seeds is None:
        return counting.count_run(run, device=seam.resolve_device(device), jobs=jobs).shown
    if not seeds:
        raise MechoclError("seeds is empty; name at least one, or leave it out")
    return tuple(dict.fromkeys(seed_number(seed, known=there, owner=run.path) for seed in seeds))
