"""Exchange of twins: what changes in the answers about an alias when it gets the embedding that its twin has?

Twins are one alias that was trained twice from the same weights, under tag 1 and under tag 2 (`twins`). So each alias of d1 and
d2 has an embedding that was *written under tag 1* and one that was *written under tag 2*. The *twin difference* of an alias is the
first minus the second. In the run's own final model, aliases get their twin's embedding, or a part of the difference, and all
else stays. An embedding is read in the alias's own examples alone, so all aliases are exchanged at once.

The controls say how much of an effect belongs to the alias and to the direction: the twin difference of another alias has the
same sizes, and a random direction of the same length nothing but the length.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.accepted import settle
from mechocl.behaviour.internalization import by_subset, measures_of, per_alias
from mechocl.errors import MechoclError
from mechocl.learning.examples import list_defined, name_tokens
from mechocl.learning.twins import D1, D2
from mechocl.models import seam
from mechocl.models.seam import Transformer
from mechocl.shares import in_shares
from toy_models import architectures
from toy_models.frozen import EMBEDDING
from toy_models.randomness import generator
from toy_models.task import Task

WHOLE: Final = "twin embedding"
ALONG: Final = "mean direction"
REST: Final = "all but mean direction"
CONSTANT: Final = "mean difference"
OF_ENTITY: Final = "mean difference of the entity"
OTHER: Final = "other alias"
RANDOM: Final = "random direction"
RANDOM_ALONG: Final = "random, as long as mean direction"
WEIGHTS: Final = "other weights"
EVERYTHING: Final = "everything"

PARTS: Final = (WHOLE, ALONG, REST, CONSTANT, OF_ENTITY, OTHER, RANDOM, RANDOM_ALONG)
"""What aliases get in place of what is theirs, each in their own embedding."""

DRAWN: Final = (OTHER, RANDOM, RANDOM_ALONG)
"""Those of them that are drawn."""

EXCHANGES: Final = (*PARTS, WEIGHTS, EVERYTHING)

_UNEMBEDDING: Final = "unembed.W_U"


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinExchangeConfig:
    """What is exchanged."""

    aliases_per_subset: int | None = None
    """Aliases of d1 and of d2, the first ones; none takes all."""
    draws: int = 3
    """Times that other aliases and random directions are drawn. Their rows are means over the draws."""
    seed: int = 0
    """Seed of the halves of the aliases, and of what is drawn."""

    def __post_init__(self) -> None:
        settle(self)
        if self.aliases_per_subset is not None and self.aliases_per_subset < 2:
            raise MechoclError(
                f"aliases_per_subset is {self.aliases_per_subset}; use at least 2, since each gets something of others, or none for "
                "all"
            )
        if self.draws < 1:
            raise MechoclError(f"draws is {self.draws}; use at least 1")


@dataclass(frozen=True, slots=True)
class Twins:
    """The embeddings of the aliases of d1 and d2 in the run's model, and what their twins have."""

    table: pd.DataFrame
    """One row per alias: `alias`, `subset` and `entity`."""
    tokens: Int[Tensor, " alias"]
    """The token of each alias's name."""
    own: Float[Tensor, "alias d_model"]
    """The embedding in the run's model."""
    twin: Float[Tensor, "alias d_model"]
    """The embedding in the model that was trained with the tags exchanged."""

    @property
    def towards_tag_1(self) -> Float[Tensor, "alias 1"]:
        """1 for the aliases of d2, whose twins were written under tag 1; −1 for those of d1."""
        return torch.from_numpy(np.where(self.table["subset"] == D2, 1.0, -1.0))[:, None].to(self.own)

    @property
    def differences(self) -> Float[Tensor, "alias d_model"]:
        """The twin differences: written under tag 1 − written under tag 2."""
        return (self.twin - self.own) * self.towards_tag_1


def why_no_exchange(task: Task) -> str:
    """Why the embeddings of twins cannot be exchanged in a task; "" if they can."""
    defined = _defined(task, most=None)
    if not {D1, D2} <= set(defined["subset"]):
        return "the run has no aliases of d1 and d2"
    names = name_tokens(task, defined["alias"].to_numpy())
    if names.shape[1] > 1 or len(set(names.flatten().tolist())) < len(names):
        return "names of aliases are several tokens, which aliases share, so an alias has no embedding of its own"
    if defined["subset"].value_counts().min() < 2:
        return "d1 and d2 have one alias each, and each needs another one to be compared with"
    return ""


def find_twins(model: Transformer, twin: Transformer, task: Task, *, most: int | None = None) -> Twins:
    """The twins of two models of a run: its own, and that of its variant `exchanged-tags`. `most`: aliases of each subset.

    Raises MechoclError where there is nothing to exchange (`why_no_exchange`), and for other models than
    `HookedTransformer`s in full precision.
    """
    from transformer_lens import HookedTransformer

    if why := why_no_exchange(task):
        raise MechoclError(f"{why}; use a run whose aliases of d1 and d2 are one token each")
    for one in (model, twin):
        seam.refuse_half_precision(one)
        if not isinstance(one, HookedTransformer):
            raise MechoclError(
                f"twins are embeddings of a HookedTransformer, and this is a {type(one).__name__}; load it without bridge"
            )
    table = _defined(task, most=most)
    tokens = name_tokens(task, table["alias"].to_numpy())[:, 0]
    return Twins(table, tokens, *(_embeddings(one)[tokens] for one in (model, twin)))


def _embeddings(model: Any) -> Float[Tensor, "d_vocab d_model"]:
    found: Tensor = model.embed.W_E.detach()
    return found


def exchange_study(
    model: Transformer, twin: Transformer, task: Task, config: TwinExchangeConfig
) -> pd.DataFrame:
    """What each exchange does to the answers about d1 and about d2, with its controls.

    The columns are `mechocl.analyses.columns.TWIN_EXCHANGE`. `model` is that after the run's last stage, and `twin` that of the
    variant in which d1 and d2 changed places. Raises MechoclError as `find_twins` does.
    """
    twins = find_twins(model, twin, task, most=config.aliases_per_subset)
    asked = task.take(np.flatnonzero(task.table["alias"].isin(twins.table["alias"])))
    before = _answers(model, asked)
    tables = []
    for exchange in in_shares(EXCHANGES):
        drawn = range(config.draws if exchange in DRAWN else 1)
        changed, moved = [], []
        for draw in drawn:
            given, size = _exchanged(model, twin, twins, exchange, draw=draw, seed=config.seed)
            changed.append(_answers(given, asked))
            moved.append(size)
        tables.append(_compared(exchange, before, changed, twins, moved))
    return pd.concat(tables, ignore_index=True)


def list_changes(
    twins: Twins, exchange: str, *, draw: int = 0, seed: int = 0
) -> Float[Tensor, "alias d_model"]:
    """What is added to each alias's embedding in one of `PARTS`. It is towards tag 1 for d2, and towards tag 2 for d1.

    The mean direction, and the mean difference, of an alias are those of the half of all aliases that it is not in. The mean of
    an entity is that of all others of its aliases, and 0 for an alias that is alone.
    """
    differences = twins.differences
    draws = generator(seed, "twins", exchange, draw)
    if exchange == WHOLE:
        changes = differences
    elif exchange == OF_ENTITY:
        changes = _means_of_same_entity(twins)
    elif exchange == OTHER:
        changes = differences[_others(twins, draws)]
    elif exchange == RANDOM:
        changes = _random_like(differences, draws)
    else:
        mean = _means_of_other_half(twins, _halves(twins, seed))
        along = _project(differences, mean)
        changes = {
            ALONG: along,
            REST: differences - along,
            CONSTANT: mean,
            RANDOM_ALONG: _random_like(along, draws),
        }[exchange]
    return changes * twins.towards_tag_1


def _exchanged(
    model: Transformer, twin: Transformer, twins: Twins, exchange: str, *, draw: int, seed: int
) -> tuple[Any, Float[np.ndarray, " alias"]]:
    """A model after an exchange, and how far it moved each alias's embedding."""
    if exchange == EVERYTHING:
        return twin, (twins.twin - twins.own).norm(dim=1).cpu().numpy()
    if exchange == WEIGHTS:
        return _with_rows(twin, twins.tokens, twins.own), np.zeros(len(twins.tokens))
    changes = list_changes(twins, exchange, draw=draw, seed=seed)
    return _with_rows(model, twins.tokens, twins.own + changes), changes.norm(dim=1).cpu().numpy()


@torch.no_grad()
def _with_rows(model: Transformer, tokens: Int[Tensor, " row"], rows: Float[Tensor, "row d_model"]) -> Any:
    """A copy of a model in which these tokens have other embeddings; with tied embeddings, unembeddings too."""
    with architectures.hooked_transformer_allowed():
        changed: Any = copy.deepcopy(model)
    weights = dict(changed.named_parameters())
    weights[EMBEDDING][tokens] = rows
    if changed.cfg.tie_word_embeddings:
        weights[_UNEMBEDDING].copy_(weights[EMBEDDING][: changed.cfg.d_vocab_out].T)
    return changed


def _answers(model: Transformer, task: Task) -> pd.DataFrame:
    return by_subset(per_alias(model, task))


def _compared(
    exchange: str,
    before: pd.DataFrame,
    changed: list[pd.DataFrame],
    twins: Twins,
    moved: list[Float[np.ndarray, " alias"]],
) -> pd.DataFrame:
    """Rows of an exchange from the answers before it and after it, and from how far it moved the embeddings."""
    mean_moved = pd.Series(np.mean(moved, axis=0)).groupby(twins.table["subset"].to_numpy()).mean()
    sign = np.where(before["subset"] == D2, 1.0, -1.0)
    size = before["subset"].map(mean_moved).to_numpy(dtype=float)
    nothing = (size == 0) if exchange in PARTS else np.zeros(len(size), dtype=bool)
    tables = []
    for metric in measures_of(before).names:
        first = before[metric].to_numpy(dtype=float)
        after = np.mean([one[metric].to_numpy(dtype=float) for one in changed], axis=0)
        after[nothing] = np.nan
        effect = after - first
        labels = {"exchange": exchange, "subset": before["subset"], "metric": metric}
        values = {"before": first, "after": after, "effect": effect, "tag_1_effect": sign * effect}
        tables.append(pd.DataFrame(labels | values | {"moved": size, "aliases": before["aliases"]}))
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------------------ parts of the difference


def _defined(task: Task, *, most: int | None) -> pd.DataFrame:
    """`alias`, `subset` and `entity` of the aliases of d1 and d2."""
    listed = list_defined(task, stage=2, most=most)
    listed = listed.loc[listed["subset"].isin([D1, D2]), ["alias", "subset"]].reset_index(drop=True)
    entities = task.table.drop_duplicates("alias").set_index("alias")["entity"]
    return listed.assign(entity=listed["alias"].map(entities))


def _members(twins: Twins) -> Iterator[np.ndarray]:
    for subset in (D1, D2):
        yield np.flatnonzero(twins.table["subset"] == subset)


def _halves(twins: Twins, seed: int) -> Bool[np.ndarray, " alias"]:
    """Which aliases are in the first half; a half of each subset."""
    draws = generator(seed, "twins", "halves")
    first = np.zeros(len(twins.table), dtype=bool)
    for members in _members(twins):
        order = torch.randperm(len(members), generator=draws).numpy()
        first[members[order[: len(members) // 2]]] = True
    return first


def _others(twins: Twins, draws: torch.Generator) -> Int[np.ndarray, " alias"]:
    """For each alias another one of its subset, each once."""
    found = np.zeros(len(twins.table), dtype=int)
    for members in _members(twins):
        order = members[torch.randperm(len(members), generator=draws).numpy()]
        found[order] = np.roll(order, 1)
    return found


def _means_of_other_half(twins: Twins, first: Bool[np.ndarray, " alias"]) -> Float[Tensor, "alias d_model"]:
    """For each alias the mean twin difference of the half that it is not in, in which each subset counts as much."""
    differences = twins.differences
    means = []
    for half in (~first, first):
        chosen = [differences[members[half[members]]].mean(0) for members in _members(twins)]
        means.append(torch.stack(chosen).mean(0))
    return torch.stack(means)[torch.from_numpy((~first).astype(int))]


def _means_of_same_entity(twins: Twins) -> Float[Tensor, "alias d_model"]:
    """For each alias the mean twin difference of the other aliases of its entity; 0 where there are none."""
    entity = twins.table["entity"].to_numpy()
    same = torch.from_numpy((entity[:, None] == entity) & ~np.eye(len(entity), dtype=bool)).to(twins.own)
    means: Tensor = same @ twins.differences / same.sum(1, keepdim=True).clamp(min=1)
    return means


def _project(
    vectors: Float[Tensor, "alias d_model"], onto: Float[Tensor, "alias d_model"]
) -> Float[Tensor, "alias d_model"]:
    """The component of each vector along the direction in the same row; 0 where that has no length."""
    length = onto.norm(dim=1, keepdim=True)
    unit = torch.where(length > 0, onto / length, 0.0)
    along: Tensor = (vectors * unit).sum(1, keepdim=True) * unit
    return along


def _random_like(
    vectors: Float[Tensor, "alias d_model"], draws: torch.Generator
) -> Float[Tensor, "alias d_model"]:
    """Vectors of the same lengths in random directions."""
    drawn = torch.randn(vectors.shape, generator=draws, dtype=torch.float64).to(vectors)
    same: Tensor = drawn / drawn.norm(dim=1, keepdim=True) * vectors.norm(dim=1, keepdim=True)
    return same
