"""What every score of a probe needs: its settings, the examples that it compares, and its fit, tested on unseen aliases."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mechocl.accepted import settle
from mechocl.errors import MechoclError, TooLittleData
from mechocl.probing.examples import Examples
from mechocl.probing.recipe import Probe
from probes import grid, splits
from probes.grid import GridScores, Solver

SCORES: Final = ("accuracy", "auc", "log_loss", "calibration_error")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbingConfig:
    """Which probes are fitted, where, and with which controls."""

    recipe: str = "definition-retrieval"
    """Name of a recipe in `mechocl/probing/recipes`, or a TOML file."""
    sites: tuple[str, ...] = ("resid_post",)
    """TransformerLens sites, in every layer (attn_out, mlp_out, z …), or hook points. The embedding (resid_pre of layer
    0) is always there."""
    positions: tuple[str, ...] = ()
    """Position labels (alias, %, n1, =; at definitions tag, entity); default: all."""
    permutations: int = 100
    """Shuffles of the labels for the corrected significance; 0 for none. The smallest p is 1 / (1 + permutations)."""
    controls: bool = True
    """Also compute the controls that are not shuffles."""
    regularisation: tuple[float, ...] = ()
    """Values that replace the recipe's. Each of several values has rows of its own, beside those of the value that is
    chosen inside the training folds."""
    aliases_per_subset: int = 300
    """Aliases of each subset, the first ones."""
    n_pairs: int = 200
    """Pairs for the intervention along a probe's direction; 0 for no intervention."""
    solver: Solver = "auto"
    """What fits: scikit-learn, which is the reference, or torch with many fits at once; auto takes the faster one."""
    seed: int = 0
    """Draws the questions, folds, shuffles and pairs."""

    def __post_init__(self) -> None:
        settle(self)
        for name in ("permutations", "n_pairs"):
            if getattr(self, name) < 0:
                raise MechoclError(f"{name} is {getattr(self, name)}; use 0 or more")
        if not 0 <= self.seed < 2**32:  # scikit-learn takes no others
            raise MechoclError(f"seed is {self.seed}; use 0 to 2^32 - 1")
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


@dataclass(frozen=True, slots=True)
class Chosen:
    """The examples that a probe compares."""

    index: np.ndarray
    table: pd.DataFrame
    target: np.ndarray
    alias: np.ndarray
    group: np.ndarray
    recency: str


def choose_examples(probe: Probe, examples: Examples) -> Chosen:
    """The examples of a probe's subsets whose class at least two aliases have."""
    among = examples.table["subset"].isin(probe.subsets) & examples.table[probe.target].notna()
    index = np.flatnonzero(among.to_numpy())
    table = examples.table.iloc[index].infer_objects()
    keep = splits.scorable(table["alias"].to_numpy(), table[probe.target].to_numpy())
    index, table = index[keep], table[keep]
    alias, target = table["alias"].to_numpy(), table[probe.target].to_numpy()
    group = alias
    if probe.split != "alias":
        other = table["entity"].to_numpy() if probe.split == "integer" else examples.listed[index]
        group = splits.united(alias, other)
    stages = {frozenset(part) for _, part in table.groupby(probe.target)["stage"]}
    recency = "matched" if probe.target != "stage" and len(stages) == 1 else "confounded"
    return Chosen(index, table, target, alias, group, recency)


def score_probe(
    probe: Probe, x: Tensor, chosen: Chosen, config: ProbingConfig, *, shuffles: int = 0, **options: Any
) -> GridScores:
    """`grid.cross_validate_grid`, with the probe's name in its errors."""
    settings = options.pop("settings", None) or probe.config(
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
            what=probe.split,
            solver=config.solver,
            **arguments,
        )
    except ValueError as error:
        raise TooLittleData(f"probe {probe.name}: {error}") from error


def shared_cells(
    probe: Probe, site: Site, examples: Examples, chosen: Chosen, scores: GridScores
) -> Iterator[dict[str, Any]]:
    """What all rows of a place share, for each position."""
    for i, (label, token) in enumerate(zip(examples.labels, examples.shown, strict=True)):
        yield {
            "probe": probe.name,
            "target": probe.target,
            "method": probe.method,
            "site": site.name,
            "layer": site.layer,
            "position": label,
            "token": token,
            "regularisation": float(np.median(scores.regularisation[i])),
            "chosen": True,
            "chance": 1 / len(scores.classes),
            "recency": chosen.recency,
        } | dict.fromkeys((*SCORES, "swap_effect", "swap_share"), float("nan"))
