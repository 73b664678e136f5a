"""The hand-built transformer of `toy_models.planted`, under the name by which the tests know it."""

from toy_models.planted import (
    ANSWER as ANSWER,
    Mechanism as Mechanism,
    Subspaces as Subspaces,
    planted_model as planted_model,
    small_task as small_task,
    subspaces as subspaces,
    twins as twins,
)
