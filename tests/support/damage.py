"""Damage to files, and files as versions before the checksums wrote them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from safetensors import safe_open
from safetensors.torch import save_file

from mechocl import files, ledgers


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The content with one bit flipped, or cut off, at several places: what was done, and what is left."""
    last = len(content) - 1
    for place in sorted({last * n // 10 for n in range(11)}):
        flipped = bytearray(content)
        flipped[place] ^= 4
        yield f"bit {place * 8 + 2} flipped", bytes(flipped)
    for kept in sorted({0, len(content) // 2, last}):
        yield f"cut off after {kept} bytes", content[:kept]


def strip_checksums(folder: Path) -> None:
    """Write every file of a tree as a version before the checksums did, with the records of their sha256 corrected."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        if path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("checksum", None):
                path.write_text(json.dumps(value), encoding="utf-8")
        elif path.suffix == ".parquet":
            pd.read_parquet(path).to_parquet(path, index=False)
        elif path.suffix == ".safetensors" and "saes" not in path.parts:
            with safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {}).get("mechocl", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata.pop("checksum", None)
            save_file(tensors, path, metadata=metadata)
    for path in paths:
        if path.name == "result.json":
            value = json.loads(path.read_text(encoding="utf-8"))
            for key, name in (("sha256", "rows.parquet"), ("arrays_sha256", "arrays.safetensors")):
                if key in value:
                    value[key] = files.sha256(path.parent / name)
            path.write_text(json.dumps(value), encoding="utf-8")
    for path in paths:
        if path.name == ledgers.LEDGER:
            names = json.loads(path.read_text(encoding="utf-8"))
            there = [name for name in names if (path.parent / name).is_file()]
            path.write_text(json.dumps({name: files.sha256(path.parent / name) for name in there}))
