"""Commands that are killed, that find the disk full, or that meet themselves: the same command again ends as if nothing had happened."""

import contextlib
import errno
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from campaign.children import Ended
from campaign.outcomes import Outcome, ascii_word, ending, last_line
from campaign.same import differences, words
from campaign.worlds import WRITERS, Trees

SLACK_BYTES = 2**16
"""What a small disk holds beside the files."""


def kill(trees: Trees, name: str, number: int, rng: random.Random) -> tuple[Outcome, str]:
    """SIGKILL at a random moment of the command's own duration; then the same command again."""
    after = rng.uniform(0.02, 1.05) * trees.cpu_s(name)
    trees.restore(trees.before(name))
    killed = trees.run(WRITERS[name].command, kill_after=after)
    how = f"{in_words(name)} killed after {after:.2f} s of computing"
    if killed.code != -9 and (wrong := ending(killed)):
        return wrong, f"{how}, before that: {last_line(killed)}"
    return again(trees, name, how)


def again(trees: Trees, name: str, how: str) -> tuple[Outcome, str]:
    """The same command again; its result compared with that of the command that nothing disturbed."""
    ended = trees.run(WRITERS[name].command)
    if wrong := ending(ended):
        return ("dead end" if wrong == "named" else wrong), f"{how}; again: {last_line(ended)}"
    return compared(trees, name, ended, how)


def compared(trees: Trees, name: str, ended: Ended, how: str) -> tuple[Outcome, str]:
    """Whether the tree, and what was printed, are those of the command that nothing disturbed."""
    found = differences(trees.work, trees.after(name))
    if not found and words(ended.out) != words(trees.said(name)):
        found = ["prints something else"]
    return ("silent", f"{how}; then {'; '.join(found[:6])}") if found else ("identical", how)


def in_words(name: str) -> str:
    return f"`mechocl {' '.join(map(ascii_word, WRITERS[name].command))}`"


# a full disk ---------------------------------------------------------------------------------------


def full_at_write(trees: Trees, name: str, number: int, rng: random.Random) -> tuple[Outcome, str]:
    """The disk is full at the n-th write and afterwards, n being the number of the case; then there is space again."""
    trees.restore(trees.before(name))
    hit = trees.folder / "hit"
    hit.unlink(missing_ok=True)
    failing = number + 1
    full = trees.run(WRITERS[name].command, before=lambda: _fill_disk(failing, hit))
    how = f"{in_words(name)}, disk full at write {failing}"
    if not hit.exists():
        return compared(trees, name, full, f"{how}, which it does not have")
    return _then_with_space(trees, name, full, how)


def _fill_disk(first: int, hit: Path) -> None:
    """Let every write from the first-th on fail, in this process. `hit` is made then."""
    original, done = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done >= first:
            hit.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    os.fsync = fsync


def full_really(trees: Trees, name: str, number: int, rng: random.Random) -> tuple[Outcome, str]:
    """A small file system that is full somewhere in the command, whoever writes; then a larger one."""
    before, after = _size(trees.before(name)), _size(trees.after(name))
    room = rng.uniform(0, 1) * (after - before)
    how = f"{in_words(name)} on a disk with {room / 1e3:.0f} kB left"
    with small_disk(trees, trees.before(name), int(before + room) + SLACK_BYTES) as grow:
        full = trees.run(WRITERS[name].command)
        grow()
        return _then_with_space(trees, name, full, how)


def _then_with_space(trees: Trees, name: str, full: Ended, how: str) -> tuple[Outcome, str]:
    wrong = ending(full)
    if wrong is None:
        return compared(trees, name, full, f"{how}, which it does not mind")
    if wrong != "named" or not re.search("disk|space", last_line(full)):
        return ("unclear" if wrong == "named" else wrong), f"{how}: {last_line(full)}"
    return again(trees, name, how)


def _size(tree: Path) -> int:
    """Bytes of whole pages, as a file system in memory counts."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 for path in tree.rglob("*") if path.is_file())


def may_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def small_disk(trees: Trees, snapshot: Path, size: int) -> Iterator[object]:
    """The work folder as a file system of a size, with a snapshot in it. Gives a function that makes it large."""
    trees.empty()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "campaign", trees.work], check=True)
    try:
        shutil.copytree(snapshot, trees.work, dirs_exist_ok=True)
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", trees.work], check=True)
    finally:
        subprocess.run(["umount", "-l", trees.work], check=True)


# two processes -------------------------------------------------------------------------------------


def together(trees: Trees, name: str, number: int, rng: random.Random) -> tuple[Outcome, str]:
    """The same command twice at a time: both end well, or one says that the other is at work."""
    later = rng.uniform(0, 0.5) * trees.cpu_s(name)
    trees.restore(trees.before(name))
    children = [trees.start(WRITERS[name].command, "first")]
    children[0].wait_until(later)
    children.append(trees.start(WRITERS[name].command, "second"))
    both = [child.wait(600) for child in children]
    how = f"{in_words(name)} twice, {later:.2f} s apart"
    for ended in both:
        if (wrong := ending(ended)) not in (None, "named"):
            return wrong, f"{how}: {last_line(ended)}"
    good = [ended for ended in both if ended.code == 0]
    if not good:
        return "dead end", f"{how}: neither ends well: {last_line(both[0])}; {last_line(both[1])}"
    whole = [ended for ended in good if words(ended.out) == words(trees.said(name))]
    said = all(ended in whole or "another process" in ended.out for ended in good)
    outcome, detail = compared(trees, name, whole[0] if whole and said else good[0], how)
    return ("named" if outcome == "identical" and len(good) == 1 else outcome), detail
