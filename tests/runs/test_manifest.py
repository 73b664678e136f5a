"""A manifest is checked in one place: whatever stands in any of its fields, a run opens or says one line."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.runs.listing import list_runs
from mechocl.runs.manifest import check_manifest
from mechocl.runs.run import Run

WRONG: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, math.nan, math.inf, "", "text", "\ud800", [], [[]], [1], [[1]], ["0"],
    {}, {"a": 1}, {"a": math.nan}, {"a": -1.0}, [{}],
]  # fmt: skip
"""Values of every type that JSON has. No field takes most of them."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(
        tmp_path / "run", tiny.recipe(tmp_path), recipe_name="tiny", seeds=(0, 1), device="cpu", threads=1, together=2
    )  # fmt: skip


def write(run: Run, manifest: dict[str, Any]) -> None:
    # plain json, since the project's own writer may refuse what is written here
    import json

    (run.path / "manifest.json").write_text(json.dumps(manifest))


def refusal(manifest: dict[str, Any]) -> str:
    """What is said about a manifest; "" if nothing is wrong with it."""
    try:
        check_manifest(manifest, Path("manifest.json"))
    except MechoclError as error:
        return str(error)
    return ""


def test_every_field_with_every_wrong_value_is_one_line_or_a_run(run: Run) -> None:
    said = {
        (key, repr(value)): refusal(run.manifest | {key: value})
        for key in run.manifest
        for value in WRONG
        if key != "recipe"
    }
    refused = [line for line in said.values() if line]
    assert all(line.startswith(("manifest.json", ". was written by a newer")) for line in refused)
    assert all("\n" not in line and len(line) < 300 for line in refused)
    assert len(refused) > 0.8 * len(said)
    assert refusal(run.manifest) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, "no valid 'threads' (input should be greater than or equal to 1)"),
        ({"threads": -3}, "no valid 'threads'"),
        ({"threads": True}, "no valid 'threads'"),
        ({"stacks": []}, "'stacks' does not hold each of the seeds once"),
        ({"stacks": [[]]}, "no valid 'stacks.0'"),
        ({"stacks": [[0, 1], []]}, "no valid 'stacks.1'"),
        ({"stacks": [[0], [0, 1]]}, "'stacks' does not hold each of the seeds once"),
        ({"seeds": ["zero", "one"]}, "no valid 'seeds.0' (input should be a valid integer)"),
        ({"seeds": []}, "no valid 'seeds'"),
        ({"seeds": [0, 0, 1]}, "no valid 'seeds' (a seed is named twice)"),
        ({"seeds": [-1, 0, 1]}, "no valid 'seeds.0'"),
        ({"device": "abacus"}, "no valid 'device'"),
        ({"packages": {"torch": 2}}, "no valid 'packages.torch'"),
        ({"seconds": {"training": math.inf}}, "no valid 'seconds.training'"),
        ({"created": "yesterday"}, "no valid 'created'"),
        ({"git": {}}, "no valid 'git.commit'"),
    ],
)
def test_a_damaged_field_is_named(run: Run, change: dict[str, Any], message: str) -> None:
    write(run, run.manifest | change)
    with pytest.raises(MechoclError) as caught:
        check_manifest(run.manifest | change, Path("manifest.json"))
    assert message in str(caught.value)
    assert str(caught.value).endswith("; restore it")
    (why,) = list_runs(run.path.parent).unreadable
    assert "manifest.json" in why


def test_every_field_that_is_missing_is_named_and_the_commit_may_be_unknown(run: Run) -> None:
    optional = {"git", "python"}
    for key in run.manifest:
        rest = {k: v for k, v in run.manifest.items() if k != key}
        if key in optional:
            assert check_manifest(rest, Path("x")) == ({"git": None} | rest)
            continue
        with pytest.raises(MechoclError, match="schema" if key == "schema" else f"no valid '{key}'"):
            check_manifest(rest, Path("x"))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", "null", "3", '"text"', "\0", ""]
)
def test_what_is_no_manifest_is_one_line(run: Run, text: str) -> None:
    (run.path / "manifest.json").write_text(text)
    with pytest.raises(MechoclError, match=r"manifest\.json is damaged") as caught:
        Run.open(run.path)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_was_written_is_as_it_was_checked(run: Run) -> None:
    assert check_manifest(run.manifest, Path("x")) == run.manifest
    assert files.read_json(run.path / "manifest.json") == run.manifest
