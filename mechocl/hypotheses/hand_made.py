"""Worlds whose answer is known because it is written into the weights (`toy_models.planted`).

An instance is a number of models, one a seed, each of a task of its own. Noise in what aliases store and in how integers are
compared makes answers uncertain, and how strong the planted cause is, is drawn for each instance. The analyses run on these models
as on trained ones. The twin of a model is the same with the tags of d1 and d2 exchanged, and what the world writes under them. The cause needs something (`HandMade.needs`): where that is
unreliable definitions, the controls are the same models without the cause, since in them no definition contradicts a question; where it is that tags move in stage 2, so is the variant
with frozen tags. The others have the cause.

A hand-made model has had no training. So what is predicted of a training is not asked of it (`asked_of_hand_made`): its history,
gradients, other variants, and controls that train in another way. Explanations of which nothing else is predicted are left out with it. Its
recall of definitions is set to 1.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import torch

from mechocl import files
from mechocl.analyses import registry
from mechocl.analyses.subject import Subject
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.behaviour.counted import CountedSeeds
from mechocl.hypotheses import predictions as data
from mechocl.hypotheses.predictions import CONTROLS, VARIANTS, Prediction, Predictions
from mechocl.hypotheses.quantities import TAG_1, TAG_2, control_named
from mechocl.hypotheses.sources import Gathered, control_key, key
from mechocl.hypotheses.verdict import RunVerdict, gap_of, judge_gathered
from mechocl.models.untrained import untrained_like
from mechocl.runs.activation_cache import directly
from mechocl.runs.variants import EXCHANGED, FROZEN_TAGS
from toy_models import integer_set
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.planted import Mechanism, alias_tokens, planted_model, subspaces
from toy_models.randomness import generator
from toy_models.subsets import Fractions
from toy_models.task import Task

TASK: Final = IntegerSetConfig(
    aliases=480, integers=8, list_length=2, train_questions=6, test_questions=8,
    fractions=Fractions(qd1=0.1, qd2=0.1, d1=0.35, d2=0.35, d3=0.05, no_data=0.05),
)  # fmt: skip
"""The task, of which every seed draws its own."""

MEASURED: Final = (
    "evaluate", "lens", "tuned-lens", "attribution", "patch", "circuit", "suppression", "graft", "steering", "subspace", "probe",
    "attention", "twin-exchange",
)  # fmt: skip
"""Analyses that look at finished models, which hand-made ones are."""

CONTROLS_MADE: Final = ("deciding", "noise", "unasked")
"""Controls that hand-made models have."""

VARIANTS_MADE: Final = (EXCHANGED, FROZEN_TAGS)
"""Variants that hand-made models have."""

_SHARPNESS: Final = 12.0
_STORED_NOISE: Final = 0.22
_COMPARED_NOISE: Final = 0.1
_CLOSED: Final = 0.3
"""How much of being an alias an alias has whose readout is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandMade:
    """A cause of a gap that is written into weights. Of two bounds, each instance draws a number between them."""

    name: str
    says: str
    """What is planted, in a sentence."""
    truth: tuple[str, ...]
    """The explanations that are right."""
    times: int = 1
    """How many times the aliases of `TASK` there are. That there is no gap is harder to show than that there is one."""
    names: int = 24
    """Coordinates of noise of each alias, which nothing reads. Without them most of what differs between aliases with a tag at them is
    the tag."""
    read: tuple[float, float] = (1.0, 1.0)
    """How much attention reads of an alias with tag 2."""
    stored: tuple[float, float] = (1.0, 1.0)
    """How much of its entity an alias of d2 stores."""
    negated: bool = False
    """Whether aliases of d2 store that they are not their entity."""
    opened: tuple[float, float] | None = None
    """If given, the entity is there before stage 2, which opens the readout: wholly for d1 and d3, and so far for d2."""
    needs: Literal["unreliability", "moving tags"] = "unreliability"
    """What the cause needs. Where it is missing, in the controls or in the variant with frozen tags, models are without the cause."""

    @property
    def fingerprint(self) -> str:
        """Changes with what is planted, with the task, and with what such models are asked."""
        asked = (MEASURED, CONTROLS_MADE, VARIANTS_MADE, _SHARPNESS, _STORED_NOISE, _COMPARED_NOISE, _CLOSED)
        return files.fingerprint({"world": repr(self), "task": repr(TASK), "asked": repr(asked)})

    def judge(self, number: int, predictions: Path | None, *, seeds: int) -> RunVerdict:
        """The verdict on an instance of the world, by a file of predictions; None takes those of the package."""
        asked = asked_of_hand_made(data.load(predictions))
        return judge_gathered(gather_instance(self, number, asked, seeds=seeds), asked)


HAND_MADE: Final = (
    HandMade(name="nothing", says="Tag 2 does nothing.", truth=("nothing",), times=5),
    HandMade(
        name="retrieval",
        says="Aliases store alike, with their tag; attention reads a hundredth or less of those with tag 2.",
        truth=("selective_retrieval",),
        read=(0.002, 0.01),
    ),
    HandMade(
        name="storage",
        says="Aliases of d2 store a quarter to two fifths of what others store, and all are read alike.",
        truth=("gradient_alignment",),
        stored=(0.25, 0.4),
    ),
    HandMade(
        name="semantics",
        says="Aliases of d2 store that they are not their entity, so that a definition with tag 2 moves the answers the other way.",
        truth=("tag_semantics", "gradient_alignment"),
        negated=True,
    ),
    HandMade(
        name="steering",
        says="Aliases hold their entity before stage 2, which adds one constant vector to them that opens the readout, and less of it to d2.",
        truth=("steering",),
        opened=(0.3, 0.36),
        names=0,
    ),
    HandMade(
        name="moved tags",
        says="As in storage, also in the controls, but not where the tags' embeddings do not learn in stage 2.",
        truth=("moved_tags",),
        stored=(0.25, 0.4),
        needs="moving tags",
    ),
    HandMade(
        name="retrieval and storage",
        says="Aliases of d2 store half to three quarters of what others store, and attention reads a hundredth or less of those with tag 2.",
        truth=("gradient_alignment",),
        read=(0.002, 0.01),
        stored=(0.5, 0.75),
    ),
    HandMade(
        name="steering and storage",
        says="As in steering, and aliases of d2 store a quarter to two fifths of what others store.",
        truth=("steering", "gradient_alignment"),
        opened=(0.3, 0.36),
        stored=(0.25, 0.4),
        names=0,
    ),
)
"""The hand-made worlds."""


def asked_of_hand_made(wanted: Predictions) -> Predictions:
    """The predictions that hand-made models can be asked, and the explanations that one of them tests."""
    kept = tuple(one for one in wanted.predictions if _can_be_asked(one))
    tested = {name for one in kept for name in one.tests}
    explanations = tuple(one for one in wanted.explanations if one.name in tested)
    named = {one.name for one in explanations}
    predictions = tuple(
        replace(one, expects={name: way for name, way in one.expects.items() if name in named})
        for one in kept
    )
    return Predictions(
        explanations=explanations,
        predictions=tuple(one for one in predictions if len(set(one.expects.values())) > 1),
    )


def _can_be_asked(one: Prediction) -> bool:
    if one.analysis == CONTROLS:
        return one.arguments.get("control") in CONTROLS_MADE
    return (
        one.analysis in (*MEASURED, VARIANTS)
        and one.arguments.get("variant", EXCHANGED) in VARIANTS_MADE
        and one.minus_control in ("", *CONTROLS_MADE)
    )


def make_model(
    world: HandMade, task: Task, *, seed: int, strength: float, trained: bool = True, twin: bool = False
) -> Any:
    """One model of a world. `strength`, 0 … 1, is where between the world's bounds it lies. With `trained` false, it is the
    model before stage 2, whose new aliases store nothing, or are not read if the world is one of opening. A `twin` has d1 written
    under tag 2, and d2 under tag 1; the noise is the same."""

    def between(bounds: tuple[float, float]) -> float:
        return bounds[0] + strength * (bounds[1] - bounds[0])

    read = between(world.read)
    mechanism = Mechanism(
        tag2_gain=read, tag_at_alias=world.opened is None, name_dims=world.names, sharpness=_SHARPNESS
    )
    model, space = planted_model(task, mechanism), subspaces(task, mechanism)
    tokens, rows = alias_tokens(task)
    table = task.table.iloc[rows]
    new = torch.tensor((table["stage"] == 2).tolist())
    under_tag_1, under_tag_2 = (
        torch.tensor((table["subset"].astype(str) == name).tolist())
        for name in ((TAG_2, TAG_1) if twin else (TAG_1, TAG_2))
    )
    draws = generator(seed, "planted noise")
    integers = slice(*task.vocabulary.integers)
    with torch.no_grad():
        weight = model.embed.W_E
        if trained:
            weight[tokens[under_tag_2], space.stored] *= -1 if world.negated else between(world.stored)
        if twin and mechanism.tag_at_alias:
            defined = tokens[under_tag_1 | under_tag_2]
            tag_1, tag_2 = space.tag.start, space.tag.start + 1
            weight[defined[:, None], torch.tensor([tag_1, tag_2])] = weight[defined, tag_1 : tag_2 + 1].flip(
                1
            )
        noise = torch.randn(weight[tokens, space.stored].shape, generator=draws)
        weight[tokens, space.stored] += _STORED_NOISE * noise
        noise = torch.randn(weight[integers, space.listed].shape, generator=draws)
        weight[integers, space.listed] += _COMPARED_NOISE * noise
        if world.opened is None:
            if not trained:
                weight[tokens[new]] = 0.0
        else:
            weight[tokens[under_tag_2], space.alias] = between(world.opened)
            if not trained:
                weight[tokens[new], space.alias] = _CLOSED
    return model


def gather_instance(world: HandMade, number: int, asked: Predictions, *, seeds: int) -> Gathered:
    """What is known of an instance: answers and controls, and the analyses of its models unless there is no gap to explain."""
    numbers = range(1000 * number, 1000 * number + seeds)
    config = replace(TASK, aliases=world.times * TASK.aliases)
    tasks = {seed: integer_set.build(config, seed=seed) for seed in numbers}
    strength = float(torch.rand((), generator=generator(number, "strength", world.name)))
    without = replace(world, read=(1.0, 1.0), stored=(1.0, 1.0), negated=False, opened=None)
    reliable, frozen = (without, world) if world.needs == "unreliability" else (world, without)

    def analysed(one: HandMade, name: str, config: Any, *, twin: bool = False) -> pd.DataFrame:
        rows = [_analyse(one, tasks[seed], seed, strength, name, config, twin=twin) for seed in numbers]
        return pd.concat(rows, ignore_index=True)

    @functools.cache
    def answered(one: HandMade, *, twin: bool = False) -> pd.DataFrame:
        return analysed(one, "evaluate", registry.EvaluateConfig(), twin=twin).assign(recall=1.0)

    own, control, exchanged = answered(world), answered(reliable), answered(world, twin=True)
    variants = {FROZEN_TAGS: answered(frozen)}
    variants[EXCHANGED] = exchanged.assign(
        subset=exchanged["subset"].astype(str).replace({TAG_1: TAG_2, TAG_2: TAG_1})
    )
    controls = {"noise": control, "unasked": control}
    of_controls = [rows.assign(control=name) for name, rows in controls.items()]
    of_variants = [rows.assign(variant=name) for name, rows in variants.items()]
    tables = {
        f"evaluate {files.fingerprint({})}": own,
        f"{CONTROLS} {files.fingerprint({})}": pd.concat(of_controls, ignore_index=True),
        f"{VARIANTS} {files.fingerprint({})}": pd.concat(of_variants, ignore_index=True),
    }
    found = Gathered(
        answers=own,
        counted=CountedSeeds(tuple(numbers)),
        measures=tasks[numbers[0]].questioning.measures,
        controls=ControlAnswers(rows=controls),
        variants=ControlAnswers(rows=variants),
        tables=tables,
    )
    if gap_of(found).answer != "yes":
        return found
    for one in asked.predictions:
        wanted = {key(one): world}
        if one.minus_control:
            name = control_named(one.minus_control, own, found.measures)
            wanted[control_key(one, name)] = reliable
        for where, of in wanted.items():
            if where not in tables:
                tables[where] = analysed(of, one.analysis, one.analysis_config())
    return replace(found, tables=tables)


def _analyse(
    world: HandMade, task: Task, seed: int, strength: float, name: str, config: Any, *, twin: bool
) -> pd.DataFrame:
    """Rows of an analysis of one model of a world, or of its twin."""

    def twins(_: str) -> Any:
        return make_model(world, task, seed=seed, strength=strength, twin=not twin)

    model = make_model(world, task, seed=seed, strength=strength, twin=twin)
    subject = Subject(
        model=model,
        task=task,
        after=lambda stage: make_model(world, task, seed=seed, strength=strength, trained=stage == 2),
        untrained=lambda: untrained_like(model),
        course=_nothing,
        stage=2,
        collect=directly(model),
        dictionary=_nothing,
        rows=_nothing,
        variant=twins,
    )
    rows = registry.compute(name, subject, config).rows
    rows.insert(0, "seed", seed)
    return rows


def _nothing(*_: Any) -> Any:
    raise AssertionError(
        "a verdict on hand-made models reads no dictionary, no course of training and no rows of another analysis"
    )
