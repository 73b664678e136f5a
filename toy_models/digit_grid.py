"""Digit grids (Krasheninnikov et al., arXiv 2310.15047, section 3.2): not only text.

An alias is an N × N grid of digit *classes*, and an entity a grid of labels. An example is a row of tokens, which a ConvNet draws as a picture
(`toy_models.convnet`); here of a 2 × 2 grid:

    [3] [7] [1] [1]  tag 1   =  b d a c          (definition: the digits with a tag on top, and the label of every cell)
    [3] [7] [1] [1]  cell 2  =  ·  d ·  ·        (question: the same digits with one cell highlighted, and its label alone)

`[3]` is one of many images of a three, drawn anew in each epoch, and `·` the answer *none*. Train and test images are apart. An answer is read
before the label of the highlighted cell, which the model sees no more than any other label.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from toy_models import digit_images
from toy_models.convnet_config import Pictures
from toy_models.digit_images import CLASSES, Images
from toy_models.measures import LABELLED
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS, TAGS, Fractions, Unreliable, assign_subsets, subset_sizes
from toy_models.task import ROLE, Questioning, Task, Vocabulary
from toy_models.words import Words

_FIRST_LABEL: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitGridConfig:
    """The settings of a task of digit grids."""

    aliases: int = 400
    """Number of aliases over all subsets."""
    side: int = 2
    """Cells on each side of a grid."""
    labels: int = 4
    """Number of labels that a cell may have."""
    held_out: int = 1
    """Cells of each alias that no training question asks about. Of an alias that is asked about, tests ask about these; of any other alias, about all."""
    test_draws: int = 6
    """Test questions about each of these cells, which differ in their images."""
    train_images: int = 120
    """Images of each digit for training."""
    test_images: int = 50
    """Images of each digit for tests; none of them is seen in training."""
    images: str = ""
    """A folder with the idx files of MNIST or Fashion-MNIST. Without it, the images are scikit-learn's digits."""
    fractions: Fractions = field(
        default_factory=lambda: Fractions(qd1=0.3, qd2=0.3, d1=0.1, d2=0.1, d3=0.1, no_data=0.1)
    )
    """Share of the aliases in each subset."""
    tag_reliability: float = 1.0
    """The paper's α, 0.5 … 1: share of stage-1 definitions whose tag tells the truth about their consistency."""
    unreliable: Unreliable = "inconsistent"
    """What stage-1 definitions with tag 2 are: those of the experiment, or of one of its controls."""
    word_order: Literal["VTE"] = "VTE"
    """Order of a definition's parts. A picture has no other."""

    def __post_init__(self) -> None:
        for name in ("aliases", "side", "held_out", "test_draws", "train_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.labels < 2:
            raise ValueError(f"labels is {self.labels}; a cell has one of at least 2")
        if self.side > 8:
            raise ValueError(f"side is {self.side}; use at most 8")
        if self.held_out >= self.cells:
            raise ValueError(
                f"held_out is {self.held_out} of {self.cells} cells, so nothing is left to ask in training; lower it"
            )
        if not 0.5 <= self.tag_reliability <= 1:
            raise ValueError(f"tag_reliability is {self.tag_reliability}; use 0.5 to 1")
        if self.fractions.q_entity:
            raise ValueError(
                "fractions.q_entity is not 0, and no picture names an entity; give its share to another subset"
            )
        if CLASSES**self.cells < self.aliases:
            raise ValueError(
                f"{self.aliases} aliases need more than the {CLASSES**self.cells} grids of {self.cells} digits; lower aliases"
            )

    @property
    def cells(self) -> int:
        """Number of cells of a grid."""
        return self.side**2


class GridQuestioning(Questioning):
    """Which label has this cell of the grid?"""

    measures = LABELLED
    recalls = "every_token"
    redraws_definitions = True
    words = Words(
        entity="label",
        entities="labels",
        difference="right − another label",
        attributed_difference="to right − another label (nats)",
        attributed_entity="to the right label − mean label (nats)",
        answers_in="accuracy",
        lens_rank="mean rank of the right label (1 = top)",
        lens="The number is the mean rank of the right label.",
        patching="The number says how far a patch moves the answer towards the other alias's label.",
        training_title="Training on digit grids",
        training="Each line follows one subset: its held-out questions (top: share of highlighted cells that are labelled rightly, on new images) "
        "and its own definitions (bottom: share of cells labelled as the definition says) through the stages; bold is the mean, thin lines are seeds.",
        training_curves=("accuracy", "recall"),
        judged_after="training",
        floor="no_data",
    )

    def entity_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " entity"]:
        return torch.arange(*vocabulary.integers)

    def answer_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " candidate"]:
        """The labels, and *none*, which the other cells of a question have."""
        return torch.arange(_FIRST_LABEL, vocabulary.outputs)


@dataclass(frozen=True, slots=True)
class _Ids:
    """Token ids, in this order: pad, labels, none, `=`, tags, cells, images."""

    config: DigitGridConfig

    @property
    def none(self) -> int:
        return _FIRST_LABEL + self.config.labels

    @property
    def equals(self) -> int:
        return self.none + 1

    @property
    def tag(self) -> int:
        return self.equals + 1

    @property
    def cell(self) -> int:
        return self.tag + len(TAGS)

    @property
    def image(self) -> int:
        return self.cell + self.config.cells


def _images(config: DigitGridConfig) -> Images:
    return digit_images.load_images(config.images, config.train_images, config.test_images)


def vocabulary(config: DigitGridConfig) -> Vocabulary:
    """The model has logits for the pad, the labels and *none*. An image's token is its class and a number."""
    total = config.train_images + config.test_images
    images = [f"digit {c}.{i}" for c in range(CLASSES) for i in range(config.train_images)]
    images += [f"digit {c}.{i}" for c in range(CLASSES) for i in range(config.train_images, total)]
    cells = [f"cell {i}" for i in range(config.cells)]
    labels = [f"label {i}" for i in range(config.labels)]
    return Vocabulary(
        tokens=("·", *labels, "none", "=", *(f"tag {tag}" for tag in TAGS), *cells, *images),
        outputs=_FIRST_LABEL + config.labels + 1,
        integers=(_FIRST_LABEL, _FIRST_LABEL + config.labels),
    )


def pictures(config: DigitGridConfig) -> Pictures:
    """How the tokens are drawn. Raises ValueError for images that cannot be read."""
    ids = _Ids(config)
    return Pictures(
        side=config.side, pixels=_images(config).pixels, first_image=ids.image, first_tag=ids.tag, first_cell=ids.cell
    )  # fmt: skip


def context_length(config: DigitGridConfig) -> int:
    """Images, a tag or a cell, `=`, and labels."""
    return 2 * config.cells + 2


@dataclass(frozen=True, slots=True)
class _Aliases:
    """What is drawn once per alias."""

    subset: np.ndarray
    grid: Int[Tensor, "alias cell"]
    """Classes of the digits."""
    label: Int[Tensor, "alias cell"]
    """The entity: what questions are about."""
    defined: Int[Tensor, "alias cell"]
    """What the definition says; without meaning where there is none."""
    held: np.ndarray
    """Whether no training question asks about the cell: `alias cell`."""


def _draw_aliases(config: DigitGridConfig, seed: int) -> _Aliases:
    n, cells = config.aliases, config.cells
    subset = assign_subsets(
        subset_sizes(n, config.fractions, config.tag_reliability, config.unreliable),
        generator(seed, "subsets"),
    )
    draws = generator(seed, "grids")
    grid = torch.empty(0, cells, dtype=torch.int64)
    while len(grid) < n:
        found, first = np.unique(
            torch.cat([grid, torch.randint(CLASSES, (2 * n, cells), generator=draws)]).numpy(),
            axis=0,
            return_index=True,
        )
        grid = torch.from_numpy(found[np.argsort(first)])
    draws = generator(seed, "labels")
    label = torch.randint(config.labels, (n, cells), generator=draws)
    # another alias's labels; never the same entity, which is possible by chance
    defined = (
        label[(torch.arange(n) + torch.randint(1, n, (n,), generator=draws)) % n] if n > 1 else label.clone()
    )
    while (same := (defined == label).all(1)).any():
        defined[same] = torch.randint(config.labels, (int(same.sum()), cells), generator=draws)
    consistent = torch.tensor([SUBSETS[name].consistent for name in subset])
    order = torch.rand(n, cells, generator=generator(seed, "held-out cells")).argsort(1)
    return _Aliases(
        subset,
        grid[:n],
        label,
        torch.where(consistent[:, None], label, defined),
        (order < config.held_out).numpy(),
    )


def build(config: DigitGridConfig, *, seed: int) -> Task:
    """Draw the task. The result depends on `config` and `seed` alone.

    The rows are definitions, then training questions, then test questions. Beside the columns of `Task`, the table has `cell`: the cell that is asked about,
    −1 in a definition. In a question `entity` and `defined_entity` are the labels of that cell, in a definition those of the first cell.
    Raises ValueError for images that cannot be read.
    """
    images, ids, aliases = _images(config), _Ids(config), _draw_aliases(config, seed)
    table = _table(config, aliases)
    where = torch.tensor(table["alias"].to_numpy())
    is_test = torch.tensor((table["split"] == "test").to_numpy())
    grid = aliases.grid[where]

    def draw_images(draws: torch.Generator, split: str, rows: Tensor) -> Tensor:
        return ids.image + images.draw(grid[rows], split=split, draws=draws)

    tokens, roles = _examples(config, aliases, table)
    tokens[is_test, : config.cells] = draw_images(generator(seed, "test images"), "test", is_test)
    redrawn = torch.tensor([SUBSETS[name].redrawn for name in table["subset"]]) & torch.tensor(
        (table["kind"] == "definition").to_numpy()
    )

    def fresh(epoch: int) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
        result = tokens.clone()
        result[~is_test, : config.cells] = draw_images(generator(seed, "images", epoch), "train", ~is_test)
        noise = generator(seed, "noise", epoch)
        drawn = torch.randint(config.labels, (int(redrawn.sum()), config.cells), generator=noise)
        result[redrawn, config.cells + 2 :] = _FIRST_LABEL + drawn
        return result, roles

    tokens = fresh(0)[0]
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, config.cells + 1 : -1] = True
    return Task(
        tokens=tokens, roles=roles, loss_mask=mask, table=table, vocabulary=vocabulary(config),
        questioning=GridQuestioning(), fresh=fresh,
    )  # fmt: skip


def _table(config: DigitGridConfig, aliases: _Aliases) -> pd.DataFrame:
    subsets = [SUBSETS[name] for name in aliases.subset]
    parts: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    defined = np.flatnonzero([one.defined for one in subsets])
    parts.append(("definition", "train", defined, np.full(len(defined), -1)))
    asked = np.array([one.trained_questions for one in subsets])
    alias, cell = np.nonzero(asked[:, None] & ~aliases.held)
    parts.append(("question", "train", alias, cell))
    alias, cell = np.nonzero(aliases.held | ~asked[:, None])
    parts.append(("question", "test", alias.repeat(config.test_draws), cell.repeat(config.test_draws)))
    alias, cell = (np.concatenate([part[k] for part in parts]) for k in (2, 3))
    kind, split = (np.repeat([part[k] for part in parts], [len(part[2]) for part in parts]) for k in (0, 1))
    names = list(SUBSETS)
    at = np.maximum(cell, 0)
    has_definition = np.array([one.defined for one in subsets])[alias]
    return pd.DataFrame(
        {
            "kind": pd.Categorical(kind, ["question", "definition"]),
            "alias": alias,
            "entity": aliases.label.numpy()[alias, at],
            "defined_entity": np.where(has_definition, aliases.defined.numpy()[alias, at], -1),
            "tag": np.array([one.tag for one in subsets])[alias],
            "subset": pd.Categorical(aliases.subset[alias], names),
            "stage": np.array([one.stage for one in subsets])[alias],
            "order": pd.Categorical(
                np.where(kind == "definition", config.word_order, ""), ["", config.word_order]
            ),
            "split": pd.Categorical(split, ["train", "test"]),
            "answer": False,
            "cell": cell,
        }
    )


def _examples(
    config: DigitGridConfig, aliases: _Aliases, table: pd.DataFrame
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
    """Tokens without images, and roles."""
    ids, cells = _Ids(config), config.cells
    alias, cell, tag = (torch.tensor(table[name].to_numpy()) for name in ("alias", "cell", "tag"))
    is_definition = cell < 0
    asked = torch.arange(cells) == cell[:, None]
    answers = torch.where(asked, _FIRST_LABEL + aliases.label[alias], ids.none)
    labels = torch.where(is_definition[:, None], _FIRST_LABEL + aliases.defined[alias], answers)
    mark = torch.where(is_definition, ids.tag + tag - TAGS[0], ids.cell + cell)
    tokens = torch.cat(
        [
            torch.zeros(len(table), cells, dtype=torch.int64),
            mark[:, None],
            torch.full_like(mark[:, None], ids.equals),
            labels,
        ],
        1,
    )
    roles = torch.full_like(tokens, ROLE["alias"])
    roles[:, cells] = torch.where(is_definition, ROLE["tag"], ROLE["list"])
    roles[:, cells + 1] = ROLE["separator"]
    roles[:, cells + 2 :] = torch.where(is_definition[:, None], ROLE["entity"], ROLE["word"])
    rows = torch.nonzero(~is_definition)[:, 0]
    roles[rows, cells + 2 + cell[rows]] = ROLE["answer"]
    roles[rows, cells + 1 + cell[rows]] = ROLE["equals"]
    return tokens, roles


def describe(config: DigitGridConfig) -> str:
    """The config in one line, for reports."""
    source = f"images of {config.images}" if config.images else "scikit-learn's digits"
    return (
        f"{config.aliases} aliases, grids of {config.side} × {config.side} {source}, {config.labels} labels, tag reliability {config.tag_reliability:g}"
        + (
            ""
            if config.unreliable == "inconsistent"
            else f", tag-2 definitions of stage 1 {config.unreliable}"
        )
    )
