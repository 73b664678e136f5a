"""Arrays as text that a page unpacks: half precision, compressed, base64.

Of each number of 16 bits, first all high bytes stand together and then all low bytes, which compresses better, since neighbours
have the same sign and exponent. Compression is zlib's format, which browsers call "deflate" (`DecompressionStream`).
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Packed:
    """Several arrays in one text."""

    text: str
    """Base64 of the compressed bytes."""
    shapes: dict[str, tuple[int, ...]]
    """Name → shape, in the order in which the arrays stand."""


def pack(arrays: Mapping[str, Float[np.ndarray, "..."]]) -> Packed:
    """Pack arrays in half precision. Numbers beyond ±65504 become infinite, and NaN stays NaN."""
    with np.errstate(over="ignore"):
        halves = [np.ascontiguousarray(array, dtype="<f2").ravel() for array in arrays.values()]
    raw = np.concatenate(halves).view(np.uint8).reshape(-1, 2) if halves else np.zeros((0, 2), np.uint8)
    planes = raw[:, 1].tobytes() + raw[:, 0].tobytes()
    return Packed(
        base64.b64encode(zlib.compress(planes, 9)).decode("ascii"),
        {name: tuple(array.shape) for name, array in arrays.items()},
    )


def unpack(text: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Float[np.ndarray, "..."]]:
    """The arrays of a packed text, as the page reads them. Raises ValueError when the shapes are those of another text."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    if 2 * sum(sizes.values()) != len(planes):
        raise ValueError(f"the text holds {len(planes) // 2} numbers, the shapes {sum(sizes.values())}")
    half = len(planes) // 2
    numbers = np.stack([planes[half:], planes[:half]], 1).reshape(-1).view("<f2")
    found: dict[str, Any] = {}
    start = 0
    for name, shape in shapes.items():
        found[name] = numbers[start : start + sizes[name]].reshape(tuple(shape))
        start += sizes[name]
    return found


def lower_triangles(
    patterns: Float[np.ndarray, "*batch query key"],
) -> Float[np.ndarray, "*batch weight"]:
    """The weights of causal patterns on keys that a query sees, row by row."""
    at = np.tril_indices(patterns.shape[-1])
    found: np.ndarray = patterns[..., at[0], at[1]]
    return found
