"""Do the features do anything? Each is patched, ablated and clamped, beside random features of its rate and norm.

The activation x at the dictionary's site becomes x + (f′ − f) W_dec: only the chosen features change, and what the
dictionary does not reconstruct stays as it was. The rest of the model runs on from there.

    patch    f′ is the feature's activation in the other run of a pair that differs in the property, both ways round
    ablate   f′ = 0
    clamp    f′ is the feature's mean on the examples where it is active (these two for features of tags alone)

**The rule.** A feature is a *retrieval feature* of a property if it is selective for it on held-out aliases (q < 0.05 in
the search), and patching it moves the answer towards that of the other run, more than 95 % of the controls do. Patching is
the judge because its values occur in real questions and it asks about both directions at once.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl import contrasts, metrics
from mechocl.activation_cache import Collect
from mechocl.components import Components, take_apart
from mechocl.contrasts import Pairs
from mechocl.errors import MechoclError
from mechocl.features import properties
from mechocl.features.candidates import ALPHA, Candidate, EffectsConfig, candidates, reaches
from mechocl.features.dictionaries import Dictionary, flat
from mechocl.features.properties import Texts
from mechocl.features.quality import unseen_aliases
from mechocl.features.stream import of_aliases
from mechocl.models import Transformer
from mechocl.subspaces import STREAM_SITES, Place, interchange, measured
from toy_models.randomness import generator
from toy_models.task import Task

_LD: Final = "logit_difference"
_AUC: Final = "within_alias_auc"
_NEW: Final = ("d1", "d2", "d3")


def effects(
    model: Transformer,
    task: Task,
    dictionary: Dictionary,
    config: EffectsConfig,
    *,
    found: pd.DataFrame,
    collect: Collect,
) -> pd.DataFrame:
    """What changing features does to the answers about aliases that the dictionary has not seen.

    `found`: the rows of the search (`search.search`) for `config.searched()`; `collect`: the model's activations.

    Rows, one per candidate, intervention, subset and metric: `property`, `group`, `features`, `k`, `sign`, `position`,
    `auc`, `q` (of the search; NaN for what was not found by it); `intervention`; `subset` (of an ablation or clamping;
    "pairs" of a patch); `metric` (`logit_difference` in nats, right − wrong answer; `within_alias_auc`); `base` (the
    untouched run), `gap` (of a patch: what swapping everything would do, in the direction of the property; else NaN),
    `effect`, `share` (effect / gap); `predicted` (sign of the effect that the property predicts; a patch: +1, towards
    the other run; 0: no prediction); `controls` (how many), `control_mean`, `control_95` (what 95 % of controls stay
    below, their effects × predicted, or their size where nothing is predicted), `beats` (share of the controls with a
    smaller effect in that sense); `rate`, `strength` (share of the questions on which the feature is active, its mean
    norm there) and `control_rate`, `control_strength` (medians of the controls); `retrieval`: whether the rule above
    holds (patches of the logit difference; else False).

    Raises MechoclError for a site outside the residual stream, an unknown property, and when nothing was found to test.
    """
    place_of = _places(dictionary)
    c = take_apart(model)
    unseen = unseen_aliases(task, dictionary, share=config.searched().held_out, seed=config.seed)
    kept = of_aliases(task, unseen)
    read = properties.texts(task, seed=config.seed)[0]
    rows: list[dict[str, Any]] = []
    asked = _Asked(kept, config)
    reach = functools.partial(reaches, c, place_of("="))
    for candidate in candidates(task, read, found, config, width=dictionary.width, reaches=reach):
        test = _Test(c, asked, dictionary, place_of(candidate.position), candidate, config, collect)
        rows += test.patches()
        rows += test.ablations(read, unseen)
    if not rows:
        raise MechoclError(
            "there is nothing to test: no feature is selective for a property that pairs of questions differ in; "
            "name features with --features, --property and --position"
        )
    return pd.DataFrame(rows)


def _places(dictionary: Dictionary) -> Any:
    """From a position's label to the place in the residual stream that the dictionary writes at."""
    parts = dictionary.write.split(".")
    site = parts[-1].removeprefix("hook_")
    if len(parts) != 3 or parts[0] != "blocks" or site not in STREAM_SITES:
        raise MechoclError(
            f"features of {dictionary.write} cannot be changed by themselves here; use an SAE of the residual stream: "
            f"{', '.join(f'hook_{name}' for name in STREAM_SITES)}"
        )
    return lambda position: Place(layer=int(parts[1]), site=site, position=position)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The questions that everything is tested on, each kind made once."""

    task: Task
    config: EffectsConfig
    made: dict[str, Pairs | None] = field(default_factory=dict)

    def pairs(self, name: str) -> Pairs | None:
        """Pairs of a contrast; None where the held-out aliases have none."""
        if name not in self.made:
            most = 10 * self.config.n_pairs if "-other-" in name else self.config.n_pairs
            self.made[name] = self._try(
                lambda: contrasts.pairs_named(self.task, name, n_pairs=most, seed=self.config.seed)
            )
        return self.made[name]

    def questions(self, short: str) -> Pairs | None:
        """Questions about a subset, all of an alias together; None for one that the run does not have."""

        def make() -> Pairs:
            subset, n = contrasts.subset_named(self.task, short), self.config.n_questions
            return contrasts.questions(self.task, subsets=(subset,), n_questions=n, seed=self.config.seed)

        if short not in self.made:
            self.made[short] = self._try(make)
        return self.made[short]

    @staticmethod
    def _try(make: Callable[[], Pairs]) -> Pairs | None:
        try:
            return make()
        except MechoclError:
            return None


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
    ) -> None:
        self.c, self.asked, self.dictionary, self.place = c, asked, dictionary, place
        self.candidate, self.config, self.collect = candidate, config, collect

    def patches(self) -> Iterator[dict[str, Any]]:
        """The candidate's activations exchanged between the runs of pairs that differ in the property."""
        parts: list[tuple[Pairs, Tensor, Tensor]] = []
        for name in self.candidate.property.pairs:
            pairs = self.asked.pairs(name)
            if pairs is None:
                continue
            if self.candidate.property.group == "integer":
                entity = self.asked.task.table.drop_duplicates("alias").set_index("alias")["entity"]
                integer = int(self.candidate.property.name.split()[-1])
                keep = torch.from_numpy((entity.loc[pairs.alias.tolist()] == integer).to_numpy().copy())
                if not keep.any():
                    continue
                pairs = pairs[keep]
            pairs = pairs[: max(1, self.config.n_pairs // len(self.candidate.property.pairs))]
            parts.append((pairs, self._features(pairs.clean, pairs), self._features(pairs.corrupted, pairs)))
        if not parts:
            return
        both = torch.cat([torch.cat([clean, corrupted]) for _, clean, corrupted in parts])
        members, matched = self._controls(both)
        totals: list[tuple[float, float, Tensor, int]] = []
        for pairs, clean, corrupted in parts:
            for swapped, f in ((pairs, clean - corrupted), (pairs.swapped, corrupted - clean)):
                runs = interchange(self.c, swapped, self.place, tokens=metrics.METRICS[_LD].tokens(swapped))
                found = measured(runs, runs.logits(self._change(f, members)), metric=_LD)
                gap = found[0].clean - found[0].corrupted
                effect = torch.tensor([one.effect for one in found])
                totals.append((found[0].corrupted, gap, effect, len(pairs)))
        n = sum(count for *_, count in totals)
        base = sum(value * count for value, _, _, count in totals) / n
        # the direction of the property: what all pairs together do from the corrupted run to the clean one, on average
        forward = [(gap, effect, count) for i, (_, gap, effect, count) in enumerate(totals) if i % 2 == 0]
        backward = [(gap, effect, count) for i, (_, gap, effect, count) in enumerate(totals) if i % 2 == 1]
        direction = 1.0 if sum(gap * count for gap, _, count in forward) >= 0 else -1.0
        gap = direction * (sum(g * k for g, _, k in forward) - sum(g * k for g, _, k in backward)) / n
        moved: Tensor = (
            direction
            * (
                torch.stack([e * k for _, e, k in forward]).sum(0)
                - torch.stack([e * k for _, e, k in backward]).sum(0)
            )
            / n
        )
        row = self._row("patch", "pairs", _LD, base, moved, 1, matched)
        row |= {"gap": gap, "share": row["effect"] / gap if gap >= metrics.SMALLEST_DIFFERENCE else np.nan}
        selective = self.candidate.q < ALPHA
        yield row | {"retrieval": bool(selective and row["effect"] > 0 and row["beats"] >= 1 - ALPHA)}

    def ablations(self, read: Texts, unseen: np.ndarray) -> Iterator[dict[str, Any]]:
        """The candidate set to 0, and to its mean where it is active, in questions about each subset of new aliases.

        Of features of tags: of others there is nothing to predict that would hold for a whole subset.
        """
        if self.candidate.property.group != "tag":
            return
        level = self._level(read, unseen)
        for short in _NEW:
            asked = self.asked.questions(short)
            if asked is None:
                continue
            f = self._features(asked.clean, asked)
            members, matched = self._controls(f)
            runs = interchange(self.c, asked, self.place, tokens=metrics.METRICS[_LD].tokens(asked))
            for intervention in ("ablate", "clamp"):
                if intervention == "ablate":
                    change = self._change(-f, members)
                else:
                    target = self._on(f, members[1:])
                    goal = torch.cat([level[None], target]) if len(members) > 1 else level[None]
                    change = self._change_to(f, members, goal)
                logits = runs.logits(change)
                for metric in (_LD, _AUC):
                    found = measured(runs, logits, metric=metric)
                    effect = torch.tensor([one.effect for one in found])
                    predicted = self._predicted(intervention)
                    yield self._row(
                        intervention, short, metric, found[0].corrupted, effect, predicted, matched
                    )

    def _predicted(self, intervention: str) -> int:
        """Sign of the effect on answers: of tags, tag 1 is answered better than 3, and 3 better than 2."""
        if self.candidate.sign == 0:
            return 0
        return self.candidate.sign * (1 if intervention == "clamp" else -1)

    def _features(self, tokens: Tensor, pairs: Pairs) -> Float[Tensor, "pair feature"]:
        """Activations of all features at the place."""
        x = flat(self.collect(tokens, [self.dictionary.read])[self.dictionary.read])
        return self.dictionary.encode(x[:, self.place.index(pairs.labels)]).cpu()

    def _level(self, read: Texts, unseen: np.ndarray) -> Float[Tensor, "member"]:
        """Mean of each of the candidate's features over the examples that chose it and on which it is active."""
        x = flat(self.collect(read.tokens, [self.dictionary.read])[self.dictionary.read])
        seen = torch.from_numpy(~unseen[read.table["alias"].to_numpy()])
        f = self.dictionary.encode(x[seen, self.place.index(read.labels)]).cpu()[
            :, list(self.candidate.features)
        ]
        on = (f > 0).float()
        level: Tensor = (f * on).sum(0) / on.sum(0).clamp(min=1)
        return level

    def _on(
        self, f: Float[Tensor, "pair feature"], members: Int[Tensor, "*control"]
    ) -> Float[Tensor, "*control"]:
        on = (f > 0).float()
        level: Tensor = ((f * on).sum(0) / on.sum(0).clamp(min=1))[members]
        return level

    def _controls(self, f: Float[Tensor, "pair feature"]) -> tuple[Tensor, dict[str, float]]:
        """(1 + controls, k) numbers of features, the candidate's first; each control has one match of every member.

        The matches are the nearest in firing rate and in norm where active (both as logarithms), among those that fire on
        these questions and that the search has not found for the same property here. Of a set, the members' matches are
        dealt out at random.
        """
        rate = (f > 0).float().mean(0)
        norm = self._on(f, torch.arange(f.shape[1])) * self.dictionary.W_dec.norm(dim=-1).cpu()
        pool = rate > 0
        pool[list(self.candidate.features) + list(self.candidate.like)] = False
        free = torch.nonzero(pool)[:, 0]
        members = [torch.tensor([list(self.candidate.features)])]
        if len(free):
            log = torch.stack([rate.clamp(min=1e-3).log(), norm.clamp(min=1e-6).log()], dim=-1)
            count = min(self.config.controls, len(free))
            columns = []
            for number, feature in enumerate(self.candidate.features):
                far = (log[free] - log[feature]).norm(dim=-1)
                nearest = free[far.argsort(stable=True)[:count]]
                draws = generator(self.config.seed, "controls", *self.candidate.features, number)
                columns.append(nearest[torch.randperm(count, generator=draws)])
            members.append(torch.stack(columns, dim=-1))
        chosen = torch.cat(members)
        matched = {
            "rate": float(rate[chosen[0]].mean()),
            "strength": float(norm[chosen[0]].mean()),
            "control_rate": float(rate[chosen[1:]].mean(-1).median()) if len(chosen) > 1 else np.nan,
            "control_strength": float(norm[chosen[1:]].mean(-1).median()) if len(chosen) > 1 else np.nan,
        }
        return chosen, matched

    def _change(self, f: Float[Tensor, "pair feature"], members: Tensor) -> Float[Tensor, "fit pair d"]:
        """What is added at the place: each fit's own features, changed by f."""
        W = self.dictionary.W_dec.cpu()
        change: Tensor = torch.einsum("pfk,fkd->fpd", f[:, members], W[members])
        return change.to(self.c.device)

    def _change_to(
        self, f: Tensor, members: Tensor, goal: Float[Tensor, "fit member"]
    ) -> Float[Tensor, "fit pair d"]:
        W = self.dictionary.W_dec.cpu()
        change: Tensor = torch.einsum("pfk,fkd->fpd", goal[None] - f[:, members], W[members])
        return change.to(self.c.device)

    def _row(
        self,
        intervention: str,
        subset: str,
        metric: str,
        base: float,
        effect: Tensor,
        predicted: int,
        matched: dict[str, float],
    ) -> dict[str, Any]:
        own, others = float(effect[0]), effect[1:].numpy()
        seen = effect.numpy() * predicted if predicted else np.abs(effect.numpy())
        one = self.candidate
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
            "effect": own,
            "share": np.nan,
            "predicted": predicted,
            "controls": len(others),
            "control_mean": float(others.mean()) if len(others) else np.nan,
            "control_95": float(np.quantile(seen[1:], 1 - ALPHA)) if len(others) else np.nan,
            "beats": float((seen[1:] < seen[0]).mean()) if len(others) else np.nan,
            "retrieval": False,
        } | matched
