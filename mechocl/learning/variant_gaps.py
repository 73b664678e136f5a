"""How much of the IML gap is gone where stage 2 was trained with one thing changed.

The gap is d1 − d2. The *share removed* is 1 − the variant's gap / the run's gap, over seeds that both have: 0 if the change
does nothing to the gap, 1 if no gap is left, above 1 if it is reversed.

A variant may have no gap because it did not learn the definitions, or learned them less far. So the gaps are also
compared *at equal definition loss*: in each seed, at the lowest loss that d1 and d2 came to both in the run and in
the variant, each at the time at which it came there. A variant's definition loss is that with the change, as it was trained.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechocl.behaviour.equal_loss import BETTER, WORSE, interpolate_at_losses
from mechocl.behaviour.statistics import Estimate, estimate, share_removed


@dataclass(frozen=True, slots=True)
class VariantGap:
    """The gap of a variant beside the run's, over the seeds that both have."""

    metric: str
    by_seed: pd.DataFrame
    """One row per seed: see `compare_variant`."""
    gap: Estimate
    """The variant's gap, over seeds."""
    removed: Estimate
    """Share of the run's gap that is gone."""
    removed_at_loss: Estimate | None
    """The same at equal definition loss, over the seeds whose curves have a loss in common; None where no seed has it."""

    def mean(self, column: str) -> float:
        """Mean of a column of `by_seed` over seeds."""
        return float(self.by_seed[column].mean())


def compare_variant(
    run: tuple[pd.DataFrame, pd.DataFrame], variant: tuple[pd.DataFrame, pd.DataFrame], metric: str
) -> VariantGap:
    """The gap of a variant beside the run's. Each is given as rows of the evaluate analysis, and history of the last stage.

    `by_seed` has the columns `seed`; `run_gap` and `gap`, d1 − d2 of the run and of the variant; `d1`, `d2` and, where there is
    one, `d3`, the variant's means; `recall`, the share of the variant's d1 and d2 definitions that are recalled with their own tags, NaN where a
    definition names nothing that could be recalled;
    `definition_loss`, the last mean loss (nats) of these definitions as the variant trains them, and `run_definition_loss`,
    that of the run; `level`, the definition loss at which `run_gap_at_loss` and `gap_at_loss` are taken. The last three are
    NaN where the curves have no loss in common.

    Raises ValueError when run and variant have no seed in common, or lack d1 or d2.
    """
    own, changed = (_means(rows, metric) for rows, _ in (run, variant))
    seeds = sorted(set(own.index) & set(changed.index))
    if not seeds or not {BETTER, WORSE} <= set(own.columns):
        raise ValueError("run and variant have no seed in common with aliases of d1 and d2")
    recall = _means(variant[0], "recall").reindex(index=seeds, columns=[BETTER, WORSE])
    present = [name for name in ("d1", "d2", "d3") if f"{name}_consistent" in changed]
    found = []
    for seed in seeds:
        curves = [history[history["seed"] == seed] for _, history in (run, variant)]
        level, gaps = _at_equal_loss(curves, metric)
        found.append(
            {
                "seed": seed,
                "run_gap": own.loc[seed, BETTER] - own.loc[seed, WORSE],
                "gap": changed.loc[seed, BETTER] - changed.loc[seed, WORSE],
                **{name: changed.loc[seed, f"{name}_consistent"] for name in present},
                "recall": recall.loc[seed].mean(),
                "definition_loss": _last_loss(curves[1]),
                "run_definition_loss": _last_loss(curves[0]),
                "level": level,
                "run_gap_at_loss": gaps[0],
                "gap_at_loss": gaps[1],
            }
        )
    table = pd.DataFrame(found)
    at_loss = table.dropna(subset=["run_gap_at_loss", "gap_at_loss"])
    return VariantGap(
        metric=metric,
        by_seed=table,
        gap=estimate(table["gap"].to_numpy(dtype=float), unit="seed"),
        removed=_removed(table["run_gap"], table["gap"]),
        removed_at_loss=_removed(at_loss["run_gap_at_loss"], at_loss["gap_at_loss"])
        if len(at_loss)
        else None,
    )


def _removed(before: pd.Series, after: pd.Series) -> Estimate:
    return share_removed(before.to_numpy(dtype=float), after.to_numpy(dtype=float), unit="seed")


def _means(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Means over aliases: seeds as rows, subsets as columns."""
    return rows.assign(subset=rows["subset"].astype(str)).pivot_table(
        index="seed", columns="subset", values=measure
    )


def _at_equal_loss(curves: list[pd.DataFrame], metric: str) -> tuple[float, list[float]]:
    """The lowest definition loss that all curves of d1 and d2 came to, and each history's gap at it; NaN if there is none."""
    each = []
    for history in curves:
        rows = history.sort_values("step").dropna(subset=["definition_loss", metric])
        each += [rows[rows["subset"] == name] for name in (BETTER, WORSE)]
    missing = float("nan"), [float("nan")] * len(curves)
    if any(part.empty for part in each):
        return missing
    level = max(float(part["definition_loss"].min()) for part in each)
    if any(float(part["definition_loss"].iloc[0]) < level for part in each):
        return missing
    values = [
        interpolate_at_losses(
            part["definition_loss"].to_numpy(dtype=float),
            part[metric].to_numpy(dtype=float),
            np.array([level]),
        )[0]
        for part in each
    ]
    return level, [values[i] - values[i + 1] for i in range(0, len(values), 2)]


def _last_loss(history: pd.DataFrame) -> float:
    """Mean over d1 and d2 of the definition loss at the end of a history; NaN if it has none."""
    last = history[history["step"] == history["step"].max()]
    return float(last.loc[last["subset"].isin([BETTER, WORSE]), "definition_loss"].mean())
