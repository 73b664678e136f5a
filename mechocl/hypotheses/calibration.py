"""The judge is judged: verdicts on worlds in which the answer is known, because it was written into the weights.

Each instance is eight hand-made models (`toy_models.planted`), one a seed, each of a task of its own. Noise in what aliases store and
in how integers are compared makes answers uncertain. The analyses run on these models as on trained ones. What a hand-made model
does not have is not measured: no history of a training, and no recall of definitions, which is set to 1. Its controls are the same
models without the planted cause, since in them no definition contradicts a question.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from mechocl import files
from mechocl.analyses import registry
from mechocl.analyses.subject import Subject
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.behaviour.counted import CountedSeeds
from mechocl.errors import MechoclError
from mechocl.hypotheses import predictions as data
from mechocl.hypotheses.predictions import BESIDE, CONTROLS, Predictions
from mechocl.hypotheses.sources import Gathered, key
from mechocl.hypotheses.verdict import RunVerdict, gap_of, judge_gathered
from mechocl.models.untrained import untrained_like
from mechocl.runs.activation_cache import directly
from toy_models import integer_set
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.planted import Mechanism, alias_tokens, planted_model, subspaces
from toy_models.randomness import generator
from toy_models.subsets import Fractions
from toy_models.task import Task

INSTANCES: Final = 20
"""Instances of each world."""

FOUND: Final = ("supported", "met so far")
"""What the verdict says of an explanation that it takes for right."""

SEEDS: Final = 8
"""Models of an instance."""

_SHARES: Final = Fractions(qd1=0.1, qd2=0.1, d1=0.35, d2=0.35, d3=0.05, no_data=0.05)
TASK: Final = IntegerSetConfig(
    aliases=1200, integers=8, list_length=3, train_questions=4, test_questions=8, fractions=_SHARES
)
"""The task, of which every seed draws its own."""

_STORED_NOISE: Final = 0.3
_COMPARED_NOISE: Final = 0.2
_SHARPNESS: Final = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A cause of a gap that is written into weights."""

    name: str
    says: str
    """What is planted, in a sentence."""
    truth: tuple[str, ...]
    """The explanations that are right."""
    gate: str = "retrieval"
    """Where tag 2 acts: `retrieval` or `storage` (`toy_models.planted.Mechanism.gate`)."""
    gain: float = 1.0
    """How much of its entity an alias with tag 2 gives."""
    negated: bool = False
    """Whether aliases of d2 store that they are not their entity."""


WORLDS: Final = (
    World(name="nothing", says="Tag 2 does nothing.", truth=("nothing",)),
    World(
        name="retrieval",
        says="Aliases store alike, with their tag; attention reads a thirtieth of those with tag 2.",
        truth=("selective_retrieval",),
        gain=0.03,
    ),
    World(
        name="storage",
        says="Aliases with tag 2 store a third of what others store, and all are read alike.",
        truth=("gradient_alignment",),
        gate="storage",
        gain=0.3,
    ),
    World(
        name="semantics",
        says="Aliases of d2 store that they are not their entity.",
        truth=("tag_semantics",),
        negated=True,
    ),
)
"""The worlds that there are. Those that need a training under a constraint are missing: readout gate, less learned, moved tags,
steering, recency, and mixtures with them."""


def make_model(world: World, task: Task, *, seed: int, trained: bool = True) -> Any:
    """One model of a world; with `trained` false, the model before stage 2, whose new aliases store nothing."""
    mechanism = Mechanism(gate=world.gate, tag2_gain=world.gain, sharpness=_SHARPNESS)  # type: ignore[arg-type]
    model, space = planted_model(task, mechanism), subspaces(task, mechanism)
    tokens, rows = alias_tokens(task)
    subsets = task.table.iloc[rows]["subset"].astype(str).to_numpy()
    stages = task.table.iloc[rows]["stage"].to_numpy()
    draws = generator(seed, "planted noise")
    integers = slice(*task.vocabulary.integers)
    with torch.no_grad():
        weight = model.embed.W_E
        if world.negated:
            weight[tokens[torch.from_numpy(subsets == "d2_consistent")], space.stored] *= -1
        noise = torch.randn(weight[tokens, space.stored].shape, generator=draws)
        weight[tokens, space.stored] += _STORED_NOISE * noise
        noise = torch.randn(weight[integers, space.listed].shape, generator=draws)
        weight[integers, space.listed] += _COMPARED_NOISE * noise
        if not trained:
            weight[tokens[torch.from_numpy(stages == 2)]] = 0.0
    return model


def gather_instance(world: World, number: int, wanted: Predictions, *, seeds: int = SEEDS) -> Gathered:
    """What is known of an instance: answers and controls, and the analyses of its models unless there is no gap to explain."""
    numbers = range(1000 * number, 1000 * number + seeds)
    tasks = {seed: integer_set.build(TASK, seed=seed) for seed in numbers}
    without = replace(world, gain=1.0, negated=False)
    own, control = (
        pd.concat([_answers(one, tasks[seed], seed) for seed in numbers], ignore_index=True)
        for one in (world, without)
    )
    controls = {"noise": control, "unasked": control}
    tables = {
        f"evaluate {files.fingerprint({})}": own,
        f"{CONTROLS} {files.fingerprint({})}": pd.concat(
            [rows.assign(control=name) for name, rows in controls.items()], ignore_index=True
        ),
    }
    found = Gathered(
        answers=own,
        counted=CountedSeeds(tuple(numbers)),
        measures=tasks[numbers[0]].questioning.measures,
        controls=ControlAnswers(rows=controls),
        tables=tables,
        missing={
            key(one): "a hand-made model has none" for one in wanted.predictions if one.analysis in BESIDE
        },
    )
    if gap_of(found).answer != "yes":
        return found
    for one in wanted.predictions:
        if one.analysis not in BESIDE and key(one) not in tables:
            rows = [
                _analysed(world, tasks[seed], seed, one.analysis, one.analysis_config()) for seed in numbers
            ]
            tables[key(one)] = pd.concat(rows, ignore_index=True)
    return replace(found, tables=tables)


def _answers(world: World, task: Task, seed: int) -> pd.DataFrame:
    rows = _analysed(world, task, seed, "evaluate", registry.EvaluateConfig())
    return rows.assign(recall=1.0)


def _analysed(world: World, task: Task, seed: int, name: str, config: Any) -> pd.DataFrame:
    model = make_model(world, task, seed=seed)
    subject = Subject(
        model=model,
        task=task,
        after=lambda stage: make_model(world, task, seed=seed, trained=stage == 2),
        untrained=lambda: untrained_like(model),
        course=_nothing,
        stage=2,
        collect=directly(model),
        dictionary=_nothing,
        rows=_nothing,
    )
    rows = registry.compute(name, subject, config).rows
    rows.insert(0, "seed", seed)
    return rows


def _nothing(*_: Any) -> Any:
    raise AssertionError(
        "a verdict reads no dictionary, no course of training and no rows of another analysis"
    )


def calibrate(
    table: Path,
    *,
    instances: int = INSTANCES,
    worlds: Sequence[World] = WORLDS,
    predictions: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Judge instances of each world, and write one line for each into a CSV file: `world`, `instance`, and what the verdict said of
    each explanation. What the file holds already is not judged again.

    Raises MechoclError when the file is there and holds something else.
    """
    wanted = data.load(predictions)
    done = read_table(table, wanted)
    for number, world in _missing(done, instances, worlds):
        verdict = judge_gathered(gather_instance(world, number, wanted), wanted)
        done = pd.concat([done, pd.DataFrame([_line(world, number, verdict)])], ignore_index=True)
        files.write_text(table, done.to_csv(index=False))
        right = [one.explanation.name for one in verdict.findings if one.status in FOUND]
        say(f"{world.name} {number}: {', '.join(right) or 'none'} supported or met so far")
    return done


def _missing(done: pd.DataFrame, instances: int, worlds: Sequence[World]) -> Iterator[tuple[int, World]]:
    there = set(zip(done["world"], done["instance"], strict=True))
    for number, world in itertools.product(range(instances), worlds):
        if (world.name, number) not in there:
            yield number, world


def _line(world: World, number: int, verdict: RunVerdict) -> dict[str, Any]:
    return {"world": world.name, "instance": number} | {
        one.explanation.name: one.status for one in verdict.findings
    }


def read_table(table: Path, wanted: Predictions) -> pd.DataFrame:
    """The lines of a table of calibration; none if there is no file. Raises MechoclError when it is something else."""
    columns = ["world", "instance", *wanted.named]
    if not table.exists():
        return pd.DataFrame(columns=columns)
    try:
        found = pd.read_csv(table)
    except (ValueError, OSError):
        found = pd.DataFrame()
    if list(found.columns) != columns:
        raise MechoclError(
            f"{table} is there already and is no table of these explanations; choose another place"
        )
    return found


def confusion(found: pd.DataFrame) -> pd.DataFrame:
    """Share of the instances of each world (rows) in which each explanation was supported or met so far (columns), and their number."""
    names = [name for name in found.columns if name not in ("world", "instance")]
    shares = found[names].isin(FOUND).groupby(found["world"], sort=False).mean()
    shares.insert(0, "instances", found.groupby("world", sort=False).size())
    return shares
