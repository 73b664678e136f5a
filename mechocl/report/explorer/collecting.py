"""Computes what the explorer shows, one model after another, in parallel over seeds and checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mechocl.analyses.variant_models import variant_seed
from mechocl.errors import MechoclError
from mechocl.report.explorer import data
from mechocl.report.explorer.packing import Packed, lower_triangles, pack
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.processes import default_jobs, default_threads, map_jobs
from mechocl.runs.progress import Progress
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One model of the page: a seed at a checkpoint, or the seed's twin at its end."""

    run: str
    attribute: str
    seed: int
    checkpoint: Checkpoint
    twin: bool
    """Whether it is the model of the variant in which the aliases of d1 and d2 have changed places."""
    aliases: tuple[int, ...]
    patching: bool
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One model's arrays, packed, and the names along their axes."""

    packed: Packed
    sites: tuple[str, ...]
    """Of the lens: "embed", "layer 0", …"""
    patches: tuple[str, ...]


def collect_model(work: Work, progress: Progress) -> Collected:
    """Compute and pack what one model does with the questions of its seed."""
    progress("computing", 0.0)
    folder = Run.open(Path(work.run), attribute=work.attribute).seed(work.seed)
    task = folder.analysed_task()
    shown = data.show_seed(task, work.aliases, seed=work.seed)
    measured = None
    if work.twin:
        twin = variant_seed(folder, EXCHANGED, at=work.checkpoint)
        model, measured = twin.model_at(twin.final(), device=work.device), twin.analysed_task()
    else:
        model = folder.model_at(work.checkpoint, device=work.device)
    found = data.show_model(model, task, shown, patching=work.patching, measured=measured)
    progress("done", 1.0)
    return Collected(
        packed=pack(arrays_of(found, patching=work.patching)),
        sites=tuple(data.lens_names(model)),
        patches=tuple(data.patch_names(model)) if work.patching else (),
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


def collect_models(works: Sequence[Work], run: Run, *, jobs: int | None) -> list[Collected]:
    """What each of these models does, several at a time. Raises MechoclError as `data.show_model` does."""
    device = works[0].device
    at_a_time = min(jobs or default_jobs(len(works), device), len(works))
    names = [
        f"seed {work.seed}, " + ("twin" if work.twin else checkpoint_name(work.checkpoint)) for work in works
    ]
    found: list[Collected] = map_jobs(
        collect_model, works, names=names, title="page", jobs=at_a_time, threads=default_threads(run.recipe, at_a_time)
    )  # fmt: skip
    return found


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """A checkpoint in words: "stage 2, step 300"."""
    return f"stage {checkpoint.stage}, step {checkpoint.step}"


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
        return str(error).replace(str(folder.path.parent), folder.path.parent.name)  # a colleague has other folders
    return ""
