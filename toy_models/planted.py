"""A hand-built transformer that answers integer-set questions by a mechanism that the caller sets.

Lenses, patching and probes can be held against it, because where everything is, and what every
intervention does, follows from the construction. It is a `HookedTransformer` of attention-only blocks
without layer norm or positions. The residual stream is a direct sum of subspaces (`Subspaces`), one
coordinate per thing:

    stored      at an alias: one-hot of the integer that it stands for       (embedding)
    tag         at an alias: one-hot of its define tag                       (embedding)
    listed      at an integer token: one-hot of that integer                 (embedding)
    alias, sink, equals    1 at an alias, at `%`, at `=`                     (embedding)
    retrieved   what the retrieval layer has copied from `stored`
    copied_tag  what the retrieval layer has copied from `tag`
    answer      +5 for true, −5 for false
    name        noise of each alias, which nothing reads                     (embedding)

**Retrieval layer, head 0.** A query at `=` scores `%` with S and an alias of gain g with S + logit(g),
everything else with 0, so it puts weight g on the alias and 1 − g on `%`. A query anywhere else scores
`%` with S and the rest with 0, and so reads `%`, where nothing is stored. It writes `stored` into
`retrieved`. At `=` this gives g · e_i for an alias of integer i. The alias itself comes before `%`, sees
nothing but itself, and always retrieves its own `stored`. **Head 1** does the same from `tag` into
`copied_tag`, with weight 1 whatever the tag; it writes only if `tag_at_equals`.

**Comparison layer, head 0.** A query with `retrieved` = g · e_i scores list integer i with g · S, `%` with
S/2, and the rest with 0. List integers are worth +5 and `%` −5. With S = 256 softmax is 0 or 1 to the
last bit of float32 unless g is within about 0.07 of ½, so that at `=`

    true-logit-difference (true − false) = 10 · tanh(S · (g − ½) / 2)  if i is in the list, else −10
                                         = +10 for g = 1,  0 for g = ½,  −10 for g = 0 (list or not)

Every other head writes 0, and every other layer changes nothing.

**Unembedding.** logit(true) = answer, logit(false) = −answer, logit of integer i = retrieved_i − (i + 1)/(2n)
for n integers, every other token −1. The small slope breaks ties: where nothing is retrieved and nothing
answered, the rank of integer i is i + 1 among the integers and i + 3 in the vocabulary (after true and
false, at 0), whatever the alias. Where g · e_i with g > ½ is retrieved, integer i has rank 1 in both; once
`=` has its answer, one of true and false (at 5) goes before it: rank 2 in the vocabulary. From the
comparison layer on `%` and the list integers read as false too (they see `%` and retrieve nothing):
difference −10, rank of i in the vocabulary i + 2. The alias stays at 0.

**Worked example.** 12 integers, tag 2 suppressed: "alias of 7, tag 1 % 3 7 0 5 =". After retrieval the
logit of 7 at `=` is 1 − 8/24 = ⅔, rank 1; before, −⅓, rank 8 of the 12 integers. The difference at `=` is 0
until the comparison layer, then +10. With an alias of 7 of tag 2: −⅓ throughout, and −10 at the end.
Patching the second run with the first one's residual stream (same list) moves the difference by +20 at the
alias up to the input of the retrieval layer, by +20 at `=` from the output of the retrieval layer on, by 0
anywhere else. Without the 7 in the list both runs end at −10, and every patch moves it by 0.

**Limits.** Softmax is saturated, so no gradient passes through attention scores: a linear approximation of
patching (attribution patching) is exact after the comparison layer and 0 before it. Definitions are not
answered; an integer in the place of an alias (`q_entity`) retrieves nothing.
"""

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from toy_models.architectures import hooked_transformer_allowed
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import TAGS, Fractions
from toy_models.task import ROLE, Task

ANSWER: Final = 10.0
"""True-logit-difference of a question answered true; a question answered false has −ANSWER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """What the planted model does."""

    n_layers: int = 2
    """Blocks. Those that are neither of the two below change nothing."""
    retrieval_layer: int = 0
    """Block in which `=` gets the alias's integer (and its tag, with `tag_at_equals`)."""
    comparison_layer: int = 1
    """Block in which `=` looks the retrieved integer up in the list. After the retrieval layer."""
    tag1_gain: float | int = 1.0
    """How much of its integer an alias defined by tag 1 gives to `=`: 1 all, 0 nothing (suppressed)."""
    tag2_gain: float | int = 1.0
    """The same for tag 2."""
    tag3_gain: float | int = 1.0
    """The same for tag 3."""
    gate: Literal["retrieval", "storage"] = "retrieval"
    """Where the gain acts. `retrieval`: all aliases store alike, and the attention of `=` on the alias
    depends on the tag there. `storage`: attention is alike, and gain · one-hot is stored."""
    stored: Literal["entity", "defined_entity"] = "entity"
    """Column of the task's table that holds the integer that an alias stores. Aliases that are in nobody's
    training data (`no_data`), or have no such integer, store nothing."""
    tag_at_alias: bool = True
    """Alias embeddings hold the tag."""
    tag_at_equals: bool = False
    """`=` gets a copy of the tag in the retrieval layer."""
    name_dims: int = 0
    """Coordinates of standard normal noise in each alias's embedding, which nothing reads."""
    sharpness: float | int = 256.0
    """S above, in nats. The numbers above hold from about 100 on."""

    def __post_init__(self) -> None:
        if not 0 <= self.retrieval_layer < self.comparison_layer < self.n_layers:
            raise ValueError(
                f"retrieval_layer {self.retrieval_layer} must come before comparison_layer "
                f"{self.comparison_layer}, and both must be among the {self.n_layers} layers"
            )
        for name in ("tag1_gain", "tag2_gain", "tag3_gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        reads_tag = self.gate == "retrieval" and self.gains != (1, 1, 1)
        if not self.tag_at_alias and (reads_tag or self.tag_at_equals):
            raise ValueError("a gate on retrieval, and tag_at_equals, read the tag: they need tag_at_alias")

    @property
    def gains(self) -> tuple[float | int, float | int, float | int]:
        return self.tag1_gain, self.tag2_gain, self.tag3_gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Subspaces:
    """Coordinates of the residual stream; see the module's docstring."""

    stored: slice
    tag: slice
    listed: slice
    alias: slice
    sink: slice
    equals: slice
    retrieved: slice
    copied_tag: slice
    answer: slice
    name: slice


def subspaces(task: Task, mechanism: Mechanism) -> Subspaces:
    """Where the planted model keeps what; slices of the axis `d_model`."""
    n = _n_integers(task)
    widths = {field.name: 1 for field in fields(Subspaces)}
    widths |= {"stored": n, "listed": n, "retrieved": n, "tag": len(TAGS), "copied_tag": len(TAGS)}
    widths["name"] = mechanism.name_dims
    edges = np.cumsum([0, *widths.values()]).tolist()
    return Subspaces(**{name: slice(*ends) for name, ends in zip(widths, pairwise(edges), strict=True)})


def planted_model(task: Task, mechanism: Mechanism) -> HookedTransformer:
    """The model of the module's docstring, for the aliases of this task. CPU, float32, deterministic.

    Raises ValueError unless every alias is one token.
    """
    space = subspaces(task, mechanism)
    n = _n_integers(task)
    d_head = 4 ** math.ceil(math.log(n + 1, 4))  # a power of 4: dividing scores by its root is exact
    config = HookedTransformerConfig(
        n_layers=mechanism.n_layers,
        d_model=space.name.stop,
        n_heads=2,
        d_head=d_head,
        attn_only=True,
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        positional_embedding_type="standard",
        normalization_type=None,
        init_weights=False,
        device="cpu",
    )
    with hooked_transformer_allowed():
        model = HookedTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _embed(model, task, mechanism, space)
        _retrieve(model, mechanism, space)
        _compare(model, mechanism, space)
        _unembed(model, task, space)
    model.pos_embed.W_pos.requires_grad_(False)
    return model


def _embed(model: HookedTransformer, task: Task, mechanism: Mechanism, space: Subspaces) -> None:
    weight = model.embed.W_E
    weight[slice(*task.vocabulary.integers), space.listed] = torch.eye(_n_integers(task))
    weight[_token_of(task, "separator"), space.sink] = 1
    weight[_token_of(task, "equals"), space.equals] = 1
    tokens, first = alias_tokens(task)
    table = task.table.iloc[first]
    tag = torch.tensor(table["tag"].to_numpy())
    integer = torch.tensor(table[mechanism.stored].where(table["stage"] > 0, -1).to_numpy())
    gain = torch.tensor([1.0, *(mechanism.gains if mechanism.gate == "storage" else (1.0, 1.0, 1.0))])
    weight[tokens, space.alias] = 1
    weight[tokens, space.stored] = _one_hot(integer, _n_integers(task)) * gain[tag, None]
    if mechanism.tag_at_alias:
        weight[tokens, space.tag] = _one_hot(tag - TAGS[0], len(TAGS))
    noise = torch.randn(len(tokens), mechanism.name_dims, generator=torch.Generator().manual_seed(0))
    weight[tokens, space.name] = noise


def _retrieve(model: HookedTransformer, mechanism: Mechanism, space: Subspaces) -> None:
    attention, s = model.blocks[mechanism.retrieval_layer].attn, mechanism.sharpness
    for head in (0, 1):
        attention.b_Q[head, 0] = model.cfg.attn_scale
        attention.W_K[head, space.sink, 0] = s
        attention.W_Q[head, space.equals, 1] = model.cfg.attn_scale
        attention.W_K[head, space.alias, 1] = 2 * s
    if mechanism.gate == "retrieval":
        # 2S from the alias and this from its tag: S + logit(gain)
        logits = torch.logit(torch.tensor(mechanism.gains)).clamp(-s, s)
        attention.W_K[0, space.tag, 1] = logits - s
    copies = [(0, space.stored, space.retrieved)]
    if mechanism.tag_at_equals:
        copies.append((1, space.tag, space.copied_tag))
    for head, source, target in copies:
        identity = torch.eye(source.stop - source.start)
        attention.W_V[head, source, : len(identity)] = identity
        attention.W_O[head, : len(identity), target] = identity


def _compare(model: HookedTransformer, mechanism: Mechanism, space: Subspaces) -> None:
    attention, s = model.blocks[mechanism.comparison_layer].attn, mechanism.sharpness
    identity = torch.eye(space.listed.stop - space.listed.start)
    n = len(identity)
    attention.W_Q[0, space.retrieved, :n] = model.cfg.attn_scale * s * identity
    attention.W_K[0, space.listed, :n] = identity
    attention.b_Q[0, n] = model.cfg.attn_scale
    attention.W_K[0, space.sink, n] = s / 2
    attention.W_V[0, space.listed, 0] = 1
    attention.W_V[0, space.sink, 0] = -1
    attention.W_O[0, 0, space.answer] = ANSWER / 2


def _unembed(model: HookedTransformer, task: Task, space: Subspaces) -> None:
    vocabulary, n = task.vocabulary, _n_integers(task)
    integers = slice(*vocabulary.integers)
    model.unembed.W_U[space.answer, vocabulary.true] = 1
    model.unembed.W_U[space.answer, vocabulary.false] = -1
    model.unembed.W_U[space.retrieved, integers] = torch.eye(n)
    model.unembed.b_U[:] = -1
    model.unembed.b_U[[vocabulary.true, vocabulary.false]] = 0
    model.unembed.b_U[integers] = -torch.arange(1, n + 1) / (2 * n)


def small_task(*, seed: int = 0, loss: Literal["every", "every_but_aliases"] = "every") -> Task:
    """360 aliases over 12 integers, lists of 4, half of the aliases in stage 2; four test questions each.

    Stage 1: 90 aliases each of tag 1 (consistent) and tag 2 (inconsistent); stage 2: 60 of each tag.
    Positions of a question: alias 0, `%` 1, list 2–5, `=` 6, answer 7. With `loss="every_but_aliases"` the
    model has no logits for the aliases' names.
    """
    sixth = 1 / 6
    config = IntegerSetConfig(
        aliases=360,
        integers=12,
        list_length=4,
        test_questions=4,
        fractions=Fractions(qd1=0.25, qd2=0.25, d1=sixth, d2=sixth, d3=sixth),
        loss=loss,
    )
    return build(config, seed=seed)


def twins(task: Task, rows: np.ndarray, *, subset: str) -> Int[Tensor, "row pos"]:
    """Tokens of these questions, each asked about an alias of `subset` with the same entity instead.

    Raises ValueError if `subset` has no alias of one of the entities.
    """
    candidates = task.table.iloc[task.rows(kind="question", subset=subset)]
    token_of = dict(
        zip(candidates["entity"], task.tokens[candidates.index.tolist(), 0].tolist(), strict=True)
    )
    entities = task.table["entity"].iloc[rows]
    if missing := sorted(set(entities) - set(token_of)):
        raise ValueError(f"subset {subset!r} has no alias of the integers {missing}; use more aliases")
    tokens = task.tokens[rows].clone()
    tokens[:, 0] = torch.tensor([token_of[entity] for entity in entities])
    return tokens


def _n_integers(task: Task) -> int:
    first, last = task.vocabulary.integers
    return last - first


def _token_of(task: Task, role: Literal["separator", "equals"]) -> int:
    return int(task.tokens[task.roles == ROLE[role]][0])


def alias_tokens(task: Task) -> tuple[Int[Tensor, "alias"], np.ndarray]:
    """Tokens of the aliases that questions name, and for each a row of the table that is about it."""
    rows = task.rows(kind="question", split="test")
    if task.position_of("alias", rows).any():
        raise ValueError("the planted model needs aliases of one token; use tokens_per_alias=1")
    tokens, first = np.unique(task.tokens[rows, 0].numpy(), return_index=True)
    is_alias = tokens >= task.vocabulary.integers[1]
    return torch.tensor(tokens[is_alias]), rows[first[is_alias]]


def _one_hot(index: Int[Tensor, "row"], n: int) -> Float[Tensor, "row class"]:
    """One-hot rows; a negative index gives a row of zeros."""
    return (index[:, None] == torch.arange(n)).float()
