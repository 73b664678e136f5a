"""Worlds whose answer is known because the training forces it: real runs with their controls, judged by the ordinary verdict.

What the stage-1 definitions with tag 2 are is planted in the task (`toy_models.planted_set`), and the verdict is not told. How
well those of stage 2 are learned is planted in the stage (`StageConfig.stops`).
"""

import contextlib
import os
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mechocl import files
from mechocl.analyses.control_jobs import train_controls
from mechocl.analyses.variant_jobs import train_variants
from mechocl.hypotheses.verdict import RunVerdict, verdict
from mechocl.runs import recipes
from mechocl.runs.variants import EXCHANGED

BASE: Final = "integer-set/cpu"
"""The recipe that is made smaller."""

SMALLER: Final = (
    'task.world="planted-set"',
    "task.aliases=300",
    "task.integers=12",
    "task.list_length=3",
    "task.test_questions=8",
    "task.fractions={qd1=0.35,qd2=0.25,d1=0.16,d2=0.16,d3=0.04,no_data=0.04}",
    "training.stages.0.batch_size=128",
    "training.stages.0.epochs=40",
    "training.stages.1.epochs=200",
    "training.stages.1.trains=alias_embeddings",
    "training.stages.1.learning_rate=4e-5",
    "training.stages.1.evaluations=20",
)
"""Changes of that recipe, the same for all worlds. Unless a world changes it, stage 2 trains the embeddings of the aliases alone, so that no tag moves, and what an
alias learns is all in its own embedding."""

ALIKE: Final = (
    "training.stages.1.stops=alias",
    "training.stages.1.stop_at_definition_loss=0.2",
)
"""Changes with which definitions are learned equally well in stage 2, as far as they come to that loss."""

LESS: Final = ("training.stages.1.stops=tag_2", "training.stages.1.stop_at_definition_loss=0.7")
"""Changes with which definitions with tag 2 are learned less well in stage 2."""

SOMEWHAT_LESS: Final = ("training.stages.1.stops=tag_2", "training.stages.1.stop_at_definition_loss=0.35")
"""The same to a smaller degree, with which another cause keeps a part of the gap. It was chosen on the world's first instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A cause of a gap that a training under a constraint forces."""

    name: str
    says: str
    """What is planted, in a sentence."""
    truth: tuple[str, ...]
    """The explanations that are right."""
    changes: tuple[str, ...]
    """Changes of the recipe."""
    controls: tuple[str, ...]
    """The control runs that are trained."""
    variants: tuple[str, ...] = ()
    """The variant runs that are trained."""

    @property
    def fingerprint(self) -> str:
        """Changes with what is planted, and with the recipe that is trained."""
        recipe = tomllib.loads(recipes.named()[BASE].read_text(encoding="utf-8"))
        return files.fingerprint({"world": repr(self), "recipe": recipe, "smaller": SMALLER})

    def judge(self, number: int, predictions: Path | None, *, seeds: int) -> RunVerdict:
        """The verdict on an instance of the world, whose runs are trained in a temporary folder, by a file of predictions; None takes
        those of the package."""
        numbers = tuple(range(1000 * number, 1000 * number + seeds))
        recipe = recipes.load_recipe(BASE, (*SMALLER, *self.changes))
        with tempfile.TemporaryDirectory() as folder, _silently():
            run = train_controls(
                Path(folder) / "run",
                recipe,
                self.controls,
                recipe_name=self.name,
                seeds=numbers,
                device="cpu",
                jobs=1,
            )
            train_variants(run, self.variants, jobs=1)
            return verdict(run, predictions=predictions, device="cpu", jobs=1)


TRAINED: Final = (
    Trained(
        name="nothing, trained",
        says="The tags differ in nothing, in either stage.",
        truth=("nothing",),
        changes=('task.planted="consistent"', "training.stages.1.trains=all"),
        controls=(),
    ),
    Trained(
        name="readout gate",
        says="What stands after tag 2 in stage 1 is noise, about aliases that are never asked about; in stage 2 each definition is trained on "
        "until its loss is 0.2 nats.",
        truth=("readout_gate",),
        changes=('task.planted="noise"', *ALIKE),
        controls=("noise", "unasked"),
        variants=(EXCHANGED,),
    ),
    Trained(
        name="less learned",
        says="The tags differ in nothing in stage 1; in stage 2 each definition with tag 2 is trained on until its loss is 0.7 nats.",
        truth=("less_learned",),
        changes=('task.planted="consistent"', *LESS),
        controls=("noise", "unasked"),
        variants=(EXCHANGED,),
    ),
    Trained(
        name="readout gate and less learned",
        says="Both: noise after tag 2 in stage 1, and definitions with tag 2 trained on until their loss is 0.35 nats.",
        truth=("readout_gate", "less_learned"),
        changes=('task.planted="noise"', *SOMEWHAT_LESS),
        controls=("noise", "unasked"),
        variants=(EXCHANGED,),
    ),
)
"""The trained worlds."""


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Show nothing of the runs inside: the calibration has its own progress."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
