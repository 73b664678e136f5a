"""Training a crosscoder with SAELens: a BatchTopK SAE of the checkpoints' activations side by side.

Features are ranked by what they contribute to all checkpoints, f_j · Σ_m ‖d_j^m‖, as Minder et al. 2025 (arXiv
2504.02922, section 2) do, and not by the norm of the whole row. With an L1 loss, a feature's decoder for a checkpoint
shrinks to 0 where it is weaker than in the other checkpoint; with BatchTopK nothing makes it shrink.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from einops import rearrange, repeat
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.batchtopk_sae import BatchTopK
from torch import Tensor
from typing_extensions import override

from mechocl.features.settings import TrainingConfig
from mechocl.features.training import SCALE_BATCHES, Wanted, fit, scales, seeded


def fit_crosscoder(
    stream: Iterator[dict[str, Tensor]],
    site: str,
    config: TrainingConfig,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda done: None,
) -> Any:
    """Train a crosscoder on batches of activations, each a checkpoint → (batch, d), in the checkpoints' order.

    The result is a `sae_lens.SAE` of the activations side by side, in their own units, that SAELens saves and opens.
    Its metadata have `parts`, the number of checkpoints, and `scales`, the factors that gave each checkpoint's
    activations a mean norm of √d in training, so that no checkpoint weighs more than another.
    """
    first = list(islice(stream, SCALE_BATCHES))
    scale = scales(first)

    def side_by_side() -> Iterator[dict[str, Tensor]]:
        for batch in chain(first, stream):
            yield {site: torch.cat([batch[name] * scale[name] for name in scale], dim=-1)}

    wanted = {"crosscoder": Wanted(read=site, write=site, width=config.width[0], number=0)}
    make = partial(_untrained, parts=len(scale))
    sae = fit(side_by_side(), wanted, config, device=device, progress=progress, make=make)["crosscoder"]
    return _in_units(sae, list(scale.values()))


def _untrained(
    wanted: Wanted, config: TrainingConfig, widths: dict[str, int], *, parts: int
) -> "CrosscoderTraining":
    cfg = CrosscoderTrainingConfig(
        d_in=widths[wanted.read], d_sae=wanted.width, k=float(config.k), parts=parts
    )
    made: CrosscoderTraining = seeded(partial(CrosscoderTraining, cfg), config.seed, wanted)
    return made


@torch.no_grad()
def _in_units(sae: Any, scale: list[float]) -> Any:
    """The crosscoder without the scales of its training, and with rows of norm 1.

    In training x'_m = s_m · x_m, so rows of the encoder become s_m times as large, decoders and their biases 1/s_m.
    """
    per_input = torch.tensor(scale).repeat_interleave(len(sae.b_dec) // len(scale)).to(sae.b_dec)
    sae.W_enc.mul_(per_input[:, None])
    sae.W_dec.div_(per_input)
    sae.b_dec.div_(per_input)
    sae.fold_W_dec_norm()
    sae.cfg.metadata.parts = len(scale)
    sae.cfg.metadata.scales = scale
    return sae


@dataclass
class CrosscoderTrainingConfig(BatchTopKTrainingSAEConfig):
    """A BatchTopK crosscoder in training; it is saved as SAELens's JumpReLU SAE."""

    parts: int = 2
    """Number of checkpoints, whose activations lie side by side."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "batchtopk_crosscoder"


class CrosscoderTraining(BatchTopKTrainingSAE):
    """A BatchTopK SAE that ranks features by the sum of their decoders' norms (Lindsey et al. 2024).

    As in SAELens, activations are f_j · ‖whole row‖; here they are selected by this product times `_weight`.
    """

    cfg: CrosscoderTrainingConfig

    @override
    def initialize_weights(self) -> None:
        """Start every feature with the same decoder for all checkpoints, like a shared feature."""
        super().initialize_weights()
        n = self.cfg.parts
        part = rearrange(self.W_dec.data, "feature (part d) -> part feature d", part=n)[0]
        row = repeat(part, "feature d -> feature (part d)", part=n)
        row = row * ((self.cfg.decoder_init_norm or 1.0) / row.norm(dim=-1, keepdim=True))
        self.W_dec.data = row
        self.W_enc.data = row.T.contiguous()

    @override
    def get_activation_fn(self) -> Callable[[Tensor], Tensor]:
        return self._selected

    def _selected(self, x: Tensor) -> Tensor:
        kept: Tensor = BatchTopK(self.cfg.k)(x.detach() * self._weight()) > 0
        return x * kept

    @torch.no_grad()
    def _weight(self) -> Tensor:
        """Σ_m ‖d_j^m‖ / ‖whole row‖: 1 for a feature of one checkpoint, up to √n for one that all n share."""
        parts = rearrange(self.W_dec, "feature (part d) -> part feature d", part=self.cfg.parts)
        found: Tensor = parts.norm(dim=-1).sum(0) / self.get_W_dec_norm()
        return found.clamp(min=1.0)

    @override
    def update_topk_threshold(self, acts_topk: Tensor) -> None:
        super().update_topk_threshold(acts_topk * self._weight())

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        state_dict["threshold"] = state_dict["threshold"] / self._weight()
