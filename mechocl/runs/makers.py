"""Which seeds of a run were made by which versions, commit and machine, as its manifest says."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

KEYS: Final = ("machine", "python", "packages", "git")
"""Keys of a manifest that say what a seed was made by."""


def makers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What made the seeds of a run, from the first to the last: each a dict of `seeds`, machine, Python, packages and git.

    A seed that one version began and another one continued is in both.
    """
    first = {key: manifest.get(key) for key in KEYS}
    found: list[dict[str, Any]] = manifest.get("makers", [first | {"seeds": manifest["seeds"]}])
    return found


def with_maker(manifest: dict[str, Any], now: dict[str, Any], seeds: Iterable[int]) -> list[dict[str, Any]]:
    """The makers of a run whose given seeds are trained by `now`."""
    found = makers(manifest)
    for one in found:
        if {key: one.get(key) for key in KEYS} == now:
            others = [m for m in found if m is not one]
            return [*others, one | {"seeds": sorted({*one["seeds"], *seeds})}] if seeds else found
    return [*found, now | {"seeds": sorted(seeds)}]


def mixed_versions(made_by: Sequence[dict[str, Any]]) -> str:
    """In one line, which seeds were made by what, and only what differs; "" if everything was made by one."""
    used = [_in_words(one) for one in made_by if one["seeds"]]
    differing = [name for name in used[0] if len({words[name] for words in used}) > 1] if used else []
    if not differing:
        return ""
    return "; ".join(
        f"seed{'s' * (len(one['seeds']) > 1)} {', '.join(map(str, one['seeds']))}: "
        + ", ".join(words[name] for name in differing)
        for one, words in zip([one for one in made_by if one["seeds"]], used, strict=True)
    )


def _in_words(one: dict[str, Any]) -> dict[str, str]:
    """What can change the bits of a seed."""
    git = one["git"] or {}
    changed = f" with changes {git['dirty'][:6]}" if git.get("dirty") else ""
    return {
        "torch": f"torch {one['packages'].get('torch')}",
        "mechocl": f"mechocl {one['packages'].get('mechocl')}",
        "commit": f"commit {git['commit'][:10]}{changed}" if git else "no commit",
        "machine": str(one["machine"]),
    }
