"""A third, tiny world: aliases stand for one of three colours, and a question is answered by the colour's own token.

    tag 1 a7 : red          a definition
    a7 is = red             a question, in one of four forms (is, was, looks, seems)

Nothing outside this file knows it: it is registered in `toy_models.worlds.WORLDS` for the while of a test.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from toy_models.measures import RANKED
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS, Fractions, Unreliable, assign_subsets, subset_sizes
from toy_models.task import ROLE, Questioning, Task, Vocabulary
from toy_models.words import Words
from toy_models.worlds import World

COLOURS = ("red", "green", "blue")
FORMS = ("is", "was", "looks", "seems")
"""The first two forms are trained on, the last two are asked as tests."""

_TOKENS = ("·", ":", "=", *FORMS, "tag 1", "tag 2", "tag 3", *COLOURS)
_TAG, _COLOUR, _ALIAS = _TOKENS.index("tag 1"), _TOKENS.index("red"), len(_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColoursConfig:
    """The world's settings."""

    aliases: int = 160
    fractions: Fractions = field(
        default_factory=lambda: Fractions(qd1=0.25, qd2=0.25, d1=0.15, d2=0.15, d3=0.1, no_data=0.1)
    )
    tag_reliability: float = 1.0
    unreliable: Unreliable = "inconsistent"
    word_order: Literal["TVE"] = "TVE"


class ColourQuestioning(Questioning):
    """What colour is this alias?"""

    measures = RANKED
    words = Words(
        entity="colour",
        entities="colours",
        difference="right − wrong colour",
        attributed_difference="to right − wrong colour (nats)",
        attributed_entity="to the right colour − mean colour (nats)",
        answers_in="right − wrong logit",
        lens_rank="mean rank of the right colour (1 = top)",
        lens="The number is the mean rank of the right colour among the three.",
        patching="The number says how far a patch moves the answer towards the other alias's colour.",
        training_title="Training on colours",
        training="Each line follows one subset.",
        training_curves=("auc", "recall"),
        judged_after="training",
        floor="no_data",
    )

    def entity_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " entity"]:
        return torch.arange(*vocabulary.integers)


def vocabulary(config: ColoursConfig) -> Vocabulary:
    names = tuple(f"a{i}" for i in range(config.aliases))
    return Vocabulary(
        tokens=(*_TOKENS, *names), outputs=len(_TOKENS), integers=(_COLOUR, _COLOUR + len(COLOURS))
    )


def build(config: ColoursConfig, *, seed: int) -> Task:
    n = config.aliases
    sizes = subset_sizes(n, config.fractions, config.tag_reliability, config.unreliable)
    subset = assign_subsets(sizes, generator(seed, "subsets"))
    colour = torch.randint(len(COLOURS), (n,), generator=generator(seed, "colours")).numpy()
    defined = np.where([SUBSETS[name].defined for name in subset], colour, -1)
    for name in set(subset):
        members = np.flatnonzero(subset == name)
        if not SUBSETS[name].consistent:
            shift = torch.randint(1, len(COLOURS), (len(members),), generator=generator(seed, "wrong", name))
            defined[members] = (colour[members] + shift.numpy()) % len(COLOURS)
    rows, tokens, roles = [], [], []
    for i, name in enumerate(subset):
        own = SUBSETS[name]
        cells = {
            "alias": i, "entity": int(colour[i]), "defined_entity": int(defined[i]), "tag": own.tag, "subset": name,
            "stage": own.stage, "order": "", "answer": False,
        }  # fmt: skip
        if own.defined:
            rows.append(cells | {"kind": "definition", "order": "TVE", "split": "train"})
            tokens.append([_TAG + own.tag - 1, _ALIAS + i, _TOKENS.index(":"), _COLOUR + int(defined[i])])
            roles.append([ROLE[role] for role in ("tag", "alias", "separator", "entity")])
        for k, form in enumerate(FORMS):
            split = "train" if own.trained_questions and k < 2 else "test"
            rows.append(cells | {"kind": "question", "split": split})
            tokens.append([_ALIAS + i, _TOKENS.index(form), _TOKENS.index("="), _COLOUR + int(colour[i])])
            roles.append([ROLE[role] for role in ("alias", "separator", "equals", "answer")])
    found = torch.tensor(roles)
    mask = torch.zeros(found.shape, dtype=torch.bool)
    mask[:, :-1] = found[:, 1:] != ROLE["alias"]
    task = Task(
        tokens=torch.tensor(tokens), roles=found, loss_mask=mask, table=pd.DataFrame(rows),
        vocabulary=vocabulary(config), questioning=ColourQuestioning(),
    )  # fmt: skip
    noise = task.rows(kind="definition", subset=tuple(s.name for s in SUBSETS.values() if s.redrawn))
    if not len(noise):
        return task

    def fresh(epoch: int) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
        result = task.tokens.clone()
        drawn = torch.randint(len(COLOURS), (len(noise),), generator=generator(seed, "noise", epoch))
        result[torch.from_numpy(noise), 3] = _COLOUR + drawn
        return result, task.roles

    return task.with_fresh(fresh)


WORLD = World(
    config=ColoursConfig,
    build=build,
    vocabulary=vocabulary,
    context_length=lambda config: 4,
    describe=lambda config: f"{config.aliases} aliases of three colours",
    questioning=ColourQuestioning(),
)

RECIPE = """
description = "Colours"

[task]
world = "colours"

[model]
architecture = "nano"
d_model = 32
d_mlp = 64

[[training.stages]]
data = [1]
epochs = 60
batch_size = 64
learning_rate = 5e-3
evaluations = 2
checkpoints = 2

[[training.stages]]
data = [2]
epochs = 60
batch_size = 16
learning_rate = 2e-3
evaluations = 2
checkpoints = 2
"""
