"""A small world of digit grids, and a run of it that trains in seconds."""

from pathlib import Path

from mechocl.runs import recipes
from mechocl.runs.recipes import Recipe
from toy_models.digit_grid import DigitGridConfig
from toy_models.subsets import Fractions

FRACTIONS = Fractions(qd1=0.2, qd2=0.2, q_only=0.1, d1=0.15, d2=0.15, d3=0.1, no_data=0.1)
CONFIG = DigitGridConfig(
    aliases=40, labels=3, test_draws=2, train_images=5, test_images=3, fractions=FRACTIONS
)

TOML = """
description = "Grids"

[task]
world = "digit-grid"
aliases = 40
labels = 3
test_draws = 2
train_images = 5
test_images = 3
fractions = { qd1 = 0.2, qd2 = 0.2, q_only = 0.1, d1 = 0.15, d2 = 0.15, d3 = 0.1, no_data = 0.1 }

[model]
channels = [4, 8]
hidden = [24]
d_model = 8

[[training.stages]]
data = [1]
epochs = 60
batch_size = 32
learning_rate = 5e-3
evaluations = 2
checkpoints = 2

[[training.stages]]
data = [2]
epochs = 120
batch_size = 8
learning_rate = 5e-3
evaluations = 2
checkpoints = 2
"""


def recipe(folder: Path, *changes: str) -> Recipe[DigitGridConfig]:
    """The recipe, which is written into a folder, with changes."""
    path = folder / "grids.toml"
    path.write_text(TOML)
    return recipes.load_recipe(str(path), changes)
