"""Writes are whole or not at all, and what was altered is not read."""

import contextlib
import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from disks import files_limited_to

from mechocl import files, ledgers
from mechocl.errors import MechoclError

BIG = 20_000
"""Bytes that each of the writers below writes at least."""

WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: files.write_text(path, "x" * BIG),
    "json": lambda path: files.write_json(path, {"numbers": list(range(BIG))}),
    "tensors": lambda path: files.write_tensors(path, {"a": torch.zeros(BIG)}, {}),
    "table": lambda path: files.write_table(path, pd.DataFrame({"a": torch.rand(BIG).numpy()})),
}


def assert_only(folder: Path, content: dict[str, bytes]) -> None:
    """The folder holds exactly these files."""
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == content


def failing(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_the_system_refuses_leaves_the_old_file(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files_limited_to(BIG // 2), pytest.raises(OSError, match="File too large") as caught:
        WRITERS[writer](path)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert_only(tmp_path, {"file": b"old"})


@pytest.mark.parametrize(("call", "code"), [("fsync", errno.ENOSPC), ("replace", errno.EROFS)])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_or_read_only_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, call: str, code: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        WRITERS[writer](path)
    assert (caught.value.errno, caught.value.filename) == (code, str(path))
    assert_only(tmp_path, {"file": b"old"})


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_replaces_the_old_file_and_makes_folders(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "new" / "folder" / "file"
    WRITERS[writer](path)
    files.write_text(path, "old")
    WRITERS[writer](path)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.stat().st_size >= BIG
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["file", "file.tmp", ".hidden", "deeper/file"]
    for name in [*kept, ".manifest.json.x2_y.tmp", "deeper/.final.safetensors.abc.tmp"]:
        files.write_text(tmp_path / name, "")
    files.remove_temporary(tmp_path)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == set(kept)


def test_what_a_living_process_fills_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process sweeps in the middle of a write, and between the making of the temporary file and its lock."""
    sweep = [sys.executable, "-c", "import sys; from pathlib import Path; from mechocl import files; "
             f"files.remove_temporary(Path({str(tmp_path)!r}))"]  # fmt: skip
    monkeypatch.setattr(os, "fsync", lambda handle: subprocess.run(sweep, check=True))
    files.write_text(tmp_path / "a", "whole")
    monkeypatch.undo()
    assert_only(tmp_path, {"a": b"whole"})
    with files.new_folder(tmp_path / "folder") as made:
        (made / "b").write_text("whole")
        subprocess.run(sweep, check=True)
    assert (tmp_path / "folder" / "b").read_text() == "whole"
    original, swept = files.tempfile.mkstemp, []

    def swept_at_once(**options: Any) -> tuple[int, str]:
        made = original(**options)
        if not swept:
            os.unlink(made[1])
            swept.append(made[1])
        return made

    monkeypatch.setattr(files.tempfile, "mkstemp", swept_at_once)
    files.write_text(tmp_path / "a", "again")
    assert swept
    assert (tmp_path / "a").read_text() == "again"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "folder"]


def test_a_killed_write_leaves_what_the_next_sweep_removes(tmp_path: Path) -> None:
    """The process dies in the middle of a file, and in the middle of a folder."""
    for fill in (
        "files.write_text(there / 'a', 'x')",
        "held = files.new_folder(there / 'f'); held.__enter__(); os.fsync(0)",
    ):
        script = (
            "import os; from pathlib import Path; from mechocl import files; os.fsync = lambda handle: os._exit(9); "
            f"there = Path({str(tmp_path)!r}); {fill}"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert len([p for p in tmp_path.iterdir() if files.is_temporary(p)]) == 2
    files.remove_temporary(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_filled_to_the_end_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").touch()
    with contextlib.suppress(KeyError), files.new_folder(tmp_path / "f") as made:
        (made / "new").touch()
        raise KeyError
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["f", "f/old"]
    with files.new_folder(tmp_path / "f") as made:
        (made / "new").touch()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["f", "f/new"]


@pytest.mark.parametrize("writer", ["json", "tensors", "table"])
def test_the_same_content_is_the_same_bytes_with_its_checksum_in_it(tmp_path: Path, writer: str) -> None:
    torch.manual_seed(0)
    values = {"a": torch.rand(50)}
    writers: dict[str, Callable[[Path], None]] = {
        "json": lambda path: files.write_json(path, {"a": values["a"].tolist()}),
        "tensors": lambda path: files.write_tensors(path, values, {"step": "3", "of": "5", "more": "x"}),
        "table": lambda path: files.write_table(path, pd.DataFrame({"a": values["a"].numpy()})),
    }
    for name in "ab":
        writers[writer](tmp_path / name)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    mark = b"sha256-with-zeros-here:"
    start = content.index(mark) + len(mark)
    digest = hashlib.sha256(content[:start] + b"0" * 64 + content[start + 64 :]).hexdigest()
    assert content[start : start + 64] == digest.encode()


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensors = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "mask": torch.tensor([True, False]),
    }
    files.write_tensors(path, tensors, {"step": "3"})
    found, metadata = files.read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert metadata == files.read_metadata(path) == {"step": "3"}


@pytest.mark.parametrize("length", [0, 1, 7, 8, 30, 100, 200])
def test_a_truncated_tensor_file_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "file.safetensors"
    files.write_tensors(path, {"a": torch.arange(64.0)}, {"step": "3"})
    assert path.stat().st_size > length
    path.write_bytes(path.read_bytes()[:length])
    for read in (files.read_tensors, files.read_metadata):
        with pytest.raises(MechoclError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} is damaged")


def test_a_missing_tensor_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match=r"final\.safetensors is missing; restore it"):
        files.read_tensors(tmp_path / "final.safetensors")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(MechoclError) as caught:
        files.read_json(path)
    assert str(caught.value).startswith(f"{path} is damaged")
    assert "\n" not in str(caught.value)


def test_a_ledger_returns_what_was_recorded(tmp_path: Path) -> None:
    ledger = ledgers.Ledger(tmp_path)
    assert ledger.entries() == {}
    files.write_text(tmp_path / "a", "abc")
    assert "a" not in ledger
    ledger.record("a")
    assert "a" in ledger
    assert ledger.checked("a") == tmp_path / "a"
    # of "abc", from FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert ledgers.Ledger(tmp_path).entries() == files.read_json(tmp_path / "checksums.json") == {"a": digest}
    ledger.forget("a")
    assert "a" not in ledger
    assert [p.name for p in tmp_path.iterdir()] == ["checksums.json"]
    assert ledgers.Ledger(tmp_path).entries() == {}


@pytest.mark.parametrize("content", [b"abcd", b"abcdeF", b"abcdefg", b""])
def test_an_altered_file_is_named_and_refused(tmp_path: Path, content: bytes) -> None:
    ledger = ledgers.Ledger(tmp_path)
    files.write_text(tmp_path / "a", "abcdef")
    ledger.record("a")
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(MechoclError, match="does not match its checksum") as caught:
        ledger.checked("a")
    assert str(tmp_path / "a") in str(caught.value)


def test_a_missing_and_an_unrecorded_file_are_named(tmp_path: Path) -> None:
    ledger = ledgers.Ledger(tmp_path)
    files.write_text(tmp_path / "recorded", "")
    files.write_text(tmp_path / "unrecorded", "")
    ledger.record("recorded")
    (tmp_path / "recorded").unlink()
    for name in ("recorded", "unrecorded"):
        with pytest.raises(MechoclError, match=f"{name} is missing or unfinished"):
            ledger.checked(name)


@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_a_damaged_ledger_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "checksums.json").write_text(content)
    with pytest.raises(MechoclError, match=r"checksums\.json is damaged"):
        ledgers.Ledger(tmp_path).entries()


def test_a_lock_is_held_by_one_and_released(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    with files.locked(lock, patience=0.0):
        for patience in (0.0, 0.2):
            with (
                pytest.raises(MechoclError, match="folder is being written by another process; wait"),
                files.locked(lock, patience=patience),
            ):
                pass
    with files.locked(lock, patience=0.0):
        pass


def test_a_fingerprint_depends_on_the_values_alone() -> None:
    assert files.fingerprint({"a": 1, "b": [1, 2]}) == files.fingerprint({"b": (1, 2), "a": 1})
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": 2})
    # sha256 of "{}" begins so: the names of folders must not change between versions
    assert files.fingerprint({}) == "44136fa355b3"
