"""A whole grid of sites, cross-validated with the true labels and with shuffled ones."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from probes import batched, linear
from probes.controls import shuffle_by_alias
from probes.linear import INNER_FOLDS, ProbeConfig
from probes.splits import alias_folds, check_no_leak, scorable

Solver = Literal["auto", "scikit-learn", "torch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridScores:
    """Scores of one probe at every site, for each labelling: the true one first, then the shuffled ones."""

    classes: Shaped[np.ndarray, " class"]
    """The target's classes, ascending."""
    code: Int[np.ndarray, "draw example"]
    """Class of each example in each labelling, as an index into `classes`."""
    fold: Int[np.ndarray, " example"]
    decision: Float[np.ndarray, "site example output"]
    """Held-out decision values with the true labels: one column for two classes, else one for each class."""
    balanced_accuracy: Float[np.ndarray, "site draw"]
    """From 0 to 1."""
    auc: Float[np.ndarray, "site draw"]
    """`linear.auc_of_classes`. With more than two classes it is NaN for shuffled labels."""
    regularisation: Float[np.ndarray, "site fold"]
    """Value that was used with the true labels."""
    direction: Float[torch.Tensor, "site draw feature output"] | None
    """What `directions` gives for all labellings, if it came at no cost (logistic, torch, one value); else None."""


def labellings(
    target: Shaped[np.ndarray, " example"],
    alias: Shaped[np.ndarray, " example"],
    fold: Int[np.ndarray, " example"],
    *,
    shuffles: int,
    seed: int,
) -> Int[np.ndarray, "draw example"]:
    """The target as codes 0, 1, …, then shuffles of it over the aliases of a fold (`shuffle_by_alias`)."""
    _, code = np.unique(target, return_inverse=True)
    shuffled = [
        shuffle_by_alias(code, alias, seed=seed + i, within=fold if _inside_folds(alias, fold) else None)
        for i in range(shuffles)
    ]
    return np.stack([code, *shuffled])


def cross_validate_grid(
    x: Float[torch.Tensor, "site example feature"],
    target: Shaped[np.ndarray, " example"],
    alias: Shaped[np.ndarray, " example"],
    *,
    config: ProbeConfig,
    shuffles: int,
    group: Shaped[np.ndarray, " example"] | None = None,
    what: str = "alias",
    solver: Solver = "auto",
    fold: Int[np.ndarray, " example"] | None = None,
) -> GridScores:
    """Cross-validated scores at every site with the true labels and with shuffled ones.

    All labellings go through the same procedure: the same folds, which are stratified by the target, inside
    which labels are shuffled by alias, and the same choice of regularisation.

    Args:
        x: activations at each site, of the same examples.
        target: class of each example, constant within each alias if there are shuffles.
        alias: name or index of each example's alias.
        config: method, regularisation, folds, seed.
        shuffles: number of shuffled labellings.
        group: what must not be on both sides of a split; default: the alias (`splits.united` joins several).
        what: what a group is, for error messages.
        solver: `scikit-learn` is the reference; `torch` makes all fits at once on x's device; `auto` takes torch on a
            GPU, and also on a CPU if there are shuffles or more than one site, because it is faster then.
        fold: fold of each example, for a control that needs another split; default: folds are drawn.

    Raises:
        ValueError: where `linear.cross_validate` does, and when an example is NaN or infinite.
    """
    _check_finite(x)
    group = alias if group is None else group
    if fold is None:
        fold = _draw_folds(target, alias, group, config, what)
    codes = labellings(target, alias, fold, shuffles=shuffles, seed=config.seed + 1)
    use_torch = solver == "torch" or (solver == "auto" and (x.is_cuda or shuffles > 0 or len(x) > 1))
    direction = None
    if use_torch and config.method == "logistic" and len(config.regularisation) == 1:
        decision, used, direction = _logistic_decisions(x, codes, fold, config)
    else:
        decide = _torch_decisions if use_torch else _scikit_learn_decisions
        decision, used = decide(x, codes, fold, group, config)
    return GridScores(
        classes=np.unique(target),
        code=codes,
        fold=fold,
        decision=decision[:, 0],
        balanced_accuracy=_balanced_accuracy(decision, codes),
        auc=_auc(decision, codes, fold),
        regularisation=used,
        direction=direction,
    )


def _check_finite(x: torch.Tensor) -> None:
    """Raises ValueError that names the first example, at the first site, with a NaN or an infinity."""
    bad = ~torch.isfinite(x).all(dim=2)
    if bool(bad.any()):
        site, example = torch.nonzero(bad)[0].tolist()
        raise ValueError(
            f"{int(bad.sum())} activations are not finite, the first at site {site}, example {example}; "
            "the model is broken there, or the examples are; drop or repair them"
        )


def _draw_folds(
    target: np.ndarray, alias: np.ndarray, group: np.ndarray, config: ProbeConfig, what: str
) -> np.ndarray:
    """The fold in which each example is tested: no group and no alias is on both sides of a split."""
    fold = np.empty(len(target), dtype=np.int64)
    folds = alias_folds(group, target, n_folds=config.n_folds, seed=config.seed)
    for k, (train, test) in enumerate(folds):
        check_no_leak(group, train, test, what=what)
        check_no_leak(alias, train, test)
        fold[test] = k
    return fold


def _inside_folds(alias: np.ndarray, fold: np.ndarray) -> bool:
    """Whether every alias is in one fold only."""
    _, first, index = np.unique(alias, return_index=True, return_inverse=True)
    return bool((fold[first][index] == fold).all())


def _logistic_decisions(
    x: torch.Tensor, codes: np.ndarray, fold: np.ndarray, config: ProbeConfig
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Like `_torch_decisions`, with the directions: the fit on all examples is one more fold of the same search."""
    value = config.regularisation[0]
    tested = torch.as_tensor(np.unique(fold)[:, None] == fold, device=x.device)
    trained = torch.cat([~tested, torch.ones_like(tested[:1])])
    *folds, everyone = batched.fits(
        x,
        torch.as_tensor(codes, device=x.device),
        trained,
        n_classes=int(codes.max()) + 1,
        method="logistic",
        regularisation=value,
    )
    decision = batched.held_out(x, folds, tested)
    return decision.cpu().numpy(), np.full((len(x), len(folds)), value), everyone.direction


def _torch_decisions(
    x: torch.Tensor, codes: np.ndarray, fold: np.ndarray, group: np.ndarray, config: ProbeConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Decisions (site, draw, example, output), and the regularisation used with the true labels (site, fold)."""
    n_classes = int(codes.max()) + 1
    labels = torch.as_tensor(codes, device=x.device)
    values = config.regularisation
    where = torch.as_tensor(fold, device=x.device)
    if len(values) == 1:
        found = batched.cross_validated(
            x, labels, where, n_classes=n_classes, method=config.method, regularisation=values[0]
        )
        return found.cpu().numpy(), np.full((len(x), fold.max() + 1), values[0])
    decision = torch.empty(len(x), len(labels), x.shape[1], 1 if n_classes == 2 else n_classes, dtype=x.dtype)
    used = np.empty((len(x), fold.max() + 1))
    for k in range(fold.max() + 1):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        best = _chosen(x[:, train], codes[:, train], group[train], config)
        used[:, k] = np.asarray(values)[best[:, 0]]
        for v, value in enumerate(values):
            if not (best == v).any():
                continue
            probe = batched.fit(
                x[:, train],
                labels[:, train],
                n_classes=n_classes,
                method=config.method,
                regularisation=value,
            )
            here = probe.decision(x[:, test]).cpu()
            sites, draws = np.nonzero(best == v)
            decision[sites[:, None], draws[:, None], test] = here[sites, draws]
    return decision.numpy(), used


def _chosen(x: torch.Tensor, codes: np.ndarray, group: np.ndarray, config: ProbeConfig) -> np.ndarray:
    """Index of the best value for each site and labelling (site × draw), by balanced accuracy over inner folds.

    The folds of the first labelling serve every labelling all of whose classes they train on. Any other labelling,
    with a rare class, has folds of its own, as in `probes.linear`.
    """
    shared = _inner_folds(group, codes[0], config)
    served = np.array([_trains_on_every_class(code, shared) for code in codes])
    best = np.empty((len(x), len(codes)), dtype=np.int64)
    if served.any():
        best[:, served] = _best_value(x, codes[served], shared, config)
    for d in np.flatnonzero(~served):
        best[:, [d]] = _best_value(x, codes[[d]], _inner_folds(group, codes[d], config), config)
    return best


def _inner_folds(group: np.ndarray, code: np.ndarray, config: ProbeConfig) -> np.ndarray:
    """Fold of each training example; −1 if only one group has its class, so that it is left out of the choice."""
    inner = np.full(len(code), -1)
    keep = np.flatnonzero(scorable(group, code))
    try:
        folds = alias_folds(group[keep], code[keep], n_folds=INNER_FOLDS, seed=config.seed)
    except ValueError as error:
        raise ValueError(
            f"a training fold has too few aliases to choose among {len(config.regularisation)} values of "
            f"regularisation; give one value ({error})"
        ) from error
    for k, (_, test) in enumerate(folds):
        inner[keep[test]] = k
    return inner


def _trains_on_every_class(code: np.ndarray, inner: np.ndarray) -> bool:
    trained = [len(np.unique(code[inner != k])) for k in range(INNER_FOLDS)]
    return bool(inner.min() >= 0) and min(trained) == len(np.unique(code))


def _best_value(x: torch.Tensor, codes: np.ndarray, inner: np.ndarray, config: ProbeConfig) -> np.ndarray:
    """Like `_chosen`, for labellings that share their inner folds."""
    keep = inner >= 0
    classes = np.unique(codes[:, keep])
    codes = np.searchsorted(classes, codes[:, keep])
    labels, where = (torch.as_tensor(a, device=x.device) for a in (codes, inner[keep]))
    scores = []
    for value in config.regularisation:
        found = batched.cross_validated(
            x[:, torch.as_tensor(keep, device=x.device)],
            labels,
            where,
            n_classes=len(classes),
            method=config.method,
            regularisation=value,
        )
        scores.append(_balanced_accuracy(found.cpu().numpy(), codes))
    best: np.ndarray = np.argmax(np.stack(scores), axis=0)
    return best


def _scikit_learn_decisions(
    x: torch.Tensor, codes: np.ndarray, fold: np.ndarray, group: np.ndarray, config: ProbeConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Like `_torch_decisions`, with one fit after the other."""
    features = x.cpu().numpy().astype(np.float64)
    found = np.empty((len(x), len(codes), x.shape[1], 1 if codes.max() == 1 else codes.max() + 1))
    used = np.empty((len(x), fold.max() + 1))
    for s in range(len(x)):
        for d, code in enumerate(codes):
            found[s, d], chosen = linear.held_out(features[s], code, group, fold, config)
            if d == 0:
                used[s] = chosen
    return found, used


def _predicted(decision: np.ndarray) -> np.ndarray:
    return (decision[..., 0] > 0).astype(int) if decision.shape[-1] == 1 else decision.argmax(-1)


def _balanced_accuracy(decision: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Balanced accuracy of each site and labelling; a decision of exactly 0 is the first class, as in scikit-learn."""
    correct = _predicted(decision) == codes
    shares = [
        (correct & (codes == c)).sum(-1) / np.maximum((codes == c).sum(-1), 1) for c in range(codes.max() + 1)
    ]
    accuracy: np.ndarray = np.mean(shares, axis=0)
    return accuracy


def _auc(decision: np.ndarray, codes: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """`linear.auc_of_classes` of each site and labelling; with many classes, which cost most, only the first one's."""
    outputs = decision.shape[-1]
    found = np.full(decision.shape[:2], np.nan)
    draws = len(codes) if outputs == 1 else 1
    wins = np.zeros((len(decision), draws, outputs))
    pairs = np.zeros((draws, outputs))
    for k in np.unique(fold):
        inside = fold == k
        ranks = rankdata(decision[:, :draws, inside], axis=2)
        positive = np.stack(
            [codes[:draws, inside] == (1 if outputs == 1 else c) for c in range(outputs)], axis=-1
        )
        n = positive.sum(1)  # draw, output
        wins += (ranks * positive).sum(2) - n * (n + 1) / 2
        pairs += n * (inside.sum() - n)
    with np.errstate(invalid="ignore", divide="ignore"):
        found[:, :draws] = (wins / pairs).mean(-1)
    return found


def single(config: ProbeConfig, value: float) -> ProbeConfig:
    """The same probe at one value of its regularisation."""
    return replace(config, regularisation=(value,))


def directions(
    x: Float[torch.Tensor, "site example feature"],
    codes: Int[np.ndarray, "draw example"],
    *,
    config: ProbeConfig,
) -> Float[torch.Tensor, "site draw feature output"]:
    """Unit directions of probes fitted on all examples, in the space of the activations.

    With several values of the regularisation the middle one is used, because a direction has no held-out score.
    """
    value = sorted(config.regularisation)[(len(config.regularisation) - 1) // 2]
    labels = torch.as_tensor(codes, device=x.device)
    probe = batched.fit(x, labels, n_classes=int(codes.max()) + 1, method=config.method, regularisation=value)
    return probe.direction
