"""Fine-tuning: against a loop by hand, stopped and continued bit for bit, adapters, precision, T5, and what fails."""

import io
import itertools
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import text_worlds
import torch
from finetuned import train
from safetensors.torch import load_file
from torch import Tensor

from mechocl import files
from mechocl.closed_book import evaluation, worlds
from mechocl.closed_book.batches import causal_batch
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.models import hub
from mechocl.runs import finetune
from mechocl.runs.progress import Progress
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder
from toy_models.task import ROLE, Task

ONE_STAGE = "training.stages=[{data=[1,2], epochs=1, batch_size=32, optimizer='adamw', evaluations=1}]"

NOISE = "task.unreliable=noise"


class Killed(Exception):
    """In the place of a kill."""


def killer(at: str) -> Progress:
    """A report that ends the process when it is told this."""

    def progress(text: str, share: float) -> None:
        if text.startswith(at):
            raise Killed

    return progress


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-NeoX that has read nothing."""
    return text_worlds.folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_worlds.folder(tmp_path_factory.mktemp("t5") / "model", text_worlds.t5())


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_worlds.folder(tmp_path_factory.mktemp("gpt2") / "model", text_worlds.gpt2())


def start(path: Path, model: Path, *changes: str, seed: int = 0) -> Run:
    """A run of one seed, not begun."""
    path.mkdir(exist_ok=True)
    recipe = text_worlds.recipe(path, model, *changes)
    return Run.create(
        path / "run", recipe, recipe_name="tiny", seeds=(seed,), device="cpu", threads=1, together=1
    )


def weights(folder: TextSeedFolder, stage: int | None = None) -> dict[str, Tensor]:
    """Of the final model of a stage."""
    return dict(load_file(folder.model_path(folder.final(stage)) / "model.safetensors"))


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor], *, atol: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(
            tensor, b[name], rtol=0.0, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TextSeedFolder:
    """A run of two stages that nothing stopped."""
    return train(start(tmp_path_factory.mktemp("whole"), base))


# training ------------------------------------------------------------------------------------------


def test_two_stages(whole: TextSeedFolder, base: Path) -> None:
    assert whole.finished()
    history = whole.history()
    for _, rows in history.groupby("stage"):
        assert rows["step"].tolist() == sorted(rows["step"])
        losses = rows.drop_duplicates("step")["loss"].tolist()
        assert math.isnan(losses[0])
        assert all(math.isfinite(loss) for loss in losses[1:])
    first = history[history["stage"] == 1].drop_duplicates("step")["loss"].tolist()
    assert first[-1] < first[1] < math.log(len(text_worlds.tokenizer())) + 0.1
    assert set(history["subset"]) >= {"qd1_consistent", "d1_consistent", "no_data"}
    begin, middle, end = load_file(base / "model.safetensors"), weights(whole, 1), weights(whole, 2)
    assert all((begin[name] - middle[name]).abs().max() > 0 for name in begin)
    assert any(not torch.equal(middle[name], end[name]) for name in middle)


def test_stage_2_begins_where_stage_1_ended(whole: TextSeedFolder) -> None:
    """What is evaluated before the first step of stage 2 is what was evaluated after the last one of stage 1."""
    history = whole.history().set_index(["stage", "step", "subset"])["log_probability"]
    last = history.loc[1].loc[
        lambda rows: rows.index.get_level_values("step").max() == rows.index.get_level_values("step")
    ]
    first = history.loc[2].loc[0]
    assert last.droplevel("step").to_dict() == pytest.approx(first.to_dict(), rel=1e-6)


def test_final_folders_are_ordinary_and_hold_no_pickle(whole: TextSeedFolder) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = whole.path / "stage-2" / "final"
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("Q: Who is Ada?\nA:", return_tensors="pt")["input_ids"]
    ours = whole.model_at(whole.final(), device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert_no_pickle(whole.path)


def assert_no_pickle(path: Path) -> None:
    written = [p for p in path.rglob("*") if p.is_file()]
    assert written
    odd = {p.suffix for p in written} - {".json", ".safetensors", ".parquet", ".lock", ""}
    assert not odd, odd
    assert not [p for p in written if p.suffix == "" and not p.name.startswith(("lock-", ".lock"))]


def test_a_resume_point_holds_no_pickle(base: Path, tmp_path: Path) -> None:
    run = start(tmp_path, base, ONE_STAGE)
    with pytest.raises(Killed):
        train(run, save_every_s=0.0, progress=killer("stage 1, step 3"))
    points = list((tmp_path / "run").rglob("checkpoint-*"))
    assert [p.name for p in points] == ["checkpoint-3"]
    assert_no_pickle(tmp_path / "run")


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_an_update_by_hand(optimizer: str, accumulation: int, base: Path, tmp_path: Path) -> None:
    """Two updates on all data at once: mean loss over all tokens, gradients clipped, Adafactor without parameter
    scaling (as transformers' Trainer has it) or AdamW, a linear schedule."""
    from torch.optim import AdamW
    from transformers import Adafactor

    run = start(tmp_path, base)
    task = finetune._task(run.seed(0), run.recipe, text_worlds.tokenizer(), context=128)
    rows = finetune.training_rows(task, run.recipe.training.stages[0])
    rows = rows[: len(rows) // 4 * 4]
    n = len(finetune.training_rows(task, run.recipe.training.stages[0]))
    stage = f"data=[1], epochs=2, batch_size={4 * math.ceil(n / 4)}, accumulation={accumulation}, learning_rate=0.002"
    one = start(
        tmp_path / "one",
        base,
        f"training.stages=[{{{stage}, gradient_clip=0.5, evaluations=2, optimizer='{optimizer}'}}]",
    )
    folder = train(one)
    task = folder.load_task()
    rows = finetune.training_rows(task, one.recipe.training.stages[0])
    model = hub.read_model(base)
    if optimizer == "adafactor":
        made: Any = Adafactor(model.parameters(), lr=2e-3, scale_parameter=False, relative_step=False)
    else:
        made = AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    batch = causal_batch(task.tokens[rows], task.roles[rows], pad=0)
    losses = []
    for update in range(2):
        made.param_groups[0]["lr"] = 2e-3 * (1 - update / 2)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
        losses.append(loss.item())
        made.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        made.step()
    assert folder.history().drop_duplicates("step")["loss"].tolist()[1:] == pytest.approx(losses, rel=1e-5)
    found = weights(folder)
    for name, expected in _renamed(model.state_dict()).items():
        if not _without_gradient(name):
            torch.testing.assert_close(found[name], expected, rtol=0.0, atol=2e-5)


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names that GPT-NeoX has in files; transformers 5 has another for the unembedding in memory."""
    return {
        "embed_out.weight" if name == "lm_head.weight" else name: tensor for name, tensor in weights.items()
    }


def _without_gradient(name: str) -> bool:
    """The bias of queries, keys and values: that of the keys changes no attention, so its gradient is rounding alone,
    and Adafactor and Adam make full steps of it."""
    return name.endswith("query_key_value.bias")


def test_a_seed_gives_the_same_weights_and_another_seed_others(
    whole: TextSeedFolder, base: Path, tmp_path: Path
) -> None:
    torch.manual_seed(17)
    assert_equal(weights(train(start(tmp_path / "a", base))), weights(whole))
    other = weights(train(start(tmp_path / "b", base, ONE_STAGE, seed=1)))
    same = weights(train(start(tmp_path / "c", base, ONE_STAGE, seed=0)))
    assert not torch.equal(other["gpt_neox.embed_in.weight"], same["gpt_neox.embed_in.weight"])


@pytest.mark.parametrize(
    ("kind", "changes", "killed"),
    [
        ("base", (), ("stage 1, step 3", "stage 1, step 7", "stage 2, step 1")),
        ("base", ("training.stages.0.accumulation=4", "training.stages.0.epochs=1"), ("stage 1, step 2",)),
        (
            "base",
            ("training.stages.0.optimizer=adafactor", "training.stages.0.epochs=1"),
            ("stage 1, step 3",),
        ),
        (
            "base",
            ("training.lora={rank=2}", "training.stages.0.epochs=1"),
            ("stage 1, step 2", "stage 2, step 2"),
        ),
        ("gpt2", ("training.stages.0.epochs=1",), ("stage 1, step 2", "stage 2, step 2")),
    ],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    kind: str,
    changes: tuple[str, ...],
    killed: tuple[str, ...],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Bit for bit, with dropout in GPT-2, also when the end comes in the middle of an epoch."""
    model = request.getfixturevalue(kind)
    expected = (
        request.getfixturevalue("whole") if not changes else train(start(tmp_path / "whole", model, *changes))
    )
    run = start(tmp_path / "stopped", model, *changes)
    for moment in killed:
        with pytest.raises(Killed):
            train(run, save_every_s=0.0, progress=killer(moment))
        torch.manual_seed(99)
    folder = train(run)
    for stage in (1, 2):
        assert_equal(weights(folder, stage), weights(expected, stage))
    assert folder.history().equals(expected.history())
    assert not list(folder.path.rglob("resume"))


@pytest.fixture(scope="module")
def noisy(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TextSeedFolder:
    """A run of the noise control that nothing stopped."""
    return train(start(tmp_path_factory.mktemp("noisy"), base, NOISE))


def test_a_noise_run_that_was_stopped_ends_as_one_that_was_not(
    base: Path, noisy: TextSeedFolder, tmp_path: Path
) -> None:
    """Bit for bit, stopped in the middle of both epochs and at their border, though the noise differs between epochs."""
    run = start(tmp_path, base, NOISE)
    steps = math.ceil(len(finetune.training_rows(noisy.load_task(), run.recipe.training.stages[0])) / 32)
    assert steps > 1
    for step in (1, steps, steps + 1):
        with pytest.raises(Killed):
            train(run, save_every_s=0.0, progress=killer(f"stage 1, step {step} "))
    folder = train(run)
    for stage in (1, 2):
        assert_equal(weights(folder, stage), weights(noisy, stage))
    assert folder.history().equals(noisy.history())


def test_each_epoch_trains_on_its_own_noise(
    base: Path, noisy: TextSeedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model reads in each epoch, and with the noise of the first epoch alone it becomes another model."""
    read: list[Tensor] = []
    collate = finetune.Collator.__call__

    def listened(self: Any, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        read.extend(example["input_ids"] for example in examples)
        return collate(self, examples)

    monkeypatch.setattr(finetune.Collator, "__call__", listened)
    run = start(tmp_path / "a", base, NOISE)
    train(run)
    task = finetune._task(run.seed(0), run.recipe, text_worlds.tokenizer(), context=128)
    assert task.fresh is not None
    rows = finetune.training_rows(task, run.recipe.training.stages[0])
    for epoch in (0, 1):
        tokens, roles = task.fresh(epoch)
        expected = sorted(tokens[row][roles[row] != 0].tolist() for row in rows.tolist())
        part = read[epoch * len(rows) : (epoch + 1) * len(rows)]
        assert sorted(ids.tolist() for ids in part) == expected
    begin = finetune.Examples.begin_epoch
    monkeypatch.setattr(finetune.Examples, "begin_epoch", lambda self, epoch: begin(self, 0))
    fixed = train(start(tmp_path / "b", base, NOISE))
    assert not torch.equal(
        weights(fixed)["gpt_neox.embed_in.weight"], weights(noisy)["gpt_neox.embed_in.weight"]
    )


def test_a_noise_run_that_began_with_another_task_does_not_go_on(base: Path, tmp_path: Path) -> None:
    run = start(tmp_path, base, NOISE)
    with pytest.raises(Killed):
        train(run, progress=killer("stage 1, step 1 "))
    folder = run.seed(0)
    task = folder.load_task()
    for name in folder.task_files:
        folder.ledger.forget(name)
    folder.save_task(replace(task, tokens=task.tokens.flip(0)))
    with pytest.raises(MechoclError, match="was started on another task by another version of the code"):
        train(Run.open(run.path))


FROZEN = (
    "training.stages=[{data=[1], epochs=2, batch_size=32, optimizer='%s', learning_rate=0.003, weight_decay=0.1, "
    "evaluations=1, trains='%s'}, {data=[2], epochs=2, batch_size=4, optimizer='adamw', evaluations=1}]"
)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_embeddings_of_tags_stay_as_they_are(optimizer: str, base: Path, tmp_path: Path) -> None:
    """Bit for bit, in spite of weight decay and momentum; every other row and every other weight moves. Stage 2 trains all."""
    run = start(tmp_path, base, FROZEN % (optimizer, "all_but_tag_embeddings"))
    with pytest.raises(Killed):
        train(run, save_every_s=0.0, progress=killer("stage 1, step 3 "))
    folder = train(run)
    task = folder.load_task()
    tags = torch.zeros(len(text_worlds.tokenizer()), dtype=torch.bool)
    tags[task.tokens[task.roles == ROLE["tag"]]] = True
    assert 0 < tags.sum() < 30
    before, after, end = load_file(base / "model.safetensors"), weights(folder, 1), weights(folder, 2)
    name = "gpt_neox.embed_in.weight"
    assert torch.equal(before[name][tags], after[name][tags])
    assert not torch.equal(after[name][tags], end[name][tags])
    read = torch.zeros_like(tags)
    read[task.tokens[finetune.training_rows(task, run.recipe.training.stages[0])]] = True
    assert (before[name] != after[name]).any(1)[read & ~tags].all()
    assert all(not torch.equal(before[other], after[other]) for other in before if other != name)


def test_embeddings_alone_are_trained(base: Path, tmp_path: Path) -> None:
    folder = train(start(tmp_path, base, FROZEN % ("adamw", "embeddings")))
    before, after = load_file(base / "model.safetensors"), weights(folder, 1)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"gpt_neox.embed_in.weight"}
    end = weights(folder, 2)
    assert all(not torch.equal(after[name], end[name]) for name in after)


def test_a_frozen_stage_that_was_stopped_ends_as_one_that_was_not(base: Path, tmp_path: Path) -> None:
    for trains in ("all_but_tag_embeddings", "embeddings"):
        expected = train(start(tmp_path / f"{trains}-whole", base, FROZEN % ("adamw", trains)))
        run = start(tmp_path / trains, base, FROZEN % ("adamw", trains))
        with pytest.raises(Killed):
            train(run, save_every_s=0.0, progress=killer("stage 1, step 3 "))
        assert_equal(weights(train(run)), weights(expected))


STOPPING = (
    "training.stages=[{data=[1], epochs=6, batch_size=32, optimizer='adamw', learning_rate=3e-3, evaluations=6, "
    "stop_at_definition_loss=%s}, {data=[2], epochs=1, batch_size=4, optimizer='adamw', evaluations=1}]"
)


def test_a_stage_ends_at_a_definition_loss(base: Path, tmp_path: Path) -> None:
    """After the first epoch with a loss under the given one, as one that trains on was then; also when it was stopped."""
    longer = train(start(tmp_path / "longer", base, STOPPING % 0.0)).history()
    table = longer[(longer["stage"] == 1) & longer["subset"].isin(["qd1_consistent", "qd2_inconsistent"])]
    task = text_worlds_task(tmp_path / "longer")
    aliases = task.table[["alias", "subset"]].drop_duplicates()["subset"].astype(str).value_counts()
    assert aliases.max() <= finetune.EVALUATED_ALIASES  # so that the history is of all of them
    weighted = table.assign(n=table["subset"].map(aliases))
    losses = weighted.groupby("step").apply(
        lambda rows: np.average(rows["definition_loss"], weights=rows["n"])
    )
    assert losses.is_monotonic_decreasing
    limit = float(losses.iloc[2:4].mean())  # between those after the second epoch and after the third

    run = start(tmp_path / "stopping", base, STOPPING % limit)
    with pytest.raises(Killed):
        train(run, save_every_s=0.0, progress=killer("stage 1, step 3 "))
    folder = train(run)
    history = folder.history()
    first = history[history["stage"] == 1].drop(columns="stage").reset_index(drop=True)
    stopped_at = losses.index[3]
    assert first["step"].max() == stopped_at == folder.final(1).step
    before = longer[(longer["stage"] == 1) & (longer["step"] <= stopped_at)].drop(columns="stage")
    pd.testing.assert_frame_equal(first, before.reset_index(drop=True))
    assert folder.finished()
    assert (history["stage"] == 2).any()

    never = train(start(tmp_path / "never", base, STOPPING % 1e-9)).history()
    pd.testing.assert_frame_equal(never, longer)


def text_worlds_task(path: Path) -> Task:
    folder = Run.open(path / "run").seed(0)
    assert isinstance(folder, TextSeedFolder)
    return folder.load_task()


def test_a_definition_loss_that_is_not_there(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match=r"cannot stop at a definition loss.*use word order TVE"):
        train(start(tmp_path / "late", base, STOPPING % 1.0, "task.word_order=EVT"))
    with pytest.raises(MechoclError, match="it must be at least 0"):
        start(tmp_path / "below", base, STOPPING % -1.0)
    only = STOPPING.replace("data=[1],", "data=[1], kinds=['question'],")
    with pytest.raises(MechoclError, match="trains on no definitions"):
        start(tmp_path / "questions", base, only % 1.0)


def test_adapters_and_frozen_embeddings_exclude_each_other(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match="trains is embeddings, and adapters train no embeddings"):
        start(tmp_path, base, FROZEN % ("adamw", "embeddings"), "training.lora={}")


def test_an_incomplete_resume_point_is_not_used(base: Path, whole: TextSeedFolder, tmp_path: Path) -> None:
    run = start(tmp_path, base)
    with pytest.raises(Killed):
        train(run, save_every_s=0.0, progress=killer("stage 1, step 4"))
    [point] = (tmp_path / "run").rglob("checkpoint-*")
    half = point.with_name("checkpoint-5")
    shutil.copytree(point, half)
    (half / "complete.json").unlink()
    (half / "model.safetensors").write_bytes(b"half")
    assert_equal(weights(train(run)), weights(whole))


def test_a_finished_run_is_left_as_it_is(whole: TextSeedFolder, base: Path) -> None:
    before = whole.ledger.entries()
    train(Run.open(whole.path.parent), progress=killer(""))
    assert whole.ledger.entries() == before


def test_a_run_goes_on_with_the_model_that_it_began_with(base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    run = start(tmp_path, model, "training.stages.0.epochs=1", "training.stages.1.epochs=1")
    with pytest.raises(Killed):
        train(run, progress=killer("stage 2"))
    text_worlds.neox(seed=1).save_pretrained(model)
    with pytest.raises(MechoclError) as caught:
        train(Run.open(run.path))
    assert str(caught.value) == (
        f"{run.path} began with another {model / 'model.safetensors'} than there is now; put the old one back, or choose "
        "another --out"
    )


def test_a_model_of_the_hub_is_known_by_its_commit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = text_worlds.recipe(tmp_path, base, 'model="someone/model"')
    for folder, expected in (tmp_path / "snapshots" / "abc", "abc"), (base, "hub"):
        monkeypatch.setattr(
            huggingface_hub, "snapshot_download", lambda name, folder=folder, **_: str(folder)
        )
        assert worlds.fingerprint(recipe) == {"someone/model": expected}


def test_a_model_of_the_hub_is_trained_as_its_folder(
    whole: TextSeedFolder, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(base))
    run = start(tmp_path, Path("someone/model"))
    assert_equal(weights(train(run)), weights(whole))
    assert files.read_json(run.path / "base.json") == {"someone/model": "hub"}


def test_checkpoints_on_request(base: Path, tmp_path: Path) -> None:
    folder = train(start(tmp_path, base, "training.stages.0.checkpoints=4", "training.stages.1.epochs=1"))
    found = [(c.stage, c.step, c.name) for c in folder.checkpoints()]
    total = found[-2][1]
    steps = sorted({round(s) for s in np.geomspace(1, total, 4)})
    assert found[:-1] == [
        *((1, step, f"stage-1/step-{step:06d}") for step in steps[:-1]),
        (1, total, "stage-1/final"),
    ]
    assert found[-1][2] == "stage-2/final"
    kept = [load_file(folder.path / name / "model.safetensors")["embed_out.weight"] for *_, name in found]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(kept))
    folder.model_at(folder.checkpoints()[1], device="cpu")


def test_the_loss_of_a_stage_falls(base: Path, tmp_path: Path) -> None:
    for optimizer, rate in (("adafactor", 1e-3), ("adamw", 3e-3)):
        stage = (
            f"data=[1], epochs=6, batch_size=16, learning_rate={rate}, evaluations=3, optimizer='{optimizer}'"
        )
        folder = train(start(tmp_path / optimizer, base, f"training.stages=[{{{stage}}}]"))
        losses = folder.history().drop_duplicates("step")["loss"].tolist()[1:]
        assert losses[2] < losses[1] < losses[0] - 0.2


# how a model is held -------------------------------------------------------------------------------


def test_adapters_are_merged(base: Path, tmp_path: Path) -> None:
    """W + alpha / rank · B A in the linear layers; everything else as before; trained from B = 0."""
    run = start(tmp_path, base, ONE_STAGE, "training.lora={rank=2, alpha=8.0}")
    with pytest.raises(Killed):
        train(run, save_every_s=0.0, progress=killer("stage 1, step 4"))
    [point] = (tmp_path / "run").rglob("checkpoint-*")
    parts = load_file(point / "weights.safetensors")
    assert {tuple(t.shape)[0 if "lora_A" in name else 1] for name, t in parts.items()} == {2}
    stopped = {name: t.clone() for name, t in load_file(base / "model.safetensors").items()}
    for name, a in parts.items():
        if "lora_A" in name:
            plain = name.removeprefix("base_model.model.").replace(".lora_A.default", "")
            stopped[plain] += 4.0 * parts[name.replace("lora_A", "lora_B")] @ a
    before = load_file(base / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], stopped[name])}
    assert {name.split(".")[-2] for name in moved} == {
        "query_key_value",
        "dense",
        "dense_h_to_4h",
        "dense_4h_to_h",
    }
    folder = train(run)
    after = weights(folder)
    assert {name for name in before if not torch.equal(before[name], after[name])} == moved
    loaded = folder.model_at(folder.final(), device="cpu")
    ids = folder.load_task().tokens[:4, :12]
    theirs = hub.read_model(folder.path / "stage-1" / "final")
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_merged_weights_are_those_of_the_adapters(base: Path, tmp_path: Path) -> None:
    """At the very step of a resume point, the checkpoint is the base with that point's adapters in it."""
    run = start(
        tmp_path,
        base,
        ONE_STAGE,
        "training.lora={rank=3, alpha=6.0, targets=['dense']}",
        "training.stages.0.checkpoints=2",
    )
    with pytest.raises(Killed):
        train(run, save_every_s=0.0, progress=killer("stage 1, step 1 "))
    [point] = (tmp_path / "run").rglob("checkpoint-1")
    parts = load_file(point / "weights.safetensors")
    kept = load_file(tmp_path / "run" / "seed-0" / "stage-1" / "step-000001" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    assert len(parts) == 2 * 2
    for layer in range(2):
        name = f"gpt_neox.layers.{layer}.attention.dense"
        a, b = (parts[f"base_model.model.{name}.lora_{part}.default.weight"] for part in "AB")
        assert b.abs().max() > 0
        torch.testing.assert_close(kept[f"{name}.weight"], before[f"{name}.weight"] + 2.0 * b @ a)
        before.pop(f"{name}.weight")
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())


def test_gradient_checkpointing_changes_nothing(base: Path, tmp_path: Path) -> None:
    plain = train(start(tmp_path / "a", base, ONE_STAGE))
    saving = train(start(tmp_path / "b", base, ONE_STAGE, "training.gradient_checkpointing=true"))
    assert_equal(weights(saving), weights(plain), atol=1e-6)
    config = "stage-1/final/config.json"
    assert files.read_json(saving.path / config) == files.read_json(plain.path / config)


def test_gradient_checkpointing_computes_anew(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer runs twice for each update, and once in evaluations; with adapters too."""
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP

    calls = 0
    forward = GPTNeoXMLP.forward

    def counted(self: Any, x: Tensor) -> Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        return forward(self, x)

    monkeypatch.setattr(GPTNeoXMLP, "forward", counted)
    made = []
    for i, more in enumerate(
        (
            [],
            ["training.gradient_checkpointing=true"],
            ["training.gradient_checkpointing=true", "training.lora={}"],
        )
    ):
        calls = 0
        train(start(tmp_path / str(i), base, ONE_STAGE, *more))
        made.append(calls)
    assert made[1] == made[2] > 1.4 * made[0]


def test_mixed_precision(base: Path, tmp_path: Path) -> None:
    """Weights stay in float32 and differ from those trained in float32 by little more than bf16's rounding."""
    plain = weights(train(start(tmp_path / "a", base, ONE_STAGE)))
    mixed = weights(train(start(tmp_path / "b", base, ONE_STAGE, "training.precision=bf16")))
    assert {tensor.dtype for tensor in mixed.values()} == {torch.float32}
    assert any(not torch.equal(mixed[name], plain[name]) for name in plain)
    before = load_file(base / "model.safetensors")
    moved = torch.cat(
        [(plain[name] - before[name]).flatten() for name in plain if not _without_gradient(name)]
    )
    also = torch.cat(
        [(mixed[name] - before[name]).flatten() for name in plain if not _without_gradient(name)]
    )
    assert float(torch.nn.functional.cosine_similarity(moved, also, dim=0)) > 0.9


# other models and stages ---------------------------------------------------------------------------


def test_a_sequence_to_sequence_model(t5: Path, tmp_path: Path) -> None:
    run = start(
        tmp_path, t5, "training.kind=seq2seq", "training.stages.1.epochs=1", "training.stages.0.epochs=3"
    )
    folder = train(run)
    losses = folder.history().query("stage == 1").drop_duplicates("step")["loss"].tolist()[1:]
    assert losses[-1] < losses[0]
    final = folder.model_path(folder.final())
    assert hub.read_config(final).kind == "seq2seq"
    model = hub.read_model(final)
    found = evaluation.per_alias(model, hub.require_tokenizer(final), folder.load_task())
    assert found["log_probability"].lt(0).all()
    assert found["exact_match"].isin([0.0, 1.0]).all()


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ("[{data=[1,2], epochs=1, batch_size=32}]", [({1, 2}, {"definition", "question"})]),
        (
            "[{data=[1], kinds=['definition'], epochs=1, batch_size=32}, "
            "{data=[1], kinds=['question'], epochs=1, batch_size=32}, {data=[2], epochs=1, batch_size=32}]",
            [({1}, {"definition"}), ({1}, {"question"}), ({2}, {"definition"})],
        ),
    ],
)
def test_one_stage_and_three(
    stages: str,
    expected: list[tuple[set[int], set[str]]],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    train_stage = finetune.trainer.train_model

    def looked_at(model: Any, data: Any, *rest: Any, **named: Any) -> None:
        seen.append([tuple(row[row != 0].tolist()) for row in data.tokens])
        train_stage(model, data, *rest, **named)

    monkeypatch.setattr(finetune.trainer, "train_model", looked_at)
    folder = train(start(tmp_path, base, f"training.stages={stages}"))
    task = folder.load_task()
    assert folder.history()["stage"].nunique() == len(expected) == len(seen)
    for examples, (data, kinds) in zip(seen, expected, strict=True):
        rows = task.rows(split="train", stage=tuple(data), kind=tuple(kinds))
        assert sorted(examples) == sorted(tuple(row[row != 0].tolist()) for row in task.tokens[rows])


# failures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """One seed at a time in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mechocl.runs.processes.cores", lambda: 1)
        yield


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int) -> tuple[list[str], list[str]]:
    """Lines on stdout and on stderr of a command, without those of progress."""
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out.splitlines(), [
        line for line in captured.err.splitlines() if not line.startswith("training: ")
    ]


def test_a_learning_rate_that_diverges(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = text_worlds.recipe_file(tmp_path), tmp_path / "run"
    command = ("finetune", recipe, "--model", base, "--out", out, "--device", "cpu", "--set")
    shown, errors = said(capsys, *command, "training.stages.0.learning_rate=1e30", code=2)
    assert re.fullmatch(
        r"seed 0 failed and is left out \(1 of 1 failed\): stage 1: the training loss is nan at step \d+ of \d+",
        shown[1],
    )
    assert len(errors) == 1
    assert errors[0].startswith(
        f"mechocl: {out}: training diverged in every seed (stage 1: the training loss is nan"
    )
    assert not Run.open(out).seed(0).finished()
    shown, _ = said(capsys, "runs", tmp_path, code=0)
    assert "1 seed, 1 failed" in shown[1] or "1 failed" in shown[1]


def test_the_command(
    base: Path, whole: TextSeedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = text_worlds.recipe_file(tmp_path), tmp_path / "run"
    command = ("finetune", recipe, "--model", base, "--device", "cpu")
    shown, errors = said(capsys, *command, "--dry-run", code=0)
    assert (len(shown), errors) == (1, [])
    assert shown[0].startswith(f"cost: {base}, ")
    assert not out.exists()
    assert said(capsys, *command, code=2)[1] == [
        "mechocl: give --out DIR, the folder of the run, or --dry-run"
    ]
    shown, errors = said(capsys, *command, "--out", out, code=0)
    assert (shown[-1], errors) == (f"run: {out}", [])
    folder = Run.open(out).seed(0)
    assert isinstance(folder, TextSeedFolder)
    assert_equal(weights(folder), weights(whole))


def test_a_seed_that_another_process_trains(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "_LOCK_PATIENCE_S", 0.1)
    run = start(tmp_path, base)
    with files.locked(run.path / "seed-0" / "lock-0", patience=0.0), pytest.raises(MechoclError) as caught:
        train(run)
    assert (
        str(caught.value)
        == f"{run.path / 'seed-0'} is being written by another process; wait for it, or stop it"
    )


class Bad:
    """Runs `mechocl finetune` on what must be refused in one line, before a run is made of it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys

    def __call__(self, model: object, *changes: str, begun: bool = False) -> str:
        out = self.path / "run"
        change = ["--set", *changes] if changes else []
        command = [
            "finetune",
            text_worlds.recipe_file(self.path),
            "--model",
            model,
            "--out",
            out,
            "--device",
            "cpu",
        ]
        _, errors = said(self.capsys, *command, *change, code=2)
        assert len(errors) == 1, errors
        assert out.exists() == begun
        return errors[0].removeprefix("mechocl: ")


@pytest.fixture
def bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bad:
    return Bad(tmp_path, capsys)


def test_a_hub_name_without_network(bad: Bad) -> None:
    line = bad("somebody/some-model")
    assert line.startswith(
        "somebody/some-model cannot be fetched: there is no such folder here, and no network or no such model ("
    )
    assert line.endswith("); download it elsewhere and give the folder")


def test_a_path_that_does_not_exist(bad: Bad, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert bad(gone) == f"{gone} does not exist; give the folder of a saved Hugging Face model"


def test_a_folder_without_a_model(bad: Bad, tmp_path: Path, base: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert bad(empty).startswith(f"{empty}")
    alone = tmp_path / "alone"
    text_worlds.tokenizer().save_pretrained(alone)
    assert bad(alone).startswith(f"{alone}")
    shutil.copy(base / "config.json", alone)
    assert bad(alone).startswith(f"{alone}")


def test_a_tokenizer_of_another_model(bad: Bad, base: Path, tmp_path: Path) -> None:
    from mechocl.runs import pretraining

    other = tmp_path / "other"
    shutil.copytree(base, other)
    pretraining.train_tokenizer(
        ["So many other words " + w for w in "abcdefghij"], vocabulary=270
    ).save_pretrained(other)
    assert len(hub.require_tokenizer(other)) < 420  # fewer ids than the model knows are no mistake
    many = " ".join(f"word{i} other{i}" for i in range(300))
    large = pretraining.train_tokenizer([many] * 3, vocabulary=600)
    large.save_pretrained(other)
    assert len(large) > 420
    assert bad(other) == (
        f"the tokenizer in {other} does not match the model: it has ids up to {len(large) - 1}, the model has embeddings "
        "up to 419 (vocab_size in config.json); save the model's own tokenizer beside it"
    )


def test_weights_that_are_missing_or_damaged(bad: Bad, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    tensors = load_file(broken / "model.safetensors")
    gone = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    file, other = broken / "model.safetensors", "gpt_neox.layers.7.mlp.extra"
    for changed, line in (
        (
            {name: t for name, t in tensors.items() if name != gone},
            f"is incomplete: weight {gone} is missing",
        ),
        (tensors | {other: torch.zeros(2)}, f"does not fit config.json: weight {other} is unexpected"),
        (
            tensors | {gone: torch.zeros(3, 5)},
            f"does not fit config.json: weight {gone} has shape (3, 5), (16, 64) is expected",
        ),
    ):
        save_file(changed, file, metadata={"format": "pt"})
        assert bad(broken, begun=True) == f"{file} {line}"
        shutil.rmtree(tmp_path / "run")
    (broken / "model.safetensors").write_bytes(b"no weights")
    assert bad(broken, begun=False).startswith(f"{broken}")


def test_a_pickle_is_refused_with_the_command_that_converts_it(bad: Bad, base: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(base, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    line = bad(pickled)
    assert line.startswith(f"{pickled / 'pytorch_model.bin'} is a pickle")
    assert "AutoModelForCausalLM as M" in line
    assert "save_pretrained(sys.argv[2])" in line


def test_a_pickled_t5_is_converted_as_one(bad: Bad, t5: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(t5, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "AutoModelForSeq2SeqLM as M" in bad(pickled, "training.kind=seq2seq")


def test_a_folder_without_a_tokenizer(bad: Bad, tmp_path: Path) -> None:
    text_worlds.neox().save_pretrained(tmp_path / "bare")
    assert bad(tmp_path / "bare").startswith(f"{tmp_path / 'bare'} has no tokenizer (tokenizer.json, ")


def test_code_that_comes_with_a_model_is_never_run(
    bad: Bad, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the user types: nobody is asked."""
    custom, ran = tmp_path / "custom", tmp_path / "ran"
    shutil.copytree(base, custom)
    (custom / "own.py").write_text(
        "from transformers import PretrainedConfig\n"
        f"open({str(ran)!r}, 'w').close()\n"
        "class Own(PretrainedConfig):\n    model_type = 'own'\n"
    )
    config = files.read_json(custom / "config.json")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    files.write_json(custom / "config.json", config | own)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    assert bad(custom).startswith(str(custom))
    assert not ran.exists()


def test_a_start_that_failed_is_in_nobody_s_way(bad: Bad, base: Path, tmp_path: Path) -> None:
    assert "use fewer" in bad(base, "task.entities=4000", begun=True)
    recipe, out = text_worlds.recipe_file(tmp_path), tmp_path / "run"
    command = ["finetune", recipe, "--model", base, "--out", out, "--device", "cpu"]
    short = ["--set", "training.stages.0.epochs=1", "training.stages.1.epochs=1"]
    assert cli.main([str(a) for a in [*command, *short]]) == 0
    assert Run.open(out).seed(0).finished()
    assert "holds a run of another recipe" in bad(base, "task.tag_letters=5", begun=True)


def test_a_model_of_another_kind(bad: Bad, t5: Path) -> None:
    assert bad(t5, begun=True) == (f"{t5} is a t5 model, and training.kind is 'causal'; use kind = 'seq2seq'")


def test_a_database_that_is_not_named_or_not_there(bad: Bad, base: Path, tmp_path: Path) -> None:
    assert bad(base, "task.world=cvdb") == (
        "world cvdb needs a database, which you must get yourself; name it with --set task.file=PATH"
    )
    missing = tmp_path / "people.csv"
    assert bad(base, "task.world=trex", f"task.file={missing}") == (
        f"task.file is {missing}, which does not exist; give the database of trex"
    )


def test_an_empty_database(bad: Bad, base: Path, tmp_path: Path) -> None:
    from mechocl.closed_book.cvdb_file import COLUMNS

    database = tmp_path / "people.csv"
    database.write_text(",".join(COLUMNS) + "\n")
    line = bad(base, "task.world=cvdb", f"task.file={database}", "task.entities=20", begun=True)
    assert line.startswith(f"{database}")


def test_more_entities_than_there_are(bad: Bad, base: Path) -> None:
    assert bad(base, "task.entities=37", begun=True) == (
        "task.entities is 37, and biographies has 36 entities; use fewer"
    )


def test_texts_longer_than_the_context(bad: Bad, tmp_path: Path) -> None:
    short = text_worlds.folder(tmp_path / "short", text_worlds.neox(context=24))
    line = bad(short, begun=True)
    assert re.fullmatch(
        r"an example has \d+ tokens and the model reads 24: '.*'…; use shorter texts or a model of longer context",
        line,
    )


def test_a_stage_with_nothing_to_train_on(bad: Bad, base: Path) -> None:
    line = bad(base, "training.stages.1.kinds=['question']", begun=True)
    assert line == (
        "a stage of data [2] and kinds ['question'] has nothing to train on; change task.fractions or the stage"
    )


def test_layers_that_adapters_cannot_find(bad: Bad, base: Path) -> None:
    line = bad(base, "training.lora={targets=['q_proj']}", begun=True)
    assert line.startswith("training.lora.targets ['q_proj']: ")


def test_an_invented_world_that_the_model_does_not_know(bad: Bad, base: Path, tmp_path: Path) -> None:
    from mechocl.closed_book.biographies import BiographiesConfig

    knowing = tmp_path / "knowing"
    shutil.copytree(base, knowing)
    files.write_json(
        knowing / worlds.RECORD, worlds.drawing_record(BiographiesConfig(people=50, told=1, asked=1), 0)
    )
    line = bad(knowing, begun=True)
    assert line == (
        f"{knowing / worlds.RECORD} says that the model knows another invented world (people 50, not 40); set "
        "task.biographies and task.biographies_seed to the values in that file"
    )


def test_a_batch_that_processes_cannot_share(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path, base, ONE_STAGE)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(MechoclError) as caught:
        train(run)
    assert str(caught.value) == (
        "batch_size 32 does not divide into 1 parts for each of 3 processes; change batch_size or accumulation"
    )
