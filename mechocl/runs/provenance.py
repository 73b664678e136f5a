"""What a manifest says about how a run was made: the machine, and the state of the source tree."""

import contextlib
import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from mechocl import __version__, files
from mechocl.runs import recipes
from mechocl.runs.manifest import SCHEMA
from mechocl.runs.recipes import AnyRecipe

PACKAGES: Final = ("torch", "transformer-lens", "transformers", "numpy", "pandas", "scikit-learn")


def maker(device: str) -> dict[str, Any]:
    """What makes the seeds that are trained here and now: versions, commit and machine (`makers.KEYS`)."""
    return {
        "machine": machine(device),
        "python": platform.python_version(),
        "packages": {"mechocl": __version__} | {name: metadata.version(name) for name in PACKAGES},
        "git": git_state(),
    }


def machine(device: str) -> str:
    """Name of the device for the record: that of the GPU, or that of the processor with its number of cores."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    return f"{model}, {os.cpu_count()} cores"


def git_state() -> dict[str, str] | None:
    """Commit of the source tree and a hash of its uncommitted changes; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace")

    try:
        # this fails if mechocl is installed inside another project's checkout
        git("ls-files", "--error-unmatch", here.name)
        commit, changes = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": files.fingerprint(changes) if changes else ""}


def new_manifest(
    recipe: AnyRecipe, recipe_name: str, seeds: tuple[int, ...], device: str, threads: int
) -> dict[str, Any]:
    """The manifest of a run that begins now, without its stacks of seeds."""
    return {
        "schema": SCHEMA,
        "recipe_name": recipe_name,
        "recipe": recipes.plain(recipe),
        "seeds": sorted(seeds),
        "device": device,
        "threads": threads,
        "precision": recipe.training.precision,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": {},
        **maker(device),
    }
