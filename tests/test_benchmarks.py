"""The benchmarks measure what they say and their page is the one that their results give. No timing here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# ruff: noqa: E402 (the scripts are run from their folder, and find one another there)
sys.path.insert(0, str(BENCHMARKS))

import demo
import measuring
import plain_gpt
import task_building
import training_step
import write_docs

from mechocl import recipes

SMALL = ("task.aliases=80", "task.integers=20", "task.list_length=3", "training.stages.0.optimizer=adamw")
TINY_MODEL = ("model.n_layers=2", "model.d_model=32", "model.n_heads=2", "model.d_mlp=64")
CASES = tuple(
    training_step.Case(
        name=f"tiny {recipe}",
        recipe=recipe,
        changes=(*SMALL, *TINY_MODEL),
        batch_size=16,
        gpu_batch_size=16,
        steps=1,
        rounds=1,
        fast_rounds=1,
    )
    for recipe in ("integer-set/cpu", "integer-set/paper")  # tied without positions; untied, rotary, parallel
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "CASES", CASES)


@pytest.mark.parametrize("script", ["training_step", "task_building", "demo", "write_docs"])
def test_help_names_the_options_and_exits_0(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = {
        "training_step": training_step,
        "task_building": task_building,
        "demo": demo,
        "write_docs": write_docs,
    }[script]
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert script == "write_docs" or "--record" in capsys.readouterr().out


def test_a_script_starts_from_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "write_docs.py", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_is_what_the_results_give() -> None:
    assert write_docs.PAGE.read_text(encoding="utf-8") == write_docs.page(measuring.read())


def test_the_page_names_what_was_never_measured_and_how_to() -> None:
    page = write_docs.page([])
    for section in write_docs.SECTIONS:
        for expected in section.expected:
            assert f"not measured |  |  |  |  | `{expected.command}`" in page
    with pytest.raises(ValueError, match="'weather'"):
        write_docs.page([{"benchmark": "weather"}])


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


def test_the_sides_of_a_training_step_agree(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    """At the first weights and after two steps: gradients and optimiser agree, not only the forward pass."""
    assert training_step.main(["--fast", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("losses agree at the same weights") == len(CASES)
    assert printed.count("losses agree after 2 steps") == len(CASES)
    lines = [json.loads(line) for line in printed.splitlines()[-len(CASES) :]]
    assert [line["case"] for line in lines] == [f"{case.name}, batch 16" for case in CASES]


@pytest.mark.parametrize("name", ["blocks.1.attention.qkv.bias", "ln_final.weight", "embed.weight"])
def test_a_training_step_with_other_weights_is_not_timed(
    tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    copied = plain_gpt.copy_weights

    def perturbed(plain: plain_gpt.PlainGPT, model: object) -> None:
        copied(plain, model)
        with torch.no_grad():
            plain.get_parameter(name).view(-1)[::7].add_(0.5)

    monkeypatch.setattr(plain_gpt, "copy_weights", perturbed)
    assert training_step.main(["--fast", "--device", "cpu"]) == 1
    assert "losses at the same weights differ" in capsys.readouterr().err


def test_a_training_step_with_another_optimiser_is_not_timed(
    tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = training_step.Side.step

    def half(self: training_step.Side) -> None:
        self.optimizer.param_groups[0]["lr"] /= 2
        step(self)

    monkeypatch.setattr(training_step.Side, "step", half)
    assert training_step.main(["--fast", "--device", "cpu"]) == 1
    assert "losses after 2 steps differ" in capsys.readouterr().err


def test_a_missing_gpu_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_step.main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_both_builders_keep_the_protocol_and_a_wrong_answer_is_seen() -> None:
    config = recipes.load("integer-set/paper", ("task.aliases=60",)).task
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


def test_memory_of_a_command_counts_its_children() -> None:
    if demo.tree_mib(1) is None:
        pytest.skip("no /proc")
    child = "x = b'1' * 60_000_000; import time; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    watched = demo.watch([sys.executable, "-c", parent])
    assert watched.returncode == 0
    assert watched.peak_mib is not None
    assert 60 < watched.peak_mib < 200
