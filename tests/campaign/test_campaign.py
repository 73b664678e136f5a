"""A part of the campaign, and that its own judgement can fail."""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from campaign import bad_inputs, children, interrupted, plan
from campaign.children import Ended
from campaign.outcomes import GOOD, OUTCOMES, Case, Outcome, ending, table
from campaign.plan import Planned
from campaign.same import differences
from campaign.worlds import WRITERS, Trees
from docs.write import reliability
from mechocl.commands import cli

COMMANDS: Final = [
    Planned("kill", "train", 0),
    Planned("kill", "train", 1),
    Planned("kill", "sweep", 0),
    Planned("kill", "patch", 0),
    Planned("disk full at a write", "train", 3),
    Planned("disk full at a write", "sweep", 1),
    Planned("two processes", "train", 0),
    Planned("file: flip", "sweep: table.parquet", 0),
]
"""Attacks that take seconds. The whole campaign has many more of each kind."""

EVERY: Final = 61
"""Of the wrong inputs every so-manieth is given here."""


Apart = Callable[..., Any]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """Calls a function of trees in a process of its own.

    It forks, and a child would wait for ever for the threads that other tests have started in this process.
    """
    folder = tmp_path_factory.mktemp("campaign")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=children.import_everything) as pool:

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            return pool.submit(function, Trees(folder), *arguments).result(timeout=900)

        yield call
    shutil.rmtree(folder)


@pytest.mark.parametrize("planned", COMMANDS, ids=lambda p: f"{p.kind}, {p.what}, {p.number}")
def test_an_attack_is_survived(planned: Planned, apart: Apart) -> None:
    case = apart(plan.attempt, planned)
    assert case.outcome in GOOD, case


def test_wrong_inputs_get_one_line(apart: Apart) -> None:
    found = list(bad_inputs.every())
    assert len(found) > 300
    came = [apart(bad_inputs.give_at, place) for place in range(0, len(found), EVERY)]
    assert [one for one in came if one[0] not in GOOD] == []


def test_every_command_is_attacked() -> None:
    """Each is given wrong inputs; each that writes is killed."""
    assert set(bad_inputs.CALLS) == set(cli.COMMANDS)
    written = {" ".join(writer.command) for writer in WRITERS.values()}
    only_read = {"runs", "serve", "completion", "data cvdb", "data trex"}
    assert {name for name in cli.COMMANDS if not any(w.startswith(name) for w in written)} == only_read


# the judgement itself ------------------------------------------------------------------------------


def ended(err: str, code: int = 2, out: str = "") -> Ended:
    return Ended(("train",), code, out, err, 0.1)


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        (ended("", 0), None),
        (ended("training: seed 0\nmechocl: x is wrong; give y\n"), "named"),
        (ended("x.py:3: UserWarning: odd\n  warn()\nmechocl: x is wrong; give y\n"), "named"),
        (ended("mechocl: x\nmechocl: y\n"), "unclear"),
        (ended("x is wrong"), "unclear"),
        (ended("", -11), "unclear"),
        (ended("╭─ Required options ─╮"), "box"),
        (ended("Traceback (most recent call last):\nValueError: x", 1), "traceback"),
        (ended("Traceback (most recent call last):\nValueError: x", 0), "traceback"),
    ],
)
def test_how_an_end_is_judged(how: Ended, outcome: str | None) -> None:
    assert ending(how) == outcome


def test_differences_are_seen(apart: Apart, tmp_path: Path) -> None:
    like, tree = apart(Trees.after, "train"), tmp_path / "tree"
    shutil.copytree(like, tree)
    assert differences(tree, like) == []
    manifest = tree / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"created": "2', '"created": "3'))
    assert differences(tree, like) == []
    manifest.write_text(manifest.read_text().replace("nano", "micro"))
    (tree / "run" / "seed-0" / ".task.parquet.abc.tmp").touch()
    (tree / "run" / "seed-1" / "stage-1" / "history.parquet").unlink()
    weights = tree / "run" / "seed-1" / "stage-2" / "final.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert differences(tree, like) == [
        "run/seed-1/stage-1/history.parquet is missing",
        "run/seed-0/.task.parquet.abc.tmp is left over",
        "run/manifest.json differs",
        "run/seed-1/stage-2/final.safetensors differs",
    ]


def test_a_mistake_that_is_taken_is_silent(apart: Apart) -> None:
    assert apart(bad_inputs.give_words, ("runs", "."), True)[0] == "silent"
    assert apart(bad_inputs.give_words, ("runs", "."), False)[0] == "identical"


def with_another_recipe(trees: Trees) -> Outcome:
    """A sweep, begun by hand with another learning rate, as if the command had made it."""
    trees.restore(trees.before("sweep"))
    command = [*WRITERS["sweep"].command, "--set", "training.stages.1.learning_rate=0.2"]
    assert trees.run(command).code == 0
    return interrupted.again(trees, "sweep", "")[0]


def with_a_file_left_over(trees: Trees) -> tuple[Outcome, str]:
    trees.restore(trees.after("sweep"))
    (trees.work / "sweep" / "other.txt").touch()
    return interrupted.again(trees, "sweep", "")


def test_another_result_after_a_kill_is_seen(apart: Apart) -> None:
    assert apart(with_another_recipe) == "dead end"
    assert apart(with_a_file_left_over) == ("silent", "; then sweep/other.txt is left over")


def sleeping(trees: Trees) -> Ended:
    trees.restore(trees.inputs())
    return trees.run(("runs", "."), before=lambda: time.sleep(60), limit_s=0.01)


def test_a_process_that_hangs_is_ended(apart: Apart) -> None:
    how = apart(sleeping)
    assert how.too_long
    assert how.code == -9
    assert ending(how) == "unclear"


def test_the_table_counts() -> None:
    cases = [
        Case("kill", "train", 0, "identical", ""),
        Case("kill", "train", 1, "silent", ""),
        Case("input", "words", 0, "named", ""),
    ]
    found = table(cases)
    assert found["tried"].tolist() == [2, 1]
    assert found.set_index("kind").loc["kill", ["identical", "silent", "named"]].tolist() == [1, 1, 0]
    page = reliability.write_page(found)
    assert "| SIGKILL at a random moment of a command; then the same command again |" in page
    assert set(found["kind"]) <= set(reliability.ATTACKS) == set(plan.ATTACKS)
    assert set(reliability.COUNTS) == {"tried", *OUTCOMES}
