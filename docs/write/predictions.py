"""What was predicted of the confirming seeds (docs/predictions.md), beside what came out."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import numpy as np
import pandas as pd

from docs.write.control_tables import run_and_controls
from docs.write.markdown import write_text_table
from mechocl.behaviour import formats, over_seeds
from mechocl.behaviour.control_gaps import ControlGap, compare_gaps
from mechocl.behaviour.counted import count_seeds
from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.behaviour.verdict import NOTHING, REVERSE, YES
from toy_models.measures import YES_OR_NO, Measures

CPU: Final = "integer-set/cpu"
MEMORISED: Final = "integer-set/memorised"
SHORT: Final = "integer-set/short"
CPU_ONE_STAGE: Final = "integer-set/cpu-one-stage"
MEMORISED_ONE_STAGE: Final = "integer-set/memorised-one-stage"
MINIATURE: Final = "closed-book/miniature"
REAL: Final = "closed-book/real"


class Outcome:
    """What a recipe's runs came out as, in the terms of the predictions."""

    def __init__(self, runs: Mapping[str, pd.DataFrame], measures: Measures = YES_OR_NO) -> None:
        self.rows, controls = run_and_controls(runs)
        self.gaps: dict[str, ControlGap] = {
            one.control: one for one in compare_gaps(self.rows, controls, measures)
        }
        self.contrasts = {c.name: c for c in over_seeds.contrasts(self.rows, measures.leading, measures)}
        self.counted = count_seeds(self.rows, measures)

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
        return self.recall("qd2_inconsistent")

    def recall(self, subset: str) -> float:
        """Mean recall of the definitions of a subset."""
        shown = self.counted.keep_shown(self.rows)
        return float(np.nanmean(shown.loc[shown["subset"] == subset, "recall"]))


Held = bool | None
"""Whether a prediction held; None if the interval does not tell."""

OUTCOMES: Final = {True: "held", False: "did not hold", None: "cannot tell"}


def within(e: Estimate, low: float, high: float) -> Held:
    """Whether the whole 95 % interval lies between two numbers (held), or wholly outside them (did not hold)."""
    if low < e.low and e.high < high:
        return True
    return False if e.high < low or e.low > high else None


def every(*held: Held) -> Held:
    """Whether all of several predictions held; not if one did not."""
    if False in held:
        return False
    return None if None in held else True


def _said(answer: str) -> Held:
    """What a verdict says of a prediction of a gap, or of a larger gap."""
    return {YES: True, NOTHING: False, REVERSE: False}.get(answer)


def _is_there(outcome: Outcome, name: str) -> Held:
    return _said(outcome.contrasts[name].verdict.answer)


def _all(gaps: Iterable[ControlGap], what: Literal["own", "over", "most"]) -> Held:
    """Whether a verdict on both a control at equal exposure and one at equal steps is yes."""
    return every(*(_said(getattr(one, what).answer) for one in gaps))


_NUMBERED: Final[tuple[tuple[int, str, str, Callable[[Outcome], Held]], ...]] = (
    (1, CPU, "strong internalization", lambda o: _is_there(o, "strong")),
    (1, CPU, "weak internalization", lambda o: _is_there(o, "weak")),
    (1, CPU, "every seed recalls", lambda o: len(o.counted.learned) == o.counted.total),
    (2, CPU, "noise: a gap", lambda o: _all(o.both("noise"), "own")),
    (2, CPU, "noise: more than half of the run's gap", lambda o: _all(o.both("noise"), "most")),
    (3, CPU, "unasked: under a quarter of the run's gap", lambda o: every(*(within(o.share(one, 0.25), -1, 0) for one in o.both("unasked")))),
    (4, CPU, "consistent: between −.01 and +.01", lambda o: within(o.own("consistent"), -0.01, 0.01)),
    (4, CPU, "α = .5: between −.02 and +.02", lambda o: within(o.own("half"), -0.02, 0.02)),
    (5, MEMORISED, "strong internalization", lambda o: _is_there(o, "strong")),
    (5, MEMORISED, "tag-2 definitions recalled over .95", lambda o: o.recall_of_tag_2 > 0.95),
    (6, MEMORISED, "larger than unasked", lambda o: _all(o.both("unasked"), "over")),
    (6, MEMORISED, "unasked: no gap above +.01", lambda o: every(*(within(one.own.learned, -1, 0.01) for one in o.both("unasked")))),
    (7, MEMORISED, "noise: a gap", lambda o: _all(o.both("noise"), "own")),
    (7, MEMORISED, "noise: smaller than the run's gap", lambda o: _all(o.both("noise"), "over")),
    (8, MEMORISED, "consistent: between −.01 and +.01", lambda o: within(o.own("consistent"), -0.01, 0.01)),
    (8, MEMORISED, "α = .5: between −.03 and +.05", lambda o: within(o.own("half"), -0.03, 0.05)),
    (8, MEMORISED, "α = .5: smaller than the run's gap", lambda o: _said(o.gaps["half"].over.answer)),
    (9, SHORT, "strong internalization", lambda o: _is_there(o, "strong")),
    (9, SHORT, "noise: more than half of the run's gap", lambda o: _all(o.both("noise"), "most")),
    (18, CPU_ONE_STAGE, "strong internalization", lambda o: _is_there(o, "strong")),
    (18, CPU_ONE_STAGE, "larger than in noise", lambda o: _all(o.both("noise"), "over")),
    (18, CPU_ONE_STAGE, "noise: a gap", lambda o: _all(o.both("noise"), "own")),
    (19, MEMORISED_ONE_STAGE, "tag-2 definitions recalled over .95", lambda o: o.recall_of_tag_2 > 0.95),
    (19, MEMORISED_ONE_STAGE, "a gap between 0 and +.03", lambda o: within(o.contrasts["strong"].estimate, 0.0, 0.03)),
    (19, MEMORISED_ONE_STAGE, "larger than in unasked", lambda o: _all(o.both("unasked"), "over")),
    (20, MINIATURE, "d1 − no data", lambda o: _is_there(o, "d1_vs_no_data")),
    (20, MINIATURE, "qd1 − qd2", lambda o: _is_there(o, "weak")),
    (20, MINIATURE, "stage-1 definitions of both tags recalled over .95", lambda o: min(o.recall("qd1_consistent"), o.recall_of_tag_2) > 0.95),
    (21, MINIATURE, "strong internalization", lambda o: _is_there(o, "strong")),
    (21, MINIATURE, "between +.03 and +.15", lambda o: within(o.contrasts["strong"].estimate, 0.03, 0.15)),
    (22, MINIATURE, "larger than unasked", lambda o: _all([o.gaps["unasked"]], "over")),
    (22, MINIATURE, "unasked: no gap above +.03", lambda o: within(o.own("unasked"), -1, 0.03)),
    (23, MINIATURE, "noise: a gap", lambda o: _all([o.gaps["noise"]], "own")),
    (24, MINIATURE, "consistent: between −.03 and +.03", lambda o: within(o.own("consistent"), -0.03, 0.03)),
    (32, REAL, "d1 − no data, between +.05 and +.45", lambda o: within(o.contrasts["d1_vs_no_data"].estimate, 0.05, 0.45)),
    (33, REAL, "qd1 − qd2 between −.02 and +.20", lambda o: within(o.contrasts["weak"].estimate, -0.02, 0.20)),
    (33, REAL, "stage-1 definitions of both tags recalled over .7", lambda o: min(o.recall("qd1_consistent"), o.recall_of_tag_2) > 0.7),
    (34, REAL, "d1 − d2 between −.05 and +.20", lambda o: within(o.contrasts["strong"].estimate, -0.05, 0.20)),
    (35, REAL, "noise: a gap between −.10 and +.10", lambda o: within(o.own("noise"), -0.10, 0.10)),
)  # fmt: skip


def write_predictions(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The table of predictions and what came out of each recipe that is given. A range holds if the whole 95 %
    interval lies in it; a gap is there, or larger than another, by the rule of the verdicts."""
    body = []
    for number, recipe, said, holds in _NUMBERED:
        if recipe in outcomes:
            try:
                answer = OUTCOMES[holds(outcomes[recipe])]
            except KeyError:
                answer = formats.MISSING
            body.append([str(number), f"`{recipe}`", said, answer])
    return [
        "What was predicted before the confirming seeds were trained ([predictions.md](predictions.md)). A range holds if the whole 95 % "
        "interval lies in it, and does not hold if all of it lies outside; a gap is there, or is larger than another, by the rule of the verdicts:",
        "",
        *write_text_table(["prediction", "recipe", "what", "came out"], body),
    ]
