"""How far a long computation is: its loops tell whoever listens, and need not know who that is."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Final, TypeVar

_Item = TypeVar("_Item")

_LISTENER: Final[ContextVar[Callable[[float], None] | None]] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(listener: Callable[[float], None]) -> Iterator[None]:
    """During the block, `listener` is called with the share that is done of what runs in it, 0 … 1."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def in_shares(items: Sequence[_Item], *, start: float = 0.0, end: float = 1.0) -> Iterator[_Item]:
    """The items, one after another, as equal parts of the work between the shares `start` and `end` of the whole.

    A loop of this kind inside it divides the part of its item.
    """
    listener = _LISTENER.get()
    if listener is None:
        yield from items
        return
    for index, item in enumerate(items):
        first = start + (end - start) * index / len(items)
        width = (end - start) / len(items)
        listener(first)
        with listening(lambda share, first=first, width=width: listener(first + width * share)):  # type: ignore[misc]
            yield item
    listener(end)
