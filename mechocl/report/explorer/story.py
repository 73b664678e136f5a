"""Stories: captioned views of an explorer, in a TOML file.

    title = "What a tag-2 alias lacks"

    [[views]]
    caption = "At the end of training, the integer of a tag-1 alias comes first."
    subset = "d1_consistent"
    position = "="

All that a view does not name is as on the page's own first view.
"""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mechocl.errors import MechoclError
from mechocl.report.explorer.data import ShownSeed
from mechocl.runs.folders import Checkpoint

MOST_VIEWS: Final = 7
"""The largest number of views of a story."""

SHIPPED: Final = ("demo",)
"""Names of the stories of the package."""


class View(BaseModel):
    """One captioned view."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    caption: str = Field(min_length=1)
    """What to see, in a sentence or two."""
    seed: int | None = None
    checkpoint: str | None = None
    """A checkpoint as STAGE.STEP (`2.300`), or "first" or "last" of those on the page."""
    subset: str | None = None
    """Subset whose first alias is shown, where no alias is named."""
    alias: int | None = None
    question: int | None = None
    """Which of the alias's questions, from 1."""
    head: str | None = None
    """The pinned head as LAYER.HEAD (`0.1`)."""
    position: str | None = None
    """Label of the position that the lens reads: `alias`, `=`."""


class Story(BaseModel):
    """The views of a page, in their order."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    title: str = Field(min_length=1)
    views: tuple[View, ...] = Field(min_length=1, max_length=MOST_VIEWS, strict=False)

    def check(self, seeds: Mapping[int, tuple[Sequence[Checkpoint], ShownSeed]]) -> None:
        """Raise MechoclError for the first view that names what the page does not have. `seeds`: seed → what the page has of it."""
        for number, view in enumerate(self.views, start=1):
            if problem := _problem(view, seeds):
                raise MechoclError(f"view {number} of the story: {problem}")

    def check_heads(self, layers: int, heads: int) -> None:
        """Raise MechoclError for the first view that pins a head which a model of this shape does not have."""
        known = {f"{layer}.{head}" for layer in range(layers) for head in range(heads)}
        for number, view in enumerate(self.views, start=1):
            if view.head is not None and view.head not in known:
                raise MechoclError(
                    f"view {number} of the story: head {view.head!r} is not in the model; write LAYER.HEAD, from 0.0 to "
                    f"{layers - 1}.{heads - 1}"
                )

    def views_as_json(self) -> list[dict[str, Any]]:
        """The views as the page reads them: only what each names."""
        return [view.model_dump(exclude_none=True) for view in self.views]


def read_story(name: str) -> Story:
    """The story of the package with this name, or that of a TOML file.

    Raises MechoclError, which says what to write, for a file that is missing or is no story.
    """
    try:
        text = (
            files("mechocl.report.explorer").joinpath(f"stories/{name}.toml").read_text("utf-8")
            if name in SHIPPED
            else Path(name).read_text("utf-8")
        )
        return Story.model_validate(tomllib.loads(text))
    except (FileNotFoundError, IsADirectoryError):
        raise MechoclError(
            f"--story {name}: there is no such file; give a TOML file, or {' or '.join(SHIPPED)}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MechoclError(f"--story {name} is no TOML: {error}; mend the file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise MechoclError(f"--story {name}, {where}: {first['msg']}; mend the file") from None


def _problem(view: View, seeds: Mapping[int, tuple[Sequence[Checkpoint], ShownSeed]]) -> str:
    """What a view names that the page does not have, and what it has; "" if all is there."""
    seed = next(iter(seeds)) if view.seed is None else view.seed
    if seed not in seeds:
        return f"seed {seed} is not on the page; it has {', '.join(map(str, seeds))}"
    checkpoints, shown = seeds[seed]
    keys = ["first", "last", *(f"{one.stage}.{one.step}" for one in checkpoints)]
    there: list[tuple[str, object, Sequence[object]]] = [
        ("checkpoint", view.checkpoint, keys),
        ("subset", view.subset, list(dict.fromkeys(one.subset for one in shown.aliases))),
        ("alias", view.alias, [one.alias for one in shown.aliases]),
        ("position", view.position, shown.labels),
        ("question", view.question, range(1, 1 + min(len(one.questions) for one in shown.aliases))),
    ]
    for name, value, known in there:
        if value is not None and value not in known:
            return f"{name} {value!r} is not on the page; it has {', '.join(map(str, known))}"
    return ""
