"""Every analysis takes a control run, which lacks the subset that contradicts its definitions, or says why it does not."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from contract import CONFIGS

from mechocl.analyses import jobs, sae_jobs, variant_jobs
from mechocl.analyses.registry import ANALYSES
from mechocl.behaviour.subset_names import subset_named
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.features.settings import TrainingConfig
from mechocl.interventions.patching import PatchingConfig
from mechocl.probing.recipe import load as load_probes, named as probe_recipes
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED

FRACTIONS = "task.fractions={qd1=0.25, qd2=0.25, q_only=0.1, d1=0.1, d2=0.1, d3=0.1, no_data=0.1}"
SAE = TrainingConfig(
    site=("blocks.0.hook_resid_post",), width=(24,), k=4, activations=2000, batch_size=256, buffer=2000
)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = trained("noise", tmp_path_factory.mktemp("noise"))
    sae_jobs.train_dictionaries(run, SAE, seeds=(0,), stage=None, device="cpu", jobs=1)
    variant_jobs.train_variants(run, (EXCHANGED,), jobs=1)
    return run


@pytest.fixture(scope="module")
def unasked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained("unasked", tmp_path_factory.mktemp("unasked"))


def trained(unreliable: str, folder: Path) -> Run:
    recipe = tiny.recipe(folder, f"task.unreliable={unreliable}", "task.aliases=180", FRACTIONS)
    return jobs.train_run(folder / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)


def analysed(run: Run, name: str, config: Any) -> pd.DataFrame:
    return jobs.analyse_run(run, name, config, stage=None, device="cpu", jobs=1)


def config_of(name: str) -> Any:
    """Small settings, with the dictionary of the run."""
    config = CONFIGS.get(name) or ANALYSES[name].config()
    (sae,) = SAE.names(stage=None)
    changes = {"sae": sae} if hasattr(config, "sae") else {}
    changes |= {"n_pairs": 20} if name == "circuit" else {}
    return type(config)(**{f: getattr(config, f) for f in config.__slots__} | changes)


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_takes_a_control_run(noise: Run, name: str) -> None:
    rows = analysed(noise, name, config_of(name))
    assert len(rows)
    for column in ("subset", "clean", "corrupted"):
        if column in rows:
            assert "qd2_inconsistent" not in set(rows[column].astype(str))


@pytest.mark.parametrize("unreliable", ["noise", "unasked"])
def test_the_aliases_of_the_control_have_rows_of_their_own(
    unreliable: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(unreliable)
    found = analysed(run, "evaluate", config_of("evaluate"))
    own = found[found["subset"] == f"d2_{unreliable}"]
    assert len(own) == 45
    assert own["recall"].notna().all()


@pytest.mark.parametrize("recipe", probe_recipes())
def test_every_probe_recipe_takes_a_control_run(
    noise: Run, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Probes of a tag that compare with contradicted aliases are left out and named. No other aliases take their place."""
    options = ["--permutations", "2", "--no-controls", "--cache-gb", "0", "--device", "cpu"]
    if any(probe.pairs for probe in load_probes(recipe)):
        options += ["--n-pairs", "10"]
    assert cli.main(["probe", str(noise.path), "--recipe", recipe, "--jobs", "1", *options]) == 0
    (table,) = (noise.path / "probes").glob(f"{recipe}*/table.parquet")
    rows = pd.read_parquet(table)
    expected = {
        "definition-retrieval": ["tag-stage-1"],
        "recency": ["tag-both-stages"],
        "reliability-at-definition": ["reliability-stage-1", "truth-stage-1"],
    }
    left_out = expected.get(recipe, [])
    assert set(rows["probe"]) == {probe.name for probe in load_probes(recipe)} - set(left_out)
    assert not {"d2_noise", "d2_unasked"} & set(rows["subset"].dropna())
    said = f"not asked of run: {', '.join(left_out)}; it lacks the subsets that they compare"
    assert (said in capsys.readouterr().out) == bool(left_out)


@pytest.mark.parametrize("unreliable", ["noise", "unasked"])
def test_d2_is_always_that_of_new_aliases(unreliable: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(unreliable)
    task, own = run.seed(0).task, f"d2_{unreliable}"
    assert subset_named(task, "d2") == "d2_consistent"
    assert subset_named(task, own) == own
    assert len(analysed(run, "patch", PatchingConfig(pairs=(f"d1-to-{own}",), n_pairs=10)))
    with pytest.raises(
        MechoclError, match=f"'qd2' names no subset of the run; use one of qd1_consistent, {own}, "
    ):
        analysed(run, "patch", PatchingConfig(pairs=("qd1-to-qd2",), n_pairs=10))
