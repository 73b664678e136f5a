"""What the live explorer shows of a run: any alias at any checkpoint, computed when it is asked for and kept in memory.

Nothing is written. What was computed is kept by all that it depends on: the weights (by their checksum), the alias, and what was typed.
"""

import functools
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from mechocl.analyses.variant_models import variant_seed
from mechocl.errors import MechoclError
from mechocl.models.components import take_apart
from mechocl.models.seam import Transformer
from mechocl.report.explorer import data
from mechocl.report.explorer.collecting import arrays_of, checkpoint_key, why_no_twin
from mechocl.report.explorer.packing import pack
from mechocl.report.explorer.page import NO_PATCHING, OneSeed, content_of, layout_as_json, seed_as_json
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED

MODELS: Final = 4
"""How many models are kept in memory."""

ANSWERS: Final = 200
"""How many answers are kept in memory. Each has a few hundred kilobytes, for a small model far less."""

LONGEST: Final = 2000
"""Letters of a text that is typed."""

TWIN: Final = "twin"
"""What stands in the place of a checkpoint for the twin at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the page asks for: a model, and the questions about an alias."""

    seed: int
    checkpoint: str
    """A checkpoint as STAGE.STEP, or `TWIN`."""
    alias: int
    typed: str = ""
    """What the reader typed in place of a question; "" asks for the alias's own questions."""


class LiveRun:
    """Some seeds of a run. Its methods may be called from several threads; one computation is done at a time."""

    def __init__(self, run: Run, seeds: Sequence[int], *, patching: bool, device: str) -> None:
        run.kind.require_transformers(run, "the explorer")
        self.run, self.patching, self.device = run, patching, device
        self._computing = threading.RLock()
        self._folders = {seed: run.seed(seed) for seed in seeds}
        self._tasks = {seed: folder.analysed_task() for seed, folder in self._folders.items()}
        self._models = {seed: _models_of(folder) for seed, folder in self._folders.items()}
        self._loaded = functools.lru_cache(maxsize=MODELS)(self._load)
        self._measured = functools.lru_cache(maxsize=ANSWERS)(self._measure)
        self._answered = functools.lru_cache(maxsize=ANSWERS)(self._answer)

    def content(self) -> dict[str, Any]:
        """What the page reads at its start (`page.content_of`). One model is read for it."""
        seed, models = next(iter(self._models.items()))
        with self._computing:
            model = self._loaded(*models[self._last(seed)])
        sites = data.lens_names(model)
        patches = data.patch_names(model) if self.patching else []
        first = self.answer(
            Asked(seed=seed, checkpoint=self._last(seed), alias=data.choose_aliases(self._tasks[seed], 1)[0])
        )
        return content_of(
            self.run,
            [self._seed_as_json(one, sites, patches, first["shapes"]) for one in self._folders],
            no_patching="" if self.patching else NO_PATCHING,
            live=True,
        )

    def answer(self, asked: Asked) -> dict[str, Any]:
        """The questions that are asked for, and what the model does with them, packed, as the page reads it.

        Raises MechoclError, which says what there is, for what the run does not have and for what cannot be typed.
        """
        if asked.seed not in self._folders:
            raise MechoclError(
                f"seed {asked.seed} is not shown; there are {', '.join(map(str, self._folders))}"
            )
        models = self._models[asked.seed]
        if asked.checkpoint not in models:
            raise MechoclError(f"seed {asked.seed} has no checkpoint {asked.checkpoint!r}; reload the page")
        if len(asked.typed) > LONGEST:
            raise MechoclError(f"the text has {len(asked.typed)} letters; type {LONGEST} at most")
        with self._computing:
            return self._answered(asked.seed, *models[asked.checkpoint], asked.alias, asked.typed.strip())

    # ------------------------------------------------------------------------------------- the parts

    def _last(self, seed: int) -> str:
        return [key for key in self._models[seed] if key != TWIN][-1]

    def _load(self, checkpoint: Checkpoint, twin: bool) -> Transformer:
        folder = self._folder(checkpoint.seed, twin)
        model: Transformer = folder.model_at(checkpoint, device=self.device)
        return model

    def _folder(self, seed: int, twin: bool) -> SeedFolder:
        folder = self._folders[seed]
        return variant_seed(folder, EXCHANGED, at=folder.final()) if twin else folder

    def _measure(self, checkpoint: Checkpoint, twin: bool) -> np.ndarray:
        task = self._folder(checkpoint.seed, twin).analysed_task() if twin else self._tasks[checkpoint.seed]
        return data.measure_aliases(self._loaded(checkpoint, twin), task)

    def _answer(
        self, seed: int, checkpoint: Checkpoint, twin: bool, alias: int, typed: str
    ) -> dict[str, Any]:
        task = self._tasks[seed]
        if len(task.rows(kind="question", split="test", alias=alias)) == 0:
            raise MechoclError(f"seed {seed} has no test questions about alias {alias}")
        shown = data.show_seed(task, [alias], seed=seed)
        if typed:
            row = shown.aliases[0].questions[0].row
            try:
                task = task.questioning.typed_question(task, row, typed)
            except ValueError as error:
                raise MechoclError(str(error)) from None
            shown = data.show_rows(task, {alias: [row]}, seed=seed)
        model = self._loaded(checkpoint, twin)
        length, most = len(shown.labels), take_apart(model).n_ctx
        if length > most:
            raise MechoclError(
                f"the text has {length} tokens, but the model has {most} positions; type a shorter one"
            )
        found = data.show_model(
            model, task, shown, patching=self.patching,
            measures=self._measured(checkpoint, twin),
        )  # fmt: skip
        packed = pack(arrays_of(found, patching=self.patching))
        return {
            **layout_as_json(shown),
            "questions": [asdict(question) for question in shown.aliases[0].questions],
            "shapes": {name: list(shape) for name, shape in packed.shapes.items()},
            "packed": packed.text,
        }

    def _seed_as_json(
        self, seed: int, sites: Sequence[str], patches: Sequence[str], shapes: dict[str, Sequence[int]]
    ) -> dict[str, Any]:
        """All aliases by name, without their questions."""
        task, folder = self._tasks[seed], self._folders[seed]
        every = data.choose_aliases(task, len(task))
        first = data.show_seed(task, every[:1], seed=seed)
        one = OneSeed(
            shown=first,
            every=data.all_aliases(task),
            checkpoints=tuple(found for found, twin in self._models[seed].values() if not twin),
            why_no_twin=why_no_twin(folder),
        )
        names = data.alias_names(task)
        own = task.table.loc[task.rows(kind="question", split="test")].drop_duplicates("alias")
        places = own.set_index("alias")[["subset", "entity"]].to_dict("index")
        aliases = [
            {
                "alias": alias,
                "name": names[alias],
                "subset": str(places[alias]["subset"]),
                "entity": int(places[alias]["entity"]),
                "questions": None,
            }
            for alias in every
        ]
        hint = task.questioning.typed_hint(task, first.aliases[0].questions[0].row)
        return seed_as_json(seed, one, sites, patches, shapes) | {"aliases": aliases, "typed": hint}


def _models_of(folder: SeedFolder) -> dict[str, tuple[Checkpoint, bool]]:
    """What the page may ask for: each checkpoint, and the twin at its end; whether it is the twin."""
    found = {checkpoint_key(checkpoint): (checkpoint, False) for checkpoint in folder.checkpoints()}
    if why_no_twin(folder):
        return found
    return found | {TWIN: (variant_seed(folder, EXCHANGED, at=folder.final()).final(), True)}
