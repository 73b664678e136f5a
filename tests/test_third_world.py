"""A world that nothing outside a test knows goes through training, the analyses, the commands and the report."""

from collections.abc import Iterator
from pathlib import Path

import colours
import numpy as np
import pandas as pd
import pytest
import torch

from mechocl.analyses.jobs import analyse_run
from mechocl.analyses.registry import ANALYSES
from mechocl.behaviour import internalization
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.features.search import SearchConfig
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.patching import patch_activations
from mechocl.lenses.logit_lens import LensConfig
from mechocl.models import seam
from mechocl.runs import recipes
from mechocl.runs.run import Run
from toy_models.worlds import WORLDS

SAE = ["--site", "blocks.0.hook_resid_post", "--width", "32", "--k", "4", "--activations", "6000"]
HERE = ["--device", "cpu", "--jobs", "1"]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORLDS, "colours", colours.WORLD)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds, trained from a recipe file by the command."""
    folder = tmp_path_factory.mktemp("colours")
    (folder / "colours.toml").write_text(colours.RECIPE)
    command = ["train", str(folder / "colours.toml"), "--out", str(folder / "run"), "--seeds", "2", *HERE]
    assert cli.main(command) == 0
    return Run.open(folder / "run")


def test_the_recipe_is_what_was_written(run: Run) -> None:
    assert isinstance(run.recipe.task, colours.ColoursConfig)
    assert run.manifest["recipe"]["task"]["world"] == "colours"
    assert recipes.parse(run.manifest["recipe"], source="") == run.recipe
    with pytest.raises(MechoclError, match=r"unknown key 'task.aliass'; did you mean 'task.aliases'"):
        recipes.parse(run.manifest["recipe"] | {"task": {"world": "colours", "aliass": 3}}, source="x")


def test_answers_are_judged_by_their_rank(run: Run) -> None:
    """By hand, from the model's own logits; what was trained on is known."""
    folder = run.seed(0)
    model, task = folder.model_at(folder.final(), device="cpu"), folder.load_task()
    rows = task.rows(kind="question", split="test")
    with torch.no_grad():
        logits = model(task.tokens[torch.from_numpy(rows)])[:, 2, list(range(*task.vocabulary.integers))]
    entity = torch.tensor(task.table["entity"].to_numpy()[rows])
    own = logits.gather(1, entity[:, None])
    expected = pd.DataFrame(
        {
            "alias": task.table["alias"].to_numpy()[rows],
            "auc": ((logits < own).sum(1) / 2).numpy(),
            "accuracy": (logits.argmax(1) == entity).numpy().astype(float),
            "logit_difference": (own[:, 0] - logits.gather(1, (entity[:, None] + 1) % 3)[:, 0]).double().numpy(),
        }
    ).groupby("alias").mean()  # fmt: skip
    found = analyse_run(run, "evaluate", ANALYSES["evaluate"].config(), stage=None, device="cpu", jobs=1)
    found = found[found["seed"] == 0].set_index("alias").sort_index()
    for measure in expected.columns:
        np.testing.assert_allclose(found[measure], expected[measure], atol=1e-5)
    means = internalization.by_subset(found.reset_index()).set_index("subset")["accuracy"]
    assert means["qd1_consistent"] > 0.7 > 0.6 > means["no_data"]


def test_patching_everything_gives_the_clean_run_and_its_answer(run: Run) -> None:
    folder = run.seed(0)
    model, task = folder.model_at(folder.final(), device="cpu"), folder.load_task()
    pairs = pairs_named(task, "d1-to-other-d2", n_pairs=20, seed=0)
    shown = task.vocabulary.tokens
    colour = dict(zip(task.table["alias"], task.table["entity"], strict=True))
    for alias, target, corrupted, foil in zip(
        pairs.alias.tolist(),
        pairs.target.tolist(),
        pairs.corrupted[:, 0].tolist(),
        pairs.foil.tolist(),
        strict=True,
    ):
        assert shown[target] == colours.COLOURS[colour[alias]]
        assert shown[foil] == colours.COLOURS[colour[int(shown[corrupted].removeprefix("a"))]]
    result = patch_activations(model, pairs, sites=["resid_post"], metric="logit_difference", by="role")
    last = result.rows[(result.rows["position"] == "=") & (result.rows["layer"] == model.cfg.n_layers - 1)]
    assert float(last["value"].iloc[0]) == pytest.approx(result.clean, abs=1e-5)
    with pytest.raises(MechoclError, match="no question of this world names its entity"):
        pairs_named(task, "d1-with-to-without", n_pairs=5, seed=0)


def test_the_lens_ends_with_the_model(run: Run) -> None:
    rows = analyse_run(run, "lens", LensConfig(of=("stream",)), stage=None, device="cpu", jobs=1)
    top = rows[rows["layer"] == rows["layer"].iloc[-1]]
    assert top["kl"].abs().max() < 1e-5
    assert rows["rank"].between(1, 3).all()


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["lens"],
        ["lens", "--kind", "tuned"],
        ["lens", "--kind", "direct"],
        ["patch", "--n-pairs", "20"],
        ["circuit", "--n-pairs", "10", "--random-circuits", "2"],
        ["graft"],
        ["gradients", "--aliases-per-subset", "6"],
        ["updates", "--aliases-per-subset", "6"],
        ["subspace", "--n-pairs", "40", "--steps", "3"],
    ],
    ids=" ".join,
)
def test_commands_run(run: Run, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command, *options = arguments
    assert cli.main([command, str(run.path), *options, *HERE]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "rows: " in out
    if command == "evaluate":
        assert "above chance" not in out  # three colours that are not equally common have none
        assert "answered better than undefined ones" in out


def test_probes_features_and_the_report(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(run.path)
    assert cli.main(["probe", path, "--permutations", "2", "--n-pairs", "20", "--cache-gb", "0", *HERE]) == 0
    assert cli.main(["sae", "train", path, *SAE, *HERE]) == 0
    (name,) = {folder.name for folder in (run.path / "saes").iterdir()}
    for command in ("search", "test", "dashboard"):
        assert cli.main(["sae", command, path, name, *HERE]) == 0, capsys.readouterr().err
    found = analyse_run(run, "sae-search", SearchConfig(sae=name), stage=None, device="cpu", jobs=1)
    assert {"colour red", "colour blue"} <= set(found["property"])
    assert not found["property"].str.contains("integer").any()
    assert cli.main(["report", path, *HERE]) == 0, capsys.readouterr().err
    page = (run.path / "report.html").read_text()
    for text in ("160 aliases of three colours", "Training on colours", "mean rank<br>(colours)", "it is "):
        assert text.replace("<", "\\u003c") in page, text


@pytest.mark.parametrize("unreliable", ["noise", "unasked", "consistent"])
def test_controls_of_this_world(unreliable: str) -> None:
    """The same aliases and colours as in the experiment. Noise names each colour in some epoch, and nothing else changes."""
    config = colours.ColoursConfig(unreliable=unreliable)
    base, task = (colours.build(c, seed=0) for c in (colours.ColoursConfig(), config))
    subset, before = (t.table.drop_duplicates("alias")["subset"].to_numpy() for t in (task, base))
    own = {"consistent": "qd2_consistent"}.get(unreliable, f"d2_{unreliable}")
    assert (subset[before == "qd2_inconsistent"] == own).all() or unreliable == "consistent"
    assert (
        task.table.drop_duplicates("alias")["entity"].to_numpy()
        == base.table.drop_duplicates("alias")["entity"].to_numpy()
    ).all()
    assert (task.fresh is not None) == (unreliable == "noise")
    if task.fresh is not None:
        rows = task.rows(kind="definition", subset="d2_noise")
        epochs = torch.stack([task.fresh(epoch)[0] for epoch in range(40)])
        # one alias of 40 misses a colour with probability 40 · 3 · (2/3)^40 = 1e-5
        assert all(len(set(named.tolist())) == 3 for named in epochs[:, rows, 3].T)
        others = np.setdiff1d(np.arange(len(task)), rows)
        assert (epochs[:, others] == task.tokens[others]).all()


def test_no_other_module_asks_which_world_it_is_in() -> None:
    """Not by the name of a world, nor by the class of its recipe, folder or questioning."""
    root = Path(seam.__file__).parent.parent.parent
    own = {
        "toy_models": {"integer_set.py", "list_questioning.py", "planted.py", "worlds.py", "task.py"},
        "mechocl": {
            "text_runs.py",
            "text_folders.py",
            "toy_runs.py",
            "recipes.py",
            "run.py",
            "finetune.py",
            "train_toy.py",
            "folders.py",
        },
    }
    asking = (
        "is_text",
        "isinstance(folder",
        "TextSeedFolder)",
        "ListQuestioning)",
        "TextQuestioning)",
        "vocabulary.true",
    )
    for package, files in own.items():
        for file in (root / package).rglob("*.py"):
            if file.name in files or "closed_book" in file.parts:
                continue
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                assert not any(word in line for word in asking), f"{file}, line {number}: {line.strip()}"
