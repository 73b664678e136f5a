"""The explorer's page: everything about the run's chosen aliases in one HTML file that asks for nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from mechocl import __version__
from mechocl.files import write_text
from mechocl.report.explorer import data
from mechocl.report.explorer.collecting import (
    Collected,
    Work,
    checkpoint_key,
    checkpoint_name,
    choose_checkpoints,
    collect_seeds,
    why_no_twin,
)
from mechocl.report.explorer.story import Story
from mechocl.report.page_parts import javascript_for_script, json_for_script, template
from mechocl.report.plots import COLORS
from mechocl.runs.folders import Checkpoint
from mechocl.runs.run import Run
from toy_models.subsets import SUBSETS

SIZE_LIMIT: Final = 15_000_000
"""Size in bytes above which a page is said to be large. It is written all the same."""

MOST: Final = 100_000_000
"""Size in bytes of a page that is not made, since browsers hardly open it."""

NO_PATCHING: Final = "The page was made with --no-patching; without it, it has the effects."
"""What stands in the place of the effects on a page that has none."""

SCRIPTS: Final = (
    "decoding.js", "state.js", "drawing.js", "frame.js", "tokens_panel.js", "heads_panel.js", "lens_panel.js", "answers_panel.js",
    "twin_panel.js", "patching_panel.js", "scatter_panel.js", "saving.js", "story.js", "loading.js", "main.js",
)  # fmt: skip
"""The page's scripts, in the order in which they are joined."""

MEASURE_NAMES: Final = {
    "auc": "AUC",
    "logit_difference": "right − wrong logit (nats)",
    "accuracy": "accuracy",
    "recall": "definition recalled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSeed:
    """What the page has of one seed, beside its models' arrays."""

    shown: data.ShownSeed
    every: tuple[list[int], list[str]]
    """Every alias of the seed, and its subset (`data.all_aliases`)."""
    checkpoints: tuple[Checkpoint, ...]
    why_no_twin: str
    """Why there is no twin; "" if there is one."""


def write_explorer(run: Run, seeds: Sequence[int], out: Path, **options: Any) -> int:
    """Write what `build_page` makes into the file `out`, whose folder is made, and return its size in bytes."""
    page = build_page(run, seeds, **options)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return len(page.encode("utf-8"))


def build_page(
    run: Run,
    seeds: Sequence[int],
    *,
    aliases: int,
    checkpoints: int,
    patching: bool,
    device: str,
    jobs: int | None,
    story: Story | None = None,
) -> str:
    """The explorer of some seeds of a run as one HTML page.

    It has `aliases` aliases of each seed in all (`data.choose_aliases`) at no more than `checkpoints` checkpoints. A model's
    numbers are computed anew. Raises MechoclError when there is nothing to show, when the page would be larger than `MOST`, when a
    view of the story names what the page does not have, and as `data.show_model` does.
    """
    run.kind.require_transformers(run, "the explorer")
    shown, works = {}, []
    for seed in seeds:
        folder = run.seed(seed)
        task = folder.analysed_task()
        numbers = tuple(data.choose_aliases(task, aliases))
        shown[seed] = OneSeed(
            shown=data.show_seed(task, numbers, seed=seed),
            every=data.all_aliases(task),
            checkpoints=tuple(choose_checkpoints(folder, checkpoints)),
            why_no_twin=why_no_twin(folder),
        )
        works.append(
            Work(
                run=str(run.path), attribute=run.attribute, seed=seed, checkpoints=shown[seed].checkpoints,
                twin=not shown[seed].why_no_twin, aliases=numbers, patching=patching, device=device,
                most=MOST // len(seeds),
            )
        )  # fmt: skip
    if story is not None:
        story.check({seed: (one.checkpoints, one.shown) for seed, one in shown.items()})
    found = dict(zip(seeds, collect_seeds(works, run, jobs=jobs), strict=True))
    if story is not None:
        layers, heads = found[seeds[0]].shapes["patterns"][1:3]
        story.check_heads(layers, heads)
    of_seeds = [
        seed_as_json(seed, shown[seed], found[seed].sites, found[seed].patches, found[seed].shapes)
        for seed in seeds
    ]
    return render(
        content_of(run, of_seeds, story=story, no_patching="" if patching else NO_PATCHING),
        facts=facts_of(run),
        chunks=_chunks(found),
    )


def render(content: dict[str, Any], *, facts: dict[str, str], chunks: dict[str, str]) -> str:
    """The page as text. `chunks`: element id → base64 of a model's arrays. The same arguments always give the same text."""
    folder = files("mechocl.report.explorer")
    scripts = "\n".join(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    return template("explorer.html.j2", package="mechocl.report.explorer").render(
        title=content["title"],
        facts=facts,
        chunks=chunks,
        style=folder.joinpath("explorer.css").read_text("utf-8"),
        script=javascript_for_script('"use strict";\n' + scripts),
        content=json_for_script(
            json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        ),
        story=bool(content["story"]),
        live=content["live"],
    )


def content_of(
    run: Run,
    seeds: Sequence[dict[str, Any]],
    *,
    story: Story | None = None,
    no_patching: str = "",
    live: bool = False,
) -> dict[str, Any]:
    """What the page reads beside the models' arrays. `seeds` are from `seed_as_json`; a `live` page asks for what it shows."""
    return {
        "title": f"Aliases of {run.recipe_name}" if story is None else story.title,
        "words": {"entity": run.questioning.words.entity, "difference": run.questioning.words.difference},
        "measures": [{"name": name, "label": MEASURE_NAMES[name]} for name in data.MEASURES],
        "subsets": {
            name: {
                "notation": subset.notation,
                "tag": subset.tag,
                "asked": subset.trained_questions,
                "color": COLORS[name],
            }
            for name, subset in SUBSETS.items()
        },
        "seeds": list(seeds),
        "story": [] if story is None else story.views_as_json(),
        "noPatching": no_patching,
        "live": live,
    }


def facts_of(run: Run) -> dict[str, str]:
    training = run.recipe.training
    return {
        "Run": run.path.name,
        "Recipe": run.recipe_name,
        "Stages": str(len(training.stages)),
        "Version": f"mechocl {__version__}",
    }


def _chunks(found: Mapping[int, Collected]) -> dict[str, str]:
    """Element id → text of each model: `chunk-SEED-STAGE.STEP`, or `chunk-SEED-twin`."""
    return {
        f"chunk-{seed}-{key}": packed.text
        for seed, own in found.items()
        for key, packed in own.packed.items()
    }


def seed_as_json(
    seed: int,
    one: OneSeed,
    sites: Sequence[str],
    patches: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """What the page reads of one seed: names along the axes of its arrays, and their shapes."""
    return {
        "seed": seed,
        "aliases": [asdict(alias) for alias in one.shown.aliases],
        **layout_as_json(one.shown),
        "entities": one.shown.entities,
        "candidates": one.shown.candidates,
        "every": {"alias": one.every[0], "subset": one.every[1]},
        "noTwin": one.why_no_twin,
        "checkpoints": [
            {"key": checkpoint_key(checkpoint), "label": checkpoint_name(checkpoint)}
            for checkpoint in one.checkpoints
        ],
        "sites": list(sites),
        "patches": list(patches),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
    }


def layout_as_json(shown: data.ShownSeed) -> dict[str, Any]:
    """What stands at each position, and the names of the partners."""
    return {
        "labels": shown.labels,
        "roles": shown.roles,
        "partners": {str(alias): name for alias, name in shown.partner_names.items()},
    }
