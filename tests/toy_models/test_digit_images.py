"""Images of digits: the embedded ones, and folders of idx files."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from toy_models.digit_images import load_images


def idx(array: np.ndarray) -> bytes:
    return (
        bytes((0, 0, 8, array.ndim))
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


def write(folder: Path, *, side: int = 4, count: int = 30, packed: bool = False) -> Path:
    """A set whose image of class c has the value 10 · c + its number among its class, and 100 more in the test files."""
    folder.mkdir(exist_ok=True)
    labels = np.arange(count) % 10
    for name, more in (("train", 0), ("t10k", 100)):
        values = (10 * labels + np.arange(count) // 10 + more) % 256
        files = {
            f"{name}-images-idx3-ubyte": idx(np.repeat(values, side * side).reshape(count, side, side)),
            f"{name}-labels-idx1-ubyte": idx(labels),
        }
        for file, content in files.items():
            path = folder / (file + ".gz" * packed)
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read(tmp_path: Path, packed: bool) -> None:
    images = load_images(str(write(tmp_path, packed=packed)), 2, 1)
    assert images.pixels.shape == (30, 4, 4)
    train = [10 * c + k for c in range(10) for k in range(2)]
    test = [(10 * c + 100) % 256 for c in range(10)]
    assert (images.pixels[:, 0, 0] * 255).round().int().tolist() == train + test
    assert [images.class_of(i) for i in range(30)] == [i // 2 for i in range(20)] + list(range(10))


def test_the_embedded_digits_have_every_class_and_no_image_twice() -> None:
    images = load_images("", 120, 50)
    assert images.pixels.shape == (1700, 8, 8)
    assert images.pixels.min() == 0
    assert images.pixels.max() == 1
    train, test = images.pixels[:1200].flatten(1), images.pixels[1200:].flatten(1)
    assert (
        not (train[:, None, :8] == test[None, :, :8]).all(2).logical_and(torch.cdist(train, test) == 0).any()
    )


def test_an_image_is_drawn_of_its_class_and_split() -> None:
    images = load_images("", 7, 3)
    wanted = torch.arange(10).repeat(20, 1)
    for split in ("train", "test"):
        drawn = images.draw(wanted, split=split, draws=torch.Generator().manual_seed(0))
        assert [[images.class_of(int(i)) for i in row] for row in drawn] == wanted.tolist()
        assert (drawn < 70).all() == (split == "train")
        assert len(drawn[:, 0].unique()) == (7 if split == "train" else 3)


def broken(folder: Path, name: str, content: bytes | None) -> str:
    path = write(folder) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train-labels-idx1-ubyte", None, "there is no train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz in "),
        ("train-images-idx3-ubyte", b"PNG", "is no idx file of bytes with 3 dimensions"),
        ("train-images-idx3-ubyte", idx(np.zeros((30, 4, 4)))[:-1], "is no idx file of bytes with 3 dimensions"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(29)), "has 30 images and 29 labels for test"),
        ("train-labels-idx1-ubyte", idx(np.full(30, 12)), "has the class 12; images of the classes 0 to 9 are read"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((30, 4, 5))), "are not squares of one size"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(30)), "class 1 has 0 images in .* for tests, and 1 are wanted"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "cannot be read"),
    ],
)  # fmt: skip
def test_a_folder_of_other_files_is_refused(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if name.endswith(".gz"):
        folder = str(write(tmp_path, packed=True))
        (tmp_path / name).write_bytes(content or b"")
    else:
        folder = broken(tmp_path, name, content)
    with pytest.raises(ValueError, match=says):
        load_images(folder, 2, 1)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a folder with the four files of MNIST or Fashion-MNIST"):
        load_images(str(tmp_path / "none"), 2, 1)
