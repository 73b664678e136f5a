"""Linear probes on a model's activations at questions and definitions: what can be read where, and is it used.

The probes come from a recipe (`probe_recipes`), and are scored on aliases that they were not fitted on. Every
score stands beside its controls:

    shuffled           the labels permuted among the aliases of a fold: for the significance of the whole grid
    untrained          the same probe on a model of the same shape before any training
    token embedding    the same probe on the alias's token embeddings alone
    matched recency    every class with equally many aliases of each stage, where the classes' shares differ
    question split     the same labels, split by question: an alias is on both sides
    control task       a random label for each alias, split so too (Hewitt & Liang 2019, arXiv 1909.03368);
                       selectivity is `question split` − `control task`
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.pairs import pairs_named
from mechocl.interventions.subspaces import STREAM_SITES, Place
from mechocl.models import activations
from mechocl.models.components import Components, find_sites, hook_name, take_apart
from mechocl.models.seam import Transformer
from mechocl.probing.examples import Examples, fits, of_task
from mechocl.probing.recipe import Probe, load
from mechocl.probing.swaps import swap_effects
from mechocl.runs.activation_cache import Collect
from probes import controls, grid, linear, splits
from probes.grid import GridScores, Solver
from toy_models.task import Task

EMBEDDING: Final = (0, "resid_pre")
"""The bottom row of every grid: the embedding."""

SCORES: Final = ("accuracy", "auc", "log_loss", "calibration_error")

_SWAPPED_DRAWS: Final = 10
"""Shuffled directions that are swapped beside the probe's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbingConfig:
    """Which probes, where, and their controls."""

    recipe: str = "definition-retrieval"
    """Name of a recipe in `probes/recipes`, or a TOML file."""
    sites: tuple[str, ...] = ("resid_post",)
    """TransformerLens sites, in every layer (attn_out, mlp_out, z …), or hook points. The embedding (resid_pre of layer
    0) is always there."""
    positions: tuple[str, ...] = ()
    """Position labels (alias, %, n1, =; at definitions tag, entity); default: all."""
    permutations: int = 100
    """Shufflings of the labels for the corrected significance; 0: none. The smallest p is 1 / (1 + permutations)."""
    controls: bool = True
    """Also compute the other controls."""
    regularisation: tuple[float, ...] = ()
    """Values instead of the recipe's; of several each has its rows, beside the one chosen inside the training folds."""
    aliases_per_subset: int = 300
    """Aliases of each subset, the first ones."""
    n_pairs: int = 200
    """Pairs for the intervention along a probe's direction; 0: none."""
    solver: Solver = "auto"
    """Who fits: scikit-learn, the reference, or many fits at once in torch; auto: the faster one."""
    seed: int = 0
    """Draws the questions, folds, shuffles and pairs."""

    def __post_init__(self) -> None:
        for name in ("permutations", "n_pairs"):
            if getattr(self, name) < 0:
                raise MechoclError(f"{name} is {getattr(self, name)}; use 0 or more")
        if self.aliases_per_subset < 1:
            raise MechoclError(f"aliases_per_subset is {self.aliases_per_subset}; use at least 1")
        if bad := [value for value in self.regularisation if not 0 < value < np.inf]:
            raise MechoclError(f"regularisation has {bad[0]}; values must be positive and finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Activations of one site at every probed position of some examples."""

    layer: int
    name: str
    x: Float[Tensor, "pos example feature"]


def probe(
    model: Transformer,
    untrained: Transformer,
    task: Task,
    config: ProbingConfig,
    *,
    collect: Collect,
    probes: Sequence[Probe] | None = None,
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Scores of every probe of a recipe at each site, layer and position, its controls, and its directions.

    `collect` gives the model's activations (`directly(model)`); `probes`: these, and not those of the recipe.

    Rows: `probe`, `target`, `method`, `site`, `layer`, `position`, `token` (of one example there), `subset` (each
    on its own, and "all"), `control` (see above; "none": the probe itself), `draw` (of the shuffles, from 0),
    `regularisation`, `chosen` (False: one of several values that were tried), `accuracy` (balanced accuracy for
    "all", plain accuracy within a subset), `auc`, `log_loss` (nats), `calibration_error`, `chance` (of the
    accuracy), `aliases`, `recency` ("matched": all classes have the same stages, "confounded": they do not),
    `swap_effect` (nats of logit difference, see `probe_interventions`) and `swap_share` of it.

    Arrays: `probe/site/layer` → unit directions (position, draw, feature, output); draw 0 is the probe's own, the
    others are of shuffled labels. Shuffles are there for two classes only.

    Aliases whose class no other alias has are left out: they cannot be scored on unseen aliases. What a
    probe of integers scores at `n1` … `=` where nothing is known lies a bit above `chance`: those positions
    see (part of) a list that does not contain the alias's integer, and so rules some integers out. With a
    list of k out of n integers the floor rises up to 1 / (n − k). The shuffled control does not rise.

    Raises MechoclError when no probe of the recipe fits the task, one has too few aliases for its folds or a
    single class, the model lacks a site, or activations are not finite.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Tensor] = {}
    recipe = load(config.recipe) if probes is None else probes
    c = take_apart(model)
    for kind in dict.fromkeys(one.at for one in recipe):
        asked = [one for one in recipe if one.at == kind and fits(one, task)]
        if not asked:
            continue
        examples = of_task(
            task,
            kind,
            aliases_per_subset=config.aliases_per_subset,
            positions=config.positions,
            seed=config.seed,
        )
        places = _places(c, config)
        own = _sites(places, examples.tokens, examples, collect)
        for site in own:
            for one in asked:
                found, directions = _probed(one, site, examples, task, c, config)
                rows += found
                arrays[f"{one.name}/{site.name}/{site.layer}"] = directions
        if not config.controls:
            continue
        for site in _sites(places, examples.tokens, examples, directly(untrained)):
            for one in asked:
                rows += _control("untrained", one, site, examples, _choose(one, examples), config)
        for site in own:
            for one in asked:
                rows += _matched(one, site, examples, config)
        if examples.again is not None:
            second = _sites(places, examples.again, examples, collect)
            for first, again in zip(own, second, strict=True):
                for one in asked:
                    rows += _by_question(one, first, again, examples, config)
        for one in asked:
            rows += _embeddings(one, c, examples, config)
    if not rows:
        raise MechoclError(f"no probe of {config.recipe} fits this run: it has none of their subsets")
    return pd.DataFrame(rows), arrays


# ------------------------------------------------------------------------------------- what is read, and where


def _places(c: Components, config: ProbingConfig) -> list[tuple[int, str]]:
    """(layer, site) from the bottom up, the embedding first."""
    return [EMBEDDING, *(place for place in find_sites(c, config.sites) if place != EMBEDDING)]


def directly(model: Transformer) -> Collect:
    """Activations of a model, computed anew each time."""
    return lambda tokens, sites: activations.collect(model, tokens, sites)


def _sites(places: list[tuple[int, str]], tokens: Tensor, examples: Examples, collect: Collect) -> list[Site]:
    points = [hook_name(name, layer) for layer, name in places]
    found = collect(tokens, points)
    return [
        Site(
            layer=layer,
            name=name,
            x=rearrange(found[point][:, list(examples.at)], "example pos ... -> pos example (...)"),
        )
        for (layer, name), point in zip(places, points, strict=True)
    ]


# ------------------------------------------------------------------------------------- the probe itself


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The examples that a probe compares."""

    index: np.ndarray
    table: pd.DataFrame
    target: np.ndarray
    alias: np.ndarray
    group: np.ndarray
    recency: str


def _choose(one: Probe, examples: Examples) -> _Chosen:
    """The examples of a probe's subsets whose class two aliases have."""
    index = np.flatnonzero(examples.table["subset"].isin(one.subsets).to_numpy())
    table = examples.table.iloc[index]
    keep = splits.scorable(table["alias"].to_numpy(), table[one.target].to_numpy())
    index, table = index[keep], table[keep]
    alias, target = table["alias"].to_numpy(), table[one.target].to_numpy()
    group = alias
    if one.split != "alias":
        other = table["entity"].to_numpy() if one.split == "integer" else examples.listed[index]
        group = splits.united(alias, other)
    stages = {frozenset(part) for _, part in table.groupby(one.target)["stage"]}
    recency = "matched" if one.target != "stage" and len(stages) == 1 else "confounded"
    return _Chosen(index, table, target, alias, group, recency)


def _scored(
    one: Probe, x: Tensor, chosen: _Chosen, config: ProbingConfig, *, shuffles: int = 0, **options: Any
) -> GridScores:
    """`grid.cross_validate_grid`, its errors with the probe's name."""
    settings = options.pop("settings", None) or one.config(
        regularisation=config.regularisation, seed=config.seed
    )
    arguments = {"alias": chosen.alias, "group": chosen.group} | options
    try:
        return grid.cross_validate_grid(
            x,
            arguments.pop("target", chosen.target),
            arguments.pop("alias"),
            config=settings,
            shuffles=shuffles,
            what=one.split,
            solver=config.solver,
            **arguments,
        )
    except ValueError as error:
        raise MechoclError(f"probe {one.name}: {error}") from error


def _probed(
    one: Probe, site: Site, examples: Examples, task: Task, c: Components, config: ProbingConfig
) -> tuple[list[dict[str, Any]], Tensor]:
    """Rows of a probe at one site, those of its shuffles, and its directions."""
    chosen = _choose(one, examples)
    settings = one.config(regularisation=config.regularisation, seed=config.seed)
    x = site.x[:, chosen.index]
    scores = _scored(one, x, chosen, config, shuffles=config.permutations)
    draws = min(_SWAPPED_DRAWS, config.permutations) if len(scores.classes) == 2 else 0
    directions = scores.direction
    if directions is None:
        directions = grid.directions(x, scores.code[: 1 + draws], config=settings)
    directions = directions[:, : 1 + draws]
    effects = _swaps(one, site, examples, task, c, directions, config)
    rows = []
    for i, base in enumerate(_bases(one, site, examples, chosen, scores)):
        effect = [{"swap_effect": float(e), "swap_share": float(s)} for e, s in zip(*effects[i], strict=True)]
        own = base | {"control": "none", "draw": -1}
        rows += [own | score for score in _row_scores(scores, i, one, chosen)]
        rows[-len(_row_scores(scores, i, one, chosen))] |= effect[0] if effect else {}
        for draw in range(config.permutations):
            shuffled = base | {
                "control": "shuffled",
                "draw": draw,
                "subset": "all",
                "aliases": len(chosen.index),
            }
            shuffled |= {"accuracy": scores.balanced_accuracy[i, draw + 1], "auc": scores.auc[i, draw + 1]}
            rows.append(shuffled | (effect[draw + 1] if draw + 1 < len(effect) else {}))
    if len(settings.regularisation) > 1:
        for value in settings.regularisation:
            fixed = _scored(one, x, chosen, config, settings=grid.single(settings, value))
            for i, base in enumerate(_bases(one, site, examples, chosen, fixed)):
                own = base | {"control": "none", "draw": -1, "chosen": False}
                rows.append(own | _row_scores(fixed, i, one, chosen)[0])
    return rows, directions


def _bases(
    one: Probe, site: Site, examples: Examples, chosen: _Chosen, scores: GridScores
) -> Iterator[dict[str, Any]]:
    """What all rows of a place share, for each position."""
    for i, (label, token) in enumerate(zip(examples.labels, examples.shown, strict=True)):
        yield {
            "probe": one.name,
            "target": one.target,
            "method": one.method,
            "site": site.name,
            "layer": site.layer,
            "position": label,
            "token": token,
            "regularisation": float(np.median(scores.regularisation[i])),
            "chosen": True,
            "chance": 1 / len(scores.classes),
            "recency": chosen.recency,
        } | dict.fromkeys((*SCORES, "swap_effect", "swap_share"), float("nan"))


def _row_scores(scores: GridScores, i: int, one: Probe, chosen: _Chosen) -> list[dict[str, Any]]:
    """Scores of position `i`: of all aliases, then the accuracy of each subset."""
    decision, code = scores.decision[i], scores.code[0]
    correct = (decision[:, 0] > 0) == code if decision.shape[1] == 1 else decision.argmax(1) == code
    likely = linear.probability(decision) if linear.has_probability(one.method) else None
    everyone: dict[str, Any] = {
        "subset": "all",
        "aliases": len(code),
        "accuracy": scores.balanced_accuracy[i, 0],
        "auc": scores.auc[i, 0],
    }
    if likely is not None:
        everyone |= {
            "log_loss": linear.log_loss(likely, code),
            "calibration_error": linear.calibration_error(likely, code),
        }
    subset = chosen.table["subset"].to_numpy()
    return [everyone] + [
        {"subset": s, "aliases": int((subset == s).sum()), "accuracy": float(correct[subset == s].mean())}
        for s in np.unique(subset)
    ]


def _swaps(
    one: Probe,
    site: Site,
    examples: Examples,
    task: Task,
    c: Components,
    directions: Tensor,
    config: ProbingConfig,
) -> list[tuple[list[float], list[float]]]:
    """Effect and share of a swap along each draw's direction, for each position; empty where none is tried."""
    nothing: list[tuple[list[float], list[float]]] = [([], [])] * len(examples.labels)
    if not one.pairs or config.n_pairs == 0 or directions.shape[-1] > 1 or site.name not in STREAM_SITES:
        return nothing
    pairs = pairs_named(task, one.pairs, n_pairs=config.n_pairs, seed=config.seed)
    places = [Place(layer=site.layer, site=site.name, position=label) for label in examples.labels]
    effects, shares = swap_effects(c, pairs, places, directions[..., 0])
    return list(zip(effects.tolist(), shares.tolist(), strict=True))


# ------------------------------------------------------------------------------------- the other controls


def _control(
    name: str, one: Probe, site: Site, examples: Examples, chosen: _Chosen, config: ProbingConfig
) -> list[dict[str, Any]]:
    """Rows of the same probe on other activations, or on some of the examples."""
    scores = _scored(one, site.x[:, chosen.index], chosen, config)
    return _control_rows(name, one, site, examples, chosen, scores)


def _control_rows(
    name: str, one: Probe, site: Site, examples: Examples, chosen: _Chosen, scores: GridScores
) -> list[dict[str, Any]]:
    return [
        base
        | {"control": name, "draw": -1, "subset": "all", "aliases": len(chosen.index)}
        | {"accuracy": scores.balanced_accuracy[i, 0], "auc": scores.auc[i, 0]}
        for i, base in zip(range(len(scores.auc)), _bases(one, site, examples, chosen, scores), strict=False)
    ]


def _matched(one: Probe, site: Site, examples: Examples, config: ProbingConfig) -> list[dict[str, Any]]:
    """Rows with the classes' stages matched; none where they are the same already, or cannot be."""
    chosen = _choose(one, examples)
    stage = chosen.table["stage"].to_numpy()
    if one.target == "stage" or len(np.unique(stage)) == 1:
        return []
    keep = controls.matched(chosen.target, stage, chosen.alias, seed=config.seed)
    if not keep.any() or keep.all():
        return []
    keep[keep] = splits.scorable(chosen.alias[keep], chosen.target[keep])
    _, counts = np.unique(chosen.target[keep], return_counts=True)
    if len(counts) < 2 or counts.max() < one.n_folds:  # matching left too few aliases to split
        return []
    return _control("matched recency", one, site, examples, _part(chosen, keep), config)


def _by_question(
    one: Probe, first: Site, again: Site, examples: Examples, config: ProbingConfig
) -> list[dict[str, Any]]:
    """Rows of the labels, and of random ones, when the probe is tested on another question about the same aliases."""
    chosen = _choose(one, examples)
    x = torch.cat([first.x[:, chosen.index], again.x[:, chosen.index]], dim=1)
    alias = np.tile(chosen.alias, 2)
    random = controls.random_label_per_alias(
        chosen.alias, n_classes=len(np.unique(chosen.target)), seed=config.seed
    )
    rows = []
    for control, target in (("question split", chosen.target), ("control task", random)):
        scores = _scored(
            one,
            x,
            chosen,
            config,
            target=np.tile(target, 2),
            alias=alias,
            group=alias,
            fold=np.repeat([0, 1], len(chosen.index)),
        )
        rows += _control_rows(control, one, first, examples, chosen, scores)
    return rows


def _part(chosen: _Chosen, keep: np.ndarray) -> _Chosen:
    return _Chosen(
        chosen.index[keep],
        chosen.table[keep],
        chosen.target[keep],
        chosen.alias[keep],
        chosen.group[keep],
        "matched",
    )


def _embeddings(one: Probe, c: Components, examples: Examples, config: ProbingConfig) -> list[dict[str, Any]]:
    """Rows of the control that sees the alias's own token embeddings and nothing else."""
    chosen = _choose(one, examples)
    names = [i for i, label in enumerate(examples.labels) if label.split(" ")[0] == "alias"]
    if not names:
        return []
    ids = examples.tokens[:, [examples.at[i] for i in names]]
    x = c.W_E.detach().cpu()[ids[chosen.index]]
    x = rearrange(x, "example name d -> 1 example (name d)")
    scores = _scored(one, x, chosen, config)
    row = _control_rows(
        "token embedding", one, Site(layer=0, name="token embedding", x=x), examples, chosen, scores
    )[0]
    return [row | {"position": "alias", "token": examples.shown[names[-1]]}]
