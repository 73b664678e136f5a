"""Control targets: what a probe scores where there is nothing to find."""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def shuffle_by_alias(
    target: Shaped[np.ndarray, " example"],
    alias: Shaped[np.ndarray, " example"],
    *,
    seed: int,
    within: Int[np.ndarray, " example"] | None = None,
) -> Shaped[np.ndarray, " example"]:
    """Permute the labels among the aliases: the shuffled-label control.

    Each alias gets the label of another one (or keeps its own by chance), and all its examples get the
    same label. This breaks only the relation between activations and labels. It keeps the number of aliases of
    each class, and it keeps the examples of an alias together, which shuffling single examples would not.
    It is a permutation test by groups (Ojala & Garriga 2010, JMLR 11:1833; Winkler et al. 2015, NeuroImage
    123:253, for exchangeability blocks).

    Args:
        target: class of each example, constant within each alias.
        alias: name or index of each example's alias.
        seed: decides the permutation, together with the sorted aliases; the order of examples has no influence.
        within: blocks of aliases; labels move inside a block only. If the blocks are the folds of a cross-validation
            that is stratified by the target, every fold keeps its classes, so that true and shuffled labels go
            through exactly the same procedure, which makes the test exact.

    Returns:
        The shuffled class of each example.

    Raises:
        ValueError: lengths differ, or the target or the block varies within an alias.
    """
    if alias.ndim != 1 or alias.shape != target.shape:
        raise ValueError(
            f"target and alias need one entry per example; their shapes are {target.shape} and {alias.shape}"
        )
    aliases, first, alias_index = np.unique(alias, return_index=True, return_inverse=True)
    block = np.zeros(len(alias), dtype=np.int64) if within is None else within
    for name, values in (("target", target), ("block", block)):
        varying = np.unique(alias_index[values[first][alias_index] != values])
        if len(varying):
            raise ValueError(
                f"the {name} varies within {len(varying)} aliases (first: {aliases[varying[0]]}); "
                "labels can be permuted among aliases only if each alias has one"
            )
    label, block = target[first], block[first]
    draws = np.random.default_rng(seed)
    order = np.arange(len(aliases))
    for one in np.unique(block):
        inside = np.flatnonzero(block == one)
        order[inside] = draws.permutation(inside)
    shuffled: Shaped[np.ndarray, " example"] = label[order][alias_index]
    return shuffled


def random_label_per_alias(
    alias: Shaped[np.ndarray, " example"], *, n_classes: int, seed: int
) -> Int[np.ndarray, " example"]:
    """Give each alias a random label: the control task of Hewitt & Liang 2019 (arXiv 1909.03368, section 2).

    Selectivity is a probe's accuracy on the real target minus its accuracy here. With folds by alias the
    label of a test alias cannot be known, so anything above 1 / `n_classes` shows a leak; with aliases on
    both sides of the split it measures how well the probe memorises them, as in the paper. Unlike in the
    paper, classes have equally many aliases (give or take one), so that no class is missing by chance.

    Args:
        alias: name or index of each example's alias.
        n_classes: number of labels, from 2 to the number of aliases.
        seed: decides the labels, together with the sorted aliases; the order of the examples has no influence.

    Returns:
        Label of each example, 0 … n_classes − 1.

    Raises:
        ValueError: `n_classes` is out of range.
    """
    aliases, alias_index = np.unique(alias, return_inverse=True)
    if not 2 <= n_classes <= len(aliases):
        raise ValueError(
            f"n_classes is {n_classes}; it must be from 2 to the number of aliases, {len(aliases)}"
        )
    label = np.random.default_rng(seed).permutation(np.arange(len(aliases)) % n_classes)
    labels: Int[np.ndarray, " example"] = label[alias_index]
    return labels


def matched(
    target: Shaped[np.ndarray, " example"],
    nuisance: Shaped[np.ndarray, " example"],
    alias: Shaped[np.ndarray, " example"],
    *,
    seed: int,
) -> Bool[np.ndarray, " example"]:
    """Examples to keep so that every class has equally many aliases of each value of a nuisance variable.

    A probe of the target can then not score by reading the nuisance. Such a nuisance is the time at which an alias
    was learned: models encode it linearly (arXiv 2509.14223), so a probe that compares aliases of different
    stages reads it. Values that some class lacks are dropped with all their aliases.

    Args:
        target: class of each example, constant within each alias.
        nuisance: value of each example, constant within each alias.
        alias: name or index of each example's alias.
        seed: draws the aliases of the larger cells that are kept.

    Returns:
        True for examples to keep; all False where the classes share no value (they cannot be matched).

    Raises:
        ValueError: target or nuisance vary within an alias.
    """
    aliases, first, alias_index = np.unique(alias, return_index=True, return_inverse=True)
    for name, values in (("target", target), ("nuisance", nuisance)):
        if (values[first][alias_index] != values).any():
            raise ValueError(f"the {name} varies within aliases; matching needs one value per alias")
    classes, class_index = np.unique(target[first], return_inverse=True)
    draws = np.random.default_rng(seed)
    keep = np.zeros(len(aliases), dtype=bool)
    for value in np.unique(nuisance):
        cells = [np.flatnonzero((nuisance[first] == value) & (class_index == c)) for c in range(len(classes))]
        smallest = min(len(cell) for cell in cells)
        for cell in cells:
            keep[draws.permutation(cell)[:smallest]] = True
    kept: Bool[np.ndarray, " example"] = keep[alias_index]
    return kept


def corrected_p(
    observed: Float[np.ndarray, " cell"], null: Float[np.ndarray, "draw cell"]
) -> Float[np.ndarray, " cell"]:
    """p-values of a whole grid by the maximum statistic (Westfall & Young 1993; Nichols & Holmes 2002, HBM 15:1).

    A cell's score is compared with the largest score anywhere in the grid under each permutation, so that the
    chance of even one false finding in the grid is at most the level. One-sided: large scores are findings.
    The permutations must shuffle the labels of all cells alike.

    Args:
        observed: scores with the true labels. A cell that could not be scored is NaN; its p is NaN.
        null: scores of the same cells with permuted labels.

    Returns:
        (1 + number of permutations whose maximum reaches the score) / (1 + number of permutations), which is never
        below 1 / (1 + permutations).

    Raises:
        ValueError: there is no permutation, cells differ, or a permutation lacks a score that `observed` has.
    """
    if null.ndim != 2 or len(null) == 0 or null.shape[1:] != observed.shape:
        raise ValueError(
            f"null has shape {null.shape}; expected (permutations, {len(observed)}) with at least one permutation"
        )
    scored = np.isfinite(observed)
    result = np.full(len(observed), np.nan)
    if np.isnan(null[:, scored]).any():  # it would count as a permutation that does not reach the score
        raise ValueError(
            "null has NaN in a cell for which observed has a score; score the permutations in this cell too"
        )
    if scored.any():
        largest = null[:, scored].max(axis=1)
        reached = (largest[:, None] >= observed[scored] - 1e-12).sum(axis=0)
        result[scored] = (1 + reached) / (1 + len(null))
    return result
