"""Do new aliases of the two tags differ along what the tags themselves differ in? The table docs/results/toolbox-gate.csv.

A replication proposed for `integer-set/cpu`: at a definition, tag 1 opens and tag 2 closes a readout of the alias, which attention
sums with the tag; so stage 2 has to push a `d2` alias towards what tag 1 adds over tag 2, and that costs answers. If so,

1. on the heads' value path, d2 − d1 of the aliases after stage 2 points where tag 1 − tag 2 pointed after stage 1;
2. the gap is (in part) gone when each d2 alias's value along that direction is put back to that of an alias without training data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from docs.write import inside
from docs.write.places import TABLES
from mechocl.analyses.subject import open_subject
from mechocl.behaviour import internalization
from mechocl.runs.folders import SeedFolder
from mechocl.runs.run import Run
from toy_models.task import Task

TABLE: Final = TABLES / "toolbox-gate.csv"
RANDOM: Final = 3
"""Random directions that the same is done along."""


def take_table(runs: Path) -> None:
    """Write the table from those runs of `inside.RUNS` with the tag first that are in the folder."""
    rows = [
        {"run": one.label, "seed": folder.seed, **_measured(folder)}
        for one in (*inside.RECIPES, *inside.CONTROLS)
        if (runs / one.folder).exists()
        for folder in Run.open(runs / one.folder).finished_seeds()
    ]
    if rows:
        pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5g")


@torch.no_grad()
def _measured(folder: SeedFolder) -> dict[str, float]:
    subject = open_subject(folder, stage=None, device="cpu")
    model, before, task = subject.model, subject.before(), subject.task
    assert isinstance(model, HookedTransformer)
    assert isinstance(before, HookedTransformer)
    tags = {n: int(task.tokens[task.rows(kind="definition", tag=n), 0][0]) for n in (1, 2)}
    along = values(before, [tags[1]]) - values(before, [tags[2]])
    along = (along / along.norm()).flatten()
    mean = {
        subset: values(model, _names(task, subset)).mean(0).flatten()
        for subset in ("d1_consistent", "d2_consistent", "no_data")
    }
    gap = mean["d2_consistent"] - mean["d1_consistent"]
    aliases = torch.tensor(_names(task, "d2_consistent"))
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(RANDOM, len(along), generator=generator)
    random /= random.norm(dim=1, keepdim=True)
    own = _gap(model, task)
    left = []
    for direction in (along, *random):
        with put_back(model, aliases, direction, mean["no_data"]):
            left.append(_gap(model, task))
    return {
        "cosine": float(torch.cosine_similarity(gap, along, dim=0)),
        "cosine_random": float((random @ gap / gap.norm()).abs().mean()),
        "gap": own,
        "gap_put_back": left[0],
        "gap_random": float(np.mean(left[1:])),
    }


def _names(task: Task, subset: str) -> list[int]:
    """The tokens that are the names of a subset's aliases."""
    rows = task.rows(kind="question", split="test", subset=subset)
    at = torch.from_numpy(task.position_of("alias", rows))
    return torch.unique(task.tokens[torch.from_numpy(rows), at]).tolist()  # type: ignore[no-any-return]


def values(model: HookedTransformer, tokens: list[int]) -> Float[Tensor, "token head d_head"]:
    """What the heads of the first layer find at a token, before any bias."""
    block = model.blocks[0]
    stream = block.ln1(model.W_E[torch.tensor(tokens)][:, None])[:, 0]
    return torch.einsum("td,hde->the", stream, block.attn.W_V)  # type: ignore[no-any-return]


def _gap(model: HookedTransformer, task: Task) -> float:
    auc = internalization.by_subset(internalization.per_alias(model, task)).set_index("subset")["auc"]
    return float(auc["d1_consistent"] - auc["d2_consistent"])


@contextmanager
def put_back(
    model: HookedTransformer, aliases: Tensor, direction: Tensor, reference: Tensor
) -> Iterator[None]:
    """Within the context, the heads of the first layer find, at these tokens and along a direction, what they find at the reference.

    `direction` is a unit vector over all heads' values, and `reference` such a value as `values` gives it.
    """
    given: list[Tensor] = []
    """The tokens of the forward pass that is going on."""

    def remember(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given[:] = [inputs[0]]

    def changed(value: Tensor, hook: object) -> Tensor:
        at = torch.isin(given[0], aliases)
        chosen = value[at].flatten(1)
        wanted = reference + model.blocks[0].attn.b_V.flatten()
        chosen += ((wanted - chosen) @ direction)[:, None] * direction
        value[at] = chosen.view(-1, *value.shape[2:])
        return value

    handle = model.register_forward_pre_hook(remember)
    model.add_hook("blocks.0.attn.hook_v", changed)
    try:
        yield
    finally:
        model.reset_hooks()
        handle.remove()
