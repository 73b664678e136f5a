"""Computes what the explorer shows: one model of a seed after another, in parallel over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mechocl.analyses.variant_models import variant_seed
from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer
from mechocl.report.explorer import data
from mechocl.report.explorer.packing import Packed, lower_triangles, pack
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.processes import default_jobs, default_threads, map_jobs
from mechocl.runs.progress import Progress
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED
from mechocl.shares import listening
from toy_models.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The models of one seed: the seed at some checkpoints, and its twin at its end."""

    run: str
    attribute: str
    """Attribute of a text world that is looked at."""
    seed: int
    checkpoints: tuple[Checkpoint, ...]
    twin: bool
    """Whether the model of the variant is wanted, too, in which the aliases of d1 and d2 have changed places."""
    aliases: tuple[int, ...]
    patching: bool
    device: str
    most: int
    """Bytes that the models of this seed may take on the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The arrays of one seed's models, packed, and the names along their axes."""

    packed: dict[str, Packed]
    """`checkpoint_key`, or "twin" → that model's arrays. All have the same shapes."""
    sites: tuple[str, ...]
    """Of the lens: "embed", "layer 0", …"""
    patches: tuple[str, ...]
    """Of the effects: "embed", "L0 attn_out", …; none without patching."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of an array → its shape, in the order in which they are packed."""
        return next(iter(self.packed.values())).shapes


def collect_seed(work: Work, progress: Progress) -> Collected:
    """Compute and pack what the models of one seed do with its questions."""
    folder = Run.open(Path(work.run), attribute=work.attribute).seed(work.seed)
    task = folder.analysed_task()
    shown = data.show_seed(task, work.aliases, seed=work.seed)
    total = len(work.checkpoints) + work.twin
    packed: dict[str, Packed] = {}

    def add(key: str, model: Transformer, measured: Task | None = None) -> None:
        before, what = len(packed), "twin" if key == "twin" else f"checkpoint {key}"
        with listening(lambda share: progress(what, (before + share) / total)):
            measures = data.measure_aliases(model, task if measured is None else measured)
            found = data.show_model(model, task, shown, patching=work.patching, measures=measures)
        packed[key] = pack(arrays_of(found, patching=work.patching))
        if before == 0:
            _require_room(len(packed[key].text) * total, work)

    for checkpoint in work.checkpoints:
        progress(f"checkpoint {checkpoint_key(checkpoint)}", len(packed) / total)
        model = folder.model_at(checkpoint, device=work.device)
        add(checkpoint_key(checkpoint), model)
    if work.twin:
        progress("twin", (total - 1) / total)
        twin = variant_seed(folder, EXCHANGED, at=folder.final())
        add("twin", twin.model_at(twin.final(), device=work.device), twin.analysed_task())
    progress("done", 1.0)
    return Collected(
        packed=packed,
        sites=tuple(data.lens_names(model)),
        patches=tuple(data.patch_names(model)) if work.patching else (),
    )


def _require_room(size: int, work: Work) -> None:
    """Raise MechoclError when the models of a seed, which take `size` bytes, are too large for the page."""
    if size > work.most:
        count = len(work.aliases)
        fits = int(0.9 * count * work.most / size)  # not all of it grows with the aliases
        fewer = f"use at most {fits}, or fewer checkpoints" if fits else "use fewer checkpoints"
        raise MechoclError(
            f"aliases is {count}; of a model of this size that makes a page too large for a browser (about {size / 1e6:.0f} MB of a "
            f"seed, which may have {work.most / 1e6:.0f}); {fewer} or seeds"
        )


def arrays_of(found: data.ShownModel, *, patching: bool) -> dict[str, np.ndarray]:
    """The arrays that are packed: of patterns, the weights on keys that a query sees; effects and ends with `patching` alone."""
    arrays = {
        "patterns": lower_triangles(found.patterns),
        "lens": found.lens,
        "logits": found.logits,
        "difference": found.difference,
        "measures": found.measures,
    }
    return arrays | ({"effects": found.effects, "ends": found.ends} if patching else {})


def collect_seeds(works: Sequence[Work], run: Run, *, jobs: int | None) -> list[Collected]:
    """What the models of each of these seeds do, several seeds at a time. Raises MechoclError as `data.show_model` does."""
    device = works[0].device
    at_a_time = min(jobs or default_jobs(len(works), device), len(works))
    found: list[Collected] = map_jobs(
        collect_seed,
        works,
        names=[f"seed {work.seed}" for work in works],
        title="page",
        jobs=at_a_time,
        threads=default_threads(run.recipe, at_a_time),
    )
    return found


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """A checkpoint in words: "stage 2, step 300"."""
    return f"stage {checkpoint.stage}, step {checkpoint.step}"


def checkpoint_key(checkpoint: Checkpoint) -> str:
    """A checkpoint as links and stories name it: STAGE.STEP, such as "2.300"."""
    return f"{checkpoint.stage}.{checkpoint.step}"


def choose_checkpoints(folder: SeedFolder, count: int) -> list[Checkpoint]:
    """At most `count` checkpoints of a seed, evenly along those that were saved, of which the last is always one."""
    there = folder.checkpoints()
    if len(there) <= count:
        return there
    places = np.linspace(len(there) - 1, 0, count).round().astype(int)[::-1]
    return [there[place] for place in places.tolist()]


def why_no_twin(folder: SeedFolder) -> str:
    """Why a seed has no twin, with the command that makes it; "" if it has one."""
    try:
        variant_seed(folder, EXCHANGED, at=folder.final())
    except MechoclError as error:
        return str(error).replace(
            str(folder.path.parent), folder.path.parent.name
        )  # a colleague has other folders
    return ""
