"""What the probes of a grid say over the seeds of a run: scores, corrected significance, controls, verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from mechocl.behaviour import over_seeds
from mechocl.behaviour.statistics import SHARE, estimate
from mechocl.errors import MechoclError
from probes.controls import corrected_p

PLACE: Final = ("site", "layer", "position")

CONTROLS: Final = (
    "shuffled",
    "untrained",
    "token embedding",
    "matched recency",
    "question split",
    "control task",
)

LEVEL: Final = 0.05

USED: Final = "decodable, used"
NOT_USED: Final = "decodable, not used"
NOT_TRIED: Final = "decodable, not tested"
NOT_DECODABLE: Final = "not decodable"


def statistic(rows: pd.DataFrame) -> str:
    """Name of the statistic that judges a probe's grid: `auc` for two classes, balanced `accuracy` for more."""
    return "auc" if float(rows["chance"].max()) == 0.5 else "accuracy"


def chance(rows: pd.DataFrame) -> float:
    """Value of the statistic where there is nothing to read: 0.5, or the mean over seeds of 1 / classes."""
    return 0.5 if statistic(rows) == "auc" else float(rows["chance"].mean())


def grid_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each place of one probe at one checkpoint of one run, from its rows over the seeds.

    Columns: `site`, `layer`, `position`, `token`; `mean`, `low`, `high` of the statistic over seeds (95 %, NaN with
    one seed); `p`, corrected for the whole grid by the maximum statistic, which compares the mean over seeds with the
    means over seeds of shuffled labels (NaN without shuffles); the mean of each control of `CONTROLS` that the rows
    have, NaN where a seed lacks it; `selectivity` (question split − control task); of a swap along the probe's direction `swap_effect`, the change of the
    logit difference in nats, with `swap_effect_low` and `swap_effect_high`, and `swap_share`, this change as a share of what the whole difference of the questions does, with
    `swap_low` and `swap_high` (a share of a difference near 0 may be any number); `swap_shuffled_effect` and `swap_shuffled`, both
    along shuffled directions; and `verdict`, which follows the effect and not the share.
    """
    value = statistic(rows)
    everyone = rows[(rows["subset"] == "all") & rows["chosen"]]
    own = everyone[everyone["control"] == "none"]
    places = own[[*PLACE, "token"]].drop_duplicates(subset=list(PLACE))
    found = places.reset_index(drop=True)
    index = pd.MultiIndex.from_frame(found[list(PLACE)])
    seeds = own.pivot_table(index="seed", columns=list(PLACE), values=value, dropna=False).reindex(
        columns=index
    )
    estimates = [estimate(column, unit="seed", bounds=SHARE) for column in seeds.to_numpy().T]
    for name in ("mean", "low", "high"):
        found[name] = [getattr(e, name) for e in estimates]
    found["p"] = _corrected(everyone, seeds, value)
    for control in CONTROLS:
        part = everyone[everyone["control"] == control]
        if len(part):
            known = part.dropna(subset=[value]).groupby(list(PLACE))
            means = known[value].mean().where(known["seed"].nunique() == len(seeds))  # as the mean beside it
            found[control] = means.reindex(index).to_numpy()
    if "control task" in found:
        found["selectivity"] = found["question split"] - found["control task"]
    found = found.assign(**_swaps(everyone, index))
    found["verdict"] = [_verdict(row) for row in found.to_dict("records")]
    return found


def last_checkpoint(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last checkpoint of each seed of each run."""
    order = rows["stage"] * 1e9 + rows["step"]
    return rows[order == order.groupby([rows["run"], rows["seed"]]).transform("max")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """One probe of one run at the last checkpoint, over the seeds."""

    recipe: str
    probe: str
    run: str
    word_order: str
    cells: pd.DataFrame
    """See `grid_cells`."""
    statistic: str
    """See `statistic`."""
    chance: float
    token_embedding: float
    """The statistic of the alias's token embeddings alone; NaN where it was not computed."""
    seeds: int
    permutations: int
    recency: str
    """`matched`, or `confounded`: in some seed, the classes differ in the stages in which they were learned."""
    subsets: pd.DataFrame
    """Accuracy of each subset at each place, see `by_subset`; empty for two classes, where it would say nothing."""


def probe_grids(rows: pd.DataFrame) -> list[Grid]:
    """Every probe of every run of a sweep's table at its last checkpoint, in the table's order."""
    keys = ["recipe", "probe", "run", "word_order"]
    found = []
    for key, part in last_checkpoint(rows).groupby(keys, sort=False):
        recipe, probe, run, word_order = map(str, key)
        value = statistic(part)
        shuffled = part.loc[part["control"] == "shuffled", "draw"]
        found.append(
            Grid(
                recipe=recipe,
                probe=probe,
                run=run,
                word_order=word_order,
                cells=grid_cells(part),
                statistic=value,
                chance=chance(part),
                token_embedding=token_embedding(part),
                seeds=part["seed"].nunique(),
                permutations=int(shuffled.max()) + 1 if len(shuffled) else 0,
                recency="confounded" if (part["recency"] == "confounded").any() else "matched",
                subsets=by_subset(part) if value == "accuracy" else pd.DataFrame(),
            )
        )
    return found


def grid_of_probe(rows: pd.DataFrame, probe: str = "") -> Grid:
    """The grid of one probe from rows of one model, as `probing.probe` gives them with a seed column; "" is the first probe.

    Raises MechoclError when no probe has the name.
    """
    names = [str(name) for name in rows["probe"].unique()]
    if probe and probe not in names:
        raise MechoclError(f"no probe is called {probe!r}; the rows have {', '.join(names)}")
    absent: dict[str, Any] = {"recipe": "", "run": "", "word_order": "", "stage": 0, "step": 0}
    own = rows[rows["probe"] == (probe or names[0])]
    own = own.assign(**{column: value for column, value in absent.items() if column not in own})
    return probe_grids(own)[0]


def token_embedding(rows: pd.DataFrame) -> float:
    """The statistic of the alias's token embeddings alone, mean over seeds; NaN where it was not computed."""
    part = rows[(rows["control"] == "token embedding") & (rows["subset"] == "all")]
    return float(part[statistic(rows)].mean()) if len(part) else float("nan")


def threshold(rows: pd.DataFrame) -> float:
    """The statistic that a place must exceed to be significant in the whole grid at 5 %; NaN without shuffles."""
    null = _null(rows[(rows["subset"] == "all") & rows["chosen"]], statistic(rows))
    return float(np.quantile(null.max(axis=1), 1 - LEVEL)) if len(null) else float("nan")


def _null(everyone: pd.DataFrame, value: str) -> np.ndarray:
    """Means over seeds of the statistic with shuffled labels, draw × place."""
    shuffled = everyone[everyone["control"] == "shuffled"]
    if shuffled.empty:
        return np.empty((0, 0))
    means: np.ndarray = shuffled.pivot_table(index="draw", columns=list(PLACE), values=value).to_numpy()
    return means


def _corrected(everyone: pd.DataFrame, seeds: pd.DataFrame, value: str) -> np.ndarray:
    shuffled = everyone[everyone["control"] == "shuffled"]
    if shuffled.empty:
        return np.full(seeds.shape[1], np.nan)
    null = shuffled.pivot_table(index="draw", columns=list(PLACE), values=value).reindex(
        columns=seeds.columns
    )
    return corrected_p(seeds.mean().to_numpy(), null.to_numpy())


def _swaps(everyone: pd.DataFrame, index: pd.MultiIndex) -> dict[str, np.ndarray]:
    """Swaps along the probe's direction and along shuffled ones; `swap_beyond` is whether the first does more."""

    def by_seed(control: str, value: str, how: Literal["mean", "max"]) -> np.ndarray:
        """place × seed"""
        part = everyone[everyone["control"] == control].dropna(subset=["swap_effect"])
        table = part.pivot_table(index=list(PLACE), columns="seed", values=value, aggfunc=how, dropna=False)
        found: np.ndarray = table.reindex(index=index, columns=seeds).to_numpy(dtype=float)
        return found

    seeds = everyone.loc[everyone["control"] == "none", "seed"].unique()

    n = len(index)
    empty: dict[str, np.ndarray] = {
        name: np.full(n, np.nan)
        for name in (
            "swap_effect",
            "swap_effect_low",
            "swap_effect_high",
            "swap_shuffled_effect",
            "swap_share",
            "swap_low",
            "swap_high",
            "swap_shuffled",
        )
    }
    beyond = np.full(n, None, dtype=object)
    tried = everyone["swap_effect"].notna() & (everyone["control"] == "shuffled")
    if not tried.any():
        return empty | {"swap_beyond": beyond}
    effect, share = by_seed("none", "swap_effect", "mean"), by_seed("none", "swap_share", "mean")
    shuffled, largest = by_seed("shuffled", "swap_effect", "mean"), by_seed("shuffled", "swap_effect", "max")
    shuffled_share = by_seed("shuffled", "swap_share", "mean")
    for i in range(n):
        if np.isfinite(effect[i]).all():  # a mean over some of the seeds is none over all
            moved = estimate(effect[i], unit="seed")
            empty["swap_effect"][i] = moved.mean
            empty["swap_effect_low"][i], empty["swap_effect_high"][i] = moved.low, moved.high
        if np.isfinite(shuffled[i]).all():
            empty["swap_shuffled_effect"][i] = np.mean(shuffled[i])
        if np.isfinite(share[i]).all():
            e = estimate(share[i], unit="seed")
            empty["swap_share"][i], empty["swap_low"][i], empty["swap_high"][i] = e.mean, e.low, e.high
            empty["swap_shuffled"][i] = np.nanmean(shuffled_share[i])
        if np.isfinite(effect[i]).all() and np.isfinite(shuffled[i]).all():
            more = effect[i] - shuffled[i]
            # one seed has no interval, so its own direction has to beat every shuffled one
            alone = bool(effect[i][0] > largest[i][0] + 1e-6)
            beyond[i] = bool(estimate(more, unit="seed").low > 0) if len(more) > 1 else alone
    return empty | {"swap_beyond": beyond}


def _verdict(row: Mapping[Any, Any]) -> str:
    """The verdict on a place. What is read there but not confirmed by an intervention is decodable, not used."""
    if not row["p"] < LEVEL:
        return NOT_DECODABLE if np.isfinite(row["p"]) else "not tested"
    if row["swap_beyond"] is None:
        return NOT_TRIED
    return USED if row["swap_beyond"] else NOT_USED


def by_subset(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each subset at the landmarks, over the seeds: `site`, `layer`, `position`, `subset`, `mean`, …"""
    part = rows[(rows["control"] == "none") & (rows["subset"] != "all") & rows["chosen"]]
    keys = zip(part["site"], part["layer"], part["position"], strict=True)
    marks = set(landmarks(rows))
    return over_seeds.over_seeds(
        part[[key in marks for key in keys]], [*PLACE, "subset"], "accuracy", bounds=SHARE
    )


def landmarks(rows: pd.DataFrame) -> list[tuple[str, int, str]]:
    """The places that are always shown: the embedding at the alias, and the last residual stream where it matters; of a ConvNet, the picture and the last layer.

    `rows` are those of a table or of `grid_cells`.
    """
    rows = rows[rows["site"] != "token embedding"]
    top = int(rows["layer"].max())
    sites = set(rows.loc[rows["layer"] == top, "site"])
    last = "resid_post" if "resid_post" in sites else sorted(sites)[0]
    there = rows["position"].drop_duplicates().tolist()
    if there == ["picture"]:
        return [("pixels", 0, "picture"), (last, top, "picture")]
    names = [p for p in there if p.split(" ")[0] == "alias"][-1:]
    marked = names + [p for p in there if p in ("tag", "%", "entity", "=")]
    return [("resid_pre", 0, p) for p in names] + [(last, top, p) for p in marked]


def grid_table(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """Cells as a table, with sites as rows, from the bottom up, and positions (with an example's token) as columns."""
    names = place_names(cells)
    columns = column_names(cells)
    table = cells.assign(row=names, column=columns).pivot(index="row", columns="column", values=value)
    return table.loc[list(dict.fromkeys(names)), list(dict.fromkeys(columns))]


def place_names(cells: pd.DataFrame) -> list[str]:
    """Names of the cells' sites, such as `embedding` or `L0 attn_out`."""
    return [
        "embedding" if site == "resid_pre" and layer == 0 else f"L{layer} {site}"
        for site, layer in zip(cells["site"], cells["layer"], strict=True)
    ]


def column_names(cells: pd.DataFrame) -> list[str]:
    """The position of each cell, with an example's token under it where the token says more."""
    return [
        position if position == token else f"{position}<br>{token}"
        for position, token in zip(cells["position"], cells["token"], strict=True)
    ]
