"""The names that options take, from the lists of the code: what the help shows, and what is checked before a run is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mechocl.commands.arguments import Option
from mechocl.commands.words import Given
from mechocl.errors import MechoclError, suggested


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names that an option takes."""

    words: Callable[[], Sequence[str]]
    """Gives the names. It imports the module that lists them."""
    also: str = ""
    """What else the option takes; "" means nothing else, so that other words are refused."""
    parts: str = ""
    """What separates several names in one word: `,` in alias,equals."""


def _sites() -> Sequence[str]:
    from mechocl.models.sites import SITES

    return SITES


def _hook_points() -> Sequence[str]:
    from mechocl.models.sites import SITES, hook_name

    return [hook_name(site, 0) for site in SITES]


def _residual_sites() -> Sequence[str]:
    from mechocl.models.sites import SITES

    return [site for site in SITES if site.startswith("resid_")]


def _pairs() -> Sequence[str]:
    from mechocl.interventions.named_pairs import FORMS

    return FORMS


def _metrics() -> Sequence[str]:
    from mechocl.interventions.metrics import METRICS

    return list(METRICS)


def _metrics_of_any_pairs() -> Sequence[str]:
    """Without the one that needs several questions of an alias."""
    return [name for name in _metrics() if name != "within_alias_auc"]


def _subsets() -> Sequence[str]:
    from toy_models.subsets import SUBSETS

    return list(SUBSETS)


def _roles() -> Sequence[str]:
    from toy_models.task import ROLES

    return ROLES[1:]


def _controls() -> Sequence[str]:
    from mechocl.runs.controls import CONTROLS

    return list(CONTROLS)


def _variants() -> Sequence[str]:
    from mechocl.runs.variants import VARIANTS

    return list(VARIANTS)


def _groups() -> Sequence[str]:
    from mechocl.features.properties import GROUPS

    return GROUPS


def _positions() -> Sequence[str]:
    from mechocl.models.layout import LABELS

    return ["n1" if label == "n" else label for role, label in LABELS.items() if role != "answer"]


def _properties() -> Sequence[str]:
    from mechocl.features.properties import IN_THE_LIST, OF_TAGS

    return [*OF_TAGS, IN_THE_LIST]


def _recipes() -> Sequence[str]:
    from mechocl.runs import recipes

    return list(recipes.named())


def _text_recipes() -> Sequence[str]:
    from mechocl.runs import recipes

    return list(recipes.named_closed_book())


def _any_recipes() -> Sequence[str]:
    return [*_recipes(), *_text_recipes()]


def _probe_recipes() -> Sequence[str]:
    from mechocl.probing import recipe

    return list(recipe.named())


def _stories() -> Sequence[str]:
    from mechocl.report.explorer.story import SHIPPED

    return SHIPPED


def _attributes() -> Sequence[str]:
    from mechocl.closed_book.biographies import ATTRIBUTES

    return ATTRIBUTES


_LABELLED: Final = "n2 and so on, and the words of the run's questions"
_FILE: Final = "a TOML file"
_LAYERS: Final = "the same in other layers"
_ONE: Final = "a hook point (blocks.0.attn.hook_z); a site means all layers"

TAKEN: Final[dict[str, Names]] = {
    "train RECIPE": Names(words=_recipes, also=_FILE),
    "sweep RECIPE": Names(words=_recipes, also=_FILE),
    "controls RECIPE": Names(words=_any_recipes, also=_FILE),
    "finetune RECIPE": Names(words=_text_recipes, also=_FILE),
    "controls --only": Names(words=_controls),
    "variants --only": Names(words=_variants, parts=","),
    "patch --site": Names(words=_sites, also=_ONE),
    "model patch --site": Names(words=_sites, also=_ONE),
    "model patch --metric": Names(words=_metrics_of_any_pairs),
    "probe --sites": Names(words=_sites, also=_ONE),
    "subspace --sites": Names(words=_residual_sites, also="a hook point (blocks.0.hook_resid_mid)"),
    "--pairs": Names(words=_pairs, also="the same with other subsets or tags, or a .csv file"),
    "--metric": Names(words=_metrics),
    "--clean": Names(words=_subsets, also="the beginning of one (d1)"),
    "--corrupted": Names(words=_subsets, also="the beginning of one (d2)"),
    "--subsets": Names(words=_subsets, also="each with a weight (d1_consistent=2)"),
    "--roles": Names(words=_roles, parts=","),
    "--positions": Names(words=_positions, also=_LABELLED),
    "--position": Names(words=_positions, also=_LABELLED),
    "--property": Names(words=_properties, also="integer 0, integer 1 and so on"),
    "--group": Names(words=_groups, parts=","),
    "probe --recipe": Names(words=_probe_recipes, also=_FILE),
    "share --story": Names(words=_stories, also=_FILE),
    "--attribute": Names(words=_attributes, also="those of the run's world"),
    "--site": Names(words=_hook_points, also=_LAYERS),
}
"""Option of a command, or of every command that has it → the names that it takes."""


_FILES: Final = {f"model {name}": ("--pairs",) for name in ("patch", "lens", "attribute")}
"""Options of commands that take a file alone, where other commands take names, too."""


def taken_by(command: str, flag: str) -> Names | None:
    """The names that an option takes; None if it takes no names."""
    if flag in _FILES.get(command, ()):
        return None
    return TAKEN.get(f"{command} {flag}") or TAKEN.get(flag)


def described(command: str, options: Sequence[Option]) -> list[str]:
    """A line for each option that takes names."""
    lines = []
    for option in options:
        if names := taken_by(command, option.flag):
            lines.append(
                f"{option.flag}: {', '.join(names.words())}" + (f"; also {names.also}" if names.also else "")
            )
    return lines


def check(command: str, given: Given) -> None:
    """Raise MechoclError for a word that is none of the names that its option takes; it proposes the nearest one."""
    for flag, times in given.words.items():
        names = taken_by(command, flag)
        if names is None or names.also:
            continue
        known = names.words()
        for word in (word for words in times for word in words):
            for part in word.split(names.parts) if names.parts else [word]:
                if part.strip() and part.strip() not in known:
                    raise MechoclError(f"{command} {flag} {part}: {suggested(part.strip(), known)}")
