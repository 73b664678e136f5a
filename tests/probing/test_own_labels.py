"""Labels of the user's own are a probe's target like any other, with the same controls."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract import assert_unchanged, loaded, planted, task

import mechocl
from mechocl.errors import MechoclError
from mechocl.models.untrained import untrained_like
from mechocl.probing.own_labels import with_labels
from mechocl.probing.recipe import Probe

SUBSETS = ("d1_consistent", "d2_consistent")
QUICK = mechocl.ProbingConfig(sites=("resid_post",), permutations=3, n_pairs=0)
ALIASES = task().table.drop_duplicates("alias").set_index("alias").sort_index()


def tag_probe(target: Any) -> Probe:
    return Probe(
        name="tag",
        question="",
        at="question",
        target=target,
        subsets=SUBSETS,
        method="difference-of-means",
        regularisation=(1.0,),
    )


def scores(rows: pd.DataFrame, control: str = "none") -> np.ndarray:
    return rows[(rows["control"] == control) & (rows["subset"] == "all")]["auc"].to_numpy()


@pytest.mark.parametrize(
    "labels",
    [
        ALIASES["tag"],
        ALIASES["tag"].to_numpy(),
        ALIASES["tag"].tolist(),
        torch.tensor(ALIASES["tag"].to_numpy()),
        {alias: f"tag {tag}" for alias, tag in ALIASES["tag"].items()},
    ],
    ids=["Series", "array", "list", "tensor", "dict of strings"],
)
def test_labels_that_are_a_column_score_as_that_column_does(labels: Any) -> None:
    """With every control: shuffled labels, the untrained model, the token embedding, splits by question."""
    own, _ = mechocl.probe(planted(), task(), QUICK, labels=labels, probes=[tag_probe("label")])
    column, _ = mechocl.probe(planted(), task(), QUICK, probes=[tag_probe("tag")])
    assert set(own["control"]) == set(column["control"]) >= {
        "none", "shuffled", "untrained", "token embedding", "question split", "control task",
    }  # fmt: skip
    for control in set(own["control"]) - {"control task"}:
        np.testing.assert_allclose(scores(own, control), scores(column, control), atol=1e-9)
    assert scores(own).max() > 0.95


def test_labels_alone_are_enough_and_random_ones_are_not_read() -> None:
    """All aliases are probed whose label is not None; coin flips cannot be read of unseen aliases."""
    flips = np.random.default_rng(0).random(len(ALIASES)) < 0.5
    with assert_unchanged(planted()):
        rows, directions = mechocl.probe(planted(), task(), replace(QUICK, controls=False), labels=flips)
    assert set(rows["probe"]) == {"own-labels"}
    assert directions
    assert scores(rows).max() < 0.65
    some = [bool(flip) if alias % 3 else None for alias, flip in enumerate(flips)]
    kept, _ = mechocl.probe(planted(), task(), replace(QUICK, controls=False), labels=some)
    assert (
        kept["aliases"].max()
        == sum(label is not None for label in some)
        - ((ALIASES["subset"] == "q_entity") & (ALIASES.index % 3 != 0)).sum()
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "there are 2 labels and the task has the aliases 0 to 359"),
        ([0, 1] * 181, "there are 362 labels and the task has the aliases 0 to 359"),
        ("tag", "probe: labels is 'tag'; it takes "),
        (np.zeros((3, 3)), "labels are one for each alias"),
        (np.random.default_rng(0).random(360), "a label is 0.63.*labels are classes"),
        ({"alias 3": 1}, "no label is of an alias of the task"),
        (np.zeros(360, dtype=int), "no probe of the labels can be fitted: .* a single class"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels: Any, message: str) -> None:
    with pytest.raises(MechoclError, match=message) as caught:
        mechocl.probe(planted(), task(), QUICK, labels=labels)
    assert "\n" not in str(caught.value)


def test_a_probe_of_labels_without_labels_says_where_they_come_from() -> None:
    with pytest.raises(MechoclError, match=r"give them as mechocl\.probe\(…, labels=…\)"):
        mechocl.probe(planted(), task(), QUICK, probes=[tag_probe("label")])


def test_the_untrained_twin_is_another_model_of_the_same_shape() -> None:
    model = loaded(0)
    with assert_unchanged(model):
        twin, again, other = untrained_like(model), untrained_like(model), untrained_like(model, seed=1)
    weights = {name: p.shape for name, p in model.named_parameters()}
    assert {name: p.shape for name, p in twin.named_parameters()} == weights
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name])
        if ".W_" in name:
            assert not torch.equal(parameter, dict(other.named_parameters())[name])
            assert not torch.allclose(parameter, dict(model.named_parameters())[name])
    with pytest.raises(MechoclError, match="give one as untrained="):
        untrained_like(loaded(0, bridge=True))


def test_labels_stand_beside_the_task_and_not_in_it() -> None:
    before = list(task().table.columns)
    labelled = with_labels(task(), ALIASES["tag"])
    assert list(task().table.columns) == before
    assert (labelled.table["label"] == labelled.table["tag"]).all()
