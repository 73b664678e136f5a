"""What the explorer shows: questions about chosen aliases, and what a model does with them at one checkpoint.

Every number is that of an analysis: patterns are the model's own attention, the lens is that of `lenses.logit_lens` for the residual
stream, effects are those of `interventions.patching`, and measures those of `behaviour.internalization`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int

from mechocl.behaviour import internalization
from mechocl.errors import TooLittleData
from mechocl.interventions.named_pairs import partner_pairs
from mechocl.interventions.patching import patch_activations, stream_sites
from mechocl.lenses.logit_lens import stream_layers, written
from mechocl.models import activations, layout
from mechocl.models.components import take_apart
from mechocl.models.seam import Transformer, logits_at
from mechocl.models.sites import find_sites
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS
from toy_models.task import ROLES, Task

MEASURES: Final = ("auc", "logit_difference", "accuracy", "recall")
"""Columns of `internalization.per_alias` that place an alias among all others."""

PARTNERS: Final = {
    "qd1_consistent": "qd2_inconsistent",
    "qd2_inconsistent": "qd1_consistent",
    "d1_consistent": "d2_consistent",
    "d2_consistent": "d1_consistent",
    "d3_consistent": "d1_consistent",
}
"""Subset → the subset from which the other alias of a patched pair comes. Aliases of other subsets have partners of their own subset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about an alias, and the other alias that it is paired with for patching."""

    row: int
    """Its row in the task."""
    tokens: tuple[str, ...]
    """The tokens up to the one at which the answer is read, which is the last."""
    matches: tuple[int, ...]
    """Positions of the list's items that are the alias's integer; none in a text."""
    right: str
    """The right answer."""
    wrong: str
    """The answer that it is compared with."""
    sign: float
    """+1 where the first answer of `difference` is the right one, −1 where it is the wrong one."""
    partner: int
    """The alias that the corrupted run asks about; −1 where no alias fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAlias:
    """An alias of the page."""

    alias: int
    name: str
    subset: str
    entity: int
    """The entity that its questions are about, as a number."""
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSeed:
    """What the page shows of one seed, whichever checkpoint is looked at."""

    aliases: tuple[ShownAlias, ...]
    labels: tuple[str, ...]
    """What stands at each position: `alias`, `%`, `n1`, …, `=`."""
    roles: tuple[str, ...]
    """Role of the token at each position (`ROLES`)."""
    entities: tuple[str, ...]
    """Token of each entity, which the lens is about."""
    candidates: tuple[str, ...]
    """Token of each answer that competes."""
    partner_names: dict[int, str]
    """Name of each alias that is a partner."""

    @property
    def rows(self) -> Int[np.ndarray, "question"]:
        """Rows of the shown questions in the task, alias by alias."""
        return np.array([question.row for alias in self.aliases for question in alias.questions])

    @property
    def partners(self) -> list[int]:
        """The partner of each of these questions; −1 where there is none."""
        return [question.partner for alias in self.aliases for question in alias.questions]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownModel:
    """What one model does with the questions of a seed. Questions are in the order of `ShownSeed.rows`."""

    patterns: Float[np.ndarray, "question layer head query key"]
    """Attention probabilities."""
    lens: Float[np.ndarray, "question site pos entity"]
    """Logits of the entities, if the residual stream before the first layer or after each layer were the last one."""
    logits: Float[np.ndarray, "question candidate"]
    """Logits of the answers at the last position."""
    difference: Float[np.ndarray, "question"]
    """Logit difference of the compared answers: true − false, or right − wrong (nats)."""
    effects: Float[np.ndarray, "question patch pos"]
    """What the clean activation changes in the corrupted run: right − wrong logit, patched − corrupted (nats).

    NaN where the two runs have the same activation, and in questions without a partner."""
    ends: Float[np.ndarray, "question two"]
    """Right − wrong logit of the clean run and of the corrupted run (nats); NaN without a partner."""
    measures: Float[np.ndarray, "one_alias measure"]
    """`MEASURES` of every alias of the task, in the order of `all_aliases`; NaN where an alias has none."""


def choose_aliases(task: Task, count: int) -> list[int]:
    """The aliases of a page: `count` in all, an equal share of each subset with questions, of each the first ones."""
    rows = task.rows(kind="question", split="test")
    table = task.table.loc[rows, ["subset", "alias"]].drop_duplicates()
    table = table[[SUBSETS[str(name)].replaced for name in table["subset"]]]
    ranked = table.assign(
        turn=table.groupby("subset", observed=True).cumcount(),
        place=[list(SUBSETS).index(str(name)) for name in table["subset"]],
    )
    chosen = ranked.sort_values(["turn", "place"]).head(count).sort_values(["place", "turn"])
    return [int(alias) for alias in chosen["alias"]]


def show_seed(task: Task, aliases: Sequence[int], *, seed: int) -> ShownSeed:
    """The questions about these aliases: of each, one that names the alias's entity and one that does not, where there are both.

    `seed` draws the partners, each alike whatever else is shown. Raises MechoclError when the questions have different layouts,
    TooLittleData when there are none.
    """
    asked = task.rows(kind="question", split="test")
    alias, answer = (task.table[name].to_numpy() for name in ("alias", "answer"))
    found: dict[int, list[int]] = {}
    for one in aliases:
        own = asked[alias[asked] == one]
        found[one] = [
            int(own[answer[own] == kind][0]) for kind in (True, False) if (answer[own] == kind).any()
        ]
    return show_rows(task, found, seed=seed)


def show_rows(task: Task, chosen: Mapping[int, Sequence[int]], *, seed: int) -> ShownSeed:
    """These questions, as rows of the task, of each alias. `seed` draws the partners. Raises as `show_seed` does."""
    rows = np.array([row for own in chosen.values() for row in own], dtype=int)
    if len(rows) == 0:
        raise TooLittleData("the task has no test questions about aliases; give a run of another recipe")
    labels = layout.asked_positions(task, rows)
    partners = dict(zip(rows.tolist(), _partners(task, rows, seed=seed), strict=True))
    names = task.vocabulary.tokens
    named = alias_names(task)
    return ShownSeed(
        aliases=tuple(
            _shown_alias(task, named[alias], own, len(labels), partners) for alias, own in chosen.items()
        ),
        labels=tuple(labels),
        roles=tuple(ROLES[role] for role in task.roles[int(rows[0])][: len(labels)].tolist()),
        entities=tuple(_as_word(names[i]) for i in task.entity_ids.tolist()),
        candidates=tuple(_as_word(names[i]) for i in task.questioning.answer_ids(task.vocabulary).tolist()),
        partner_names={alias: named[alias] for alias in sorted(set(partners.values())) if alias >= 0},
    )


def alias_names(task: Task) -> dict[int, str]:
    """Each alias of the task, and its name as its questions write it."""
    table, words = task.table, task.vocabulary.tokens
    first = table.loc[task.rows(kind="question")].drop_duplicates("alias")["alias"]
    rows = torch.tensor(first.index.to_numpy())
    tokens, named = task.tokens[rows].tolist(), (task.roles[rows] == ROLES.index("alias")).tolist()
    return {
        int(alias): "".join(words[i] for i, own in zip(line, at, strict=True) if own).strip()
        for alias, line, at in zip(first, tokens, named, strict=True)
    }


def patch_names(model: Transformer) -> list[str]:
    """Names of the patches of `ShownModel.effects`: "embed", "L0 attn_out", …, and each head's output, "L0H1 z"."""
    c = take_apart(model)
    sites = [
        f"L{layer} {site}" if site != "resid_pre" else "embed"
        for layer, site in _patched_sites(model)
        if site != "z"
    ]
    heads = [f"L{layer}H{head} z" for layer in range(c.n_layers) for head in range(c.n_heads)]
    return sites + heads


def lens_names(model: Transformer) -> list[str]:
    """Names of the sites of `ShownModel.lens`: "embed", "layer 0", …"""
    return stream_layers(take_apart(model))


def all_aliases(task: Task) -> tuple[list[int], list[str]]:
    """Every alias of the task that test questions are about, in ascending order, and the subset of each."""
    rows = task.rows(kind="question", split="test")
    table = task.table.loc[rows, ["alias", "subset"]].drop_duplicates("alias").sort_values("alias")
    return [int(alias) for alias in table["alias"]], [str(subset) for subset in table["subset"]]


def measure_aliases(model: Transformer, task: Task) -> Float[np.ndarray, "one_alias measure"]:
    """`MEASURES` of every alias of the task, in the order of `all_aliases`; NaN where an alias has none."""
    found = internalization.per_alias(model, task).set_index("alias")
    aliases, _ = all_aliases(task)
    values: np.ndarray = found.reindex(aliases)[list(MEASURES)].to_numpy(dtype=np.float32)
    return values


@torch.no_grad()
def show_model(
    model: Transformer,
    task: Task,
    shown: ShownSeed,
    *,
    patching: bool,
    measures: Float[np.ndarray, "one_alias measure"],
) -> ShownModel:
    """What a model does with the questions of a seed, on the CPU. Without `patching`, effects and ends are NaN.

    `measures` are those of `measure_aliases`, for a twin those of its own task. Raises MechoclError for a model that `take_apart`
    does not cover.
    """
    rows = shown.rows
    picked = torch.from_numpy(rows)
    length = len(shown.labels)
    tokens = task.tokens[picked][:, :length]
    c = take_apart(model)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(c.n_layers)]
    found = activations.collect(model, tokens, names)
    ids = task.entity_ids.to(c.device)
    lens = [
        torch.stack([c.logits(x, ids) for x in written(c, batch).stream], 1).cpu()
        for batch in torch.split(tokens, 64)
    ]
    at = torch.full((len(rows),), length - 1)
    answers = task.questioning.answer_ids(task.vocabulary)
    effects, ends = _effects(model, task, shown, patching=patching)
    return ShownModel(
        patterns=torch.stack([found[name] for name in names], 1).numpy(),
        lens=torch.cat(lens).numpy(),
        logits=logits_at(model, tokens, at, answers).numpy(),
        difference=internalization.true_logit_difference(model, task, rows),
        effects=effects,
        ends=ends,
        measures=measures,
    )


# ----------------------------------------------------------------------------------------- the parts


def _shown_alias(
    task: Task, name: str, rows: Sequence[int], length: int, partners: Mapping[int, int]
) -> ShownAlias:
    table, tokens = task.table, task.vocabulary.tokens
    own = np.array(rows, dtype=int)
    right, wrong = task.answers_of(own)
    signs = task.questioning.signs(task, own)
    entity = int(table["entity"].iloc[rows[0]])
    own_id = int(task.entity_ids[entity])
    is_item = task.roles[torch.from_numpy(own)] == ROLES.index("list")
    questions = [
        Question(
            row=row,
            tokens=tuple(tokens[i] for i in task.tokens[row][:length].tolist()),
            matches=tuple((is_item[k] & (task.tokens[row] == own_id)).nonzero()[:, 0].tolist()),
            right=_as_word(tokens[int(right[k])]),
            wrong=_as_word(tokens[int(wrong[k])]),
            sign=float(signs[k]),
            partner=partners[row],
        )
        for k, row in enumerate(rows)
    ]
    return ShownAlias(
        alias=int(table["alias"].iloc[rows[0]]),
        name=name,
        subset=str(table["subset"].iloc[rows[0]]),
        entity=entity,
        questions=tuple(questions),
    )


def _as_word(token: str) -> str:
    """A token without the space before it; ␣ is a space alone."""
    return token.strip() or "␣"


def _partners(task: Task, rows: np.ndarray, *, seed: int) -> list[int]:
    """For each question, an alias of another entity for which its right answer is another one; −1 where there is none."""
    table = task.table
    asked = table.loc[
        task.rows(kind="question", split="test"), ["alias", "subset", "entity"]
    ].drop_duplicates("alias")
    found = []
    for row in rows.tolist():
        subset = str(table["subset"].iloc[row])
        wanted = PARTNERS.get(subset, subset)
        others = asked[asked["subset"] == (wanted if (asked["subset"] == wanted).any() else subset)]
        entities = others["entity"].to_numpy()
        fits = (entities != table["entity"].iloc[row]) & task.questioning.changes_answer(task, row, entities)
        aliases = others["alias"].to_numpy()[fits]
        draws = generator(seed, "partners on the page", row)
        drawn = int(torch.randint(max(1, len(aliases)), (1,), generator=draws))
        found.append(int(aliases[drawn]) if len(aliases) else -1)
    return found


def _patched_sites(model: Transformer) -> list[tuple[int, str]]:
    """Layer and site of what is patched, in the order of the rows that `patch_activations` gives."""
    return find_sites(take_apart(model), [*stream_sites(model), "z"])


def _effects(
    model: Transformer, task: Task, shown: ShownSeed, *, patching: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`ShownModel.effects` and `ShownModel.ends`."""
    length = len(shown.labels)
    partners = np.array(shown.partners)
    effects = np.full((len(partners), len(patch_names(model)), length), np.nan, dtype=np.float32)
    ends = np.full((len(partners), 2), np.nan, dtype=np.float32)
    there = np.flatnonzero(partners >= 0)
    if not patching or len(there) == 0:
        return effects, ends
    pairs = partner_pairs(task, shown.rows[there], partners[there].tolist(), name="pairs of the page")
    result = patch_activations(model, pairs, sites=[*stream_sites(model), "z"])
    wanted = torch.stack([pairs.target, pairs.foil], 1)
    ids = torch.unique(wanted)
    for side, tokens in enumerate((pairs.clean, pairs.corrupted)):
        both = logits_at(model, tokens, pairs.read, ids).gather(1, torch.searchsorted(ids, wanted))
        ends[there, side] = (both[:, 0] - both[:, 1]).numpy()
    changed = np.where(result.exchanged, result.per_pair - ends[there, 1], np.nan)
    names = patch_names(model)
    for values, row in zip(changed, result.rows.to_dict("records"), strict=True):
        site = "embed" if row["site"] == "resid_pre" else f"L{row['layer']} {row['site']}"
        name = f"L{row['layer']}H{max(0, row['index'])} z" if row["site"] == "z" else site
        effects[there, names.index(name), shown.labels.index(str(row["position"]))] = values
    return effects, ends
