"""A part of the campaign, and that its own judgement can fail."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from campaign import bad_inputs, children, interrupted, plan
from campaign.bad_inputs import Bad
from campaign.children import Ended
from campaign.outcomes import GOOD, OUTCOMES, Case, ending, table
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


STANDING: Final = (
    *(f"mechocl.json {key}" for key in ("held_out", "seed", "checkpoint", "sha256", "config")),
    "config.json max_position_embeddings=0",
)
"""Wrong files that are still taken, or shown with a traceback; to be emptied. The whole campaign counts them."""


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trees]:
    children.import_everything()
    folder = tmp_path_factory.mktemp("campaign")
    yield Trees(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("planned", COMMANDS, ids=lambda p: f"{p.kind}, {p.what}, {p.number}")
def test_an_attack_is_survived(planned: Planned, trees: Trees) -> None:
    case = plan.attempt(trees, planned)
    assert case.outcome in GOOD, case


def test_wrong_inputs_get_one_line(trees: Trees) -> None:
    found = list(bad_inputs.every())
    assert len(found) > 300
    came = [bad_inputs.give(trees, bad) for bad in found[::EVERY] if not bad.shown.startswith(STANDING)]
    assert [one for one in came if one[0] not in GOOD] == []


def test_every_command_is_attacked() -> None:
    """Each is given wrong inputs; each that writes is killed."""
    assert set(bad_inputs.CALLS) == set(cli.COMMANDS)
    written = {" ".join(writer.command) for writer in WRITERS.values()}
    only_read = {"runs", "data cvdb", "data trex"}
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


def test_differences_are_seen(trees: Trees, tmp_path: Path) -> None:
    like, tree = trees.after("train"), tmp_path / "tree"
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


def test_a_mistake_that_is_taken_is_silent(trees: Trees) -> None:
    assert bad_inputs.give(trees, Bad("words", ("runs", ".")))[0] == "silent"
    assert bad_inputs.give(trees, Bad("words", ("runs", "."), wrong=False))[0] == "identical"


def test_another_result_after_a_kill_is_silent(trees: Trees) -> None:
    trees.restore(trees.before("sweep"))
    command = [*WRITERS["sweep"].command, "--set", "training.stages.1.learning_rate=0.2"]
    assert trees.run(command).code == 0
    outcome, detail = interrupted.again(trees, "sweep", "")
    assert outcome == "dead end", detail
    trees.restore(trees.after("sweep"))
    (trees.work / "sweep" / "other.txt").touch()
    assert interrupted.again(trees, "sweep", "") == ("silent", "; then sweep/other.txt is left over")


def test_a_process_that_hangs_is_ended(trees: Trees) -> None:
    trees.restore(trees.inputs())
    how = trees.run(("runs", "."), before=lambda: time.sleep(60), limit_s=0.01)
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
