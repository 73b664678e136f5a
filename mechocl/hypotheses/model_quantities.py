"""The quantities of predictions about gradients, probes and interventions: from rows of analyses to one value of each seed."""

import pandas as pd

from mechocl.hypotheses.quantities import (
    TAG_1,
    TAG_2,
    Data,
    NotMeasured,
    Values,
    finite,
    quantity,
    seeds_of,
    values_of,
)
from mechocl.interventions import suppression
from mechocl.interventions.steering import RANDOM, STEERING
from mechocl.learning import summaries

# gradients -------------------------------------------------------------------------------------------------------


@quantity
def aligned_before(data: Data, *, group: str, correction: str) -> Values:
    """Alignment of new definitions with the questions, when written with tag 1 − with tag 2, before any was trained on.

    Both are of the same aliases of d1 and d2; the rest is as in `aligned_along`.
    """
    return _aligned(summaries.before_the_stage(_gradients(data, group, correction)), data.column)


@quantity
def aligned_along(data: Data, *, group: str, correction: str) -> Values:
    """The same as `aligned_before`, as a mean over the checkpoints of the last stage.

    The checkpoint before the stage is not among them.
    """
    rows = summaries.of_new_aliases(_gradients(data, group, correction))
    return _aligned(rows[rows["stage"] > rows["stage"].min()], data.column)


def _gradients(data: Data, group: str, correction: str) -> pd.DataFrame:
    rows = data.rows
    found = rows[(rows["group"] == group) & (rows["correction"] == correction)]
    if found.empty:
        raise NotMeasured(
            f"the run has no gradients of {group}, {correction}; it has those of {', '.join(rows['group'].unique())}"
        )
    return found


def _aligned(rows: pd.DataFrame, column: str) -> Values:
    rows = rows[rows["subset"].isin([TAG_1, TAG_2])]
    if rows.empty:
        raise NotMeasured("the run keeps no checkpoint along its last stage")
    table = rows.groupby(["seed", "step", "tag"])[column].mean().unstack("tag")
    return values_of((table[1] - table[2]).groupby("seed").mean())


# twins -----------------------------------------------------------------------------------------------------------


@quantity
def twin_exchange(data: Data, *, exchange: str, over: str, variant: str) -> Values:
    """What an exchange of twins' embeddings does to the answers, towards those of tag 1 − what another exchange does.

    It is the mean over d1 and d2. The twins are those of the variant.
    """
    rows = data.rows[data.rows["metric"] == data.measures.leading]
    table = rows.pivot_table(index="seed", columns="exchange", values=data.column)
    if missing := [name for name in (exchange, over) if name not in table]:
        raise NotMeasured(f"{missing[0]} was not exchanged")
    return values_of(table[exchange] - table[over])


# probes ----------------------------------------------------------------------------------------------------------


@quantity
def probe_between_tags(data: Data, *, probe: str) -> Values:
    """Accuracy of a probe on d1 − that on d2, at the place where the probe is best on all its aliases together."""
    found = {}
    for seed, rows in seeds_of(_probed(data, probe)):
        best = _place(rows[(rows["subset"] == "all") & (rows["control"] == "none")], data.column)
        there = rows[(rows["control"] == "none") & (_places(rows) == best)].set_index("subset")[data.column]
        if {TAG_1, TAG_2} <= set(there.index):
            found[seed] = float(there[TAG_1] - there[TAG_2])
    return finite(found)


@quantity
def probe_over_shuffled(data: Data, *, probe: str) -> Values:
    """Best value of a probe over all places − the mean of the best values of shuffled labels, each over all places."""
    found = {}
    for seed, rows in seeds_of(_probed(data, probe)):
        whole = rows[rows["subset"] == "all"]
        own = whole.loc[whole["control"] == "none", data.column].max()
        shuffled = whole[whole["control"] == "shuffled"].groupby("draw")[data.column].max()
        found[seed] = float(own - shuffled.mean()) if len(shuffled) else float("nan")
    return finite(found)


def _probed(data: Data, probe: str) -> pd.DataFrame:
    rows = data.rows[(data.rows["probe"] == probe) & data.rows["chosen"]]
    if rows.empty:
        raise NotMeasured(f"the run has no aliases for the probe {probe}")
    return rows


def _places(rows: pd.DataFrame) -> pd.Series:
    return rows["site"] + " " + rows["layer"].astype(str) + " " + rows["position"]


def _place(rows: pd.DataFrame, column: str) -> str:
    """The place of the largest value; of equal ones the first."""
    return str(_places(rows).iloc[int(rows[column].to_numpy().argmax())])


# interventions ---------------------------------------------------------------------------------------------------


@quantity
def constant_vector(data: Data, *, subset: str) -> Values:
    """What one steering vector adds to the answers about a subset before the last stage − what random vectors add."""
    rows = data.rows[(data.rows["subset"] == subset) & (data.rows["metric"] == data.measures.leading)]
    table = rows.pivot_table(index="seed", columns="group", values=data.column)
    if not {STEERING, RANDOM} <= set(table):
        raise NotMeasured(f"no steering vector was measured on {subset}")
    return values_of(table[STEERING] - table[RANDOM])


@quantity
def tag_direction(data: Data, *, metric: str) -> Values:
    """What exchanging one direction, from d2's mean to d1's, adds to d2's answers − what it adds with shuffled labels.

    Of all places, that one counts at which exchanging the whole activation has the largest effect.
    """
    rows = data.rows[(data.rows["contrast"] == "d1-to-d2") & (data.rows["metric"] == metric)]
    found = {}
    for seed, part in seeds_of(rows):
        whole = part[part["method"] == "whole site"].dropna(subset=["effect"])
        if whole.empty:
            continue
        best = _places(whole).iloc[int(whole["effect"].abs().to_numpy().argmax())]
        there = part[(part["method"] == "difference of means") & (_places(part) == best)]
        effects = there.set_index("control")[data.column]
        if {"none", "shuffled"} <= set(effects.index):
            found[seed] = float(effects["none"] - effects["shuffled"])
    if not found:
        raise NotMeasured(f"no direction was exchanged in {metric}")
    return finite(found)


@quantity
def graft_gap(data: Data, *, group: str, kind: str) -> Values:
    """Gap d1 − d2 of the model before the last stage when a group of weights is the final model's."""
    rows = data.rows[
        (data.rows["group"] == group)
        & (data.rows["kind"] == kind)
        & (data.rows["metric"] == data.measures.leading)
    ]
    table = rows.pivot_table(index="seed", columns="subset", values=data.column)
    if not {TAG_1, TAG_2} <= set(table):
        raise NotMeasured(f"no graft of {group} ({kind}) was measured on both subsets")
    return values_of(table[TAG_1] - table[TAG_2])


@quantity
def suppressed(data: Data) -> Values:
    """How far the best component's ablation raises d2 and spares d1 − how far another's raises d1 and spares d2.

    Each component is chosen on one half of the aliases and judged on the other half.
    """
    if "auc" not in data.measures.names:  # components are ablated in logits there (`metrics.answer_metric`)
        raise NotMeasured("the run's answers have no AUC, and what an ablation changes is measured in it")
    gains = []
    for raised, spared in ((TAG_2, TAG_1), (TAG_1, TAG_2)):
        judged = suppression.candidates(data.rows, raised=raised, spared=spared)
        table = judged.pivot(index="seed", columns="subset", values="effect")
        if not {raised, spared} <= set(table):
            raise NotMeasured("no component was ablated that both subsets have")
        gains.append(table[raised] - table[spared].abs())
    return values_of(gains[0] - gains[1])
