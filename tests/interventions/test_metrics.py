"""Each metric against a plain computation of its own, and where it is refused."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from planted import small_task
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.metrics import METRICS, SMALLEST_DIFFERENCE, metric_named, normalised
from mechocl.interventions.named_pairs import pairs_named, question_pairs
from mechocl.interventions.pairs import Pairs, given_pairs
from toy_models.measures import within_alias_auc
from toy_models.task import Task

DIFFERENTIABLE = ("logit_difference", "log_probability", "kl_to_clean")


@cache
def task() -> Task:
    return small_task()


def asked(n: int = 40, seed: int = 0) -> Pairs:
    return question_pairs(task(), subsets=("d1_consistent", "d2_consistent"), n_questions=n, seed=seed)


def logits_of(pairs: Pairs, seed: int, *batch: int) -> Tensor:
    """Random logits of the whole vocabulary."""
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*batch, len(pairs), task().vocabulary.outputs, generator=draws)


def judged(name: str, logits: Tensor, clean: Tensor, pairs: Pairs) -> Tensor:
    """Values of each pair from whole logits, of which the metric is given those that it asks for."""
    metric = metric_named(name)
    ids = metric.tokens(pairs)
    seen = (logits, clean) if ids is None else (logits[..., ids], clean[..., ids])
    return metric.per_pair(seen[0], pairs, seen[1])


def by_hand(name: str, logits: Tensor, clean: Tensor, pairs: Pairs) -> list[float]:
    """Pair by pair, with numpy."""
    found = []
    for i in range(len(pairs)):
        x, c = logits[i].double().numpy(), clean[i].double().numpy()
        target, foil = int(pairs.target[i]), int(pairs.foil[i])
        p, q = (np.exp(v) / np.exp(v).sum() for v in (c, x))
        true, false = task().vocabulary.true, task().vocabulary.false
        found.append(
            {
                "logit_difference": x[target] - x[foil],
                "log_probability": np.log(q[target]),
                "kl_to_clean": -float((p * np.log(p / q)).sum()),
                "within_alias_auc": x[true] - x[false],
            }[name]
        )
    return found


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", METRICS)
def test_values_of_each_pair(name: str, seed: int) -> None:
    pairs = asked(12, seed)
    logits, clean = logits_of(pairs, seed), logits_of(pairs, seed + 1)
    values = judged(name, logits, clean, pairs)
    np.testing.assert_allclose(values, by_hand(name, logits, clean, pairs), atol=1e-5)
    if metric_named(name).differentiable:
        pooled = metric_named(name).pool(values, pairs)
        assert float(pooled) == pytest.approx(np.mean(by_hand(name, logits, clean, pairs)), abs=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_patches_come_first(name: str) -> None:
    """Logits with more axes give the values of each by itself."""
    pairs, metric = asked(), metric_named(name)
    logits, clean = logits_of(pairs, 0, 3, 2), logits_of(pairs, 1)
    values = judged(name, logits, clean, pairs)
    assert values.shape == (3, 2, len(pairs))
    pooled = metric.pool(values, pairs)
    assert pooled.shape == (3, 2)
    for i in range(3):
        torch.testing.assert_close(values[i, 1], judged(name, logits[i, 1], clean, pairs))
        torch.testing.assert_close(pooled[i, 1], metric.pool(values[i, 1], pairs))


def test_each_pair_has_its_own_tokens() -> None:
    """With targets and foils all over the vocabulary, in any order."""
    draws = torch.Generator().manual_seed(0)
    ones = torch.ones(9, 3, dtype=torch.int64)
    target, foil = torch.randint(0, 30, (2, 9), generator=draws)
    pairs = given_pairs(ones, ones, target=target, foil=foil)
    logits = logits_of(pairs, 0)
    values = judged("logit_difference", logits, logits, pairs)
    expected = [float(logits[i, target[i]] - logits[i, foil[i]]) for i in range(9)]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    ids = metric_named("logit_difference").tokens(pairs)
    assert ids is not None
    assert ids.tolist() == sorted({*target.tolist(), *foil.tolist()})
    assert metric_named("log_probability").tokens(pairs) is None


def test_larger_is_more_like_the_clean_run() -> None:
    """Every metric rises when the right token's logit does; the divergence is 0 at the clean run, negative elsewhere."""
    pairs = asked()
    clean, logits = logits_of(pairs, 0), logits_of(pairs, 1)
    right = logits.clone()
    right[torch.arange(len(pairs)), pairs.target] += 1
    for name in ("logit_difference", "log_probability"):
        assert (judged(name, right, clean, pairs) > judged(name, logits, clean, pairs)).all()
    np.testing.assert_allclose(judged("kl_to_clean", clean, clean, pairs), 0, atol=1e-6)
    assert (judged("kl_to_clean", logits, clean, pairs) < -0.01).all()
    pool = metric_named("within_alias_auc").pool
    better = logits.clone()
    better[pairs.contains, task().vocabulary.true] += 3
    aucs = [float(pool(judged("within_alias_auc", x, clean, pairs), pairs)) for x in (logits, better)]
    assert aucs[0] < aucs[1]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str) -> None:
    pairs = asked(8)
    clean, logits = logits_of(pairs, 0), logits_of(pairs, 1).requires_grad_()
    judged(name, logits, clean, pairs).sum().backward()
    assert logits.grad is not None
    step = 0.01 * logits.grad
    assert (judged(name, logits + step, clean, pairs) > judged(name, logits, clean, pairs)).all()


# ------------------------------------------------------------------------------------------ within-alias AUC


def aucs_by_hand(values: np.ndarray, pairs: Pairs) -> list[float]:
    """Of each alias that is asked about both with and without its integer."""
    found = []
    for alias in sorted(set(pairs.alias.tolist())):
        own = (pairs.alias == alias).numpy()
        if len(set(pairs.contains[own].tolist())) == 2:
            found.append(float(roc_auc_score(pairs.contains.numpy()[own], values[own])))
    return found


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 90), seed=st.integers(0, 1000), levels=st.sampled_from([2, 5, 1000]))
def test_auc(n: int, seed: int, levels: int) -> None:
    """The mean over aliases of scikit-learn's, ties included, in any order of the questions."""
    pairs = asked(n, seed)
    draws = torch.Generator().manual_seed(seed)
    pairs = pairs[torch.randperm(n, generator=draws)]
    values = torch.randint(0, levels, (n,), generator=draws).float()
    expected = aucs_by_hand(values.numpy(), pairs)
    metric = metric_named("within_alias_auc")
    if not expected:
        with pytest.raises(MechoclError, match="needs aliases asked about with and without"):
            metric.pool(values, pairs)
        return
    assert float(metric.pool(values, pairs)) == pytest.approx(np.mean(expected), abs=1e-9)


def test_auc_is_that_of_internalization() -> None:
    pairs = asked(240)
    values = logits_of(pairs, 0)[:, 0]
    theirs = within_alias_auc(values.double().numpy(), pairs.contains.numpy(), pairs.alias.numpy())
    found = float(metric_named("within_alias_auc").pool(values, pairs))
    assert found == pytest.approx(float(theirs.mean()), abs=1e-9)
    assert found != pytest.approx(float(theirs.iloc[1:].mean()), abs=1e-6)


def test_aliases_count_alike_however_many_questions_they_have() -> None:
    """One alias is ranked rightly by 2 × 2 questions, another wrongly by 1 × 1: ½, not ⅘."""
    pairs = replace(
        asked(6),
        alias=torch.tensor([0, 0, 0, 0, 1, 1]),
        contains=torch.tensor([True, True, False, False, True, False]),
    )
    values = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0, 5.0])
    assert float(metric_named("within_alias_auc").pool(values, pairs)) == 0.5


def test_pairs_without_an_alias_do_not_count() -> None:
    pairs = replace(
        asked(4), alias=torch.tensor([0, 0, -1, -1]), contains=torch.tensor([True, False, True, False])
    )
    assert float(metric_named("within_alias_auc").pool(torch.tensor([2.0, 1.0, 0.0, 9.0]), pairs)) == 1


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", METRICS)
def test_what_is_needed_is_there(name: str) -> None:
    metric_named(name).check(asked(), task().vocabulary.outputs)


def test_an_unknown_metric() -> None:
    known = "logit_difference, log_probability, kl_to_clean, within_alias_auc"
    with pytest.raises(MechoclError, match=f"no metric is called 'recall'; choose from {known}"):
        metric_named("recall")
    with pytest.raises(MechoclError, match="no metric is called 'logit_diff'; did you mean logit_difference"):
        metric_named("logit_diff")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("logit_difference", {"target": 28}, "logit of target token 28 of .*logits for tokens 0 to 27 alone"),
        ("log_probability", {"target": 28}, "log_probability needs the logit of target token 28"),
        ("kl_to_clean", {"target": -1}, "logit of target token -1"),
        ("logit_difference", {"foil": 300}, "logit of foil token 300"),
        ("within_alias_auc", {"foil": 300}, "logit of foil token 300"),
        ("logit_difference", {"foil": -1}, "compares the target with a foil, and .* has none; use log_prob"),
        ("within_alias_auc", {"foil": -1}, "compares the target with a foil, and .* has none; use log_prob"),
    ],
)
def test_tokens_without_a_logit(name: str, changes: dict[str, int], message: str) -> None:
    """One of them is enough; the last id with a logit is allowed."""
    pairs = asked(8)
    changed = {k: getattr(pairs, k).clone() for k in changes}
    for key, token in changes.items():
        changed[key][5] = token
    with pytest.raises(MechoclError, match=message) as raised:
        metric_named(name).check(replace(pairs, **changed), 28)
    assert "\n" not in str(raised.value)
    allowed = {key: torch.full_like(value, 27) for key, value in changed.items()}
    metric_named(name).check(replace(pairs, **allowed), 28)


@pytest.mark.parametrize("name", ["log_probability", "kl_to_clean"])
def test_pairs_without_a_foil(name: str) -> None:
    """Tag pairs have none, and say what can be used; which can."""
    pairs = pairs_named(task(), "tag1-to-tag2", n_pairs=5, seed=0)
    metric_named(name).check(pairs, task().vocabulary.outputs)
    with pytest.raises(MechoclError, match="tag1-to-tag2 has none; use log_probability, which needs none"):
        metric_named("logit_difference").check(pairs, task().vocabulary.outputs)


@pytest.mark.parametrize("of", ["d1-with-to-without", "d1-to-itself"])
def test_an_auc_of_one_kind_of_question(of: str) -> None:
    """Refused before anything is computed."""
    pairs = pairs_named(task(), of, n_pairs=40, seed=0)
    pairs = pairs[pairs.contains]
    with pytest.raises(
        MechoclError, match=f"asked about with and without their integer; {pairs.name} has none"
    ):
        metric_named("within_alias_auc").check(pairs, task().vocabulary.outputs)


# ------------------------------------------------------------------------------------------ shares


def test_normalised() -> None:
    """0 at the corrupted end, 1 at the clean one, whichever is larger; beyond them below 0 and above 1."""
    for clean, corrupted in ((10.0, -10.0), (-2.0, 3.0), (0.0, 2 * SMALLEST_DIFFERENCE)):
        share: Any = lambda v, a=clean, b=corrupted: normalised(v, clean=a, corrupted=b)  # noqa: E731
        assert share(corrupted) == 0
        assert share(clean) == 1
        assert share((clean + corrupted) / 2) == pytest.approx(0.5)
        assert share(2 * clean - corrupted) == pytest.approx(2)
        assert share(2 * corrupted - clean) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("clean", "corrupted"),
    [
        (1.0, 1.0),
        (1.0, 1.0 - 0.9 * SMALLEST_DIFFERENCE),
        (0.0, 0.9 * SMALLEST_DIFFERENCE),
        (float("nan"), 0.0),
    ],
)
def test_shares_of_almost_nothing(clean: float, corrupted: float) -> None:
    with pytest.raises(MechoclError, match="hardly differ, so there is nothing to take a share of") as raised:
        normalised(0.5, clean=clean, corrupted=corrupted)
    assert "\n" not in str(raised.value)
