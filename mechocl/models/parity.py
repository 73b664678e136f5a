"""How far a loaded model is from the Hugging Face model that it was made of, at every residual stream.

There are two steps, so that the two models are never in memory at the same time: `record` keeps what the Hugging Face
model computes on a few tokens, and `compare` compares another model with that. Both compute in float32, on the device
of the weights. Half-precision weights are widened one module at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechocl.models.seam import Transformer, device_of
from mechocl.models.sites import residual_sites

TOLERANCE: Final = 1e-4
"""Largest difference that counts as rounding in float32, in units of `Parity.scale`."""

MASSIVE: Final = 50.0
"""By how much a value exceeds the root mean square of its residual stream where its own rounding decides what is allowed. The tolerance is
then 2e-6 of the value, about sixteen roundings of a float32."""

_BATCHES: Final = ((1, 64), (2, 24), (4, 8))
"""Examples and positions of each random batch. They have 144 positions, few enough for a large vocabulary's logits."""

_LOGITS: Final = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Differences between a model and the Hugging Face model that it was loaded from, in float32."""

    compared: Literal["logits", "log probabilities"]
    """What was compared at the top: logits, or log probabilities (in nats) where the unembedding is centred, since
    centring shifts all logits of a position alike."""
    max_abs_logit_difference: float
    """Largest absolute difference between two logits (or log probabilities)."""
    top1_agreement: float
    """Share of positions at which both models rank the same token first."""
    residual: Mapping[str, float]
    """Largest absolute difference of each residual stream, from bottom to top, by the labels of
    `sites.residual_sites`. A model with centred weights writes no mean, so the mean of the Hugging Face stream is
    subtracted first."""
    scale: Mapping[str, float]
    """The unit of the tolerance, for each residual stream and for `logits`: the root mean square of the Hugging Face
    model's own values, but at least 1, and at least a fiftieth of the largest of them, here or in an earlier layer. Rounding errors grow with
    the values, and the streams of trained models hold values of several hundred; single ones, *massive activations* (Sun et al. 2024, arXiv
    2402.17762), of tens of thousands, of which float32 keeps no more than hundredths, and whose errors stay when they are taken away again."""
    tokens: int
    """Number of positions at which everything was compared."""
    tolerance: float
    """Largest difference that counts as rounding, in units of the scale."""

    def parts_at(self) -> str | None:
        """The lowest place at which the two models differ by more than the tolerance: `embed`, `layer 0` … or `logits`.

        None if they differ nowhere.
        """
        differences = {**self.residual, _LOGITS: self.max_abs_logit_difference}
        # "not <=", so that a difference that is not a number counts as too large
        within = (label for label, x in differences.items() if not x <= self.tolerance * self.scale[label])
        return next(within, None)

    def complaint(self) -> str:
        """One line that says where the two models differ. Call it only if `parts_at` is not None."""
        label = self.parts_at()
        assert label is not None
        difference = self.max_abs_logit_difference if label == _LOGITS else self.residual[label]
        where = f"the {self.compared}, above the last layer" if label == _LOGITS else label
        allowed = self.tolerance * self.scale[label]
        return (
            f"differs from the Hugging Face model at {where}: the largest difference is {difference:.2g}, "
            f"{allowed:.2g} is allowed"
        )

    def as_json(self) -> dict[str, Any]:
        """The fields as plain values, and `parts_at`."""
        return asdict(self) | {"parts_at": self.parts_at()}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a Hugging Face model computes on one batch, on the CPU."""

    tokens: Int[Tensor, "example pos"]
    residual: Mapping[str, Float[Tensor, "example pos d_model"]]
    """Residual stream by label, from bottom to top."""
    logits: Float[Tensor, "example pos d_vocab"]


def random_batches(*, d_vocab: int, n_ctx: int) -> list[Int[Tensor, "_example _pos"]]:
    """Token ids drawn evenly from `0 … d_vocab-1` by a fixed generator, in batches of several lengths up to `n_ctx`."""
    draws = torch.Generator().manual_seed(0)
    return [
        torch.randint(d_vocab, (examples, min(length, n_ctx)), generator=draws)
        for examples, length in _BATCHES
    ]


@torch.no_grad()
def record(theirs: nn.Module, layers: Sequence[nn.Module], batches: Sequence[Tensor]) -> list[Recorded]:
    """What a Hugging Face causal language model, whose blocks are `layers`, computes on these tokens."""
    labels = list(residual_sites(len(layers)))
    found: dict[str, Tensor] = {}

    def keep(label: str, x: Any) -> None:
        # a block may return its stream alone or as the first item of a tuple; later blocks may change it in place
        found[label] = (x[0] if isinstance(x, tuple) else x).float().cpu().clone()

    recorded = []
    device = next(theirs.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(widened(theirs))
        first = layers[0].register_forward_pre_hook(lambda module, args: keep(labels[0], args))
        stack.callback(first.remove)
        for label, layer in zip(labels[1:], layers, strict=True):
            handle = layer.register_forward_hook(lambda module, args, x, label=label: keep(label, x))
            stack.callback(handle.remove)
        for tokens in batches:
            logits = theirs(tokens.to(device), use_cache=False).logits.float().cpu()
            recorded.append(Recorded(tokens, {label: found[label] for label in labels}, logits))
    return recorded


@torch.no_grad()
def compare(
    model: Transformer, recorded: Sequence[Recorded], *, centred: bool, tolerance: float = TOLERANCE
) -> Parity:
    """Compare a model with what the Hugging Face model computed.

    `centred` says that the model's weights write no mean to the residual stream, and that its unembedding is centred.
    """
    sites = residual_sites(model.cfg.n_layers)
    differences = dict.fromkeys([*sites, _LOGITS], 0.0)
    squares = dict.fromkeys(differences, 0.0)
    largest = dict.fromkeys(differences, 0.0)
    agreeing = 0

    def weigh(label: str, ours: Tensor, theirs: Tensor) -> None:
        difference = float((ours - theirs).abs().max())
        # max() would drop a difference that is not a number
        differences[label] = difference if difference != difference else max(differences[label], difference)
        squares[label] += float(theirs.square().mean()) * theirs[..., 0].numel()
        largest[label] = max(largest[label], float(theirs.abs().max()))

    with widened(model):  # type: ignore[arg-type]
        for batch in recorded:
            logits, cache = model.run_with_cache(
                batch.tokens.to(device_of(model)), names_filter=list(sites.values()), return_type="logits"
            )
            for label, site in sites.items():
                expected = batch.residual[label]
                if centred:
                    expected = expected - expected.mean(-1, keepdim=True)
                weigh(label, cache[site].cpu(), expected)
            ours, theirs = logits.cpu(), batch.logits
            agreeing += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
            if centred:
                ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
            weigh(_LOGITS, ours, theirs)
    positions = sum(batch.tokens.numel() for batch in recorded)
    return Parity(
        compared="log probabilities" if centred else "logits",
        max_abs_logit_difference=differences.pop(_LOGITS),
        top1_agreement=agreeing / positions,
        residual=differences,
        scale=_scale({label: (square / positions) ** 0.5 for label, square in squares.items()}, largest),
        tokens=positions,
        tolerance=tolerance,
    )


def _scale(rms: Mapping[str, float], largest: Mapping[str, float]) -> dict[str, float]:
    """The unit of the tolerance at each label (`Parity.scale`), from the root mean squares and the largest values."""
    found, until = {}, 0.0
    for label, value in rms.items():
        until = largest[label] if label == _LOGITS else max(until, largest[label])
        found[label] = max(1.0, value, until / MASSIVE)
    return found


@contextmanager
def widened(model: nn.Module) -> Iterator[None]:
    """Make every module compute with float32 copies of its own half-precision parameters during the block.

    The copies live only during the module's forward pass, so memory grows by the weights of one module.
    """
    narrow: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}

    def widen(module: nn.Module, args: Any) -> None:
        own = [p for p in module.parameters(recurse=False) if p.dtype in (torch.float16, torch.bfloat16)]
        narrow[module] = [(parameter, parameter.data) for parameter in own]
        for parameter in own:
            parameter.data = parameter.data.float()

    def restore(module: nn.Module, args: Any, output: Any) -> None:
        for parameter, data in narrow.pop(module, []):
            parameter.data = data

    with ExitStack() as stack:
        for module in model.modules():
            if any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters(recurse=False)):
                stack.callback(module.register_forward_pre_hook(widen).remove)
                stack.callback(module.register_forward_hook(restore, always_call=True).remove)
        yield
