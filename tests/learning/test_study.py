"""The study of a trained run, its command, and what either refuses or says."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import torch.nn.functional as F

from mechocl import memory
from mechocl.analyses import jobs
from mechocl.analyses.subject import Subject, open_subject
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.learning import study, summaries
from mechocl.learning.layout import ALL, OWN, SHARED
from mechocl.learning.study import AliasGradientsConfig, GradientsConfig
from mechocl.runs.run import Run

SMALL = GradientsConfig(aliases_per_subset=6)
HERE = ("--device", "cpu", "--jobs", "1")


def trained(folder: Path, *changes: str, seeds: tuple[int, ...] = (0,)) -> Run:
    return jobs.train_run(
        folder / "run", tiny.recipe(folder, *changes), recipe_name="tiny", seeds=seeds, device="cpu", jobs=1
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("gradients"), seeds=(0, 1))


@pytest.fixture(scope="module")
def subject(run: Run) -> Subject:
    return open_subject(run.seed(0), stage=None, device="cpu")


@pytest.fixture(scope="module")
def rows(subject: Subject) -> pd.DataFrame:
    return study.gradient_study(subject.course(), subject.task, SMALL)


@pytest.fixture(scope="module")
def of_aliases(subject: Subject) -> pd.DataFrame:
    return study.alias_study(subject.course(), subject.task, SMALL.of_aliases())


def test_what_is_compared_where(rows: pd.DataFrame) -> None:
    moments = rows[["stage", "step"]].drop_duplicates().to_numpy().tolist()
    assert moments == [[1, 15], [2, 1], [2, 5], [2, 24]]
    assert set(rows.loc[rows["stage"] == 2, "subset"]) == {"d1_consistent", "d2_consistent", "d3_consistent"}
    first = rows[rows["stage"] == 1]
    old = first[first["questions"] == "train"]
    assert set(zip(old["subset"], old["tag"], strict=True)) == {
        ("qd1_consistent", 1),
        ("qd2_inconsistent", 2),
    }
    assert old["own_tag"].all()
    new = first[first["questions"] == "test"]
    assert len(new[["subset", "tag"]].drop_duplicates()) == 9
    own = new[new["own_tag"]]
    assert (own["subset"].str[1].astype(int) == own["tag"]).all()
    assert (rows["aliases"] == 6).all()
    keys = ["stage", "step", "subset", "tag", "group", "correction"]
    assert not rows.duplicated(keys).any()
    assert np.allclose(rows["cosine_effect"], rows["cosine"] - rows["cosine_null"], equal_nan=True)
    assert np.allclose(rows["inner_effect"], rows["inner"] - rows["inner_null"], equal_nan=True)


def test_rows_of_subsets_are_means_of_those_of_aliases(rows: pd.DataFrame, of_aliases: pd.DataFrame) -> None:
    keys = ["stage", "step", "subset", "tag", "own_tag", "questions", "group", "correction"]
    assert set(of_aliases["group"]) == {OWN, SHARED, ALL}
    assert set(of_aliases["step"]) == {15, 24}
    means = of_aliases.groupby(keys)[list(study.VALUES)].mean()
    whole = rows.set_index(keys).loc[means.index, list(study.VALUES)]
    pd.testing.assert_frame_equal(means, whole, rtol=1e-9)


def test_the_rows_are_those_of_a_loop(subject: Subject, of_aliases: pd.DataFrame) -> None:
    """The raw cosine over all weights, by autograd through the hooked model, for definitions with another tag too."""
    task, model = subject.task, subject.after(1)
    model.embed.W_E.requires_grad_()
    tags = [task.vocabulary.tokens.index(f"tag {tag}") for tag in (1, 2, 3)]

    def flat(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The gradient of every weight; the unembedding is tied to the embedding."""
        weights = {name: p for name, p in model.named_parameters() if name != "pos_embed.W_pos"}
        for weight in weights.values():
            weight.requires_grad_()
        loss = F.cross_entropy(model(tokens[:, :-1])[mask[:, :-1]], tokens[:, 1:][mask[:, :-1]])
        found = dict(
            zip(weights, torch.autograd.grad(loss, list(weights.values()), allow_unused=True), strict=True)
        )
        embedding = found.pop("embed.W_E").clone()
        columns = found.pop("unembed.W_U").T
        embedding[: len(columns)] += columns
        return torch.cat(
            [embedding.flatten(), *(g.flatten() for g in found.values() if g is not None)]
        ).double()

    table = of_aliases[
        (of_aliases["stage"] == 1) & (of_aliases["group"] == ALL) & (of_aliases["correction"] == "raw")
    ]
    compared = 0
    for subset in ("qd2_inconsistent", "d2_consistent"):
        for alias in table.loc[table["subset"] == subset, "alias"].unique()[:2]:
            definition = int(task.rows(kind="definition", alias=int(alias))[0])
            split = "train" if subset.startswith("q") else "test"
            asked = torch.from_numpy(task.rows(kind="question", split=split, alias=int(alias)))
            question = flat(task.tokens[asked], task.loss_mask[asked])
            for tag in (2,) if subset.startswith("q") else (1, 2, 3):
                tokens = task.tokens[definition].clone()
                tokens[0] = tags[tag - 1]
                gradient = flat(tokens[None], task.loss_mask[definition][None])
                own = table[(table["alias"] == alias) & (table["tag"] == tag)].iloc[0]
                inner = float(gradient @ question)
                assert own["inner"] == pytest.approx(inner, rel=1e-4, abs=1e-6)
                assert own["cosine"] == pytest.approx(
                    inner / float(gradient.norm() * question.norm()), abs=1e-6
                )
                compared += 1
    assert compared == 8


def test_the_inner_product_is_how_much_a_step_helps(subject: Subject, of_aliases: pd.DataFrame) -> None:
    """A small step of gradient descent on a definition lowers its questions' loss by the rate times the inner product."""
    task = subject.task
    table = of_aliases[(of_aliases["stage"] == 1) & (of_aliases["correction"] == "raw")]
    own = table[(table["group"] == OWN) & table["own_tag"] & (table["subset"] == "d1_consistent")].iloc[0]
    alias, rate = int(own["alias"]), 1e-2
    model = subject.after(1).double()
    asked = torch.from_numpy(task.rows(kind="question", split="test", alias=alias))
    row = torch.from_numpy(task.rows(kind="definition", alias=alias))
    token = int(task.tokens[row][0, 1])

    def loss(rows: torch.Tensor) -> Any:
        tokens, mask = task.tokens[rows], task.loss_mask[rows][:, :-1]
        return F.cross_entropy(model(tokens[:, :-1])[mask], tokens[:, 1:][mask])

    model.embed.W_E.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(row), model.embed.W_E)
    with torch.no_grad():
        before = float(loss(asked))
        model.embed.W_E[token] -= rate * gradient[token]
        fall = before - float(loss(asked))
    assert fall == pytest.approx(rate * own["inner"], rel=0.05)
    assert fall != pytest.approx(-rate * own["inner"], rel=0.05)


@pytest.mark.parametrize(
    ("field", "value", "moves"),
    [
        ("question_loss", "answer", "raw"),
        ("aliases_per_subset", 8, "raw"),
        ("seed", 1, "preconditioned"),
    ],
)
def test_every_option_changes_the_rows(
    subject: Subject, rows: pd.DataFrame, field: str, value: object, moves: str
) -> None:
    other = study.gradient_study(subject.course(), subject.task, dataclasses.replace(SMALL, **{field: value}))
    ours, theirs = (table.loc[table["correction"] == moves, "cosine"].to_numpy() for table in (rows, other))
    assert not np.allclose(ours, theirs, equal_nan=True)
    if field == "seed":
        raw = rows["correction"] == "raw"
        pd.testing.assert_frame_equal(rows[raw], other[raw])


def test_only_the_ends_are_compared_without_what_is_between(subject: Subject, rows: pd.DataFrame) -> None:
    ends = study.gradient_study(subject.course(), subject.task, dataclasses.replace(SMALL, between=False))
    expected = rows[rows["step"].isin([15, 24])].reset_index(drop=True)
    pd.testing.assert_frame_equal(ends, expected)


def test_parts_of_the_rows(rows: pd.DataFrame) -> None:
    seeds = pd.concat(
        [rows.assign(seed=0), rows.assign(seed=1, cosine=2 * rows["cosine"])], ignore_index=True
    )
    before = summaries.before_the_stage(seeds)
    assert set(before["stage"]) == {1}
    assert not before["subset"].str.startswith("q").any()
    own = before[(before["group"] == OWN) & (before["correction"] == "raw")]
    found = summaries.tag_differences(own, "cosine").set_index(["tags", "seed"])["cosine"]
    mean = own[own["seed"] == 0].groupby("tag")["cosine"].mean()
    assert found["1 − 2", 0] == pytest.approx(mean[1] - mean[2])
    assert found["3 − 2", 1] == pytest.approx(2 * (mean[3] - mean[2]))
    without = summaries.tag_differences(own[own["tag"] == 1], "cosine")
    assert len(without) == 0
    along = summaries.along_the_stage(seeds)
    assert along["moment"].unique().tolist() == ["before", "step 1", "step 5", "step 24"]
    assert along["own_tag"].all()


# ------------------------------------------------------------------------------------ the command, and what is refused


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["gradients", str(run.path), "--aliases-per-subset", "6", *HERE]
    assert cli.main(call) == 0
    first = capsys.readouterr().out
    for text in (
        "stage 2 is trained with sgd; preconditioned is what Adam would do in its place",
        "all but alias embeddings",
        "preconditioned, centred",
        "1 − 2",
        "step 24",
        "before",
        "qd2_inconsistent",
        f"rows: {run.path / 'results' / 'gradients'}",
        f"rows: {run.path / 'results' / 'alias-gradients'}",
    ):
        assert text in first, text
    assert "nan" not in first
    assert cli.main(call) == 0
    assert capsys.readouterr().out == first
    assert cli.main([*call, "--no-by-alias"]) == 0
    assert "alias-gradients" not in capsys.readouterr().out


def test_a_run_without_a_second_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path, "training.stages=[{data=[1,2],epochs=1}]")
    assert cli.main(["gradients", str(folder.path), *HERE]) == 2
    assert "stage 1 has no stage before it" in capsys.readouterr().err
    assert not (folder.path / "results" / "gradients").exists()


def test_stages_that_are_not_those(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gradients", str(run.path), "--stage", "1", *HERE]) == 2
    assert "stage 1 has no stage before it" in capsys.readouterr().err
    course = open_subject(run.seed(0), stage=None, device="cpu").course()
    again = dataclasses.replace(course, earlier=dataclasses.replace(course.earlier, data=(1, 2)))
    with pytest.raises(MechoclError, match="stage 2 is not the one that first defines new aliases"):
        study.gradient_study(again, run.seed(0).task, SMALL)


def test_a_run_that_keeps_its_ends_alone_and_never_had_tag_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("training.stages.1.checkpoints=1", "task.fractions={qd1=0.3,qd2=0.3,d1=0.2,d2=0.2,d3=0}")
    folder = trained(tmp_path, *changes)
    assert cli.main(["gradients", str(folder.path), "--no-by-alias", *HERE]) == 0
    said = capsys.readouterr().out
    assert "keeps no checkpoints on the way of stage 2, so only its ends are measured" in said
    assert "no definition of the run has tag 3, so no definitions are written with it" in said
    assert "3 − 2" not in said
    assert cli.main(["gradients", str(folder.path), "--no-by-alias", "--no-between", *HERE]) == 0
    assert "only its ends" not in capsys.readouterr().out


def test_too_few_aliases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = "task.fractions={qd1=0.4,qd2=0.4,d1=0.1,d2=0.0085,d3=0.0915}"
    folder = trained(tmp_path, few, "training.stages.1.epochs=1")
    assert cli.main(["gradients", str(folder.path), "--no-by-alias", *HERE]) == 0
    assert "one alias alone has no null: d2_consistent" in capsys.readouterr().out
    task = folder.seed(0).task
    none = task.take(np.setdiff1d(np.arange(len(task)), task.rows(kind="definition", stage=2)))
    course = open_subject(folder.seed(0), stage=None, device="cpu").course()
    with pytest.raises(MechoclError, match="the run defines no new aliases in stage 2"):
        study.gradient_study(course, none, SMALL)


def test_values_that_make_no_sense() -> None:
    with pytest.raises(MechoclError, match="aliases_per_subset is 1; use at least 2"):
        AliasGradientsConfig(aliases_per_subset=1)
    bare = object.__new__(GradientsConfig)  # outside of the tests' own run-time checks of types
    for name, value in {
        "aliases_per_subset": None,
        "question_loss": "last",
        "seed": 0,
        "between": True,
    }.items():
        object.__setattr__(bare, name, value)
    with pytest.raises(MechoclError, match="question_loss is 'last'; use trained or answer"):
        bare.__post_init__()


def test_more_than_the_memory_is_refused_before_it_is_taken(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    with pytest.raises(MechoclError, match=r"the comparison of gradients needs about .*--aliases-per-subset"):
        study.gradient_study(subject.course(), subject.task, SMALL)


def test_noise_has_no_training_questions(tmp_path: Path) -> None:
    """The control's tag-2 aliases are asked about in tests alone."""
    folder = trained(tmp_path, 'task.unreliable="noise"')
    subject = open_subject(folder.seed(0), stage=None, device="cpu")
    rows = study.gradient_study(subject.course(), subject.task, dataclasses.replace(SMALL, between=False))
    first = rows[rows["stage"] == 1].drop_duplicates("subset").set_index("subset")["questions"]
    assert first["d2_noise"] == "test"
    assert first["qd1_consistent"] == "train"


def test_a_lost_checkpoint_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "seed-0" / "stage-2" / "step-000005.safetensors").unlink()
    assert cli.main(["gradients", str(tmp_path / "run"), "--aliases-per-subset", "7", *HERE]) == 2
    assert "step-000005.safetensors" in capsys.readouterr().err
