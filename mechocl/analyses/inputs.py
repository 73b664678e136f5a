"""What a result depends on: inputs that an analysis declares, and the key of a result, which is made of them alone.

Each input is a name and a function that reads its value. Files count by their content, so a key changes when a file is
edited, and stays when it is copied. What is recorded in a seed's ledger is not read again: its checksum is the value.

Not among the inputs are the device and the versions of other packages, because they change a number by rounding alone.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mechocl import files
from mechocl.analyses.variant_models import variant_seed
from mechocl.errors import MechoclError
from mechocl.features import dictionaries
from mechocl.interventions import named_pairs
from mechocl.probing import recipe as probe_recipes
from mechocl.runs import recipes
from mechocl.runs.activation_cache import ActivationCache
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.variants import EXCHANGED

_SETTLED_NS: Final = 3_000_000_000
"""Nanoseconds after which a file with the same times and size holds the same content. Clocks of file systems are coarse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a result is asked of: one seed, at some of its checkpoints, with a config."""

    folder: SeedFolder
    checkpoints: tuple[Checkpoint, ...]
    config: Any
    saes: tuple[str, ...] = ()
    """Names or folders of the dictionaries that are read."""
    cache: ActivationCache | None = None
    """Where activations are kept."""


@dataclass(frozen=True, slots=True)
class Input:
    """One thing that a result depends on."""

    name: str
    """Its name in the key."""
    read: Callable[[Asked], Any]
    """Its value as plain data. An empty value means that the result does not have this input, and is left out."""


def key_of(inputs: Sequence[Input], asked: Asked, *, revision: str) -> dict[str, Any]:
    """The key of a result: the declared inputs and the revision of the code, and nothing else.

    Raises MechoclError when a file that is asked for is missing.
    """
    return values_of(inputs, asked) | {"revision": revision}


def values_of(inputs: Sequence[Input], asked: Asked) -> dict[str, Any]:
    """The values of the inputs by their names, without the empty ones."""
    values = {one.name: one.read(asked) for one in inputs}
    return {name: value for name, value in values.items() if value not in _EMPTY}


_EMPTY: Final[tuple[Any, ...]] = (None, "", {}, [])


def content(path: Path) -> str:
    """The sha256 of a file's content. A file that has not changed on the disk is read once in a process.

    Raises MechoclError when there is no such file.
    """
    if not path.is_file():
        raise MechoclError(f"{path} does not exist; give a file that exists")
    found = path.stat()
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    if time.time_ns() - changed < _SETTLED_NS:
        return files.sha256(path)
    return _content(path.absolute(), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _content(path: Path, *state: int) -> str:
    return files.sha256(path)


def _recipe(asked: Asked) -> str:
    """The recipe of the run, of which the model is built; its description is prose."""
    plain = recipes.plain(asked.folder.recipe)
    return files.fingerprint({key: value for key, value in plain.items() if key != "description"})


def _checkpoints(asked: Asked) -> list[dict[str, Any]]:
    return [{"stage": one.stage, "sha256": one.sha256} for one in asked.checkpoints]


def _stages(asked: Asked) -> list[str]:
    stages = range(1, len(asked.folder.recipe.training.stages) + 1)
    return [asked.folder.final(number).sha256 for number in stages]


def _course(asked: Asked) -> list[str]:
    (stage,) = {one.stage for one in asked.checkpoints}
    before = [asked.folder.final(stage - 1)] if stage > 1 else []
    kept = [one for one in asked.folder.checkpoints() if one.stage == stage]
    return [one.sha256 for one in (*before, *kept)]


def _exchanged_tags(asked: Asked) -> str:
    (at,) = asked.checkpoints
    return variant_seed(asked.folder, EXCHANGED, at=at).final().sha256


def _pairs(asked: Asked) -> dict[str, str]:
    paths = map(named_pairs.file_of, asked.config.pairs)
    return {str(path): content(path) for path in paths if path is not None}


def _probes(asked: Asked) -> dict[str, str]:
    name = asked.config.recipe
    probe_recipes.load(name)  # it says what is wrong before anything is computed
    return {name: content(probe_recipes.path_of(name))}


def _dictionaries(asked: Asked) -> dict[str, dict[str, str]]:
    """All files that are read of each dictionary: its weights, how they are used, and which aliases it has not seen."""
    folder = asked.folder
    found = {name: dictionaries.find(folder.path.parent, name, folder.seed) for name in asked.saes}
    return {
        name: {file.name: content(file) for file in dictionaries.files_of(path)}
        for name, path in found.items()
    }


def _activations(asked: Asked) -> str:
    cache = asked.cache
    return cache.dtype if cache is not None and cache.rounds else ""


SEED: Final = Input("seed", lambda asked: asked.folder.seed)
RECIPE: Final = Input("recipe", _recipe)
TASK: Final = Input("task", lambda asked: asked.folder.task_checksums())
CHECKPOINTS: Final = Input("checkpoints", _checkpoints)
"""The weights of the checkpoints that are asked about."""
CONFIG: Final = Input("config", lambda asked: dataclasses.asdict(asked.config))
"""Every field of the config."""
ATTRIBUTE: Final = Input("attribute", lambda asked: asked.folder.attribute)
"""Which questions of a text world are looked at."""
STAGES: Final = Input("stages", _stages)
"""The weights after every stage."""
COURSE: Final = Input("course", _course)
"""The weights at every kept step of the stage, and those that it starts from."""
EXCHANGED_TAGS: Final = Input("exchanged tags", _exchanged_tags)
"""The weights at the end of the run's variant in which d1 and d2 changed places."""
UNTRAINED: Final = Input("untrained", lambda asked: asked.folder.untrained_checksum())
"""What the untrained model is made of, besides the recipe and the seed."""
PAIRS: Final = Input("pairs", _pairs)
"""The user's own tables of pairs that the config names."""
PROBES: Final = Input("probes", _probes)
"""The recipe of probes that the config names, whether it is the user's or the package's."""
DICTIONARIES: Final = Input("dictionaries", _dictionaries)
ACTIVATIONS: Final = Input("activations", _activations)
"""The precision of activations that are kept, where it rounds them."""

OF_A_SEED: Final = (SEED, RECIPE, TASK, CHECKPOINTS, CONFIG)
"""What every result depends on."""

OF_QUESTIONS: Final = (*OF_A_SEED, ATTRIBUTE)
"""What results depend on that look at one attribute of a text world."""

OF_TRAINING: Final = (RECIPE, TASK)
"""What the training of a dictionary depends on, besides the weights and the config, which its record holds too."""
