"""Every attack of the campaign, and one of them by its name and number."""

import functools
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from campaign import bad_inputs, damage, interrupted, ray_workers
from campaign.outcomes import Case, Outcome
from campaign.worlds import WRITERS, Trees

SEED: Final = 0

Attack = Callable[[Trees, str, int, random.Random], tuple[Outcome, str]]

ATTACKS: Final[dict[str, Attack]] = {
    "kill": interrupted.kill,
    "disk full at a write": interrupted.full_at_write,
    "small disk": interrupted.full_really,
    "two processes": interrupted.together,
    **{f"file: {how}": functools.partial(damage.attack, how=how) for how in damage.ALTERATIONS},
    "input": bad_inputs.attack,
    "Ray's worker killed": ray_workers.kill,
}
"""The kinds of attack. Each takes what is attacked, the case's number and its random numbers."""

REPEATED: Final = {"kill": 6, "small disk": 2, "two processes": 2, "file: flip": 3, "file: cut": 2, "file: remove": 1, "file: edit": 6}  # fmt: skip
"""How often each is tried; slow commands a third as often."""

MOST_WRITES: Final = 12
"""The number of writes of a command at which the disk is full, at most; spread evenly over more."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A case that is to be tried."""

    kind: str
    what: str
    number: int


def whole(trees: Trees, kinds: Collection[str] = tuple(ATTACKS)) -> Iterator[Planned]:
    """All cases of some kinds of attack."""
    for kind in kinds:
        if kind != "small disk" or interrupted.may_mount():
            for what, numbers in _numbers(trees, kind):
                for number in numbers:
                    yield Planned(kind, what, number)


def in_turn(trees: Trees, kinds: Collection[str] = tuple(ATTACKS)) -> Iterator[Planned]:
    """All cases of some kinds of attack, one of each kind in turn, each kind's in an order that is drawn once.

    So a campaign that is stopped has tried something of everything.
    """
    drawn = []
    for kind in kinds:
        cases = list(whole(trees, (kind,)))
        random.Random(kind).shuffle(cases)
        drawn.append(cases)
    for cases in itertools.zip_longest(*drawn):
        yield from (case for case in cases if case is not None)


def _numbers(trees: Trees, kind: str) -> Iterator[tuple[str, Iterable[int]]]:
    """What a kind of attack attacks, and the numbers of its cases."""
    if kind == "input":
        counts = Counter(bad.what for bad in bad_inputs.every())
        yield from ((what, range(count)) for what, count in counts.items())
    elif kind == "Ray's worker killed":
        yield "sweep", range(3)
    elif kind.startswith("file: "):
        for what in (what for name in damage.WORLDS for what in damage.kinds(trees, name)):
            if kind != "file: edit" or what.endswith("json"):
                yield what, range(REPEATED[kind])
    else:
        for name, writer in WRITERS.items():
            if kind != "disk full at a write":
                yield name, range(max(1, REPEATED[kind] // (3 if writer.slow else 1)))
            elif not writer.slow:
                count = trees.writes(name)
                yield name, sorted({i * count // MOST_WRITES for i in range(MOST_WRITES)})


def attempt(trees: Trees, planned: Planned, *, seed: int = SEED) -> Case:
    """Try a case. All its random choices are made of the seed and its name and number."""
    rng = random.Random(f"{seed}/{planned.kind}/{planned.what}/{planned.number}")
    outcome, detail = ATTACKS[planned.kind](trees, planned.what, planned.number, rng)
    return Case(planned.kind, planned.what, planned.number, outcome, detail)
