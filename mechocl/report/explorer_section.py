"""The explorer of single aliases as a report has it: few aliases of the first seeds, so that the file can still be sent."""

from dataclasses import dataclass
from typing import Final

from mechocl.errors import MechoclError
from mechocl.report.explorer import page
from mechocl.runs.run import Run

SEEDS: Final = 2
ALIASES: Final = 12
CHECKPOINTS: Final = 6

LARGE: Final = 30_000_000
"""Parameters from which a model is looked at after training alone, and without patching, which would take longer than all the rest
of a report."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The explorer of a report."""

    page: str = ""
    """The page; "" where there is none."""
    note: str = ""
    """What it has, and how to get more; or why there is none."""


def embed_explorer(run: Run, seeds: tuple[int, ...], *, device: str, jobs: int | None) -> Embedded:
    """The explorer of the first of these seeds. The page's numbers are computed anew.

    There is neither page nor note for models that cannot be taken apart. Where the explorer cannot show the run's questions, the
    note says why.
    """
    if not run.kind.can_be_taken_apart(run) or not seeds:
        return Embedded()
    chosen = seeds[:SEEDS]
    try:
        large = sum(one.numel() for one in run.seed(chosen[0]).model.parameters()) > LARGE
        made = page.build_page(
            run, chosen, aliases=ALIASES, checkpoints=1 if large else CHECKPOINTS, patching=not large, device=device, jobs=jobs
        )  # fmt: skip
        return Embedded(made, _what_it_has(chosen, run, large=large))
    except MechoclError as error:
        return Embedded(note=f"There is no explorer of single aliases here: {error}")


def _what_it_has(seeds: tuple[int, ...], run: Run, *, large: bool) -> str:
    when = (
        "after training, without patching" if large else f"at {CHECKPOINTS} checkpoints of training at most"
    )
    names = f"seed {seeds[0]}" if len(seeds) == 1 else f"each of the seeds {', '.join(map(str, seeds))}"
    return (
        f"It has {ALIASES} aliases of {names}, {when}. `mechocl share {run.path.name}` writes a page with more, which can be "
        "linked view by view."
    )
