"""Adapters beside trained embeddings of added tokens: which weights move, a step by hand, stopping, and what is refused."""

from pathlib import Path

import pandas as pd
import pytest
import text_worlds
import torch
from finetuned import train
from safetensors.torch import load_file
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models import hub
from mechocl.runs.adapters import with_adapters
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder
from mechocl.runs.token_rows import find_token_rows
from toy_models.task import ROLE, Task

CHANGES = (
    "task.added_tokens=true",
    "training.lora={rank=2}",
    "training.stages.0.embedding_rows=in_batch",
    "training.stages.0.embedding_rate=5.0",
    "training.stages.1.embedding_rows=in_batch",
)
IN, OUT = "gpt_neox.embed_in.weight", "embed_out.weight"


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_worlds.folder(tmp_path_factory.mktemp("untied") / "model")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_worlds.tied(tmp_path_factory.mktemp("tied") / "model")


def start(path: Path, model: Path, *changes: str) -> Run:
    path.mkdir(exist_ok=True)
    recipe = text_worlds.recipe(path, model, *CHANGES, *changes)
    return Run.create(
        path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )


def added_tokens(task: Task, base: Path) -> range:
    """Ids of the tokens that a task has and the tokenizer of the pretrained model has not."""
    return range(len(hub.require_tokenizer(base)), len(task.vocabulary))


def weights(folder: TextSeedFolder, stage: int) -> dict[str, Tensor]:
    return dict(load_file(folder.model_path(folder.final(stage)) / "model.safetensors"))


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_only_rows_of_added_tokens_move_and_of_them_those_of_the_batch(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Embeddings of the model's own tokens stay as they are to the last bit; the blocks move by the adapters' rank."""
    base: Path = request.getfixturevalue(kind)
    folder = train(start(tmp_path, base))
    task, before = folder.load_task(), load_file(base / "model.safetensors")
    own = added_tokens(task, base)
    known = own.start
    read = {
        stage: set(task.tokens[rows][task.roles[rows] != ROLE["pad"]].tolist())
        for stage in (1, 2)
        for rows in [task.rows(split="train", stage=(stage,))]
    }
    ends = {stage: weights(folder, stage) for stage in (1, 2)}
    assert len(ends[1][IN]) >= own.stop
    for stage in (1, 2):
        assert torch.equal(ends[stage][IN][:known], before[IN][:known])
    moved = (ends[2][IN] != ends[1][IN]).any(1).nonzero()[:, 0].tolist()
    assert set(moved) == read[2] & set(own)
    if kind == "untied":
        assert torch.equal(ends[2][OUT], ends[1][OUT])
        assert torch.equal(ends[2][OUT][:known], before[OUT][:known])
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    change = (ends[1][name] - before[name]).double()
    assert int(torch.linalg.matrix_rank(change, rtol=1e-4)) == 2


def test_a_step_by_hand(tied: Path, tmp_path: Path) -> None:
    """The rows are a parameter of their own: its gradient is that of the whole embedding, at the tokens' places, from both ends."""
    folder = start(tmp_path, tied).seed(0)
    trained = train(start(tmp_path, tied))
    assert isinstance(folder, TextSeedFolder)
    source = trained.model_path(trained.final(1))
    task = trained.load_task()
    tokens = task.tokens[task.rows(kind="definition")[:4]]
    plain, config = hub.read_model(source), folder.recipe.training.lora  # type: ignore[union-attr]
    adapted = with_adapters(hub.read_model(source), config, seed=0, tokens=added_tokens(task, tied))  # type: ignore[arg-type]
    for model in (plain, adapted):
        model(input_ids=tokens, labels=tokens).loss.backward()
    rows = find_token_rows(adapted)
    whole = find_token_rows(plain)
    assert (whole.first, rows.first) == (0, added_tokens(task, tied).start)
    expected = whole.weight.grad[rows.first : rows.first + len(rows.weight)]  # type: ignore[index]
    torch.testing.assert_close(rows.weight.grad, expected)


@pytest.mark.parametrize("unreliable", ["inconsistent", "noise"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(unreliable: str, tied: Path, tmp_path: Path) -> None:
    change = f"task.unreliable={unreliable}"
    whole = train(start(tmp_path / "whole", tied, change))
    run = start(tmp_path / "stopped", tied, change)
    for at in ("stage 1, step 2", "stage 2, step 1"):

        def kill(text: str, share: float, at: str = at) -> None:
            if text.startswith(at):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(run, save_every_s=0.0, progress=kill)
    resumed = train(run)
    for stage in (1, 2):
        ours, theirs = weights(resumed, stage), weights(whole, stage)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_stage_without_a_first_evaluation(tied: Path, tmp_path: Path) -> None:
    """Its history begins later, and its model is the same."""
    folders = [
        train(start(tmp_path / first, tied, f"training.stages.0.evaluates_first={first}"))
        for first in ("true", "false")
    ]
    steps = [
        pd.read_parquet(folder.path / "stage-1" / "history.parquet")["step"].unique().tolist()
        for folder in folders
    ]
    assert steps[0] == [0, *steps[1]]
    ours, theirs = (weights(folder, 1) for folder in folders)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_sequence_to_sequence_model_has_adapters_or_added_tokens(tied: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MechoclError,
        match=r"beside adapters only a causal model trains added tokens; leave out training\.lora",
    ):
        start(tmp_path, tied, "training.kind=seq2seq")
