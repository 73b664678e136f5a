"""`mechocl model …`: look inside any Hugging Face model with one's own pairs, without a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mechocl.commands.options import Device
from mechocl.destinations import require_file
from mechocl.errors import MechoclError

if TYPE_CHECKING:
    import pandas as pd

    from mechocl.interventions.pairs import Pairs
    from mechocl.models.seam import Transformer

_LARGEST = 12
"""Number of lines with the largest effects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The model and the pairs that are looked at."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH_OR_NAME")]
    """Folder of a saved Hugging Face model, or a name on the hub."""
    pairs: Path
    """CSV file of pairs with the columns clean, corrupted, target and perhaps foil: texts of equally many tokens (a line break is \\n), and
    the words whose first token is compared where each text ends."""
    out: Path | None = None
    """CSV file that the rows are written to as well."""
    device: Device = "auto"

    def opened(self) -> "tuple[Transformer, Pairs]":
        """The model and the pairs. Raises MechoclError for a model without a tokenizer, and as `loading.load` and `pairs_of_tokenizer` do."""
        from mechocl.interventions.pairs_csv import pairs_of_tokenizer
        from mechocl.models import hub, loading, lora

        if self.out is not None:
            require_file(self.out, "rows")
            if self.out.suffix.lower() != ".csv":
                raise MechoclError(f"{self.out} is no name of a CSV file; give one that ends in .csv")
        folder = hub.locate(self.model)
        pairs = pairs_of_tokenizer(hub.require_tokenizer(folder), self.pairs)
        positions = None if lora.is_adapter(folder) else loading.positions_within_windows(folder)
        return loading.load(self.model, device=self.device, n_ctx=positions), pairs

    def written(self, rows: "pd.DataFrame") -> None:
        """Write the rows if that is asked for, and say where they are."""
        from mechocl import files

        if self.out is not None:
            files.write_text(self.out, rows.to_csv(index=False))
            print(f"rows: {self.out}")


On = Annotated[Own, tyro.conf.OmitArgPrefixes]


def patch(
    on: On,
    site: tuple[str, ...] = ("resid_pre", "attn_out", "mlp_out"),
    by: Literal["position", "all"] = "position",
    mode: Literal["denoise", "noise", "zero", "mean", "resample"] = "denoise",
    metric: str = "logit_difference",
    each_unit: bool = True,
) -> None:
    """Patch activations of one text into another, in any model: which layer and position carries the answer.

    Args:
        on: The model and the pairs.
        site: Sites (in every layer) or hook points.
        by: What is patched at once: one position, or the whole site (all).
        mode: denoise puts clean into corrupted; noise corrupted into clean; zero, mean, resample into clean.
        metric: Name of a metric, such as logit_difference, which needs foils, or log_probability.
        each_unit: Patch heads and neurons one at a time, or all of a site together.
    """
    from mechocl.commands import printing
    from mechocl.interventions.patching import patch_activations

    model, pairs = on.opened()
    found = patch_activations(model, pairs, sites=site, metric=metric, by=by, mode=mode, each_unit=each_unit)
    rows = found.table()
    print(
        f"{pairs.name}: {found.metric} clean {found.clean:+.3f}, corrupted {found.corrupted:+.3f} {found.unit}; {len(pairs)} pairs"
    )
    largest = (
        rows.dropna(subset=["effect"])
        .sort_values("effect", key=abs, ascending=False, kind="stable")
        .head(_LARGEST)
    )
    printing.frame(
        "largest effects",
        largest[["layer", "site", "part", "index", "position", "effect", "normalised", "exchanged"]],
    )
    on.written(rows)


def lens(on: On) -> None:
    """Read the residual stream of one's own texts through the unembedding, layer by layer, where the answers are read.

    Args:
        on: The model and the pairs.
    """
    from mechocl.analyses.of_pairs import lens_of_pairs
    from mechocl.commands import printing

    rows = lens_of_pairs(*on.opened())
    printing.frame("log-probability of target and foil (nats), rank of the target", rows)
    on.written(rows)


def attribute(on: On) -> None:
    """Say what each component adds to the target's logit − the foil's, in one's own texts.

    Args:
        on: The model and the pairs.
    """
    from mechocl.analyses.of_pairs import attribution_of_pairs
    from mechocl.commands import printing

    rows = attribution_of_pairs(*on.opened())
    wide = rows.pivot(index="component", columns="example", values="difference").loc[
        rows["component"].unique()
    ]
    printing.grid(wide, "+.3f", corner="component")
    on.written(rows)
