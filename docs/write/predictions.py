"""What was predicted of the confirming seeds (docs/predictions.md), beside what came out."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd

from docs.write.control_tables import RUN
from docs.write.markdown import write_text_table
from mechocl.behaviour import formats, over_seeds
from mechocl.behaviour.control_gaps import ControlAnswers, ControlGap, compare_gaps
from mechocl.behaviour.counted import count_seeds
from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.behaviour.verdict import YES
from toy_models.measures import YES_OR_NO

CPU: Final = "integer-set/cpu"
MEMORISED: Final = "integer-set/memorised"
SHORT: Final = "integer-set/short"
CPU_ONE_STAGE: Final = "integer-set/cpu-one-stage"
MEMORISED_ONE_STAGE: Final = "integer-set/memorised-one-stage"


class Outcome:
    """What a recipe's runs came out as, in the terms of the predictions."""

    def __init__(self, runs: Mapping[str, pd.DataFrame]) -> None:
        self.rows = runs[RUN]
        controls = ControlAnswers(rows={name: rows for name, rows in runs.items() if name != RUN})
        self.gaps: dict[str, ControlGap] = {
            one.control: one for one in compare_gaps(self.rows, controls, YES_OR_NO)
        }
        self.contrasts = {c.name: c for c in over_seeds.contrasts(self.rows, "auc", YES_OR_NO)}
        self.counted = count_seeds(self.rows, YES_OR_NO)

    def both(self, name: str) -> list[ControlGap]:
        """A control at equal exposure and at equal steps."""
        return [self.gaps[name], self.gaps[f"{name}-equal-steps"]]

    def own(self, name: str) -> Estimate:
        """The gap of a control."""
        return self.gaps[name].own.learned

    def share(self, one: ControlGap, share: float) -> Estimate:
        """A control's gap minus a share of the run's, paired by seed."""
        values = one.by_seed["control"] - share * one.by_seed["run"]
        return estimate(values.to_numpy(dtype=float), unit="seed")

    @property
    def recall_of_tag_2(self) -> float:
        shown = self.counted.keep_shown(self.rows)
        return float(np.nanmean(shown.loc[shown["subset"] == "qd2_inconsistent", "recall"]))


def within(e: Estimate, low: float, high: float) -> bool:
    """Whether the whole 95 % interval lies between two numbers."""
    return low < e.low and e.high < high


def _is_there(outcome: Outcome, name: str) -> bool:
    return outcome.contrasts[name].verdict.answer == YES


_NUMBERED: Final[tuple[tuple[int, str, str, Callable[[Outcome], bool]], ...]] = (
    (1, CPU, "strong internalization", lambda o: _is_there(o, "strong")),
    (1, CPU, "weak internalization", lambda o: _is_there(o, "weak")),
    (1, CPU, "every seed recalls", lambda o: len(o.counted.learned) == o.counted.total),
    (2, CPU, "noise: a gap", lambda o: all(one.own.answer == YES for one in o.both("noise"))),
    (2, CPU, "noise: more than half of the run's gap", lambda o: all(one.most.answer == YES for one in o.both("noise"))),
    (3, CPU, "unasked: under a quarter of the run's gap", lambda o: all(o.share(one, 0.25).high < 0 for one in o.both("unasked"))),
    (4, CPU, "consistent: between −.01 and +.01", lambda o: within(o.own("consistent"), -0.01, 0.01)),
    (4, CPU, "α = .5: between −.02 and +.02", lambda o: within(o.own("half"), -0.02, 0.02)),
    (5, MEMORISED, "strong internalization", lambda o: _is_there(o, "strong")),
    (5, MEMORISED, "tag-2 definitions recalled over .95", lambda o: o.recall_of_tag_2 > 0.95),
    (6, MEMORISED, "larger than unasked", lambda o: all(one.over.answer == YES for one in o.both("unasked"))),
    (6, MEMORISED, "unasked: no gap above +.01", lambda o: all(one.own.learned.high < 0.01 for one in o.both("unasked"))),
    (7, MEMORISED, "noise: a gap", lambda o: all(one.own.answer == YES for one in o.both("noise"))),
    (7, MEMORISED, "noise: smaller than the run's gap", lambda o: all(one.over.answer == YES for one in o.both("noise"))),
    (8, MEMORISED, "consistent: between −.01 and +.01", lambda o: within(o.own("consistent"), -0.01, 0.01)),
    (8, MEMORISED, "α = .5: between −.03 and +.05", lambda o: within(o.own("half"), -0.03, 0.05)),
    (8, MEMORISED, "α = .5: smaller than the run's gap", lambda o: o.gaps["half"].over.answer == YES),
    (9, SHORT, "strong internalization", lambda o: _is_there(o, "strong")),
    (9, SHORT, "noise: more than half of the run's gap", lambda o: all(one.most.answer == YES for one in o.both("noise"))),
    (18, CPU_ONE_STAGE, "strong internalization", lambda o: _is_there(o, "strong")),
    (18, CPU_ONE_STAGE, "larger than in noise", lambda o: all(one.over.answer == YES for one in o.both("noise"))),
    (18, CPU_ONE_STAGE, "noise: a gap", lambda o: all(one.own.answer == YES for one in o.both("noise"))),
    (19, MEMORISED_ONE_STAGE, "tag-2 definitions recalled over .95", lambda o: o.recall_of_tag_2 > 0.95),
    (19, MEMORISED_ONE_STAGE, "a gap between 0 and +.03", lambda o: within(o.contrasts["strong"].estimate, 0.0, 0.03)),
    (19, MEMORISED_ONE_STAGE, "larger than in unasked", lambda o: all(one.over.answer == YES for one in o.both("unasked"))),
)  # fmt: skip


def write_predictions(tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> list[str]:
    """The table of predictions and outcomes, for the recipes whose tables are there. A range holds if the whole 95 %
    interval lies in it; a gap is there, or larger than another, by the rule of the verdicts."""
    outcomes = {recipe: Outcome(runs) for recipe, runs in tables.items()}
    body = []
    for number, recipe, said, holds in _NUMBERED:
        if recipe in outcomes:
            try:
                answer = "held" if holds(outcomes[recipe]) else "did not hold"
            except KeyError:
                answer = formats.MISSING
            body.append([str(number), f"`{recipe}`", said, answer])
    return [
        "What was predicted before the confirming seeds were trained ([predictions.md](predictions.md)). A range holds if the whole 95 % "
        "interval lies in it; a gap is there, or is larger than another, by the rule of the verdicts:",
        "",
        *write_text_table(["prediction", "recipe", "what", "came out"], body),
    ]
