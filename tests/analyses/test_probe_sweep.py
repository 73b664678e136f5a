"""The probe sweep: what it computes, that it goes on where it was stopped, its table, its mistakes."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from mechocl import files
from mechocl.analyses import probe_sweep
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.models import activations
from mechocl.probing import probe
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs import activation_cache, processes
from mechocl.runs.run import Run

QUICK = ProbingConfig(permutations=3, positions=("alias", "="), n_pairs=8)
OPTIONS = ("--permutations", "3", "--positions", "alias,=", "--n-pairs", "8", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def trained(one_core: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two seeds in two word orders."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = str(tiny.recipe_file(folder))
    for order in ("TVE", "VTE"):
        made = ["train", recipe, "--out", str(folder / order), "--seeds", "2", "--device", "cpu"]
        assert cli.main([*made, "--set", f"task.word_order={order}", "training.stages.1.epochs=2"]) == 0
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> list[Path]:
    (tmp_path / "mine.toml").write_text(tiny.PROBE, encoding="utf-8")
    for order in ("TVE", "VTE"):
        shutil.copytree(trained / order, tmp_path / order)
    return [tmp_path / "TVE", tmp_path / "VTE"]


def wanted(runs: list[Path], **changes: Any) -> list[probe_sweep.Unit]:
    options: dict[str, Any] = {
        "recipes": [str(runs[0].parent / "mine.toml")],
        "checkpoints": "final",
        "seeds": None,
        "config": QUICK,
        "device": "cpu",
        "cache_gb": 1.0,
        "dtype": "float32",
    }
    return probe_sweep.list_units(runs, **options | changes)


def test_units(runs: list[Path]) -> None:
    def named(**changes: Any) -> list[tuple[str, int, int, int]]:
        found = wanted(runs, **changes)
        return [(Path(u.run).name, u.checkpoint.seed, u.checkpoint.stage, u.checkpoint.step) for u in found]

    final = named()
    assert [unit[:3] for unit in final] == [("TVE", 0, 2), ("TVE", 1, 2), ("VTE", 0, 2), ("VTE", 1, 2)]
    assert [unit[:3] for unit in named(checkpoints="stages", seeds=[1])] == [
        ("TVE", 1, 1), ("TVE", 1, 2), ("VTE", 1, 1), ("VTE", 1, 2),
    ]  # fmt: skip
    every = named(checkpoints="all", seeds=[0])
    assert len(every) > 4
    assert set(named(checkpoints="stages", seeds=[0])) < set(every)
    with pytest.raises(MechoclError, match=r"TVE has no trained seed 7; it has 0, 1"):
        named(seeds=[7])


def test_the_table_has_every_unit_once_and_says_which(runs: list[Path], tmp_path: Path) -> None:
    units = wanted(runs, checkpoints="stages")
    table = probe_sweep.sweep_probes([*units, *units], out=tmp_path / "out", executor=processes.Processes(1))
    assert list(table.columns[: len(probe_sweep.WHERE)]) == list(probe_sweep.WHERE)
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "out" / "table.parquet"))
    keys = [*probe_sweep.WHERE, "probe", "site", "layer", "position", "subset", "control", "draw"]
    assert not table.duplicated(keys).any()
    each = table.groupby(["run", "seed", "stage"]).size()
    assert len(each) == 8
    assert each.nunique() == 1
    assert table.groupby("run")["word_order"].unique().map(list).to_dict() == {"TVE": ["TVE"], "VTE": ["VTE"]}
    stages = Run.open(runs[0]).recipe.training.stages
    assert table.groupby("stage")["epoch"].unique().map(list).to_dict() == {
        1: [float(stages[0].epochs)], 2: [float(stages[1].epochs)],
    }  # fmt: skip


def test_what_is_finished_is_not_computed_again(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that dies in its third unit goes on with that one, and its table is that of one that never died."""
    units, whole = wanted(runs), []
    computed: list[str] = []
    original = probe.probe

    def dying(*arguments: Any, **options: Any) -> Any:
        if len(computed) == 2 and not whole:
            raise KeyboardInterrupt
        computed.append("unit")
        return original(*arguments, **options)

    monkeypatch.setattr(probe, "probe", dying)
    with pytest.raises(KeyboardInterrupt):
        probe_sweep.sweep_probes(units, out=tmp_path / "out", executor=processes.Processes(1))
    assert len(probe_sweep.sweep_table(units)["seed"].unique()) == 2
    whole.append(True)
    table = probe_sweep.sweep_probes(units, out=tmp_path / "out", executor=processes.Processes(1))
    assert len(computed) == len(units) == 4
    fresh = tmp_path / "fresh"
    for path in runs:
        shutil.copytree(path, fresh / path.name, ignore=shutil.ignore_patterns("results", "activations"))
    shutil.copy(tmp_path / "mine.toml", fresh)
    again = probe_sweep.sweep_probes(
        wanted([fresh / p.name for p in runs]), out=fresh, executor=processes.Processes(1)
    )
    pd.testing.assert_frame_equal(table.drop(columns="recipe"), again.drop(columns="recipe"))


def test_activations_are_collected_once_for_all_recipes(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = activations.collect

    def counting(model: Any, tokens: Any, sites: Any, **options: Any) -> Any:
        seen.append(len(sites))
        return original(model, tokens, sites, **options)

    monkeypatch.setattr(activations, "collect", counting)
    other = tmp_path / "other.toml"
    other.write_text(tiny.PROBE.replace('"tag"\nquestion', '"tag-again"\nquestion'), encoding="utf-8")
    config = replace(QUICK, controls=False)
    first = wanted(runs[:1], seeds=[0], config=config)
    probe_sweep.sweep_probes(first, out=tmp_path / "out", executor=processes.Processes(1))
    assert len(seen) == 1
    assert activation_cache.size(runs[0]) > 0
    found = probe_sweep.sweep_probes(
        wanted(runs[:1], seeds=[0], recipes=[str(other)], config=config),
        out=tmp_path,
        executor=processes.Processes(1),
    )
    assert len(seen) == 1
    before = probe_sweep.sweep_table(first)
    np.testing.assert_array_equal(found["auc"].to_numpy(), before["auc"].to_numpy())


def test_half_precision_on_disk_hardly_changes_the_scores(runs: list[Path], tmp_path: Path) -> None:
    scores = {}
    for dtype in ("float32", "float16"):
        folder = tmp_path / dtype
        shutil.copytree(runs[0], folder / "TVE")
        units = wanted([folder / "TVE"], recipes=[str(tmp_path / "mine.toml")], seeds=[0], dtype=dtype)
        scores[dtype] = probe_sweep.sweep_probes(units, out=folder, executor=processes.Processes(1))
    sizes = {dtype: activation_cache.size(tmp_path / dtype / "TVE") for dtype in scores}
    assert sizes["float16"] < 0.6 * sizes["float32"]
    own = {dtype: table.loc[table["control"] == "none", "auc"].to_numpy() for dtype, table in scores.items()}
    np.testing.assert_allclose(own["float16"], own["float32"], atol=0.02)
    # what comes of rounded activations is a result of its own; where nothing is kept, nothing is rounded
    folder = tmp_path / "float32" / "TVE"
    rounded = wanted([folder], recipes=[str(tmp_path / "mine.toml")], seeds=[0], dtype="float16")
    assert probe_sweep.sweep_table(rounded).empty
    unkept = [replace(unit, cache_gb=0.0) for unit in rounded]
    pd.testing.assert_frame_equal(probe_sweep.sweep_table(unkept), scores["float32"], check_exact=True)


# the command ---------------------------------------------------------------------------------------


def test_the_command_writes_a_table_and_a_page(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ("--recipe", str(tmp_path / "mine.toml"))
    assert cli.main(["probe", *map(str, runs), *recipe, "--checkpoints", "stages", *OPTIONS]) == 0
    said = capsys.readouterr().out.splitlines()
    (out,) = (runs[0] / "probes").iterdir()
    assert out.name.startswith("mine-beside-VTE-checkpoints=stages-")
    table = pd.read_parquet(out / "table.parquet")
    assert said[-1] == (
        f"figures: {(out / 'probes.html').as_uri()}; table: {out / 'table.parquet'} ({len(table)} rows)"
    )
    assert any(line.startswith("tag, TVE (TVE): AUC, mean over 2 seeds, chance 0.500") for line in said)
    assert any(line.startswith("readable at ") and "3 permutations" in line for line in said)
    assert any(line.startswith("activations: ") and "GB in" in line for line in said)
    page = (out / "probes.html").read_text(encoding="utf-8")
    for words in ("run beside run", "over training", "Are the directions alike?", "corrected p"):
        assert words in page
    assert cli.main(["probe", "--table", str(out)]) == 0
    again = capsys.readouterr().out.splitlines()
    # the table alone does not know which seeds failed, or how large the activations were
    results = said[said.index("") : -1]
    assert again[:-1] == [line for line in results if not line.startswith("activations: ")]


def test_probes_of_other_options_do_not_replace_the_first(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default each choice of options has a folder; in one folder, what would be lost is refused, and more is added."""
    plain = {"--permutations": "3", "--n-pairs": "8", "--seeds": "0", "--positions": "alias,="}
    plain |= {"--recipe": str(tmp_path / "mine.toml"), "--device": "cpu"}

    def probe_with(**changes: str) -> int:
        options = plain | {f"--{name}": value for name, value in changes.items()}
        return cli.main(["probe", str(runs[0]), *(word for pair in options.items() for word in pair)])

    for other in ({}, {"sites": "attn_out"}, {"checkpoints": "stages"}, {"sites": "attn_out"}):
        assert probe_with(**other) == 0
    first, *others = sorted((runs[0] / "probes").iterdir(), key=lambda path: len(path.name))
    assert len(others) == 2
    assert sum("sites=attn_out" in path.name for path in others) == 1
    table = first / "table.parquet"
    content = table.read_bytes()
    there = {"out": str(first)}
    assert probe_with(**there) == 0
    assert table.read_bytes() == content
    for other in ({"sites": "attn_out"}, {"seeds": "1"}, {"n-pairs": "7"}, {"cache-dtype": "float16"}):
        capsys.readouterr()
        assert probe_with(**there, **other) == 2, other
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"mechocl: {first} holds probes that this command would replace (1 of 1, such as " in line
        assert f"choose another --out, or delete {first / 'table.parquet'}" in line
        assert table.read_bytes() == content
    capsys.readouterr()
    assert probe_with(out=str(runs[0])) == 2  # whoever deletes that table must not be told to delete a run
    assert f"{runs[0]} is a run or a sweep; choose another --out, for example" in capsys.readouterr().err
    assert probe_with(**there, checkpoints="stages") == 0  # more of the same
    assert set(pd.read_parquet(table)["stage"]) == {1, 2}


def test_a_probe_may_have_any_name(runs: list[Path], tmp_path: Path) -> None:
    """Its section, its directions and their comparison are there; two recipes may have a probe of one name."""
    names = ("Tag", "the_tag", "tag/1", "été", "/")
    texts = {"one": "".join(tiny.PROBE.replace('name = "tag"', f'name = "{name}"') for name in names)}
    texts["two"] = tiny.PROBE.replace('name = "tag"', 'name = "Tag"')
    for recipe, text in texts.items():
        (tmp_path / f"{recipe}.toml").write_text(text, encoding="utf-8")
    recipes = ",".join(str(tmp_path / f"{recipe}.toml") for recipe in texts)
    out = tmp_path / "out"
    assert cli.main(["probe", str(runs[0]), "--recipe", recipes, "--out", str(out), *OPTIONS]) == 0
    page = (out / "probes.html").read_text(encoding="utf-8")
    ids = re.findall(r'<section[^>]* id="(probe[a-z0-9-]*)"', page)
    assert len(ids) == len(set(ids)) == len(names) + 1
    compared = page[page.index("Are the directions alike?") :]
    assert all(f">{name}<" in compared for name in names)


Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """The one line of a command that must end with exit code 2."""

    def check(*arguments: object) -> str:
        capsys.readouterr()
        assert cli.main([str(a) for a in arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("probing ")]
        assert len(lines) == 1, lines
        return lines[0].removeprefix("mechocl: ")

    return check


def test_mistakes_get_one_line(runs: list[Path], tmp_path: Path, fails: Fails) -> None:
    recipe = ("--recipe", tmp_path / "mine.toml")
    run = runs[0]
    assert "give one or more RUN folders to probe" in fails("probe")
    assert "leave out RUN, or --table" in fails("probe", run, "--table", tmp_path)
    assert "is not a table of a probe sweep" in fails("probe", "--table", tmp_path / "mine.toml")
    assert "does not exist" in fails("probe", tmp_path / "nowhere", *recipe)
    assert "no recipe 'nothing'" in fails("probe", run, "--recipe", "nothing", *OPTIONS)
    assert "--seeds two: give seeds as 0,1,2, or all" in fails("probe", run, "--seeds", "two", *recipe)
    assert "has no trained seed 5" in fails("probe", run, "--seeds", "0,5", *recipe)
    assert "--cache-gb -1: give GB, 0 or more" in fails("probe", run, "--cache-gb", "-1", *recipe)
    assert "the same name" in fails("probe", run, run, *recipe)
    assert "did you mean 'resid_post'" in fails("probe", run, "--sites", "resid_pots,z", *recipe, *OPTIONS)
    assert "no position is called 'n9'" in fails(
        "probe", run, "--positions", "n9", *recipe, "--device", "cpu"
    )
    assert "--address needs --on ray" in fails("probe", run, "--address", "here:1", *recipe)
    assert "the limit of 1e-06; raise --cache-gb" in fails(
        "probe", run, *recipe, "--cache-gb", "0.000001", *OPTIONS
    )
    assert not list((run / "activations").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"d2_consistent"',
            '"no_data"',
            "it lacks the subsets that they compare",
        ),  # no_data: none in this run
        (', "d2_consistent"', "", "it lacks the subsets that they compare"),  # one class
        ("regularisation = [1.0]", "regularisation = [1.0]\nn_folds = 30", "aliases, one for each fold"),
    ],
    ids=["absent subset", "one class", "fewer aliases than folds"],
)
def test_probes_that_do_not_fit_the_run(
    old: str, new: str, message: str, runs: list[Path], tmp_path: Path, fails: Fails
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(tiny.PROBE.replace(old, new), encoding="utf-8")
    assert message in fails("probe", runs[0], "--recipe", path, *OPTIONS)


def test_activations_of_another_checkpoint_are_refused(
    runs: list[Path], tmp_path: Path, fails: Fails
) -> None:
    units = wanted(runs[:1], seeds=[0])
    probe_sweep.sweep_probes(units, out=tmp_path / "out", executor=processes.Processes(1))
    shutil.rmtree(runs[0] / "results")
    path = next((runs[0] / "activations").rglob("*resid_pre*"))
    tensors, _ = files.read_tensors(path)
    files.write_tensors(path, tensors, {"checkpoint": "0" * 64})
    line = fails("probe", runs[0], "--seeds", "0", "--recipe", tmp_path / "mine.toml", *OPTIONS)
    assert line.startswith(f"{path} holds activations of another checkpoint")


def test_a_table_of_a_sweep_that_was_stopped_is_refused(tmp_path: Path) -> None:
    names = [f"tag, run seed 0, stage 2 step {step}" for step in (1, 2)]
    place = {"run": "run", "recipe": "tag", "seed": 0, "stage": 2, "epoch": 1.0, "word_order": "TVE"}
    rows = [place | {"step": step, "probe": "tag", "control": "none", "auc": 0.5} for step in (1, 2)]
    files.write_json(tmp_path / "units.json", {"units": [[name, "key"] for name in names]})
    files.write_table(tmp_path / "table.parquet", pd.DataFrame(rows))
    assert len(probe_sweep.read_table(tmp_path)) == 2
    files.write_table(tmp_path / "table.parquet", pd.DataFrame(rows[:1]))
    for path in (tmp_path, tmp_path / "table.parquet"):
        with pytest.raises(
            MechoclError, match="1 of 2 checkpoints are missing, such as tag, run seed 0, stage 2 step 2"
        ):
            probe_sweep.read_table(path)
