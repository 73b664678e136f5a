"""Direct logit attribution: which component writes the answer into the residual stream?

The residual stream after the last layer is a sum of what the embedding, each head, each MLP and the biases
have written. Except for the final layer norm's scale, the logits are linear in it. With this scale kept as it
was in the run, every logit is therefore a sum of contributions (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). What a component contributes through later components is not included.
"""

from dataclasses import dataclass
from typing import Final

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.lenses.logit_lens import frozen_norm, questions, written
from mechocl.models import layout
from mechocl.models.components import Components, take_apart
from mechocl.models.seam import Transformer
from toy_models.shown import Shown
from toy_models.task import Task

TOTAL: Final = "total"
"""The component of the rows that hold the model's own logit difference, the sum of all components."""

_BATCH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionConfig:
    """What is attributed, and where."""

    positions: tuple[str, ...] = ("=",)
    """Positions whose logits are attributed: "alias", "%", "n1", …, "="."""
    aliases_per_subset: int = 100
    """Aliases of each subset, the first ones."""

    def __post_init__(self) -> None:
        settle(self)
        if not self.positions:
            raise MechoclError("positions is empty; name at least one, such as =")
        if self.aliases_per_subset < 1:
            raise MechoclError(f"aliases_per_subset is {self.aliases_per_subset}; use at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Contributions to one logit difference of each example, in nats."""

    components: tuple[str, ...]
    """ "embedding", "L0H0", …, "L0 mlp" (with its bias), …, "biases" (those of the attention layers, of the final
    layer norm and of the unembedding)."""
    values: Float[Tensor, "component example"]
    """They sum to `total` over the components."""
    total: Float[Tensor, "example"]
    """The model's own logit difference, not computed from the contributions."""

    def __repr__(self) -> str:
        return f"Attribution({len(self.total)} examples, {len(self.components)} components; logit difference {float(self.total.mean()):+.2f} nats in the mean)"

    def _repr_html_(self) -> str:
        means = pd.DataFrame(
            {"component": self.components, "mean contribution (nats)": self.values.mean(1).tolist()}
        )
        return Shown(title=repr(self), tables=(("", means),))._repr_html_()


@torch.no_grad()
def direct_logit_attribution(
    model: Transformer,
    tokens: Int[Tensor, "example pos"],
    *,
    read: Int[Tensor, "example"],
    plus: Int[Tensor, "example"],
    minus: Int[Tensor, "example foil"],
) -> Attribution:
    """What each component adds to (logit of `plus`) − (mean logit of the `minus`) at the position `read`.

    The final layer norm's mean and scale are those of the run. Contributions are in nats, on the CPU; one above 0
    speaks for `plus`. Raises MechoclError for tokens without a logit, for positions that are not there, and where
    `take_apart` does.
    """
    c = take_apart(model)
    for what, ids, end in (
        ("the logit of token", torch.cat([plus, minus.flatten()]), c.W_U.shape[1]),
        ("the stream at position", read, tokens.shape[1]),
    ):
        if len(wrong := ids[(ids < 0) | (ids >= end)]):
            raise MechoclError(
                f"attribution needs {what} {int(wrong[0])}, but there are those of 0 to {end - 1}"
            )
    names: tuple[str, ...] = ()
    parts: list[Tensor] = []
    totals: list[Tensor] = []
    for batch in torch.split(torch.arange(len(tokens)), _BATCH):
        where = (read[batch], plus[batch], minus[batch])
        names, values, total = _attribute(c, tokens[batch], *(x.to(c.device) for x in where))
        parts.append(values.cpu())
        totals.append(total.cpu())
    return Attribution(components=names, values=torch.cat(parts, 1), total=torch.cat(totals))


def _attribute(
    c: Components, tokens: Tensor, read: Tensor, plus: Tensor, minus: Tensor
) -> tuple[tuple[str, ...], Float[Tensor, "component batch"], Float[Tensor, "batch"]]:
    pieces = written(c, tokens)
    rows = torch.arange(len(tokens), device=c.device)
    values, stream = pieces.values[:, rows, read], pieces.stream[-1, rows, read]
    direction = c.W_U.T[plus] - c.W_U.T[minus].mean(1)
    constant = c.b_U[plus] - c.b_U[minus].mean(1)
    if c.ln_final.b is not None:
        constant = constant + direction @ c.ln_final.b
    found = (frozen_norm(c, values, stream=stream) * direction).sum(-1)
    found[pieces.components.index("biases")] += constant
    logits = c.logits(stream)
    total = logits[rows, plus] - logits.gather(1, minus).mean(1)
    return pieces.components, found, total


def attribute_answers(model: Transformer, task: Task, config: AttributionConfig) -> pd.DataFrame:
    """Direct logit attribution of test questions, by component.

    Rows are means over the questions of each subset and of each kind of list. There is one row for each component
    (see `Attribution`) and one for the model itself. The columns are `mechocl.analyses.columns.ATTRIBUTION`.

    Raises MechoclError for a position that the questions do not have.
    """
    rows = questions(task, config.aliases_per_subset)
    labels = layout.asked_positions(task, rows)
    table = task.table.iloc[rows]
    wanted = _wanted(task, table)
    tables = []
    for position in config.positions:
        if position not in labels:
            raise MechoclError(f"questions have no position {position!r}; they have {', '.join(labels)}")
        end = labels.index(position) + 1
        tokens = task.tokens[torch.from_numpy(rows), :end]
        read = torch.full((len(rows),), end - 1)
        attributions = {
            name: direct_logit_attribution(model, tokens, read=read, plus=plus, minus=minus)
            for name, (plus, minus) in wanted.items()
        }
        tables.append(_means(table, attributions, position))
    return pd.concat(tables, ignore_index=True)


def _wanted(task: Task, table: pd.DataFrame) -> dict[str, tuple[Tensor, Tensor]]:
    """Tokens whose logits are compared, (plus, minus), for each quantity."""
    right, wrong = task.answers_of(table.index.to_numpy())
    ids = task.entity_ids
    entity = torch.tensor(table["entity"].to_numpy())
    return {"difference": (right, wrong[:, None]), "integer": (ids[entity], ids.expand(len(table), -1))}


def _means(table: pd.DataFrame, attributions: dict[str, Attribution], position: str) -> pd.DataFrame:
    """Means over the questions of each subset and kind, one row per component."""
    keys = {"subset": table["subset"].astype(str).to_numpy(), "contains": table["answer"].to_numpy()}
    components = (*next(iter(attributions.values())).components, TOTAL)
    values = {name: torch.cat([a.values, a.total[None]]).double().numpy() for name, a in attributions.items()}
    parts = [
        pd.DataFrame(keys | {"component": component, "position": position}).assign(
            **{name: value[i] for name, value in values.items()}
        )
        for i, component in enumerate(components)
    ]
    grouped = pd.concat(parts).groupby(["subset", "contains", "component", "position"], sort=False)
    means = {name: (name, "mean") for name in values}
    return grouped.agg(**means, questions=("difference", "size")).reset_index()
