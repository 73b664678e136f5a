"""Whether a transformer taken apart computes what the model itself computes."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from mechocl.models.components import Components
from mechocl.models.forward import attention_scores, forward, prepare
from mechocl.models.seam import Transformer
from mechocl.models.sites import hook_name
from toy_models.comparing import LOGITS, Parting, find_parting, some_rows


@torch.no_grad()
def find_difference(c: Components, model: Transformer) -> Parting | None:
    """The first site at which the pieces compute something else than their model, on a few rows of random tokens.

    It is `embed`, a hook point (`blocks.0.hook_resid_mid`), or the logits; None if the pieces and the model are equal
    at every hook point that both have.
    """
    cfg: Any = model.cfg
    tokens = some_rows(d_vocab=cfg.d_vocab, n_ctx=cfg.n_ctx).to(c.device)
    ours = _ours(c, tokens)
    names = [name for name in ours if name in model.hook_dict]
    logits, kept = model.run_with_cache(tokens, names_filter=names, return_type="logits")
    parting = find_parting(ours, dict(kept.items()) | {LOGITS: logits})
    if parting is not None and parting.site == hook_name("resid_pre", 0):
        return dataclasses.replace(parting, site="embed")
    return parting


def _ours(c: Components, tokens: Tensor) -> dict[str, Tensor]:
    """What the pieces compute, by the model's names, in the order in which it is computed."""
    found: dict[str, Tensor] = {}

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if site == "pattern":
            q, k = (prepare(c, layer, name, found[hook_name(name, layer)], first=0) for name in ("q", "k"))
            found[f"blocks.{layer}.attn.hook_attn_scores"] = attention_scores(q, k, first=0)
        found[hook_name(site, layer)] = x
        return x

    end = forward(c, tokens, tap=tap)
    return found | {LOGITS: c.logits(end)}
