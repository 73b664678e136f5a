"""Cross-validation by alias: an alias is never on both sides of a split.

Examples of one alias share its embedding, so a probe that has seen one of them can recognise all of them
by name. Only a probe that is tested on new aliases says what activations have in common. The same holds
for anything else that examples may share, such as their integer or their list: `united` joins two groupings into one.
"""

import warnings

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int, Shaped
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

Fold = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
"""Indices of the training examples and of the test examples, each ascending."""


def alias_folds(
    alias: Shaped[np.ndarray, " example"],
    target: Shaped[np.ndarray, " example"],
    *,
    n_folds: int,
    seed: int,
) -> list[Fold]:
    """Split examples into folds by alias, stratified by target.

    Every example is tested once, and a fold's training side holds every class that its test side holds.
    The folds depend on which alias has which classes and on `seed`, not on the order of the examples.

    A class needs two aliases, one to learn from and one to be tested on; see `scorable`. It may have
    fewer aliases than there are folds, as rare classes of an integer target do; then it is tested in
    some folds only. At least one class must reach every fold.

    Where the target is constant within each alias, the folds are scikit-learn's StratifiedKFold over
    aliases; otherwise they are its StratifiedGroupKFold over examples, with the same guarantees but some 100 times
    slower.

    Args:
        alias: name or index of each example's alias.
        target: class of each example: integers, booleans or strings.
        n_folds: number of folds, at least 2.
        seed: decides which aliases share a fold.

    Returns:
        `n_folds` pairs (training indices, test indices).

    Raises:
        ValueError: lengths differ; labels are floats; fewer aliases than folds; a single class; a class
            with a single alias; no class with `n_folds` aliases; or, for a target that varies within
            aliases, no split found that trains on every class it tests.
    """
    aliases, alias_index, classes, class_index = _encode(alias, target)
    _check_enough_aliases(len(aliases), classes, alias_index, class_index, n_folds)
    fold = _fold_of_example(alias_index, class_index, n_folds, seed)
    folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_folds)]
    for train, test in folds:
        unseen = np.setdiff1d(class_index[test], class_index[train])
        if len(test) == 0 or len(unseen):
            raise ValueError(
                f"no split into {n_folds} folds trains on every class that it tests "
                f"(failing: {_named(classes[unseen])}); use another seed, other folds or more aliases"
            )
    return folds


def _check_enough_aliases(
    n_aliases: int, classes: np.ndarray, alias_index: np.ndarray, class_index: np.ndarray, n_folds: int
) -> None:
    """Raises ValueError when there are too few aliases or classes for the folds."""
    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}; cross-validation needs at least 2")
    if n_aliases < n_folds:
        raise ValueError(f"{n_aliases} aliases cannot fill {n_folds} folds; use fewer folds or more aliases")
    if len(classes) < 2:
        raise ValueError(f"the target has only one class ({_named(classes)}); a probe needs at least 2")
    holders = _aliases_per_class(alias_index, class_index)
    if holders.min() < 2:
        raise ValueError(
            f"classes with a single alias cannot be both learned and tested: {_named(classes[holders < 2])}; "
            "keep only the examples that probes.splits.scorable marks"
        )
    if holders.max() < n_folds:
        raise ValueError(
            f"no class has {n_folds} aliases, one for each fold; use more aliases, or n_folds of at most {holders.max()}"
        )


def scorable(
    alias: Shaped[np.ndarray, " example"], target: Shaped[np.ndarray, " example"]
) -> Bool[np.ndarray, " example"]:
    """True for examples whose class at least two aliases have.

    Classes of a single alias cannot be scored on unseen aliases. If they were kept, each would count as a certain
    mistake; if they were dropped silently, chance would change. So the caller has to drop them.

    Raises:
        ValueError: lengths differ, or labels are floats.
    """
    _, alias_index, _, class_index = _encode(alias, target)
    keep: Bool[np.ndarray, " example"] = (_aliases_per_class(alias_index, class_index) >= 2)[class_index]
    return keep


def united(
    alias: Shaped[np.ndarray, " example"], other: Shaped[np.ndarray, " example"]
) -> Int[np.ndarray, " example"]:
    """Groups to split by so that neither an alias nor a value of `other` is ever on both sides.

    Examples that share an alias or a value belong together, and so do those that a chain of such examples
    links. `alias_folds(united(alias, integer), …)` tests a probe on integers that it was not fitted on. For a
    target that `other` determines there is no such test, because every class would be in one group.

    Returns:
        Index of each example's group, 0, 1, …

    Raises:
        ValueError: lengths differ.
    """
    if alias.ndim != 1 or alias.shape != other.shape:
        raise ValueError(f"groups need one entry per example; their shapes are {alias.shape}, {other.shape}")
    first, second = (np.unique(g, return_inverse=True)[1] for g in (alias, other))
    n_first, n = int(first.max(initial=-1)) + 1, len(first)
    size = n_first + int(second.max(initial=-1)) + 1
    links = scipy.sparse.coo_array((np.ones(n), (first, n_first + second)), shape=(size, size))
    groups: Int[np.ndarray, " example"] = connected_components(links, directed=False)[1][first].astype(
        np.int64
    )
    return groups


def check_no_leak(
    group: Shaped[np.ndarray, " example"],
    train: Int[np.ndarray, " _"],
    test: Int[np.ndarray, " _"],
    *,
    what: str = "alias",
) -> None:
    """Raise a ValueError that names the groups whose examples are both in `train` and in `test`.

    Args:
        group: name or index of each example's alias, or of anything else that must not be shared.
        train: indices of the training examples.
        test: indices of the test examples.
        what: what a group is: `alias`, `integer`, `list`.
    """
    shared = np.intersect1d(group[train], group[test])
    if len(shared):
        plural = what + ("es" if what.endswith("s") else "s")
        raise ValueError(
            f"{len(shared)} {plural} are both in training and test: {_named(shared)}; split by {what}"
        )


def _encode(alias: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct aliases, each example's index into them, and the same for classes."""
    if alias.ndim != 1 or alias.shape != target.shape:
        raise ValueError(
            f"alias and target need one entry per example; their shapes are {alias.shape} and {target.shape}"
        )
    for name, labels in (("alias", alias), ("target", target)):
        if labels.dtype.kind in "fc":
            raise ValueError(f"{name} has dtype {labels.dtype}; labels are integers, booleans or strings")
    aliases, alias_index = np.unique(alias, return_inverse=True)
    classes, class_index = np.unique(target, return_inverse=True)
    return aliases, alias_index, classes, class_index


def _aliases_per_class(alias_index: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    pairs = np.unique(np.stack([alias_index, class_index]), axis=1)
    return np.bincount(pairs[1])


def _fold_of_example(alias_index: np.ndarray, class_index: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The fold in which each example is tested."""
    n_aliases = alias_index.max() + 1
    class_of_alias = np.empty(n_aliases, dtype=np.int64)
    class_of_alias[alias_index] = class_index
    constant = bool((class_of_alias[alias_index] == class_index).all())
    options = {"n_splits": n_folds, "shuffle": True, "random_state": seed}
    if constant:
        splits = StratifiedKFold(**options).split(class_of_alias, class_of_alias)
    else:
        splits = StratifiedGroupKFold(**options).split(class_index, class_index, groups=alias_index)
    fold = np.empty(n_aliases if constant else len(class_index), dtype=np.int64)
    with warnings.catch_warnings():
        # Classes with fewer aliases than folds are allowed here: see alias_folds.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for k, (_, test) in enumerate(splits):
            fold[test] = k
    return fold[alias_index] if constant else fold


def _named(labels: np.ndarray, most: int = 5) -> str:
    """The first few labels, and how many more there are."""
    rest = len(labels) - most
    return ", ".join(str(label) for label in labels[:most]) + (f" and {rest} more" if rest > 0 else "")
