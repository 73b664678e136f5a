"""The best constant steering vector: what a graft or a circuit has to beat.

One vector, the same for every question, is added to the residual stream of the model before stage 2 at one
layer and position, and trained to make it answer rightly about half of the stage-2 aliases. How far it gets
with the other half is what a mere shift of the model's state explains (arXiv 2507.08218 found such a vector
behind out-of-context reasoning). A constant vector knows no alias; a within-alias AUC above the one before stage 2
therefore means that the model already held the answers and that the vector unlocks them.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.accepted import settle
from mechocl.errors import MechoclError, TooLittleData
from mechocl.interventions.grafting import check_alike, compared
from mechocl.models.components import Components, take_apart
from mechocl.models.forward import forward, forward_block
from mechocl.models.layout import asked_positions
from mechocl.models.seam import Transformer, logits_at
from mechocl.models.sites import residual_sites
from mechocl.shares import in_shares
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS
from toy_models.task import Task

STEERING: Final = "steering vector"
RANDOM: Final = "random vector"

_BATCH: Final = 1024
"""Questions in one forward pass."""

NEW: Final = tuple(name for name, subset in SUBSETS.items() if subset.stage == 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringConfig:
    """How the steering vector is trained."""

    aliases_per_subset: int | None = None
    """Aliases of each subset, the first ones; None: all."""
    steps: int = 100
    """Adam steps."""
    batch_size: int = 128
    """Questions in each step."""
    learning_rate: float = 0.5
    """Adam's at the start, as a share of the root mean square of the residual stream at the site; it falls to 0."""
    random_vectors: int = 5
    """Random directions of the same norm at the same site, whose mean is the control."""
    seed: int = 0
    """Splits the aliases, and draws the batches and the random directions."""

    def __post_init__(self) -> None:
        settle(self)
        if self.aliases_per_subset is not None and self.aliases_per_subset < 2:
            raise MechoclError(
                f"aliases_per_subset is {self.aliases_per_subset}; a steering vector needs at least 2, one to train it and "
                "one to judge it"
            )
        for name in ("steps", "batch_size", "random_vectors"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least 1")
        if not self.learning_rate > 0:
            raise MechoclError(f"learning_rate is {self.learning_rate}; it must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringVector:
    """A constant that is added to the residual stream at one site of every question."""

    vector: Float[Tensor, "d_model"]
    layer: int
    """It is added to the residual stream that this layer reads; the number of layers means after the last layer."""
    position: int
    labels: tuple[str, str]
    """The site in words: `("embed", "alias")`, `("layer 0", "=")`."""
    training_log_probability: float
    """Mean log-probability, in nats, of the right answers about the aliases that it was trained on. The chosen site
    has the highest one."""


def split_aliases(
    task: Task, *, seed: int, aliases_per_subset: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the test questions about one half of the aliases of each stage-2 subset, and about the other half.

    With `aliases_per_subset`, only the first so many aliases of each subset are split.

    Raises MechoclError when the task has no stage-2 aliases, or a subset has only one.
    """
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    table = task.table
    for subset in NEW:
        rows = task.rows(kind="question", split="test", subset=subset)
        aliases = table["alias"].iloc[rows].unique()[:aliases_per_subset]
        rows = rows[np.isin(table["alias"].to_numpy()[rows], aliases)]
        aliases = np.sort(aliases)
        if len(aliases) == 0:
            continue
        if len(aliases) < 2:
            raise TooLittleData(f"{subset} has one alias, which cannot be split; use more aliases")
        order = torch.randperm(len(aliases), generator=generator(seed, "steering split", subset)).numpy()
        first = np.isin(table["alias"].to_numpy()[rows], aliases[order[: len(aliases) // 2]])
        halves[0].append(rows[first])
        halves[1].append(rows[~first])
    if not halves[0]:
        raise MechoclError(
            "the task has no aliases that are first defined in stage 2; use a task with d1, d2 or d3"
        )
    return np.concatenate(halves[0]), np.concatenate(halves[1])


def best_vector(model: Transformer, task: Task, rows: np.ndarray, config: SteeringConfig) -> SteeringVector:
    """The steering vector that was best on these questions, over all layers and positions (in a text: the alias's
    last token and `=`).

    At every site a vector is trained, from 0, to maximise the mean log-probability of the right answer. The site is
    chosen by the same measure: it rises when an answer is unlocked, and also when a threshold is corrected. The
    model itself does not change.

    Raises MechoclError where `components.take_apart` does, and for questions of different layouts.
    """
    c, labels = take_apart(model), asked_positions(task, rows)
    target = task.answers_of(rows)[0].to(c.device)
    places = _places(c, task, rows)
    names = list(residual_sites(c.n_layers))
    found = []
    for place, vectors in zip(places, _train(places, target, config), strict=True):
        with torch.no_grad():
            reached = [place.log_probability(vectors, target, part) for part in _batches(len(rows))]
        for vector, position, value in zip(vectors, place.positions, torch.cat(reached).mean(0), strict=True):
            found.append(
                SteeringVector(
                    vector=vector.clone(),
                    layer=place.layer,
                    position=position,
                    labels=(names[place.layer], labels[position]),
                    training_log_probability=float(value),
                )
            )
    return max(found, key=lambda one: one.training_log_probability)


def steered_logits(
    model: Transformer,
    task: Task,
    rows: np.ndarray,
    *,
    vectors: Float[Tensor, "vector d_model"],
    layer: int,
    position: int,
) -> Float[Tensor, "question vector candidate"]:
    """Logits of `Questioning.answer_ids` at `=` of the given questions with each vector added at one site."""
    c = take_apart(model)
    place = replace(_places(c, task, rows)[layer], positions=[position] * len(vectors))
    ids = task.questioning.answer_ids(task.vocabulary).to(c.device)
    with torch.no_grad():
        outputs = [place.outputs(vectors.to(c.device), part) for part in _batches(len(rows))]
        return c.logits(torch.cat(outputs), ids).cpu()


def steering_study(
    before: Transformer, after: Transformer, task: Task, config: SteeringConfig
) -> pd.DataFrame:
    """The best constant steering vector of the model before stage 2, beside random vectors of the same norm.

    It is trained on one half of the stage-2 aliases, which also chooses the site; all values are of the other half.
    The rows are like those of `grafting.graft_study`: `group` is "steering vector" or "random vector", `site` is
    where it is added, `metric` is "auc" or "accuracy" (definitions have no such site, so there is no recall),
    `share` is the share of what stage 2 gained on the same aliases, and `change` is the vector's norm. A vector of zeros, such as
    training leaves where nothing can be learned, is not measured: its rows have no value.

    Raises MechoclError for models of different shapes, and where `best_vector` or `split_aliases` does.
    """
    check_alike(before, after)
    training, held_out = split_aliases(task, seed=config.seed, aliases_per_subset=config.aliases_per_subset)
    best = best_vector(before, task, training, config)
    draws = generator(config.seed, "random steering vectors")
    random = torch.randn(config.random_vectors, len(best.vector), generator=draws)
    random = best.vector.norm().cpu() * random / random.norm(dim=-1, keepdim=True)
    both = torch.cat([best.vector.cpu()[None], random])
    steered = steered_logits(before, task, held_out, vectors=both, layer=best.layer, position=best.position)
    tokens, where = task.tokens[torch.from_numpy(held_out)], task.position_of("equals", held_out)
    none, all_ = (
        _by_subset(
            task,
            held_out,
            logits_at(model, tokens, torch.from_numpy(where), task.questioning.answer_ids(task.vocabulary))[
                :, None
            ],
        )
        for model in (before, after)
    )
    site = " ".join(best.labels)
    tables = [
        compared(_by_subset(task, held_out, found), none, all_, group=group, site=site)
        for group, found in ((STEERING, steered[:, :1]), (RANDOM, steered[:, 1:]))
    ]
    rows = pd.concat(tables, ignore_index=True).assign(change=float(best.vector.norm()))
    rows.loc[rows["change"] == 0, ["value", "effect", "share"]] = np.nan
    return rows


@dataclass(frozen=True, slots=True)
class _Place:
    """Questions on their way through the model: the residual stream that a layer reads, to be steered."""

    c: Components
    layer: int
    """The number of layers means after the last layer."""
    stream: Float[Tensor, "question pos d_model"]
    positions: list[int]
    """Where each of the vectors is added."""

    def outputs(
        self, vectors: Float[Tensor, "vector d_model"], chosen: slice | Int[Tensor, "question"]
    ) -> Float[Tensor, "question vector d_model"]:
        """The residual stream after the last layer at the last position, with each vector added at its own."""
        c, stream = self.c, self.stream[chosen]
        where = F.one_hot(torch.tensor(self.positions, device=stream.device), stream.shape[1]).to(stream)
        x = stream[:, None] + where[..., None] * vectors[:, None]
        x = rearrange(x, "question vector pos d_model -> (question vector) pos d_model")
        for number in range(self.layer, c.n_layers):
            last = number == c.n_layers - 1
            x = forward_block(c, number, x, rows=slice(-1, None) if last else slice(None))
        out: Tensor = rearrange(x[:, -1], "(question vector) d -> question vector d", vector=len(vectors))
        return out

    def log_probability(
        self,
        vectors: Float[Tensor, "vector d_model"],
        target: Int[Tensor, "all_questions"],
        chosen: slice | Int[Tensor, "question"],
    ) -> Float[Tensor, "question vector"]:
        """Log-probability of the right answers to the chosen questions."""
        log_p = self.c.logits(self.outputs(vectors, chosen)).log_softmax(-1)
        right = target[chosen][:, None, None].expand(-1, len(vectors), 1)
        return log_p.gather(-1, right)[..., 0]


@torch.no_grad()
def _places(c: Components, task: Task, rows: np.ndarray) -> list[_Place]:
    """Before each layer, all positions (in a text, the alias's last one and the one that is read); after the last
    layer, the position that is read."""
    n_pos = len(asked_positions(task, rows))
    found: list[list[Tensor]] = [[] for _ in range(c.n_layers + 1)]
    for batch in torch.split(task.tokens[torch.from_numpy(rows)][:, :n_pos], _BATCH):

        def keep(layer: int, site: str, x: Tensor) -> Tensor:
            if site == "resid_pre":
                found[layer].append(x)
            return x

        found[-1].append(forward(c, batch, tap=keep))
    tried = task.questioning.positions_to_steer(task, rows, n_pos)
    positions = [tried] * c.n_layers + [[n_pos - 1]]
    return [_Place(c, i, torch.cat(found[i]), at) for i, at in enumerate(positions)]


def _batches(n: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, n, _BATCH)]


@torch.enable_grad()
def _train(
    places: list[_Place], target: Int[Tensor, "question"], config: SteeringConfig
) -> list[Float[Tensor, "vector d_model"]]:
    """For each place, a trained vector of every position."""
    # Adam's steps have the size of its rate, so vectors are learned in units of the stream at their site
    scales = [
        place.stream[:, place.positions].square().mean((0, 2)).sqrt().clamp(min=1e-6)[:, None]
        for place in places
    ]
    d_model, device = places[0].stream.shape[-1], target.device
    scaled = [torch.zeros(len(scale), d_model, device=device, requires_grad=True) for scale in scales]
    optimizer = torch.optim.Adam(scaled, lr=config.learning_rate)
    draws = generator(config.seed, "steering batches")
    for step in in_shares(range(config.steps), end=0.8):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.steps)
        batch = torch.randint(len(target), (config.batch_size,), generator=draws).to(device)
        optimizer.zero_grad()
        for place, vectors, scale in zip(places, scaled, scales, strict=True):
            # the vectors of different positions do not meet, so in this sum each is trained as if it were alone
            loss = -place.log_probability(vectors * scale, target, batch).mean(0).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return [(vectors * scale).detach() for vectors, scale in zip(scaled, scales, strict=True)]


def _by_subset(
    task: Task, rows: np.ndarray, logits: Float[Tensor, "question vector candidate"]
) -> pd.DataFrame:
    """Mean over aliases and vectors, one row for each subset."""
    each = pd.concat([task.questioning.judge(task, rows, one) for one in logits.unbind(1)])
    means = each.groupby("subset")[["auc", "accuracy"]].mean()
    means["aliases"] = each.groupby("subset")["alias"].nunique()
    return means.loc[[name for name in NEW if name in means.index]].reset_index()
