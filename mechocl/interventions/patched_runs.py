"""The runs that patches are put into, and forward passes that compute only what a patch changes.

A pass begins at the patched layer and position, on the cached run: positions before it keep their keys and values,
positions after it and layers above are computed, and in the last layer only the rows that the answer is read from.
Many patches of the same pairs go through it together, and logits are computed for the metric's tokens alone.
`tests/interventions/test_patching.py` holds every grid equal to TransformerLens's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.exchanged import differing_units, pairs_with_exchange
from mechocl.interventions.metrics import Metric
from mechocl.interventions.other_examples import along_positions, resampled
from mechocl.interventions.pairs import Pairs
from mechocl.models import forward
from mechocl.models.components import Components
from mechocl.models.forward import (
    Keys,
    Tap,
    after_attention,
    attention_pattern,
    attn_out,
    forward_block,
    mix,
    untouched,
)
from mechocl.models.sites import HEAD_SITES, KEY_VALUE_SITES

Mode = Literal["denoise", "noise", "zero", "mean", "resample"]
"""What is put where. `denoise` puts the clean run's activation into the corrupted run; `noise` does the reverse.
`zero`, `mean` (over the pairs that reach it, at each position) and `resample` (from another pair) change the clean run."""

SiteKey = tuple[int, str]

_AFTER_ATTENTION: Final = frozenset({"attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post"})
"""Sites that leave a layer's attention as it was."""

_LOCAL: Final = _AFTER_ATTENTION | {"q", "z", "pattern"}
"""Sites that change the layer's output at their own position alone."""


@dataclass(frozen=True, slots=True)
class _Base:
    """A run that patches are put into."""

    stream: tuple[Float[Tensor, "pair pos d_model"], ...]
    """The residual stream before each layer, and after the last."""
    keys: tuple[Keys, ...]
    queries: tuple[Float[Tensor, "pair pos head d_head"], ...]
    """Normalised and turned, as the keys are."""
    sites: dict[SiteKey, Tensor]
    """Activations at the sites that are patched, and what they are computed from."""


@dataclass(frozen=True, slots=True)
class PatchedRuns:
    """Runs of the model `into`, in which activations come from runs of the model `origin`, on the same pairs."""

    into: Components
    origin: Components
    pairs: Pairs
    metric: Metric
    mode: Mode
    keys: frozenset[SiteKey]
    batch_size: int
    seed: int

    def chunks(self) -> "Iterator[PairsChunk]":
        mean = self._means() if self.mode == "mean" else {}
        order = torch.arange(len(self.pairs))
        others = resampled(self.pairs.read, self.seed)
        for rows in torch.split(order, self.batch_size):
            pairs, denoise = _up_to_the_answer(self.pairs[rows]), self.mode == "denoise"
            base = _cached_run(self.into, pairs.corrupted if denoise else pairs.clean, self.keys)
            _refuse_not_finite(base.stream, rows, pairs.name)
            kept: dict[SiteKey, Tensor] = {}
            end = _stream(self.origin, pairs.clean if denoise else pairs.corrupted, self.keys, kept)
            _refuse_not_finite([end], rows, pairs.name)
            length = pairs.clean.shape[1]
            if self.mode == "resample":
                kept = {}
                _stream(self.origin, self.pairs.clean[others[rows], :length], self.keys, kept)
            elif self.mode == "mean":
                kept = {
                    key: x[:, :, :length, :length] if key[1] == "pattern" else x[:, :length]
                    for key, x in mean.items()
                }
            source = {} if self.mode == "zero" else kept
            at = torch.arange(len(pairs))
            base_end, source_end = base.stream[-1][at, pairs.read], end[at, pairs.read]
            clean_end, corrupted_end = (source_end, base_end) if denoise else (base_end, source_end)
            clean_owner, corrupted_owner = (self.origin, self.into) if denoise else (self.into, self.origin)
            ids = self.metric.tokens(pairs)
            clean_logits = clean_owner.logits(clean_end, ids)

            def judge(logits: Tensor, pairs: Pairs = pairs, clean_logits: Tensor = clean_logits) -> Tensor:
                return self.metric.per_pair(logits, pairs, clean_logits).cpu()

            yield PairsChunk(
                self.into, rows, pairs, base, source, ids, judge, self.batch_size,
                clean=judge(clean_logits), corrupted=judge(corrupted_owner.logits(corrupted_end, ids)),
                differing={key: differing_units(source.get(key), base.sites[key], key[1]) for key in self.keys},
            )  # fmt: skip

    def _means(self) -> dict[SiteKey, Tensor]:
        """Mean of each site's activations over the clean examples, at each position over those that are not over before it."""
        total: dict[SiteKey, Tensor] = {}
        reached = torch.arange(self.pairs.clean.shape[1]) <= self.pairs.read[:, None]
        for rows in torch.split(torch.arange(len(self.pairs)), self.batch_size):
            found: dict[SiteKey, Tensor] = {}
            _stream(self.origin, self.pairs.clean[rows], self.keys, found)
            for key, x in found.items():
                own = torch.where(along_positions(reached[rows], x, key[1]), x.double(), 0)
                total[key] = total.get(key, 0) + own.sum(0, keepdim=True)
        often = reached.sum(0, keepdim=True).clamp(min=1)
        return {key: (x / along_positions(often, x, key[1])).float() for key, x in total.items()}


@dataclass(frozen=True, slots=True)
class PairsChunk:
    """Some of the pairs, with everything cached that their patches need."""

    c: Components
    rows: Int[Tensor, "pair"]
    pairs: Pairs
    base: _Base
    source: dict[SiteKey, Tensor]
    """Activations to put in; if it is empty, zeros are put in."""
    ids: Int[Tensor, "id"] | None
    judge: Callable[[Tensor], Tensor]
    batch_size: int
    clean: Float[Tensor, "pair"]
    corrupted: Float[Tensor, "pair"]
    differing: dict[SiteKey, Bool[Tensor, "pair pos unit"]]
    """Where what is put in differs from the base run."""

    def patched(
        self, key: SiteKey, where: Bool[Tensor, "pair pos"], each_unit: bool
    ) -> tuple[Float[Tensor, "unit pair"], Bool[Tensor, "unit pair"]]:
        """The metric of every pair with a site patched at `where`, its units one at a time or together (one row).

        The second value says in which pairs something was exchanged."""
        units = self._units(key) if each_unit else 1
        where = where[:, : self.pairs.clean.shape[1]]
        exchanged = pairs_with_exchange(self.differing[key], where, self.pairs.read)
        if not each_unit:
            exchanged = exchanged.any(0, keepdim=True)
        if not exchanged.any():
            return self._read(self.base.stream[-1], 1).expand(units, -1), exchanged
        one_hot = torch.eye(units, dtype=torch.bool) if units > 1 else torch.ones(1, 1, dtype=torch.bool)
        at_once = max(1, self.batch_size // len(self.pairs))
        found = [self._run(key, where, chosen) for chosen in torch.split(one_hot, at_once)]
        return torch.cat(found), exchanged

    def _units(self, key: SiteKey) -> int:
        layer, site = key
        if site in HEAD_SITES:
            return self.c.n_key_value_heads if site in KEY_VALUE_SITES else self.c.n_heads
        W_in = self.c.blocks[layer].W_in
        return W_in.shape[1] if site == "mlp_post" and W_in is not None else 1

    def _run(
        self, key: SiteKey, where: Bool[Tensor, "pair pos"], chosen: Bool[Tensor, "unit all"]
    ) -> Float[Tensor, "unit pair"]:
        """One forward pass of as many patches as `chosen` has rows."""
        (layer, site), n, c = key, len(chosen), self.c
        local = site in _LOCAL
        if local and layer == c.n_layers - 1:  # the answer depends only on the rows that it is read from
            where = where & (torch.arange(where.shape[1]) == self.pairs.read[:, None])
        masked = where.any(0).nonzero()[:, 0]
        if len(masked) == 0:
            return self._read(self.base.stream[-1], 1).expand(n, -1)
        changed = slice(int(masked[0]), int(masked[-1]) + 1)
        x = self._again(self.base.stream[layer][:, changed], n)
        tap: Tap = _Replace(
            site, self.source.get(key), where.to(c.device), chosen.to(c.device), changed.start
        )
        if local:
            x = self._alone(layer, site, x, changed, tap, n)
            layer, tap = layer + 1, untouched
        if layer == c.n_layers:
            return self._read(torch.cat([x, self._again(self.base.stream[-1][:, changed.stop :], n)], 1), n)
        x = self._spread(layer, tap("resid_pre", x), changed, tap, n)
        for above in range(layer + 1, c.n_layers):
            past = self._keys(above, slice(0, changed.start), n)
            needed = slice(max(0, self._first_needed(above) - changed.start), None)
            x = forward_block(c, above, x, past=past, rows=needed)
        return self._read(x, n)

    def _alone(self, layer: int, site: str, x: Tensor, changed: slice, tap: Tap, n: int) -> Tensor:
        """The changed rows after a layer patched at a site that leaves the other rows as they were."""
        if site in _AFTER_ATTENTION:
            attention = self._again(self.base.sites[layer, "attn_out"][:, changed], n)
            return after_attention(self.c, layer, x, attention, tap=tap)
        return forward_block(self.c, layer, x, tap=tap, past=self._keys(layer, slice(0, changed.start), n))

    def _spread(self, layer: int, x: Tensor, changed: slice, tap: Tap, n: int) -> Tensor:
        """The stream after a layer from its first changed row on. `x`: the changed rows before the layer.

        The rows after them keep their queries, and some of the keys and values that they read are new.
        """
        new: dict[str, Tensor] = {}

        def seen(name: str, value: Tensor) -> Tensor:
            new[name] = tap(name, value)
            return new[name]

        c, first, needed = self.c, changed.start, self._first_needed(layer)
        past = self._keys(layer, slice(0, first), n)
        x = forward_block(c, layer, x, tap=seen, past=past, rows=slice(max(0, needed - first), None))
        rows = slice(max(changed.stop, needed), self.base.stream[layer].shape[1])
        if rows.start == rows.stop:
            return x
        own = Keys(forward.prepare(c, layer, "k", new["k"], first=first), new["v"])
        known = [keys for keys in (past, own, self._keys(layer, slice(changed.stop, None), n)) if keys]
        k, v = (torch.cat(parts, 1) for parts in zip(*((keys.k, keys.v) for keys in known), strict=True))
        q = self._again(self.base.queries[layer][:, rows], n)
        attention = attn_out(c, layer, mix(attention_pattern(q, k, first=rows.start), v))
        before = self._again(self.base.stream[layer][:, rows], n)
        if not c.parallel or c.attn_only:
            return torch.cat([x, after_attention(c, layer, before, attention)], 1)
        beside = self._again(self.base.sites[layer, "mlp_out"][:, rows], n)
        return torch.cat([x, before + attention + beside], 1)

    def _first_needed(self, layer: int) -> int:
        """The first row of a layer's output that matters."""
        return int(self.pairs.read.min()) if layer == self.c.n_layers - 1 else 0

    def _keys(self, layer: int, positions: slice, n: int) -> Keys | None:
        keys = self.base.keys[layer]
        k, v = keys.k[:, positions], keys.v[:, positions]
        return Keys(self._again(k, n), self._again(v, n)) if k.shape[1] else None

    def _again(self, x: Tensor, n: int) -> Tensor:
        return repeat(x, "pair ... -> (unit pair) ...", unit=n) if n > 1 else x

    def _read(self, x: Float[Tensor, "batch pos d_model"], n: int) -> Float[Tensor, "unit pair"]:
        """The metric from the stream after the last layer, whose last position is the last that is read."""
        back = int(self.pairs.read.max()) - self.pairs.read
        before = x.shape[1] - 1 - back
        # an answer read before the first patched position is the base run's
        at = torch.arange(len(x), device=x.device)
        own = x[at, before.clamp(min=0).repeat(n).to(x.device)]
        unchanged = (before < 0).to(x.device)
        if unchanged.any():
            base = self.base.stream[-1][torch.arange(len(self.pairs)), self.pairs.read]
            own = torch.where(unchanged.repeat(n)[:, None], self._again(base, n), own)
        logits = self.c.logits(own, None if self.ids is None else self.ids.to(x.device))
        return self.judge(rearrange(logits, "(unit pair) id -> unit pair id", unit=n))


@dataclass(frozen=True, slots=True)
class _Replace:
    """The tap that puts source activations in, at masked positions of some units."""

    site: str
    source: Tensor | None
    where: Bool[Tensor, "pair pos"]
    chosen: Bool[Tensor, "unit all"]
    first: int

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name != self.site:
            return x
        n = len(self.chosen)
        x = rearrange(x, "(unit pair) ... -> unit pair ...", unit=n)
        pos_axis = 3 if name == "pattern" else 2
        rows = slice(self.first, self.first + x.shape[pos_axis])
        where = self.where[None, :, rows]
        if name == "pattern":
            mask = where[:, :, None, :, None] & self.chosen[:, None, :, None, None]
        elif x.ndim == 5:
            mask = where[..., None, None] & self.chosen[:, None, None, :, None]
        else:
            mask = where[..., None] & self.chosen[:, None, None, :]
        if self.source is None:
            new = torch.zeros((), dtype=x.dtype, device=x.device)
        else:
            new = (self.source[:, :, rows, : x.shape[-1]] if name == "pattern" else self.source[:, rows])[
                None
            ]
        return rearrange(torch.where(mask, new, x), "unit pair ... -> (unit pair) ...")


def _up_to_the_answer(pairs: Pairs) -> Pairs:
    """The pairs without the positions that no answer can see."""
    seen = slice(int(pairs.read.max()) + 1)
    fields = ("clean", "corrupted", "roles")
    return replace(
        pairs, labels=pairs.labels[seen], **{name: getattr(pairs, name)[:, seen] for name in fields}
    )


def _cached_run(c: Components, tokens: Int[Tensor, "pair pos"], sites: frozenset[SiteKey]) -> _Base:
    """A run with what later forward passes continue from."""
    wanted = {(layer, site) for layer in range(c.n_layers) for site in ("resid_pre", "q", "k", "v")}
    if c.parallel and not c.attn_only:
        wanted |= {(layer, "mlp_out") for layer in range(c.n_layers)}
    wanted |= {(layer, "attn_out") for layer, site in sites if site in _AFTER_ATTENTION}
    kept: dict[SiteKey, Tensor] = {}
    end = _stream(c, tokens, sites | wanted, kept)
    stream = (*(kept[layer, "resid_pre"] for layer in range(c.n_layers)), end)
    q, k = (
        tuple(forward.prepare(c, layer, name, kept[layer, name], first=0) for layer in range(c.n_layers))
        for name in ("q", "k")
    )
    keys = tuple(Keys(k, kept[layer, "v"]) for layer, k in enumerate(k))
    return _Base(stream, keys, q, {key: kept[key] for key in sites | wanted})


def _stream(
    c: Components, tokens: Int[Tensor, "pair pos"], keys: frozenset[SiteKey], kept: dict[SiteKey, Tensor]
) -> Float[Tensor, "pair pos d_model"]:
    """The stream after the last layer; activations at the sites `keys` are put into `kept`."""

    def tap(layer: int, name: str, x: Tensor) -> Tensor:
        if (layer, name) in keys:
            kept[layer, name] = x
        return x

    return forward.forward(c, tokens, tap=tap)


def _refuse_not_finite(stream: Sequence[Tensor], rows: Int[Tensor, "pair"], what: str) -> None:
    """Raises MechoclError for the first state of the stream that is not finite; a single state is the last one."""
    names = ["the embedding", *(f"layer {layer}" for layer in range(len(stream) - 1))]
    for name, x in zip(names if len(stream) > 1 else ["the last layer"], stream, strict=True):
        wrong = (~x.isfinite()).flatten(1).any(1).nonzero()
        if len(wrong):
            raise MechoclError(
                f"activations after {name} are not finite (pair {int(rows[wrong[0]])} of {what}): the model has diverged"
            )
