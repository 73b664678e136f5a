"""Logit lens (nostalgebraist, 2020) on test questions: what would the model say here, if it had to say it now?

On the integer axis: when does the alias's integer come up? On the vocabulary: when does it come before
everything else, and when does the model lean to true or false? The stream can be read after each layer, and
each head and MLP on its own.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.models import layout, sites
from mechocl.models.components import Components, take_apart
from mechocl.models.forward import forward, head_results
from mechocl.models.seam import Transformer
from toy_models.subsets import SUBSETS
from toy_models.task import Task

QUANTITIES: Final = ("rank", "first", "vocabulary_rank", "difference", "kl")
"""What a lens measures at one position of one question; see `logit_lens`."""

_BATCH: Final = 256
"""Questions in one batch, which is small because every component is held at every position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LensConfig:
    """What the logit lens looks at."""

    of: tuple[Literal["stream", "heads", "mlps"], ...] = ("stream", "heads", "mlps")
    """What is read: the residual stream before and after each layer, what each head writes, what each MLP writes."""
    aliases_per_subset: int = 100
    """Aliases of each subset, the first ones."""

    def __post_init__(self) -> None:
        settle(self)
        if self.aliases_per_subset < 1:
            raise MechoclError(f"aliases_per_subset is {self.aliases_per_subset}; use at least 1")
        unknown = set(self.of) - {"stream", "heads", "mlps"}
        if unknown or not self.of:
            raise MechoclError(
                f"a lens of {min(unknown, default='nothing')} does not exist; use stream, heads or mlps"
            )


@torch.no_grad()
def logit_lens(model: Transformer, task: Task, config: LensConfig) -> pd.DataFrame:
    """What the residual stream and its components say at each layer and position of test questions.

    `component` is "stream", "L0H1" or "L0 mlp". `layer` is "embed", "layer 0", …; for a component it is the layer
    of the component. `position` is "alias", "%", "n1", …, "=". The stream goes through the final layer norm
    and the unembedding. A component's output has no scale of its own: it is centred and divided by
    the scale that the final layer norm has for the whole stream at that position (frozen, as in direct
    logit attribution), without the norm's shift and the unembedding's bias. So its logits are what it
    adds to the model's logits. An MLP's output includes its bias; a head's output has no bias.

    Rows are means over the questions of each subset, and of each kind of list. Their columns, also in a text world,
    are `mechocl.analyses.columns.LENS`.

    Raises MechoclError for a model that `take_apart` does not cover, and a task without questions about aliases.
    """
    c = take_apart(model)

    def readings(written: Written) -> Iterator[Reading]:
        if "stream" in config.of:
            for layer, x in zip(stream_layers(c), written.stream, strict=True):
                yield "stream", layer, c.logits(x)
        for name, x in zip(written.components, written.values, strict=True):
            parts = re.fullmatch(r"L(\d+)(H| mlp).*", name)
            if parts and {"H": "heads", " mlp": "mlps"}[parts[2]] in config.of:
                yield name, f"layer {parts[1]}", frozen_norm(c, x, stream=written.stream[-1]) @ c.W_U

    return read_questions(c, task, readings, aliases_per_subset=config.aliases_per_subset)


# ----------------------------------------------------------------------- the parts of the stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The residual stream of some examples, and what each component has written into it."""

    components: tuple[str, ...]
    """ "embedding" (of tokens, and of positions if the model adds them to the stream), "L0H0", …, "L0 mlp"
    (with its bias), …, "biases" (those of all attention layers)."""
    values: Float[Tensor, "component batch pos d_model"]
    """They sum to the stream after the last layer."""
    stream: Float[Tensor, "site batch pos d_model"]
    """The residual stream before layer 0, and after each layer."""


def written(c: Components, tokens: Int[Tensor, "batch pos"]) -> Written:
    """What each component writes at each position."""
    values: dict[str, Tensor] = {}
    stream: list[Tensor] = []

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if site == "resid_pre" and layer == 0:
            values["embedding"] = x
            stream.append(x)
        elif site == "z":
            heads = head_results(c, layer, x).unbind(2)
            values.update({f"L{layer}H{head}": result for head, result in enumerate(heads)})
        elif site == "mlp_out":
            values[f"L{layer} mlp"] = x
        elif site == "resid_post":
            stream.append(x)
        return x

    last = forward(c, tokens, tap=tap)
    values["biases"] = torch.stack([block.b_O for block in c.blocks]).sum(0).expand_as(last)
    return Written(
        components=tuple(values), values=torch.stack(list(values.values())), stream=torch.stack(stream)
    )


def frozen_norm(
    c: Components, x: Float[Tensor, "*batch d_model"], *, stream: Float[Tensor, "*#batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """A part of the final residual stream, normalised as the final norm normalises the whole stream.

    It is linear in `x`: over the parts of a stream it sums to the norm of the stream, without the norm's shift.
    """
    return c.ln_final.frozen(x, whole=stream)


def stream_layers(c: Components) -> list[str]:
    """Labels of `Written.stream`: "embed", "layer 0", …"""
    return list(sites.residual_sites(c.n_layers))


# --------------------------------------------------------------------------------- reading questions

Reading = tuple[str, str, Tensor]
"""Component, layer, and logits of shape (batch, pos, d_vocab_out)."""


def read_questions(
    c: Components, task: Task, readings: Callable[[Written], Iterator[Reading]], *, aliases_per_subset: int
) -> pd.DataFrame:
    """The table of `logit_lens`, from the readings of a lens on each batch of test questions."""
    rows = questions(task, aliases_per_subset)
    labels = layout.asked_positions(task, rows)
    measured: dict[tuple[str, str], list[Tensor]] = {}
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        pieces = written(c, task.tokens[torch.from_numpy(batch), : len(labels)])
        own = c.logits(pieces.stream[-1])
        for component, layer, logits in readings(pieces):
            values = _measured(logits, task, batch, own=own if component == "stream" else None)
            measured.setdefault((component, layer), []).append(values)
    asked = pd.DataFrame(
        {
            "subset": task.table["subset"].astype(str).to_numpy()[rows],
            "contains": task.table["answer"].to_numpy()[rows],
        }
    )
    tables = []
    for (component, layer), parts in measured.items():
        values = torch.cat(parts, 1)
        for i, position in enumerate(labels):
            where = {"component": component, "layer": layer, "position": position}
            found = dict(zip(QUANTITIES, values[:, :, i].numpy(), strict=True))
            tables.append(asked.assign(**where, **found))
    keys = ["subset", "contains", "component", "layer", "position"]
    grouped = pd.concat(tables).groupby(keys, sort=False)
    means = {name: (name, "mean") for name in QUANTITIES}
    return grouped.agg(**means, questions=("rank", "size")).reset_index()


def questions(task: Task, aliases_per_subset: int) -> np.ndarray:
    """Rows of the test questions about the first aliases of each subset, without those that name the entity.

    Raises MechoclError when the task has no such question.
    """
    named = tuple(name for name, subset in SUBSETS.items() if subset.replaced)
    rows = task.rows(kind="question", split="test", subset=named)
    if len(rows) == 0:
        raise MechoclError("the task has no test questions about aliases")
    table = task.table.loc[rows, ["subset", "alias"]].drop_duplicates()
    chosen = table.groupby("subset", observed=True).head(aliases_per_subset)["alias"]
    asked: np.ndarray = rows[np.isin(task.table["alias"].to_numpy()[rows], chosen.to_numpy())]
    return asked


def kl_divergence(
    logits: Float[Tensor, "*batch d_vocab_out"], *, target: Float[Tensor, "*batch d_vocab_out"]
) -> Float[Tensor, "*batch"]:
    """KL(target ‖ logits), in nats: 0 where the two give the same distribution."""
    p, q = target.log_softmax(-1), logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def _measured(
    logits: Float[Tensor, "batch pos d_vocab_out"],
    task: Task,
    rows: np.ndarray,
    *,
    own: Float[Tensor, "batch pos d_vocab_out"] | None,
) -> Float[Tensor, "quantity batch pos"]:
    """`QUANTITIES` of each question at each position, on the CPU. `own`: the model's logits."""
    ids = task.entity_ids.to(logits.device)
    own_id = ids[torch.from_numpy(task.table["entity"].to_numpy()[rows]).to(logits.device)]
    logit = logits.gather(2, own_id[:, None, None].expand(*logits.shape[:2], 1))
    rank = _mean_rank(logits[..., ids], logit)
    difference = _true_minus_false(logits, task, rows)
    kl = torch.full_like(difference, float("nan")) if own is None else kl_divergence(logits, target=own)
    found = [rank, (rank == 1).double(), _mean_rank(logits, logit), difference.double(), kl.double()]
    return torch.stack(found).cpu()


def _true_minus_false(
    logits: Float[Tensor, "batch pos d_vocab_out"], task: Task, rows: np.ndarray
) -> Float[Tensor, "batch pos"]:
    """Difference of the logits of `Questioning.compared_ids`: true − false, or right − wrong."""
    plus, minus = (
        logits.gather(2, ids.to(logits.device)[:, None, None].expand(*logits.shape[:2], 1))[..., 0]
        for ids in task.questioning.compared_ids(task, rows)
    )
    return plus - minus


def _mean_rank(
    logits: Float[Tensor, "batch pos token"], own: Float[Tensor, "batch pos 1"]
) -> Float[Tensor, "batch pos"]:
    """Rank of one of the logits: 1 is the largest, ties take their mean rank."""
    above = (logits > own).sum(-1)
    tied = (logits == own).sum(-1) - 1
    return 1 + above + tied.double() / 2
