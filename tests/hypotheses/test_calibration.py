"""Worlds in which the answer is known: what is planted is there, the judge sees it, and a calibration goes on where it stopped."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour.internalization import by_subset, per_alias
from mechocl.errors import MechoclError
from mechocl.hypotheses import calibration, hand_made, predictions, trained_worlds
from mechocl.hypotheses.calibration import FOUND, NOT_ASKED, calibrate, confusion, confusion_in_words
from mechocl.hypotheses.hand_made import HAND_MADE, TASK, HandMade, asked_of_hand_made, make_model
from mechocl.hypotheses.trained_worlds import TRAINED
from mechocl.hypotheses.verdict import RunVerdict
from toy_models import integer_set
from toy_models.planted import Mechanism, alias_tokens, subspaces

MADE = {world.name: world for world in HAND_MADE}
FORCED = {world.name: world for world in TRAINED}
CHEAP = ("evaluate", "controls", "variants", "history")
"""What costs nothing but the training."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer aliases, and of the package's predictions those that need no analysis but evaluate."""
    own = predictions.load()
    cheap = replace(own, predictions=tuple(one for one in own.predictions if one.analysis in CHEAP))
    monkeypatch.setattr(hand_made, "TASK", replace(TASK, aliases=400))
    monkeypatch.setattr(predictions, "load", lambda path=None: cheap)


def answered(world: HandMade, *, trained: bool = True) -> pd.Series:
    task = integer_set.build(replace(TASK, aliases=400), seed=3)
    model = make_model(world, task, seed=3, strength=0.5, trained=trained)
    return by_subset(per_alias(model, task)).set_index("subset")["auc"]


@pytest.mark.parametrize("name", MADE)
def test_what_is_planted_is_there(name: str) -> None:
    """No gap, or a gap with d2 above chance, or, where d2 is negated, below; and nothing of new aliases is read before stage 2."""
    auc = answered(MADE[name])
    assert auc["d1_consistent"] > 0.9
    if name == "nothing":
        assert abs(auc["d1_consistent"] - auc["d2_consistent"]) < 0.03
    else:
        assert auc["d1_consistent"] - auc["d2_consistent"] > 0.08
    assert (auc["d2_consistent"] < 0.45) == (name == "semantics")
    before = answered(MADE[name], trained=False)
    assert abs(before["d1_consistent"] - before["d2_consistent"]) < 0.06
    assert before["d1_consistent"] < auc["d1_consistent"] - 0.2


@pytest.mark.parametrize("name", MADE)
def test_a_twin_is_the_same_but_for_the_tags(name: str) -> None:
    """Exchanged twice it is the model; of an alias of d1 and of d2 the twin differs where the world writes the tag, and nowhere else."""
    world, task = MADE[name], integer_set.build(replace(TASK, aliases=400), seed=3)
    model, twin = (make_model(world, task, seed=3, strength=0.5, twin=one) for one in (False, True))
    tokens, rows = alias_tokens(task)
    subset = task.table.iloc[rows]["subset"].astype(str).to_numpy()
    space = subspaces(task, Mechanism(tag_at_alias=world.opened is None, name_dims=world.names))
    difference = (twin.embed.W_E - model.embed.W_E).detach()
    defined = tokens[np.isin(subset, ("d1_consistent", "d2_consistent"))]
    others = np.setdiff1d(np.arange(len(difference)), defined.numpy())
    assert not difference[others].any()
    written = [space.tag] if world.opened is None else [space.alias]
    written += [space.stored] * (world.negated or world.stored != (1.0, 1.0))
    for part in fields(space):
        there = getattr(space, part.name)
        assert bool(difference[defined][:, there].any()) == (there in written), part.name
    d1, d2 = (by_subset(per_alias(one, task)).set_index("subset")["auc"] for one in (model, twin))
    gaps = [one["d1_consistent"] - one["d2_consistent"] for one in (d1, d2)]
    assert abs(sum(gaps)) < 0.06
    assert name == "nothing" or min(gaps) < -0.08


def found_in(verdict: RunVerdict) -> set[str]:
    return {one.explanation.name for one in verdict.findings if one.status in FOUND}


def test_the_judge_sees_what_is_written_into_weights() -> None:
    assert found_in(MADE["semantics"].judge(0, None, seeds=6)) == {"tag_semantics"}
    assert found_in(MADE["moved tags"].judge(0, None, seeds=8)) == {"moved_tags"}
    assert found_in(MADE["nothing"].judge(0, None, seeds=8)) <= {"nothing"}


def test_of_hand_made_models_no_training_is_asked() -> None:
    """What remains of the package's predictions is of finished models, and nothing of it is not measured for want of a training."""
    asked = asked_of_hand_made(predictions.load())
    assert {one.analysis for one in asked.predictions} <= {"evaluate", "controls", "variants"}
    variants = {one.arguments.get("variant") for one in predictions.load().predictions} - {None}
    assert variants <= set(hand_made.VARIANTS_MADE)
    assert "less_learned" not in asked.named
    assert "less_learned" not in {name for one in asked.predictions for name in one.expects}


def test_the_judge_sees_what_a_training_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags that differ in nothing but in how well stage 2 teaches their definitions, on few seeds of a short training."""
    shorter = (
        *trained_worlds.SMALLER,
        "task.aliases=200",
        "training.stages.0.epochs=30",
        "training.stages.0.batch_size=64",
        "training.stages.0.evaluations=1",
        "training.stages.1.evaluations=8",
    )
    monkeypatch.setattr(trained_worlds, "SMALLER", shorter)
    world = replace(FORCED["less learned"], controls=(), variants=())
    verdict = world.judge(0, None, seeds=6)
    effects = {one.prediction.name: one for one in verdict.effects}
    assert verdict.gap.answer == "yes"
    assert effects["larger-loss"].answer == effects["gone-at-equal-loss"].answer == "yes"
    assert found_in(verdict) == {"less_learned"}


def test_every_world_names_explanations_that_there_are() -> None:
    named = predictions.load().named
    assert {name for world in calibration.WORLDS for name in world.truth} <= set(named)
    assert len({world.name for world in calibration.WORLDS}) == len(calibration.WORLDS)


def test_a_calibration_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    def judge(instance: calibration.Instance, progress: Any) -> dict[str, str]:
        return dict.fromkeys(instance.world.truth, "supported")

    monkeypatch.setattr(calibration, "judge_instance", judge)

    def run(worlds: Sequence[calibration.World]) -> pd.DataFrame:
        return calibrate(tmp_path / "a.csv", instances=1, seeds=6, worlds=worlds, jobs=1, say=judged.append)

    assert len(run((MADE["semantics"],))) == len(judged) == 1
    twice = run((MADE["nothing"], MADE["semantics"]))
    assert list(twice["world"]) == ["nothing", "semantics"]
    assert len(judged) == 2
    kept = calibration.read_table(tmp_path / "a.csv", predictions.load())
    pd.testing.assert_frame_equal(kept, twice, check_dtype=False)
    assert run((MADE["nothing"],)).equals(kept)
    with pytest.raises(MechoclError, match="is of instances of 6 models, not of 7; choose another place"):
        calibrate(tmp_path / "a.csv", instances=1, seeds=7, worlds=(MADE["nothing"],))
    with monkeypatch.context() as changed:
        other = tuple(
            replace(world, says="Else.") if world.name == "nothing" else world for world in calibration.WORLDS
        )
        changed.setattr(calibration, "WORLDS", other)
        with pytest.raises(
            MechoclError, match="is of the world nothing as it was before; choose another place"
        ):
            calibrate(tmp_path / "a.csv", instances=1, seeds=6)
    (tmp_path / "mine.toml").write_text("# mine")
    with pytest.raises(MechoclError, match=r"was made by other predictions \(\w{12}\); choose another place"):
        calibrate(tmp_path / "a.csv", instances=1, predictions=tmp_path / "mine.toml")
    shares = confusion(twice)
    assert shares.loc["semantics", "tag_semantics"] == 1.0
    assert shares.loc["semantics", "instances"] == 1
    assert np.isnan(shares.loc["semantics", "less_learned"])


def test_a_confusion_table_is_read_by_name() -> None:
    """By hand: of ten instances the right one is found in nine, and another one in one; of the next world neither is found."""
    rows = [("retrieval", k, "supported" if k else "undecided", "undecided", NOT_ASKED) for k in range(10)]
    rows += [
        (
            "storage",
            k,
            "met so far" if k < 1 else "undecided",
            "undecided" if k else "contradicted",
            NOT_ASKED,
        )
        for k in range(10)
    ]
    table = pd.DataFrame(
        rows, columns=["world", "instance", "selective_retrieval", "gradient_alignment", "recency"]
    ).assign(predictions="0", planted="0", seeds=8)
    assert confusion_in_words(table) == [
        "retrieval, 10 instances: found, and mistaken for nothing else.",
        "storage, 10 instances: found too seldom: gradient_alignment in 0 of 10 (contradicted in 1); mistaken for it: selective_retrieval in 1 of 10.",
    ]


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    for text in (
        "seed,value\n0,1\n",
        ",".join([*calibration.KEYS, *predictions.load().named]) + "\nmars,f,0,a,8" + ",x" * 9,
    ):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(
            MechoclError, match="is no table of these worlds and explanations; choose another"
        ):
            calibrate(tmp_path / "a.csv", instances=1)
