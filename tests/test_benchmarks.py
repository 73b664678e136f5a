"""The benchmarks measure what they say and their page is the one that their results give. No timing here."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# ruff: noqa: E402 (the scripts are run from their folder, and find one another there)
sys.path.insert(0, str(BENCHMARKS))

import demo
import features
import gradients
import hugging_face
import measuring
import patching
import patching_memory
import patching_subject
import probing
import task_building
import training
import training_scaling
import training_whole
import training_work

from docs.write import benchmarks
from mechocl.report import training_plots
from mechocl.runs import recipes
from toy_models import integer_set
from toy_models.architectures import Architecture

SMALL = ("task.aliases=80", "task.integers=20", "task.list_length=3")
TINY_MODEL = ("model.n_layers=2", "model.d_model=32", "model.n_heads=2", "model.d_mlp=64")


def tiny_case(recipe: str, *changes: str) -> training.Case:
    return training.Case(
        name=f"tiny {recipe}",
        recipe=recipe,
        changes=(*SMALL, *TINY_MODEL, "training.precision=float32", *changes),
        device="cpu",
        batch_size=16,
        many=2,
        steps=2,
        rounds=1,
        fast_rounds=1,
    )


TIED, UNTIED = (tiny_case(f"integer-set/{name}") for name in ("cpu", "paper"))  # the latter: rotary, parallel


@pytest.mark.parametrize(
    "script",
    ["training", "task_building", "patching", "probing", "gradients", "features", "demo", "benchmarks"],
)
def test_help_names_the_options_and_exits_0(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = {
        "training": training,
        "task_building": task_building,
        "patching": patching,
        "probing": probing,
        "gradients": gradients,
        "features": features,
        "demo": demo,
        "benchmarks": benchmarks,
    }[script]
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert script == "benchmarks" or "--record" in capsys.readouterr().out


def test_a_script_starts_from_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.write.benchmarks", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=BENCHMARKS.parent,
    )
    assert done.returncode == 0, done.stderr


def unpadded(page: str) -> str:
    """A page whose tables have a single space around each cell."""
    cells = (
        [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        for line in page.splitlines()
    )
    lines = zip(page.splitlines(), cells, strict=True)
    return "\n".join(line if row is None else f"| {' | '.join(row)} |" for line, row in lines)


def test_the_page_is_what_the_results_give() -> None:
    assert benchmarks.PAGE.read_text(encoding="utf-8") == benchmarks.write_page(
        measuring.read(), training_scaling.read()
    )


def test_the_page_names_what_was_never_measured_and_how_to() -> None:
    page = unpadded(benchmarks.write_page([], None))
    for section in benchmarks.SECTIONS:
        for expected in section.expected:
            aim = "" if expected.aim is None else f"aim: at most {expected.aim:.2f}"
            assert f"| {expected.case} |" in page
            assert f"not measured |  | {aim} |  |  | `{expected.command}`" in page
    for axis in training_scaling.AXES:
        assert f"| {axis} |" in page
    with pytest.raises(ValueError, match="'weather'"):
        benchmarks.write_page([{"benchmark": "weather"}], None)


def test_a_result_takes_the_place_of_an_older_one_of_the_same_machine(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    old, elsewhere, other = (
        {"benchmark": "demo", "case": case, "machine": machine, "ratio": ratio}
        for case, machine, ratio in (("4 seeds", "here", 0.9), ("4 seeds", "there", 0.7), ("x", "here", 0.8))
    )
    measuring.write([old, elsewhere, other], path)
    new = old | {"ratio": 0.5}
    measuring.write([new], path)
    assert measuring.read(path) == [new, elsewhere, other]


def test_every_recorded_result_is_whole() -> None:
    for one in measuring.read():
        wanted = {
            "benchmark",
            "case",
            "ratio",
            "ours_s",
            "theirs_s",
            "peak_mib",
            "machine",
            "date",
            "command",
        }
        assert wanted <= one.keys()
        assert one["ratio"] > 0


def test_sides_take_turns_and_each_starts_a_round() -> None:
    order: list[str] = []
    seconds = measuring.in_turns({s: (lambda s=s: order.append(s)) for s in "abc"}, rounds=3)
    assert "".join(order) == "abcbcacab"
    assert {side: len(values) for side, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert measuring.median_ratio([1, 2, 30], [2, 2, 2]) == 1
    assert measuring.in_turns({"own clock": lambda: 7.0}, rounds=2) == {"own clock": [7.0, 7.0]}


def test_the_sides_of_training_agree_and_take_turns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "CASES", (UNTIED,))
    assert training.main(["--fast", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "losses agree at the same weights" in printed
    line = json.loads(printed.splitlines()[-1])
    assert line["case"] == "tiny integer-set/paper, 1 thread"
    assert [side["side"] for side in line["sides"]] == ["ours", "stack of 2", "Trainer"]
    assert all(side["share"] > 0 and side["peak_mib"] > 100 for side in line["sides"])
    ours, stack, theirs = (side["examples_s"] for side in line["sides"])
    assert theirs / ours == pytest.approx(line["ratio"], rel=0.02)  # one round: the median is that one
    assert theirs / stack == pytest.approx(line["many_ratio"], rel=0.02)
    assert line["case"] in benchmarks.write_page([line], None)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, name)
        for case in (TIED, UNTIED)
        for name in (
            "gpt_neox.layers.1.attention.query_key_value.bias",
            "gpt_neox.layers.0.mlp.dense_4h_to_h.weight",
            "gpt_neox.final_layer_norm.weight",
            "gpt_neox.embed_in.weight",
        )
    ],
)
def test_sides_with_the_same_weights_agree_and_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, case: training.Case, name: str
) -> None:
    recipe = recipes.load_recipe(case.recipe, case.changes)
    task, stage = integer_set.build(recipe.task, seed=0), recipe.training.stages[0]
    training.check(recipe, task, stage, device="cpu")
    copied = hugging_face.copy_weights

    def perturbed(theirs: torch.nn.Module, model: object) -> None:
        copied(theirs, model)
        with torch.no_grad():
            theirs.get_parameter(name).view(-1)[::7].add_(0.5)

    monkeypatch.setattr(hugging_face, "copy_weights", perturbed)
    with pytest.raises(training.Disagreement, match="losses differ"):
        training.check(recipe, task, stage, device="cpu")


def test_a_disagreement_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "CASES", (TIED,))
    monkeypatch.setattr(training, "TOLERANCE", -1.0)
    assert training.main(["--fast", "--device", "cpu"]) == 1
    assert "not timed: losses differ" in capsys.readouterr().err


def test_the_trainer_is_told_the_tokens_that_carry_loss() -> None:
    task = integer_set.build(recipes.load_recipe(TIED.recipe, TIED.changes).task, seed=0)
    labels = hugging_face.labels(task)
    carried = labels != hugging_face.IGNORED
    assert torch.equal(carried[:, 1:], task.loss_mask[:, :-1])
    assert not carried[:, 0].any()
    assert torch.equal(labels[carried], task.tokens[carried])


@pytest.mark.parametrize(
    "change", [{"normalization": "none"}, {"positions": "learned"}, {"d_mlp": 0}], ids=lambda c: next(iter(c))
)
def test_a_shape_that_gpt_neox_does_not_have_is_refused(change: dict[str, object]) -> None:
    shape = {"n_layers": 1, "d_model": 8, "n_heads": 1, "d_mlp": 8} | change
    with pytest.raises(ValueError, match="GPT-NeoX has layer norms"):
        hugging_face.build(Architecture(**shape), d_vocab=10, n_ctx=4)


def test_work_is_what_is_counted_by_hand() -> None:
    """One layer, width 2, MLP of 4: 4·2·2 + 2·2·4 = 32 numbers in its matrices.

    A question with two integers is `alias % n n = answer`: with loss on all but the alias, 5 positions are
    read and 5 tokens predicted. 6·32·5 = 960 for the matrices, 12·2·(1 + 2 + 3 + 4 + 5) = 360 for attention.
    A definition is `tag alias % n`: 3 positions are read, and 2 tokens predicted (`%` and the integer).
    6·32·3 = 576, 12·2·6 = 144. Logits are for 8 tokens and 10 integers: 6·2·18 = 216 each.
    """
    fractions = "task.fractions={ qd1 = 1.0, qd2 = 0.0, d1 = 0.0, d2 = 0.0, d3 = 0.0 }"
    sizes = ("aliases=2", "integers=10", "list_length=2", "train_questions=4", "test_questions=2")
    recipe = recipes.load_recipe("integer-set/short", (*(f"task.{size}" for size in sizes), fractions))
    task = integer_set.build(recipe.task, seed=0)
    shape = Architecture(n_layers=1, d_model=2, n_heads=1, d_mlp=4, positions="none")
    question, definition = 960 + 360 + 5 * 216, 576 + 144 + 2 * 216
    assert training_work.matmul_parameters(shape) == 32
    assert training_work.flops_per_example(task, shape, (1,)) == pytest.approx(
        (4 * question + definition) / 5
    )
    assert training_work.model_products(task, shape, (1,), 10) == [(50, 2, 4), (50, 4, 2), (50, 2, 18)]


def test_exponents_of_a_power_law_are_found_and_drawn() -> None:
    law = {"aliases": 1.0, "layers": 0.75, "width": 1.5, "seeds": 0.5}
    rows = [
        (axis, value, 3 * value ** law[axis])
        for axis, values in training_scaling.AXES.items()
        for value in values
    ]
    table = training_scaling.fitted(pd.DataFrame(rows, columns=["axis", "value", "seconds_per_epoch"]))
    assert table.groupby("axis")["exponent"].first().to_dict() == pytest.approx(law)
    np.testing.assert_allclose(table["fitted"], table["seconds_per_epoch"])

    figure = training_plots.scaling(table)
    assert [a.text for a in figure.layout.annotations] == [f"{k}: exponent {v:.2f}" for k, v in law.items()]
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [list(trace.x) for trace in dots] == [list(values) for values in training_scaling.AXES.values()]
    np.testing.assert_allclose(np.concatenate([trace.y for trace in dots]), table["seconds_per_epoch"])

    where = {"threads": 2, "machine": "here", "torch": "2", "date": "today"}
    page = unpadded(benchmarks.write_page([], table.assign(**where)))
    assert "| layers | 1, 2, 4 | 3, 5.05, 8.49 | **0.75** |" in page


def test_scaling_is_measured_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        training_scaling, "AXES", {"aliases": (40, 80), "layers": (1, 2), "width": (8, 16), "seeds": (1, 2)}
    )
    monkeypatch.setattr(training_scaling, "RESULT", tmp_path / "scaling.csv")
    assert training.main(["--scaling", "--fast", "--record", "--device", "cpu"]) == 0
    table = training_scaling.read(tmp_path / "scaling.csv")
    assert table is not None
    assert (table["seconds_per_epoch"] > 0).all()
    assert list(table["axis"].unique()) == list(training_scaling.AXES)
    assert "exponent" in capsys.readouterr().out


def test_whole_recipes_are_not_measured_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--whole", "--record", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("not measured") == len(training_whole.WHOLE)
    assert training_whole.COMMAND in printed


@pytest.mark.parametrize("steps", [3, None], ids=["extrapolated", "every step"])
def test_a_whole_recipe_trains_all_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None
) -> None:
    seen: list[tuple[tuple[int, ...], int]] = []
    train = training_whole.train_stage

    def counted(models, tasks, stage, **options):  # type: ignore[no-untyped-def]
        for moment in train(models, tasks, stage, **options):
            seen.append((stage.data, moment.step))
            yield moment

    monkeypatch.setattr(training_whole, "train_stage", counted)
    recipe = tiny.recipe(tmp_path)
    assert training_whole.seconds(recipe, seeds=2, device="cpu", steps=steps) > 0
    last = dict(seen)
    assert set(last) == {(1,), (2,)}
    if steps:
        assert set(last.values()) == {training_whole.WARM_UP + steps}


def test_a_missing_gpu_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training.main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_both_builders_keep_the_protocol_and_a_wrong_answer_is_seen() -> None:
    config = recipes.load_recipe("integer-set/paper", ("task.aliases=60",)).task
    ours, plain = task_building.ours(config), task_building.plain(config)
    task_building.check(config, ours)
    task_building.check(config, plain)
    task_building.check_alike(ours, plain)

    question = ours.table.index[ours.table["kind"] == "question"][0]
    ours.tokens[question, 2:10] = ours.tokens[question, 2:10].roll(1)  # another order is still right
    task_building.check(config, ours)
    ours.tokens[question, 11] = 7 - ours.tokens[question, 11]  # true ↔ false
    with pytest.raises(task_building.ProtocolBroken, match="answer's token"):
        task_building.check(config, ours)


TINY_PATCHING = dataclasses.replace(
    patching_subject.FAST,
    n_layers=2,
    d_model=16,
    aliases=80,
    pairs=8,
    memory_batches=(8,),
    edge_pairs=4,
    edge_steps=2,
    paths=2,
    rounds=dict.fromkeys([(grid, sort) for grid in patching_subject.GRIDS for sort in ("alias", "apart")], 1),
)


@pytest.fixture
def patching_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    monkeypatch.setattr(patching, "FAST", TINY_PATCHING)
    monkeypatch.setattr(
        patching,
        "memory_of_processes",
        lambda **_: patching_memory.memory_of_grids(TINY_PATCHING, batch_size=8),
    )
    assert patching.main(["--fast"]) == 0
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


def test_grids_of_patches_agree_and_the_worst_ratio_is_the_line_s(patching_line: dict[str, Any]) -> None:
    assert patching_line["benchmark"] == "patching"
    patches = {(case["grid"], case["pairs"]): case["patches"] for case in patching_line["cases"]}
    positions, layers, heads = 11, 2, 2
    assert set(patches) == {(grid, sort) for grid in patching_subject.GRIDS for sort in ("alias", "apart")}
    assert patches["layer × position", "apart"] == layers * positions
    assert patches["heads × positions", "alias"] == layers * positions * heads
    assert all(case["difference"] <= patching.TOLERANCE for case in patching_line["cases"])
    assert patching_line["ratio"] == max(case["ratio"] for case in patching_line["cases"])
    assert patching_line["edges"]["backward_passes"] == patching_line["edges"]["steps"] == 2
    peaks = [row["peak_mib"] for row in patching_line["memory"]]
    assert peaks == sorted(peaks)
    assert patching_line["peak_mib"] == peaks[-1]
    page = unpadded(benchmarks.write_page([patching_line], None))
    for text in ("| layer × position | apart | 22 |", "in one batch: 2 backward passes", "| 8 | neurons"):
        assert text in page


def test_grids_that_differ_and_too_many_backward_passes_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = patching_subject.subject(TINY_PATCHING)
    right = patching.theirs_grid

    def wrong(*given: Any) -> torch.Tensor:
        return right(*given) + 2 * patching.TOLERANCE

    monkeypatch.setattr(patching, "FAST", TINY_PATCHING)
    monkeypatch.setattr(patching, "theirs_grid", wrong)
    assert patching.main(["--fast"]) == 1
    assert "not comparable: layer × position" in capsys.readouterr().err

    gradients = patching.attribute_edges

    def wasteful(*given: Any, **options: Any) -> Any:
        for _ in range(3):
            gradients(*given, **options)
        return gradients(*given, **options)

    monkeypatch.setattr(patching, "attribute_edges", wasteful)
    with pytest.raises(patching.Disagreement, match="8 times in 2 steps"):
        patching.time_edges(made.model, made.pairs["apart"], steps=2, paths=1)


def test_pairs_apart_share_no_token() -> None:
    made = patching_subject.subject(TINY_PATCHING)
    same = {sort: (pairs.clean == pairs.corrupted).float().mean() for sort, pairs in made.pairs.items()}
    assert same["apart"] == 0
    assert same["alias"] == pytest.approx(10 / 11)


def test_memory_of_a_command_counts_its_children() -> None:
    if demo.tree_mib(1) is None:
        pytest.skip("no /proc")
    child = "x = b'1' * 60_000_000; import time; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    watched = demo.watch([sys.executable, "-c", parent])
    assert watched.returncode == 0
    assert watched.peak_mib is not None
    assert 60 < watched.peak_mib < 200


# probing -------------------------------------------------------------------------------------------

TINY_PROBING = probing.Size(name="tiny", n_layers=2, d_model=64, questions=60, list_length=2, rounds=1)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of the probing benchmark tiny, in this process; one of 60 questions is more than half a point."""
    monkeypatch.setattr(probing, "TOLERANCE", 0.02)
    monkeypatch.setattr(probing, "FAST", TINY_PROBING)
    monkeypatch.setattr(probing, "in_a_process", lambda name, **_: probing.side(name, TINY_PROBING))


@pytest.mark.usefixtures("here")
def test_grids_of_probes_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert probing.main(["--fast", "--threads", "1"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["benchmark"] == "probing"
    assert line["places"] == 2 * 5  # layers × alias, %, n1, n2, =
    assert line["difference"] <= probing.TOLERANCE
    assert line["accuracies"][0] < line["accuracies"][1] <= 1
    page = benchmarks.write_page([line | {"theirs_mib": 12, "memory_ratio": 0.25}], None)
    assert "(theirs 12 MiB: ratio 0.25, aim: at most 0.33)" in page


@pytest.mark.usefixtures("here")
def test_grids_of_probes_that_differ_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = probing.theirs
    monkeypatch.setitem(probing.SIDES, "theirs", lambda *given: right(*given) + 2 * probing.TOLERANCE)
    assert probing.main(["--fast", "--threads", "1"]) == 1
    assert "more than 0.02" in capsys.readouterr().err


# features ------------------------------------------------------------------------------------------

TINY_FEATURES = features.Size(name="tiny", activations=2048, buffer=2048, rounds=1, width=48, aliases=100)


@pytest.fixture
def small_dictionaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of the features benchmark tiny, in this process."""
    monkeypatch.setattr(features, "TOLERANCE", 0.2)
    monkeypatch.setattr(features, "FAST", TINY_FEATURES)
    monkeypatch.setattr(features, "in_a_process", lambda name, **_: features.side(name, TINY_FEATURES))


@pytest.mark.usefixtures("small_dictionaries")
def test_dictionaries_explain_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert features.main(["--fast", "--threads", "1"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["benchmark"] == "features"
    assert set(line["explained"]) == {"ours", *features.PROMPTS}
    assert all(rate > 0 for rate in line["activations_s"].values())


@pytest.mark.usefixtures("small_dictionaries")
def test_dictionaries_that_explain_less_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([0.9, 0.9, 0.5])
    monkeypatch.setattr(
        features, "side", lambda name, size: {"seconds": 1.0, "mib": 1.0, "explained": next(values)}
    )
    assert features.main(["--fast", "--threads", "1"]) == 1
    assert "differs by more than 0.2" in capsys.readouterr().err


# gradients -----------------------------------------------------------------------------------------

TINY_GRADIENTS = gradients.Size(name="tiny", per_subset=3, rounds=1, checked=4, aliases=60)


def test_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gradients, "FAST", TINY_GRADIENTS)
    assert gradients.main(["--fast", "--threads", "1"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["benchmark"] == "gradients"
    assert line["aliases"] == 9
    assert 0 < line["difference"] <= gradients.TOLERANCE


def test_gradients_that_differ_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gradients.theirs
    monkeypatch.setattr(gradients, "FAST", TINY_GRADIENTS)
    monkeypatch.setattr(
        gradients, "theirs", lambda s: [[tuple(1.0001 * g for g in one) for one in side] for side in right(s)]
    )
    assert gradients.main(["--fast", "--threads", "1"]) == 1
    assert "the gradients differ by" in capsys.readouterr().err
