"""The memory that this machine has, and what cannot fit into it: refused before anything is built."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from mechocl.errors import MechoclError

_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")
"""The limit of a container's memory in bytes, or the word max."""


def machine_memory() -> int:
    """Bytes of memory that this machine has, those of its GPUs included; in a container, those that it may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _CGROUP.exists() and (limit := _CGROUP.read_text().strip()).isdecimal():
        memory = min(memory, int(limit))
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return memory + sum(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus)


def require_memory(needed: Mapping[str, int | float], *, of: str) -> None:
    """Raise MechoclError where something needs more memory than the machine has.

    `needed` is in bytes, by parts; the name of a part says which settings it grows with. `of` says what needs it.
    """
    total, there = sum(needed.values()), machine_memory()
    if total > there:
        largest = max(needed, key=lambda part: needed[part])
        raise MechoclError(
            f"{of} needs about {in_words(total)} of memory, and this machine has {in_words(there)}; "
            f"most is for the {largest}: use less of these"
        )


def in_words(count: int | float) -> str:
    """A number of bytes in words, such as `3.2 GB`."""
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} EB"
