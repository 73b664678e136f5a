"""What a run's `manifest.json` must say. It is checked here when a run is opened, so that nothing else has to."""

import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic

from mechocl.errors import MechoclError
from mechocl.runs import plain_values

SCHEMA: Final = 2
"""The newest schema of manifests, which this version writes."""

_Seed = Annotated[int, pydantic.Field(ge=0, le=plain_values.LARGEST)]
_Seeds = Annotated[list[_Seed], pydantic.Field(min_length=1)]


def _are_different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is named twice")
    return seeds


def _is_time(text: str) -> str:
    datetime.datetime.fromisoformat(text)
    return text


class _Git(pydantic.BaseModel):
    commit: str
    dirty: str


class _Maker(pydantic.BaseModel):
    seeds: list[_Seed]
    machine: str
    packages: dict[str, str]
    git: _Git | None


class _Manifest(pydantic.BaseModel):
    """The keys that a manifest must have. It may have others."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

    recipe_name: str
    recipe: dict[str, Any]
    seeds: Annotated[_Seeds, pydantic.AfterValidator(_are_different)]
    stacks: list[_Seeds]
    device: Annotated[str, pydantic.Field(pattern=r"^(cpu|cuda(:\d+)?)$")]
    machine: str
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)]
    precision: Literal["float32", "bf16"]
    packages: dict[str, str]
    created: Annotated[str, pydantic.AfterValidator(_is_time)]
    seconds: dict[str, Annotated[float, pydantic.Field(ge=0)]]
    git: _Git | None = None
    makers: Annotated[list[_Maker], pydantic.Field(min_length=1)] | None = None

    @pydantic.model_validator(mode="after")
    def _stacks_hold_the_seeds(self) -> "_Manifest":
        if sorted(seed for stack in self.stacks for seed in stack) != sorted(self.seeds):
            raise ValueError("'stacks' does not hold each of the seeds once")
        return self


def refuse_sweep(found: dict[str, Any], path: Path) -> None:
    """Raise MechoclError if the manifest in the folder `path` is that of a sweep."""
    if found.get("kind") == "sweep":
        raise MechoclError(f"{path} is a sweep, not a run; `mechocl sweep --table {path}` shows it")


def check_manifest(found: Any, path: Path) -> dict[str, Any]:
    """The manifest of a run from what its file says, in the newest schema.

    Seeds of schema 1 were each trained alone, and without a `git` it is not known from which commit. `path` is that
    of the file, for messages.

    Raises MechoclError, which names the key, when it is damaged, and when a newer version wrote it.
    """
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise MechoclError(f"{path} is damaged: it has no schema number; restore it")
    if schema > SCHEMA:
        raise MechoclError(
            f"{path.parent} was written by a newer version (schema {schema}, this one reads {SCHEMA}); upgrade mechocl"
        )
    manifest: dict[str, Any] = {"git": None} | found
    if schema == 1 and isinstance(found.get("seeds"), list):
        manifest |= {"schema": SCHEMA, "stacks": [[seed] for seed in found["seeds"]]}
    plain_values.refuse_odd_values(manifest, source=str(path))
    try:
        _Manifest.model_validate(manifest)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = plain_values.in_short(".".join(map(str, first["loc"])))
        reason = str(first["msg"]).removeprefix("Value error, ")
        place = f"no valid {key!r} ({reason[0].lower() + reason[1:]})" if key else reason
        raise MechoclError(f"{path} is damaged: {place}; restore it") from None
    return manifest
