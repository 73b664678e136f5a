"""Options of fine-tuning for small models: a rate for embeddings, rows of the batch alone, replay. Against loops by hand."""

from pathlib import Path

import pytest
import text_worlds
import torch
from finetuned import train
from safetensors.torch import load_file
from torch import Tensor

from mechocl.closed_book import biographies, worlds
from mechocl.closed_book.batches import Collator, Examples, Replayed
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.models import hub
from mechocl.runs import finetune
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder
from toy_models.task import ROLE

ALL_THREE = (
    "training.stages.0.embedding_rate=5.0",
    "training.stages.0.embedding_rows=in_batch",
    "training.stages.0.replay=0.5",
)


class Killed(Exception):
    """In the place of a kill."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_worlds.folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_worlds.tied(tmp_path_factory.mktemp("tied") / "model")


def start(path: Path, model: Path, *changes: str) -> Run:
    path.mkdir(exist_ok=True)
    recipe = text_worlds.recipe(path, model, "training.stages.0.epochs=1", *changes)
    return Run.create(
        path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )


def weights(folder: TextSeedFolder, stage: int = 1) -> dict[str, Tensor]:
    return dict(load_file(folder.model_path(folder.final(stage)) / "model.safetensors"))


def embeddings(path: Path) -> Tensor:
    return dict(load_file(path / "model.safetensors"))["gpt_neox.embed_in.weight"]


@pytest.mark.parametrize("kind", ["base", "tied"])
def test_two_updates_by_hand(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """AdamW with a group for embedding and unembedding; after each step the rows of absent tokens are put back, with one batch an epoch."""
    model_path: Path = request.getfixturevalue(kind)
    recipe = start(tmp_path / "task", model_path).recipe
    run = start(tmp_path / "task", model_path)
    task = finetune._task(run.seed(0), recipe, text_worlds.tokenizer(), context=128)
    n = len(finetune.training_rows(task, recipe.training.stages[0]))
    size = n + round(0.5 * n)
    stage = (
        f"data=[1], epochs=2, batch_size={size}, learning_rate=0.002, gradient_clip=0.0, optimizer='adamw', "
        "evaluations=2, embedding_rate=5.0, embedding_rows='in_batch', replay=0.5"
    )
    folder = train(start(tmp_path, model_path, f"training.stages=[{{{stage}}}]"))
    model = hub.read_model(model_path)
    ends = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    assert len(ends) == (1 if kind == "tied" else 2)
    parts = [[p for p in model.parameters() if (id(p) in ends) == of] for of in (True, False)]
    made = torch.optim.AdamW(
        [{"params": parts[0], "share": 5.0}, {"params": parts[1], "share": 1.0}], weight_decay=0.0
    )
    order = _order(folder.seed)
    own = Examples(folder.load_task(), finetune.training_rows(folder.load_task(), recipe.training.stages[0]))
    examples = Replayed(own, worlds.corpus(recipe), encode=encode, share=0.5, seed=order)
    collate = Collator(pad=0, eos=None)
    moved = []
    for update in range(2):
        examples.begin_epoch(update)
        batch = collate([examples[i] for i in range(len(examples))])
        for group in made.param_groups:
            group["lr"] = group["share"] * 2e-3 * (1 - update / 2)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
        made.zero_grad()
        loss.backward()
        before = model.get_input_embeddings().weight.detach().clone()
        made.step()
        present = batch["input_ids"].unique()
        with torch.no_grad():
            after = before.clone()
            after[present] = model.get_input_embeddings().weight[present]
            model.get_input_embeddings().weight.copy_(after)
        moved.append(present)
    found = weights(folder)["gpt_neox.embed_in.weight"]
    torch.testing.assert_close(found, model.get_input_embeddings().weight.detach(), rtol=0.0, atol=1e-4)
    absent = sorted(set(range(len(found))) - set(torch.cat(moved).tolist()))
    assert absent
    assert torch.equal(found[absent], embeddings(model_path)[absent])


def encode(texts: list[str]) -> list[list[int]]:
    """Token ids."""
    found: list[list[int]] = text_worlds.tokenizer()(texts, add_special_tokens=False)["input_ids"]
    return found


def _order(seed: int) -> int:
    """The number that decides the order of the examples in stage 1."""
    from toy_models.randomness import generator

    return int(torch.randint(2**31, (), generator=generator(seed, "fine-tuning", 1)))


def test_an_ordinary_update_moves_rows_of_absent_tokens(tied: Path, tmp_path: Path) -> None:
    """What `in_batch` is for, in a model whose embeddings are tied."""
    folders = [
        train(start(tmp_path / name, tied, f"training.stages.0.embedding_rows={name}"))
        for name in ("all", "in_batch")
    ]
    task = folders[0].load_task()
    rows = finetune.training_rows(task, folders[0].recipe.training.stages[0])  # type: ignore[arg-type]
    read = set(task.tokens[rows][task.roles[rows] != ROLE["pad"]].tolist()) | {0}
    absent = sorted(set(range(len(task.vocabulary))) - read)
    assert len(absent) > 5
    was = embeddings(tied)[absent]
    ordinary, lazy = (weights(folder)["gpt_neox.embed_in.weight"][absent] for folder in folders)
    assert (ordinary != was).any(1).all()
    assert torch.equal(lazy, was)


def test_a_run_with_all_three_that_was_stopped_ends_as_one_that_was_not(tied: Path, tmp_path: Path) -> None:
    whole = train(start(tmp_path / "whole", tied, *ALL_THREE))
    run = start(tmp_path, tied, *ALL_THREE)

    def kill(text: str, share: float) -> None:
        if text.startswith("stage 1, step 4"):
            raise Killed

    with pytest.raises(Killed):
        train(run, save_every_s=0.0, progress=kill)
    assert list((tmp_path / "run").rglob("checkpoint-*"))
    resumed = train(run)
    for stage in (1, 2):
        for name, tensor in weights(whole, stage).items():
            assert torch.equal(tensor, weights(resumed, stage)[name]), name
    plain = weights(train(start(tmp_path / "plain", tied)))
    for change in ALL_THREE:
        one = weights(train(start(tmp_path / change.split(".")[-1].split("=")[0], tied, change)))
        assert any(not torch.equal(one[name], plain[name]) for name in plain), change


def test_what_is_replayed_is_the_corpus_and_other_texts_in_each_epoch(base: Path, tmp_path: Path) -> None:
    run = start(tmp_path, base)
    task = finetune._task(run.seed(0), run.recipe, text_worlds.tokenizer(), context=128)
    rows = task.rows(kind="definition", split="train", stage=1)
    corpus = worlds.corpus(run.recipe)
    assert corpus == biographies.corpus(run.recipe.task.biographies, seed=run.recipe.task.biographies_seed)
    examples = Replayed(Examples(task, rows), corpus, encode=encode, share=1.25, seed=3)
    assert len(examples) == len(rows) + round(1.25 * len(rows))

    def shown() -> list[tuple[int, ...]]:
        return [tuple(examples[i]["input_ids"].tolist()) for i in range(len(rows), len(examples))]

    first = shown()
    assert set(first) <= set(map(tuple, encode(corpus)))
    assert len(set(first)) > len(first) // 2
    examples.begin_epoch(1)
    assert shown() != first
    examples.begin_epoch(0)
    assert shown() == first
    assert Replayed(Examples(task, rows), corpus, encode=encode, share=1.25, seed=4).drawn != examples.drawn
    batch = Collator(pad=0, eos=None)([examples[len(rows)]])
    assert torch.equal(batch["labels"], batch["input_ids"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("training.stages.0.embedding_rate=0",), "embedding_rate is 0.0; it must be above 0"),
        (("training.stages.0.replay=-1",), "replay is -1.0; it must be at least 0"),
        (
            ("training.stages.1.embedding_rows=in_batch", "training.lora={rank=2}"),
            "embedding_rows is in_batch, and adapters train no embeddings but those of added tokens; leave out training.lora, or set",
        ),
        (
            ("training.stages.1.embedding_rate=2.0", "training.lora={rank=2}"),
            "embedding_rate is 2.0, and adapters train no embeddings but those of added tokens; leave out training.lora, or set",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: tuple[str, ...], says: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match=says):
        start(tmp_path, base, *changes)


def test_a_world_without_its_texts_replays_none(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line before a run is made; leaving replay out, as it says, gets past it."""
    path = text_worlds.recipe_file(tmp_path)
    (tmp_path / "cvdb.json").write_text("{}")
    command = [
        "finetune", str(path), "--model", str(base), "--out", str(tmp_path / "run"), "--set", "task.world=cvdb",
        f"task.file={tmp_path / 'cvdb.json'}",
    ]  # fmt: skip
    assert cli.main([*command, "training.stages.1.replay=0.5"]) != 0
    said = capsys.readouterr().err
    assert (
        "training.stages.1.replay is 0.5, and the texts that a model of the world cvdb was pretrained on"
        in said
    )
    assert not (tmp_path / "run").exists()
    assert cli.main(command) != 0
    assert "replay" not in capsys.readouterr().err


def test_rows_of_the_batch_are_known_to_one_process_alone() -> None:
    from mechocl.runs.batch_rows import move_rows_of_the_batch

    with pytest.raises(MechoclError, match="works in one process; start the command without accelerate"):
        move_rows_of_the_batch(text_worlds.neox(), processes=2)


def test_a_t5_moves_the_rows_that_its_encoder_and_its_decoder_read(tmp_path: Path) -> None:
    """Each has a module of its own, which reads the same weights."""
    t5 = text_worlds.folder(tmp_path / "t5", text_worlds.t5())
    folders = [
        train(start(tmp_path / name, t5, "training.kind=seq2seq", f"training.stages.0.embedding_rows={name}"))
        for name in ("all", "in_batch")
    ]
    was = dict(load_file(t5 / "model.safetensors"))["shared.weight"]
    ordinary, lazy = (weights(folder)["shared.weight"] for folder in folders)
    task = folders[0].load_task()
    rows = finetune.training_rows(task, folders[0].recipe.training.stages[0])  # type: ignore[arg-type]
    read = torch.unique(task.tokens[rows][task.roles[rows] != ROLE["pad"]])
    absent = sorted(set(range(len(was))) - set(read.tolist()) - {0})
    assert (lazy[read] != was[read]).any(1).float().mean() > 0.9
    assert torch.equal(lazy[absent], was[absent])
    assert not torch.equal(ordinary[absent], was[absent])


def test_texts_are_not_replayed_to_a_model_that_reads_and_writes(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match=r"replay is for causal models.*; leave replay out"):
        start(tmp_path, base, "training.kind=seq2seq", "training.stages.0.replay=0.5")
    with pytest.raises(ValueError, match="has nothing that a decoder could write"):
        Collator(pad=0, eos=0)([{"input_ids": torch.ones(3).long(), "roles": torch.full((3,), ROLE["word"])}])


def test_a_rate_for_embeddings_that_the_optimiser_does_not_hold_is_refused() -> None:
    from mechocl.runs.trainer_state import _set_apart

    model = text_worlds.neox()
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    with pytest.raises(MechoclError, match="leave embedding_rate out"):
        _set_apart(torch.optim.AdamW([flat]), {id(model.get_input_embeddings().weight)}, 2.0)
