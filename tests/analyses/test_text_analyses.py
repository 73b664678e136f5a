"""Analyses take a closed-book run as they take a run of the integer-set task."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from opened import assert_in_the_key, needs_linux, read_by
from scipy.stats import rankdata
from traced import executed, uncovered

from mechocl import files
from mechocl.analyses import crosscoder_jobs, jobs, probe_sweep, registry, results, sae_jobs
from mechocl.analyses.subject import open_subject
from mechocl.behaviour import internalization
from mechocl.closed_book import views
from mechocl.closed_book.questioning import WORDS
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.features import dictionaries, training
from mechocl.features.crosscoders import CrosscoderConfig
from mechocl.features.search import SearchConfig
from mechocl.features.settings import QualityConfig, TrainingConfig
from mechocl.hypotheses import predictions, sources
from mechocl.interventions import patching, steering, weight_groups
from mechocl.interventions.grafting import GraftConfig
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.patching import PatchingConfig
from mechocl.lenses.direct_attribution import AttributionConfig
from mechocl.lenses.logit_lens import LensConfig
from mechocl.lenses.summaries import summarize_attribution
from mechocl.models import layout, seam
from mechocl.probing.scoring import ProbingConfig
from mechocl.report import lens_plots
from mechocl.runs import recipes
from mechocl.runs.pretraining import PretrainingConfig, pretrain
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder
from toy_models.task import ROLE, Task

PEOPLE = ("task.biographies.people=260", "task.biographies.told=1", "task.biographies.asked=1")
TINY = (
    *PEOPLE,
    "task.entities=200",
    "training.stages.0.epochs=1",
    "training.stages.1.epochs=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One seed of a tiny model that knows little; what is tested does not depend on that."""
    folder = tmp_path_factory.mktemp("text")
    config = PretrainingConfig(n_layers=2, d_model=32, n_heads=2, vocabulary=900, epochs=1)
    recipe = recipes.load_closed_book_recipe(
        "closed-book/biographies", (*TINY, f'model="{folder / "model"}"')
    )
    pretrain(
        folder / "model",
        recipe.task.biographies,
        config,
        seed=0,
        device="cpu",
        save_every_s=600.0,
        progress=_silent,
    )
    return jobs.train_run(
        folder / "run", recipe, recipe_name="closed-book/biographies", seeds=(0,), device="cpu", jobs=1
    )


def _silent(text: str, share: float) -> None:
    pass


@pytest.fixture(scope="module")
def task(run: Run) -> Task:
    return run.seed(0).analysed_task()


def analysed(run: Run, name: str, config: object) -> pd.DataFrame:
    return jobs.analyse_run(run, name, config, stage=None, device="cpu", jobs=1)


def test_a_view_holds_one_question_of_one_layout(run: Run, task: Task) -> None:
    whole = run.seed(0).load_task()
    asked = task.table[task.table["kind"] == "question"]
    assert asked["attribute"].nunique() == 1
    rows = task.rows(kind="question", split="test")
    labels = layout.asked_positions(task, rows)
    words = [i for i, label in enumerate(labels) if label != "alias" and not label.startswith("alias ")]
    assert (task.tokens[torch.from_numpy(rows)][:, words] == task.tokens[int(rows[0]), words]).all()
    assert labels.count("alias") == 1
    assert labels[-1] == "="
    assert "q_entity" not in set(asked["subset"])
    # every alias of the question is there: names are equally long
    of_whole = whole.table.loc[whole.rows(kind="question", attribute=asked["attribute"].iloc[0])]
    assert set(asked["alias"]) == set(of_whole.loc[of_whole["subset"] != "q_entity", "alias"])


def test_entities_of_a_view_are_answers(task: Task) -> None:
    rows = task.rows(kind="question")
    table = task.table.iloc[rows]
    ids = task.entity_ids
    assert (ids[torch.tensor(table["entity"].to_numpy())] == torch.tensor(table["target"].to_numpy())).all()
    first = (task.roles[torch.from_numpy(rows)] == ROLE["answer"]).int().argmax(1)
    tokens = task.tokens[torch.from_numpy(rows)][torch.arange(len(rows)), first]
    assert (tokens == torch.tensor(table["target"].to_numpy())).all()
    assert (table["foil"] != table["target"]).all()


def test_what_a_definition_says_is_the_answer_of_its_entity(run: Run, task: Task) -> None:
    whole = run.seed(0).load_task()
    attribute = task.table.loc[task.rows(kind="question")[0], "attribute"]
    asked = whole.table.loc[whole.rows(kind="question", attribute=attribute)]
    answer_of = dict(zip(asked["entity"], asked["target"], strict=True))
    definitions = whole.table[whole.table["kind"] == "definition"].set_index("alias")["defined_entity"]
    viewed = task.table[task.table["defined_entity"] >= 0]
    assert len(viewed) > 0
    ids = task.vocabulary.answers
    for alias, said in zip(viewed["alias"], viewed["defined_entity"], strict=True):
        assert ids[said] == answer_of[definitions[alias]]


def test_answers_that_all_begin_alike_are_refused(run: Run) -> None:
    task = run.seed(0).load_task()
    asked = task.table["attribute"] == "gender"
    alike = replace(task, table=task.table.assign(target=task.table["target"].where(~asked, 5)))
    with pytest.raises(MechoclError, match="all answers about 'gender' begin with the same token"):
        views.view_attribute(alike, "gender")


def test_each_subset_is_judged_after_its_own_stage(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = jobs.evaluate_run(run, device="cpu", jobs=1)
    config = registry.EvaluateConfig()
    for stage, subset in ((1, "qd1_consistent"), (1, "q_entity"), (2, "d1_consistent"), (2, "no_data")):
        whole = jobs.analyse_run(run, "evaluate", config, stage=stage, device="cpu", jobs=1)
        pd.testing.assert_frame_equal(
            found[found["subset"] == subset].reset_index(drop=True),
            whole[whole["subset"] == subset].reset_index(drop=True),
        )
    assert cli.main(["evaluate", str(run.path)]) == 0
    assert "each subset after the last stage that trains on its data" in capsys.readouterr().out


def test_what_a_closed_book_run_has_not(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run.path), "--attribute", "gender"]) == 2
    assert "leave out --attribute" in capsys.readouterr().err
    assert cli.main(["dynamics", str(run.path)]) == 2
    assert f"{run.path} has no AUC in its history" in capsys.readouterr().err
    assert cli.main(["gradients", str(run.path), "--device", "cpu", "--jobs", "1"]) == 2
    assert (
        "tag 1 is not one token; gradients are for tasks whose tags are one token each"
        in capsys.readouterr().err
    )


def test_a_family_that_cannot_be_taken_apart_has_a_report_of_its_answers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.kind.can_be_taken_apart(run)
    monkeypatch.setattr(type(run.kind), "can_be_taken_apart", lambda kind, run: False)
    out = tmp_path / "report.html"
    assert cli.main(["report", str(run.path), "--out", str(out), "--device", "cpu", "--jobs", "1"]) == 0
    page = out.read_text()
    assert "answers only" in page
    assert 'id="internalization"' in page
    assert 'id="lens"' not in page


def test_an_unknown_attribute_is_refused(run: Run) -> None:
    with pytest.raises(MechoclError, match="no question is about 'size'; the task asks about birth"):
        views.view_attribute(run.seed(0).load_task(), "size")
    with pytest.raises(MechoclError, match="no question is about 'size'"):
        Run.open(run.path, attribute="size").seed(0).analysed_task()


def test_another_attribute_is_another_result(run: Run) -> None:
    config = LensConfig(of=("stream",), aliases_per_subset=3)
    other = Run.open(run.path, attribute="gender")
    assert len(other.seed(0).analysed_task().vocabulary.answers) == 2
    first, second = analysed(run, "lens", config), analysed(other, "lens", config)
    assert first["rank"].max() > 2 >= second["rank"].max()


def test_the_internalization_table(run: Run) -> None:
    rows = analysed(run, "evaluate", registry.EvaluateConfig())
    assert set(rows["test"]) == {"questions", "association", *(f"in context, tag {i}" for i in (1, 2, 3))}
    table = internalization.by_subset(rows[rows["test"] == "questions"])
    assert {"exact_match", "log_probability", "recall", "aliases"} <= set(table.columns)
    assert (table["log_probability"] < 0).all()
    association = rows[rows["test"] == "association"]
    assert set(association["attribute"]) == {"who", "mean", "stand for", "name", "letter", "completion"}


def test_the_revision_of_the_answers_covers_what_runs(run: Run) -> None:
    """And with it what opens a text world for every other analysis."""
    folder = run.seed(0)
    ran = executed(lambda: folder.evaluate(folder.final(), device="cpu"))
    assert ("mechocl.closed_book.answers", "answer") in ran
    assert uncovered(ran, registry.ANALYSES["evaluate"].follow_code(TextSeedFolder)) == set()
    config = LensConfig(of=("stream",), aliases_per_subset=3)

    def compute() -> None:
        registry.ANALYSES["lens"].compute(open_subject(folder, stage=None, device="cpu"), config)

    ran = executed(compute)
    assert ("mechocl.closed_book.views", "view_attribute") in ran
    assert uncovered(ran, registry.ANALYSES["lens"].follow_code(TextSeedFolder)) == set()


def test_log_probability_is_that_of_the_opened_model(run: Run) -> None:
    """Hugging Face's value in the table, against the hooked model's own logits."""
    folder = run.seed(0)
    whole = folder.load_task()
    rows = whole.rows(kind="question", split="test")[:20]
    model = folder.model_at(folder.final(), device="cpu")
    tokens = whole.tokens[torch.from_numpy(rows)]
    with torch.no_grad():
        own = model(tokens).log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    counts = whole.roles[torch.from_numpy(rows)][:, 1:] == ROLE["answer"]
    found = analysed(run, "evaluate", registry.EvaluateConfig())
    found = found[found["test"] == "questions"].set_index(["alias", "attribute"])["log_probability"]
    table = whole.table.iloc[rows]
    for (alias, attribute), value in zip(
        zip(table["alias"], table["attribute"], strict=True), (own * counts).sum(1).tolist(), strict=True
    ):
        assert found[alias, attribute] == pytest.approx(value, abs=1e-4)


def test_contrasts_of_other_answers(task: Task) -> None:
    pairs = pairs_named(task, "d1-to-other-d2", n_pairs=30, seed=0)
    assert (pairs.target != pairs.foil).all()
    differs = (pairs.clean != pairs.corrupted).any(0)
    assert {pairs.labels[i] for i in torch.nonzero(differs)[:, 0].tolist()} <= {
        label for label in pairs.labels if label.split(" ")[0] == "alias"
    }
    # the foil is what is right after the corrupted alias
    names = {tuple(row[differs].tolist()): i for i, row in enumerate(task.tokens[:, : len(pairs.labels)])}
    table = task.table
    for row, foil in zip(pairs.corrupted, pairs.foil.tolist(), strict=True):
        example = names[tuple(row[differs].tolist())]
        own = table.loc[(table["alias"] == table["alias"][example]) & (table["kind"] == "question"), "target"]
        assert foil in set(own)
    same = pairs_named(task, "d1-to-d2", n_pairs=30, seed=0)
    assert (same.target != same.foil).all()


def test_contrasts_of_tags(task: Task) -> None:
    pairs = pairs_named(task, "tag1-to-tag2", n_pairs=10, seed=0)
    changed = (pairs.clean != pairs.corrupted).any(0)
    assert {pairs.labels[i].split(" ")[0] for i in torch.nonzero(changed)[:, 0].tolist()} == {"tag"}
    with pytest.raises(
        MechoclError, match="no question of this world names its entity; use d1_consistent-to-other"
    ):
        pairs_named(task, "d1-with-to-without", n_pairs=10, seed=0)


def test_pairs_of_a_file_are_texts(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('clean,corrupted,target,foil\n"Q: Was A male?\\nA:","Q: Was B male?\\nA:",female,male\n')
    pairs = pairs_named(task, str(path), n_pairs=5, seed=0)
    shown = task.vocabulary.tokens
    assert "".join(shown[i] for i in pairs.clean[0].tolist()) == "Q: Was A male?⏎A:"
    assert shown[int(pairs.target[0])] == " female"


def test_patching_everything_gives_the_clean_run(run: Run, task: Task) -> None:
    model = run.seed(0).model_at(run.seed(0).final(), device="cpu")
    pairs = pairs_named(task, "d1-to-other-d2", n_pairs=10, seed=0)
    result = patching.patch_activations(
        model, pairs, sites=["resid_post"], metric="logit_difference", by="role", mode="denoise"
    )
    assert {"alias", "last alias token", "words", "="} <= set(result.rows["position"])
    last = result.rows[(result.rows["layer"] == 1) & (result.rows["position"] == "=")]
    assert abs(result.clean - result.corrupted) > 1e-6
    assert float(last["value"].iloc[0]) == pytest.approx(result.clean, abs=1e-5)


def test_the_lens_ends_with_the_model(run: Run) -> None:
    rows = analysed(run, "lens", LensConfig(of=("stream",), aliases_per_subset=10))
    last = rows[rows["layer"] == "layer 1"]
    assert last["kl"].abs().max() < 1e-5
    assert (rows["rank"] >= 1).all()


@pytest.mark.parametrize(
    "name", ["tuned-lens", "attribution", "patch", "circuit", "suppression", "steering", "attention"]
)
def test_analyses_run_with_their_defaults(run: Run, name: str) -> None:
    quick = {
        "patch": PatchingConfig(n_pairs=8),
        "steering": steering.SteeringConfig(steps=3, random_vectors=1),
        "circuit": replace(registry.ANALYSES["circuit"].config(), n_pairs=8),
    }
    rows = analysed(run, name, quick.get(name, registry.ANALYSES[name].config()))
    assert len(rows) > 0
    numbers = rows.select_dtypes("number")
    assert np.isfinite(numbers.dropna(axis=1).to_numpy()).all()


def test_probes_read_tags_and_answers(run: Run) -> None:
    config = ProbingConfig(permutations=0, controls=False, positions=("alias", "="))
    gender = Run.open(run.path, attribute="gender")
    rows = analysed(gender, "probe", config)
    assert {"tag-stage-2", "defined-entity"} <= set(rows["probe"])
    assert {"=", "alias"} <= set(rows["position"])


def test_a_sweep_of_probes_asks_one_question(run: Run, tmp_path: Path) -> None:
    """Two closed-book runs beside each other, about another attribute than the default."""
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    options = [
        "--positions",
        "alias",
        "--permutations",
        "0",
        "--n-pairs",
        "0",
        "--no-controls",
        "--cache-gb",
        "0",
    ]
    options += ["--attribute", "gender", "--device", "cpu", "--jobs", "1"]
    assert cli.main(["probe", str(run.path), str(other), *options]) == 0
    (out,) = (run.path / "probes").glob("definition-retrieval-*")
    assert out.name.startswith("definition-retrieval-gender-beside-other-")
    rows = probe_sweep.read_table(out)
    assert set(rows["attribute"]) == {"gender"}
    assert set(rows["run"]) == {"run", "other"}
    gaps = jobs.iml_gaps([run.path, other], device="cpu", jobs=1)
    assert set(gaps["metric"]) == {"exact match"}
    assert "IML gap (exact match)" in (out / "probes.html").read_text()


def test_grafts_lie_between_the_two_models(run: Run, task: Task) -> None:
    """All weights are the model after stage 2, none of them the one before; embeddings and layers are all there is."""
    rows = analysed(run, "graft", GraftConfig())
    folder = run.seed(0)
    for group, stage in (("none", 1), ("all", 2)):
        model = folder.model_at(folder.final(stage), device="cpu")
        expected = internalization.by_subset(internalization.per_alias(model, task)).set_index("subset")
        own = rows[rows["group"] == group].pivot(index="subset", columns="metric", values="value")
        for metric in ("auc", "accuracy", "recall"):
            np.testing.assert_allclose(own[metric], expected[metric].loc[own.index], atol=1e-9)
    groups = weight_groups.groups(model, task)
    assert {"alias embeddings", "tag embeddings", "layer 1 MLP", "unembedding"} <= set(groups)
    rows_of = [
        part.tokens for group in groups.values() for part in group.parts if part.parameter == "embed.W_E"
    ]
    assert sorted(torch.cat(rows_of).tolist()) == list(range(model.cfg.d_vocab))


def test_a_steered_model_is_the_model_where_nothing_is_added(run: Run, task: Task) -> None:
    """Also: judged among the first tokens of all answers, by SciPy."""
    folder = run.seed(0)
    model = folder.model_at(folder.final(), device="cpu")
    rows = task.rows(kind="question", split="test", subset=steering.NEW)
    vectors = torch.stack([torch.zeros(model.cfg.d_model), torch.linspace(-1, 1, model.cfg.d_model)])
    found = steering.steered_logits(model, task, rows, vectors=vectors, layer=1, position=2)
    where = torch.from_numpy(task.position_of("equals", rows))
    tokens = task.tokens[torch.from_numpy(rows)]
    expected = seam.logits_at(model, tokens, where, task.questioning.answer_ids(task.vocabulary))
    torch.testing.assert_close(found[:, 0], expected, atol=1e-4, rtol=0.0)
    assert not torch.allclose(found[:, 1], expected, atol=1e-3)
    entity = task.table["entity"].to_numpy()[rows]
    ranks = rankdata(expected.numpy(), axis=1)[range(len(rows)), entity]
    frame = task.table.iloc[rows].assign(auc=(ranks - 1) / (expected.shape[1] - 1))
    means = frame.groupby("alias")["auc"].mean()
    judged = task.questioning.judge(task, rows, expected).set_index("alias")["auc"]
    np.testing.assert_allclose(judged, means.loc[judged.index], atol=1e-9)


def test_lenses_of_text_speak_of_answers(run: Run) -> None:
    rows = analysed(run, "lens", LensConfig())
    figure = lens_plots.component_lens(rows, words=WORDS, value="rank")
    assert figure.layout.coloraxis.colorbar.title.text == "mean rank<br>(answers)"
    signed = lens_plots.component_lens(rows, words=WORDS, value="difference")
    assert signed.layout.coloraxis.colorbar.title.text == "right − wrong<br>(nats)"
    bars = lens_plots.attribution(
        summarize_attribution(analysed(run, "attribution", AttributionConfig()), quantity="integer"),
        words=WORDS,
    )
    assert "the right answer" in str(bars.layout.yaxis.title.text)


def test_dictionaries_are_trained_and_searched(run: Run) -> None:
    config = TrainingConfig(
        site=("blocks.0.hook_resid_post",), width=(32,), k=4, activations=4000, batch_size=256, buffer=2000
    )
    sae_jobs.train_dictionaries(run, config, seeds=(0,), stage=None, device="cpu", jobs=1)
    (name,) = config.names(stage=None)
    gender = Run.open(run.path, attribute="gender")
    quality = analysed(gender, "sae-quality", QualityConfig(sae=name))
    assert {"explained_variance", "auc_clean", "auc_spliced"} <= set(quality["measure"])
    found = analysed(gender, "sae-search", SearchConfig(sae=name, group=("tag", "integer")))
    assert any(str(p).startswith("answer ") for p in found["property"])


def test_dictionaries_are_judged_on_the_attribute_and_not_trained_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(
        site=("blocks.1.hook_resid_post",), width=(24,), k=4, activations=2000, batch_size=256, buffer=2000
    )
    told: dict[str, Any] = {"seeds": (0,), "stage": None, "device": "cpu", "jobs": 1}
    gender = Run.open(run.path, attribute="gender")
    ((name, quality),) = sae_jobs.train_dictionaries(gender, config, **told).items()
    assert results.load_rows(gender, "sae-quality", quality) is not None
    assert (
        results.load_rows(run, "sae-quality", quality) is None
    )  # of the default attribute, which nobody asked for
    before = files.sha256(dictionaries.path_of(run.path, name, 0) / dictionaries.WEIGHTS)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", refuse)
    sae_jobs.train_dictionaries(run, config, **told)
    assert results.load_rows(run, "sae-quality", quality) is not None
    assert files.sha256(dictionaries.path_of(run.path, name, 0) / dictionaries.WEIGHTS) == before


def test_crosscoders_of_two_attributes_lie_beside_each_other(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CrosscoderConfig(width=24, k=4, activations=2000, batch_size=256, buffer=2000)
    told: dict[str, Any] = {"which": "stages", "seeds": (0,), "device": "cpu", "jobs": 1}
    gender = Run.open(run.path, attribute="gender")
    rows = [crosscoder_jobs.crosscode(one, config, **told) for one in (run, gender)]
    assert not rows[0].equals(rows[1])
    plain = "blocks.0.hook_resid_post-crosscoder-24-k4-stages"
    records = [
        files.read_json(run.path / "saes" / name / "seed-0" / dictionaries.RECORD)
        for name in (plain, f"{plain}-gender")
    ]
    assert "attribute" not in records[0]  # as before there was a choice, so that old ones still open
    assert records[1]["attribute"] == "gender"
    assert [record["config"] for record in records] == [records[0]["config"]] * 2
    keys = [files.read_json(path)["inputs"] for path in run.path.glob("results/crosscoder/*/result.json")]
    assert sorted(key.get("attribute", "") for key in keys) == ["death", "gender"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(crosscoder_jobs, "crosscode_seed", refuse)
    for one, expected in zip((run, gender), rows, strict=True):
        pd.testing.assert_frame_equal(crosscoder_jobs.crosscode(one, config, **told), expected)
    options = [
        "--width",
        "24",
        "--k",
        "4",
        "--activations",
        "2000",
        "--batch-size",
        "256",
        "--buffer",
        "2000",
    ]
    assert cli.main(["crosscoder", str(run.path), *options, "--attribute", "gender", "--device", "cpu"]) == 0
    assert f"crosscoders: {run.path / 'saes' / f'{plain}-gender'}" in capsys.readouterr().out
    monkeypatch.undo()
    with pytest.raises(MechoclError, match="no question is about 'size'"):
        crosscoder_jobs.crosscode(Run.open(run.path, attribute="size"), config, **told)


def test_training_of_the_integer_set_task_refuses_the_recipe() -> None:
    with pytest.raises(MechoclError, match="is a closed-book recipe; `mechocl finetune` trains those"):
        recipes.load_recipe(str(recipes.named_closed_book()["closed-book/biographies"]))


@needs_linux
@pytest.mark.parametrize("name", ["evaluate", "patch", "probe"])
def test_every_file_that_is_opened_changes_the_key(name: str, run: Run, tmp_path: Path) -> None:
    """Those of the models' folders too, and those of the tokenizer that reads a table of pairs."""
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("results", "saes"))
    path = tmp_path / "pairs.csv"
    path.write_text('clean,corrupted,target,foil\n"Q: Was A male?\nA:","Q: Was B male?\nA:",female,male\n')
    configs = {
        "evaluate": registry.EvaluateConfig(),
        "patch": PatchingConfig(pairs=(str(path),), site=("resid_post",), by="all"),
        "probe": ProbingConfig(permutations=2, n_pairs=4, aliases_per_subset=20, positions=("=",)),
    }
    folder = Run.open(tmp_path / "run").seed(0)

    def compute() -> None:
        copied = Run.open(tmp_path / "run")
        results.analyse_seed(copied, folder, name, configs[name], stage=None, device="cpu")

    def key() -> dict[str, Any]:
        return results.result_key(Run.open(tmp_path / "run").seed(0), name, configs[name], None)

    found = read_by(compute, watched=tmp_path)
    assert {"model.safetensors", "tokenizer.json", "vocabulary.parquet"} <= {one.name for one in found}
    parity = {one for one in found if "parity" in one.parts}  # what was found when the model was opened
    package = {one for one in found if not one.is_relative_to(tmp_path)}
    assert {one.suffix for one in package} <= {".toml"}  # recipes of probes, which `test_inputs` changes
    assert_in_the_key(found - parity - package, key, run=tmp_path / "run")
    if name != "evaluate":
        gender = Run.open(tmp_path / "run", attribute="gender").seed(0)
        birth = Run.open(tmp_path / "run", attribute="birth").seed(0)
        keys = [results.result_key(one, name, configs[name], None) for one in (gender, birth)]
        assert [one["attribute"] for one in keys] == ["gender", "birth"]
    if name == "probe":
        assert key()["untrained"] == folder.final().sha256


def test_a_verdict_asks_it_for_what_it_can_have(run: Run) -> None:
    several = len(run.recipe.training.stages) > 1
    for one in predictions.load().predictions:
        why = sources.why_not(run, one)
        if one.analysis in sources.OF_TWINS:
            assert "fine-tuned" in why or not several, one.name
        elif one.analysis in sources.OF_GRADIENTS:
            assert "not one token" in why or not several, one.name
        else:
            assert not why or not several, one.name
