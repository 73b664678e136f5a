"""Images of digits, or of other classes, apart for training and for tests.

The embedded images are scikit-learn's 1797 handwritten digits of 8 × 8 pixels (`sklearn.datasets.load_digits`). Others are read from a folder
with the four idx files of MNIST (LeCun et al. 1998) or of Fashion-MNIST, packed with gzip or not. Nothing is downloaded.
"""

import functools
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

CLASSES: Final = 10

_FILES: Final = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_SPLIT: Final = 12345
"""Seed of the order in which the embedded digits are divided, the same for every task."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images of every class, in the order: those for training by class, then those for tests by class."""

    pixels: Float[Tensor, "image side side"]
    """From 0 to 1."""
    train: int
    """Images of each class for training."""
    test: int
    """Images of each class for tests."""

    def draw(
        self, classes: Int[Tensor, "*grid"], *, split: str, draws: torch.Generator
    ) -> Int[Tensor, "*grid"]:
        """Index of a random image of each class, for training or for a test."""
        count, first = (self.train, 0) if split == "train" else (self.test, CLASSES * self.train)
        return first + classes * count + torch.randint(count, classes.shape, generator=draws)

    def class_of(self, index: int) -> int:
        """Class of an image."""
        if index < CLASSES * self.train:
            return index // self.train
        return (index - CLASSES * self.train) // self.test


@functools.lru_cache(maxsize=4)
def load_images(folder: str, train: int, test: int) -> Images:
    """`train` and `test` images of each class; of the embedded digits if `folder` is "".

    Raises ValueError for a folder or a file that is not there or is no idx file, for images that are not square, and where a class has
    too few images.
    """
    both = _embedded() if not folder else {split: _read(Path(folder).expanduser(), split) for split in _FILES}
    if not folder:
        pixels, labels = both["all"]
        parts = [_take(pixels, labels, 0, train, of="scikit-learn's digits"), _take(pixels, labels, train, test, of="scikit-learn's digits")]  # fmt: skip
    else:
        parts = [
            _take(*both["train"], 0, train, of=f"{folder} for training"),
            _take(*both["test"], 0, test, of=f"{folder} for tests"),
        ]
    sizes = {part.shape[1:] for part in parts}
    if len(sizes) > 1 or (size := sizes.pop())[0] != size[1]:
        raise ValueError(f"the images of {folder} are not squares of one size")
    return Images(torch.from_numpy(np.concatenate(parts)).float(), train, test)


def _embedded() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(_SPLIT).permutation(len(digits.target))
    return {"all": (digits.images[order] / 16, digits.target[order])}


def _take(pixels: np.ndarray, labels: np.ndarray, first: int, count: int, *, of: str) -> np.ndarray:
    """`count` images of each class from the `first` on, by class."""
    counts = np.bincount(labels, minlength=CLASSES)
    if counts.min() < first + count:
        raise ValueError(
            f"class {counts.argmin()} has {counts.min()} images in {of}, and {first + count} are wanted; lower train_images or test_images"
        )
    return np.concatenate(
        [pixels[np.flatnonzero(labels == one)[first : first + count]] for one in range(CLASSES)]
    )


def _read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images from 0 to 1, and their classes, of a folder of idx files."""
    images, labels = (_idx(folder, name, dims) for name, dims in zip(_FILES[split], (3, 1), strict=True))
    if len(images) != len(labels):
        raise ValueError(
            f"{folder} has {len(images)} images and {len(labels)} labels for {split}; give files of one set"
        )
    if len(labels) and labels.max() >= CLASSES:
        raise ValueError(
            f"{folder / _FILES[split][1]} has the class {labels.max()}; images of the classes 0 to 9 are read"
        )
    return images / 255, labels


def _idx(folder: Path, name: str, dims: int) -> np.ndarray:
    """The array of an idx file of bytes, packed with gzip or not (the format: http://yann.lecun.com/exdb/mnist)."""
    packed = folder / f"{name}.gz"
    path = packed if packed.exists() else folder / name
    try:
        content = gzip.decompress(path.read_bytes()) if path is packed else path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"there is no {name} or {name}.gz in {folder}; give a folder with the four files of MNIST or Fashion-MNIST"
        ) from None
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    head = 4 + 4 * dims
    shape = tuple(int(n) for n in np.frombuffer(content[4:head], ">u4")) if len(content) >= head else ()
    if content[:4] != bytes((0, 0, 8, dims)) or len(content) != head + int(np.prod(shape)):
        raise ValueError(f"{path} is no idx file of bytes with {dims} dimension{'s' * (dims > 1)}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
