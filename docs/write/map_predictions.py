"""What was predicted of the map of both recipes (docs/predictions.md), beside what came out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from docs.write import studies
from docs.write.markdown import write_text_table
from docs.write.predictions import OUTCOMES, Held, every, within
from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.runs import sweep_summaries
from mechocl.runs.sweep_summaries import CONTROLLED

_CONTROL: Final = {"cpu": "noise", "memorised": "unasked"}
"""Recipe → the control in its studies."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting of a study, and its control."""

    name: str
    gap: Estimate
    control: Estimate
    """The gap of its control."""
    over: Estimate
    """Its gap over that of its control, paired by seed."""
    control_is_most: Estimate
    """The control's gap minus a third of its own, paired by seed."""
    recall: float
    """Mean recall after stage 1 of the stage-1 definitions with tag 2."""


def _gaps(study: str) -> pd.DataFrame:
    """Gap of each seed (rows) at each value of the study's field (columns), without controls."""
    one, table = _opened(study)
    runs = sweep_summaries.by_run(table, "strong")
    return runs[runs[CONTROLLED] == "inconsistent"].pivot(index="seed", columns=one.key, values="value")


def _opened(study: str) -> tuple[studies.Study, pd.DataFrame]:
    one = next(s for s in studies.read() if s.name == study)
    table = one.table()
    if table is None:
        raise KeyError(study)
    return one, table


def _gap(study: str, value: Any) -> Estimate:
    return estimate(_gaps(study)[value].dropna().to_numpy(dtype=float), unit="seed")


def _difference(study: str, value: Any, other: Any, *, share: float = 1.0) -> Estimate:
    """The gap at a value minus a share of the gap at another one, paired by seed."""
    table = _gaps(study)
    return estimate((table[value] - share * table[other]).dropna().to_numpy(dtype=float), unit="seed")


def _agrees(study: str) -> Held:
    one, table = _opened(study)
    return {"agrees": True, "disagrees": False}.get(studies.verdict(one, studies.evidence(one, table)))


def _settings(recipe: str) -> Iterator[_Setting]:
    """Every setting of the recipe's studies that has its control, the recipe itself once."""
    seen = False
    for study in studies.read():
        table = study.table()
        if not study.name.startswith(f"{recipe}-") or not study.over or table is None:
            continue
        runs = sweep_summaries.by_run(table, "strong")
        good = table[table["failed"] == ""]
        for value in table[study.key].unique():
            is_recipe = value == studies.own_value(study)
            if is_recipe and seen:
                continue
            seen = seen or is_recipe
            pair = runs[runs[study.key] == value].pivot(index="seed", columns=CONTROLLED, values="value")
            if not {"inconsistent", _CONTROL[recipe]} <= set(pair.columns):
                continue
            own, other = pair["inconsistent"], pair[_CONTROL[recipe]]
            main = good[(good[study.key] == value) & (good[CONTROLLED] == "inconsistent")]
            yield _Setting(
                name=f"{study.key}={value}",
                gap=_of(own),
                control=_of(other),
                over=_of(own - other),
                control_is_most=_of(other - own / 3),
                recall=float(main["stage1.recall.qd2_inconsistent"].mean()),
            )


def _of(values: "pd.Series[float]") -> Estimate:
    return estimate(values.dropna().to_numpy(dtype=float), unit="seed")


def _everywhere(
    recipe: str, asked: Callable[[_Setting], bool], holds: Callable[[_Setting], Held]
) -> tuple[Held, str]:
    """Whether something holds at all settings of which it was predicted, and at how many it does."""
    chosen = [one for one in _settings(recipe) if asked(one)]
    if not chosen:
        raise KeyError(recipe)
    found = {one.name: holds(one) for one in chosen}
    against = [name for name, held in found.items() if held is False]
    said = f"at {sum(held is True for held in found.values())} of {len(found)} settings; it cannot be told at {sum(held is None for held in found.values())}"
    return every(*found.values()), said + (f", and did not hold at {', '.join(against)}" if against else "")


def _plain(holds: Held) -> tuple[Held, str]:
    return holds, ""


_PREDICTED: Final[tuple[tuple[int, str, Callable[[], tuple[Held, str]]], ...]] = (
    (10, "cpu: the gap rises with α", lambda: _plain(_agrees("cpu-reliability"))),
    (10, "cpu: at α = .5 between −.02 and +.02", lambda: _plain(within(_gap("cpu-reliability", 0.5), -0.02, 0.02))),
    (11, "cpu: the gap falls with the batch size", lambda: _plain(_agrees("cpu-batch-size"))),
    (11, "memorised: the gap falls with the batch size", lambda: _plain(_agrees("memorised-batch-size"))),
    *(
        (12, f"{recipe}: {order} {said}", lambda recipe=recipe, order=order, low=low, high=high: _plain(within(_gap(f"{recipe}-word-order", order), low, high)))  # type: ignore[misc]
        for recipe in _CONTROL
        for order, low, high, said in (("TVE", 0.05, 1.0, "above +.05"), ("EVT", 0.05, 1.0, "above +.05"), ("TEV", -1.0, 0.03, "not above +.03"))
    ),
    (13, "cpu: embeddings 10 times as fast, less than half of the gap", lambda: _plain(within(_difference("cpu-embedding-rate", 10, 50, share=0.5), -1, 0))),
    (14, "cpu: fixed questions, a gap above 0", lambda: _plain(within(_gap("cpu-fresh-questions", False), 0, 1))),
    (14, "cpu: fixed questions, a smaller gap than with fresh ones", lambda: _plain(within(_difference("cpu-fresh-questions", False, True), -1, 0))),
    (15, "cpu: one integer left open, a smaller gap than with two", lambda: _plain(within(_difference("cpu-intersection", 1, 2), -1, 0))),
    (16, "memorised: where tag 2 is recalled (> .95) and the gap is over .05, the gap over *unasked* is above 0", lambda: _everywhere("memorised", lambda s: s.recall > 0.95 and s.gap.mean > 0.05, lambda s: within(s.over, 0, 1))),
    (17, "cpu: where tag 2 is not recalled (< .3) and the gap is over .05, *noise* has more than a third of it", lambda: _everywhere("cpu", lambda s: s.recall < 0.3 and s.gap.mean > 0.05, lambda s: within(s.control_is_most, 0, 1))),
)  # fmt: skip


def write_map_predictions() -> list[str]:
    """The table of predictions of the map and their outcomes, of the studies whose tables are there."""
    body = []
    for number, said, outcome in _PREDICTED:
        try:
            holds, more = outcome()
        except KeyError:
            continue
        body.append([str(number), said, OUTCOMES[holds] + (f": {more}" if more else "")])
    if not body:
        return []
    return [
        "What was predicted of the maps of both recipes before they were trained ([predictions.md](predictions.md)); a range holds if the whole "
        "95 % interval lies in it, and does not hold if all of it lies outside; so does a comparison:",
        "",
        *write_text_table(["prediction", "what", "came out"], body),
        "",
    ]
