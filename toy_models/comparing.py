"""Compare two forward passes of one model, site by site, and say where they part.

A forward pass that is written anew covers some models and not others. Whether it covers a model is found out by running
a few rows through both. A list of what is not covered would let everything pass that its author did not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn

ROUNDING: Final = 2e-3
"""Largest difference that counts as rounding, as a share of the root mean square of a site's activations."""

_ROUGH: Final = 0.1
"""The same where matrix products are computed in less than float32 (TF32, or bfloat16)."""

_LEAST: Final = 1e-3
"""Least root mean square that the share is taken of: smaller activations may be what rounding leaves of a sum of 0."""

_ROWS, _POSITIONS = 2, 64

LOGITS: Final = "the logits"


@dataclass(frozen=True, slots=True)
class Parting:
    """The first site at which two forward passes differ by more than rounding."""

    site: str
    difference: float
    """Largest absolute difference of two activations there; infinite if they have not the same shape."""
    allowed: float

    def __str__(self) -> str:
        if self.difference == float("inf"):
            return f"{self.site} (which has another shape)"
        return f"{self.site} (the largest difference is {self.difference:.2g}, {self.allowed:.2g} is allowed)"


def some_rows(*, d_vocab: int, n_ctx: int) -> Int[Tensor, "row pos"]:
    """Token ids to compare on: two rows of at most 64 positions, drawn evenly by a fixed generator."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(d_vocab, (_ROWS, min(_POSITIONS, n_ctx)), generator=draws)


def find_parting(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Parting | None:
    """The first site of `ours`, in its order, at which `theirs` has something else; None if they are equal.

    Sites that `theirs` does not have are passed over, and so is what is infinite in `theirs` (masked attention scores). A
    model that has diverged, so that `theirs` is not a number at a site, is not compared from there on.
    """
    precise = torch.get_float32_matmul_precision() == "highest"
    share = ROUNDING if precise else _ROUGH
    for site, x in ours.items():
        if site not in theirs:
            continue
        y = theirs[site].float()
        if x.shape != y.shape:
            return Parting(site, float("inf"), 0.0)
        if y.isnan().any():
            return None
        seen = y.isfinite()
        if not seen.any():
            continue
        x, y = x.float()[seen], y[seen]
        allowed = share * max(float(y.square().mean().sqrt()), _LEAST)
        difference = float((x - y).abs().max())
        if not difference <= allowed:
            return Parting(site, difference, allowed)
    return None


def acts_beyond_rows(cfg: Any) -> str | None:
    """What of a model may act only on larger activations or longer rows than those compared; None if nothing does.

    A comparison cannot see it, so it is read from TransformerLens's config.
    """
    window, n_ctx = getattr(cfg, "window_size", None) or cfg.n_ctx, cfg.n_ctx
    found = {
        "capped attention scores": getattr(cfg, "attn_scores_soft_cap", 0.0) > 0,
        "capped logits": getattr(cfg, "output_logits_soft_cap", 0.0) > 0,
        "clipped queries, keys and values": getattr(cfg, "clip_qkv", None) is not None,
        f"local attention, which looks back {window} of its {n_ctx} positions (load the model with n_ctx={window} to avoid it)": (
            getattr(cfg, "use_local_attn", False) and "local" in cfg.attn_types and window < n_ctx
        ),
        "attention scores that are scaled by the length": getattr(cfg, "use_logn_attn", False),
        "rotary embeddings that change with the length": getattr(cfg, "use_dynamic_ntk_rope", False),
    }
    return next((what for what, there in found.items() if there), None)


class Passed:
    """The models that were compared and found equal, so that each is compared once.

    A model whose config, modules, functions, PyTorch hooks or mode of training have changed since counts as another one. Its
    weights may change: what a model computes with them stays the same.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, tuple[object, ...]] = WeakKeyDictionary()

    def __contains__(self, model: nn.Module) -> bool:
        return model in self._known and self._known[model] == _built_as(model)

    def add(self, model: nn.Module) -> None:
        self._known[model] = _built_as(model)


def _built_as(model: Any) -> tuple[object, ...]:
    return (
        repr(model.cfg),
        model.training,
        *(part for module in model.modules() for part in _acts_as(module)),
    )


def _acts_as(module: nn.Module) -> tuple[int, ...]:
    """The identity of a module, and of what a user may put around its forward pass, or in place of its functions."""
    around = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    own = (value for value in vars(module).values() if callable(value))
    return (id(module), *map(id, (*around, *own)))
