"""Sites: TransformerLens's names of the activations that can be looked at and changed, and which of them a model has."""

from collections.abc import Sequence
from typing import Final

from mechocl.errors import MechoclError
from mechocl.models.components import Components


def residual_sites(n_layers: int) -> dict[str, str]:
    """Label → hook point of the residual stream, from bottom to top: `embed`, then the stream after each layer."""
    return {"embed": "blocks.0.hook_resid_pre"} | {
        f"layer {layer}": f"blocks.{layer}.hook_resid_post" for layer in range(n_layers)
    }


HEAD_SITES: Final = ("q", "k", "v", "z", "pattern")

KEY_VALUE_SITES: Final = ("k", "v")
"""The sites among these that have one activation for each key/value head, of which there may be fewer than heads."""

SITES: Final = ("resid_pre", *HEAD_SITES, "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
"""TransformerLens's activations that can be patched, in the order in which a layer computes them."""


def hook_name(site: str, layer: int) -> str:
    """TransformerLens's name of a site: `blocks.1.attn.hook_z`."""
    inside = "attn." if site in HEAD_SITES else "mlp." if site == "mlp_post" else ""
    return f"blocks.{layer}.{inside}hook_{site.removeprefix('mlp_') if site == 'mlp_post' else site}"


def sites_of(c: Components) -> tuple[str, ...]:
    """The sites that this model has."""
    missing = {"mlp_post", "mlp_out", "resid_mid"} if c.attn_only else {"resid_mid"} if c.parallel else set()
    return tuple(site for site in SITES if site not in missing)


def unit_of(c: Components, site: str) -> str:
    """What the units of a site are: head, key/value head (where several heads share one), neuron, or whole, the site itself."""
    if site in HEAD_SITES:
        return "key/value head" if site in KEY_VALUE_SITES and c.n_key_value_heads < c.n_heads else "head"
    return "neuron" if site == "mlp_post" else "whole"


def find_sites(c: Components, names: Sequence[str]) -> list[tuple[int, str]]:
    """The pairs (layer, site) that the names mean, sorted and each of them once.

    A name is a site, which means that site in every layer (`z`), or a hook point (`blocks.1.attn.hook_z`).
    Raises MechoclError, which proposes the nearest name, for a name that the model does not have.
    """
    import difflib

    known = {hook_name(site, layer): (layer, site) for layer in range(c.n_layers) for site in sites_of(c)}
    found: list[tuple[int, str]] = []
    for name in names:
        if name in sites_of(c):
            found += [(layer, name) for layer in range(c.n_layers)]
        elif name in known:
            found.append(known[name])
        else:
            near = difflib.get_close_matches(name, [*sites_of(c), *known], n=1, cutoff=0.0)
            why = ""
            if name in SITES:
                why = " (its blocks have no MLP)" if c.attn_only else " (attention and MLP run in parallel)"
            raise MechoclError(
                f"the model has no site {name!r}{why}; did you mean {near[0]!r}? Its sites: {', '.join(sites_of(c))}, "
                f"in layers 0 to {c.n_layers - 1}"
            )
    return sorted(set(found), key=lambda site: (site[0], SITES.index(site[1])))
