"""Subspaces of an activation, and what happens when only they change.

An interchange intervention (Geiger et al. 2021, arXiv 2106.02997) on a subspace: the corrupted run's activation
h gets the clean run's component, h + B Bᵀ (h_clean − h), and the rest of the model runs on from there. With
all of `d_model` this is activation patching of the place; with no direction it changes nothing.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.errors import MechoclError, TooLittleData
from mechocl.interventions import metrics
from mechocl.interventions.exchanged import changed_vectors, only_measured
from mechocl.interventions.pairs import Pairs
from mechocl.models.components import Components, take_apart
from mechocl.models.forward import forward, forward_block, mlp, untouched
from mechocl.models.seam import Transformer
from mechocl.models.sites import find_sites

STREAM_SITES: Final = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Sites that are in the residual stream, or are added to it: a change there is a change of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A site of a layer at one position."""

    layer: int
    site: str
    """One of `STREAM_SITES`."""
    position: str
    """Label of the position in the pairs, such as `alias` or `=`. A name of several tokens means its last token."""

    def __post_init__(self) -> None:
        if self.site not in STREAM_SITES:
            raise MechoclError(
                f"site {self.site!r} is not in the residual stream; use {', '.join(STREAM_SITES)}"
            )

    def index(self, labels: tuple[str, ...]) -> int:
        """Index of the position. Raises MechoclError when no position has this label."""
        found = [
            i
            for i, label in enumerate(labels)
            if label == self.position or label.startswith(f"{self.position} ")
        ]
        if not found:
            raise MechoclError(
                f"no position is called {self.position!r}; these pairs have {', '.join(labels)}"
            )
        return found[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subspace:
    """Orthonormal directions of the activation at a place."""

    name: str
    place: Place
    basis: Float[Tensor, "d_model k"]
    """Orthonormal columns; there may be none."""

    def __post_init__(self) -> None:
        gram = self.basis.T @ self.basis
        if not torch.allclose(gram, torch.eye(len(gram), device=gram.device), atol=1e-4):
            raise MechoclError(f"the basis of {self.name} is not orthonormal; use torch.linalg.qr(basis).Q")

    @property
    def projection(self) -> Float[Tensor, "d_model d_model"]:
        """B Bᵀ."""
        return self.basis @ self.basis.T


def difference_of_means(
    x: Float[Tensor, "example d_model"], first: Bool[Tensor, "example"]
) -> Float[Tensor, "d_model 1"]:
    """Unit direction from the mean of the other examples to that of the `first` ones.

    Raises MechoclError when either kind is missing, or the two means are equal.
    """
    if first.all() or not first.any():
        raise TooLittleData("a difference of means needs examples of both kinds; use more aliases")
    direction = x[first].mean(0) - x[~first].mean(0)
    length = float(direction.norm())
    if length < 1e-6:
        raise MechoclError(
            "the two means are equal, so there is no direction between them; choose another place"
        )
    return (direction / length)[:, None]


# ------------------------------------------------------------------------------------------ the rest of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Interchange:
    """Both runs of pairs at one place, and the rest of the corrupted run. Made by `interchange`."""

    components: Components
    pairs: Pairs
    clean: Float[Tensor, "pair d_model"]
    """The clean run's activation at the place."""
    corrupted: Float[Tensor, "pair d_model"]
    clean_logits: Float[Tensor, "pair token"]
    """The clean run's logits where the answer is read."""
    corrupted_logits: Float[Tensor, "pair token"]
    """The corrupted run's logits there."""
    tokens: Int[Tensor, "token"] | None
    """Ids of the tokens that have logits; None means all."""
    stream: Float[Tensor, "pair pos d_model"]
    """The corrupted run's residual stream where a change at the place enters it."""
    layer: int
    """First layer that reads the changed stream; `n_layers` means that no layer is left."""
    mid: bool
    """Whether only the MLP of this layer is left, because its attention comes before the change."""
    index: int
    """Index of the position that changes."""

    @property
    def difference(self) -> Float[Tensor, "pair d_model"]:
        """What a swap of the whole activation adds: clean − corrupted."""
        return self.clean - self.corrupted

    def __getitem__(self, chosen: Int[Tensor, "pair"]) -> "Interchange":
        names = ("clean", "corrupted", "clean_logits", "corrupted_logits", "stream")
        found = {name: getattr(self, name)[chosen.to(self.stream.device)] for name in names}
        return replace(self, pairs=self.pairs[chosen], **found)

    def logits(self, change: Float[Tensor, "fit pair d_model"]) -> Float[Tensor, "fit pair token"]:
        """Logits of the corrupted run with each change added at the place. Gradients pass to the change."""
        c, first = self.components, int(self.pairs.read.min())
        x, layer, at = self.stream, self.layer, torch.zeros(self.stream.shape[1], device=self.stream.device)
        at[self.index] = 1
        if (
            layer + self.mid == c.n_layers
        ):  # positions no longer see each other, so those before the answer are not needed
            x, at, first = x[:, first:], at[first:], 0
        fits = len(change)
        x = rearrange(x + change[:, :, None] * at[:, None], "fit pair pos d_model -> (fit pair) pos d_model")
        if self.mid:
            x = x + mlp(c, layer, x, untouched)
            layer += 1
        for later in range(layer, c.n_layers):
            last = later == c.n_layers - 1
            x = forward_block(c, later, x, rows=slice(first if last else 0, None))
        read = repeat(
            self.pairs.read.to(x.device) - int(self.pairs.read.min()), "pair -> (fit pair)", fit=fits
        )
        found = c.logits(x[torch.arange(len(x), device=x.device), read], self.tokens)
        return rearrange(found, "(fit pair) token -> fit pair token", fit=fits)


@torch.no_grad()
def interchange(
    c: Components, pairs: Pairs, place: Place, *, tokens: Int[Tensor, "token"] | None
) -> Interchange:
    """Run both sides of the pairs and keep what an intervention at the place needs.

    Raises MechoclError for a layer, site or position that is not there.
    """
    if not 0 <= place.layer < c.n_layers:
        raise MechoclError(f"the model has no layer {place.layer}; its layers are 0 to {c.n_layers - 1}")
    find_sites(c, [place.site])
    index = place.index(pairs.labels)
    direct = c.parallel or c.attn_only  # the MLP does not read what attention writes
    mid = place.site == "resid_mid" or (place.site == "attn_out" and not direct)
    entry = "resid_pre" if place.site == "resid_pre" else "resid_mid" if mid else "resid_post"
    clean, _, clean_logits = _recorded(c, pairs.clean, pairs.read, place, entry, tokens)
    corrupted, stream, corrupted_logits = _recorded(c, pairs.corrupted, pairs.read, place, entry, tokens)
    return Interchange(
        components=c,
        pairs=pairs,
        clean=clean[:, index],
        corrupted=corrupted[:, index],
        clean_logits=clean_logits,
        corrupted_logits=corrupted_logits,
        tokens=tokens,
        stream=stream,
        layer=place.layer + (entry == "resid_post"),
        mid=mid,
        index=index,
    )


@torch.no_grad()
def activation(
    c: Components, tokens: Int[Tensor, "example pos"], place: Place, labels: tuple[str, ...]
) -> Float[Tensor, "example d_model"]:
    """The activation at a place of examples with these position labels."""
    end = torch.full((len(tokens),), tokens.shape[1] - 1)
    x, _, _ = _recorded(c, tokens, end, place, place.site, torch.zeros(0, dtype=torch.long))
    return x[:, place.index(labels)]


def _recorded(
    c: Components, tokens: Tensor, read: Tensor, place: Place, entry: str, ids: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The activation of the site, the stream at the entry, and the logits where the answer is read."""
    kept: dict[str, Tensor] = {}

    def keep(layer: int, name: str, x: Tensor) -> Tensor:
        if layer == place.layer and name in (place.site, entry):
            kept[name] = x
        return x

    x = forward(c, tokens, tap=keep)
    logits = c.logits(x[torch.arange(len(x), device=x.device), read.to(x.device)], ids)
    return kept[place.site], kept[entry], logits


# ------------------------------------------------------------------------------------------ swapping


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapResult:
    """A metric of the clean, the corrupted and the changed runs. Larger is more like the clean run."""

    metric: str
    unit: str
    clean: float
    corrupted: float
    swapped: float
    """NaN (not measured) where the change is nothing in every pair, and so are the effect and the shares."""
    exchanged: int
    """Number of pairs in which the change is more than rounding, and the answer can see it."""
    clean_values: Float[Tensor, "pair"]
    """The metric's value of each pair, before they are pooled into `clean`."""
    corrupted_values: Float[Tensor, "pair"]
    swapped_values: Float[Tensor, "pair"] = field(repr=False)

    def __repr__(self) -> str:
        share = (
            ""
            if abs(self.clean - self.corrupted) < 1e-9
            else f" ({self.effect / (self.clean - self.corrupted):+.2f} of the way)"
        )
        return (
            f"SwapResult({len(self.clean_values)} pairs; {self.metric} of clean {self.clean:+.2f}, of corrupted {self.corrupted:+.2f}, "
            f"of swapped {self.swapped:+.2f} {self.unit}{share})"
        )

    @property
    def effect(self) -> float:
        """swapped − corrupted, in the metric's unit."""
        return self.swapped - self.corrupted

    @property
    def normalised(self) -> float:
        """0 is the corrupted run, 1 the clean one. Raises MechoclError when the two hardly differ."""
        return metrics.normalised(self.swapped, clean=self.clean, corrupted=self.corrupted)

    @property
    def explained(self) -> float:
        """Share of the pairs' squared difference from the clean run that the swap removes.

        It is 1 − Σ (clean − swapped)² / Σ (clean − corrupted)², and NaN where no pair differs or nothing was exchanged. It asks for the right
        change of every pair, and not of their mean. It has no unit, so it can be compared between models."""
        if self.exchanged == 0:
            return float("nan")
        before = float((self.clean_values - self.corrupted_values).square().sum())
        after = float((self.clean_values - self.swapped_values).square().sum())
        return 1 - after / before if before > 1e-9 else float("nan")


@torch.no_grad()
def swap(model: Transformer, pairs: Pairs, subspace: Subspace, *, metric: metrics.GivenMetric) -> SwapResult:
    """Put the clean run's component in the subspace into the corrupted run. `metric`: its name, or your own.

    Raises MechoclError for an unknown metric, and a place or a width that the model does not have.
    """
    c = take_apart(model)
    if len(subspace.basis) != c.W_E.shape[1]:
        raise MechoclError(
            f"{subspace.name} is a subspace of {len(subspace.basis)} dimensions, but the model's d_model is {c.W_E.shape[1]}"
        )
    measure = metrics.metric_of(metric)
    metrics.check_pairs(pairs, measure, c)
    runs = interchange(c, pairs, subspace.place, tokens=measure.tokens(pairs))
    change = runs.difference @ subspace.projection.to(runs.stream)
    return measured(runs, change[None], runs.logits(change[None]), metric=measure)[0]


def measured(
    runs: Interchange,
    change: Float[Tensor, "fit pair d_model"],
    logits: Float[Tensor, "fit pair token"],
    *,
    metric: metrics.GivenMetric,
) -> list[SwapResult]:
    """A metric of each changed run, beside that of the clean and of the corrupted run.

    `logits` are those of the runs with each `change` (`Interchange.logits`)."""
    m, pairs = metrics.metric_of(metric), runs.pairs
    exchanged = (changed_vectors(change, runs.corrupted) & (runs.index <= pairs.read)).sum(1)
    every = torch.cat([runs.clean_logits[None], runs.corrupted_logits[None], logits])
    values = m.per_pair(every, pairs, runs.clean_logits).cpu()
    pooled = m.pool(values, pairs)
    clean, corrupted = pooled[:2].tolist()
    swapped = only_measured(pooled[2:], exchanged).tolist()
    return [
        SwapResult(
            metric=m.name,
            unit=m.unit,
            clean=clean,
            corrupted=corrupted,
            swapped=one,
            exchanged=count,
            clean_values=values[0],
            corrupted_values=values[1],
            swapped_values=own,
        )
        for one, own, count in zip(swapped, values[2:], exchanged.tolist(), strict=True)
    ]
