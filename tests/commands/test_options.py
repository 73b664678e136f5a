"""Every option of every command has an effect: it reaches the result's key, the work that is done, or what is shown.

The options are read from the commands themselves, so a new one is walked without an edit here. Each command is run in
this process by its command line, once with the default and once with another value of the option, while recorders stand
in for what is expensive. What reached them is compared.
"""

import re
import shutil
import types
import typing
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import effects
import pandas as pd
import pytest
import tiny
import torch
import tyro

from mechocl.analyses import (
    control_jobs,
    crosscoder_jobs,
    jobs,
    of_pairs,
    probe_sweep,
    results,
    sae_jobs,
    variant_jobs,
)
from mechocl.behaviour.counted import CountedSeeds
from mechocl.closed_book import cost, cvdb, facts, trex
from mechocl.commands import cli, own_models, serve
from mechocl.commands.arguments import Option, options_of
from mechocl.commands.options import Computing, PositionalRun
from mechocl.features import dictionaries
from mechocl.hypotheses import calibration, for_reports, predictions, verdict
from mechocl.interventions import patching
from mechocl.models import gguf, loading
from mechocl.report import explorer_section, page, run_report, sae_dashboard
from mechocl.report.explorer import live, page as explorer_page, serving
from mechocl.runs import finetune, pretraining, processes, sweep_folder, sweeps
from mechocl.runs.run import Run

COMMANDS = {name: cli.command_named(name) for name in cli.COMMANDS}

WORK = {
    "--jobs": "how many jobs run at a time changes no result",
    "--device": "the device is in a run's manifest; a result is the same quantity on each",
    "--on": "where jobs run changes no result",
    "--address": "where jobs run changes no result",
    "--gpus-per-task": "where jobs run changes no result",
    "--cache-gb": "kept activations are those that would be computed",
    "--save-every": "where training can continue changes no weights",
    "--wandb": "who is told of the training changes no weights",
}
"""Options that must not reach the key of a result, each with its reason. They must reach the work instead."""

REFUSED = {
    ("evaluate", "--attribute"): "evaluate asks about every attribute",
    ("crosscoder", "--stage"): "a crosscoder compares stages",
}
"""Options that a command has because its group has them, and refuses in one line, with what that line says."""

BASE: dict[str, list[str]] = {
    "train": ["{recipe}", "--out", "{folder}/new"],
    "sweep": ["{recipe}", "--over", "task.aliases=130", "--out", "{folder}/new"],
    **{f"pretrain {world}": ["--out", "{folder}/new"] for world in ("biographies", "miniature")},
    "finetune": ["closed-book/biographies", "--out", "{folder}/new"],
    "controls": ["closed-book/biographies", "--out", "{folder}/new"],
    "parity": ["model"],
    "gguf": ["{folder}/a.gguf", "--out", "{folder}/new"],
    **{f"model {name}": ["model", "--pairs", "{folder}/a.csv"] for name in ("patch", "lens", "attribute")},
    "data cvdb": ["--check", "{folder}/a.csv"],
    "data trex": ["--check", "{folder}/a.json"],
    "data facts": ["--model", "model", "--out", "{folder}/facts.json"],
    "runs": ["{folder}/runs"],
    "completion": ["zsh"],
    **{name: ["{run}", "first-sae"] for name in ("sae search", "sae test", "sae dashboard")},
}
"""What each command is given before an option is changed; a command that is not named is given the run."""

WITHOUT_RUN = ("demo",)

CONTEXT: dict[tuple[str, str], list[str]] = {
    **{
        (name, option): ["--on", "ray"]
        for name in ("sweep", "probe")
        for option in ("--address", "--gpus-per-task")
    },
    ("patch", "--each-unit"): ["--site", "z"],
    ("pretrain miniature", "--vocabulary"): ["--tokenizer", "bpe"],
    ("sae test", "--features"): ["--property", "tag", "--position", "alias"],
}
"""Options that mean something beside others alone: those others."""

ALONE = {
    ("sweep", "--table"): ["--table", "{folder}/a"],
    ("probe", "--table"): ["--table", "{folder}/a"],
    ("verdict", "--calibrate"): ["--calibrate", "{folder}/a.csv"],
}
"""Options that replace everything else that the command is given: what they are compared with."""

VALUES: dict[str, list[str]] = {
    "RECIPE": ["integer-set/one-stage"],
    "finetune RECIPE": ["closed-book/two-stage"],
    "controls RECIPE": ["closed-book/two-stage"],
    "controls --only": ["consistent"],
    "variants --only": ["cut-tag"],
    "RUN": ["{other}"],
    "FOLDER": ["{folder}/elsewhere"],
    "--seeds": ["1"],
    "finetune --seeds": ["2"],
    "--jobs": ["2"],
    "data cvdb --entities": ["100"],
    "pretrain miniature --phrasings": ["1"],
    "pretrain miniature --sentences": ["2"],
    "pretrain miniature --name-pool": ["60"],
    "--set": ["task.aliases=140"],
    "finetune --set": ["task.entities=100"],
    "controls --set": ["task.entities=100"],
    "--over": ["task.aliases=140"],
    "graft --aliases-per-subset": ["5"],
    "--metric": ["log_probability"],
    "--subsets": ["d1_consistent=2"],
    "--roles": ["alias"],
    "--group": ["tag"],
    "--features": ["3"],
    "--address": ["node1:6379"],
    "--n-heads": ["2"],
    "verdict --out": ["{folder}/verdict.json"],
    "--d-model": ["64"],
    "--story": ["demo"],
    "pretrain miniature --d-model": ["32"],
}
"""Values of options, or of one command's option, for which a value made from the type alone would make no sense."""


def other_value(command: str, option: Option) -> list[str]:
    """Words of the command line that stand for another value than the default."""
    for key in (f"{command} {option.flag}", option.flag):
        if key in VALUES:
            return VALUES[key]
    kind = option.kind
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is tuple:
        (kind, *_) = typing.get_args(kind)
        default = option.default[0] if option.default else None
    else:
        default = option.default
    if typing.get_origin(kind) is Literal:
        return [str(next(one for one in typing.get_args(kind) if one != option.default))]
    if kind is int:
        return [str(2 * (default or 0) + 1)]
    if kind is float:
        return [str(default / 2 if default else 0.5)]
    return ["other"]


# what stands in for the expensive calls ------------------------------------------------------------


class Stop(BaseException):
    """Ends a command after everything that an option could reach."""


@dataclass
class Recorder:
    """What reached the expensive calls."""

    key: list[Any] = field(default_factory=list)
    """What decides about a result, and where it lies."""
    work: list[Any] = field(default_factory=list)
    """How it is computed."""
    goes_on: bool = False
    """Whether rows are handed out, empty, so that a page is written."""

    def stands_in(self, *, work: tuple[str, ...] = (), result: Any = Stop) -> Callable[..., Any]:
        """A function that keeps its arguments, those of `work` apart, and returns the result, or ends the command."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.key.append((arguments, {k: v for k, v in options.items() if k not in work}))
            self.work.append({k: v for k, v in options.items() if k in work})
            if result is Stop:
                raise Stop
            return result

        return call

    def complete_run(
        self, run: Run, wanted: Any, *, stage: Any, device: str, jobs: Any, seeds: Any = None
    ) -> None:
        self.work.append((device, jobs))
        for folder in run.finished_seeds():
            if seeds is None or folder.seed in seeds:
                keys = [results.result_key(folder, name, config, stage) for name, config in wanted]
                self.key.append((run.path, run.attribute, [name for name, _ in wanted], keys))

    def load_rows(self, *_: Any, **__: Any) -> pd.DataFrame:
        if self.goes_on:
            return pd.DataFrame()
        raise Stop

    def map_jobs(self, do: Any, items: Any, **options: Any) -> None:
        self.work.append((items, options["jobs"], options["threads"]))
        for item in items:
            told = {"wandb": ""} if hasattr(item.config, "wandb") else {}
            self.key.append(replace(item, device="", config=replace(item.config, **told)))

    @property
    def opened(self) -> Callable[[own_models.Own], Any]:
        """Stands in for opening a model and a file of pairs."""

        def call(own: own_models.Own) -> Any:
            self.key.append((own.model, own.pairs, own.out))
            self.work.append(own.device)
            return None, None

        return call

    def sweep_probes(self, units: Any, *, out: Path, executor: Any) -> None:
        self.work.append((executor, [(one.device, one.cache_gb) for one in units]))
        self.key.append((out, [replace(one, device="", cache_gb=0.0) for one in units]))
        raise Stop


FRAME = pd.DataFrame(
    {"recipe": ["tiny"], "seed": [0], "failed": [""], "stage1.auc.q_only": [0.5], "seconds": [1.0]}
)
"""A sweep's table of one run."""


SERVER = nullcontext(types.SimpleNamespace(address="", serve_forever=lambda: None))
"""A server that ends at once."""


@pytest.fixture(scope="module")
def recorder(places: dict[str, str]) -> Iterator[Recorder]:
    """Stands in for everything expensive that a command calls."""
    kept = Recorder()
    opened, measured = Run.open, jobs.measure_dynamics

    def any_attribute(path: Path, *, attribute: str = "") -> Run:
        """A run of the integer-set task that takes an attribute, as closed-book runs do."""
        return replace(opened(path), attribute=attribute)

    def measure(run: Run, **options: Any) -> Any:
        kept.key.append(run.path)
        return measured(run, **options)

    trained = ("device", "jobs", "save_every_s")
    stands_in = kept.stands_in
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, replacement in (
            (Run, "open", staticmethod(any_attribute)),
            (torch.cuda, "is_available", lambda: True),
            (dictionaries, "find", lambda run, name, seed: Path(name)),
            (dictionaries, "files_of", lambda path: []),
            (jobs, "count_run", lambda run, **_: CountedSeeds(run.seeds)),
            (jobs, "complete_run", kept.complete_run),
            (sae_jobs, "complete_run", kept.complete_run),
            (results, "load_rows", kept.load_rows),
            (processes, "map_jobs", kept.map_jobs),
            (crosscoder_jobs, "saved_rows", stands_in()),
            (jobs, "train_run", stands_in(work=trained)),
            (control_jobs, "train_controls", stands_in(work=trained)),
            (variant_jobs, "train_variants", stands_in(work=trained)),
            (jobs, "measure_dynamics", measure),
            (calibration, "calibrate", stands_in(work=("jobs",))),
            (
                verdict,
                "verdict",
                stands_in(
                    work=("device", "jobs"),
                    result=verdict.judge_gathered(effects.made_up(), predictions.load()),
                ),
            ),
            (sweeps, "run_sweep", stands_in(work=("device", "executor"), result=FRAME)),
            (sweep_folder, "read_sweep", stands_in(result=FRAME)),
            (probe_sweep, "sweep_probes", kept.sweep_probes),
            (probe_sweep, "read_table", stands_in()),
            (pretraining, "pretrain", stands_in(work=("device", "save_every_s", "progress"))),
            (cost, "estimate_cost", lambda recipe: None),
            (cost, "cost_in_words", lambda cost, *, seeds: f"{seeds} seeds"),
            (finetune, "refuse", lambda recipe: None),
            (loading, "load_with_parity", stands_in(work=("device",))),
            (gguf, "dequantise", stands_in()),
            (own_models.Own, "opened", kept.opened),
            (patching, "patch_activations", stands_in()),
            (of_pairs, "lens_of_pairs", stands_in()),
            (of_pairs, "attribution_of_pairs", stands_in()),
            (cvdb, "read", stands_in()),
            (facts, "write_facts", stands_in(work=("device", "progress"))),
            (trex, "read", stands_in()),
            (page, "write", stands_in(result=0)),
            (page, "write_figure", stands_in(result=0)),
            (
                for_reports,
                "judge_run",
                stands_in(work=("device", "jobs"), result=for_reports.NoVerdict("One seed.")),
            ),
            (run_report, "build", lambda run, rows, controls, **_: None),
            (sae_dashboard, "write_sae_dashboard", stands_in(work=("device",), result=0)),
            (explorer_page, "write_explorer", stands_in(work=("device", "jobs"), result=0)),
            (live, "LiveRun", stands_in(work=("device",), result=None)),
            (serving, "open_server", stands_in(result=SERVER)),
            (serve, "has_screen", lambda: True),
            (
                explorer_section,
                "embed_explorer",
                stands_in(work=("device", "jobs"), result=explorer_section.Embedded()),
            ),
            (webbrowser, "open", stands_in(result=True)),
        ):
            patch.setattr(owner, name, replacement)
        yield kept


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A trained run, another one like it, and a folder for what is new."""
    folder = tmp_path_factory.mktemp("options")
    recipe = tiny.recipe(folder)
    run = folder / "runs" / "run"
    jobs.train_run(run, recipe, recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1)
    shutil.copytree(run, folder / "elsewhere" / "other")
    return {
        "folder": str(folder),
        "run": str(run),
        "other": str(folder / "elsewhere" / "other"),
        "recipe": str(folder / "tiny.toml"),
    }


@dataclass(frozen=True)
class Outcome:
    """What a command did, as texts that can be compared."""

    code: int
    key: str
    work: str
    shown: str
    said: str


Perform = Callable[[str, list[str]], Outcome]


@pytest.fixture
def perform(places: dict[str, str], recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> Perform:
    """Runs a command by its command line, with recorders."""

    def run(command: str, arguments: list[str]) -> Outcome:
        capsys.readouterr()
        recorder.key, recorder.work, recorder.goes_on = [], [], command == "report"
        try:
            code = cli.main([*command.split(), *(word.format(**places) for word in arguments)])
        except Stop:
            code = 0
        captured = capsys.readouterr()
        return Outcome(code, repr(recorder.key), repr(recorder.work), captured.out, captured.err)

    return run


# the walk ------------------------------------------------------------------------------------------


def changed_arguments(command: str, option: Option) -> tuple[list[str], list[str]]:
    """What the command is given with the option's default, and with another value of it."""
    base = BASE.get(command, [] if command in WITHOUT_RUN else ["{run}"])
    words = other_value(command, option)
    if (command, option.flag) in ALONE:
        base = ALONE[command, option.flag]
        return base, [option.flag, *words]
    base = [*base, *CONTEXT.get((command, option.flag), [])]
    if option.place is not None:
        return base, [*base[: option.place], *words, *base[option.place + 1 :]]
    if option.kind is bool:
        return base, [*base, option.flag.replace("--", "--no-" if option.default else "--", 1)]
    if option.flag in base:  # a required one, or one that another option needs
        at = base.index(option.flag)
        return base, [*base[:at], *base[at + 2 :], option.flag, *words]
    return base, [*base, option.flag, *words]


def assert_has_an_effect(command: str, option: Option, perform: Perform) -> None:
    """Changing the option changes the key or what is shown; of those in `WORK` the work, and not the key."""
    before, after = (perform(command, arguments) for arguments in changed_arguments(command, option))
    name = f"mechocl {command} {option.flag}"
    assert before.code == 0, f"{name}: the default is refused: {before.said}"
    if (command, option.flag) in REFUSED:
        assert after.code == 2, name
        assert REFUSED[command, option.flag] in after.said
        return
    assert after.code == 0, f"{name}: the other value is refused; name one in VALUES: {after.said}"
    if option.flag in WORK:
        assert after.work != before.work, f"{name} does not reach the work"
        assert after.key == before.key, f"{name} reaches the key, though {WORK[option.flag]}"
    else:
        assert (after.key, after.shown) != (before.key, before.shown), f"{name} has no effect"


WALKED = [(name, option) for name, command in COMMANDS.items() for option in options_of(command)]


def only_value(option: Option) -> bool:
    """Whether there is no other value to choose."""
    return typing.get_origin(option.kind) is Literal and len(typing.get_args(option.kind)) == 1


@pytest.mark.parametrize(
    ("command", "option"),
    [one for one in WALKED if not only_value(one[1])],
    ids=lambda one: one if isinstance(one, str) else one.flag,
)
def test_an_option_that_is_accepted_has_an_effect(command: str, option: Option, perform: Perform) -> None:
    assert_has_an_effect(command, option, perform)


def test_the_walk_meets_what_the_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in COMMANDS.items():
        assert cli.main([*name.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        options = {one.flag for one in options_of(command) if one.place is None}
        listed = set(re.findall(r"^(?:│ |  )(--[a-z][\w-]*)", shown, re.MULTILINE))
        assert listed == options, name


def test_what_is_named_here_exists() -> None:
    walked = {(name, option.flag) for name, option in WALKED}
    flags = {flag for _, flag in walked}
    assert set(WORK) <= flags
    assert {*REFUSED, *CONTEXT, *ALONE} <= walked
    assert {key for key in VALUES if " " not in key} <= flags
    assert {tuple(key.rsplit(" ", 1)) for key in VALUES if " " in key} <= walked
    assert {*BASE, *WITHOUT_RUN} <= set(COMMANDS)


# the walk can fail ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MadeUpConfig:
    """A config of which a field is dropped."""

    kept: int = 1
    """A field that is used."""
    dropped: tuple[str, ...] = ()
    """A field that is not."""


def made_up(
    run: PositionalRun,
    config: Annotated[MadeUpConfig, tyro.conf.OmitArgPrefixes] = MadeUpConfig(),
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
    wanted: bool = True,
    forgotten: bool = False,
) -> None:
    """Look at something, but not at all that is said."""
    jobs.train_run(run, config.kept, wanted, computing.jobs, device="cpu")


def test_an_option_that_is_dropped_is_found(monkeypatch: pytest.MonkeyPatch, perform: Perform) -> None:
    monkeypatch.setitem(cli.COMMANDS, "made-up", "nowhere:made_up")
    monkeypatch.setattr(cli, "command_named", lambda name: made_up)
    failures = {}
    for option in options_of(made_up):
        try:
            assert_has_an_effect("made-up", option, perform)
        except AssertionError as error:
            failures[option.flag] = str(error).splitlines()[0]
    assert failures == {
        "--dropped": "mechocl made-up --dropped has no effect",
        "--forgotten": "mechocl made-up --forgotten has no effect",
        "--device": "mechocl made-up --device does not reach the work",
        "--jobs": "mechocl made-up --jobs does not reach the work",
    }
