"""Runs of a world of pictures: they are trained, resumed, judged and reported, and what needs a transformer says so in one line."""

from pathlib import Path

import grids
import pytest
import torch

import mechocl
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.models.components import take_apart
from mechocl.runs import recipes
from mechocl.runs.run import Run
from mechocl.runs.train_toy import train_stack
from toy_models import digit_images

HERE = ["--device", "cpu", "--jobs", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("grids")
    (folder / "grids.toml").write_text(grids.TOML)
    assert (
        cli.main(["train", str(folder / "grids.toml"), "--out", str(folder / "run"), "--seeds", "2", *HERE])
        == 0
    )
    return Run.open(folder / "run")


def test_the_recipe_comes_back(run: Run) -> None:
    assert isinstance(run.recipe, recipes.ConvNetRecipe)
    assert run.manifest["recipe"]["model"] == {"channels": [4, 8], "hidden": [24], "d_model": 8}
    assert recipes.parse(run.manifest["recipe"], source="") == run.recipe


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("model.n_heads=2", "unknown key 'model.n_heads'"),
        ("model.chanels=[2]", "unknown key 'model.chanels'; did you mean 'model.channels'"),
        ("model.hidden=[0]", "hidden is \\[0\\]"),
        ("training.stages.1.trains=embeddings", "training.stages.1.trains is embeddings, and a ConvNet has no token embeddings"),
        ("task.integers=3", "unknown key 'task.integers'"),
        ("task.images=/nowhere", "there is no train-images-idx3-ubyte or .* in /nowhere"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(tmp_path: Path, change: str, says: str) -> None:
    (tmp_path / "grids.toml").write_text(grids.TOML)
    with pytest.raises(MechoclError, match=says):
        mechocl.train(str(tmp_path / "grids.toml"), tmp_path / "run", changes=[change], device="cpu", jobs=1)


def test_what_is_saved_answers_as_what_was_trained(run: Run) -> None:
    seed = run.seed(0)
    rows = mechocl.analyse_run(run, "evaluate", device="cpu", jobs=1)
    own = rows[rows["seed"] == 0].drop(columns="seed").reset_index(drop=True)
    assert own.equals(mechocl.per_alias(seed.model_at(seed.final(), device="cpu"), seed.task))
    means = mechocl.by_subset(own).set_index("subset")
    last = seed.history().query("stage == 2").groupby("subset").tail(1).set_index("subset")
    for name in means.index:
        assert last.loc[name, "accuracy"] == pytest.approx(means.loc[name, "accuracy"])


def test_accuracy_and_recall_by_hand(run: Run) -> None:
    seed = run.seed(1)
    model, task = seed.model_at(seed.final(), device="cpu"), seed.task
    cells = grids.CONFIG.cells
    with torch.no_grad():
        chosen = model(task.tokens)[:, cells + 1 : -1, 1:].argmax(-1) + 1
    right = (chosen == task.tokens[:, cells + 2 :]).double()
    found = mechocl.per_alias(model, task).set_index("alias")
    for alias in (0, 7, 21):
        asked = task.rows(kind="question", split="test", alias=alias)
        cell = torch.tensor(task.table["cell"].to_numpy()[asked])
        assert found.loc[alias, "accuracy"] == pytest.approx(
            float(right[asked].gather(1, cell[:, None]).mean())
        )
    labels = model(task.tokens)[:, cells + 1 : -1, 1 : 1 + grids.CONFIG.labels].argmax(-1) + 1
    for row in task.rows(kind="definition"):
        share = float((labels[row] == task.tokens[row, cells + 2 :]).double().mean())
        assert found.loc[task.table["alias"].iloc[row], "recall"] == pytest.approx(share)


def test_a_killed_run_ends_with_the_same_bits(run: Run, tmp_path: Path) -> None:
    """It goes on from the resume point that is written after every step."""
    other = tmp_path / "run"
    command = [
        "train",
        str(run.path.parent / "grids.toml"),
        "--out",
        str(other),
        "--seeds",
        "2",
        *HERE,
        "--save-every",
        "0",
    ]

    class Killed(Exception):
        pass

    def stop(text: str, share: float) -> None:
        if "step 3" in text:
            raise Killed

    begun = Run.create(
        other, run.recipe, recipe_name="grids", seeds=(0, 1), device="cpu", threads=1, together=2
    )
    (stack,) = begun.stacks()
    with pytest.raises(Killed):
        train_stack(begun, stack, device="cpu", save_every_s=0.0, progress=stop)
    assert list(stack.path.glob("state-1-*"))
    assert cli.main(command) == 0
    again = Run.open(other)
    assert len(run.stacks()) == len(again.stacks()) == 1
    for seed in (0, 1):
        assert again.seed(seed).final().sha256 == run.seed(seed).final().sha256


REFUSED = [
    "lens",
    "circuit",
    "subspace",
    "gradients",
    "share",
    "sae train",
    "variants",
    "twins",
    "crosscoder",
]


@pytest.mark.parametrize("command", REFUSED)
def test_what_needs_a_transformer_says_so(run: Run, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--site", "blocks.0.hook_resid_post"] if command.startswith(("sae", "cross")) else []
    code = cli.main([*command.split(), str(run.path), *options])
    lines = [line for line in capsys.readouterr().err.splitlines() if "ConvNets" in line]
    assert code != 0
    assert len(lines) == 1
    assert f"the models of {run.path} are ConvNets" in lines[0]
    assert "evaluate, dynamics, graft, patch, probe, controls, verdict and report" in lines[0]


@pytest.mark.parametrize("command", ["evaluate", "dynamics", "graft", "patch", "report", "verdict"])
def test_what_it_names_works(run: Run, command: str, tmp_path: Path) -> None:
    options = [] if command == "dynamics" else HERE
    out = ["--out", str(tmp_path / "report.html")] if command == "report" else []
    assert cli.main([command, str(run.path), *options, *out]) == 0


def test_a_model_alone_is_refused_by_name(run: Run) -> None:
    model = run.seed(0).model_at(run.seed(0).final(), device="cpu")
    with pytest.raises(MechoclError, match="of transformers, and a HookedConvNet has no attention"):
        take_apart(model)


def test_other_images_are_refused_where_weights_are_opened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = run.seed(0)
    seed.model_at(seed.final(), device="cpu")
    real = digit_images._embedded()["all"]
    monkeypatch.setattr(digit_images, "_embedded", lambda: {"all": (1 - real[0], real[1])})
    digit_images.load_images.cache_clear()
    with pytest.raises(MechoclError, match=r"final.safetensors: the weights were trained on other images"):
        seed.model_at(seed.final(), device="cpu")
    digit_images.load_images.cache_clear()
