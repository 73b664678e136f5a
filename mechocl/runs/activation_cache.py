"""Activations on disk: computed once for a checkpoint, and used again only for that checkpoint.

RUN/activations/seed-K/<stage-2-final>/<examples>-<dtype>-<hook point>.safetensors

A file's name holds a hash of the examples' tokens. Its metadata hold the sha256 of the checkpoint that it was made from, and
its own name, so that no file can be taken for another one.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.models import activations
from mechocl.models.seam import Transformer
from mechocl.runs.folders import Checkpoint

Collect = Callable[[Int[Tensor, "example pos"], Sequence[str]], dict[str, Tensor]]
"""A function of examples and hook points: hook point → activations, a tensor with `example` as its first axis."""

Precision = Literal["float32", "float16", "bfloat16"]

FOLDER: Final = "activations"
"""Name of the folder of a run that holds its activations."""


def directly(model: Transformer) -> Collect:
    """A function that computes activations of a model anew each time."""
    return lambda tokens, sites: activations.collect(model, tokens, sites)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationCache:
    """The activations of one run on disk."""

    run: Path
    """Folder of the run."""
    limit_gb: float
    """Most disk space that the run's activations may take, in GB (10⁹ bytes). With 0, nothing is kept."""
    dtype: Precision
    """Precision in which activations are kept. They are returned in float32."""

    @property
    def rounds(self) -> bool:
        """Whether the activations that it gives are rounded: they are kept, and in half precision."""
        return self.limit_gb > 0 and self.dtype != "float32"

    def collect(self, checkpoint: Checkpoint, compute: Collect) -> Collect:
        """A function like `compute`, the one of a checkpoint's model, that reads from the disk what is already there.

        It keeps what it computes. The function raises MechoclError when a file belongs to another checkpoint or is
        damaged, and when the limit would be exceeded.
        """
        if self.limit_gb == 0:
            return compute
        folder = self.run / FOLDER / f"seed-{checkpoint.seed}" / checkpoint.name.removesuffix(".safetensors")

        def cached(tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
            content = str(tuple(tokens.shape)).encode() + tokens.cpu().to(torch.int64).numpy().tobytes()
            examples = hashlib.sha256(content).hexdigest()[:12]
            paths = {site: folder / f"{examples}-{self.dtype}-{site}.safetensors" for site in sites}
            missing = [site for site, path in paths.items() if not path.exists()]
            found = {}
            if missing:
                found = {
                    site: x.to(getattr(torch, self.dtype)) for site, x in compute(tokens, missing).items()
                }
                self._make_room(sum(x.nbytes for x in found.values()))
            for site, x in found.items():
                path = paths[site]
                files.write_tensors(path, {"x": x}, {"checkpoint": checkpoint.sha256, "name": path.name})
            for site, path in paths.items():
                if site not in found:
                    found[site] = _read(path, checkpoint)
            return {site: found[site].float() for site in sites}

        return cached

    def _make_room(self, more: int) -> None:
        """Raise MechoclError when the limit does not allow `more` bytes more."""
        there = size(self.run)
        if there + more > self.limit_gb * 1e9:
            raise MechoclError(
                f"{self.run / FOLDER} holds {there / 1e9:.3g} GB and {more / 1e9:.3g} more are needed, over the "
                f"limit of {self.limit_gb:g}; raise --cache-gb, delete the folder, or keep nothing with --cache-gb 0"
            )


def size(run: Path) -> int:
    """Number of bytes that the activations of a run take on the disk."""
    return sum(path.stat().st_size for path in (run / FOLDER).rglob("*") if path.is_file())


def _read(path: Path, checkpoint: Checkpoint) -> Tensor:
    tensors, meta = files.read_tensors(path, remedy="delete it, and it is computed again")
    if meta.get("checkpoint") != checkpoint.sha256:
        raise MechoclError(
            f"{path} holds activations of another checkpoint than {checkpoint.name} of seed {checkpoint.seed}; "
            "delete it, and it is computed again"
        )
    if meta.get("name", path.name) != path.name:  # what an older version wrote has no name
        raise MechoclError(
            f"{path} holds what belongs into {meta['name']}; delete it, and it is computed again"
        )
    return tensors["x"]
