"""The worlds that are trained from scratch: their configs, and how a task is made of one.

A recipe names its world in `task.world`; one that names none is of the integer set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from toy_models import integer_set
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.list_questioning import ListQuestioning
from toy_models.task import Questioning, Task, Vocabulary

DEFAULT: Final = "integer-set"
"""The world of a recipe that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One world."""

    config: type
    """Dataclass of its settings, the table `task` of a recipe."""
    build: Callable[..., Task]
    """`build(config, seed=…)`: the task, which depends on the two alone. Raises ValueError for what cannot be drawn."""
    vocabulary: Callable[[Any], Vocabulary]
    """The vocabulary, which depends on the config alone."""
    context_length: Callable[[Any], int]
    """Tokens of the longest example."""
    describe: Callable[[Any], str]
    """The config in one line, for reports."""
    questioning: Questioning
    """How its questions are asked and judged."""


WORLDS: Final[dict[str, World]] = {
    DEFAULT: World(
        config=IntegerSetConfig,
        build=integer_set.build,
        vocabulary=integer_set.vocabulary,
        context_length=integer_set.context_length,
        describe=integer_set.describe,
        questioning=ListQuestioning(),
    ),
}
"""By the name that a recipe gives."""


def world_of(config: Any) -> World:
    """The world of a config."""
    return next(world for world in WORLDS.values() if type(config) is world.config)
