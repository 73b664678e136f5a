"""Attention patterns of chosen questions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from mechocl.accepted import settle
from mechocl.behaviour import internalization
from mechocl.behaviour.subset_names import subset_named
from mechocl.errors import MechoclError
from mechocl.models import activations, layout
from mechocl.models.seam import Transformer
from toy_models.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """Which questions are looked at."""

    subsets: tuple[str, ...] = (
        "qd1_consistent",
        "qd2_inconsistent",
        "d1_consistent",
        "d2_consistent",
        "d3_consistent",
    )
    """Subsets whose first alias is asked about, once with its integer in the list and once without."""

    def __post_init__(self) -> None:
        settle(self)


def attention_patterns(model: Transformer, task: Task, config: AttentionConfig) -> pd.DataFrame:
    """Attention probabilities of every head on one true and one false question per subset.

    The columns are `mechocl.analyses.columns.ATTENTION`. Subsets that the task does not have are left out.
    Raises MechoclError when the task has none of them, or their questions have different layouts.
    """
    chosen = []
    for subset in [subset_named(task, name, absent=True) for name in config.subsets]:
        for answer in (True, False):
            chosen += task.rows(kind="question", split="test", subset=subset, answer=answer)[:1].tolist()
    if not chosen:
        raise MechoclError(f"the task has no questions about any of {', '.join(config.subsets)}")
    rows = np.array(chosen)
    length = len(layout.asked_positions(task, rows))
    tokens = task.tokens[torch.from_numpy(rows)][:, :length]
    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    found = activations.collect(model, tokens, sites)
    values = torch.stack([found[site] for site in sites], 1).numpy()  # question layer head query key
    difference = internalization.true_logit_difference(model, task, rows)
    index = np.indices(values.shape).reshape(5, -1)
    return pd.DataFrame(
        {
            "question": rows[index[0]],
            "layer": index[1],
            "head": index[2],
            "query": index[3],
            "key": index[4],
            "value": values.ravel(),
            "difference": difference[index[0]],
        }
    )


def attention_array(rows: pd.DataFrame) -> Float[np.ndarray, "layer head query key"]:
    """One question's rows of `attention_patterns` as an array."""
    axes = ["layer", "head", "query", "key"]
    shape = [int(rows[a].max()) + 1 for a in axes]
    array: Float[np.ndarray, "layer head query key"] = np.zeros(shape, dtype=np.float32)
    array[tuple(rows[a].to_numpy() for a in axes)] = rows["value"].to_numpy()
    return array
