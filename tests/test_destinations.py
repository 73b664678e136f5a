"""Errors of libraries' own writers become errors of the operating system, which the command line explains."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disks import files_limited_to
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from mechocl.destinations import written_by_library

WRITERS: dict[str, Callable[[Path], None]] = {
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
    "tokenizers": lambda path: Tokenizer(models.WordLevel({"w" * i: i for i in range(1, 900)})).save(
        str(path)
    ),
    "Python": lambda path: path.write_text("x" * 100_000) and None,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_that_is_refused_is_an_error_of_the_system(tmp_path: Path, writer: str) -> None:
    WRITERS[writer](tmp_path / "whole")
    refused = pytest.raises(OSError, match="File too large")
    with files_limited_to(10_000), refused as caught, written_by_library(tmp_path / "model"):
        WRITERS[writer](tmp_path / "part")
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename in (str(tmp_path / "model"), str(tmp_path / "part"))


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError), written_by_library(tmp_path):
        raise KeyError("os")
    with pytest.raises(OSError, match="full") as caught, written_by_library(tmp_path):
        raise OSError(errno.ENOSPC, "full", "their file")
    assert caught.value.filename == "their file"
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught, written_by_library(tmp_path):
        raise Exception("No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
