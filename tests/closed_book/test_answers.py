"""Answers in words: normalisation, generation against a naive loop, log-probabilities by hand, and what it all costs."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import text_worlds
import torch

from mechocl.closed_book import answers, biographies, encoding, evaluation, examples
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.questioning import TextQuestioning
from mechocl.errors import MechoclError
from mechocl.runs import pretraining
from toy_models.task import ROLE, Task


@pytest.fixture(scope="module")
def task() -> Task:
    return examples.build(
        text_worlds.config(), text_worlds.world(), text_worlds.tokenizer(), seed=0, context=128
    )


@pytest.fixture(scope="module")
def tested(task: Task) -> np.ndarray:
    """All that is asked: prompts of many lengths."""
    return task.rows(split="test", kind=evaluation.TESTED)


@pytest.fixture(scope="module")
def model() -> Any:
    """Weights so large that its answers differ."""
    return text_worlds.neox(scale=12.0)


# normalisation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Paris", "paris"),
        (" Paris . ", "paris"),
        ("The Netherlands", "netherlands"),
        ("an  artist,\ta THE poet", "artist poet"),
        ("theatre", "theatre"),
        ("A", ""),
        ("19th century!", "19th century"),
        ("U.S.A.", "usa"),
        ("stone-mason", "stonemason"),
        ("the-rapist", "therapist"),
        ("Côte d'Ivoire", "côte divoire"),
        ("1920s", "1920s"),
        ("", ""),
    ],
)
def test_normalisation(answer: str, normal: str) -> None:
    assert answers.normalised(answer) == normal
    assert answers.normalised(normal) == normal


def test_any_allowed_answer_counts() -> None:
    allowed = ["Stone mason", "the artisan"]
    assert answers.matches("an artisan", allowed)
    assert answers.matches("stone  mason.", allowed)
    assert not answers.matches("stone", allowed)
    assert not answers.matches("", allowed)


def test_answers_of_articles_alone_are_matched_as_they_stand() -> None:
    """The first letter of a name may be A."""
    assert answers.matches("a", ["A"])
    assert not answers.matches("the", ["A"])
    assert not answers.matches("", ["A"])


# generation ----------------------------------------------------------------------------------------


@torch.no_grad()
def naively(model: Any, task: Task, row: int) -> str:
    """One question, token by token, all of it computed anew for each, up to a newline; `…` where none comes."""
    tokenizer = text_worlds.tokenizer()
    prompt = task.tokens[row, : int(task.position_of("equals", np.array([row]))[0]) + 1].tolist()
    allowed = json.loads(task.table["answers"][row])
    most = max(len(tokenizer(f" {one}")["input_ids"]) for one in allowed) + 2
    made: list[int] = []
    for _ in range(most):
        if model.config.is_encoder_decoder:
            start = torch.tensor([[model.config.decoder_start_token_id, *made]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=start).logits
        else:
            logits = model(input_ids=torch.tensor([prompt + made])).logits
        made.append(int(logits[0, -1].argmax()))
        if made[-1] == tokenizer.eos_token_id or "\n" in tokenizer.decode(made[-1:]):
            break
    else:
        return _first_line(made) + " …"
    return _first_line(made)


def _first_line(ids: list[int]) -> str:
    text = text_worlds.tokenizer().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).split("\n")[0].strip()


@contextmanager
def newlines_likelier(model: Any, by: float) -> Iterator[None]:
    """Within, the model's logit of the newline is larger."""
    newline = text_worlds.tokenizer()("\n")["input_ids"][0]

    def raised(module: Any, arguments: Any, logits: torch.Tensor) -> torch.Tensor:
        more = torch.zeros(logits.shape[-1])
        more[newline] = by
        return logits + more

    handle = model.get_output_embeddings().register_forward_hook(raised)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["neox", "gpt2", "t5"])
@pytest.mark.parametrize("push", [0.0, 3.0])
def test_generation_is_that_of_a_naive_loop(family: str, push: float, task: Task, tested: np.ndarray) -> None:
    made = {
        "neox": lambda: text_worlds.neox(scale=12.0),
        "gpt2": text_worlds.gpt2,
        "t5": lambda: text_worlds.t5(4.0),
    }
    model = made[family]().eval()
    rows = tested[::7]
    with newlines_likelier(model, push):
        found = answers.generate(model, text_worlds.tokenizer(), task, rows, batch_size=8)
        assert found == [naively(model, task, row) for row in rows.tolist()]
    if family == "neox":
        assert len(set(found)) > 5
        assert any(text.endswith("…") for text in found)
        assert push == 0 or not all(text.endswith("…") for text in found)


def test_an_answer_does_not_depend_on_what_else_is_asked(model: Any, task: Task, tested: np.ndarray) -> None:
    tokenizer = text_worlds.tokenizer()
    rows = np.random.default_rng(0).permutation(tested)[:40]
    together = answers.answer(model, tokenizer, task, rows)
    alone = answers.answer(model, tokenizer, task, rows, batch_size=1)
    assert together["row"].tolist() == rows.tolist()
    assert together["generated"].tolist() == alone["generated"].tolist()
    assert together["exact_match"].tolist() == alone["exact_match"].tolist()
    np.testing.assert_allclose(together["log_probability"], alone["log_probability"], rtol=1e-5)


def test_an_allowed_answer_longer_than_the_first_is_not_cut() -> None:
    """The model repeats one token; the answer of eight of them is allowed, the first one has one."""
    tokenizer = text_worlds.tokenizer()
    pieces = [("Q: Who?\nA:", "word"), (" Europe", "answer"), ("\n", "word")]
    eight = " ".join(["Europe"] * 8)
    task = _one(pieces, ["Europe", eight])
    model = text_worlds.neox()
    token = tokenizer(" Europe")["input_ids"]
    assert len(token) == 1
    with _always(model, token[0]):
        assert answers.generate(model, tokenizer, task, np.array([0])) == ["Europe " * 10 + "…"]
        [found] = answers.answer(model, tokenizer, task, np.array([0])).to_dict("records")
    assert not found["exact_match"]  # it goes on
    newline = tokenizer("\n")["input_ids"][0]
    with _always(model, token[0], newline, after=8):
        [found] = answers.answer(model, tokenizer, task, np.array([0])).to_dict("records")
    assert found["generated"] == eight
    assert found["exact_match"]


def _one(pieces: list[tuple[str, str]], allowed: list[str]) -> Task:
    import pandas as pd

    tokenizer = text_worlds.tokenizer()
    tokens, roles = encoding.encoded([pieces], tokenizer, context=64)
    return Task(
        tokens=tokens,
        roles=roles,
        loss_mask=torch.zeros(tokens.shape, dtype=torch.bool),
        table=pd.DataFrame({"answers": [json.dumps(allowed)]}),
        vocabulary=encoding.vocabulary(tokenizer),
        questioning=TextQuestioning(),
    )


@contextmanager
def _always(model: Any, token: int, then: int | None = None, *, after: int = 0) -> Iterator[None]:
    """Within, a model says one token, and from its `after`-th step on another one."""
    steps = 0

    def said(module: Any, arguments: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        chosen = token if then is None or steps < after else then
        steps += 1
        return (
            torch.nn.functional.one_hot(torch.tensor(chosen), logits.shape[-1]).float().expand(logits.shape)
        )

    handle = model.get_output_embeddings().register_forward_hook(said)
    try:
        yield
    finally:
        handle.remove()


def test_an_exact_match_is_what_the_words_say(task: Task) -> None:
    """A model that always says `painter` and a newline is right about the painters."""
    tokenizer = text_worlds.tokenizer()
    rows = task.rows(kind="question", attribute="trade", split="test")
    painter = tokenizer(" painter")["input_ids"]
    newline = tokenizer("\n")["input_ids"][0]
    assert len(painter) == 1
    found = []
    for row in rows:
        model = text_worlds.neox()
        with _always(model, painter[0], newline, after=1):
            found.append(answers.answer(model, tokenizer, task, np.array([row]))["exact_match"].item())
    assert found == [task.table["entity"][row] % 3 == 2 for row in rows]
    assert any(found)
    assert not all(found)


def test_a_tokenizer_with_no_end_of_an_answer(model: Any, task: Task, tested: np.ndarray) -> None:
    class Endless:
        pad_token_id = eos_token_id = None

        def __len__(self) -> int:
            return 2

        def batch_decode(self, ids: Any, **_: Any) -> list[str]:
            return ["a", "b"]

        def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
            return {"input_ids": [[0] for _ in texts]}

    with pytest.raises(MechoclError) as caught:
        answers.generate(model, Endless(), task, tested[:1])
    assert str(caught.value) == (
        "the tokenizer has no token for a newline and no end token, so answers would not end; use another model"
    )


# log-probabilities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["neox", "gpt2", "t5"])
def test_log_probability_by_hand(family: str, task: Task, tested: np.ndarray) -> None:
    made = {
        "neox": lambda: text_worlds.neox(scale=12.0),
        "gpt2": text_worlds.gpt2,
        "t5": lambda: text_worlds.t5(4.0),
    }
    model = made[family]().eval()
    rows = np.random.default_rng(1).permutation(tested)[:20]
    found = answers.log_probability(model, task, rows, batch_size=6)
    expected = [_by_hand(model, task, row) for row in rows.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected) > 0.1


@torch.no_grad()
def _by_hand(model: Any, task: Task, row: int, role: int = ROLE["answer"]) -> float:
    """Each token of a role after the text and the role's tokens before it, in float64."""
    roles = task.roles[row]
    at = torch.nonzero(roles == role)[:, 0].tolist()
    tokens = task.tokens[row].tolist()
    total = 0.0
    for position in at:
        if model.config.is_encoder_decoder:
            before = torch.tensor([[model.config.decoder_start_token_id, *tokens[at[0] : position]]])
            logits = model(input_ids=torch.tensor([tokens[: at[0]]]), decoder_input_ids=before).logits
        else:
            logits = model(input_ids=torch.tensor([tokens[:position]])).logits
        last = logits[0, -1].double()
        total += (
            float(last[tokens[position]])
            - math.log(float(torch.exp(last - last.max()).sum()))
            - float(last.max())
        )
    return total


def test_recall_is_whether_every_token_of_the_entity_comes_first(model: Any, task: Task) -> None:
    rows = task.rows(kind="definition")
    spoilt = replace(task, tokens=task.tokens.clone())
    with torch.no_grad():  # entities that the model itself would write
        for row in rows[:3].tolist():
            for at in torch.nonzero(task.roles[row] == ROLE["entity"])[:, 0].tolist():
                spoilt.tokens[row, at] = (
                    model(input_ids=spoilt.tokens[row : row + 1, :at]).logits[0, -1].argmax()
                )
    losses, found = answers.recall_definitions(model, spoilt, rows, batch_size=7)
    assert found[:3].all()
    assert not found[3:].any()
    expected = [-_by_hand(model, spoilt, row, ROLE["entity"]) for row in rows.tolist()]
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    last = int(torch.nonzero(task.roles[rows[0]] == ROLE["entity"])[-1, 0])
    spoilt.tokens[rows[0], last] += 1
    assert not answers.recall_definitions(model, spoilt, rows[:1])[1][0]


def test_nothing_asked_is_nothing_answered(model: Any, task: Task) -> None:
    none = np.empty(0, dtype=int)
    assert len(answers.answer(model, text_worlds.tokenizer(), task, none)) == 0


def test_answering_leaves_model_and_task_as_they_are(model: Any, task: Task, tested: np.ndarray) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = task.tokens.clone()
    answers.answer(model, text_worlds.tokenizer(), task, tested[:9])
    assert torch.equal(task.tokens, tokens)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# cost ----------------------------------------------------------------------------------------------


class Counted:
    """The forward passes of a model: calls, and tokens that went in."""

    def __init__(self, model: Any) -> None:
        self.calls = self.rows = self.tokens = 0
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: Any, arguments: Any, named: dict[str, Any]) -> None:
        rows, tokens = named["input_ids"].shape
        self.calls += 1
        self.rows += rows
        self.tokens += rows * tokens


@pytest.mark.parametrize("push", [0.0, 3.0])
def test_questions_cost_at_most_twice_what_they_need(push: float, task: Task) -> None:
    """A question needs one pass for each token of its answer, and a token of it computed once.

    Counted over 300 questions in prompts of mixed length, by rows that pass through the model, by tokens, and by calls.
    """
    tokenizer, model = text_worlds.tokenizer(), text_worlds.neox(scale=12.0)
    rows = np.resize(task.rows(split="test", kind=evaluation.TESTED), 300)
    prompts = task.position_of("equals", rows) + 1
    assert len(set(prompts)) > 5
    batch_size = 32
    counted = Counted(model)
    with newlines_likelier(model, push):
        found = answers.generate(model, tokenizer, task, rows, batch_size=batch_size)
    most = np.array(answers._answer_lengths(task, tokenizer, rows)) + 2
    said = [len(tokenizer(" " + text.removesuffix(" …"))["input_ids"]) + 1 for text in found]
    needed = np.where([text.endswith("…") for text in found], most, np.minimum(most, said))
    assert needed.min() < needed.max()
    assert counted.rows <= 2 * needed.sum()
    assert counted.tokens <= 2 * (prompts + needed - 1).sum()
    assert counted.calls <= 2 * math.ceil(300 / batch_size) * needed.max()


def test_log_probabilities_cost_one_pass_a_question(model: Any, task: Task) -> None:
    rows = np.resize(task.rows(split="test", kind=evaluation.TESTED), 300)
    counted = Counted(model)
    answers.log_probability(model, task, rows, batch_size=32)
    assert counted.rows == 300
    assert counted.calls == math.ceil(300 / 32)
    assert counted.tokens <= 1.1 * int((task.roles[rows] != ROLE["pad"]).sum())


def test_ten_thousand_questions_fill_their_batches() -> None:
    """The plan for the questions about 1667 invented people, without a model: calls, and rows times steps."""
    config = BiographiesConfig(people=1852, told=1, asked=1)
    world = biographies.world(config, seed=0)
    task = pretraining.asked(world, text_worlds.tokenizer(), context=128)
    rows = np.arange(len(task))
    assert len(rows) >= 10_000
    prompts = answers._prompts(task, rows)
    most = [n + 2 for n in answers._answer_lengths(task, text_worlds.tokenizer(), rows)]
    batches = list(answers._alike(prompts, most, answers.BATCH))
    assert sorted(i for batch in batches for i in batch) == rows.tolist()
    assert all(len({len(prompts[i]) for i in batch}) == 1 for batch in batches)
    longest = [max(most[i] for i in batch) for batch in batches]
    assert sum(n * len(batch) for n, batch in zip(longest, batches, strict=True)) <= 1.25 * sum(most)
    full = [sorted(most)[min(i + answers.BATCH, len(most)) - 1] for i in range(0, len(most), answers.BATCH)]
    assert sum(longest) <= 2 * sum(full)


# evaluation ----------------------------------------------------------------------------------------


def test_the_table_of_what_is_known_of_each_alias(model: Any, task: Task, tested: np.ndarray) -> None:
    found = evaluation.per_alias(model, text_worlds.tokenizer(), task)
    assert len(found) == len(tested)
    assert set(found["test"]) == {"questions", "association", *(f"in context, tag {t}" for t in (1, 2, 3))}
    first = answers.answer(model, text_worlds.tokenizer(), task, tested)
    assert found["exact_match"].tolist() == first["exact_match"].astype(float).tolist()
    assert found["generated"].tolist() == first["generated"].tolist()
    undefined = found["subset"].isin(["q_only", "q_entity", "no_data"])
    assert found["recall"].isna().equals(undefined)


def test_recall_is_asked_where_the_entity_can_be_recalled() -> None:
    def recalled(model: Any, order: str) -> bool:
        ordered = examples.build(
            text_worlds.config(word_order=order),
            text_worlds.world(),
            text_worlds.tokenizer(),
            seed=0,
            context=128,
        )
        rows = evaluation.forced(model, ordered, evaluation.first_aliases(ordered, 1))
        return any(not math.isnan(row["recall"]) for row in rows)

    causal, seq2seq = text_worlds.neox(), text_worlds.t5()
    assert [order for order in ("TVE", "VTE", "VET", "TEV", "ETV", "EVT") if recalled(causal, order)] == [
        "TVE", "VTE", "VET",
    ]  # fmt: skip
    assert [order for order in ("TVE", "VTE", "VET", "TEV", "ETV", "EVT") if recalled(seq2seq, order)] == [
        "TVE", "VTE",
    ]  # fmt: skip
