"""The mechanism of all analyses: what a result depends on, and the models that it may look at."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from contract import CONFIGS, dictionary

import mechocl
from mechocl import files
from mechocl.analyses import jobs, registry, results, revision
from mechocl.analyses.inputs import STAGES
from mechocl.analyses.registry import ANALYSES, EvaluateConfig
from mechocl.analyses.results import result_key
from mechocl.analyses.subject import Subject, open_subject
from mechocl.errors import MechoclError
from mechocl.features import dictionaries
from mechocl.interventions.circuits import CircuitConfig
from mechocl.interventions.grafting import GraftConfig
from mechocl.interventions.patching import PatchingConfig
from mechocl.lenses.logit_lens import LensConfig
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs.folders import SeedFolder
from mechocl.runs.run import Run


@pytest.fixture
def seed(run: Run) -> SeedFolder:
    return run.seed(1)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ------------------------------------------------------------------------------------------ the subject


def test_subject(seed: SeedFolder) -> None:
    """The last stage's model, with those beside it: loaded when they are asked for, and all different."""
    subject = open_subject(seed, stage=None, device="cpu")
    assert subject.stage == 2
    found = {
        "model": subject.model,
        "after 1": subject.after(1),
        "after 2": subject.after(2),
        "before": subject.before(),
        "untrained": subject.untrained(),
    }
    flat = {name: weights(model) for name, model in found.items()}
    assert torch.equal(flat["model"], flat["after 2"])
    assert torch.equal(flat["before"], flat["after 1"])
    for a, b in (("model", "before"), ("model", "untrained"), ("before", "untrained")):
        assert not torch.equal(flat[a], flat[b])
    assert torch.equal(flat["after 1"], weights(seed.model_at(seed.final(1), device="cpu")))
    assert torch.equal(subject.task.tokens, seed.load_task().tokens)


def test_subject_of_the_first_stage(seed: SeedFolder) -> None:
    subject = open_subject(seed, stage=1, device="cpu")
    assert subject.stage == 1
    assert torch.equal(weights(subject.model), weights(subject.after(1)))
    with pytest.raises(
        MechoclError, match=r"stage 1 has no stage before it.*use a run of two stages"
    ) as raised:
        subject.before()
    assert "\n" not in str(raised.value)


def test_the_untrained_model_is_the_seeds_own(run: Run) -> None:
    """The one that its training began with."""
    first, again, other = (
        weights(open_subject(run.seed(s), stage=None, device="cpu").untrained()) for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("stage", [0, 3, -1])
def test_a_stage_that_is_not_there(seed: SeedFolder, stage: int) -> None:
    with pytest.raises(MechoclError, match=f"stage {stage}: the run has stages 1 to 2"):
        open_subject(seed, stage=None, device="cpu").after(stage)


def test_analyses_get_the_model_before_the_stage(seed: SeedFolder) -> None:
    """Those that compare refuse the first stage."""
    subject = open_subject(seed, stage=1, device="cpu")
    for name in ("graft", "steering", "gradients", "alias-gradients", "one-update"):
        with pytest.raises(MechoclError, match="stage 1 has no stage before it"):
            ANALYSES[name].compute(subject, ANALYSES[name].config())


def test_patching_from_another_stage(seed: SeedFolder) -> None:
    """`from_stage` names the model that activations come from: its own stage is no change at all."""
    subject = open_subject(seed, stage=None, device="cpu")
    shape: dict[str, Any] = {"pairs": ("d1-to-itself",), "n_pairs": 4, "site": ("resid_post",), "by": "all"}
    effects = {
        stage: ANALYSES["patch"]
        .compute(subject, PatchingConfig(**shape, from_stage=stage))
        .rows["effect"]
        .abs()
        .max()
        for stage in (None, 2, 1)
    }
    assert np.isnan([effects[None], effects[2]]).all()  # nothing is exchanged
    assert effects[1] > 1e-3
    with pytest.raises(MechoclError, match="stage 4: the run has stages 1 to 2"):
        ANALYSES["patch"].compute(subject, PatchingConfig(**shape, from_stage=4))


# ------------------------------------------------------------------------------------------ what it depends on


def test_what_a_result_depends_on(seed: SeedFolder, run: Run) -> None:
    """Everything that changes it changes the inputs, and nothing else does."""
    config = LensConfig(aliases_per_subset=5)
    base = result_key(seed, "lens", config, None)
    assert base == result_key(seed, "lens", LensConfig(aliases_per_subset=5), 2)
    others = [
        result_key(seed, "lens", LensConfig(aliases_per_subset=6), None),
        result_key(seed, "lens", config, 1),
        result_key(run.seed(0), "lens", config, None),
    ]
    for other in others:
        assert other != base
    assert base["checkpoints"] == [{"stage": 2, "sha256": seed.final().sha256}]
    assert base["revision"] == ANALYSES["lens"].follow_code(SeedFolder).revision
    assert "version" not in base
    assert "stages" not in base
    assert "pairs" not in base
    assert "dictionaries" not in base


def test_an_edit_of_the_code_has_the_result_computed_again(
    seed: SeedFolder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old rows stay where they are; who reads saved rows does not find them."""
    config = EvaluateConfig()
    results.analyse_seed(run, seed, "evaluate", config, stage=None, device="cpu")
    first = results.load_rows(run, "evaluate", config, seeds=[1])
    assert first is not None
    (record,) = (run.path / "results" / "evaluate").glob("*/result.json")
    assert files.read_json(record)["version"] == mechocl.__version__
    original = revision.read_source

    def edited(module: str) -> str:
        return original(module) + ("\nX = 1\n" if module == "mechocl.behaviour.internalization" else "")

    revision.forget_sources()
    monkeypatch.setattr(revision, "read_source", edited)
    try:
        assert results.load_rows(run, "evaluate", config, seeds=[1]) is None
        again = results.analyse_seed(run, seed, "evaluate", config, stage=None, device="cpu")
    finally:
        revision.forget_sources()
    pd.testing.assert_frame_equal(first, again, check_dtype=False)
    assert len(list((run.path / "results" / "evaluate").iterdir())) == 2


def test_the_content_of_a_probe_recipe_is_part_of_what_a_result_depends_on(
    seed: SeedFolder, tmp_path: Path
) -> None:
    """Also of a recipe that comes with the package and has a name."""
    named = result_key(seed, "probe", ProbingConfig(), None)
    assert list(named["probes"]) == [ProbingConfig().recipe]
    own = tmp_path / "mine.toml"
    own.write_text(tiny.PROBE, encoding="utf-8")
    first = result_key(seed, "probe", ProbingConfig(recipe=str(own)), None)
    own.write_text(tiny.PROBE + "# more\n", encoding="utf-8")
    assert result_key(seed, "probe", ProbingConfig(recipe=str(own)), None) != first


@pytest.mark.parametrize("name", ["patch", "graft", "steering"])
def test_analyses_that_compare_depend_on_all_stages(name: str, seed: SeedFolder) -> None:
    config = ANALYSES[name].config()
    assert result_key(seed, name, config, None)["stages"] == [seed.final(1).sha256, seed.final(2).sha256]


@pytest.mark.parametrize("name", ["gradients", "alias-gradients", "one-update"])
def test_analyses_that_follow_a_stage_depend_on_all_that_is_kept_of_it(name: str, seed: SeedFolder) -> None:
    config = ANALYSES[name].config()
    kept = [one.sha256 for one in seed.checkpoints() if one.stage == 2]
    assert len(kept) == 3
    assert result_key(seed, name, config, None)["course"] == [seed.final(1).sha256, *kept]


class Looked(Exception):
    pass


@pytest.mark.parametrize("name", ANALYSES)
def test_only_what_looks_at_other_stages_compares(name: str, seed: SeedFolder) -> None:
    def after(stage: int) -> Any:
        raise Looked

    subject = replace(
        open_subject(seed, stage=None, device="cpu"),
        after=after,
        dictionary=lambda name, site: dictionary(16),
        rows=lambda name, config: registry.compute(name, subject, config).rows,
        variant=lambda name: subject.model,
    )
    config = PatchingConfig(from_stage=1) if name == "patch" else CONFIGS.get(name) or ANALYSES[name].config()
    with pytest.raises(Looked) if STAGES in ANALYSES[name].inputs else nullcontext():
        registry.compute(name, subject, config)


@pytest.mark.parametrize("name", ["patch", "circuit"])
def test_a_file_of_pairs_is_part_of_what_a_result_depends_on(
    name: str, seed: SeedFolder, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("clean,corrupted,target\n1 2,1 3,1\n")
    config = ANALYSES[name].config(pairs=(str(path), "d1-to-d2"))
    first = result_key(seed, name, config, None)
    assert list(first["pairs"]) == [str(path)]
    assert result_key(seed, name, config, None) == first
    path.write_text("clean,corrupted,target\n1 2,1 4,1\n")
    assert result_key(seed, name, config, None) != first
    path.unlink()
    with pytest.raises(MechoclError, match=r"mine.csv does not exist; give a file that exists"):
        result_key(seed, name, config, None)


def test_the_weights_of_a_dictionary_are_part_of_what_a_result_depends_on(
    seed: SeedFolder, run: Run, tmp_path: Path
) -> None:
    config = CONFIGS["sae-search"]
    with pytest.raises(MechoclError, match="has no SAE 'random' for seed 1"):
        result_key(seed, "sae-search", config, None)
    path = dictionaries.path_of(run.path, "random", seed.seed)
    sae = dictionary(16).sae
    dictionaries.save(sae, path, {})
    first = result_key(seed, "sae-search", config, None)
    assert result_key(seed, "sae-search", config, None) == first
    with torch.no_grad():
        sae.b_enc += 1
    dictionaries.save(sae, path, {})
    with torch.no_grad():
        sae.b_enc -= 1
    assert result_key(seed, "sae-search", config, None) != first


# ------------------------------------------------------------------------------------------ computed once


def test_computed_once_and_read_again(seed: SeedFolder, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PatchingConfig(pairs=("d1-to-d2",), n_pairs=3, site=("resid_pre",))
    rows = results.analyse_seed(run, seed, "patch", config, stage=None, device="cpu")
    assert rows.columns[0] == "seed"
    assert (rows["seed"] == 1).all()

    def refuse(*_: object, **__: object) -> Subject:
        raise AssertionError("computed again")

    monkeypatch.setattr(results, "open_subject", refuse)
    again = results.analyse_seed(run, seed, "patch", config, stage=None, device="cpu")
    pd.testing.assert_frame_equal(rows, again)
    with pytest.raises(AssertionError, match="computed again"):
        results.analyse_seed(run, seed, "patch", config, stage=1, device="cpu")
    with pytest.raises(AssertionError, match="computed again"):
        results.analyse_seed(run, seed, "circuit", CircuitConfig(), stage=None, device="cpu")


def test_load_needs_every_seed(run: Run) -> None:
    config = EvaluateConfig()
    assert results.load_rows(run, "evaluate", config) is None
    tables = []
    for number in (0, 1):
        assert results.load_rows(run, "evaluate", config) is None
        tables.append(
            results.analyse_seed(run, run.seed(number), "evaluate", config, stage=None, device="cpu")
        )
    loaded = results.load_rows(run, "evaluate", config)
    assert loaded is not None
    pd.testing.assert_frame_equal(loaded, pd.concat(tables, ignore_index=True), check_dtype=False)
    assert results.load_rows(run, "evaluate", config, stage=1) is None


def test_a_run_of_one_stage(tmp_path: Path) -> None:
    """Nothing to compare with: one line, and no traceback."""
    recipe = tmp_path / "one.toml"
    whole = tiny.TOML.split("[[training.stages]]")
    recipe.write_text("[[training.stages]]".join(whole[:2]).replace("data = [1]", "data = [1, 2]"))
    from mechocl.runs import recipes

    found = jobs.train_run(
        tmp_path / "run",
        recipes.load_recipe(str(recipe)),
        recipe_name="one",
        seeds=(0,),
        device="cpu",
        jobs=1,
    )
    with pytest.raises(MechoclError, match="stage 1 has no stage before it") as raised:
        results.analyse_seed(found, found.seed(0), "graft", GraftConfig(), stage=None, device="cpu")
    assert "\n" not in str(raised.value)
