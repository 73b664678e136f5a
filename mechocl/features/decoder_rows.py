"""What a feature's decoder row alone says: its direct path to the logits, and the known directions that it lies near.

Neither asks on which texts the feature is active. They use texts only for the scale of the final layer norm, and for the
means of subsets that a row is compared with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.features.dictionaries import Dictionary, flat
from mechocl.features.properties import Texts
from mechocl.features.quality import cosines, unseen_aliases
from mechocl.features.settings import HELD_OUT
from mechocl.interventions.subspaces import STREAM_SITES, difference_of_means
from mechocl.models.components import Components
from mechocl.models.sites import hook_name
from mechocl.runs.activation_cache import Collect
from toy_models.subsets import TAGS
from toy_models.task import ROLE, Task

INTEGERS: Final = 5
"""Integers that a feature's direct path raises most, and lowers most."""

_CONTRASTS: Final = {
    "d1 against d2": ("d1_consistent", "d2_consistent"),
    "d3 against d2": ("d3_consistent", "d2_consistent"),
    "qd1 against qd2": ("qd1_consistent", "qd2_inconsistent"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectEffect:
    """What one unit of activation adds to the logits at its own position, in nats, without any later layer.

    The decoder row goes through the final layer norm, whose scale is frozen at its mean over `=` of questions.
    """

    difference: float
    """True − false logit; 0 in a text world."""
    highest: tuple[tuple[int, float], ...]
    """Integers that it raises most, the largest first, with logits minus the mean over all integers."""
    lowest: tuple[tuple[int, float], ...]
    """Integers that it lowers most, the lowest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A known direction at the dictionary's site."""

    name: str
    cosine: float
    """Cosine with the feature's decoder row."""


def _in_stream(dictionary: Dictionary) -> bool:
    """Whether a dictionary's decoder rows are vectors of the residual stream."""
    parts = dictionary.write.split(".")
    return len(parts) == 3 and parts[2].removeprefix("hook_") in STREAM_SITES


def direct_effects(
    c: Components,
    task: Task,
    dictionary: Dictionary,
    W: Float[Tensor, "feature d"],
    read: list[Texts],
    collect: Collect,
) -> list[DirectEffect] | None:
    """Direct effect of each decoder row of W; None if the dictionary writes outside the residual stream, or there are no
    questions."""
    asked = [one for one in read if one.kind == "question"]
    if not _in_stream(dictionary) or not asked:
        return None
    last = hook_name("resid_post", c.n_layers - 1)
    x = collect(asked[0].tokens, [last])[last][:, asked[0].labels.index("=")].float()
    W_U = c.W_U.float().cpu()
    logits = frozen_rows(c, W, stream=x) @ W_U
    entities = logits[:, task.entity_ids]
    integers = entities - entities.mean(1, keepdim=True)
    most = min(INTEGERS, integers.shape[1] // 2)
    order = integers.sort(dim=1, descending=True, stable=True)
    difference = [0.0] * len(logits)  # for questions that each have an answer of their own
    if (fixed := task.questioning.fixed_answers(task.vocabulary)) is not None:
        difference = (logits[:, fixed[0]] - logits[:, fixed[1]]).tolist()
    return [
        DirectEffect(
            difference=own,
            highest=tuple(zip(index[:most], value[:most], strict=True)),
            lowest=tuple(zip(index[::-1][:most], value[::-1][:most], strict=True)),
        )
        for own, index, value in zip(difference, order.indices.tolist(), order.values.tolist(), strict=True)
    ]


def frozen_rows(
    c: Components, rows: Float[Tensor, "feature d_model"], *, stream: Float[Tensor, "example d_model"]
) -> Float[Tensor, "feature d_model"]:
    """The rows after the final norm, with its scale frozen at its mean over these final streams.

    The norm's shift is left out. In a model without norms the rows do not change. Multiplied by W_U they are direct
    contributions to the logits.
    """
    norm = c.ln_final
    if norm.w is None:
        return rows
    return norm.centred(rows) / norm.scale(stream).mean() * norm.w.float().cpu()


def near(
    c: Components,
    task: Task,
    dictionary: Dictionary,
    W: Float[Tensor, "feature d"],
    read: list[Texts],
    collect: Collect,
    *,
    seed: int,
    probes: Mapping[str, Tensor],
) -> list[tuple[Near, ...]]:
    """Cosines of each decoder row with the embeddings of the tags, with differences of means, and with the probes.

    Raises MechoclError for a probe of another width.
    """
    known: dict[str, Tensor] = {}
    if _in_stream(dictionary) and W.shape[1] == c.W_E.shape[1]:
        known |= _tags(c, task)
    known |= _differences(task, dictionary, read, collect, seed=seed)
    for name, direction in probes.items():
        if direction.shape != W.shape[1:]:
            raise MechoclError(
                f"the direction of {name} has {len(direction)} dimensions, the SAE's site {W.shape[1]}; "
                f"give probes of {dictionary.write}"
            )
        known[f"probe {name}"] = direction.float().cpu()
    if not known:
        return [()] * len(W)
    cosine = cosines(W, torch.stack(list(known.values())))
    order = cosine.abs().argsort(dim=1, descending=True, stable=True)
    names = list(known)
    return [
        tuple(Near(name=names[i], cosine=value) for i, value in zip(index, values, strict=True))
        for index, values in zip(order.tolist(), cosine.gather(1, order).tolist(), strict=True)
    ]


def _tags(c: Components, task: Task) -> dict[str, Tensor]:
    found = {}
    for tag in TAGS:
        rows = task.rows(kind="definition", tag=tag)
        tokens = task.tokens[rows][task.roles[rows] == ROLE["tag"]].tolist()
        for token in sorted(set(tokens)):
            name = task.vocabulary.tokens[token]
            found[f"embedding of {name}"] = c.W_E[token].float().cpu()
    return found


def _differences(
    task: Task, dictionary: Dictionary, read: list[Texts], collect: Collect, *, seed: int
) -> Mapping[str, Tensor]:
    """Directions between the means of two subsets, over the aliases that the dictionary has seen."""
    found = {}
    seen = ~unseen_aliases(task, dictionary, share=HELD_OUT, seed=seed)
    for texts in (one for one in read if one.kind == "question"):
        x = flat(collect(texts.tokens, [dictionary.write])[dictionary.write]).float()
        name = [i for i, label in enumerate(texts.labels) if label.split(" ")[0] == "alias"][-1]
        subset = texts.table["subset"].to_numpy()
        known = seen[texts.table["alias"].to_numpy()]
        for position, at in (("alias", name), ("=", texts.labels.index("="))):
            for contrast, (first, second) in _CONTRASTS.items():
                rows = np.flatnonzero(known & np.isin(subset, [first, second]))
                try:
                    direction = difference_of_means(x[rows, at], torch.from_numpy(subset[rows] == first))
                except MechoclError:  # a run without these subsets, or a site that does not tell them apart
                    continue
                found[f"means of {contrast}, at {position}"] = direction[:, 0]
    return found
