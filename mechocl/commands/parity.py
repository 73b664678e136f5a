"""`mechocl parity`: says whether a Hugging Face model can be opened, and whether the opened model computes the same."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from mechocl.commands.options import Device
from mechocl.destinations import require_file


def parity(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH_OR_NAME")],
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    bridge: bool = False,
    fold: bool = False,
    centre: bool = False,
    base: str = "",
    out: Path | None = None,
    device: Device = "auto",
) -> None:
    """Open a Hugging Face model in TransformerLens, and compare the two forward passes layer by layer.

    The exit code is 0 if they are the same within rounding. Else it is 2, with one line that names the layer where they
    begin to differ.

    Args:
        model: Folder of a saved model or of a LoRA adapter, or a name on the hub.
        dtype: Precision of the weights. bfloat16 takes half the memory of float32.
        bridge: Open the model as a TransformerBridge, not as a HookedTransformer.
        fold: Fold the layer norms' weights into those that read from them.
        centre: Centre the weights that write to the residual stream, and the unembedding.
        base: Folder or name of the model under an adapter. By default it is the model that the adapter names.
        out: JSON file that the comparison is written to as well.
    """
    import torch

    from mechocl.commands import printing
    from mechocl.models import loading, seam

    if out is not None:
        require_file(out, "comparison")
    loaded = loading.load_with_parity(
        model,
        device=seam.resolve_device(device),
        dtype=getattr(torch, dtype),
        bridge=bridge,
        fold=fold,
        centre=centre,
        base=base or None,
        record=out,
    )
    found = loaded.parity
    printing.table(
        ["residual stream", "largest difference"],
        [[name, f"{value:.1e}"] for name, value in found.residual.items()],
    )
    print(
        f"logits differ by {found.max_abs_logit_difference:.1e} nats at most over {found.tokens} tokens, top-1 agreement "
        f"{found.top1_agreement:.3f}; tolerance {found.tolerance:g}"
    )
    print(f"opened: {loaded.source}")
