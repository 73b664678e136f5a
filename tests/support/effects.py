"""What is known of made-up runs: rows whose values are planted, of every source that the package's predictions read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mechocl import files
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.behaviour.counted import CountedSeeds
from mechocl.hypotheses import predictions
from mechocl.hypotheses.sources import Gathered, key
from toy_models.measures import YES_OR_NO

SPREAD = 0.004
"""Standard deviation over seeds of planted values, about what AUCs have over aliases and seeds."""


def answers(values: Mapping[str, np.ndarray], recall: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Rows of the evaluate analysis with one alias for each subset and seed. `values`: subset → AUC of each seed."""
    rows = [
        {
            "seed": seed,
            "alias": number,
            "subset": subset,
            "auc": value,
            "accuracy": value,
            "logit_difference": 0.0,
        }
        | {"recall": (recall or {}).get(subset, 1.0)}
        for number, (subset, each) in enumerate(values.items())
        for seed, value in enumerate(each)
    ]
    return pd.DataFrame(rows)


def made_up(
    *,
    gap: float = 0.1,
    noise: float = 0.0,
    d2: float = 0.7,
    recall_tag_2: float = 1.0,
    loss: float = 0.0,
    equal_loss: float = 0.0,
    d3: float | None = None,
    seeds: int = 12,
    draw: int = 0,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Gathered:
    """A run whose planted values are these, with normal noise: the gap, that of the noise control, d2's AUC, the recall of
    stage-1 definitions with tag 2, d2's larger definition loss, how much of the gap is gone at equal loss, and d3's AUC, where there is one."""
    rng = np.random.default_rng(draw)

    def spread(mean: float) -> np.ndarray:
        return mean + SPREAD * rng.standard_normal(seeds)

    own = answers(
        {"d1_consistent": spread(d2 + gap), "d2_consistent": spread(d2), "qd1_consistent": spread(0.9), "qd2_inconsistent": spread(0.85)}
        | ({} if d3 is None else {"d3_consistent": np.random.default_rng(99).normal(d3, SPREAD, seeds)}),
        {"qd2_inconsistent": recall_tag_2},
    )  # fmt: skip
    control = answers({"d1_consistent": spread(0.7 + noise), "d2_consistent": spread(0.7)})
    controls = {
        "noise": control,
        "unasked": answers({"d1_consistent": spread(0.7), "d2_consistent": spread(0.7)}),
    }
    rows = [table.assign(control=name) for name, table in controls.items()]
    plain = {
        "evaluate": own,
        "controls": pd.concat(rows, ignore_index=True),
        "history": history(own, loss=loss, equal_loss=equal_loss),
        "variants": pd.DataFrame({"seed": pd.Series(dtype=int), "variant": pd.Series(dtype=str)}),
    }
    return Gathered(
        answers=own,
        counted=CountedSeeds(tuple(range(seeds))),
        measures=YES_OR_NO,
        controls=ControlAnswers(rows=controls),
        tables={f"{name} {files.fingerprint({})}": table for name, table in plain.items()}
        | dict(tables or {}),
        seconds_per_seed=60.0,
    )


def history(own: pd.DataFrame, *, loss: float, equal_loss: float) -> pd.DataFrame:
    """Two subsets whose definition losses fall along the same line, d2's ending `loss` nats higher.

    The answers of each rise with its fall, so that at equal loss d1 − d2 is less than at the end by `equal_loss`.
    """
    rows: list[dict[str, Any]] = []
    for seed in sorted(own["seed"].unique()):
        end = own[own["seed"] == seed].set_index("subset")["auc"]
        for subset, last in (("d1_consistent", 0.1), ("d2_consistent", 0.1 + loss)):
            for epoch, level in enumerate(np.linspace(3.0, last, 8), start=1):
                known = (level - last) / loss if loss else 0.0
                rows.append(
                    {
                        "seed": seed,
                        "stage": 2,
                        "epoch": float(epoch),
                        "subset": subset,
                        "definition_loss": level,
                    }
                    | {"auc": end[subset] - (equal_loss * known if subset == "d1_consistent" else 0.0)}
                )
    return pd.DataFrame(rows)


def key_of(name: str) -> str:
    """The key of the rows of one of the package's predictions."""
    return key(next(one for one in predictions.load().predictions if one.name == name))
