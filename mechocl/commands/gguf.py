"""`mechocl gguf`: makes an ordinary folder of a GGUF file."""

from pathlib import Path
from typing import Annotated

import tyro

from mechocl.destinations import require_folder


def gguf(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    out: Path,
) -> None:
    """Make a Hugging Face folder of a GGUF file, with its weights dequantised to float32, and compare the opened model with it.

    The folder can be opened, fine-tuned and analysed as any other. Quantised weights are rounded ones, so it is not the model that was
    quantised.

    Args:
        file: The GGUF file.
        out: Folder of the model. It is new, or holds the model of the same file.
    """
    from mechocl.commands.parity import parity
    from mechocl.models import gguf as reading

    require_folder(out)
    reading.dequantise(file, out)
    print(f"model: {out}")
    parity(str(out), device="cpu")
