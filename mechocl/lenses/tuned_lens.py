"""Tuned lens (Belrose et al. 2023, arXiv 2303.08112): a logit lens that first learns each layer's language.

Each site of the residual stream has one affine translator, `x @ W + b`. It is trained so that the final layer norm
and the unembedding give from it what the model itself will say. Where the logit lens sees nothing, the stream may
hold nothing, or hold something in directions that the unembedding does not read; the tuned lens tells these apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.lenses.logit_lens import Reading, Written, kl_divergence, read_questions, stream_layers
from mechocl.models.components import Components, take_apart
from mechocl.models.forward import forward
from mechocl.models.seam import Transformer
from toy_models.randomness import generator
from toy_models.task import ROLE, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedLensConfig:
    """How the translators are trained, and what is read with them."""

    aliases_per_subset: int = 100
    """Aliases of each subset, the first ones, that the lens is read on."""
    examples: int = 4096
    """Training examples, drawn at random, that the translators are trained on; all if there are fewer."""
    steps: int = 600
    """Steps of Adam; with 0 the lens is the logit lens."""
    batch: int = 512
    """Positions in each step."""
    lr: float = 0.01
    """Learning rate at the first step; it falls linearly to 0."""
    seed: int = 0
    """Draws the examples and the batches."""

    def __post_init__(self) -> None:
        settle(self)
        for name in ("aliases_per_subset", "examples", "batch"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least 1")
        if self.steps < 0:
            raise MechoclError(f"steps is {self.steps}; use 0 or more")
        if not 0 < self.lr < float("inf"):
            raise MechoclError(f"lr is {self.lr}; use a number above 0, such as 0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedLens:
    """A trained translator of each site below the top of the residual stream."""

    layers: tuple[str, ...]
    """Labels of the sites: "embed", "layer 0", …, without the last layer, which needs no translation."""
    W: Float[Tensor, "site d_model d_model"]
    b: Float[Tensor, "site d_model"]
    loss: Float[Tensor, "site step"]
    """KL(model ‖ lens) of each step's batch, in nats."""

    def translate(self, layer: str, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The stream at a site as it would be after the last layer; after the last layer, `x` itself."""
        if layer not in self.layers:
            return x
        site = self.layers.index(layer)
        return x @ self.W[site].to(x.device) + self.b[site].to(x.device)


def fit_tuned_lens(
    model: Transformer,
    tokens: Int[Tensor, "example pos"],
    *,
    at: Bool[Tensor, "example pos"],
    config: TunedLensConfig,
) -> TunedLens:
    """Train translators, identities at first, to minimise KL(model's output ‖ lens's output) in nats.

    `at` marks the positions that count. The sites see the same batches and do not influence each other
    (Belrose et al., eq. 5). The result lies on the model's device and is determined by `config.seed`. The
    model's weights are not trained. Raises MechoclError when `at` marks no position.
    """
    c = take_apart(model)
    stream = stream_at(c, tokens, at=at)
    if stream.shape[1] == 0:
        raise MechoclError("there is no position to train a tuned lens on; mark at least one")
    draws = generator(config.seed, "tuned lens", "batches")
    batches = torch.randint(stream.shape[1], (config.steps, config.batch), generator=draws)
    fitted = [_fit_site(c, x, stream[-1], batches.to(c.device), lr=config.lr) for x in stream[:-1]]
    W, b, loss = (torch.stack(parts) for parts in zip(*fitted, strict=True))
    return TunedLens(layers=tuple(stream_layers(c)[:-1]), W=W, b=b, loss=loss)


def _fit_site(
    c: Components,
    x: Float[Tensor, "row d_model"],
    last: Float[Tensor, "row d_model"],
    batches: Int[Tensor, "step batch"],
    *,
    lr: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Translator of one site and its loss at each step."""
    with torch.enable_grad():
        W = torch.eye(x.shape[1], device=x.device, requires_grad=True)
        b = torch.zeros(x.shape[1], device=x.device, requires_grad=True)
        optimizer = torch.optim.Adam([W, b], lr=lr)
        loss = torch.zeros(len(batches), device=x.device)
        for step, rows in enumerate(batches):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / len(batches))
            kl = kl_divergence(c.logits(x[rows] @ W + b), target=c.logits(last[rows])).mean()
            optimizer.zero_grad()
            kl.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss[step] = kl.detach()
    return W.detach(), b.detach(), loss


@torch.no_grad()
def stream_at(
    c: Components,
    tokens: Int[Tensor, "example pos"],
    *,
    at: Bool[Tensor, "example pos"],
    batch_size: int = 1024,
) -> Float[Tensor, "site row d_model"]:
    """The residual stream before layer 0 and after each layer, at the marked positions, example by example."""
    sites: list[list[Tensor]] = [[] for _ in range(c.n_layers + 1)]
    for batch, marked in zip(torch.split(tokens, batch_size), torch.split(at, batch_size), strict=True):
        here = marked.to(c.device)

        def tap(layer: int, site: str, x: Tensor, here: Tensor = here) -> Tensor:
            if site == "resid_pre":
                sites[layer].append(x[here])
            return x

        sites[-1].append(forward(c, batch, tap=tap)[here])
    return torch.stack([torch.cat(parts) for parts in sites])


def predicted_positions(task: Task, rows: np.ndarray) -> Bool[Tensor, "example pos"]:
    """Positions of the given examples that are followed by a token which the model can put out."""
    tokens, roles = (x[torch.from_numpy(rows)] for x in (task.tokens, task.roles))
    at = torch.zeros(tokens.shape, dtype=torch.bool)
    at[:, :-1] = (roles[:, 1:] != ROLE["pad"]) & (tokens[:, 1:] < task.vocabulary.outputs)
    return at


def fit_on_task(model: Transformer, task: Task, config: TunedLensConfig) -> TunedLens:
    """Translators trained on the task's training examples (definitions and questions), and on no test question."""
    rows = task.training_rows((1, 2))
    order = torch.randperm(len(rows), generator=generator(config.seed, "tuned lens", "examples"))
    chosen = rows[order[: config.examples].numpy()]
    tokens = task.tokens[torch.from_numpy(chosen)]
    return fit_tuned_lens(model, tokens, at=predicted_positions(task, chosen), config=config)


def tuned_lens(model: Transformer, task: Task, config: TunedLensConfig) -> pd.DataFrame:
    """The table of `lenses.logit_lens` of the residual stream, read through translators trained on this task.

    Its `kl` is held out: the translators have seen no test question. After the last layer the two lenses are
    the same. Raises MechoclError where `logit_lens` does.
    """
    lens = fit_on_task(model, task, config)
    c = take_apart(model)

    def readings(written: Written) -> Iterator[Reading]:
        for layer, x in zip(stream_layers(c), written.stream, strict=True):
            yield "stream", layer, c.logits(lens.translate(layer, x))

    with torch.no_grad():
        return read_questions(c, task, readings, aliases_per_subset=config.aliases_per_subset)
