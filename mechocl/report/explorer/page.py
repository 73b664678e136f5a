"""The explorer's page: everything about the run's chosen aliases in one HTML file that asks for nothing else."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from mechocl import __version__
from mechocl.errors import MechoclError
from mechocl.files import write_text
from mechocl.report.attention_explorer import javascript_for_script, json_for_script
from mechocl.report.explorer import data
from mechocl.report.explorer.collecting import (
    Collected,
    Work,
    checkpoint_name,
    choose_checkpoints,
    collect_models,
    why_no_twin,
)
from mechocl.report.explorer.story import Story
from mechocl.report.plots import COLORS
from mechocl.runs.folders import Checkpoint
from mechocl.runs.run import Run
from toy_models.subsets import SUBSETS

SIZE_LIMIT: Final = 15_000_000
"""Size in bytes above which a page is said to be large. It is written all the same."""

SCRIPTS: Final = (
    "decoding.js", "state.js", "drawing.js", "frame.js", "tokens_panel.js", "heads_panel.js", "lens_panel.js", "answers_panel.js",
    "twin_panel.js", "patching_panel.js", "scatter_panel.js", "saving.js", "story.js", "main.js",
)  # fmt: skip
"""The page's scripts, in the order in which they are joined."""

MEASURE_NAMES: Final = {
    "auc": "AUC",
    "logit_difference": "right − wrong logit (nats)",
    "accuracy": "accuracy",
    "recall": "definition recalled",
}


def write_explorer(
    run: Run,
    seeds: Sequence[int],
    out: Path,
    *,
    aliases: int,
    checkpoints: int,
    patching: bool,
    device: str,
    jobs: int | None,
    story: Story | None = None,
) -> int:
    """Write the explorer of some seeds of a run into the file `out`, whose folder is made, and return its size in bytes.

    The page has `aliases` aliases of each seed in all (`data.choose_aliases`) at no more than `checkpoints` checkpoints. A model's
    numbers are computed anew. Raises MechoclError when there is nothing to show, when a view of the story names what the page does not
    have, and as `data.show_model` does.
    """
    works, described, chosen = [], [], {}
    for seed in seeds:
        folder = run.seed(seed)
        task = folder.analysed_task()
        numbers = tuple(data.choose_aliases(task, aliases))
        chosen[seed] = choose_checkpoints(folder, checkpoints)
        why = why_no_twin(folder)
        common: dict[str, Any] = {
            "run": str(run.path), "attribute": run.attribute, "seed": seed, "aliases": numbers, "patching": patching,
            "device": device,
        }  # fmt: skip
        works += [Work(checkpoint=one, twin=False, **common) for one in chosen[seed]]
        works += [] if why else [Work(checkpoint=folder.final(), twin=True, **common)]
        described.append((data.show_seed(task, numbers, seed=seed), data.all_aliases(task), why))
    if story is not None:
        story.check(
            {seed: (chosen[seed], shown) for seed, (shown, _, _) in zip(seeds, described, strict=True)}
        )
    found = collect_models(works, run, jobs=jobs)
    if story is not None:
        story.check_heads(*found[0].packed.shapes["patterns"][1:3])
    content = {
        "title": f"Aliases of {run.recipe_name}" if story is None else story.title,
        "words": {"entity": run.questioning.words.entity, "difference": run.questioning.words.difference},
        "measures": [{"name": name, "label": MEASURE_NAMES[name]} for name in data.MEASURES],
        "subsets": {
            name: {"notation": subset.notation, "tag": subset.tag, "color": COLORS[name]}
            for name, subset in SUBSETS.items()
        },
        "seeds": [
            _seed_as_json(seed, *described[i], chosen[seed], _own(works, found, seed))
            for i, seed in enumerate(seeds)
        ],
        "story": [] if story is None else story.views_as_json(),
        "noPatching": ""
        if patching
        else "The page was made with --no-patching; without it, it has the effects.",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    page = render(content, facts=_facts(run), chunks=_chunks(works, found))
    write_text(out, page)
    return len(page.encode("utf-8"))


def render(content: dict[str, Any], *, facts: dict[str, str], chunks: dict[str, str]) -> str:
    """The page as text. `chunks`: element id → base64 of a model's arrays. The same arguments always give the same text."""
    folder = files("mechocl.report.explorer")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(folder.joinpath("explorer.html.j2").read_text("utf-8"))
    scripts = "\n".join(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    return template.render(
        title=content["title"],
        facts=facts,
        chunks=chunks,
        style=folder.joinpath("explorer.css").read_text("utf-8"),
        script=javascript_for_script('"use strict";\n' + scripts),
        content=json_for_script(
            json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        ),
        story=bool(content["story"]),
    )


def _facts(run: Run) -> dict[str, str]:
    training = run.recipe.training
    return {
        "Run": run.path.name,
        "Recipe": run.recipe_name,
        "Stages": str(len(training.stages)),
        "Version": f"mechocl {__version__}",
    }


def _own(works: Sequence[Work], found: Sequence[Collected], seed: int) -> Collected:
    """What was collected of a seed's last checkpoint, whose axes are those of all its models."""
    return next(one for work, one in zip(works, found, strict=True) if work.seed == seed)


def _chunks(works: Sequence[Work], found: Sequence[Collected]) -> dict[str, str]:
    """Element id → text of each model: `chunk-SEED-STAGE.STEP`, or `chunk-SEED-twin`."""
    return {
        f"chunk-{work.seed}-" + ("twin" if work.twin else _key(work.checkpoint)): one.packed.text
        for work, one in zip(works, found, strict=True)
    }


def _key(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.stage}.{checkpoint.step}"


def _seed_as_json(
    seed: int,
    shown: data.ShownSeed,
    every: tuple[list[int], list[str]],
    why_no_twin: str,
    checkpoints: Sequence[Checkpoint],
    own: Collected,
) -> dict[str, Any]:
    if not checkpoints:
        raise MechoclError(f"seed {seed} has no checkpoint; train it to its end")
    return {
        "seed": seed,
        "aliases": [asdict(alias) for alias in shown.aliases],
        "labels": shown.labels,
        "roles": shown.roles,
        "entities": shown.entities,
        "candidates": shown.candidates,
        "partners": {str(alias): name for alias, name in shown.partner_names.items()},
        "every": {"alias": every[0], "subset": every[1]},
        "noTwin": why_no_twin,
        "checkpoints": [{"key": _key(one), "label": checkpoint_name(one)} for one in checkpoints],
        "sites": own.sites,
        "patches": own.patches,
        "shapes": {name: list(shape) for name, shape in own.packed.shapes.items()},
    }
