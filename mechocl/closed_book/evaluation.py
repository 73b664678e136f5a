"""What a fine-tuned model knows of each alias: the `internalization` table of a text world.

Each alias has these measures for each `test`:

- `exact_match`: share of the test questions that are answered rightly.
- `log_probability`: mean over the test questions of the right answer's log-probability in nats, summed over the
  answer's tokens. It has far less variance than exact match.
- `recall`: 1 if every token of the entity in the alias's training definition is the model's first choice, given all
  tokens before it. It is NaN for an alias without a definition, and where the alias comes after the entity. For a
  sequence-to-sequence model it is also NaN where the entity does not come last.

The tests are "questions", the held-out questions; "association", which asks for the entity of the alias
(`examples.ASSOCIATIONS`, the first letter, bare completion); and "in context, tag 1" … 3, questions after a definition,
about aliases without training data. Association is judged by the entity that the questions are about, also where the
definition names another entity.
"""

from typing import Any, Final

import numpy as np
import pandas as pd

from mechocl.closed_book import answers
from toy_models.subsets import SUBSETS
from toy_models.task import Task

TESTED: Final = ("question", "association", "in context")
"""Kinds of example that models are tested on."""


def per_alias(model: Any, tokenizer: Any, task: Task) -> pd.DataFrame:
    """One row per alias, `test` and `attribute`: `alias`, `subset`, `exact_match`, `log_probability`, `recall`,
    `generated` (the answer)."""
    rows = task.rows(split="test", kind=TESTED)
    found = answers.answer(model, tokenizer, task, rows)
    table = task.table.iloc[rows]
    frame = pd.DataFrame(
        {
            "alias": table["alias"].to_numpy(),
            "subset": table["subset"].astype(str).to_numpy(),
            "test": tests(table),
            "attribute": table["attribute"].to_numpy(),
            "exact_match": found["exact_match"].to_numpy(dtype=float),
            "log_probability": found["log_probability"].to_numpy(),
            "generated": found["generated"].to_numpy(),
        }
    )
    return frame.merge(_definitions(model, task)[["alias", "recall"]], on="alias", how="left")


def tests(table: pd.DataFrame) -> np.ndarray:
    """The name of each row's test."""
    kind, tag = table["kind"].astype(str), table["tag"].astype(str)
    named = np.where(
        kind == "question", "questions", np.where(kind == "association", kind, "in context, tag " + tag)
    )
    return named.astype(object)


def forced(model: Any, task: Task, sample: np.ndarray) -> list[dict[str, Any]]:
    """Means in each subset of: log-probability of the answers and exact match (both of the first right answer alone,
    `answers.force_answers`), definition loss and recall (`answers.recall_definitions`).

    Nothing is generated: it is for curves during training.
    """
    rows = task.rows(split="test", kind="question")
    rows = rows[np.isin(task.table["alias"].to_numpy()[rows], sample)]
    values, right = answers.force_answers(model, task, rows)
    frame = pd.DataFrame(
        {
            "alias": task.table["alias"].to_numpy()[rows],
            "subset": task.table["subset"].astype(str).to_numpy()[rows],
            "log_probability": values,
            "exact_match": right.astype(float),
        }
    )
    frame = frame.merge(_definitions(model, task, sample), on="alias", how="left")
    means = frame.groupby("subset")[["log_probability", "exact_match", "definition_loss", "recall"]].mean()
    present = [name for name in SUBSETS if name in means.index]
    records = means.loc[present].reset_index().to_dict("records")
    return [{str(k): v for k, v in record.items()} for record in records]


def first_aliases(task: Task, per_subset: int) -> np.ndarray:
    """The first aliases of each subset."""
    each = task.table[["subset", "alias"]].drop_duplicates()
    found: np.ndarray = each.groupby("subset", observed=True).head(per_subset)["alias"].to_numpy()
    return found


def has_definition_losses(model: Any, task: Task, rows: np.ndarray) -> bool:
    """Whether a model can be asked for the entity of definitions, which are given rows of the task.

    It cannot where the alias comes after the entity, and a sequence-to-sequence model cannot where the entity is not last:
    its decoder writes the last part alone.
    """
    if len(rows) == 0:
        return False
    order = str(task.table["order"].iloc[rows[0]])
    unread = model.config.is_encoder_decoder and not order.endswith("E")
    return order.index("V") < order.index("E") and not unread


def _definitions(model: Any, task: Task, sample: np.ndarray | None = None) -> pd.DataFrame:
    """Definition loss and recall of each alias that has a definition, or of those of the sample."""
    rows = task.rows(kind="definition")
    if not has_definition_losses(model, task, rows):
        return pd.DataFrame({"alias": [], "definition_loss": [], "recall": []}, dtype=float)
    if sample is not None:
        rows = rows[np.isin(task.table["alias"].to_numpy()[rows], sample)]
    losses, recalled = answers.recall_definitions(model, task, rows)
    return pd.DataFrame(
        {
            "alias": task.table["alias"].to_numpy()[rows],
            "definition_loss": losses,
            "recall": recalled.astype(float),
        }
    )
