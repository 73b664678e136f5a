"""The planted model does what its docstring derives: every number here is worked out there."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from planted import ANSWER, Mechanism, planted_model, small_task, subspaces, twins
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities import get_act_name

from toy_models import lean
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

ALIAS, SEPARATOR, EQUALS = 0, 1, 6
DEFINED = ("qd1_consistent", "qd2_inconsistent", "d1_consistent", "d2_consistent", "d3_consistent")


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task()


@dataclass(frozen=True)
class Pair:
    """Questions about aliases of tag 2, and the same lists asked about aliases of tag 1, same integers."""

    entity: Tensor  # integer that both aliases stand for
    answer: Tensor  # whether it is in the list
    tag1: Tensor  # tokens
    tag2: Tensor


@pytest.fixture(scope="module")
def pair(task: Task) -> Pair:
    """One true and one false question about each integer."""
    about_d2 = task.table.iloc[task.rows(kind="question", split="test", subset="d2_consistent")]
    chosen = about_d2.drop_duplicates(["entity", "answer"])
    rows = np.array(chosen.index)
    assert len(rows) == 24
    return Pair(
        entity=torch.tensor(chosen["entity"].to_numpy()),
        answer=torch.tensor(chosen["answer"].to_numpy()),
        tag1=twins(task, rows, subset="d1_consistent"),
        tag2=task.tokens[rows],
    )


def difference(task: Task, logits: Tensor, position: int = EQUALS) -> Tensor:
    return logits[:, position, task.vocabulary.true] - logits[:, position, task.vocabulary.false]


def answers(task: Task, model: HookedTransformer, subset: str) -> tuple[Tensor, Tensor]:
    """True-logit-differences of the subset's test questions that are true, and of those that are false."""
    rows = task.rows(kind="question", split="test", subset=subset)
    answer = torch.tensor(task.table["answer"].iloc[rows].to_numpy())
    with torch.no_grad():
        found = difference(task, model(task.tokens[rows]))
    return found[answer], found[~answer]


def assert_solves(task: Task, model: HookedTransformer, subset: str) -> None:
    true, false = answers(task, model, subset)
    assert len(true) == len(false) > 0
    assert (true > 0).all(), f"{subset}: true questions have differences down to {true.min()}"
    assert (false < 0).all(), f"{subset}: false questions have differences up to {false.max()}"


def assert_all_equal(actual: Tensor, expected: float) -> None:
    torch.testing.assert_close(actual, torch.full_like(actual, expected), atol=1e-5, rtol=0)


def patched(
    task: Task, model: HookedTransformer, tokens: Tensor, site: str, value: Tensor, *, axis: int, index: int
) -> Tensor:
    """Difference with one index of one axis of a site's activation taken from `value`."""

    def replace(own: Tensor, hook: object) -> Tensor:
        return own.index_copy(axis, torch.tensor([index]), value.narrow(axis, index, 1))

    with torch.no_grad():
        return difference(task, model.run_with_hooks(tokens, fwd_hooks=[(site, replace)]))


def streams_of(model: HookedTransformer, tokens: Tensor) -> list[Tensor]:
    """Residual stream by depth, the number of blocks passed: the embedding, then after each block."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    sites = [get_act_name("resid_post", layer) for layer in range(model.cfg.n_layers)]
    return [cache[site] for site in (get_act_name("resid_pre", 0), *sites)]


def ranks(logits: Tensor, of: Tensor) -> Tensor:
    """1 + the number of strictly larger logits."""
    return 1 + (logits > logits.gather(-1, of[..., None])).sum(-1)


# what it answers


@pytest.mark.parametrize("gate", ["retrieval", "storage"])
def test_solves_every_question_exactly(task: Task, gate: str) -> None:
    model = planted_model(task, Mechanism(gate=gate))
    for subset in DEFINED:
        true, false = answers(task, model, subset)
        assert_all_equal(true, ANSWER)
        assert_all_equal(false, -ANSWER)


@pytest.mark.parametrize("gate", ["retrieval", "storage"])
def test_a_suppressed_tag_is_answered_false_whatever_the_list(task: Task, gate: str) -> None:
    model = planted_model(task, Mechanism(tag2_gain=0, gate=gate))
    for subset in ("qd1_consistent", "d1_consistent", "d3_consistent"):
        assert_solves(task, model, subset)
    for subset in ("qd2_inconsistent", "d2_consistent"):
        assert_all_equal(torch.cat(answers(task, model, subset)), -ANSWER)
        with pytest.raises(AssertionError, match="true questions have differences down to -10"):
            assert_solves(task, model, subset)


@pytest.mark.parametrize("gate", ["retrieval", "storage"])
@pytest.mark.parametrize(
    ("gain", "sharpness", "expected", "atol"),
    [
        (0.5, 256, 0, 0),
        (0.25, 256, -10, 0),
        (0.75, 256, 10, 0),
        # a list integer beats `%` 3 : 1, so that 10 · (¾ − ¼) = 5; scores are rounded to 1e-5, times 128
        (0.5 + math.log(3) / 128, 128, 5, 1e-2),
    ],
)
def test_a_gain_in_between(
    task: Task, gate: str, gain: float, sharpness: float, expected: float, atol: float
) -> None:
    model = planted_model(task, Mechanism(tag3_gain=gain, gate=gate, sharpness=sharpness))
    true, false = answers(task, model, "d3_consistent")
    torch.testing.assert_close(true, torch.full_like(true, expected), atol=atol, rtol=0)
    assert_all_equal(false, -ANSWER)


def test_what_is_stored_is_the_callers_choice(task: Task) -> None:
    """Asked with a list that holds what the definition says, but not what the questions are about."""
    rows = task.rows(kind="definition", subset="qd2_inconsistent")
    table = task.table.iloc[rows]
    first = task.vocabulary.integers[0]
    alias, defined = task.tokens[rows, 1], torch.tensor(table["defined_entity"].to_numpy())
    entity = torch.tensor(table["entity"].to_numpy())
    question = task.tokens[task.rows(kind="question")[0]].repeat(len(rows), 1)
    question[:, ALIAS] = alias
    others = [[i for i in range(12) if i not in pair][:3] for pair in zip(defined, entity, strict=True)]
    question[:, 2:6] = first + torch.cat([torch.tensor(others), defined[:, None]], 1)
    for stored, expected in (("entity", -ANSWER), ("defined_entity", ANSWER)):
        with torch.no_grad():
            logits = planted_model(task, Mechanism(stored=stored))(question)
        assert_all_equal(difference(task, logits), expected)


def test_an_alias_without_data_stores_nothing() -> None:
    config = IntegerSetConfig(
        aliases=24,
        integers=12,
        list_length=4,
        test_questions=2,
        fractions=Fractions(qd1=0.5, qd2=0.0, q_only=0.25, d1=0.0, d2=0.0, d3=0.0, no_data=0.25),
    )
    task = build(config, seed=0)
    model = planted_model(task, Mechanism())
    assert_solves(task, model, "q_only")
    assert_all_equal(torch.cat(answers(task, model, "no_data")), -ANSWER)
    undefined = planted_model(task, Mechanism(stored="defined_entity"))
    assert_all_equal(torch.cat(answers(task, undefined, "q_only")), -ANSWER)


# what patching finds


@pytest.mark.parametrize(
    ("gate", "n_layers", "retrieval", "comparison"),
    [("retrieval", 2, 0, 1), ("storage", 2, 0, 1), ("retrieval", 4, 1, 3)],
)
def test_patching_the_residual_stream(
    task: Task, pair: Pair, gate: str, n_layers: int, retrieval: int, comparison: int
) -> None:
    """+20 at the alias before retrieval and at `=` after it, on true questions; exactly 0 elsewhere."""
    mechanism = Mechanism(
        n_layers=n_layers, retrieval_layer=retrieval, comparison_layer=comparison, tag2_gain=0, gate=gate
    )
    model = planted_model(task, mechanism)
    with torch.no_grad():
        before = difference(task, model(pair.tag2))
        _, cache = model.run_with_cache(pair.tag1)
    moved = 2 * ANSWER * pair.answer
    last = get_act_name("resid_post", n_layers - 1)
    for depth, site in enumerate([*(get_act_name("resid_pre", layer) for layer in range(n_layers)), last]):
        for position in range(EQUALS + 1):
            after = patched(task, model, pair.tag2, site, cache[site], axis=1, index=position)
            carries = position == (ALIAS if depth <= retrieval else EQUALS)
            assert torch.equal(after - before, moved * carries), (site, position)


HEAD_SITES = ("q", "k", "v", "pattern", "z")


@pytest.mark.parametrize("gate", ["retrieval", "storage"])
def test_patching_the_heads(task: Task, pair: Pair, gate: str) -> None:
    """A gate on retrieval sits in the retrieval head's keys, a gate on storage in its values."""
    model = planted_model(task, Mechanism(tag2_gain=0, gate=gate))
    with torch.no_grad():
        before = difference(task, model(pair.tag2))
        _, cache = model.run_with_cache(pair.tag1)
    moves = {(0, 0, "z"), (1, 0, "z"), (1, 0, "q"), (1, 0, "pattern")}
    moves |= {(0, 0, "k"), (0, 0, "pattern")} if gate == "retrieval" else {(0, 0, "v")}
    for layer in (0, 1):
        for head in (0, 1):
            for site in HEAD_SITES:
                name, axis = get_act_name(site, layer), 1 if site == "pattern" else 2
                after = patched(task, model, pair.tag2, name, cache[name], axis=axis, index=head)
                expected = 2 * ANSWER * pair.answer * ((layer, head, site) in moves)
                assert torch.equal(after - before, expected), (layer, head, site)


@pytest.mark.parametrize(("gate", "effect"), [("retrieval", 2 * ANSWER), ("storage", 0.0)])
def test_moving_the_tag_alone(task: Task, pair: Pair, gate: str, effect: float) -> None:
    """It opens the gate on retrieval; a gate on storage has closed long before."""
    mechanism = Mechanism(tag2_gain=0, gate=gate)
    model, space = planted_model(task, mechanism), subspaces(task, mechanism)

    def set_tag_1(value: Tensor, hook: object) -> Tensor:
        value = value.clone()
        value[:, ALIAS, space.tag] = torch.tensor([1.0, 0, 0])
        return value

    with torch.no_grad():
        before = difference(task, model(pair.tag2))
        hook = (get_act_name("resid_pre", 0), set_tag_1)
        after = difference(task, model.run_with_hooks(pair.tag2, fwd_hooks=[hook]))
    assert torch.equal(after - before, effect * pair.answer)


def test_attribution_patching_is_blind_before_the_comparison(task: Task, pair: Pair) -> None:
    """(clean − corrupted) · gradient: the whole effect after the comparison layer, 0 before."""
    model = planted_model(task, Mechanism(tag2_gain=0))
    sites = [get_act_name("resid_pre", 0), get_act_name("resid_pre", 1), get_act_name("resid_post", 1)]
    streams: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: object) -> None:
        value.retain_grad()
        streams[hook.name] = value

    logits = model.run_with_hooks(pair.tag2, fwd_hooks=[(site, keep) for site in sites])
    difference(task, logits).sum().backward()
    with torch.no_grad():
        _, cache = model.run_with_cache(pair.tag1)
    for site, effect in zip(sites, (0, 0, 2 * ANSWER), strict=True):
        estimate = ((cache[site] - streams[site]) * streams[site].grad).sum(-1)
        assert torch.equal(estimate[:, EQUALS], effect * pair.answer)
        assert_all_equal(estimate[:, :EQUALS], 0)


# what a logit lens sees


@pytest.mark.parametrize("tokens", ["tag1", "tag2"])
def test_the_logit_lens(task: Task, pair: Pair, tokens: str) -> None:
    """Rank of the alias's integer by layer and position, among the integers and in the vocabulary."""
    model = planted_model(task, Mechanism(n_layers=4, retrieval_layer=1, comparison_layer=2, tag2_gain=0))
    first, last = task.vocabulary.integers
    entity = pair.entity
    with torch.no_grad():
        for depth, stream in enumerate(streams_of(model, getattr(pair, tokens))):
            logits = model.unembed(stream)
            for position in range(EQUALS + 1):
                here = logits[:, position]
                retrieved = depth >= 2 and (position == ALIAS or (position == EQUALS and tokens == "tag1"))
                among = torch.ones_like(entity) if retrieved else entity + 1
                assert torch.equal(ranks(here[:, first:last], entity), among), (depth, position)
                answered = depth >= 3 and position != ALIAS
                # true and false, at 0, stand before what is not retrieved; once answered, one of them does
                overall = among + (answered if retrieved else 2 - answered)
                assert torch.equal(ranks(here, first + entity), overall), (depth, position)
                assert torch.equal(here[:, task.vocabulary.true], -here[:, task.vocabulary.false])
                says = torch.where(pair.answer & retrieved, ANSWER, -ANSWER) * answered
                assert torch.equal(difference(task, logits, position), says), (depth, position)


def test_the_worked_example(task: Task) -> None:
    rows = task.rows(kind="question", subset="d1_consistent", split="test")
    about_7 = rows[task.table["entity"].iloc[rows] == 7][:1]
    first, _ = task.vocabulary.integers
    tokens = task.tokens[about_7].clone()
    tokens[:, 2:6] = first + torch.tensor([3, 7, 0, 5])
    model = planted_model(task, Mechanism(tag2_gain=0))
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        early = model.unembed(cache[get_act_name("resid_pre", 0)])[0, EQUALS, first + 7]
        later = model.unembed(cache[get_act_name("resid_post", 0)])[0, EQUALS, first + 7]
        assert difference(task, model(tokens)).item() == 10
    assert early.item() == pytest.approx(-1 / 3)
    assert later.item() == pytest.approx(2 / 3)


# what a linear probe can read


@pytest.mark.parametrize("at_equals", [False, True])
def test_the_tag_at_equals_is_a_switch(task: Task, pair: Pair, at_equals: bool) -> None:
    """Gains alike: switched off, nothing after the alias differs between the tags, to the last bit."""
    mechanism = Mechanism(tag_at_equals=at_equals)
    model, space = planted_model(task, mechanism), subspaces(task, mechanism)
    one, two = streams_of(model, pair.tag1), streams_of(model, pair.tag2)
    for depth, (a, b) in enumerate(zip(one, two, strict=True)):
        assert torch.equal(a[:, SEPARATOR:EQUALS], b[:, SEPARATOR:EQUALS])
        assert torch.equal(a[:, EQUALS], b[:, EQUALS]) is not (at_equals and depth >= 1)
        for stream, one_hot in ((a, [1.0, 0, 0]), (b, [0, 1.0, 0])):
            expected = torch.tensor(one_hot).expand(len(stream), 3) * (at_equals and depth >= 1)
            assert torch.equal(stream[:, EQUALS, space.copied_tag], expected)


def test_the_tag_at_the_alias_is_a_switch(task: Task, pair: Pair) -> None:
    for at_alias in (True, False):
        mechanism = Mechanism(tag_at_alias=at_alias)
        model, space = planted_model(task, mechanism), subspaces(task, mechanism)
        for a, b in zip(streams_of(model, pair.tag1), streams_of(model, pair.tag2), strict=True):
            assert torch.equal(a, b) is not at_alias
            assert torch.equal(a[:, ALIAS, space.tag].sum(1), torch.full((len(a),), float(at_alias)))


def test_a_suppressed_tag_leaves_a_trace_at_equals(task: Task, pair: Pair) -> None:
    """Without any copy of the tag: the retrieved integer is there for tag 1 and not for tag 2."""
    mechanism = Mechanism(tag2_gain=0, tag_at_equals=False)
    model, space = planted_model(task, mechanism), subspaces(task, mechanism)
    for tokens, gain in ((pair.tag1, 1.0), (pair.tag2, 0.0)):
        for depth, stream in enumerate(streams_of(model, tokens)):
            assert_all_equal(stream[:, EQUALS, space.copied_tag], 0)
            assert_all_equal(stream[:, EQUALS, space.retrieved].sum(1), gain * (depth >= 1))


@pytest.mark.parametrize(("gate", "kept"), [("retrieval", 1.0), ("storage", 0.0)])
def test_where_the_integer_is(task: Task, pair: Pair, gate: str, kept: float) -> None:
    """At the alias from the embedding on: for both tags if the gate is on retrieval, else for tag 1."""
    mechanism = Mechanism(tag2_gain=0, gate=gate)
    model, space = planted_model(task, mechanism), subspaces(task, mechanism)
    one_hot = torch.nn.functional.one_hot(pair.entity, 12).float()
    for tokens, at_alias, at_equals in ((pair.tag1, 1.0, 1.0), (pair.tag2, kept, 0.0)):
        for depth, stream in enumerate(streams_of(model, tokens)):
            assert torch.equal(stream[:, ALIAS, space.stored], at_alias * one_hot)
            assert_all_equal(stream[:, SEPARATOR:, space.stored], 0)
            assert torch.equal(stream[:, ALIAS, space.retrieved], at_alias * one_hot * (depth >= 1))
            assert torch.equal(stream[:, EQUALS, space.retrieved], at_equals * one_hot * (depth >= 1))
            assert_all_equal(stream[:, SEPARATOR:EQUALS, space.retrieved], 0)


def test_names_are_noise_at_the_alias_alone(task: Task, pair: Pair) -> None:
    mechanism = Mechanism(name_dims=3)
    model, space = planted_model(task, mechanism), subspaces(task, mechanism)
    state = torch.get_rng_state()
    again = planted_model(task, mechanism)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    noise = model.embed.W_E[task.tokens[task.rows(kind="question"), ALIAS], space.name]
    assert len(noise.unique(dim=0)) == 360
    for stream in streams_of(model, pair.tag1):
        assert_all_equal(stream[:, SEPARATOR:, space.name], 0)
    assert_solves(task, model, "d1_consistent")


# that it is an ordinary model


@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(),
        Mechanism(tag2_gain=0, tag3_gain=0.5, tag_at_equals=True, name_dims=2),
        Mechanism(n_layers=4, retrieval_layer=1, comparison_layer=3, tag2_gain=0.25, gate="storage"),
    ],
)
def test_the_lean_forward_pass_agrees(task: Task, mechanism: Mechanism) -> None:
    model = planted_model(task, mechanism)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    parameters = lean.parameters_of([model])
    tokens = task.tokens[:: len(task) // 100]
    with torch.no_grad():
        hooked = model(tokens)
        x = lean.residual(parameters, tokens[None], lean.shape_of(model))
        ours = lean.logits(parameters, x.flatten(1, 2)).view(*tokens.shape, -1)
    torch.testing.assert_close(ours, hooked, atol=1e-5, rtol=0)


def test_logits_for_the_outputs_alone() -> None:
    task = small_task(loss="every_but_aliases")
    model = planted_model(task, Mechanism())
    assert model(task.tokens[:1]).shape == (1, task.n_ctx, 20)  # 8 symbols and 12 integers
    assert_solves(task, model, "d1_consistent")


# what it refuses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrieval_layer": 1}, "must come before comparison_layer"),
        ({"comparison_layer": 2}, "among the 2 layers"),
        ({"tag2_gain": 1.5}, "tag2_gain is 1.5; it must lie between 0 and 1"),
        ({"tag_at_alias": False, "tag_at_equals": True}, "they need tag_at_alias"),
        ({"tag_at_alias": False, "tag2_gain": 0}, "they need tag_at_alias"),
    ],
)
def test_a_mechanism_that_makes_no_sense(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mechanism(**changes)


def test_names_of_several_letters_are_refused() -> None:
    config = IntegerSetConfig(aliases=20, integers=12, list_length=4, tokens_per_alias=2)
    with pytest.raises(ValueError, match="tokens_per_alias=1"):
        planted_model(build(config, seed=0), Mechanism())


def test_twins_keep_the_list_and_the_integer(task: Task, pair: Pair) -> None:
    assert torch.equal(pair.tag1[:, 1:], pair.tag2[:, 1:])
    about = {}  # alias token → (subset, entity)
    rows = task.rows(kind="question", split="test")
    for token, (_, row) in zip(task.tokens[rows, 0].tolist(), task.table.iloc[rows].iterrows(), strict=True):
        about[token] = (row["subset"], row["entity"])
    for one, two in zip(pair.tag1[:, 0].tolist(), pair.tag2[:, 0].tolist(), strict=True):
        assert about[one] == ("d1_consistent", about[two][1])
    with pytest.raises(ValueError, match="has no alias of the integers"):
        twins(task, rows, subset="no_data")
