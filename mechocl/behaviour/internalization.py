"""From answers to internalization: what a model knows about each subset of aliases.

Four quantities per subset:

- `accuracy`: share of test questions answered rightly (true-logit-difference > 0 ⇔ true). 0.5 is chance.
- `auc`: within-alias AUC. Over pairs of one alias's test questions, one whose list contains its integer
  and one whose list does not, how often the true-logit-difference ranks them rightly (ties count half);
  averaged over aliases. 0.5: nothing known. Unlike accuracy it does not depend on a threshold.
- `logit_difference`: mean of (true logit − false logit), signed so that the right answer is positive.
- `recall`: share of training definitions whose integer is the model's first choice among integers, read
  just before it. NaN for undefined subsets, and for word orders in which the alias comes after the entity.

Weak internalization is `qd1_consistent` − `qd2_inconsistent`; strong internalization (the IML gap) is
`d1_consistent` − `d2_consistent` (arXiv 2310.15047).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.models.seam import Transformer, logits_at
from toy_models.subsets import SUBSETS
from toy_models.task import ROLE, Task

METRICS: Final = ("auc", "accuracy", "logit_difference", "recall")

TEXT_METRICS: Final = ("exact_match", "log_probability", "recall")
"""Quantities of a text world, as `closed_book.evaluation` measures them."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A difference between two subsets, or between a subset and a constant."""

    name: str
    better: str
    """Subset that is expected to be answered better."""
    worse: str
    """Subset that it is compared with; "" for chance."""
    meaning: str


CONTRASTS: Final = (
    Contrast("weak", "qd1_consistent", "qd2_inconsistent", "weak internalization: tag 1 against tag 2"),
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

MIN_RECALL: Final = 0.95
"""Share of the definitions of new aliases that must be recalled for a training to count: what was not stored
cannot be retrieved."""

_NEW: Final = ("d1_consistent", "d2_consistent", "d3_consistent")

CHANCE: Final = {"auc": 0.5, "accuracy": 0.5, "logit_difference": 0.0}


def within_alias_auc(
    difference: Float[np.ndarray, "question"], contains: np.ndarray, alias: np.ndarray
) -> pd.Series:
    """AUC of each alias from its questions' true-logit-differences, indexed by alias.

    `contains`: whether the list contains the alias's integer. Raises ValueError when an alias has only
    one kind of question, or a difference is not finite (a model that diverged).
    """
    if not np.isfinite(difference).all():
        raise ValueError("a true-logit-difference is not finite; the model has diverged")
    frame = pd.DataFrame({"alias": alias, "contains": contains, "rank": difference})
    frame["rank"] = frame.groupby("alias")["rank"].rank()
    positive = frame["rank"].where(frame["contains"]).groupby(frame["alias"]).agg(["sum", "count"])
    n_positive = positive["count"]
    n_negative = frame.groupby("alias")["rank"].count() - n_positive
    if (n_positive == 0).any() or (n_negative == 0).any():
        raise ValueError("an alias has only one kind of question; its AUC is not defined")
    u = positive["sum"] - n_positive * (n_positive + 1) / 2
    return (u / (n_positive * n_negative)).rename("auc")


def true_logit_difference(model: Transformer, task: Task, rows: np.ndarray) -> Float[np.ndarray, "question"]:
    """True logit − false logit at `=` of the given questions, in nats; in a text world right − wrong answer."""
    where = torch.from_numpy(task.position_of("equals", rows))
    if task.vocabulary.is_text:
        wanted = torch.stack(task.answers_of(rows), 1)
        ids: Tensor = torch.unique(wanted)
        both = logits_at(model, task.tokens[torch.from_numpy(rows)], where, ids)
        both = both.gather(1, torch.searchsorted(ids, wanted))
    else:
        ids = torch.tensor([task.vocabulary.true, task.vocabulary.false])
        both = logits_at(model, task.tokens[torch.from_numpy(rows)], where, ids)
    difference: np.ndarray = (both[:, 0] - both[:, 1]).double().numpy()
    return difference


def recalled(model: Transformer, task: Task, rows: np.ndarray) -> np.ndarray:
    """Whether each of the given definitions' integers is the first choice among integers, just before it; in a text
    world, whether the entity's first token is the first choice of all.

    Raises ValueError for definitions that begin with the integer.
    """
    tokens = task.tokens[torch.from_numpy(rows)]
    first = (task.roles[torch.from_numpy(rows)] == ROLE["entity"]).int().argmax(1)
    if (first < 1).any():
        raise ValueError("definitions that begin with their integer have nothing to recall it from")
    vocabulary = task.vocabulary
    ids = torch.arange(vocabulary.outputs) if vocabulary.is_text else vocabulary.entity_ids
    chosen = ids[logits_at(model, tokens, first - 1, ids).argmax(1)]
    right: np.ndarray = (chosen == tokens[torch.arange(len(tokens)), first]).numpy()
    return right


def answer_candidates(task: Task) -> Int[Tensor, " candidate"]:
    """Tokens among which an answer is judged: true and false, or the first tokens of all answers of a text world."""
    vocabulary = task.vocabulary
    return vocabulary.entity_ids if vocabulary.is_text else torch.tensor([vocabulary.true, vocabulary.false])


def judge_answers(task: Task, rows: np.ndarray, logits: Float[Tensor, "question candidate"]) -> pd.DataFrame:
    """One row per alias: `alias`, `subset`, and `accuracy` and `auc` as in `per_alias`, from the logits of `answer_candidates`
    at `=` of the given questions."""
    table = task.table.iloc[rows]
    each = {"alias": table["alias"].to_numpy(), "subset": table["subset"].astype(str).to_numpy()}
    if task.vocabulary.is_text:
        own = logits.gather(1, torch.tensor(table["entity"].to_numpy())[:, None])
        below, tied = (logits < own).sum(1).double(), (logits == own).sum(1).double() - 1
        others = logits.shape[1] - 1
        measures = {
            "accuracy": (below == others).double().numpy(),
            "auc": ((below + tied / 2) / others).numpy(),
        }
        return pd.DataFrame(each | measures).groupby(["alias", "subset"], as_index=False).mean()
    difference, answer = _true_minus_false(logits), table["answer"].to_numpy()
    frame = pd.DataFrame(each | {"accuracy": (difference > 0) == answer})
    result = frame.groupby(["alias", "subset"], as_index=False).mean()
    auc = within_alias_auc(difference, answer, each["alias"])
    return result.merge(auc, left_on="alias", right_index=True)


def _true_minus_false(logits: Float[Tensor, "question two"]) -> Float[np.ndarray, "question"]:
    difference: np.ndarray = (logits[:, 0] - logits[:, 1]).double().numpy()
    return difference


def per_alias(model: Transformer, task: Task, *, aliases_per_subset: int | None = None) -> pd.DataFrame:
    """One row per alias: `alias`, `subset`, and the four quantities of this module.

    Of a text world's questions about one attribute (`closed_book.views`): `auc` is the share of the other answers'
    first tokens that are less likely than the right one's, `accuracy` whether none is likelier, `logit_difference` right
    − wrong answer, `recall` whether the first token of the defined entity is the model's first choice. There .5 is no
    floor, as common answers are likelier: compare with `no_data`. `aliases_per_subset` limits how many aliases (the
    first ones) of each subset are measured.
    """
    rows = task.rows(kind="question", split="test")
    if aliases_per_subset is not None:
        first = task.table.loc[rows, ["subset", "alias"]].drop_duplicates()
        first = first.groupby("subset", observed=True).head(aliases_per_subset)
        rows = rows[np.isin(task.table["alias"].to_numpy()[rows], first["alias"].to_numpy())]
    where = torch.from_numpy(task.position_of("equals", rows))
    logits = logits_at(model, task.tokens[torch.from_numpy(rows)], where, answer_candidates(task))
    if task.vocabulary.is_text:
        right = true_logit_difference(model, task, rows)
    else:
        right = _true_minus_false(logits) * np.where(task.table["answer"].to_numpy()[rows], 1.0, -1.0)
    alias = task.table["alias"].to_numpy()[rows]
    result = judge_answers(task, rows, logits)
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


def metrics_of(rows: pd.DataFrame) -> tuple[str, ...]:
    """The quantities that a table has: those of the integer-set task, or of a text world."""
    return TEXT_METRICS if "exact_match" in rows.columns else METRICS


def by_subset(aliases: pd.DataFrame) -> pd.DataFrame:
    """Mean of each quantity over the aliases of each subset, in the order of `SUBSETS`; with `aliases`."""
    means = aliases.groupby("subset")[list(metrics_of(aliases))].mean()
    means["aliases"] = aliases.groupby("subset").size()
    present = [name for name in SUBSETS if name in means.index]
    return means.loc[present].reset_index()


def failure(subsets: pd.DataFrame) -> str:
    """Why a finished training counts as failed, from its table by subset; "" if it does not.

    Large models store only part of the definitions in a few epochs, so no training on a text world is judged so. Word orders in which the alias comes last have no recall, and are not judged by it.
    """
    part = subsets[subsets["subset"].isin(_NEW)].dropna(subset=["recall"])
    if part.empty or metrics_of(subsets) == TEXT_METRICS:
        return ""
    recall = float((part["recall"] * part["aliases"]).sum() / part["aliases"].sum())
    if recall >= MIN_RECALL:
        return ""
    return f"definition recall {recall:.3f} of the new aliases, under {MIN_RECALL}"


def contrasts(values: pd.Series, metric: str) -> pd.Series:
    """The value of each contrast whose subsets are there, from one seed's values by subset."""
    found = {}
    for c in CONTRASTS:
        if c.better in values.index and (c.worse in values.index or (not c.worse and metric in CHANCE)):
            found[c.name] = values[c.better] - (values[c.worse] if c.worse else CHANCE[metric])
    return pd.Series(found, dtype=float)
