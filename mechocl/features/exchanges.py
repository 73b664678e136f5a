"""The questions that a feature is tested on, and how exchanges in both directions add up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mechocl.behaviour.subset_names import subset_named
from mechocl.errors import MechoclError
from mechocl.features.candidates import EffectsConfig
from mechocl.interventions import named_pairs
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.subspaces import SwapResult
from toy_models.task import Task


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions that all candidates are tested on; each kind is made once."""

    task: Task
    config: EffectsConfig
    made: dict[str, Pairs | None] = field(default_factory=dict)

    def pairs(self, name: str) -> Pairs | None:
        """Pairs of a contrast; None where the held-out aliases have none."""
        if name not in self.made:
            most = 10 * self.config.n_pairs if "-other-" in name else self.config.n_pairs
            self.made[name] = self._try(
                lambda: named_pairs.pairs_named(self.task, name, n_pairs=most, seed=self.config.seed)
            )
        return self.made[name]

    def questions(self, short: str) -> Pairs | None:
        """Questions about a subset, those of an alias together; None for a subset that the run does not have."""

        def make() -> Pairs:
            subset, n = subset_named(self.task, short), self.config.n_questions
            return named_pairs.question_pairs(
                self.task, subsets=(subset,), n_questions=n, seed=self.config.seed
            )

        if short not in self.made:
            self.made[short] = self._try(make)
        return self.made[short]

    @staticmethod
    def _try(make: Callable[[], Pairs]) -> Pairs | None:
        try:
            return make()
        except MechoclError:
            return None


class Exchanged:
    """A metric over exchanges in both directions, with each contrast weighted by its number of pairs."""

    def __init__(self) -> None:
        self.count = 0
        self.exchanged = 0
        """Number of pairs in which the candidate's exchange changes the activation."""
        self._base = 0.0
        self._forward = self._back = 0.0  # sums of clean − corrupted
        self._effect: Tensor = torch.zeros(
            ()
        )  # sum of the effects towards the clean run, minus those towards the corrupted run

    def add(self, found: Sequence[SwapResult], pairs: int, *, back: bool) -> None:
        """Add the candidate's exchange and those of its controls, in this order, in one direction of one contrast."""
        own = found[0]
        effect = torch.tensor([one.effect if one.exchanged else 0.0 for one in found])
        self.count += pairs
        self.exchanged += 0 if back else own.exchanged
        self._base += own.corrupted * pairs
        self._forward += 0.0 if back else (own.clean - own.corrupted) * pairs
        self._back += (own.clean - own.corrupted) * pairs if back else 0.0
        self._effect = self._effect + (-effect if back else effect) * pairs

    @property
    def base(self) -> float:
        """Mean of the metric over the unchanged runs."""
        return self._base / self.count

    @property
    def direction(self) -> float:
        """The direction of the property: which run of a pair is answered better, on average."""
        return 1.0 if self._forward >= 0 else -1.0

    @property
    def gap(self) -> float:
        return self.direction * (self._forward - self._back) / self.count

    @property
    def moved(self) -> Float[Tensor, "fit"]:
        moved: Tensor = self.direction * self._effect / self.count
        return moved
