"""The logit lens, and direct logit attribution, of the user's own pairs: any model, no run."""

from collections.abc import Mapping
from typing import Final

import pandas as pd
import torch
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.pairs import Pairs
from mechocl.lenses.direct_attribution import direct_logit_attribution
from mechocl.lenses.logit_lens import stream_layers
from mechocl.models.components import Components, take_apart
from mechocl.models.forward import forward
from mechocl.models.seam import Transformer

_BATCH: Final = 64


@torch.no_grad()
def lens_of_pairs(model: Transformer, pairs: Pairs) -> pd.DataFrame:
    """What the residual stream says after each layer, where the answers of pairs are read.

    One row per `example` ("clean", "corrupted") and `layer` ("embed", "layer 0", …), means over the pairs: `target` and `foil`, the
    log-probability (nats) of these tokens through the final norm and the unembedding; `target_rank`, the number of
    tokens that are at least as likely as the target; and `pairs`, their number. Without foils `foil` is NaN.

    Raises MechoclError as `take_apart` does.
    """
    c = take_apart(model)
    tables = []
    for example, tokens in (("clean", pairs.clean), ("corrupted", pairs.corrupted)):
        for batch in torch.split(torch.arange(len(pairs)), _BATCH):
            stream = _streams(c, tokens[batch], pairs.read[batch])
            for layer, x in zip(stream_layers(c), stream, strict=True):
                found = _said(c.logits(x).log_softmax(-1).cpu(), pairs[batch])
                tables.append(pd.DataFrame(found).assign(example=example, layer=layer))
    grouped = pd.concat(tables).groupby(["example", "layer"], sort=False)
    return grouped.agg(
        target=("target", "mean"),
        foil=("foil", "mean"),
        target_rank=("target_rank", "mean"),
        pairs=("target", "size"),
    ).reset_index()


def _streams(c: Components, tokens: Tensor, read: Tensor) -> list[Tensor]:
    """The residual stream before layer 0 and after each layer, at one position of each example."""
    rows, found = torch.arange(len(tokens)), []

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        if site == "resid_post" or (site == "resid_pre" and layer == 0):
            found.append(x[rows, read])
        return x

    forward(c, tokens, tap=tap)
    return found


def _said(logs: Tensor, pairs: Pairs) -> Mapping[str, Tensor]:
    target = logs.gather(1, pairs.target[:, None])
    foil = logs.gather(1, pairs.foil.clamp(min=0)[:, None])[:, 0]
    return {
        "target": target[:, 0],
        "foil": foil.where(pairs.foil >= 0, torch.nan),
        "target_rank": (logs >= target).sum(1),
    }


def attribution_of_pairs(model: Transformer, pairs: Pairs) -> pd.DataFrame:
    """What each component adds to the logit of the target − that of the foil, in clean and in corrupted examples.

    One row per `example` and `component` (`direct_attribution.Attribution`), means over the pairs in nats: `difference`, above 0 where the
    component speaks for the target; and `pairs`, their number. The contributions add up to the row "all". Raises MechoclError for pairs without
    foils, and as `direct_logit_attribution` does.
    """
    if bool((pairs.foil < 0).any()):
        raise MechoclError(
            f"{pairs.name} has no column foil, and attribution compares the target with a foil; add the column"
        )
    tables = []
    for example, tokens in (("clean", pairs.clean), ("corrupted", pairs.corrupted)):
        found = direct_logit_attribution(
            model, tokens, read=pairs.read, plus=pairs.target, minus=pairs.foil[:, None]
        )
        means = {
            **dict(zip(found.components, found.values.mean(1).tolist(), strict=True)),
            "all": float(found.total.mean()),
        }
        tables.append(
            pd.DataFrame({"component": list(means), "difference": list(means.values())}).assign(
                example=example, pairs=len(pairs)
            )
        )
    return pd.concat(tables, ignore_index=True)[["example", "component", "difference", "pairs"]]
