"""The worlds on which models are trained from scratch: their configs, and how a task is made of a config.

A recipe names its world in `task.world`. A recipe that names no world has the integer set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from toy_models import digit_grid, integer_set, planted_set
from toy_models.architectures import ModelConfig
from toy_models.convnet_config import ConvNetConfig, Pictures
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.list_questioning import ListQuestioning
from toy_models.planted_set import PlantedSetConfig
from toy_models.sizes import TaskSize, size_digit_grid, size_integer_set
from toy_models.task import Questioning, Task, Vocabulary

DEFAULT: Final = "integer-set"
"""Name of the world of a recipe that names no world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One world."""

    config: type
    """Dataclass of the world's settings, which are the table `task` of a recipe."""
    build: Callable[..., Task]
    """`build(config, seed=…)` returns the task, which depends on the two alone. Raises ValueError when it cannot be
    drawn."""
    vocabulary: Callable[[Any], Vocabulary]
    """A function from a config to its vocabulary."""
    context_length: Callable[[Any], int]
    """A function from a config to the number of tokens of the longest example."""
    describe: Callable[[Any], str]
    """A function from a config to one line about it, for reports."""
    questioning: Questioning
    """How the world's questions are asked and judged."""
    size: Callable[[Any], TaskSize] | None = None
    """A function from a config to the size of its task, which is asked before anything is built. None asks nothing."""
    pictures: Callable[[Any], Pictures] | None = None
    """A function from a config to how its tokens are drawn, in a world whose models are ConvNets; None in one of transformers."""

    @property
    def model(self) -> type:
        """Dataclass of the settings of the world's models, which are the table `model` of a recipe."""
        return ModelConfig if self.pictures is None else ConvNetConfig


WORLDS: Final[dict[str, World]] = {
    DEFAULT: World(
        config=IntegerSetConfig,
        build=integer_set.build,
        vocabulary=integer_set.vocabulary,
        context_length=integer_set.context_length,
        describe=integer_set.describe,
        questioning=ListQuestioning(),
        size=size_integer_set,
    ),
    "digit-grid": World(
        config=digit_grid.DigitGridConfig,
        build=digit_grid.build,
        vocabulary=digit_grid.vocabulary,
        context_length=digit_grid.context_length,
        describe=digit_grid.describe,
        questioning=digit_grid.GridQuestioning(),
        size=size_digit_grid,
        pictures=digit_grid.pictures,
    ),
    "planted-set": World(
        config=PlantedSetConfig,
        build=planted_set.build,
        vocabulary=integer_set.vocabulary,
        context_length=integer_set.context_length,
        describe=planted_set.describe,
        questioning=ListQuestioning(),
        size=size_integer_set,
    ),
}
"""Name of a world in recipes → the world."""


def world_of(config: Any) -> World:
    """The world of a config."""
    return next(world for world in WORLDS.values() if type(config) is world.config)
