"""No altered file of any kind is read in silence: the numbers are the same, or one line names the file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import pandas as pd
import pytest
import torch
import trees

from mechocl import files, seals
from mechocl.errors import MechoclError
from mechocl.runs.run import Run
from toy_models.trainer import TrainingState


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    trees.make(folder)
    return folder


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, TrainingState):
        assert_same((a.tensors, a.step, a.scalars), (b.tensors, b.step, b.scalars))
    else:
        assert a == b


def assert_same_or_named(read: Callable[[Path], Any], folder: Path, whole: Any, path: Path) -> None:
    """Reading gives what it gave before the damage, or one line that names the damaged file."""
    try:
        found = read(folder)
    except MechoclError as error:
        line = str(error)
    else:
        assert_same(found, whole)
        return
    assert str(path) in line
    assert "\n" not in line


@pytest.mark.parametrize("part", trees.READERS)
def test_no_damage_is_read_in_silence(tree: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    read = trees.READERS[part]
    whole = read(tree)
    tried = {kind: path for kind, path in trees.kinds(tree).items() if trees.part_of(kind) == part}
    assert tried
    for path in tried.values():
        content = path.read_bytes()
        for what, left in damage.damages(content):
            path.unlink()  # tensors that were read are views of the old file
            path.write_bytes(left)
            try:
                assert_same_or_named(read, tree, whole, path)
            except Exception as error:
                raise AssertionError(f"{path}, {what}: {error!r}") from error
            finally:
                path.unlink()
                path.write_bytes(content)
    capsys.readouterr()
    assert_same(read(tree), whole)


def test_all_kinds_are_tried(tree: Path) -> None:
    """Whatever is written is in the table of readers."""
    for kind in trees.kinds(tree):
        assert trees.part_of(kind), kind


def test_what_an_older_version_wrote_is_read_with_one_line(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "tree"
    shutil.copytree(tree, old)
    damage.strip_checksums(old)
    shutil.rmtree(old / "run" / "results")  # their keys name the checkpoints' sha256
    shutil.rmtree(old / "run" / "activations")
    capsys.readouterr()
    seals._note_old.cache_clear()
    for _ in range(2):
        for read in (trees.read_run, trees.read_sweeps):
            assert read(old)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "older version" in line] == [
        f"mechocl: {old / name} was written by an older version: its files without checksums are read unchecked"
        for name in ("run", "sweep")
    ]
    pd.testing.assert_frame_equal(trees.read_sweeps(old)[0], trees.read_sweeps(tree)[0])


def test_a_manifest_that_was_edited_is_refused_until_its_checksum_is_removed(
    tree: Path, tmp_path: Path
) -> None:
    shutil.copytree(tree / "run", tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"threads": 1', '"threads": 3'))
    with pytest.raises(
        MechoclError, match=r'restore it, or, if you edited it yourself, remove its line "checksum"$'
    ):
        Run.open(tmp_path / "run")
    lines = [line for line in manifest.read_text().splitlines() if '"checksum"' not in line]
    manifest.write_text("\n".join(lines))
    assert Run.open(tmp_path / "run").manifest["threads"] == 3


@pytest.mark.parametrize("key", [b"checksum", b"sha256-with", b"zeros-here:"])
def test_a_damaged_checksum_is_not_taken_for_an_old_file(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    content = path.read_bytes()
    assert files.read_json(path) == {"a": 1}
    path.write_bytes(content.replace(key, key[:-1] + b"!"))
    with pytest.raises(MechoclError, match="does not match its checksum"):
        files.read_json(path)
