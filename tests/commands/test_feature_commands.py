"""`mechocl sae …` and `mechocl crosscoder` on a tiny run, from the command line to the page."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from mechocl import files
from mechocl.analyses import results
from mechocl.analyses.subject import open_subject
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.features import dictionaries
from mechocl.features.search import SearchConfig
from mechocl.report import feature_sections
from mechocl.runs import processes
from mechocl.runs.run import Run

CPU = ("--device", "cpu")
SMALL = ("--width", "32", "--k", "4", "--activations", "4096", "--batch-size", "256", "--buffer", "2048")
SITE = "blocks.0.hook_resid_pre"
NAME = f"{SITE}-topk-32-k4-s0"


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def trained(one_core: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds with dictionaries of its embeddings, made by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = tiny.recipe_file(folder)
    assert cli.main(["train", str(recipe), "--out", str(folder / "run"), "--seeds", "2", *CPU]) == 0
    assert cli.main(["sae", "train", str(folder / "run"), *SMALL, "--sae-seeds", "2", *CPU]) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    return path


Fails = Callable[..., str]


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def test_train_search_test_and_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        for number in (0, 1):
            sae = SAE.load_from_disk(run / "saes" / f"{SITE}-topk-32-k4-s{number}" / f"seed-{seed}")
            assert (sae.cfg.d_sae, sae.cfg.k, sae.cfg.metadata.hook_name) == (32, 4, SITE)
    again = said(capsys, "sae", "train", run, *SMALL, "--sae-seeds", "2", *CPU)
    assert "training sparse autoencoders" not in again
    assert "explained_variance" in again
    assert "found_again" in again
    found = said(capsys, "sae", "search", run, NAME, *CPU)
    assert "AUC on held-out aliases" in found
    assert f"mechocl sae test {run} {NAME}" in found
    tested = said(
        capsys, "sae", "test", run, NAME, "--features", "1", "2,3", "--property", "new alias of tag 1, not 2",
        "--position", "alias", "--controls", "5", "--n-pairs", "20", "--n-questions", "20", *CPU,
    )  # fmt: skip
    assert "retrieval features (selective on held-out aliases" in tested
    assert "of 4 tested" in tested
    said(capsys, "sae", "search", run, NAME, "--group", "integer", *CPU)
    rows = results.load_rows(Run.open(run), "sae-search", SearchConfig(sae=NAME))
    assert rows is not None
    assert set(rows["seed"]) == {0, 1}
    shown = said(capsys, "sae", "dashboard", run, NAME, "--out", run / "page.html", *CPU)
    assert "page.html" in shown.splitlines()[-1]
    assert "The features have not been tested" in (run / "page.html").read_text()  # but for the named ones
    section = feature_sections.section(Run.open(run), seeds=(0, 1))
    assert section is not None
    assert section.id == "features"
    assert len(section.figures) == 1
    assert len(section.tables[0].rows) == 2  # quality of the two dictionaries


def test_a_run_without_dictionaries_has_no_section(run: Path) -> None:
    shutil.rmtree(run / "saes")
    assert feature_sections.section(Run.open(run), seeds=(0, 1)) is None


def test_one_seed_and_another_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(
        capsys,
        "sae",
        "train",
        run,
        *SMALL,
        "--seeds",
        "1",
        "--stage",
        "1",
        "--site",
        "blocks.0.hook_resid_post",
        *CPU,
    )
    name = "blocks.0.hook_resid_post-topk-32-k4-stage1-s0"
    assert set(dictionaries.names(run)) == {f"{SITE}-topk-32-k4-s0", f"{SITE}-topk-32-k4-s1", name}
    assert [p.name for p in (run / "saes" / name).iterdir()] == ["seed-1"]
    record = dictionaries.load(run / "saes" / name / "seed-1", device="cpu").record
    assert record["checkpoint"] == Run.open(run).seed(1).final(1).sha256
    said(capsys, "sae", "search", run, name, "--seeds", "1", "--stage", "1", "--group", "tag", *CPU)


SEARCH = ("--seeds", "0", "--group", "tag", "integer", *CPU)


def test_an_sae_of_other_weights_is_refused_unless_it_is_asked_for(
    run: Path, tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another stage, of another run, and of a checkpoint that was replaced; each with a remedy that works."""
    assert "AUC" in said(capsys, "sae", "search", run, NAME, *SEARCH)
    line = fails("sae", "search", run, NAME, "--stage", "1", *SEARCH)
    assert line == (
        f"{NAME} was trained on other weights than those after stage 1; use --stage 2, or add --transfer to use it on these "
        "weights all the same"
    )
    assert "AUC" in said(capsys, "sae", "search", run, NAME, "--stage", "2", *SEARCH)
    other = tmp_path / "other"
    shutil.copytree(run / "saes" / NAME / "seed-1", other)
    for seeds in ("0", "all"):  # the seed that it is of is named, and helps
        line = fails("sae", "search", run, other, "--seeds", seeds, *SEARCH[2:])
        assert "use --seeds 1, as it was trained on that seed, or add --transfer" in line
    assert "AUC" in said(capsys, "sae", "search", run, other, "--seeds", "1", *SEARCH[2:])
    record = files.read_json(other / dictionaries.RECORD)
    files.write_json(other / dictionaries.RECORD, record | {dictionaries.CHECKPOINT: "of another run"})
    line = fails("sae", "search", run, other, *SEARCH)
    assert "give the run that it was trained in, or add --transfer" in line

    of_all = tmp_path / "copied"
    shutil.copytree(run / "saes" / NAME, of_all)
    line = fails("sae", "search", run, of_all, *SEARCH)
    assert (
        f"{of_all} holds a folder for each seed; give that of one seed, such as {of_all}/seed-0 with --seeds 0"
        in line
    )
    assert "AUC" in said(capsys, "sae", "search", run, of_all / "seed-0", *SEARCH)

    _train_again(run)
    for command in (("search",), ("dashboard",)):
        line = fails(
            "sae", *command, run, NAME, *(SEARCH if command == ("search",) else ("--seeds", "0", *CPU))
        )
        assert "run its `mechocl sae train` again, which replaces it, or add --transfer" in line
    moved = said(capsys, "sae", "search", run, NAME, "--transfer", *CPU, "--seeds", "0")
    assert "seed 0: The dictionary was trained on other weights than those that it is used on here" in moved
    page = tmp_path / "page.html"
    said(capsys, "sae", "dashboard", run, NAME, "--transfer", "--seeds", "0", "--out", page, *CPU)
    assert "The dictionary was trained on other weights" in page.read_text()
    rows = results.load_rows(Run.open(run), "sae-search", SearchConfig(sae=NAME, transfer=True), seeds=[0])
    assert rows is not None
    assert set(rows["trained_on"]) == {"others"}
    section = feature_sections.section(Run.open(run), seeds=(0, 1))
    assert section is not None
    assert any("(trained on other weights)" in table.caption for table in section.tables)

    said(capsys, "sae", "train", run, *SMALL, "--sae-seeds", "2", "--seeds", "0", *CPU)
    assert "other weights" not in said(capsys, "sae", "search", run, NAME, *SEARCH)


def _train_again(run: Path) -> None:
    """As if seed 0 had been trained again, to other weights."""
    folder = Run.open(run).seed(0)
    checkpoint = folder.final()
    history = folder.history().query("stage == 2")
    weights = {name: tensor * 1.01 for name, tensor in folder.weights(checkpoint).items()}
    folder.ledger.forget("stage-2/history.parquet")  # a finished stage keeps its weights
    folder.ledger.forget(checkpoint.name)
    folder.save_checkpoint(weights, stage=2, step=checkpoint.step, final=True)
    folder.finish_stage(2, history.to_dict("records"))


def test_a_foreign_sae_can_be_used(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=24))
    sae.save_model(tmp_path / "mine")  # by SAELens alone: it does not say of which hook point
    shown = said(
        capsys,
        "sae",
        "search",
        run,
        tmp_path / "mine",
        "--site",
        SITE,
        "--seeds",
        "0",
        "--group",
        "tag",
        "integer",
        *CPU,
    )
    assert "AUC on held-out aliases" in shown
    assert "seed 0: The dictionary does not say which weights it was trained on." in shown
    page = tmp_path / "page.html"
    said(
        capsys,
        "sae",
        "dashboard",
        run,
        tmp_path / "mine",
        "--site",
        SITE,
        "--seeds",
        "0",
        "--out",
        page,
        *CPU,
    )
    assert "the SAE does not say which aliases it has seen" in page.read_text()
    assert "The dictionary does not say which weights it was trained on" in page.read_text()


def test_a_crosscoder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("crosscoder", run, *SMALL, "--seeds", "0", "--site", SITE, *CPU)
    shown = said(capsys, *arguments)
    assert "features by what training did to them" in shown
    assert "shared" in shown
    sae = SAE.load_from_disk(run / "saes" / f"{SITE}-crosscoder-32-k4-stages" / "seed-0")
    assert sae.cfg.d_in == 32
    assert "training crosscoders" not in said(capsys, *arguments)
    subject = open_subject(Run.open(run).seed(0), stage=None, device="cpu")
    found = subject.dictionary(f"{SITE}-crosscoder-32-k4-stages", "")
    with pytest.raises(MechoclError, match="is a crosscoder of several checkpoints"):
        dictionaries.check_fits(found, subject.model, subject.task)
    (result,) = (run / "results" / "crosscoder").glob("*/rows.parquet")
    rows = pd.read_parquet(result)
    assert len(rows) == 32
    assert {"norm_0", "norm_1", "verdict", "property", "explained_last"} <= set(rows.columns)
    assert "features by what" in said(capsys, *arguments, "--checkpoints", "all")
    tables = [pd.read_parquet(p) for p in (run / "results" / "crosscoder").glob("*/rows.parquet")]
    assert any("norm_5" in table for table in tables)  # three checkpoints of each stage


# ------------------------------------------------------------------------------------------ bad input


def test_what_is_asked_of_the_wrong_run(run: Path, tmp_path: Path, fails: Fails) -> None:
    assert "nothing does not exist" in fails("sae", "search", tmp_path / "nothing", NAME)
    assert "has no SAE 'other' for seed 0" in fails("sae", "search", run, "other")
    assert f"it has {SITE}" in fails("sae", "test", run, "other")
    assert fails("sae", "search", run, "") == "sae search SAE: the value is empty; give a word"
    line = fails("sae", "search", run, NAME, "--held-out", "0.5", *CPU)
    assert line.endswith("the SAE says itself which aliases it has not seen; leave --held-out out")
    assert "has no trained seed 7" in fails("sae", "train", run, "--seeds", "7")
    assert "has stages 1 to 2" in fails("sae", "train", run, "--stage", "3")
    assert "say what to do: mechocl sae train|search|test|dashboard" in fails("sae")


def test_a_site_that_is_not_there(run: Path, fails: Fails) -> None:
    line = fails("sae", "train", run, *SMALL, "--seeds", "0", "--site", "blocks.7.hook_resid_post", *CPU)
    assert "the model has no hook point 'blocks.7.hook_resid_post'" in line


def test_damaged_dictionaries(run: Path, fails: Fails) -> None:
    path = run / "saes" / NAME / "seed-0"
    assert "was trained on blocks.0.hook_resid_pre, not on blocks.0.hook_resid_mid" in fails(
        "sae", "search", run, NAME, "--site", "blocks.0.hook_resid_mid", *CPU
    )
    (path / dictionaries.CONFIG).unlink()
    assert "cfg.json is missing" in fails("sae", "search", run, NAME, *CPU)
    torch.save({}, path / "sae.pt")
    (path / dictionaries.WEIGHTS).unlink()
    assert "sae.pt is a pickle" in fails("sae", "search", run, NAME, *CPU)


def test_a_crosscoder_needs_two_stages(tmp_path: Path, fails: Fails) -> None:
    recipe = tmp_path / "one.toml"
    recipe.write_text(
        tiny.TOML[: tiny.TOML.rindex("[[training.stages]]")].replace("data = [1]", "data = [1, 2]")
    )
    assert cli.main(["train", str(recipe), "--out", str(tmp_path / "one"), "--seeds", "1", *CPU]) == 0
    assert "has one stage, so there are no two stages to compare" in fails(
        "crosscoder", tmp_path / "one", *CPU
    )
    assert "leave out --stage" in fails("crosscoder", tmp_path / "one", "--stage", "1", *CPU)


def test_a_dictionary_that_diverged_leaves_nothing_and_may_be_trained_again(run: Path, fails: Fails) -> None:
    rate = ("--learning-rate",)
    shutil.rmtree(run / "saes")
    (run / "saes").mkdir()
    for _ in range(2):
        line = fails("sae", "train", str(run), *SMALL, *rate, "1e20", *CPU)
        assert "diverged, and nothing of it is kept; use a --learning-rate below 1e+20" in line
        assert list((run / "saes").iterdir()) == []
    assert cli.main(["sae", "train", str(run), *SMALL, *rate, "1e-3", *CPU]) == 0


def test_a_full_disk_in_the_training_of_a_dictionary(
    run: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every write: one line, no half dictionary, and the same command succeeds when there is room again."""
    shutil.rmtree(run / "saes")
    command = ("sae", "train", str(run), *SMALL, "--seeds", "0", *CPU)
    write, left = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for count in range(3):  # its weights, its config, its record
        left = count
        line = fails(*command)
        assert line.endswith("the disk is full; free some space and run the same command again")
        assert not list((run / "saes").glob("*/seed-0*"))
    left = 1000
    assert cli.main(list(command)) == 0
