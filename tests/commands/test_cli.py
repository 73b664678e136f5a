"""The command line: one clear line and the right exit code for whatever goes wrong; where the result is."""

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
import tiny
import torch

import mechocl
from mechocl import files
from mechocl.analyses import jobs
from mechocl.behaviour.counted import CountedSeeds
from mechocl.commands import cli
from mechocl.errors import Fault, MechoclError
from mechocl.interventions.named_pairs import PairsCut
from mechocl.interventions.patching import PatchingConfig
from mechocl.runs import processes, progress, train_toy
from mechocl.runs.run import Run

ALL_REQUIRED = ("completion", "gguf")
"""Commands whose options must all be given."""

OPTIONS = {
    "demo": ["--out", "--seeds", "--fast", "--device", "--jobs"],
    "train": ["RECIPE", "--out", "--seeds", "--first-seed", "--set", "--device", "--jobs", "--save-every"],
    "sweep": ["RECIPE", "--over", "--out", "--seeds", "--first-seed", "--set", "--table", "--figure"],
    "pretrain biographies": [
        "--out",
        "--people",
        "--told",
        "--asked",
        "--n-layers",
        "--d-model",
        "--epochs",
        "--seed",
        "--device",
    ],
    "pretrain miniature": [
        "--out",
        "--entities",
        "--values",
        "--phrasings",
        "--name-pool",
        "--texts",
        "--n-layers",
        "--seed",
    ],
    "gguf": ["FILE", "--out"],
    "model patch": ["PATH_OR_NAME", "--pairs", "--site", "--by", "--mode", "--metric", "--out", "--device"],
    "model lens": ["PATH_OR_NAME", "--pairs", "--out", "--device"],
    "model attribute": ["PATH_OR_NAME", "--pairs", "--out", "--device"],
    "finetune": [
        "RECIPE",
        "--out",
        "--model",
        "--seeds",
        "--first-seed",
        "--set",
        "--jobs",
        "--save-every",
        "--dry-run",
    ],
    "controls": [
        "RECIPE",
        "--out",
        "--only",
        "--model",
        "--seeds",
        "--first-seed",
        "--set",
        "--device",
        "--jobs",
        "--save-every",
    ],
    "twins": ["RUN", "--jobs", "--save-every"],
    "variants": ["RUN", "--only", "--jobs", "--save-every"],
    "parity": ["PATH_OR_NAME", "--dtype", "--bridge", "--fold", "--centre", "--base", "--out", "--device"],
    "dynamics": ["RUN", "--out"],
    "evaluate": ["RUN", "--attribute", "--stage", "--device", "--jobs"],
    "lens": ["RUN", "--of", "--aliases-per-subset", "--kind", "--stage", "--device", "--jobs"],
    "patch": [
        "RUN",
        "--pairs",
        "--n-pairs",
        "--site",
        "--by",
        "--mode",
        "--metric",
        "--from-stage",
        "--seed",
        "--stage",
    ],
    "circuit": [
        "RUN",
        "--pairs",
        "--n-pairs",
        "--method",
        "--steps",
        "--along",
        "--metric",
        "--suppression",
        "--stage",
    ],
    "graft": ["RUN", "--aliases-per-subset", "--by-layer", "--steering", "--stage", "--device", "--jobs"],
    "gradients": [
        "RUN",
        "--aliases-per-subset",
        "--question-loss",
        "--between",
        "--by-alias",
        "--seed",
        "--stage",
        "--device",
        "--jobs",
    ],
    "updates": [
        "RUN",
        "--aliases-per-subset",
        "--question-loss",
        "--learning-rate",
        "--seed",
        "--stage",
        "--device",
        "--jobs",
    ],
    "subspace": [
        "RUN",
        "--clean",
        "--corrupted",
        "--sites",
        "--positions",
        "--ks",
        "--n-pairs",
        "--steps",
        "--seed",
    ],
    "probe": [
        "RUN",
        "--recipe",
        "--sites",
        "--positions",
        "--permutations",
        "--regularisation",
        "--aliases-per-subset",
        "--checkpoints",
        "--seeds",
        "--out",
        "--table",
        "--cache-gb",
        "--jobs",
        "--on",
        "--address",
        "--gpus-per-task",
    ],
    "sae train": [
        "RUN",
        "--site",
        "--width",
        "--k",
        "--architecture",
        "--sae-seeds",
        "--activations",
        "--held-out",
        "--questions",
        "--subsets",
        "--roles",
        "--buffer",
        "--wandb",
        "--stage",
        "--seeds",
        "--jobs",
    ],
    "sae search": ["RUN", "SAE", "--group", "--best", "--sets", "--site", "--stage", "--seeds"],
    "sae test": [
        "RUN",
        "SAE",
        "--features",
        "--property",
        "--position",
        "--controls",
        "--n-pairs",
        "--seeds",
    ],
    "sae dashboard": ["RUN", "SAE", "--site", "--out", "--seeds", "--stage"],
    "crosscoder": ["RUN", "--site", "--width", "--k", "--checkpoints", "--seeds", "--jobs"],
    "data cvdb": ["--check", "--entities"],
    "data trex": ["--check", "--entities", "--min-predicates"],
    "data facts": ["--model", "--out", "--least-known", "--min-population", "--per-country", "--device"],
    "verdict": [
        "RUN",
        "--predictions",
        "--plan",
        "--out",
        "--calibrate",
        "--attribute",
        "--device",
        "--jobs",
    ],
    "report": ["RUN", "--out", "--open", "--device", "--jobs"],
    "share": [
        "RUN",
        "--seeds",
        "--aliases",
        "--checkpoints",
        "--patching",
        "--story",
        "--out",
        "--device",
        "--jobs",
    ],
    "serve": ["RUN", "--seeds", "--port", "--browser", "--patching", "--attribute", "--device"],
    "runs": ["FOLDER"],
    "completion": ["bash", "zsh", "fish"],
}
"""What each command's help must name."""

COMMANDS = {name: cli.command_named(name) for name in cli.COMMANDS}
"""All commands, those of a group with its name before."""

ANALYSES = (
    "evaluate",
    "lens",
    "patch",
    "circuit",
    "graft",
    "subspace",
    "gradients",
    "updates",
    "probe",
    "report",
)


CPU = ("--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """One seed at a time with one thread, so without other processes, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def trained(one_core: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds, trained by the command line; tests work in copies of it."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = tiny.recipe_file(folder)
    assert cli.main(["train", str(recipe), "--out", str(folder / "run"), "--seeds", "2", *CPU]) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return str(tiny.recipe_file(tmp_path))


Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that must end with this code, and gives its one line of explanation.

    Lines of progress are not counted; nothing else may be on stderr, and no traceback.
    """

    def check(*arguments: object, code: int = 2, progress: str = "") -> str:
        capsys.readouterr()
        assert cli.main([str(a) for a in arguments]) == code
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        if progress:
            lines = [line for line in lines if not line.startswith(f"{progress}: ")]
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("mechocl: ")
        assert captured.out == ""
        return lines[0].removeprefix("mechocl: ")

    return check


def out_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Lines on stdout of a command that must succeed."""
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out.splitlines()


# help ----------------------------------------------------------------------------------------------


def test_every_command_is_looked_at() -> None:
    assert set(OPTIONS) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = "\n".join(out_of(capsys, *command.split(), "--help"))
    for option in OPTIONS[command]:
        assert option in shown
    summary = (COMMANDS[command].__doc__ or "").split("\n")[0]
    assert " ".join(summary.split()) in " ".join(shown.split())
    assert ("(default:" in shown) == (command not in ALL_REQUIRED)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["-h"], ["sae"], ["data"]):
        shown = out_of(capsys, *given, "--help")
        for name in cli.COMMANDS:
            if name.startswith(given[0]) if given and given[0] != "-h" else " " not in name:
                own = name.split()[-1]
                summary = (COMMANDS[name].__doc__ or "").split("\n")[0]
                assert any(line.split() == [own, *summary.split()] for line in shown), name


HEAVY = ("torch", "scipy", "sklearn", "pandas", "numpy", "pyarrow", "transformers", "rich")


def in_a_new_process(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("given", ["--help", "--version", "trian", "sae", "sae --help", "runs", ""])
def test_what_answers_at_once_imports_nothing_heavy(given: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "swept").mkdir()
    files.write_json(tmp_path / "swept" / "manifest.json", {"schema": 1, "kind": "sweep"})
    code = (
        "import sys; from mechocl.__main__ import main; code = main()\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules])"
    )
    arguments = [given, tmp_path] if given == "runs" else given.split()
    ended = in_a_new_process(code, *arguments)
    wanted = 2 if given in ("trian", "sae", "") else 0
    assert ended.stdout.splitlines()[-1] == f"{wanted} []", ended
    if given == "runs":
        assert "2 of 2 seeds" in ended.stdout
        assert "swept is a sweep" in ended.stdout


def test_the_version_names_what_decides_about_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = out_of(capsys, "--version")
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "transformer-lens", "sae-lens")]
    assert line == f"mechocl {mechocl.__version__} ({', '.join(versions)})"


@pytest.mark.parametrize("module", ["mechocl.commands.cli", "mechocl.commands.analysis", "torch", "tyro"])
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    code = f"""
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from mechocl.__main__ import main
sys.exit(main())
"""
    ended = in_a_new_process(code, "evaluate", "nothing")
    assert ended.returncode == 130
    assert ended.stderr.splitlines() == ["mechocl: interrupted; run the same command again to continue"]


# mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task.aliasse=5", "unknown key 'task.aliasse'; did you mean 'task.aliases'?"),
        ("task.aliases=many", "task.aliases: input should be a valid integer, not 'many'"),
        ("task.fractions.qd1=2.0", "fraction qd1 is 2.0; it must lie between 0 and 1"),
        ("task.list_length=10", "list_length 10 needs more than 10 integers"),
        ("task.word_order=TVX", "task.word_order: input should be 'TVE'"),
        ("task.aliases", "has no '='; write key=value"),
    ],
)
def test_a_mistake_in_a_recipe(recipe: str, tmp_path: Path, fails: Fails, change: str, message: str) -> None:
    assert message in fails("train", recipe, "--out", tmp_path / "run", "--set", change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds 0 --first-seed 0: give at least one seed"),
        (["--seeds", "-1"], "--seeds -1"),
        (["--first-seed", "-1"], "--first-seed -1"),
        (["--jobs", "-1"], "--jobs -1: give the number of seeds at a time, or 0"),
        (["--save-every", "-1"], "--save-every -1.0: give seconds, 0 or more"),
        (["--save-every", "nan"], "--save-every nan: give a finite number"),
        (["--device", "cuda"], "--device cuda: this machine has no CUDA device that torch can use"),
    ],
)
def test_a_mistake_in_an_option_of_train(
    recipe: str,
    tmp_path: Path,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message in fails("train", recipe, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_does_not_exist(tmp_path: Path, fails: Fails) -> None:
    assert (
        "no recipe 'nothing': not a file, and not one of digit-grid/cpu-one-stage, digit-grid/cpu"
        in fails("train", "nothing", "--out", tmp_path / "run")
    )
    for command, word, near in (
        ("train", "integer-set/cpuu", "integer-set/cpu"),
        ("sweep", "integr-set/memorised", "integer-set/memorised"),
        ("finetune", "closed-book/two-stages", "closed-book/two-stage"),
    ):
        assert fails(command, word, "--out", tmp_path / "run").endswith(f"; did you mean {near}?")
    assert "is a folder; give a recipe file" in fails("train", tmp_path, "--out", tmp_path / "run")


@pytest.mark.parametrize("command", ["train", "demo"])
def test_places_that_cannot_be_written(recipe: str, tmp_path: Path, fails: Fails, command: str) -> None:
    arguments = ["train", recipe] if command == "train" else ["demo", "--fast"]
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for place, message in (
        (tmp_path / "full", f"{tmp_path / 'full'} exists and is not a run; choose another --out"),
        (tmp_path / "file", f"{tmp_path / 'file'} exists and is not a run; choose another --out"),
        (
            tmp_path / "file" / "run",
            "a file stands where a folder is needed; remove it, or choose another place",
        ),
        (tmp_path / ("n" * 300), "the name is too long; choose a shorter one"),
        (
            Path("/proc/run"),
            "/proc/run: the file or folder does not exist and cannot be made; choose another place",
        ),
    ):
        assert message in fails(*arguments, "--out", place, *CPU)


@pytest.mark.parametrize(
    "name", ["manifest.json", "seed-0", "seed-0/task.parquet", "seed-0/stage-2", "seed-0/checksums.json"]
)
def test_what_stands_in_the_place_of_a_part_of_a_run_is_removed(
    recipe: str, run: Path, fails: Fails, name: str
) -> None:
    place, train = run / name, ("train", recipe, "--out", run, "--seeds", "1", *CPU)
    if place.is_dir():
        shutil.rmtree(place)
        place.touch()
    else:
        content = place.read_bytes()
        place.unlink()
        place.mkdir()
    assert "remove it, or choose another place" in fails(*train, progress="training")
    if place.is_dir():
        place.rmdir()
        if name == "manifest.json":
            place.write_bytes(content)  # the user's own copy: nothing else says what the run is
    else:
        place.unlink()
    assert cli.main(list(map(str, train))) == 0


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run the same command again"),
        (errno.EDQUOT, "the disk quota is used up; free some space"),
        (
            errno.EROFS,
            "the disk is read-only; copy the run to a place that can be written, or choose another place for what is new",
        ),
        (
            errno.EACCES,
            "permission denied; copy the run to a place that can be written, or choose another place for what is new",
        ),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_disk_that_cannot_be_written(
    recipe: str,
    tmp_path: Path,
    fails: Fails,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    message: str,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    exit_code = 1 if code == errno.EIO else 2
    line = fails("train", recipe, "--out", tmp_path / "run", *CPU, code=exit_code)
    assert line.startswith(f"{tmp_path / 'run' / 'manifest.json'}: {message}")


def test_a_read_only_disk_for_an_analysis(run: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    line = fails("lens", run, "--aliases-per-subset", "2", *CPU, progress="analysing")
    assert line.endswith(
        "rows.parquet: the disk is read-only; copy the run to a place that can be written, or choose another place for what is new"
    )


@pytest.mark.parametrize("command", ANALYSES)
def test_what_is_no_run(tmp_path: Path, fails: Fails, command: str) -> None:
    assert "nothing does not exist; `mechocl runs` lists the runs" in fails(command, tmp_path / "nothing")
    assert f"{tmp_path} is not a run: it has no manifest.json" in fails(command, tmp_path)


@pytest.mark.parametrize("command", ANALYSES)
def test_an_incomplete_run(run: Path, fails: Fails, command: str) -> None:
    (run / "seed-1" / "checksums.json").unlink()
    line = fails(command, run, *CPU)
    assert line.startswith(
        f"{run} is incomplete: seed 1 is not trained to the end; run `mechocl train` again"
    )
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("command", ANALYSES)
@pytest.mark.parametrize("how", ["truncated", "altered", "emptied", "removed"])
def test_a_damaged_checkpoint(run: Path, fails: Fails, command: str, how: str) -> None:
    path = run / "seed-0" / "stage-2" / "final.safetensors"
    content = path.read_bytes()
    damaged = {"truncated": content[:-1], "altered": content[:-1] + b"\x7f", "emptied": b""}
    path.write_bytes(damaged[how]) if how in damaged else path.unlink()
    line = fails(command, run, *CPU)
    assert line.startswith(str(path))
    assert ("missing or unfinished" if how == "removed" else "does not match its checksum") in line
    assert "train" in line  # what to do


@pytest.mark.parametrize("command", ["train", *ANALYSES])
def test_a_run_of_a_newer_schema(run: Path, recipe: str, fails: Fails, command: str) -> None:
    files.write_json(run / "manifest.json", files.read_json(run / "manifest.json") | {"schema": 3})
    arguments = [recipe, "--out", run] if command == "train" else [run]
    line = fails(command, *arguments, *CPU)
    assert line == f"{run} was written by a newer version (schema 3, this one reads 2); upgrade mechocl"


@pytest.mark.parametrize("command", [c for c in ANALYSES if c not in ("probe", "report")])
def test_a_stage_that_the_run_has_not(run: Path, fails: Fails, command: str) -> None:
    for stage in (0, 3, -1):
        assert fails(command, run, "--stage", stage) == f"--stage {stage}: {run} has stages 1 to 2"


@pytest.mark.parametrize("command", ANALYSES)
def test_options_of_the_analyses(
    run: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fails(command, run, "--jobs", "-2").startswith("--jobs -2: give the number of seeds at a time")
    assert fails(command, run, "--device", "cuda").startswith(
        "--device cuda: this machine has no CUDA device"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lens", "RUN", "--aliases-per-subset", "0"], "lens --aliases-per-subset 0: use at least 1"),
        (["sae", "train", "RUN", "--k", "0"], "sae train --k 0: use at least 1"),
    ],
)
def test_values_that_make_no_sense(arguments: list[str], line: str, tmp_path: Path, fails: Fails) -> None:
    assert fails(*arguments) == line


def test_a_changed_recipe_is_refused_where_a_run_is(run: Path, recipe: str, fails: Fails) -> None:
    line = fails("train", recipe, "--out", run, "--set", "task.aliases=121", *CPU)
    assert line == f"{run} holds a run of another recipe; choose another --out, or delete it"


def test_a_run_that_another_process_trains(
    recipe: str, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_toy, "_LOCK_PATIENCE_S", 0.1)
    out = tmp_path / "run"
    run = Run.create(
        out, tiny.recipe(tmp_path), recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )
    with files.locked(run.stacks()[0].path / "lock", patience=0.0):
        line = fails("train", recipe, "--out", out, "--seeds", 1, *CPU, progress="training")
    assert line == f"{out / 'stacks' / '0'} is being written by another process; wait for it, or stop it"


def test_altered_rows_are_refused(run: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("lens", run, "--aliases-per-subset", "2", *CPU)
    before = out_of(capsys, *command)
    assert out_of(capsys, *command) == before
    rows = sorted(run.glob("results/lens/*/rows.parquet"))
    assert len(rows) == 2
    rows[0].write_bytes(rows[0].read_bytes()[:-1])
    line = fails(*command)
    assert line == f"{rows[0]} does not match its checksum; delete {rows[0].parent} and run again"
    shutil.rmtree(rows[0].parent)
    assert out_of(capsys, *command) == before


def test_a_report_cannot_replace_a_folder(run: Path, fails: Fails) -> None:
    assert fails("report", run, "--out", run, *CPU).startswith(
        f"{run} is a folder; give a file in it, for example "
    )


def test_other_ends(monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    def end_with(error: BaseException) -> None:
        def end() -> None:
            raise error

        monkeypatch.setattr(cli, "command_named", lambda name: end)

    end_with(KeyboardInterrupt())
    assert fails("runs", code=130) == "interrupted; run the same command again to continue"
    end_with(Fault("a worker process was killed"))
    assert fails("runs", code=1) == "a worker process was killed"
    end_with(MechoclError("the mistake"))
    assert fails("runs", code=2) == "the mistake"
    for bug in (ZeroDivisionError(), OSError("without a number")):
        end_with(bug)
        with pytest.raises(type(bug)):
            cli.main(["runs"])


# results -------------------------------------------------------------------------------------------


def test_the_last_line_says_where_the_result_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = {}
    for command, options in (
        ("evaluate", []),
        ("lens", ["--aliases-per-subset", "2"]),
        ("patch", ["--n-pairs", "4", "--stage", "1"]),
    ):
        last[command] = out_of(capsys, command, run, *options, *CPU)[-1]
        assert len(list(run.glob(f"results/{command}/*/result.json"))) == 2
    assert last == {command: f"rows: {run / 'results' / command}" for command in last}
    assert out_of(capsys, "runs", run.parent)[-1] == f"1 run in {run.parent}"


def test_a_report_is_written_where_it_is_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = run.parent / "new folder" / "page.html"
    lines = out_of(capsys, "report", run, "--out", html, *CPU)
    assert lines[-1].startswith("report (")
    assert lines[-1].endswith(f"): {html.as_uri()}")
    assert html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not (run / "report.html").exists()


def test_a_report_is_opened_in_a_browser(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    html = run.parent / "opened.html"
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or len(opened) == 1)
    out_of(capsys, "report", run, "--out", html, "--open", *CPU)
    assert opened == [html.as_uri()]
    capsys.readouterr()
    assert cli.main(["report", str(run), "--out", str(html), "--open", *CPU]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"mechocl: --open: there is no browser here that can be started; the report is written, so open {html.as_uri()} in one, or "
        "set the environment variable BROWSER to a command that opens pages"
    )


def test_train_again_does_nothing_and_more_seeds_are_added(
    run: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", recipe, "--out", run, *CPU]
    before = Run.open(run).seed(1).ledger.entries()
    assert out_of(capsys, *command, "--seeds", "2")[-1] == f"run: {run}"
    assert out_of(capsys, *command, "--seeds", "1", "--first-seed", "5")[-1] == f"run: {run}"
    opened = Run.open(run)
    assert opened.seeds == (0, 1, 5)
    assert opened.seed(5).finished()
    assert opened.seed(1).ledger.entries() == before


def test_changes_can_be_given_together_and_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    seen = []

    def look(path: Path, recipe: object, **_: object) -> None:
        seen.append(recipe)
        raise MechoclError("enough")

    monkeypatch.setattr(jobs, "train_run", look)
    a, b, c = "task.aliases=130", "model.d_mlp=64", "task.label_flip=0.5"
    for options in (["--set", a, b, c], ["--set", a, "--set", b, c], ["--set", a, "--set", b, "--set", c]):
        assert cli.main(["train", recipe, "--out", str(tmp_path / "run"), *options]) == 2
    assert seen == [tiny.recipe(tmp_path, a, b, c)] * 3


def test_failed_seeds_are_said_everywhere(
    run: Path, recipe: str, tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that diverged, and those that did not learn their definitions, as the tiny recipe never does."""
    folder = Run.open(run).seed(1)
    folder.fail("stage 1: the training loss is nan at step 8 of 15")
    said = "seed 1 failed and is left out (2 of 2 failed): stage 1: the training loss is nan at step 8 of 15"
    other = "seed 0 failed and is shown all the same, as no seed is better (2 of 2 failed): definition recall"
    for command in (
        ["lens", run, "--aliases-per-subset", "2", *CPU],
        ["train", recipe, "--out", run, "--seeds", "2", *CPU],
        ["evaluate", run, *CPU],
        ["evaluate", run, "--stage", "1", *CPU],
        ["dynamics", run],
    ):
        lines = out_of(capsys, *command)
        assert said in lines
        assert any(line.startswith(other) for line in lines)
        assert any(line.startswith("No seed learned its definitions: shown are seeds") for line in lines)
    assert "2 of 2 seeds, 1 failed" in out_of(capsys, "runs", run)[1]


def test_means_are_over_the_seeds_that_learned(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two seeds counts, so tables are of that seed, and the other one is named."""
    counted = CountedSeeds((1,), {0: "definition recall .3"})
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: counted)
    said = "seed 0 failed and is left out (1 of 2 failed): definition recall .3"
    lines = out_of(capsys, "patch", run, "--n-pairs", "4", *CPU)
    assert said in lines
    assert any(line.endswith("pairs, 1 seeds") for line in lines)
    lines = out_of(capsys, "evaluate", run, *CPU)
    assert said in lines
    (verdict,) = (line for line in lines if line.startswith("Strong internalization"))
    assert ": cannot tell. It cannot be told whether new definitions" in verdict
    assert "; 1 of 2 seeds failed, so the others are a selection. " in verdict


def test_a_recipe_that_diverges_in_every_seed(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", recipe, "--out", str(out), "--seeds", "2", *CPU]
    assert cli.main([*command, "--set", "training.stages.0.learning_rate=1e30"]) == 2
    captured = capsys.readouterr()
    shown = captured.out.splitlines()
    assert [line[: len("seed 0 failed and is left out (2 of 2 failed): stage 1:")] for line in shown] == [
        f"seed {seed} failed and is left out (2 of 2 failed): stage 1:" for seed in (0, 1)
    ]
    assert captured.err.splitlines()[-1].startswith(f"mechocl: {out}: training diverged in every seed")
    assert Run.open(out).failures().keys() == {0, 1}


def test_a_list_of_runs(run: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.parent / "many"
    shutil.copytree(run, folder / "whole")
    shutil.copytree(run, folder / "half")
    (folder / "half" / "seed-0" / "checksums.json").unlink()
    shutil.copytree(run, folder / "newer")
    files.write_json(folder / "newer" / "manifest.json", {"schema": 7})
    lines = out_of(capsys, "runs", folder)
    assert [line.split()[0] for line in lines[:3]] == ["run", str(folder / "half"), str(folder / "whole")]
    assert "1 of 2 seeds" in lines[1]
    assert "2 of 2 seeds" in lines[2]
    assert lines[3].startswith(f"cannot be read: {folder / 'newer'} was written by a newer version (schema 7")
    assert lines[4] == f"3 runs in {folder}"


def test_a_list_of_no_runs(tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]) -> None:
    assert out_of(capsys, "runs", tmp_path)[-1] == f"0 runs in {tmp_path}"
    line = fails("runs", tmp_path / "nothing")
    assert line == f"{tmp_path / 'nothing'} is not a folder; give one that holds runs"


@pytest.mark.parametrize(
    "command",
    ["evaluate", "lens", "patch", "probe", "dynamics", "runs", "--help", "--version", "patch --help"],
)
def test_a_terminal_without_unicode(run: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """What an ASCII terminal cannot show is printed by its number; nothing ends in an UnicodeEncodeError."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    few = {
        "patch": ["--n-pairs", "4"],
        "probe": ["--permutations", "0", "--n-pairs", "0", "--cache-gb", "0"],
        "runs": [],
        "dynamics": [],
    }
    given = command.split() if "--" in command else [command, str(run), *few.get(command, [])]
    given += CPU if command in ANALYSES else []
    assert cli.main(given) == 0
    monkeypatch.undo()
    for stream in streams.values():
        stream.flush()
    shown = streams["stdout"].buffer.getvalue()  # type: ignore[attr-defined]
    assert shown.isascii()
    assert len(shown) > 20


# progress ------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.Display("training", ["seed 0", "seed 1", "seed 2"], at_a_time=2) as display:
        report = display.reporter(1)
        report("stage 1, step 5 of 10", 0.5)
        assert display.bars is not None
        display.bars.refresh()
    shown = terminal.getvalue()
    for text in (
        "seed 0",
        "seed 1",
        "starting",
        "waiting",
        "50%",
        "stage 1, step 5 of 10",
        "17%",
        "0:00:00",
        "━",
    ):
        assert text in shown
    assert "\x1b[" in shown


def test_a_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.0)
    with progress.Display("training", ["seed 0", "seed 1"]) as display:
        display.update(0, "building the task", 0.0)
        display.update(1, "stage 1, step 5 of 10", 0.5)
        display.update(1, "late", 0.25)  # of a worker whose later message came first
        display.update(0, "done", 1.0)
        display.update(1, "done", 1.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "\x1b" not in captured.err
    lines = captured.err.splitlines()
    assert lines[:2] == ["training: seed 0, seed 1", "training: 0 % (seed 0: building the task)"]
    assert [line.split(" %")[0] for line in lines[2:]] == [
        "training: 25",
        "training: 25",
        "training: 75",
        "training: 100",
        "training: 100",
    ]
    assert lines[-1] == "training: 100 % after 0 s"


def test_progress_that_ends_in_an_error_says_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MechoclError), progress.Display("training", ["seed 0"]):
        raise MechoclError("the mistake")
    assert capsys.readouterr().err == "training: seed 0\n"


# what an intervention did not exchange -------------------------------------------------------------


def test_nothing_exchanged_is_printed_as_not_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Never as an effect of 0; and what was cut of a file is said, with the option that takes all of it."""
    patch = ("patch", run, *CPU)
    none = [
        "not measured: nothing was exchanged in any of its pairs; choose pairs that differ, or another mode"
    ]
    for same in (
        ("--pairs", "d1-to-itself"),
        ("--n-pairs", 1, "--mode", "mean", "--pairs", "d1-to-other-d2"),
    ):
        lines = out_of(capsys, *patch, *same)
        assert [line for line in lines if "measured" in line] == none
        assert not any("0.000" in line for line in lines)
    task = mechocl.open_run(run).seed(0).task
    pairs = mechocl.pairs_named(task, "d1-to-other-d2", n_pairs=8, seed=0)
    cells = [
        " ".join(task.vocabulary.decode(ids))
        for i in range(8)
        for ids in (pairs.clean[i].tolist(), pairs.corrupted[i].tolist(), [int(pairs.target[i])])
    ]
    own = run.parent / "own.csv"
    rows = (",".join(cells[3 * i : 3 * i + 3]) for i in range(8))
    own.write_text("\n".join(["clean,corrupted,target", *rows]))
    lines = out_of(
        capsys, *patch, "--pairs", own, "--n-pairs", 5, "--metric", "log_probability", "--site", "resid_pre"
    )
    assert f"{own}: only the first 5 of its 8 pairs are used; --n-pairs 8 takes all of them" in lines
    config = PatchingConfig(
        pairs=(str(own),), n_pairs=5, metric="log_probability", site=("resid_pre",)
    )  # the same rows, which are saved by now
    with pytest.warns(
        PairsCut, match="only the first 5 of its 8 pairs are used; n_pairs=8 takes all of them"
    ):
        mechocl.analyse_run(mechocl.open_run(run), "patch", config, device="cpu")
    with pytest.warns(
        PairsCut, match="only the first 5 of its 8 pairs are used; a larger n_pairs takes more"
    ):
        mechocl.pairs_named(task, str(own), n_pairs=5, seed=0)
    assert "– not measured: nothing was exchanged there in any pair" in lines
