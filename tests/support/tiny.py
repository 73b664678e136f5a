"""A run that trains in about a second, for the tests of everything around training."""

from pathlib import Path

from mechocl.runs import recipes
from mechocl.runs.recipes import Recipe

TOML = """
description = "Tiny"

[task]
aliases = 120
integers = 10
list_length = 3
train_questions = 4
test_questions = 4
loss = "every_but_aliases"
fractions = { qd1 = 0.25, qd2 = 0.25, d1 = 0.2, d2 = 0.2, d3 = 0.1 }

[model]
architecture = "nano"
d_model = 16
d_mlp = 32
tied_embeddings = true

[[training.stages]]
data = [1]
epochs = 3
batch_size = 64
evaluations = 2
checkpoints = 3

[[training.stages]]
data = [2]
epochs = 6
batch_size = 16
optimizer = "sgd"
learning_rate = 0.1
trains = "alias_embeddings"
evaluations = 2
checkpoints = 3
"""

PROBE = """
[[probes]]
name = "tag"
question = "tag 1 or tag 2"
at = "question"
target = "tag"
subsets = ["d1_consistent", "d2_consistent"]
method = "difference-of-means"
regularisation = [1.0]
pairs = "d1-to-d2"
"""
"""A recipe of one quick probe."""


def recipe_file(folder: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(TOML)
    return path


def recipe(folder: Path, *changes: str) -> Recipe:
    return recipes.load_recipe(str(recipe_file(folder)), changes)
