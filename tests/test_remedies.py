"""What a message about a damaged file tells its reader to do is done here, for every kind of file, and it helps."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trees
from test_damage import assert_same

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.features import dictionaries
from mechocl.runs import processes
from mechocl.runs.run import Run


@pytest.fixture(scope="module")
def trees_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A tree to be damaged, and a copy of it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tree").mkdir()
    trees.make(folder / "tree")
    shutil.copytree(folder / "tree", folder / "copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: 1)
        yield folder / "tree", folder / "copy"


def put_back(tree: Path, copy: Path, owner: str) -> None:
    shutil.rmtree(tree / owner, ignore_errors=True)
    shutil.copytree(copy / owner, tree / owner)


def found_in(tree: Path, part: str) -> Any:
    """What is read, without the time that it took to train; of a run that was begun, its finished models."""
    if part == "begun":
        trees.continue_fine_tuning(tree)
        seed = Run.open(tree / "begun").seed(0)
        models = [seed.model_path(one) / "model.safetensors" for one in seed.checkpoints()]  # type: ignore[attr-defined]
        return [files.sha256(path) for path in models], seed.history()
    found = trees.READERS[part](tree)
    if part == "sweep":
        return [one.drop(columns="seconds") for one in found]
    return (
        found[:2] if part in ("run/seed", "run/stacks") else found
    )  # without what an unfinished stage leaves


def spoilt(path: Path) -> Iterator[None]:
    """Cut the file off, then delete it."""
    content = path.read_bytes()
    path.unlink()  # tensors that were read are views of the old file
    path.write_bytes(content[: len(content) // 2])
    yield
    path.unlink()
    yield


def ways_out(line: str, path: Path) -> list[tuple[Path | None, bool]]:
    """What a message about a file proposes: each time what is deleted, and whether the command is run again.

    What is for files that their user edited is left out. To restore the file from a copy is proposed, too; the tests of
    damage do that after each damage.
    """
    told = line.split("; ", 1)[1].split(", or, if you edited it")[0]
    ways = []
    for way in re.split(r",? or ", told):
        deleted = re.search(r"delete (it\b|/[^ :,]+)", way)
        again = "again" in way
        if deleted or again:
            target = None if deleted is None else path if deleted[1] == "it" else Path(deleted[1])
            ways.append((target, again))
    return ways


def apply_way(target: Path | None, again: bool, tree: Path, part: str) -> None:
    if target is not None:
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    if again:
        trees.WRITERS[trees.part_of(part, trees.WRITERS)](tree)


def damaged(tree: Path, copy: Path, path: Path, part: str, damages: int) -> str:
    """The line about a file after so many damages, "" if there is none."""
    put_back(tree, copy, part.split("/")[0])
    for _ in zip(range(damages), spoilt(path), strict=False):
        pass
    try:
        trees.READERS[part](tree)
    except MechoclError as error:
        return str(error)
    return ""


ALONE = {"run/manifest.json", "sweep/manifest.json", "tuned/manifest.json", "begun/manifest.json"}
"""Nothing but a copy, or another --out, brings these back: they say what was asked for."""

IN_OTHERS = r"begun/(seed-N/(checksums|task|vocabulary)|base)|tuned/seed-N/stage-N/final/(?!config|model)"
"""Files that are written and read as others, which are tried."""


@pytest.mark.parametrize("part", trees.READERS)
def test_what_is_said_about_a_damaged_file_mends_it(trees_: tuple[Path, Path], part: str) -> None:
    tree, copy = trees_
    owner = part.split("/")[0]
    put_back(tree, copy, owner)
    before = found_in(tree, part)
    seen = set()
    for kind, original in trees.kinds(copy).items():
        if trees.part_of(kind) != part or kind in ALONE or re.match(IN_OTHERS, kind):
            continue
        path = tree / original.relative_to(copy)
        for damages in (1, 2):
            line = damaged(tree, copy, path, part, damages)
            if not line:  # it was made again, or nobody misses it
                continue
            ways = ways_out(line, path)
            assert ways, line
            for target, again in ways:
                if (way := (target or kind, again)) in seen:
                    continue
                seen.add(way)
                assert damaged(tree, copy, path, part, damages) == line
                apply_way(target, again, tree, part)
                try:
                    assert_same(found_in(tree, part), before)
                except Exception as error:
                    raise AssertionError(f"{line}\nwas done, and then: {error!r}") from error
    put_back(tree, copy, owner)


def test_what_else_is_said_of_folders_helps(trees_: tuple[Path, Path]) -> None:
    tree, copy = trees_
    for owner in trees.WRITERS:
        if "/" not in owner:
            put_back(tree, copy, owner)
    shutil.rmtree(tree / "sweep" / "rows")
    with pytest.raises(MechoclError, match=r"has no finished runs yet; .*run the same `mechocl sweep` again"):
        trees.read_sweeps(tree)
    trees.sweep(tree)
    assert trees.read_sweeps(tree)

    shutil.rmtree(tree / "run" / "saes")
    run = Run.open(tree / "run")
    with pytest.raises(MechoclError, match="train one with: mechocl sae train RUN"):
        dictionaries.find(run.path, "any", 0)
    trees.read_saes(tree)
    assert dictionaries.find(run.path, dictionaries.names(run.path)[0], 0).is_dir()

    seed = Run.open(tree / "tuned").seed(0)
    added = seed.path / seed.final().name / "notes.txt"
    added.touch()
    with pytest.raises(MechoclError, match=r"notes\.txt was added to a finished checkpoint; remove it"):
        seed.model_at(seed.final(), device="cpu")
    added.unlink()
    assert seed.model_at(seed.final(), device="cpu")


OWNERS = {
    "run": (trees.train, "run/seed-0/stage-2"),
    "control": (trees.train, "run/controls/noise/seed-0"),
    "analyses": (trees.read_results, "run/results/evaluate"),
    "probes": (trees.sweep_probes, "run/probes/mine"),
    "activations": (trees.sweep_probes, "run/activations/seed-0"),
    "saes": (trees.read_saes, "run/saes"),
    "crosscoders": (trees.read_crosscoders, "run/saes"),
    "sweep": (trees.sweep, "sweep/rows"),
    "pretrained": (trees.pretrain, "pretrained"),
    "tuned": (trees.fine_tune, "tuned/seed-0/stage-1"),
}
"""What the leftovers of a killed write belong to → what starts again, and the folder in which they lie."""


@pytest.mark.parametrize("owner", OWNERS)
def test_leftovers_of_killed_writes_are_swept_at_the_next_start(
    trees_: tuple[Path, Path], owner: str
) -> None:
    tree, copy = trees_
    start, where = OWNERS[owner]
    put_back(tree, copy, where.split("/")[0])
    file, folder = (tree / where / f".{name}.0a1b2c.tmp" for name in ("rows.parquet", "final"))
    folder.mkdir(parents=True)
    (folder / "part").write_text("cut o")
    file.write_text("cut o")
    start(tree)
    assert not file.exists()
    assert not folder.exists()
