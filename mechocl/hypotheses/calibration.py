"""The judge is judged: verdicts on worlds in which the answer is known, and how often they are right.

A world is written into weights (`hand_made`) or forced by a training (`trained_worlds`). Each has a number of random instances of
eight models each.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.hypotheses import predictions as data
from mechocl.hypotheses.hand_made import HAND_MADE, HandMade
from mechocl.hypotheses.predictions import Predictions
from mechocl.hypotheses.trained_worlds import TRAINED, Trained
from mechocl.runs.processes import Processes
from mechocl.runs.progress import Progress

INSTANCES: Final = 20
"""Instances of each world."""

SEEDS: Final = 8
"""Models of an instance."""

FOUND: Final = ("supported", "met so far")
"""What the verdict says of an explanation that it takes for right."""

CONTRADICTED: Final = "contradicted"
"""What it says of one that it rules out."""

NOT_ASKED: Final = "not asked"
"""What is said of an explanation that is about a training, where models are hand-made."""

KEYS: Final = ("world", "planted", "instance", "predictions", "seeds")
"""Columns that say what a line of the table is of; the others are explanations."""

World = HandMade | Trained

WORLDS: Final[tuple[World, ...]] = (*HAND_MADE, *TRAINED)
"""The worlds that there are."""

RIGHT_AT_LEAST: Final = 0.9
"""Share of a world's instances in which the right explanation is to be found."""

WRONG_AT_MOST: Final = 0.05
"""Largest share of a world's instances in which a wrong one may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What one process judges."""

    world: World
    number: int
    predictions: Path | None
    seeds: int


def judge_instance(instance: Instance, progress: Progress) -> dict[str, str]:
    """What the verdict says of each explanation."""
    progress("judging", 0.0)
    found = instance.world.judge(instance.number, instance.predictions, seeds=instance.seeds)
    progress("done", 1.0)
    return {one.explanation.name: one.status for one in found.findings}


def calibrate(
    table: Path,
    *,
    instances: int = INSTANCES,
    seeds: int = SEEDS,
    worlds: Sequence[World] = WORLDS,
    predictions: Path | None = None,
    jobs: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Judge instances of each world, and write one line for each into a CSV file when it is judged: `world`, the fingerprint of what is `planted` in it, `instance`, the first
    digits of the SHA-256 of the file of `predictions`, the number of `seeds`, and what the verdict said of each explanation. What the
    file holds already is not judged again. `jobs` instances are judged at a time; None takes one for each core.

    Raises MechoclError when the file is there and holds something else, or what other predictions, another number of models, or a world that has
    since been changed gave.
    """
    wanted, judged_by = data.load(predictions), digits(predictions)
    done = read_table(table, wanted)
    if other := sorted(set(done["predictions"]) - {judged_by}):
        raise MechoclError(f"{table} was made by other predictions ({other[0]}); choose another place")
    if other_seeds := sorted(set(done["seeds"]) - {seeds}):
        raise MechoclError(
            f"{table} is of instances of {other_seeds[0]} models, not of {seeds}; choose another place"
        )
    if changed := changed_worlds(done):
        raise MechoclError(f"{table} is of the world {changed[0]} as it was before; choose another place")
    there = set(zip(done["world"], done["instance"], strict=True))
    todo = [
        Instance(world=world, number=number, predictions=predictions, seeds=seeds)
        for number, world in itertools.product(range(instances), worlds)
        if (world.name, number) not in there
    ]
    if not todo:
        return done
    lines: list[dict[Any, Any]] = [*done.to_dict("records")]

    def keep(index: int, statuses: dict[str, str]) -> None:
        one = todo[index]
        lines.append(_line(one, statuses, wanted) | {"predictions": judged_by})
        files.write_text(table, _sorted(lines, wanted).to_csv(index=False))
        right = [name for name, status in statuses.items() if status in FOUND]
        say(f"{one.world.name} {one.number}: {', '.join(right) or 'none'} supported or met so far")

    with Processes(jobs).workers(len(todo), device="cpu") as workers:
        workers.map(
            judge_instance,
            todo,
            names=[f"{one.world.name} {one.number}" for one in todo],
            title="calibration",
            threads=1,
            done=keep,
        )
    return _sorted(lines, wanted)


def changed_worlds(found: pd.DataFrame) -> list[str]:
    """The worlds of which a table has lines of before what is planted in them was changed."""
    planted = {world.name: world.fingerprint for world in WORLDS}
    pairs = set(zip(found["world"], found["planted"], strict=True))
    return sorted({world for world, of in pairs if planted[world] != of})


def _line(one: Instance, statuses: dict[str, str], wanted: Predictions) -> dict[str, Any]:
    found = {name: statuses.get(name, NOT_ASKED) for name in wanted.named}
    of = {"world": one.world.name, "planted": one.world.fingerprint, "instance": one.number}
    return of | {"seeds": one.seeds} | found


def digits(predictions: Path | None) -> str:
    """The first digits of the SHA-256 of a file of predictions; None is that of the package."""
    return files.sha256(predictions or data.own_file())[:12]


def _sorted(lines: Sequence[dict[Any, Any]], wanted: Predictions) -> pd.DataFrame:
    """The lines as a table, in the order of the worlds and the instances."""
    order = [world.name for world in WORLDS]
    rows = sorted(lines, key=lambda line: (order.index(line["world"]), line["instance"]))
    return pd.DataFrame(rows, columns=[*KEYS, *wanted.named])


def read_table(table: Path, wanted: Predictions) -> pd.DataFrame:
    """The lines of a table of calibration; none if there is no file. Raises MechoclError when it is something else."""
    columns = [*KEYS, *wanted.named]
    if not table.exists():
        return pd.DataFrame(columns=columns)
    try:
        found = pd.read_csv(table, dtype={"predictions": str, "planted": str})
    except (ValueError, OSError):
        found = pd.DataFrame()
    if list(found.columns) != columns or not set(found["world"]) <= {world.name for world in WORLDS}:
        raise MechoclError(
            f"{table} is there already and is no table of these worlds and explanations; choose another place"
        )
    return found


def confusion(found: pd.DataFrame) -> pd.DataFrame:
    """Share of the instances of each world (rows) in which each explanation was supported or met so far (columns), and their
    number. NaN where an explanation was not asked."""
    names = [name for name in found.columns if name not in KEYS]
    asked = ~found[names].isin((NOT_ASKED,))
    each = found[names].isin(FOUND).astype(float).where(asked)
    shares = each.groupby(found["world"], sort=False).mean()
    shares.insert(0, "instances", found.groupby("world", sort=False).size())
    return shares


def confusion_in_words(found: pd.DataFrame) -> list[str]:
    """What a table of `calibrate` shows, one sentence a world: what was to be found and was not often enough, whether it was contradicted there,
    and what is mistaken for it."""
    truth = {world.name: world.truth for world in WORLDS}
    names = [name for name in found.columns if name not in KEYS]
    lines = []
    for world, rows in found.groupby("world", sort=False):
        right, n = truth[str(world)], len(rows)
        hits = {name: int(rows[name].isin(FOUND).sum()) for name in names}
        missed = [
            f"{name} in {hits[name]} of {n} (contradicted in {int((rows[name] == CONTRADICTED).sum())})"
            for name in right
            if not hits[name] >= RIGHT_AT_LEAST * n
        ]
        wrong = [
            f"{name} in {count} of {n}"
            for name, count in hits.items()
            if name not in right and count > WRONG_AT_MOST * n
        ]
        parts = [f"found too seldom: {', '.join(missed)}"] * bool(missed)
        parts += [f"mistaken for it: {', '.join(wrong)}"] * bool(wrong)
        told = "; ".join(parts) or "found, and mistaken for nothing else"
        lines.append(f"{world}, {n} instances: {told}.")
    return lines
