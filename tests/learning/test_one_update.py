"""One update: equal to a loop over the aliases, whose steps torch's own SGD takes on a copy of the model."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import torch.nn.functional as F
from contract import assert_unchanged
from differentiated import world

from mechocl.analyses import jobs
from mechocl.behaviour.internalization import per_alias
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.learning import examples, one_update, summaries
from mechocl.learning.course import Course
from mechocl.learning.gradients import differentiable
from mechocl.learning.one_update import COLUMNS, DESCENT, OPTIMISER, OneUpdateConfig, update_study
from mechocl.learning.preconditioning import adam_scales
from toy_models.stages import StageConfig
from toy_models.task import Task

CONFIG = OneUpdateConfig(aliases_per_subset=2, learning_rate=0.03)
CHECKED = ("plain", "every token", "tied", "tied, every token", "letters", "learned positions, sequential")


def course(model: Any, end: Any = None, **settings: Any) -> Course:
    """A stage that begins with the model, and ends with it or with another one."""
    return Course(
        stage=2,
        earlier=StageConfig(data=(1,), epochs=1),
        settings=StageConfig(data=(2,), epochs=1, batch_size=8, **settings),
        before=lambda: model,
        steps_before=1,
        kept=(1,),
        at=lambda step: end or model,
    )


def loss_of(model: Any, task: Task, rows: Any, *, answer: bool) -> torch.Tensor:
    at = torch.from_numpy(np.atleast_1d(rows))
    tokens, mask = task.tokens[at], task.loss_mask[at][:, :-1].clone()
    if answer:
        mask = torch.zeros_like(mask)
        mask[torch.arange(len(at)), torch.from_numpy(task.position_of("equals", at.numpy()))] = True
    return F.cross_entropy(model(tokens[:, :-1])[mask], tokens[:, 1:][mask])


def stepped(model: Any, task: Task, row: int, *, rate: float) -> Any:
    """A copy after one step of SGD on one definition. Both places of tied weights get the sum of their gradients."""
    changed = copy.deepcopy(model)
    trained = [
        p for name, p in changed.named_parameters() if dict(model.named_parameters())[name].requires_grad
    ]
    weights = dict(changed.named_parameters())
    tied = model.cfg.tie_word_embeddings
    if tied:
        weights["unembed.W_U"].requires_grad_()
        trained = [*trained, weights["unembed.W_U"]]
    optimizer = torch.optim.SGD(list({id(p): p for p in trained}.values()), lr=rate)
    loss_of(changed, task, row, answer=False).backward()
    if tied:
        rows, columns = weights["embed.W_E"].grad, weights["unembed.W_U"].grad
        rows[: columns.shape[1]] += columns.T
        columns.copy_(rows[: columns.shape[1]].T)
    optimizer.step()
    return changed


@pytest.mark.parametrize("name", CHECKED)
def test_the_rows_are_those_of_a_loop(name: str) -> None:
    model, task = world(name)
    rows = update_study(course(model), task, CONFIG)
    rows = rows[rows["step"] == DESCENT]
    assert tuple(rows.columns) == COLUMNS
    assert set(rows["tag"]) == {1, 2, 3}
    for row in rows[rows["tag"] != 3].to_dict("records"):
        written = examples.write_with_tag(task, row["tag"])
        definition = int(task.rows(kind="definition", alias=row["alias"])[0])
        questions = task.rows(kind="question", split="test", alias=row["alias"])
        changed = stepped(model, written, definition, rate=CONFIG.learning_rate)
        losses = [loss_of(one, task, questions, answer=True).detach().item() for one in (model, changed)]
        aucs = [per_alias(one, task).set_index("alias").loc[row["alias"], "auc"] for one in (model, changed)]
        assert row["loss_before"] == pytest.approx(losses[0], abs=1e-6)
        assert row["loss_change"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
        assert abs(losses[1] - losses[0]) > 1e-5
        assert row["auc_before"] == pytest.approx(aucs[0])
        assert row["auc_change"] == pytest.approx(aucs[1] - aucs[0])
        assert row["loss_effect"] == pytest.approx(row["loss_change"] - row["loss_change_other"])


@pytest.mark.parametrize("name", ["plain", "tied, every token"])
def test_a_small_step_does_what_it_promises(name: str) -> None:
    """A tenth of the rate leaves a hundredth of the difference, as what is left is of second order."""
    model, task = world(name)
    missed = []
    for rate in (1e-2, 1e-3):
        rows = update_study(course(model), task, dataclasses.replace(CONFIG, learning_rate=rate))
        rows = rows[rows["step"] == DESCENT]
        for what in ("", "_other"):
            missed.append((rows[f"loss_change{what}"] - rows[f"loss_predicted{what}"]).abs().max())
            assert (rows[f"loss_predicted{what}"].abs() > 0).all()
    assert missed[2] < missed[0] / 30
    assert missed[3] < missed[1] / 30


def test_the_control_moves_the_other_aliass_own_row_by_as_much() -> None:
    """With only the aliases' names trained: the other one's row + the step of this one, and nothing else."""
    model, task = world("plain")
    rows = update_study(course(model, trains="alias_embeddings"), task, CONFIG)
    rows = rows[(rows["step"] == DESCENT) & (rows["tag"] == 2) & (rows["subset"] == "d1_consistent")]
    assert len(rows) == 2
    first, second = rows.to_dict("records")
    written = examples.write_with_tag(task, 2)
    names = examples.name_tokens(task, rows["alias"].to_numpy())[:, 0].tolist()
    for row, (name, other), asked in ((first, names, second), (second, names[::-1], first)):
        definition = int(task.rows(kind="definition", alias=row["alias"])[0])
        moved = (
            stepped(model, written, definition, rate=CONFIG.learning_rate).embed.W_E[name]
            - model.embed.W_E[name]
        )
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.embed.W_E[other] += moved
        questions = task.rows(kind="question", split="test", alias=asked["alias"])
        losses = [loss_of(one, task, questions, answer=True).detach().item() for one in (model, changed)]
        assert row["loss_change_other"] == pytest.approx(losses[1] - losses[0], abs=1e-6)


def test_the_preconditioned_step() -> None:
    """Of a batch's loss the definition is a share: 1 of 7 examples, 20 definitions in 3 batches of at most 8."""
    model, task = world("plain")
    settings = {"learning_rate": 2e-3, "embedding_rate": 5.0}
    rows = update_study(course(model, **settings), task, CONFIG)
    rows = rows[(rows["step"] == OPTIMISER) & (rows["tag"] == 2)]
    row = rows.iloc[0]
    alias = np.array([row["alias"]])
    names, written = examples.name_tokens(task, alias), examples.write_with_tag(task, 2)
    of = differentiable(model, task)
    own, shared = adam_scales(of, course(model, **settings).settings, names, tag=2, seed=0)
    examples_ = len(task.training_rows((2,)))
    changed = copy.deepcopy(model)
    loss_of(changed, written, task.rows(kind="definition", alias=int(alias[0]))[0], answer=False).backward()
    with torch.no_grad():
        scale = torch.zeros_like(changed.embed.W_E)
        scale[of.layout.others], scale[names[0]] = shared["embed.W_E"], own[0]
        for name, weight in changed.named_parameters():
            if weight.grad is not None and name in shared:
                by = scale if name == "embed.W_E" else shared[name]
                weight -= 2e-3 * -(-examples_ // 8) / examples_ * by * weight.grad
    questions = task.rows(kind="question", split="test", alias=int(alias[0]))
    losses = [loss_of(one, task, questions, answer=True).detach().item() for one in (model, changed)]
    assert row["loss_change"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert abs(row["loss_change"]) > 1e-4


def test_what_the_stage_did_is_the_difference_of_its_ends() -> None:
    model, task = world("plain")
    end, _ = world("every token")
    with torch.no_grad():
        end.unembed.b_U[task.vocabulary.true] += 1.0
    rows = update_study(course(model, end), task, CONFIG)
    for row in rows.drop_duplicates("alias").to_dict("records"):
        questions = task.rows(kind="question", split="test", alias=row["alias"])
        losses = [loss_of(one, task, questions, answer=True).detach().item() for one in (model, end)]
        assert row["stage_loss_change"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert (rows.groupby("alias")["stage_loss_change"].nunique() == 1).all()


def test_how_many_at_once_changes_nothing_and_the_model_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = world("tied")
    with assert_unchanged(model):
        whole = update_study(course(model), task, CONFIG)
    monkeypatch.setattr("mechocl.learning.gradients._MOST_AT_ONCE", 4)
    pd.testing.assert_frame_equal(whole, update_study(course(model), task, CONFIG), rtol=1e-9, atol=1e-12)


def test_an_alias_that_is_alone_has_no_control() -> None:
    listed = pd.DataFrame({"subset": ["a", "b", "b", "b"]})
    others = one_update._others(listed, seed=0)
    assert others[0] == 0
    assert sorted(others[1:].tolist()) == [1, 2, 3]
    assert (others[1:] != torch.arange(1, 4)).all()


def test_configs() -> None:
    for rate in (0.0, -1.0, float("inf")):
        with pytest.raises(MechoclError, match="it must be above 0"):
            OneUpdateConfig(learning_rate=rate)
    with pytest.raises(MechoclError, match="use at least 2"):
        OneUpdateConfig(aliases_per_subset=1)


def test_of_a_run(tmp_path: Path) -> None:
    run = jobs.train_run(
        tmp_path / "run", tiny.recipe(tmp_path), recipe_name="tiny", seeds=(0,), device="cpu", jobs=1
    )
    rows = jobs.analyse_run(run, "one-update", OneUpdateConfig(aliases_per_subset=4), device="cpu", jobs=1)
    assert len(rows) == 3 * 4 * 3 * 2
    assert rows["own_tag"].sum() == 3 * 4 * 2
    own = per_alias(run.seed(0).model, run.seed(0).load_task()).set_index("alias")["auc"]
    one = rows.drop_duplicates("alias").set_index("alias")
    np.testing.assert_allclose(one["auc_before"] + one["stage_auc_change"], own.loc[one.index])


def test_correlations_by_hand() -> None:
    """Over three aliases: predicted 1 2 3 and change 2 4 6 go together, the stage's 3 2 1 against it. Constant: none."""
    table = pd.DataFrame(
        {
            "seed": 0, "step": DESCENT, "subset": "d1_consistent", "own_tag": [True, True, True, False],
            "loss_predicted": [1.0, 2.0, 3.0, -9.0], "loss_change": [2.0, 4.0, 6.0, 9.0],
            "stage_loss_change": [3.0, 2.0, 1.0, 9.0], "auc_change": [0.0, 0.0, 0.0, 9.0], "stage_auc_change": [1.0, 2.0, 3.0, 9.0],
        }
    )  # fmt: skip
    found = summaries.correlate_updates(table).set_index("between")["correlation"]
    assert list(found.index) == list(summaries.CORRELATED)
    np.testing.assert_allclose(found, [1.0, -1.0, np.nan])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = jobs.train_run(
        tmp_path / "run", tiny.recipe(tmp_path), recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1
    )
    options = ["--aliases-per-subset", "4", "--device", "cpu", "--jobs", "1"]
    assert cli.main(["updates", str(run.path), *options]) == 0
    shown = capsys.readouterr().out
    rows = jobs.analyse_run(run, "one-update", OneUpdateConfig(aliases_per_subset=4), device="cpu", jobs=1)
    means = rows.groupby(["step", "tag"])["loss_change"].mean()
    table = shown.split("gradient descent: loss")[1].split("preconditioned: loss")[0].splitlines()
    line = next(line for line in table if line.startswith("tag 2"))
    assert line.split()[2] == f"{means[DESCENT, 2]:+.3f}"
    for text in ("3 − 2", *summaries.CORRELATED, "from the weights before stage 2"):
        assert text in shown
    assert shown.splitlines()[-1] == f"rows: {run.path / 'results' / 'one-update'}"
