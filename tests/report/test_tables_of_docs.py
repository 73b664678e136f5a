"""Tables that documents are written from, taken from a tiny run, beside the same numbers worked out plainly."""

import numpy as np
import pytest
import torch

from docs.write import batch_sizes, projected_steps, verdict_checks
from docs.write.learning import compare_variants
from mechocl.analyses import jobs, variant_jobs
from mechocl.hypotheses import sources
from mechocl.learning.study import GradientsConfig
from mechocl.runs.run import Run
from toy_models.task import ROLE


def test_recall_along_stage_1_is_that_of_the_histories(run: Run) -> None:
    """Tag 1 − tag 2, by evaluation: the mean over them, and the last one."""
    found = sources.gather_answers(run, device="cpu", jobs=1)
    checks = {what: values for _, _, what, values in verdict_checks._recall(run, found)}
    assert set(checks) == {"mean", "end"}
    for folder in run.finished_seeds():
        history = folder.history()
        stage = history[history["stage"] == 1].set_index(["step", "subset"])["recall"].unstack()
        difference = (stage["qd1_consistent"] - stage["qd2_inconsistent"]).dropna().to_numpy()
        assert checks["mean"][folder.seed] == pytest.approx(difference.mean())
        assert checks["end"][folder.seed] == pytest.approx(difference[-1])
        assert len(difference) > 1


def test_gradients_by_batch_size_are_those_of_the_analysis(run: Run) -> None:
    """Two lines a seed, one for each tag that new aliases may have been written with; the gap is that of the answers."""
    rows = batch_sizes._rows(run).set_index(["seed", "tag"])
    assert sorted(rows.index) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    config = GradientsConfig(aliases_per_subset=50, between=False)
    whole = jobs.analyse_run(run, "gradients", config, device="cpu", jobs=1)
    raw = whole[(whole["group"] == "all") & (whole["correction"] == "raw") & (whole["stage"] == 1)]
    raw = raw[raw["subset"].isin(["d1_consistent", "d2_consistent"])]
    answers = jobs.evaluate_run(run, device="cpu", jobs=1)
    for (seed, tag), row in rows.iterrows():
        part = raw[(raw["seed"] == seed) & (raw["tag"] == tag)]
        by_subset = part.groupby("subset", observed=True)["cosine"].mean()
        assert row["cosine"] == pytest.approx(by_subset.mean())
        auc = answers[answers["seed"] == seed].groupby(answers["subset"].astype(str))["auc"].mean()
        assert row["gap"] == pytest.approx(auc["d1_consistent"] - auc["d2_consistent"])


def test_the_dimensions_of_the_question_subspace_hold_its_share(run: Run) -> None:
    """As the singular values of the model before stage 2 say, each of a gradient taken by plain autograd."""
    found = projected_steps._dimensions(run).set_index("seed")
    assert list(found.index) == [0, 1]
    folder = run.seed(0)
    model, task = folder.model_at(folder.final(1)), folder.load_task()
    rows = task.rows(kind="question", split="train", stage=1)
    tokens, mask = task.tokens[rows], task.loss_mask[rows][:, :-1]
    logits = model(tokens[:, :-1]).log_softmax(-1)
    losses = -logits.gather(2, tokens[:, 1:].masked_fill(~mask, 0)[..., None])[..., 0]
    (gradient,) = torch.autograd.grad(losses[mask].sum(), model.embed.W_E)
    asked = torch.unique(task.tokens[rows][task.roles[rows] == ROLE["alias"]])
    sizes = np.linalg.svd(gradient[asked].double().numpy(), compute_uv=False) ** 2
    count = int((sizes.cumsum() < 0.95 * sizes.sum()).sum()) + 1
    assert found.loc[0, "dimensions"] == count
    assert found.loc[0, "d_model"] == model.cfg.d_model


def test_the_gaps_of_the_tables_of_variants_are_those_of_the_answers(run: Run) -> None:
    variant_jobs.train_variants(run, ("tag-2-onto-questions",), jobs=1)
    rows = compare_variants(run, ["tag-2-onto-questions"])
    assert set(rows["metric"]) == {"auc", "logit_difference"}
    answers = jobs.evaluate_run(run, device="cpu", jobs=1)
    for row in rows.to_dict("records"):
        own = answers[answers["seed"] == row["seed"]]
        means = own.groupby(own["subset"].astype(str))[row["metric"]].mean()
        assert row["run_gap"] == pytest.approx(means["d1_consistent"] - means["d2_consistent"])
        assert row["gap"] == pytest.approx(row["d1"] - row["d2"])
        if row["metric"] == "logit_difference":
            assert row["gap"] != pytest.approx(row["run_gap"])
