"""Do the features do anything? Each is patched, ablated and clamped, beside random features of equal rate and norm.

The activation x at the dictionary's site becomes x + (f′ − f) W_dec: only the chosen features change, and what the
dictionary does not reconstruct stays as it was. The rest of the model runs on from there.

    patch    f′ is the feature's activation in the other run of a pair that differs in the property, in both directions
    ablate   f′ = 0
    clamp    f′ is the feature's mean on the examples where it is active (these two for features of tags alone)

**Controls.** A control is another live feature's decoder row, scaled to the same norm, with the candidate's own
activations. So it is active on the same questions and changes the stream by as much, in a direction that the dictionary
uses for something else. Features that the search has found for the same property at the position cannot be controls.

**The rule.** A feature is a *retrieval feature* of a property if it is selective for it on held-out aliases (q < 0.05 in
the search), and if patching it moves the answer towards that of the other run by more than 95 % of at least 20 controls
do. So about one in twenty features without an effect of their own passes by chance. Patching is the judge because its
values occur in real questions, and because it tests both directions at once.
"""

import functools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.features import properties
from mechocl.features.candidates import ALPHA, Candidate, EffectsConfig, candidates, reaches
from mechocl.features.dictionaries import Dictionary, flat
from mechocl.features.exchanges import Asked as _Asked, Exchanged as _Exchanged
from mechocl.features.properties import Texts
from mechocl.features.quality import unseen_aliases
from mechocl.features.stream import about_aliases
from mechocl.interventions import metrics
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.subspaces import STREAM_SITES, Place, interchange, measured
from mechocl.models.components import Components, take_apart
from mechocl.models.seam import Transformer
from mechocl.runs.activation_cache import Collect
from toy_models.randomness import generator
from toy_models.task import Task

_LD: Final = "logit_difference"
_AUC: Final = "within_alias_auc"
_NEW: Final = ("d1", "d2", "d3")

LEAST_CONTROLS: Final = 20
"""Number of controls below which there is no verdict."""


def effects(
    model: Transformer,
    task: Task,
    dictionary: Dictionary,
    config: EffectsConfig,
    *,
    search_rows: pd.DataFrame,
    collect: Collect,
) -> pd.DataFrame:
    """What changing features does to the answers about aliases that the dictionary has not seen.

    `search_rows` are those of `search.search` for `config.searched()`. `collect` gives the model's activations.

    One row per candidate, intervention, subset and metric; the columns are `mechocl.analyses.feature_columns.SAE_TEST`.

    No rows when the search has found nothing to test. Raises MechoclError for a site outside the residual stream, and an
    unknown property, feature or position.
    """
    place_of = _places(dictionary)
    c = take_apart(model)
    unseen = unseen_aliases(task, dictionary, share=config.searched().held_out, seed=config.seed)
    kept = about_aliases(task, unseen)
    read = properties.texts(task, seed=config.seed)[0]
    rows: list[dict[str, Any]] = []
    asked = _Asked(kept, config)
    reach = functools.partial(reaches, c, place_of("="))
    for candidate in candidates(task, read, search_rows, config, width=dictionary.width, reaches=reach):
        test = _Test(
            c, asked, dictionary, place_of(candidate.position), candidate, config, collect, read, unseen
        )
        rows += test.patches()
        rows += test.ablations()
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    table = table.astype({name: kind for name, kind in _COLUMNS.items() if kind is not str})
    return table.assign(trained_on=dictionary.trained_on)


def _places(dictionary: Dictionary) -> Any:
    """Function from a position's label to the place in the residual stream that the dictionary writes at."""
    parts = dictionary.write.split(".")
    site = parts[-1].removeprefix("hook_")
    if len(parts) != 3 or parts[0] != "blocks" or site not in STREAM_SITES:
        raise MechoclError(
            f"features of {dictionary.write} cannot be changed by themselves here; use an SAE of the residual stream: "
            f"{', '.join(f'hook_{name}' for name in STREAM_SITES)}"
        )
    _refuse_scaled(dictionary)
    return lambda position: Place(layer=int(parts[1]), site=site, position=position)


@torch.no_grad()
def _refuse_scaled(dictionary: Dictionary) -> None:
    """Raise MechoclError if a feature adds anything else than its decoder row, as where activations are normalised.

    A dictionary may normalise its input and scale its output back. Then what a feature adds depends on the example.
    """
    W_enc, row = dictionary.sae.W_enc, dictionary.W_dec[0]
    x = torch.randn(4, W_enc.shape[0], generator=torch.Generator().manual_seed(0)).to(W_enc)
    first = torch.eye(dictionary.width).to(W_enc)[0]

    def decoded(
        more: float,
    ) -> Tensor:  # decoding forgets how the input was normalised, so it is encoded each time
        found: Tensor = dictionary.sae.decode(dictionary.encode(5 * x) + more * first)
        return found

    change = decoded(1.0) - decoded(0.0)
    if not torch.allclose(change, row.expand_as(change), atol=1e-3 * float(row.abs().max())):
        raise MechoclError(
            f"the features of this dictionary of {dictionary.write} do not add their decoder rows (normalize_activations = "
            f"{dictionary.sae.cfg.normalize_activations!r}), so they cannot be changed by themselves; use an SAE without it"
        )


class _Test:
    """One candidate, its controls, and the questions that it is tested on."""

    def __init__(
        self,
        c: Components,
        asked: _Asked,
        dictionary: Dictionary,
        place: Place,
        candidate: Candidate,
        config: EffectsConfig,
        collect: Collect,
        read: Texts,
        unseen: np.ndarray,
    ) -> None:
        self.c, self.asked, self.dictionary, self.place = c, asked, dictionary, place
        self.candidate, self.config, self.collect = candidate, config, collect
        own = list(candidate.features)
        everyone = self._activations(read.tokens, read.labels)
        seen = everyone[torch.from_numpy(~unseen[read.table["alias"].to_numpy()])][:, own]
        on = (seen > 0).float()
        # mean of each of the candidate's features over the examples that chose it and on which it is active
        self.level: Float[Tensor, "member"] = (seen * on).sum(0) / on.sum(0).clamp(min=1)
        self.active = ", ".join(str(int(count)) for count in on.sum(0))
        self.rows = self._controls((everyone > 0).any(0))

    def _controls(self, live: Bool[Tensor, "feature"]) -> Float[Tensor, "fit member d"]:
        """Decoder rows of the candidate, then those of each control, scaled to the norms of the candidate's rows."""
        W, own = self.dictionary.W_dec.cpu(), list(self.candidate.features)
        pool = live.clone()
        pool[own + list(self.candidate.like)] = False
        free, k = torch.nonzero(pool)[:, 0], len(own)
        draws = generator(self.config.seed, "controls", *own)
        count = self.config.controls if k > 1 else min(self.config.controls, len(free))
        chosen = [free[torch.randperm(len(free), generator=draws)] for _ in range(count if k > 1 else 1)]
        if k == 1:  # every control is another feature
            borrowed = chosen[0][:count, None]
        elif len(free) < k:
            borrowed = free.new_zeros((0, k))
        else:
            borrowed = torch.stack([one[:k] for one in chosen])
        norms = W[own].norm(dim=-1)[None, :, None]
        others = torch.nn.functional.normalize(W[borrowed], dim=-1) * norms
        rows: Tensor = torch.cat([W[own][None], others])
        return rows

    def patches(self) -> Iterator[dict[str, Any]]:
        """Rows for exchanging the candidate's activations between the runs of pairs that differ in the property."""
        parts = list(self._pairs())
        if not parts or not (
            self.config.features or any(bool((clean != other).any()) for _, clean, other in parts)
        ):
            return  # no such pairs, or runs that do not differ there: the embedding behind the alias
        metrics_of = (_LD, _AUC) if self.candidate.property.group == "tag" else (_LD,)
        sums = {metric: _Exchanged() for metric in metrics_of}
        for pairs, clean, corrupted in parts:
            for swapped, f in ((pairs, clean - corrupted), (pairs.swapped, corrupted - clean)):
                runs = interchange(self.c, swapped, self.place, tokens=metrics.METRICS[_LD].tokens(swapped))
                change = self._change(f)
                logits = runs.logits(change)
                for metric, total in sums.items():
                    try:
                        found = measured(runs, change, logits, metric=metric)
                    except MechoclError:  # no alias is asked about with and without its integer
                        continue
                    total.add(found, len(pairs), back=swapped is not pairs)
        fired = torch.cat([torch.cat(both) for _, *both in parts])
        for metric, total in sums.items():
            if not total.count:
                continue
            row = self._row("patch", "pairs", metric, total.base, total.moved, 1, fired, total.exchanged)
            enough = total.gap >= metrics.SMALLEST_DIFFERENCE
            row |= {"gap": total.gap, "share": row["effect"] / total.gap if enough else np.nan}
            passes = (
                metric == _LD
                and enough
                and self.candidate.q < ALPHA
                and row["effect"] > 0
                and row["controls"] >= LEAST_CONTROLS
                and row["beats"] > 1 - ALPHA
            )
            yield row | {"retrieval": bool(passes)}

    def _pairs(self) -> Iterator[tuple[Pairs, Float[Tensor, "pair member"], Float[Tensor, "pair member"]]]:
        """Pairs that differ in the property, and the candidate's activations in the clean and the corrupted run."""
        one, own = self.candidate.property, list(self.candidate.features)
        for name in one.pairs:
            pairs = self.asked.pairs(name)
            if pairs is None:
                continue
            if one.group == "integer":
                entity = self.asked.task.table.drop_duplicates("alias").set_index("alias")["entity"]
                keep = torch.from_numpy((entity.loc[pairs.alias.tolist()] == one.entity).to_numpy().copy())
                if not keep.any():
                    continue
                pairs = pairs[keep]
            pairs = pairs[: max(1, self.config.n_pairs // len(one.pairs))]
            clean, corrupted = (
                self._activations(tokens, pairs.labels)[:, own] for tokens in (pairs.clean, pairs.corrupted)
            )
            yield pairs, clean, corrupted

    def ablations(self) -> Iterator[dict[str, Any]]:
        """Rows for setting the candidate to 0, and to its mean where active, in questions about unseen aliases by subset.

        Only features of tags are tested: for all others nothing can be predicted that would hold for a whole subset.
        """
        if self.candidate.property.group != "tag":
            return
        for short in _NEW:
            asked = self.asked.questions(short)
            if asked is None:
                continue
            f = self._activations(asked.clean, asked.labels)[:, list(self.candidate.features)]
            runs = interchange(self.c, asked, self.place, tokens=metrics.METRICS[_LD].tokens(asked))
            for intervention, goal in (("ablate", torch.zeros_like(self.level)), ("clamp", self.level)):
                change = self._change(goal - f)
                logits = runs.logits(change)
                for metric in dict.fromkeys((_LD, metrics.answer_metric(asked))):
                    found = measured(runs, change, logits, metric=metric)
                    effect = torch.tensor([one.effect for one in found])
                    predicted, base = self._predicted(intervention), found[0].corrupted
                    exchanged = found[0].exchanged
                    yield self._row(intervention, short, metric, base, effect, predicted, f, exchanged)

    def _predicted(self, intervention: str) -> int:
        """Predicted sign of the effect on answers, which are better for tag 1 than for 3, and better for 3 than for 2."""
        return self.candidate.sign * (1 if intervention == "clamp" else -1)

    def _activations(
        self, tokens: Int[Tensor, "example pos"], labels: tuple[str, ...]
    ) -> Float[Tensor, "example feature"]:
        """Activations of all features at the place."""
        x = flat(self.collect(tokens, [self.dictionary.read])[self.dictionary.read])
        return self.dictionary.encode(x[:, self.place.index(labels)]).cpu()

    def _change(self, f: Float[Tensor, "pair member"]) -> Float[Tensor, "fit pair d"]:
        """What is added at the place when the candidate's features change by f, and for each control."""
        change: Tensor = einsum(f, self.rows, "pair member, fit member d -> fit pair d")
        return change.to(self.c.device)

    def _row(
        self,
        intervention: str,
        subset: str,
        metric: str,
        base: float,
        effect: Float[Tensor, "fit"],
        predicted: int,
        fired: Float[Tensor, "example member"],
        exchanged: int,
    ) -> dict[str, Any]:
        others = effect[1:].numpy()
        judged = len(others) > 0 and exchanged > 0
        seen = effect.numpy() * predicted if predicted else np.abs(effect.numpy())
        one, on = self.candidate, (fired > 0).float()
        strength = (fired * on).sum(0) / on.sum(0).clamp(min=1) * self.rows[0].norm(dim=-1)
        return {
            "property": one.property.name,
            "group": one.property.group,
            "features": ",".join(map(str, one.features)),
            "k": len(one.features),
            "sign": one.sign,
            "position": one.position,
            "auc": one.auc,
            "q": one.q,
            "intervention": intervention,
            "subset": subset,
            "metric": metric,
            "base": base,
            "gap": np.nan,
            "effect": float(effect[0]) if exchanged else np.nan,
            "share": np.nan,
            "predicted": predicted,
            "controls": len(others),
            "control_mean": float(others.mean()) if judged else np.nan,
            "control_95": float(np.quantile(seen[1:], 1 - ALPHA, method="higher")) if judged else np.nan,
            "beats": float((seen[1:] < seen[0]).mean()) if judged else np.nan,
            "rate": float(on.mean()),
            "strength": float(strength.mean()),
            "exchanged": exchanged,
            "source": self._source(intervention),
            "retrieval": False,
        }

    def _source(self, intervention: str) -> str:
        """Where the activations that are put in come from; of a mean, over how many texts."""
        mean = f"mean over the {self.active} texts about aliases that the dictionary was trained on where it is active"
        return {"patch": "the other run of the pair", "ablate": "zeros", "clamp": mean}[intervention]


_COLUMNS: Final[dict[str, type]] = {
    "property": str, "group": str, "features": str, "k": int, "sign": int, "position": str, "auc": float, "q": float,
    "intervention": str, "subset": str, "metric": str, "base": float, "gap": float, "effect": float, "share": float,
    "predicted": int, "controls": int, "control_mean": float, "control_95": float, "beats": float, "rate": float,
    "strength": float, "exchanged": int, "source": str, "retrieval": bool,
}  # fmt: skip
