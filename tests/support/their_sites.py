"""Where the modules of a Hugging Face model hold what a site holds, and a forward pass in which it is changed there.

Nothing of the package is used, so that it can be compared with this.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PLACES = {
    "q": ("self_attn.q_proj", "after"),
    "k": ("self_attn.k_proj", "after"),
    "v": ("self_attn.v_proj", "after"),
    "z": ("self_attn.o_proj", "before"),
    "attn_out": ("self_attn", "after"),
    "mlp_post": ("mlp.down_proj", "before"),
    "mlp_out": ("mlp", "after"),
    "resid_pre": ("", "before"),
    "resid_post": ("", "after"),
}
"""Site → module of a block, and whether the site is what goes into it or what comes out of it."""

NORMS_BEHIND = {
    "attn_out": ("post_attention_layernorm", "after"),
    "mlp_out": ("post_feedforward_layernorm", "after"),
}
"""The same in a Gemma 3, which has norms of what is written."""


@contextmanager
def altered(theirs: Any, layer: int, site: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """During the block, `change` of the site's activation takes its place. Heads lie side by side in its last axis."""
    block = theirs.model.layers[layer]
    behind = NORMS_BEHIND if hasattr(block, "post_feedforward_layernorm") else {}
    path, when = (PLACES | behind)[site]
    module = block.get_submodule(path)

    def before(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(given[0]), *given[1:])

    def after(module: Any, given: Any, found: Any) -> Any:
        return (change(found[0]), *found[1:]) if isinstance(found, tuple) else change(found)

    hook = (
        module.register_forward_pre_hook(before) if when == "before" else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def record(theirs: Any, tokens: Tensor, layer: int, site: str) -> Tensor:
    """The site's activation."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x.clone())
        return x

    with altered(theirs, layer, site, keep):
        theirs(tokens, use_cache=False)
    return found[0]


@torch.no_grad()
def exchange(
    theirs: Any, tokens: Tensor, new: Tensor, layer: int, site: str, *, position: int, part: slice
) -> Tensor:
    """Logits with a part of the site's last axis exchanged for `new`, at one position."""

    def put(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, position, part] = new[:, position, part]
        return x

    with altered(theirs, layer, site, put):
        logits: Tensor = theirs(tokens, use_cache=False).logits
    return logits
