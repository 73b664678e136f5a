"""What probes ask: one recipe for each question, as TOML in `mechocl/probing/recipes` or in the user's own file."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import pydantic

from mechocl.runs import recipes
from probes.linear import Method, ProbeConfig
from toy_models.subsets import SUBSETS, subset_named

Target = Literal["tag", "defined_entity", "entity", "defined", "consistent", "stage", "label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One linear probe: what it reads, about which aliases, and how."""

    name: str
    """Its name in tables."""
    question: str
    """What it asks, in a few words, for figures."""
    at: Literal["question", "definition"]
    """The text whose activations are read: a test question whose list does not contain the alias's integer, so that
    the integer cannot be copied from the list, or the definition that was trained on."""
    target: Target
    """Column of the task's table. `defined` is whether the alias has a definition; `consistent` is whether the
    definition names the integer that the questions are about. `label` is what the caller of `mechocl.probe` gives."""
    subsets: tuple[str, ...]
    """Subsets whose aliases it compares, by name or short name (`d1`). Subsets that a run lacks are left out, but a probe of tags needs all."""
    method: Method
    """See `probes.linear.ProbeConfig`."""
    regularisation: tuple[float, ...]
    """See `probes.linear.ProbeConfig`; of several values, one is chosen inside the training folds."""
    n_folds: int = 5
    """Folds of the cross-validation over aliases."""
    split: Literal["alias", "integer", "list"] = "alias"
    """What is never on both sides of a split: the alias, and with `integer` or `list` also its integer or the
    question's list."""
    pairs: str = ""
    """Contrast (`mechocl.interventions.pairs`) on which an intervention along the probe's direction is tried; "" for
    none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "subsets", tuple(subset_named(name, SUBSETS) for name in self.subsets))
        ProbeConfig(method=self.method, regularisation=self.regularisation, n_folds=self.n_folds)

    def config(self, *, regularisation: tuple[float, ...], seed: int) -> ProbeConfig:
        """How it is fitted; if `regularisation` is empty, the recipe's own values are used."""
        return ProbeConfig(
            method=self.method,
            regularisation=regularisation or self.regularisation,
            n_folds=self.n_folds,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecipe:
    """The probes of one question."""

    probes: tuple[Probe, ...]

    def __post_init__(self) -> None:
        names = [probe.name for probe in self.probes]
        if not names or len(set(names)) < len(names):
            raise ValueError("a recipe needs probes, each with a name of its own")


for _config in (Probe, ProbeRecipe):
    recipes.strict(_config)
_ADAPTER: Final = pydantic.TypeAdapter(ProbeRecipe)


def named() -> dict[str, Path]:
    """The recipes that come with the package: name → file."""
    root = Path(str(resources.files("mechocl.probing") / "recipes"))
    return {p.stem: p for p in sorted(root.glob("*.toml"))}


def path_of(name: str) -> Path:
    """The file of a recipe, by its name in the package or by its path."""
    return named().get(name, Path(name))


def load(name: str) -> tuple[Probe, ...]:
    """The probes of a recipe, by its name or the path of a TOML file.

    Raises MechoclError that names the file, the key and what was expected.
    """
    values, path = recipes.read(name, named())
    recipe: ProbeRecipe = recipes.checked(_ADAPTER, values, source=str(path))
    return recipe.probes
