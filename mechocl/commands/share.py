"""`mechocl share`: one page on what happens for one alias."""

from pathlib import Path
from typing import Annotated

import tyro

from mechocl.commands.options import (
    Attribute,
    Computing,
    PositionalRun,
    SeedList,
    chosen_seeds,
    jobs_of,
)
from mechocl.destinations import require_file
from mechocl.errors import MechoclError


def share(
    run: PositionalRun,
    seeds: SeedList = "all",
    aliases: int = 50,
    checkpoints: int = 10,
    patching: bool = True,
    story: str = "",
    out: Path | None = None,
    attribute: Attribute = "",
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
) -> None:
    """Write one self-contained HTML page that shows what the models of a run do with single aliases.

    A colleague opens it from disk and chooses seed, checkpoint, alias and question: attention, logit lens, answers, patching, twins.

    Args:
        run: Folder of a run.
        seeds: The seeds on the page.
        aliases: How many aliases of each seed are on the page. Each subset has an equal share, of which the first ones are taken.
        checkpoints: How many checkpoints of each seed are on the page at most. They are spread evenly over those that were saved.
        patching: Patch every question. Without it the page has no effects of patches, and is made sooner.
        story: Captioned views that lead through the page: demo, or a TOML file.
        out: The HTML file. By default it is share.html in the run.
        computing: How it is computed.
    """
    from mechocl.analyses import jobs
    from mechocl.commands import printing
    from mechocl.report.explorer import page
    from mechocl.report.explorer.story import read_story
    from mechocl.runs.run import Run

    for name, count in (("aliases", aliases), ("checkpoints", checkpoints)):
        if count < 1:
            raise MechoclError(f"--{name} {count}: give at least 1")
    told = read_story(story) if story else None
    opened = Run.open(run, attribute=attribute)
    path = out or run / "share.html"
    require_file(path)
    device, at_a_time = computing.resolved_device(), jobs_of(computing.jobs)
    counted = jobs.count_run(opened, device=device, jobs=at_a_time) if seeds == "all" else None
    if counted is not None:
        printing.failures(counted)
    size = page.write_explorer(
        opened, chosen_seeds(seeds, opened, counted), path, aliases=aliases, checkpoints=checkpoints, patching=patching, device=device,
        jobs=at_a_time, story=told,
    )  # fmt: skip
    if size > page.SIZE_LIMIT:
        print(
            f"the page has {size / 1e6:.1f} MB, more than {page.SIZE_LIMIT / 1e6:.0f}; fewer --aliases, --checkpoints or --seeds "
            "make it smaller"
        )
    print(f"page ({size / 1e6:.1f} MB): {path.resolve().as_uri()}")
