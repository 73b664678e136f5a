"""Control targets: what a probe scores where there is nothing to find."""

import numpy as np
from jaxtyping import Int, Shaped


def shuffle_by_alias(
    target: Shaped[np.ndarray, " example"], alias: Shaped[np.ndarray, " example"], *, seed: int
) -> Shaped[np.ndarray, " example"]:
    """Permute the labels among the aliases: the shuffled-label control.

    Each alias gets the label of another one (or keeps its own by chance), and all its examples get the
    same. That keeps everything but the relation between activations and labels: how many aliases have
    each class, and that examples of an alias go together, which shuffling single examples would break.
    A permutation test by groups (Ojala & Garriga 2010, JMLR 11:1833; Winkler et al. 2015, NeuroImage
    123:253, for exchangeability blocks).

    Args:
        target: class of each example, constant within each alias.
        alias: name or index of each example's alias.
        seed: decides the permutation, together with the sorted aliases; the order of examples does not.

    Returns:
        The shuffled class of each example.

    Raises:
        ValueError: lengths differ, or the target varies within an alias.
    """
    if alias.ndim != 1 or alias.shape != target.shape:
        raise ValueError(
            f"target and alias need one entry per example; their shapes are {target.shape} and {alias.shape}"
        )
    aliases, first, alias_index = np.unique(alias, return_index=True, return_inverse=True)
    label = target[first]
    varying = np.unique(alias_index[label[alias_index] != target])
    if len(varying):
        raise ValueError(
            f"the target varies within {len(varying)} aliases (first: {aliases[varying[0]]}); "
            "labels can be permuted among aliases only if each alias has one"
        )
    order = np.random.default_rng(seed).permutation(len(aliases))
    shuffled: Shaped[np.ndarray, " example"] = label[order][alias_index]
    return shuffled


def random_label_per_alias(
    alias: Shaped[np.ndarray, " example"], *, n_classes: int, seed: int
) -> Int[np.ndarray, " example"]:
    """Give each alias a random label: the control task of Hewitt & Liang 2019 (arXiv 1909.03368, section 2).

    Selectivity is a probe's accuracy on the real target minus its accuracy here. With folds by alias the
    label of a test alias cannot be known, so anything above 1 / `n_classes` shows a leak; with aliases on
    both sides of the split it measures how well the probe memorises them, as in the paper. Unlike there,
    classes have equally many aliases (give or take one), so that none is missing by chance.

    Args:
        alias: name or index of each example's alias.
        n_classes: number of labels, from 2 to the number of aliases.
        seed: decides the labels, together with the sorted aliases; the order of the examples does not.

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
