"""Logit lens (nostalgebraist, 2020) on the integer axis: when does the alias's integer come up?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from mechocl import activations
from mechocl.errors import MechoclError
from mechocl.models import Transformer, device_of, final_norm
from toy_models.subsets import SUBSETS
from toy_models.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LensConfig:
    """What the logit lens looks at."""

    aliases_per_subset: int = 100
    """Aliases of each subset, the first ones."""

    def __post_init__(self) -> None:
        if self.aliases_per_subset < 1:
            raise MechoclError(f"aliases_per_subset is {self.aliases_per_subset}; use at least 1")


@torch.no_grad()
def logit_lens(model: Transformer, task: Task, config: LensConfig) -> pd.DataFrame:
    """Rank of the alias's integer among all integers, at each layer and position of test questions.

    The residual stream after each layer goes through the final layer norm and the unembedding. Rows:
    `subset`, `contains` (whether the list contains the integer), `layer` ("embed", "layer 0", …),
    `position` ("alias", "%", "n1", …, "="), `rank` (mean over questions; 1 is the top, chance is
    (integers + 1) / 2; ties take their mean rank), `first` (share of questions in which it is ranked
    first), `questions`. Read `contains = False`: there the list itself does not name the integer.
    """
    rows = _questions(task, config.aliases_per_subset)
    labels = activations.asked_positions(task, rows)
    sites = activations.residual_sites(model.cfg.n_layers)
    found = activations.collect(model, task.tokens[torch.from_numpy(rows)], list(sites.values()))
    first, last = task.vocabulary.integers
    entity = torch.from_numpy(task.table["entity"].to_numpy()[rows])
    device = device_of(model)
    W, b = model.W_U[:, first:last], model.b_U[first:last]
    tables = []
    for layer, site in sites.items():
        for i, position in enumerate(labels):
            logits = (final_norm(model, found[site][:, i].to(device)) @ W + b).cpu()
            own = logits.gather(1, entity[:, None])
            above = (logits > own).sum(1)
            tied = (logits == own).sum(1) - 1
            rank = (1 + above + tied.double() / 2).numpy()
            tables.append(
                pd.DataFrame(
                    {
                        "subset": task.table["subset"].astype(str).to_numpy()[rows],
                        "contains": task.table["answer"].to_numpy()[rows],
                        "layer": layer,
                        "position": position,
                        "rank": rank,
                        "first": rank == 1,
                    }
                )
            )
    keys = ["subset", "contains", "layer", "position"]
    grouped = pd.concat(tables).groupby(keys, sort=False)
    result = grouped.agg(rank=("rank", "mean"), first=("first", "mean"), questions=("rank", "size"))
    return result.reset_index()


def _questions(task: Task, aliases_per_subset: int) -> np.ndarray:
    """Test questions of the first aliases of each subset, without those that name the entity itself."""
    named = tuple(name for name, subset in SUBSETS.items() if subset.replaced)
    rows = task.rows(kind="question", split="test", subset=named)
    if len(rows) == 0:
        raise MechoclError("the task has no test questions about aliases")
    table = task.table.loc[rows, ["subset", "alias"]].drop_duplicates()
    chosen = table.groupby("subset", observed=True).head(aliases_per_subset)["alias"]
    return rows[np.isin(task.table["alias"].to_numpy()[rows], chosen.to_numpy())]
