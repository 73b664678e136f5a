"""The tokenizer of a toy world, by way of TransformerLens's helpers."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import text_worlds
import tiny
import torch

from mechocl.closed_book import encoding
from mechocl.runs.building import build_model
from mechocl.runs.recipes import Recipe
from mechocl.runs.train_toy import draw_task
from toy_models.task import Task
from toy_models.tokenizer import give_tokenizer, word_tokenizer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe[Any]:
    return tiny.recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def task(recipe: Recipe[Any]) -> Task:
    return draw_task(recipe, seed=0)


@pytest.fixture(scope="module")
def model(recipe: Recipe[Any]) -> Any:
    return build_model(recipe, seed=0, device="cpu")


@pytest.mark.parametrize(
    "text", ["tag 1 alias 23 % 7", "tag1 alias 23 % 7", "tag1 alias23 % 7", "tag  1   alias 23 %  7"]
)
def test_a_text_is_its_tokens(model: Any, task: Task, text: str) -> None:
    tokens = model.to_tokens(text)
    assert tokens.tolist() == [task.vocabulary.encode("tag 1 alias 23 % 7")]
    assert task.vocabulary.encode(text) == tokens[0].tolist()
    assert model.to_str_tokens(text) == ["tag 1", "alias 23", "%", "7"]
    assert model.to_string(tokens[0]) == "tag 1 alias 23 % 7"


def test_every_example_comes_back(model: Any, task: Task) -> None:
    for row in range(0, len(task), 37):
        tokens = task.tokens[row][task.roles[row] > 0]
        assert model.to_tokens(model.to_string(tokens))[0].tolist() == tokens.tolist()
        assert model.to_str_tokens(tokens) == task.vocabulary.decode(tokens.tolist())


def test_a_number_after_a_numbered_word_is_an_integer(model: Any) -> None:
    assert model.to_str_tokens("alias 2 3") == ["alias 2", "3"]
    assert model.to_str_tokens("tag 1 7") == ["tag 1", "7"]


def test_texts_of_several_lengths_are_padded_on_the_right(model: Any, task: Task) -> None:
    tokens = model.to_tokens(["alias 3 %", "tag 2 alias 4 % 7"])
    assert tokens[0, 2:].tolist() == [0, 0]
    assert tokens[1].tolist() == task.vocabulary.encode("tag 2 alias 4 % 7")


def test_the_other_helpers(model: Any, task: Task) -> None:
    assert model.to_single_token("alias 7") == task.vocabulary.encode("alias 7")[0]
    assert model.to_single_str_token(task.vocabulary.true) == "true"
    assert model.get_token_position("%", "alias 3 % 4") == 1
    by_text, by_tokens = model("alias 3 % 1 2 3 ="), model(model.to_tokens("alias 3 % 1 2 3 ="))
    assert torch.equal(by_text, by_tokens)
    assert model.tokens_to_residual_directions("true").shape == (model.cfg.d_model,)


@pytest.mark.parametrize(
    ("text", "word"), [("alias 99999 % 7", "alias 99999"), ("tagg 1", "tagg"), ("alias 3 % 10", "10")]
)
def test_a_word_that_is_no_token_is_named(model: Any, text: str, word: str) -> None:
    with pytest.raises(ValueError, match=f"'{word}' is not a token of this run's vocabulary"):
        model.to_tokens(text)


def test_weights_and_answers_stay(recipe: Recipe[Any], task: Task, model: Any) -> None:
    bare = build_model(recipe, seed=0, device="cpu")
    bare.tokenizer = None
    weights = {name: tensor.clone() for name, tensor in bare.state_dict().items()}
    answers = bare(task.tokens[:8])
    give_tokenizer(bare, task.vocabulary)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bare.state_dict().items())
    assert torch.equal(bare(task.tokens[:8]), answers)
    assert torch.equal(model(task.tokens[:8]), answers)


def test_a_model_can_be_copied_and_kept(model: Any) -> None:
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.to_str_tokens("tag1 7") == ["tag 1", "7"]


def test_what_is_of_another_world_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this vocabulary is that of texts"):
        word_tokenizer(encoding.vocabulary(text_worlds.tokenizer()))
    smaller = draw_task(tiny.recipe(tmp_path, "task.aliases=60"), seed=0)
    with pytest.raises(ValueError, match="use those of one world"):
        give_tokenizer(model, smaller.vocabulary)


def test_a_text_that_is_too_long_is_refused_and_not_cut(model: Any, task: Task) -> None:
    """Its end, at which the answer is read, would be lost."""
    row = task.tokens[task.rows(kind="question")[0]]
    text = model.to_string(row)
    assert len(row) == model.cfg.n_ctx
    assert model.to_tokens(text).shape == (1, len(row))
    for given in (f"{text} 7", [text, f"{text} 7"]):
        with pytest.raises(
            ValueError, match=f"has {len(row) + 1} tokens, and the model reads at most {len(row)}"
        ):
            model.to_tokens(given)


def test_a_text_is_continued(model: Any, task: Task) -> None:
    row = task.tokens[task.rows(kind="question")[0]]
    said = model.generate(model.to_string(row[:-1]), max_new_tokens=1, do_sample=False, verbose=False)
    best = model(row[None, :-1])[0, -1].argmax()
    assert model.to_tokens(said)[0].tolist() == [*row[:-1].tolist(), int(best)]
