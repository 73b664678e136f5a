"""Controls of probes: corrected significance by hand, matching, shuffles in blocks, and controls that must fail."""

from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.model_selection import KFold

from probes.controls import corrected_p, matched, random_label_per_alias, shuffle_by_alias
from probes.grid import cross_validate_grid
from probes.linear import ProbeConfig, cross_validate

LOGISTIC = ProbeConfig(method="logistic", regularisation=(0.01,))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users run it: without the suite's run-time check of shapes, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Corrected significance


def test_corrected_p_by_hand() -> None:
    """Maxima over cells of three permutations: .6, .7, .9. A score of .95 is reached by none of them, .7 by two.

    Its own cell's permutations would reach .7 once only: the correction takes the maximum anywhere.
    """
    null = np.array([[0.6, 0.5], [0.4, 0.7], [0.9, 0.3]])
    np.testing.assert_allclose(corrected_p(np.array([0.95, 0.7]), null), [1 / 4, 3 / 4])
    np.testing.assert_allclose(corrected_p(np.array([0.5, 0.65]), null), [4 / 4, 3 / 4])
    np.testing.assert_allclose(corrected_p(np.array([0.7]), null[:, 1:]), [2 / 4])


def test_cells_without_a_score_have_no_p_and_do_not_count() -> None:
    """Without the second cell the maxima are .6, .4, .9."""
    null = np.array([[0.6, 1.0], [0.4, np.nan], [0.9, 1.0]])
    p = corrected_p(np.array([0.7, np.nan]), null)
    assert p[0] == 2 / 4
    assert np.isnan(p[1])
    assert np.isnan(corrected_p(np.array([np.nan]), null[:, :1])).all()


def test_a_permutation_without_a_score_is_refused() -> None:
    """Left out, it would count as one that does not reach the score: p too small."""
    null = np.array([[0.6, 0.7], [0.4, np.nan]])
    with pytest.raises(ValueError, match="null has NaN in a cell for which observed has a score"):
        corrected_p(np.array([0.5, 0.5]), null)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(0, 2), (3, 1), (2,), (2, 3, 1)])
def test_corrected_p_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"null has shape \(.*\); expected \(permutations, 2\) with at least one"
    ):
        corrected_p(np.array([0.5, 0.6]), np.zeros(shape))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_corrected_p_is_never_below_a_cells_own(draws: int, cells: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    observed, null = rng.integers(5, size=cells) / 4, rng.integers(5, size=(draws, cells)) / 4
    corrected = corrected_p(observed, null)
    own = (1 + (null >= observed).sum(axis=0)) / (1 + draws)
    assert (corrected >= own - 1e-12).all()
    assert (corrected <= 1).all()
    alone = [corrected_p(observed[[i]], null[:, [i]])[0] for i in range(cells)]
    np.testing.assert_allclose(alone, own)


# Shuffles


def test_labels_are_shuffled_inside_blocks() -> None:
    """Each block keeps its counts of labels, whereas a shuffle of all moves them between blocks."""
    rng = np.random.default_rng(0)
    alias = np.repeat(np.arange(60), 3)
    target, block = rng.integers(3, size=60)[alias], (np.arange(60) % 5)[alias]

    def counts(labels: np.ndarray) -> list[list[int]]:
        return [np.bincount(labels[block == b], minlength=3).tolist() for b in range(5)]

    free_moves = 0
    for seed in range(5):
        shuffled = shuffle_by_alias(target, alias, seed=seed, within=block)
        assert counts(shuffled) == counts(target)
        assert (shuffled.reshape(60, 3) == shuffled.reshape(60, 3)[:, :1]).all()
        assert (shuffled != target).mean() > 0.3
        free_moves += counts(shuffle_by_alias(target, alias, seed=seed)) != counts(target)
    assert free_moves == 5


def test_blocks_of_one_alias_keep_their_labels_and_the_order_does_not_matter() -> None:
    alias, target = np.repeat(np.arange(20), 2), np.repeat(np.arange(20) % 2, 2)
    np.testing.assert_array_equal(shuffle_by_alias(target, alias, seed=0, within=alias), target)
    order, block = np.random.default_rng(1).permutation(40), alias // 5
    shuffled = shuffle_by_alias(target, alias, seed=0, within=block)
    np.testing.assert_array_equal(
        shuffled[order], shuffle_by_alias(target[order], alias[order], seed=0, within=block[order])
    )


def test_a_block_that_varies_within_an_alias_is_refused() -> None:
    alias = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"the block varies within 1 aliases \(first: 1\)"):
        shuffle_by_alias(alias, alias, seed=0, within=np.array([0, 0, 0, 1]))


# Matching


def test_matching_by_hand() -> None:
    """Stage 1 has 2 aliases of class a and 3 of b: two of each stay. Stage 2 has 3 and 1: one. Stage 3 has no b."""
    target = np.array(list("aabbb" + "aaab" + "aa"))
    stage = np.array([1] * 5 + [2] * 4 + [3] * 2)
    keep = matched(target, stage, np.arange(11), seed=0)
    kept = sorted(zip(target[keep].tolist(), stage[keep].tolist(), strict=True))
    assert kept == [("a", 1), ("a", 1), ("a", 2), ("b", 1), ("b", 1), ("b", 2)]
    draws = {tuple(matched(target, stage, np.arange(11), seed=seed)) for seed in range(20)}
    assert len(draws) > 3


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(0, 2**32 - 1),
)
def test_matching_balances_exactly(cells: list[tuple[int, int]], seed: int) -> None:
    """As many aliases of each class as the rarest has of that value, with all of their examples."""
    alias = np.repeat(np.arange(len(cells)), 2)
    target, nuisance = np.transpose(cells)
    keep = matched(target[alias], nuisance[alias], alias, seed=seed)
    per_alias = keep.reshape(-1, 2)
    assert (per_alias[:, 0] == per_alias[:, 1]).all()
    for value in np.unique(nuisance):
        there = [((target == c) & (nuisance == value)).sum() for c in np.unique(target)]
        kept = [((target == c) & (nuisance == value) & per_alias[:, 0]).sum() for c in np.unique(target)]
        assert kept == [min(there)] * len(there)


def test_nothing_can_be_matched_where_the_classes_share_no_value() -> None:
    target = np.array([0, 0, 1, 1])
    assert not matched(target, target, np.arange(4), seed=0).any()
    assert matched(target, np.zeros(4, dtype=int), np.arange(4), seed=0).all()


@pytest.mark.parametrize("which", ["target", "nuisance"])
def test_matching_refuses_what_varies_within_an_alias(which: str) -> None:
    constant, varying = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    target, nuisance = (varying, constant) if which == "target" else (constant, varying)
    with pytest.raises(ValueError, match=f"the {which} varies within aliases; matching needs one"):
        matched(target, nuisance, np.array([0, 0, 1, 1]), seed=0)


# Controls that should fail do fail


def test_a_probe_that_reads_the_stage_fails_after_matching() -> None:
    """Features say the stage of an alias and nothing else; nine of ten aliases of a class are of its own stage.

    Reading the stage is then right for 90 %. After matching, with 40 aliases of each class and stage, it is right
    for half: the standard error of a share of 160 is .04.
    """
    rng = np.random.default_rng(2)
    target = np.repeat([0, 1], 400)
    stage = np.where(np.arange(800) % 10 == 0, 1 - target, target)
    x = 8.0 * stage[:, None] + rng.normal(size=(800, 6))
    alias = np.arange(800)
    confounded = cross_validate(x, target, alias, config=LOGISTIC)
    assert confounded.balanced_accuracy == pytest.approx(0.9, abs=0.01)
    keep = matched(target, stage, alias, seed=0)
    assert keep.sum() == 160
    after = cross_validate(x[keep], target[keep], alias[keep], config=LOGISTIC)
    assert after.balanced_accuracy == pytest.approx(0.5, abs=0.13)
    assert after.auc == pytest.approx(0.5, abs=0.13)


def test_matching_leaves_what_does_not_depend_on_the_stage() -> None:
    """The same aliases, but features say the class as well: matching must not destroy that."""
    rng = np.random.default_rng(3)
    target = np.repeat([0, 1], 400)
    stage = np.where(np.arange(800) % 10 == 0, 1 - target, target)
    x = rng.normal(size=(800, 6))
    x[:, 0] += 8.0 * stage
    x[:, 1] += 6.0 * target
    keep = matched(target, stage, np.arange(800), seed=0)
    after = cross_validate(x[keep], target[keep], np.arange(800)[keep], config=LOGISTIC)
    assert after.balanced_accuracy > 0.95


@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_random_labels_are_memorised_across_a_split_by_question(method: str) -> None:
    """Activations say which of 100 aliases an example has; labels are random by alias.

    Split by question, so that each alias is on both sides, the probe looks its label up; split by alias it cannot.
    Shuffled labels are memorised too: they are no better a null there than the control task itself. Standard error
    of a share of 100 labels, averaged over 3 sites: .03.
    """
    rng = np.random.default_rng(4)
    alias, question = np.repeat(np.arange(100), 5), np.tile(np.arange(5), 100)
    x = rng.normal(size=(3, 100, 200))[:, alias] + 0.1 * rng.normal(size=(3, 500, 200))
    label = random_label_per_alias(alias, n_classes=2, seed=0)
    config = ProbeConfig(method=method, regularisation=(0.01 if method == "logistic" else 100.0,))  # type: ignore[arg-type]
    by_question = cross_validate_grid(
        torch.tensor(x, dtype=torch.float32), label, alias, config=config, shuffles=2, fold=question
    )
    by_alias = cross_validate_grid(
        torch.tensor(x, dtype=torch.float32), label, alias, config=config, shuffles=2
    )
    assert (by_question.balanced_accuracy > 0.97).all()
    assert (by_question.auc > 0.97).all()
    np.testing.assert_array_equal(by_question.fold, question)
    np.testing.assert_allclose(by_alias.balanced_accuracy.mean(axis=0), 0.5, atol=0.13)


def test_the_folds_of_random_examples_leak_as_well() -> None:
    """`fold` is taken as it is: what a split by alias forbids is possible on purpose, and shows."""
    rng = np.random.default_rng(5)
    alias = np.repeat(np.arange(60), 4)
    x = torch.tensor(rng.normal(size=(1, 60, 200))[:, alias] + 0.1 * rng.normal(size=(1, 240, 200)))
    fold = np.empty(240, dtype=np.int64)
    for k, (_, test) in enumerate(KFold(5, shuffle=True, random_state=0).split(alias)):
        fold[test] = k
    label = random_label_per_alias(alias, n_classes=3, seed=1)
    leaking, honest = (
        cross_validate_grid(x, label, alias, config=LOGISTIC, shuffles=0, fold=f) for f in (fold, None)
    )
    assert leaking.balanced_accuracy[0, 0] > 0.95
    assert honest.balanced_accuracy[0, 0] < 0.55
