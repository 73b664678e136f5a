"""From answers to internalization: what a model knows about each subset of aliases.

Four quantities per subset:

- `accuracy`: share of test questions answered rightly (true-logit-difference > 0 ⇔ true). 0.5 is chance.
- `auc`: within-alias AUC. For each alias, all pairs of its test questions are formed in which one list contains its
  integer and the other does not. The AUC is the share of pairs that the true-logit-difference ranks rightly (ties count
  half), averaged over aliases. 0.5 means that nothing is known. Unlike accuracy it does not depend on a threshold.
- `logit_difference`: mean of (true logit − false logit), signed so that the right answer is positive.
- `recall`: share of training definitions whose integer is the model's first choice among integers, read just before the
  integer. It is NaN for undefined subsets, and for word orders in which the alias comes after the entity.

Weak internalization is `qd1_consistent` − `qd2_inconsistent`; strong internalization (the IML gap) is
`d1_consistent` − `d2_consistent` (arXiv 2310.15047). Weak internalization compares a right definition with a wrong one,
so it is there without any effect of the tag. Where the tags are not always right (α < 1), the two are separated:
(`qd1_consistent` − `qd1_inconsistent`) − (`qd2_consistent` − `qd2_inconsistent`) is the effect of the tag.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.accepted import require_count
from mechocl.closed_book import questioning as text
from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer, logits_at
from toy_models.measures import YES_OR_NO, Measures
from toy_models.subsets import SUBSETS
from toy_models.task import ROLE, Task

METRICS: Final = YES_OR_NO.names
"""The four quantities of `per_alias`."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A difference between two subsets, or between a subset and a constant."""

    name: str
    better: str
    """Subset whose questions are expected to be answered better."""
    worse: str
    """Subset with which `better` is compared; "" means chance."""
    meaning: str
    minus: tuple[str, str] | None = None
    """Two subsets whose difference is subtracted from that of `better` and `worse`; None subtracts nothing."""

    @property
    def subsets(self) -> tuple[str, ...]:
        """The subsets that a run must have."""
        return tuple(filter(None, (self.better, self.worse, *(self.minus or ()))))


CONTRASTS: Final = (
    Contrast("weak", "qd1_consistent", "qd2_inconsistent", "weak internalization: right definition (tag 1) against wrong (tag 2)"),
    Contrast(
        "weak_tag", "qd1_consistent", "qd1_inconsistent", "effect of the tag on known aliases: right − wrong definition, tag 1 against tag 2",
        minus=("qd2_consistent", "qd2_inconsistent"),
    ),
    Contrast("weak_vs_q_only", "qd1_consistent", "q_only", "weak internalization: tag 1 against undefined"),
    Contrast("strong", "d1_consistent", "d2_consistent", "strong internalization (IML gap): tag 1 against 2"),
    Contrast("strong_d1_d3", "d1_consistent", "d3_consistent", "tag 1 against the fresh tag"),
    Contrast("strong_d3_d2", "d3_consistent", "d2_consistent", "the fresh tag against tag 2"),
    Contrast("d1_vs_no_data", "d1_consistent", "no_data", "out-of-context learning from tag 1: above no data"),
    Contrast("d2_vs_no_data", "d2_consistent", "no_data", "out-of-context learning from tag 2: above no data"),
    Contrast("d3_vs_no_data", "d3_consistent", "no_data", "out-of-context learning from the fresh tag: above no data"),
    Contrast("ocl_d1", "d1_consistent", "", "out-of-context learning from tag 1: above chance"),
    Contrast("ocl_d2", "d2_consistent", "", "out-of-context learning from tag 2: above chance"),
    Contrast("ocl_d3", "d3_consistent", "", "out-of-context learning from the fresh tag: above chance"),
)  # fmt: skip

_NEW: Final = ("d1_consistent", "d2_consistent", "d3_consistent")


def true_logit_difference(model: Transformer, task: Task, rows: np.ndarray) -> Float[np.ndarray, "question"]:
    """Difference of the two logits of `Questioning.compared_ids` at `=` of the given questions, in nats.

    It is true − false, or right − wrong in worlds with other answers than true and false.
    """
    where = torch.from_numpy(task.position_of("equals", rows))
    wanted = torch.stack(task.questioning.compared_ids(task, rows), 1)
    ids: Tensor = torch.unique(wanted)
    both = logits_at(model, task.tokens[torch.from_numpy(rows)], where, ids)
    return _differences(both, ids, wanted)


def _differences(
    logits: Float[Tensor, "question id"], ids: Int[Tensor, "id"], wanted: Int[Tensor, "question two"]
) -> Float[np.ndarray, "question"]:
    """Logit of the first wanted token minus that of the second. `ids`, in ascending order, are the logits' token ids."""
    both = logits.gather(1, torch.searchsorted(ids, wanted))
    difference: np.ndarray = (both[:, 0] - both[:, 1]).double().numpy()
    return difference


def recalled(model: Transformer, task: Task, rows: np.ndarray) -> np.ndarray:
    """Whether the integer of each of the given definitions is the model's first choice among integers, just before it.

    In a text world, whether the entity's first token is the first choice among all tokens; in a world whose entities are told in
    parts (`Questioning.recalls`), the share of the entity's tokens that are. Raises ValueError for definitions that begin with the integer.
    """
    tokens = task.tokens[torch.from_numpy(rows)]
    is_entity = task.roles[torch.from_numpy(rows)] == ROLE["entity"]
    if task.questioning.recalls == "first_token":
        is_entity &= is_entity.cumsum(1) == 1
    row, at = torch.nonzero(is_entity, as_tuple=True)
    if (at < 1).any():
        raise ValueError("definitions that begin with their integer have nothing to recall it from")
    ids = task.questioning.recall_ids(task.vocabulary)
    chosen = ids[logits_at(model, tokens[row], at - 1, ids).argmax(1)]
    right = (chosen == tokens[row, at]).double()
    shares = torch.zeros(len(tokens), dtype=torch.float64).index_add_(0, row, right) / is_entity.sum(1)
    found: np.ndarray = shares.numpy()
    return found


def per_alias(model: Transformer, task: Task, *, aliases_per_subset: int | None = None) -> pd.DataFrame:
    """One row per alias: `alias`, `subset`, and the four quantities of this module.

    The task's questioning judges the answers. In a world with other answers than true and false, such as a text's
    questions about one attribute (`closed_book.views`), the quantities are different: `auc` is the share of the other
    answers whose tokens are less likely than the right one, `accuracy` is whether no other answer is as likely,
    `logit_difference` is right − wrong answer, and `recall` is whether the first token of the defined entity is the
    model's first choice. There, .5 is not the value of chance, since common answers are likelier; compare with
    `no_data`. With `aliases_per_subset`, only the first so many aliases of each subset are measured.
    """
    require_count("per_alias", "aliases_per_subset", aliases_per_subset)
    if len(task) and int(task.tokens.max()) >= model.cfg.d_vocab:
        raise MechoclError(
            f"the task has the token {int(task.tokens.max())}, but the model knows tokens 0 to {model.cfg.d_vocab - 1} alone; give the task that it was trained on"
        )
    rows = task.rows(kind="question", split="test")
    if aliases_per_subset is not None:
        first = task.table.loc[rows, ["subset", "alias"]].drop_duplicates()
        first = first.groupby("subset", observed=True).head(aliases_per_subset)
        rows = rows[np.isin(task.table["alias"].to_numpy()[rows], first["alias"].to_numpy())]
    where = torch.from_numpy(task.position_of("equals", rows))
    questioning = task.questioning
    ids = questioning.answer_ids(task.vocabulary)
    logits = logits_at(model, task.tokens[torch.from_numpy(rows)], where, ids)
    wanted = torch.stack(questioning.compared_ids(task, rows), 1)
    right = _differences(logits, ids, wanted) * questioning.signs(task, rows)
    alias = task.table["alias"].to_numpy()[rows]
    result = questioning.judge(task, rows, logits)
    result.insert(3, "logit_difference", result["alias"].map(pd.Series(right).groupby(alias).mean()))
    return result.merge(_recall(model, task, result["alias"].to_numpy()), on="alias", how="left")


def _recall(model: Transformer, task: Task, aliases: np.ndarray) -> pd.DataFrame:
    rows = task.rows(kind="definition")
    rows = rows[np.isin(task.table["alias"].to_numpy()[rows], aliases)]
    order = task.table["order"].iloc[rows[0]] if len(rows) else "ETV"
    if order.index("V") > order.index("E"):
        return pd.DataFrame({"alias": [], "recall": []}, dtype=float)
    return pd.DataFrame(
        {"alias": task.table["alias"].to_numpy()[rows], "recall": recalled(model, task, rows).astype(float)}
    )


def measures_of(rows: pd.DataFrame) -> Measures:
    """The measures that the columns of a table of answers show: those of answers in words, or of true and false."""
    return text.MEASURES if text.MEASURES.leading in rows.columns else YES_OR_NO


def by_subset(aliases: pd.DataFrame, *, within: Sequence[str] = ()) -> pd.DataFrame:
    """Mean of each quantity over the aliases of each subset, in the order of `SUBSETS`, and their number `aliases`.

    `within` names columns, such as `seed`: there is a row for each of their values and subset.
    """
    ordered = aliases.assign(subset=pd.Categorical(aliases["subset"], list(SUBSETS)))
    groups = ordered.groupby([*within, "subset"], observed=True)
    means = groups[list(measures_of(aliases).names)].mean().assign(aliases=groups.size())
    return means.reset_index().astype({"subset": aliases["subset"].dtype})


def failure(subsets: pd.DataFrame, measures: Measures | None = None) -> str:
    """Why a finished training counts as failed, from its table by subset; "" if it has not failed.

    A training fails if it recalls too few definitions. It is not judged if its word order has no recall, because the
    alias comes last, or if its world's measures say so (`Measures.least_recall`).
    """
    least = (measures or measures_of(subsets)).least_recall
    part = subsets[subsets["subset"].isin(_NEW)].dropna(subset=["recall"])
    if part.empty or least is None:
        return ""
    recall = float((part["recall"] * part["aliases"]).sum() / part["aliases"].sum())
    if recall >= least:
        return ""
    return f"definition recall {recall:.3f} of the new aliases, under {least}"


def contrasts(values: pd.DataFrame, metric: str, measures: Measures) -> pd.DataFrame:
    """The value of each contrast, from values by seed (rows) and subset (columns): the same rows, contrasts as columns.

    A value is NaN in a row that lacks one of the contrast's subsets, and a contrast that no row has is no column. A contrast with
    chance exists if the measure has a value of chance.
    """
    found = {}
    for c in CONTRASTS:
        if not set(c.subsets) <= set(values.columns) or (not c.worse and metric not in measures.chance):
            continue
        found[c.name] = values[c.better] - (values[c.worse] if c.worse else measures.chance[metric])
        if c.minus is not None:
            found[c.name] -= values[c.minus[0]] - values[c.minus[1]]
    return pd.DataFrame(found, index=values.index, dtype=float).dropna(axis=1, how="all")
