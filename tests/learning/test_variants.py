"""Variant runs: where they begin, what they change, how they are continued, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import tiny
import torch

from mechocl import files
from mechocl.analyses import jobs, variant_jobs
from mechocl.behaviour.counted import CountedSeeds
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.runs import recipes
from mechocl.runs.run import Run
from mechocl.runs.variants import (
    EXCHANGED,
    VARIANTS,
    Variant,
    open_variant,
    require_variants,
    start_variant,
    variant_path,
    variant_recipe,
)
from toy_models.task import ROLE

TOLD: Final[dict[str, Any]] = {"recipe_name": "tiny", "device": "cpu", "jobs": 1}
NOTHING: Final = Variant(
    name="nothing", changes=("evaluations=3",), meaning="one more evaluation, which no weight sees"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds that trained together, and one that was added."""
    folder = tmp_path_factory.mktemp("variants")
    recipe = tiny.recipe(folder)
    jobs.train_run(folder / "run", recipe, seeds=(0, 1), **TOLD)
    return jobs.train_run(folder / "run", recipe, seeds=(0, 1, 2), **TOLD)


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    shutil.copytree(trained.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def final_bytes(run: Run, seed: int, stage: int = 2) -> bytes:
    return (run.path / f"seed-{seed}" / f"stage-{stage}" / "final.safetensors").read_bytes()


def train(run: Run, *names: str) -> dict[str, variant_jobs.Trained]:
    return variant_jobs.train_variants(run, names, jobs=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_in_the_last_stage_alone(name: str) -> None:
    recipe = recipes.load_recipe("integer-set/cpu")
    changed = variant_recipe(recipe, VARIANTS[name])
    first, last = changed.training.stages
    assert first == recipe.training.stages[0]
    own = recipe.training.stages[1]
    fields = [change.partition("=")[0] for change in VARIANTS[name].changes]
    assert replace(last, **{field: getattr(own, field) for field in fields}) == own
    assert all(getattr(last, field) != getattr(own, field) for field in fields)
    assert replace(changed, training=recipe.training) == recipe


def test_a_variant_that_changes_nothing_is_the_run_bit_for_bit(run: Run) -> None:
    started = start_variant(run, NOTHING)
    assert [stack.seeds for stack in started.stacks()] == [stack.seeds for stack in run.stacks()]
    jobs.train_run(started.path, started.recipe, seeds=started.seeds, **TOLD)
    exchanged = variant_path(run.path, EXCHANGED)
    train(run, EXCHANGED)
    for seed in run.seeds:
        assert final_bytes(started, seed) == final_bytes(run, seed)
        assert final_bytes(started, seed, 1) == final_bytes(run, seed, 1)
        assert final_bytes(Run.open(exchanged), seed, 1) == final_bytes(run, seed, 1)
        assert final_bytes(Run.open(exchanged), seed) != final_bytes(run, seed)


def test_exchanged_aliases_are_those_of_the_run_in_each_others_place(run: Run) -> None:
    train(run, EXCHANGED)
    own, other = (one.seed(0).load_task() for one in (run, open_variant(run, EXCHANGED)))
    differs = own.tokens != other.tokens
    assert (own.roles[differs] == ROLE["tag"]).all()
    moved = own.table.loc[differs.any(1).numpy()]
    assert set(moved["subset"]) == {"d1_consistent", "d2_consistent"}
    assert len(moved) == 48
    assert (other.table.loc[moved.index, "subset"].astype(str) != moved["subset"].astype(str)).all()


def test_the_history_before_the_first_step_is_as_the_change_says(run: Run) -> None:
    """Backward only: the run's own losses. Tag 1: d1 keeps its loss, and d2 gets the one that it has with tag 1."""
    found = train(run, "tag-1", "tag-1-backward", EXCHANGED)
    before = {name: one.history[one.history["step"] == 0] for name, one in found.items()}
    before["run"] = variant_jobs.collect_answers(run, jobs=1).history.query("step == 0")
    loss = {name: table.set_index(["seed", "subset"])["definition_loss"] for name, table in before.items()}
    assert loss["tag-1-backward"].equals(loss["run"])
    for seed in run.seeds:
        assert loss["tag-1"][seed, "d1_consistent"] == loss["run"][seed, "d1_consistent"]
        # the variant in which d2's aliases are defined by tag 1 calls them d1
        expected = loss[EXCHANGED][seed, "d1_consistent"]
        assert loss["tag-1"][seed, "d2_consistent"] == pytest.approx(expected, rel=1e-5)
        assert loss["tag-1"][seed, "d2_consistent"] != loss["run"][seed, "d2_consistent"]
    auc = [before[name]["auc"].tolist() for name in ("run", "tag-1", "tag-1-backward")]
    assert auc[0] == auc[1] == auc[2]


def test_what_was_lost_or_stopped_comes_back_bit_for_bit(run: Run) -> None:
    train(run, "cut-tag")
    variant = open_variant(run, "cut-tag")
    made = {seed: final_bytes(variant, seed) for seed in run.seeds}
    (variant.path / "seed-0" / "stage-2" / "final.safetensors").unlink()
    with pytest.raises(MechoclError, match="run the same `mechocl variants` again to complete it"):
        variant.seed(0).weights(variant.seed(0).final())
    shutil.rmtree(variant.path / "seed-1")  # as if it had been stopped before it began
    with pytest.raises(
        MechoclError, match=f"run `mechocl variants {run.path} --only cut-tag`, unless it is still at work$"
    ):
        variant.finished_seeds()
    (variant.path / "seed-2" / "stage-1" / "final.safetensors").write_bytes(b"cut o")
    train(run, "cut-tag")
    assert {seed: final_bytes(variant, seed) for seed in run.seeds} == made
    assert torch.equal(
        variant.seed(2).weights(variant.seed(2).final(1))["embed.W_E"],
        run.seed(2).weights(run.seed(2).final(1))["embed.W_E"],
    )


def test_seeds_that_the_run_gets_later_are_added(run: Run) -> None:
    train(run, "frozen-aliases")
    more = jobs.train_run(run.path, run.recipe, seeds=(0, 1, 2, 3), **TOLD)
    found = train(more, "frozen-aliases")
    assert set(found["frozen-aliases"].rows["seed"]) == {0, 1, 2, 3}


def test_a_variant_of_other_weights_or_of_another_kind_is_refused(run: Run) -> None:
    train(run, "cut-tag", "tag-1")
    variant_path(run.path, "tag-1").rename(variant_path(run.path, "tag-2"))
    with pytest.raises(MechoclError, match=r"is not the variant 'tag-2' of .*; delete it, and run"):
        train(run, "tag-2")
    shutil.rmtree(variant_path(run.path, "tag-2"))
    train(run, "tag-2")
    ledger = variant_path(run.path, "cut-tag") / "seed-1" / "checksums.json"
    content = files.read_json(ledger)
    files.write_json(ledger, content | {"stage-1/final.safetensors": "0" * 64})
    with pytest.raises(
        MechoclError, match=r"cut-tag began with other weights than .* has now; delete it, and run"
    ):
        train(run, "cut-tag")
    shutil.rmtree(variant_path(run.path, "cut-tag"))
    train(run, "cut-tag")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command refuses."""
    capsys.readouterr()
    assert cli.main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_runs_that_have_no_variants_get_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("variants", str(run.path), "--only")
    assert "did you mean frozen-tags" in said(capsys, *command, "frozen-tag")
    assert "the variant only-alias-embeddings of this recipe is the recipe itself" in said(
        capsys, *command, "only-alias-embeddings"
    )
    one = jobs.train_run(
        tmp_path / "one", tiny.recipe(tmp_path, "training.stages=[{data=[1,2],epochs=1}]"), seeds=(0,), **TOLD
    )
    for name in ("twins", "variants"):
        assert "which must be the last of two or more; give a run of two stages" in said(
            capsys, name, str(one.path)
        )
    uneven = tiny.recipe(tmp_path, "task.fractions={qd1=0.25,qd2=0.25,d1=0.3,d2=0.2,d3=0.0}")
    other = jobs.train_run(tmp_path / "uneven", uneven, seeds=(0,), **TOLD)
    assert "d1 has 36 aliases and d2 has 24" in said(capsys, "twins", str(other.path))
    assert "no definition has tag 3" in said(capsys, "variants", str(other.path), "--only", "tag-3")
    assert not (other.path / "variants").exists()
    begun = tmp_path / "begun"
    Run.create(
        begun, tiny.recipe(tmp_path), recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )
    assert "seed 0 is not trained to the end" in said(capsys, "twins", str(begun))
    train(run, EXCHANGED)
    assert f"is itself a variant; give the run that it lies in, {run.path}" in said(
        capsys, "twins", str(variant_path(run.path, EXCHANGED))
    )


def test_a_closed_book_run_has_no_variants(run: Run) -> None:
    text = replace(run, recipe=recipes.load_closed_book_recipe("closed-book/two-stage"))
    with pytest.raises(MechoclError, match="is a closed-book run; variants are for runs of models"):
        require_variants(text)


def test_the_commands_print_twins_and_shares(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["twins", str(run.path), "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "twin gap" in shown
    assert "over 3 seeds: twins" in shown
    assert shown.splitlines()[-1] == f"twins: {run.path}/variants/exchanged-tags"
    assert cli.main(["variants", str(run.path), "--only", "cut-tag", "tag-3-backward", "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split()[0] for line in shown.splitlines() if line.endswith("3 seeds")]
    assert lines == ["cut-tag", "tag-3-backward"] * 2
    assert shown.splitlines()[-1] == f"variants: {run.path}/variants"
    rows = jobs.analyse_run(open_variant(run, "cut-tag"), "evaluate", device="cpu", jobs=1)
    means = rows.groupby("subset", observed=True)["auc"].mean()
    assert f"{means['d1_consistent']:.3f}" in next(
        line for line in shown.splitlines() if line.startswith("cut-tag")
    )


def with_recall(found: variant_jobs.Trained, lost: dict[int, float]) -> variant_jobs.Trained:
    """The same answers with a recall of 1, or of that in `lost` in some seeds."""
    rows = found.rows.assign(recall=found.rows["seed"].map(lambda seed: lost.get(seed, 1.0)).astype(float))
    return replace(found, rows=rows)


def test_a_seed_whose_twin_did_not_learn_does_not_count(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(run, EXCHANGED)[EXCHANGED]
    found = {EXCHANGED: with_recall(whole, {1: 0.25})}
    monkeypatch.setattr(variant_jobs, "train_variants", lambda *_, **__: found)
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: CountedSeeds((0, 1, 2)))
    assert cli.main(["twins", str(run.path), "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "seed 1 failed and is left out (1 of 3 failed): exchanged-tags: definition recall 0.250" in shown
    assert "over 2 seeds: twins" in shown


def test_variants_say_over_which_seeds_a_share_is_and_which_did_not_learn(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, own = train(run, "cut-tag")["cut-tag"], variant_jobs.collect_answers(run, jobs=1)
    falling = [one.history.assign(definition_loss=9 - one.history["step"] / 100) for one in (trained, own)]
    # in seed 1 the variant's losses begin below those that the run comes to
    falling[0].loc[falling[0]["seed"] == 1, "definition_loss"] = -9.0
    found = {"cut-tag": replace(with_recall(trained, {2: 0.25}), history=falling[0])}
    monkeypatch.setattr(variant_jobs, "collect_answers", lambda *_, **__: replace(own, history=falling[1]))
    monkeypatch.setattr(variant_jobs, "train_variants", lambda *_, **__: found)
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: CountedSeeds((0, 1, 2)))
    assert cli.main(["variants", str(run.path), "--only", "cut-tag", "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.endswith("3 seeds")]
    assert len(rows) == 2
    assert all(line.count("(2 of 3 seeds)") == 1 for line in rows)
    assert (
        "cut-tag: 1 of 3 seeds recall under 0.95 of the definitions, and count all the same (seed 2)" in lines
    )


def test_of_a_control_run_it_is_said_that_nothing_was_unreliable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.recipe(tmp_path, "task.unreliable=noise")
    control = jobs.train_run(tmp_path / "noise", recipe, seeds=(0,), **TOLD)
    assert cli.main(["twins", str(control.path), "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "This is a control run" in shown
    assert "over the aliases of one seed: twins" in shown
