"""The run directory: what it records, what it refuses, and what a killed process leaves behind."""

import json
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch

from mechocl import __version__, files
from mechocl.errors import MechoclError
from mechocl.runs import recipes, train_toy
from mechocl.runs.folders import SeedFolder, StackFolder
from mechocl.runs.listing import find_runs
from mechocl.runs.manifest import SCHEMA
from mechocl.runs.provenance import git_state
from mechocl.runs.run import Run
from toy_models import integer_set
from toy_models.trainer import TrainingState

HUGE_RATE = "training.stages.0.learning_rate=1e30"
"""With it the loss is not finite after a step."""


def create(
    path: Path,
    *changes: str,
    seeds: tuple[int, ...] = (0, 1),
    device: str = "cpu",
    threads: int = 1,
    together: int = 1,
) -> Run:
    path.parent.mkdir(exist_ok=True)
    recipe = tiny.recipe(path.parent, *changes)
    return Run.create(
        path, recipe, recipe_name="tiny", seeds=seeds, device=device, threads=threads, together=together
    )


def train(run: Run) -> None:
    for stack in run.stacks():
        train_toy.train_stack(run, stack, device="cpu", save_every_s=1e9, progress=lambda text, share: None)


def finish(folder: SeedFolder) -> None:
    """Make a seed look finished without training it."""
    for stage in (1, 2):
        folder.save_checkpoint({"a": torch.zeros(1)}, stage=stage, step=5, final=True)
        folder.finish_stage(stage, [{"stage": stage, "step": 5}])


def a_state(step: int) -> TrainingState:
    return TrainingState({"a": torch.full((2,), float(step))}, step, {"optimizer/0/scale": 0.25})


def files_in(folder: SeedFolder | StackFolder) -> dict[str, Path]:
    return {str(p.relative_to(folder.path)): p for p in folder.path.rglob("*") if p.is_file()}


# the manifest --------------------------------------------------------------------------------------


def test_the_manifest_says_what_made_the_run(tmp_path: Path) -> None:
    run = create(tmp_path / "run", seeds=(3, 1), threads=2, together=2)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest.pop("checksum").startswith("sha256-with-zeros-here:")
    assert manifest == run.manifest
    assert manifest["schema"] == SCHEMA == 2
    assert recipes.parse(manifest["recipe"], source="") == run.recipe == tiny.recipe(tmp_path)
    assert (manifest["recipe_name"], manifest["seeds"]) == ("tiny", [1, 3])
    assert manifest["stacks"] == [[1, 3]]
    assert (manifest["device"], manifest["precision"], manifest["threads"]) == ("cpu", "float32", 2)
    assert manifest["python"] == platform.python_version()
    assert manifest["packages"]["mechocl"] == __version__
    for name in ("torch", "transformer-lens", "transformers", "numpy", "pandas", "scikit-learn"):
        assert manifest["packages"][name] == metadata.version(name)
    assert manifest["git"] == git_state()
    assert "cores" in manifest["machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["created"])


def test_the_git_state_is_a_commit_or_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = git_state()
    assert state is None or re.fullmatch(r"[0-9a-f]{40}", state["commit"])
    monkeypatch.setattr(
        "mechocl.runs.provenance.__file__", str(tmp_path / "runs.py")
    )  # as when installed elsewhere
    assert git_state() is None


def test_the_same_run_continues_and_takes_more_seeds(tmp_path: Path) -> None:
    first = create(tmp_path / "run", seeds=(0, 1))
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    assert create(tmp_path / "run", seeds=(1,)) == first
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
    more = create(tmp_path / "run", seeds=(5, 1), threads=8).manifest
    assert more == first.manifest | {"seeds": [0, 1, 5], "stacks": [[0], [1], [5]]}


@pytest.mark.parametrize(
    ("seeds", "together", "expected"),
    [
        ((0, 1, 2, 3, 4), 1, [[0], [1], [2], [3], [4]]),
        ((0, 1, 2, 3, 4), 4, [[0, 1, 2], [3, 4]]),
        ((4, 0, 2), 8, [[0, 2, 4]]),
    ],
)
def test_stacks_share_the_seeds_evenly(
    tmp_path: Path, seeds: tuple[int, ...], together: int, expected: list[list[int]]
) -> None:
    run = create(tmp_path / "run", seeds=seeds, together=together)
    assert [list(stack.seeds) for stack in run.stacks()] == expected
    assert len({stack.path for stack in run.stacks()}) == len(expected)


def test_more_seeds_leave_the_stacks_as_they_are(tmp_path: Path) -> None:
    """The last bits of a seed's weights depend on its stack, so it must not change once it has begun."""
    first = create(tmp_path / "run", seeds=(0, 1, 2), together=2)
    assert [s.seeds for s in first.stacks()] == [(0, 1), (2,)]
    more = create(tmp_path / "run", seeds=(0, 1, 2, 3, 4, 5), together=3)
    assert [s.seeds for s in more.stacks()] == [(0, 1), (2,), (3, 4, 5)]
    assert [s.path for s in more.stacks()][:2] == [s.path for s in first.stacks()]
    assert create(tmp_path / "run", seeds=(1, 5), together=1) == more


def write_schema_1(run: Run, **changes: Any) -> None:
    """The manifest as the first version wrote it, when every seed was trained alone."""
    old = {k: v for k, v in run.manifest.items() if k != "stacks"}
    files.write_json(run.path / "manifest.json", old | {"schema": 1} | changes)


def test_a_run_of_the_first_schema_opens_and_continues(tmp_path: Path) -> None:
    run = create(tmp_path / "run", seeds=(0, 1))
    write_schema_1(run)
    before = (run.path / "manifest.json").read_bytes()
    opened = Run.open(run.path)
    assert Run.open(str(run.path)).path == opened.path
    assert opened == run
    assert [s.seeds for s in opened.stacks()] == [(0,), (1,)]
    assert (run.path / "manifest.json").read_bytes() == before
    more = create(run.path, seeds=(0, 1, 2, 3), together=2)
    assert [s.seeds for s in more.stacks()] == [(0,), (1,), (2, 3)]
    assert files.read_json(run.path / "manifest.json")["schema"] == 2
    write_schema_1(run, seeds=3)
    with pytest.raises(MechoclError, match=r"manifest\.json is damaged: no valid 'seeds'"):
        Run.open(run.path)


def test_a_sweep_is_not_called_a_damaged_run(tmp_path: Path) -> None:
    files.write_json(tmp_path / "manifest.json", {"schema": 1, "kind": "sweep"})
    match = "is a sweep, not a run; `mechocl sweep --table"
    for act in (Run.open, create):
        with pytest.raises(MechoclError, match=match):
            act(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_another_recipe_and_another_device_are_refused(tmp_path: Path) -> None:
    create(tmp_path / "run")
    files.write_text(tmp_path / "run" / "seed-0" / "checksums.json", "{}")
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    with pytest.raises(MechoclError, match="run holds a run of another recipe; choose another --out"):
        create(tmp_path / "run", "training.stages.0.epochs=4")
    with pytest.raises(MechoclError, match="run was started on cpu, not cuda; continue it there, or choose"):
        create(tmp_path / "run", device="cuda")
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_a_run_of_which_nothing_was_made_gives_way(tmp_path: Path) -> None:
    create(tmp_path / "run")
    run = create(tmp_path / "run", "training.stages.0.epochs=4")
    assert run.recipe.training.stages[0].epochs == 4
    assert Run.open(tmp_path / "run").recipe == run.recipe


def test_a_run_never_moves_in_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(MechoclError, match=f"{name} exists and is not a run; choose another --out"):
            create(tmp_path / name)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_run_that_was_killed_as_it_started_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    files.write_text(path / ".manifest.json.abc.tmp", '{"schema"')
    (path / ".lock").touch()
    assert create(path).seeds == (0, 1)


def test_seeds_that_another_process_added_are_kept(tmp_path: Path) -> None:
    run = create(tmp_path / "run", seeds=(0,))
    create(tmp_path / "run", seeds=(7,))
    assert run.note_seconds("training", 1.25).seeds == (0, 7)
    again = run.note_seconds("training", 2.0)
    assert again.manifest["seconds"] == {"training": 3.2}
    assert Run.open(tmp_path / "run") == again


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            {"schema": 3},
            r"run was written by a newer version \(schema 3, this one reads 2\); upgrade mechocl",
        ),
        ({"schema": None}, r"manifest\.json is damaged: it has no schema number"),
        ({"recipe": None}, r"manifest\.json is damaged: no valid 'recipe'"),
        ({"seeds": 3}, r"manifest\.json is damaged: no valid 'seeds'"),
        ({"stacks": None}, r"manifest\.json is damaged: no valid 'stacks'"),
        ({"recipe": {"task": {"aliases": 1}}}, r"manifest\.json: the key 'description' is missing"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(
    tmp_path: Path, manifest: dict[str, Any], message: str
) -> None:
    run = create(tmp_path / "run")
    files.write_json(run.path / "manifest.json", run.manifest | manifest)
    with pytest.raises(MechoclError, match=message) as caught:
        Run.open(run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    run = create(tmp_path / "run")
    (run.path / "manifest.json").write_text(content)
    with pytest.raises(MechoclError, match=r"manifest\.json is damaged"):
        Run.open(run.path)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MechoclError, match="nothing does not exist; `mechocl runs` lists"):
        Run.open(tmp_path / "nothing")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(MechoclError, match="is not a run: it has no manifest"):
            Run.open(path)


def test_runs_are_found_in_a_folder(tmp_path: Path) -> None:
    b, a = create(tmp_path / "b"), create(tmp_path / "a")
    (tmp_path / "other").mkdir()
    assert find_runs(tmp_path) == [a.path, b.path]
    assert find_runs(a.path) == [a.path]
    assert find_runs(tmp_path / "other") == []
    with pytest.raises(MechoclError, match="nothing is not a folder"):
        find_runs(tmp_path / "nothing")


# one seed ------------------------------------------------------------------------------------------


def test_checkpoints_come_in_the_order_of_training(tmp_path: Path) -> None:
    folder = create(tmp_path / "run").seed(1)
    weights = {"a": torch.zeros(1)}
    for stage, step, final in ((2, 7, True), (1, 1_000_000, False), (1, 3, False), (1, 1_000_001, True)):
        folder.save_checkpoint(weights, stage=stage, step=step, final=final)
    files.write_tensors(folder.path / "stage-2/step-000004.safetensors", weights, {})  # never recorded
    found = folder.checkpoints()
    assert [(c.seed, c.stage, c.step) for c in found] == [
        (1, 1, 3),
        (1, 1, 1_000_000),
        (1, 1, 1_000_001),
        (1, 2, 7),
    ]
    assert [c.name for c in found][2:] == ["stage-1/final.safetensors", "stage-2/final.safetensors"]
    assert folder.final() == found[3]
    assert folder.final(1) == found[2]
    for checkpoint in found:
        assert checkpoint.sha256 == files.sha256(folder.path / checkpoint.name)
        assert torch.equal(folder.weights(checkpoint)["a"], weights["a"])


def test_an_altered_checkpoint_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = create(tmp_path / "run").seed(0)
    for stage in (1, 2):
        folder.save_checkpoint({"a": torch.zeros(50)}, stage=stage, step=5, final=True)
    first = folder.final(1)
    path = folder.path / first.name
    content = path.read_bytes()
    for altered in (content[:-1], content[:-1] + b"\x01", b""):
        path.write_bytes(altered)
        for read in (lambda: folder.final(1), lambda: folder.weights(first)):
            with pytest.raises(MechoclError, match=r"final\.safetensors does not match its checksum"):
                read()
        assert folder.final(2).step == 5
    with pytest.raises(MechoclError, match=r"stage-1/final\.safetensors is damaged"):
        folder.checkpoints()
    path.unlink()
    with pytest.raises(MechoclError, match="missing or unfinished; run the same `mechocl train`"):
        folder.final(1)


def test_the_task_comes_back(tmp_path: Path) -> None:
    folder = create(tmp_path / "run").seed(1)
    task = integer_set.build(folder.recipe.task, seed=1)
    folder.save_task(task)
    saved = folder.load_task()
    for name in ("tokens", "roles", "loss_mask"):
        assert torch.equal(getattr(saved, name), getattr(task, name))
    pd.testing.assert_frame_equal(saved.table, task.table)
    assert saved.vocabulary == task.vocabulary


def test_the_latest_resume_point_counts(tmp_path: Path) -> None:
    stack = create(tmp_path / "run", together=2).stacks()[0]
    assert stack.load_state(1) is None
    row = {"stage": 1, "step": 0, "auc": 0.5, "recall": float("nan")}
    histories: list[list[dict[str, Any]]] = [[row], [row | {"auc": 0.75}, row]]  # one for each seed
    stack.save_state(a_state(999_999), stage=1, histories=histories)
    old = (stack.path / "state-1-999999.safetensors").read_bytes()
    stack.save_state(a_state(1_000_000), stage=1, histories=histories)
    assert [p.name for p in stack.path.glob("state-*")] == ["state-1-1000000.safetensors"]
    # killed between recording the new one and forgetting the old one
    (stack.path / "state-1-999999.safetensors").write_bytes(old)
    stack.ledger.record("state-1-999999.safetensors")
    loaded = stack.load_state(1)
    assert loaded is not None
    state, found = loaded
    expected = a_state(1_000_000)
    assert torch.equal(state.tensors["a"], expected.tensors["a"])
    assert (state.step, state.scalars) == (1_000_000, expected.scalars)
    for rows, saved in zip(found, histories, strict=True):
        pd.testing.assert_frame_equal(pd.DataFrame(rows), pd.DataFrame(saved))
    assert stack.load_state(2) is None


def test_an_altered_resume_point_is_named(tmp_path: Path) -> None:
    stack = create(tmp_path / "run").stacks()[0]
    stack.save_state(a_state(3), stage=1, histories=[[]])
    path = stack.path / "state-1-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(MechoclError, match=r"state-1-000003\.safetensors does not match its checksum"):
        stack.load_state(1)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    stack = create(tmp_path / "run").stacks()[0]
    stack.save_state(a_state(2), stage=2, histories=[[]])
    stack.save_state(a_state(4), stage=2, histories=[[]])
    kept = files_in(stack).keys()
    files.write_tensors(stack.path / "state-1-000003.safetensors", {}, {})  # its stage is finished
    stack.ledger.record("state-1-000003.safetensors")
    files.write_tensors(stack.path / "state-2-000009.safetensors", {}, {})  # written, never recorded
    (stack.path / ".state-2-000011.safetensors.xyz.tmp").touch()
    stack.remove_leftovers(unfinished=[2])
    assert files_in(stack).keys() == kept
    loaded = stack.load_state(2)
    assert loaded is not None
    assert loaded[0].step == 4
    stack.remove_leftovers(unfinished=[])
    assert files_in(stack).keys() == {"checksums.json"}


def test_a_seed_is_finished_when_every_stage_has_recorded_its_history(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    folder = run.seed(0)
    assert not folder.finished()
    finish(folder)
    assert folder.finished()
    assert folder.history()["stage"].tolist() == [1, 2]
    folder.ledger.forget("stage-2/history.parquet")
    files.write_table(folder.path / "stage-2/history.parquet", pd.DataFrame())  # written, never recorded
    assert not folder.finished()
    with pytest.raises(MechoclError, match=r"stage-2/history\.parquet is missing or unfinished"):
        folder.history()


def test_seeds_that_are_missing_or_incomplete_are_named(tmp_path: Path) -> None:
    run = create(tmp_path / "run", seeds=(0, 1, 2))
    finish(run.seed(0))
    message = r"run is incomplete: seed 1, 2 is not trained to the end; run `mechocl train` again with --out"
    with pytest.raises(MechoclError, match=message):
        run.finished_seeds()
    with pytest.raises(MechoclError, match=r"run has no seed 3; it has 0, 1, 2"):
        run.seed(3)


def test_failed_seeds_are_recorded_counted_and_left_out(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    finish(run.seed(0))
    run.seed(1).fail("stage 1: the training loss is nan")
    assert run.failures() == {1: "stage 1: the training loss is nan"}
    assert [f.seed for f in run.finished_seeds()] == [0]
    (run.seed(1).path / "failed.json").write_text('{"reason": "none"}')
    with pytest.raises(MechoclError, match=r"failed\.json does not match its checksum"):
        run.failures()


# training ------------------------------------------------------------------------------------------


def test_training_fills_the_folder_and_every_file_has_its_checksum(tmp_path: Path) -> None:
    run = create(tmp_path / "run", seeds=(0, 1), together=2)
    train(run)
    for folder in (run.seed(0), run.seed(1)):
        found = files_in(folder)
        listed = {name: files.sha256(path) for name, path in found.items() if name != "checksums.json"}
        assert listed == folder.ledger.entries()
        assert folder.finished()
    assert files_in(run.stacks()[0]).keys() == {"lock"}
    assert [(c.stage, c.step) for c in folder.checkpoints() if c.name.endswith("final.safetensors")] == [
        (1, 15),  # 300 examples in batches of 64, 3 epochs
        (2, 24),  # 60 examples in batches of 16, 6 epochs
    ]
    history = folder.history()
    evaluated = history[["stage", "step"]].drop_duplicates()
    assert evaluated.groupby("stage")["step"].apply(list).to_dict() == {1: [0, 8, 15], 2: [0, 12, 24]}
    assert history["gradient_norm"].notna().equals(history["step"] > 0)
    assert (history["gradient_norm"].dropna() > 0).all()
    before = {n: p.stat().st_mtime_ns for n, p in found.items()}
    train(run)
    assert {n: p.stat().st_mtime_ns for n, p in found.items()} == before


def test_a_folder_of_another_seed_or_another_run_is_named(tmp_path: Path) -> None:
    """Whole folders in the wrong place. What the line says brings the run back."""
    run = create(tmp_path / "run", seeds=(0, 1), together=2)
    other = create(tmp_path / "other", "training.stages.1.learning_rate=0.2", seeds=(0,))
    train(run)
    train(other)
    before = {seed: run.seed(seed).ledger.entries() for seed in (0, 1)}
    for source in (run.path / "seed-1", other.path / "seed-0"):
        shutil.rmtree(run.path / "seed-0")
        shutil.copytree(source, run.path / "seed-0")
        with pytest.raises(
            MechoclError,
            match=r"seed-0 was made by another run, or for another seed; move it back, or delete",
        ):
            run.finished_seeds()
        shutil.rmtree(run.path / "seed-0")
        train(run)
        assert {seed: run.seed(seed).ledger.entries() for seed in (0, 1)} == before
    shutil.copytree(run.path, tmp_path / "copy")
    assert len(Run.open(tmp_path / "copy").finished_seeds()) == 2


def test_a_diverged_seed_is_recorded_with_its_step_and_not_tried_again(tmp_path: Path) -> None:
    run = create(tmp_path / "run", HUGE_RATE, seeds=(0,))
    for _ in range(2):
        train(run)
        assert list(run.failures()) == [0]
        assert re.search(r"stage 1: .*(nan|not finite).* step \d+ of 15", run.failures()[0])
    with pytest.raises(MechoclError, match=r"training diverged in every seed .*lower learning_rate"):
        run.finished_seeds()


def test_an_update_that_spoils_the_weights_after_a_finite_loss_is_a_failure(tmp_path: Path) -> None:
    """The only loss is that of the initial weights; the answers after the update are not finite."""
    changes = (HUGE_RATE, "training.stages.0.epochs=1", "training.stages.0.batch_size=300")
    run = create(tmp_path / "run", *changes, seeds=(0,))
    train(run)
    folder = run.seed(0)
    reason = folder.failure()
    assert reason == "stage 1: a true-logit-difference is not finite; the model has diverged (at step 1 of 1)"
    assert not folder.stage_finished(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("task.integers=5", "task.train_questions=40"),
            "the recipe's task cannot be drawn: ",
        ),
        (
            ("task.fractions={qd1 = 0.5, qd2 = 0.5, d1 = 0.0, d2 = 0.0, d3 = 0.0}",),
            r"training\.stages\.1 has nothing to train on: no alias is in the data of stage 2; change task",
        ),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_a_mistake(
    tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    run = create(tmp_path / "run", *changes, seeds=(0,))
    with pytest.raises(MechoclError, match=message):
        train(run)


def test_seeds_that_another_process_trains_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_toy, "_LOCK_PATIENCE_S", 0.1)
    run = create(tmp_path / "run", together=2)
    with (
        files.locked(run.stacks()[0].path / "lock", patience=0.0),
        pytest.raises(files.Busy, match="stacks/0-1 is being written by another process; wait for it"),
    ):
        train(run)


def test_a_run_of_another_task_does_not_continue(tmp_path: Path) -> None:
    run = create(tmp_path / "run", seeds=(0,))
    run.seed(0).save_task(integer_set.build(run.recipe.task, seed=1))  # as if the code now drew another
    with pytest.raises(MechoclError, match="seed-0 was started on another task by another version"):
        train(run)


# results -------------------------------------------------------------------------------------------

INPUTS = {"seed": 0, "checkpoint": "abc", "config": {"subsets": ("a", "b")}}
ROWS = pd.DataFrame({"subset": ["a", "b"], "effect": [0.5, float("nan")]})


def test_a_result_comes_back_for_the_same_inputs_alone(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    assert run.load_result("patch", INPUTS) is None
    folder = run.save_result("patch", INPUTS, ROWS)
    saved = run.load_result("patch", INPUTS)
    assert saved is not None
    pd.testing.assert_frame_equal(saved, ROWS)
    assert run.load_result("patch", INPUTS | {"checkpoint": "abd"}) is None
    assert run.load_result("lens", INPUTS) is None
    assert {p.name for p in folder.iterdir()} == {"result.json", "rows.parquet"}


def test_a_result_whose_inputs_differ_is_refused(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    folder = run.save_result("patch", INPUTS, ROWS)
    saved = files.read_json(folder / "result.json")
    for wrong in (saved | {"inputs": INPUTS | {"seed": 1}}, {}):
        files.write_json(folder / "result.json", wrong)
        with pytest.raises(MechoclError, match="holds a result of other inputs; delete it and run again"):
            run.load_result("patch", INPUTS)


def test_altered_rows_are_refused(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    folder = run.save_result("patch", INPUTS, ROWS)
    rows = folder / "rows.parquet"
    whole = rows.read_bytes()
    files.write_table(rows, ROWS.assign(effect=[0.6, 0.0]))
    for alter in (lambda: None, lambda: rows.write_bytes(whole[:-9]), rows.unlink):
        alter()
        with pytest.raises(MechoclError, match=r"rows\.parquet does not match its checksum; delete"):
            run.load_result("patch", INPUTS)


def test_a_result_counts_once_it_is_complete(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    files.write_table(run.result_folder("patch", INPUTS) / "rows.parquet", ROWS.head(1))  # killed here
    assert run.load_result("patch", INPUTS) is None
    run.save_result("patch", INPUTS, ROWS)
    saved = run.load_result("patch", INPUTS)
    assert saved is not None
    assert len(saved) == 2
