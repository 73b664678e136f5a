"""Nothing that a result depends on is missing from its key: declared inputs, config fields, and every file that is opened."""

import copy
import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from contract import CONFIGS, dictionary
from opened import alter, assert_in_the_key, needs_linux, read_by
from traced import ROOT

from mechocl import files
from mechocl.analyses import crosscoder_jobs, inputs, jobs, results, variant_jobs
from mechocl.analyses.inputs import Input
from mechocl.analyses.registry import ANALYSES
from mechocl.features import dictionaries
from mechocl.features.crosscoders import CrosscoderConfig
from mechocl.interventions.circuits import CircuitConfig
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.patching import PatchingConfig
from mechocl.probing import recipe as probe_recipes
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs.activation_cache import ActivationCache
from mechocl.runs.folders import SeedFolder
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED, variant_path

CROSSCODER = crosscoder_jobs.ANALYSIS
EVERY = [*ANALYSES, CROSSCODER]
SAE = "random"

SMALL_CROSSCODER = CrosscoderConfig(width=24, k=4, activations=2048, batch_size=256, buffer=512)


@dataclass
class World:
    """A run with a dictionary, and files of the user beside it."""

    folder: Path

    @property
    def run(self) -> Run:
        return Run.open(self.folder / "run")

    @property
    def cache(self) -> ActivationCache:
        return ActivationCache(run=self.run.path, limit_gb=1.0, dtype="float16")

    def config(self, name: str) -> Any:
        """Small settings that name every kind of file that the analysis can be given."""
        pairs = (str(self.folder / "mine.csv"), "d1-to-other-d2")
        match name:
            case "patch":
                return PatchingConfig(pairs=pairs, n_pairs=32, site=("resid_post",), by="all", from_stage=1)
            case "circuit":
                return CircuitConfig(pairs=pairs, n_pairs=16, steps=1, random_circuits=1)
            case "probe":
                return ProbingConfig(
                    recipe=str(self.folder / "mine"), permutations=2, aliases_per_subset=20, n_pairs=4
                )
            case "sae-quality":
                return replace(CONFIGS[name], others=("other",))
            case "crosscoder":
                return SMALL_CROSSCODER
        return CONFIGS.get(name) or ANALYSES[name].config()

    def compute(self, name: str) -> None:
        run, config = self.run, self.config(name)
        if name == CROSSCODER:
            job = crosscoder_jobs.Job(str(run.path), 0, config, "stages", "cpu")
            crosscoder_jobs.crosscode_seed(job, lambda text, share: None)
        else:
            cache = self.cache if name == "probe" else None
            results.analyse_seed(run, run.seed(0), name, config, stage=None, device="cpu", cache=cache)

    def key(self, name: str, config: Any = None, **changes: Any) -> dict[str, Any]:
        run, config = self.run, config or self.config(name)
        folder = changes.pop("folder", run.seed(changes.pop("seed", 0)))
        stage = changes.pop("stage", None)
        if name == CROSSCODER:
            asked = crosscoder_jobs._asked(run, folder, config, changes.pop("which", "stages"))
            return crosscoder_jobs.crosscoder_key(asked)
        cache = changes.pop("cache", self.cache if name == "probe" else None)
        return results.result_key(folder, name, config, stage, cache=cache, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run = jobs.train_run(
        folder / "run", tiny.recipe(folder), recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1
    )
    for seed in (0, 1):
        record = {"checkpoint": run.seed(seed).final().sha256, "held_out": 0.34, "seed": 0, "config": {}}
        sae = copy.deepcopy(dictionary(16).sae)
        sae.cfg.metadata.hook_name = dictionary(16).read
        for name in (SAE, "other"):
            dictionaries.save(sae, dictionaries.path_of(run.path, name, seed), record)
    World(folder).compute(CROSSCODER)
    variant_jobs.train_variants(run, (EXCHANGED,), jobs=1)
    task = run.seed(0).load_task()
    pairs = pairs_named(task, "d1-to-other-d2", n_pairs=32, seed=0)
    words = task.vocabulary.tokens

    def text(ids: Any) -> str:
        return " ".join(words[int(i)] for i in ids)

    lines = [
        f"{text(clean)},{text(corrupted)},{words[int(target)]},{words[int(foil)]}"
        for clean, corrupted, target, foil in zip(
            pairs.clean, pairs.corrupted, pairs.target, pairs.foil, strict=True
        )
    ]
    (folder / "mine.csv").write_text("\n".join(["clean,corrupted,target,foil", *lines]), encoding="utf-8")
    (folder / "mine").write_text(tiny.PROBE, encoding="utf-8")
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run" / "results")
    return World(tmp_path)


# ------------------------------------------------------------------------------------ files


@needs_linux
@pytest.mark.parametrize("name", EVERY)
def test_every_file_that_is_opened_changes_the_key(name: str, world: World) -> None:
    found = read_by(lambda: world.compute(name), watched=world.folder)
    assert {"task.safetensors", "task.parquet", "final.safetensors"} <= {path.name for path in found}
    assert_in_the_key(found, lambda: world.key(name), run=world.run.path)
    expected = {
        "patch": {"mine.csv"},
        "circuit": {"mine.csv"},
        "probe": {"mine"},
        "sae-quality": {"cfg.json", "sae_weights.safetensors", "mechocl.json"},
        "sae-search": {"cfg.json", "sae_weights.safetensors", "mechocl.json"},
        "sae-test": {"cfg.json", "sae_weights.safetensors", "mechocl.json"},
        CROSSCODER: {"cfg.json", "sae_weights.safetensors", "mechocl.json"},
    }
    assert expected.get(name, set()) <= {path.name for path in found}


@needs_linux
def test_the_watch_sees_what_a_computation_needs(world: World) -> None:
    """Without a file that is needed the computation fails, so what it needs is found without any watch."""
    run = world.run
    seen = read_by(lambda: world.compute("patch"), watched=world.folder)
    needed = set()
    for path in [run.path / "manifest.json", world.folder / "mine.csv", *run.seed(0).path.rglob("*.*")]:
        shutil.rmtree(run.path / "results", ignore_errors=True)
        path.rename(path.with_name("hidden"))
        try:
            world.compute("patch")
        except Exception:  # however it fails
            needed.add(path)
        path.with_name("hidden").rename(path)
    assert {"manifest.json", "mine.csv", "checksums.json", "task.parquet", "final.safetensors"} <= {
        path.name for path in needed
    }
    assert needed <= seen


# ------------------------------------------------------------------------------------ declared inputs


def another(value: Any, field: str) -> Any:
    """Another value of a config's field."""
    match field:
        case "recipe":
            return "recency"
        case "sae":
            return "other"
        case "others":
            return ()
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value, value[0] if value else "x")
        case None:
            return 1
    raise AssertionError(f"no other value of {field} is known")


@pytest.mark.parametrize("name", EVERY)
def test_every_field_of_the_config_changes_the_key(name: str, world: World) -> None:
    config = world.config(name)
    first = world.key(name, config)
    assert world.key(name, copy.copy(config)) == first
    for field in dataclasses.fields(config):
        changed = copy.copy(config)
        object.__setattr__(changed, field.name, another(getattr(config, field.name), field.name))
        if name == CROSSCODER and field.name in ("site", "width", "k"):
            continue  # these are in its name, and no crosscoder has the other one
        assert world.key(name, changed) != first, field.name


def _first_stage(world: World, name: str) -> dict[str, Any]:
    run = world.run
    for path in (run.path, variant_path(run.path, EXCHANGED)):  # the variant begins with the same weights
        alter(path / "seed-0" / "stage-1" / "final.safetensors")
    return world.key(name)


def _altered(*where: str) -> Callable[[World, str], dict[str, Any]]:
    def change(world: World, name: str) -> dict[str, Any]:
        alter(world.folder.joinpath(*where))
        return world.key(name)

    return change


def _other_recipe(world: World, name: str) -> dict[str, Any]:
    folder = world.run.seed(0)
    model = replace(folder.recipe.model, d_mlp=64)
    return world.key(name, folder=SeedFolder(folder.path, 0, replace(folder.recipe, model=model)))


def _other_config(world: World, name: str) -> dict[str, Any]:
    config = copy.copy(world.config(name))
    if not (fields := dataclasses.fields(config)):
        pytest.skip("it has nothing to choose")
    field = next(one.name for one in reversed(fields) if one.name != "sae")
    object.__setattr__(config, field, another(getattr(config, field), field))
    return world.key(name, config)


def _sae(name: str) -> str:
    return SAE if name != CROSSCODER else crosscoder_jobs.crosscoder_name(SMALL_CROSSCODER, "stages")


def _other_dictionary(world: World, name: str) -> dict[str, Any]:
    alter(world.run.path / "saes" / _sae(name) / "seed-0" / "cfg.json")
    return world.key(name)


CHANGES: dict[str, Callable[[World, str], dict[str, Any]]] = {
    "seed": lambda world, name: world.key(name, seed=1),
    "recipe": _other_recipe,
    "task": _altered("run", "seed-0", "task.parquet"),
    "checkpoints": _altered("run", "seed-0", "stage-2", "final.safetensors"),
    "config": _other_config,
    "stages": _first_stage,
    "exchanged tags": _altered("run", "variants", EXCHANGED, "seed-0", "stage-2", "final.safetensors"),
    "course": _altered("run", "seed-0", "stage-2", "step-000001.safetensors"),
    "pairs": _altered("mine.csv"),
    "probes": _altered("mine"),
    "dictionaries": _other_dictionary,
    "activations": lambda world, name: world.key(name, cache=replace(world.cache, dtype="bfloat16")),
}
"""Name of an input → the key after a change of it."""

OF_TEXTS = {"attribute", "untrained"}
"""Inputs that only closed-book runs have; `test_text_analyses` changes them."""

DECLARED = [
    (name, one)
    for name in EVERY
    for one in (ANALYSES[name].inputs if name in ANALYSES else crosscoder_jobs.INPUTS)
    if one.name not in OF_TEXTS
]


@pytest.mark.parametrize(("name", "one"), DECLARED, ids=[f"{name}-{one.name}" for name, one in DECLARED])
def test_every_declared_input_changes_the_key(name: str, one: Input, world: World) -> None:
    """And nothing but the declared inputs and the revision is in it."""
    first = world.key(name)
    declared = {i.name for i in (ANALYSES[name].inputs if name in ANALYSES else crosscoder_jobs.INPUTS)}
    assert set(first) <= declared | {"revision"}
    assert (one.name in first) or name == "evaluate"
    if name == CROSSCODER and one.name == "seed":
        shutil.copytree(
            world.run.path / "saes" / _sae(name) / "seed-0", world.run.path / "saes" / _sae(name) / "seed-1"
        )
    assert CHANGES[one.name](world, name).get(one.name) != first.get(one.name)


def test_a_recipe_of_probes_counts_by_its_content_however_it_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the ending .toml, and as a name of the package."""
    packaged = world.folder / "package"
    shutil.copytree(ROOT / "mechocl" / "probing" / "recipes", packaged)
    shutil.copy(world.folder / "mine", world.folder / "mine.toml")
    monkeypatch.setattr(probe_recipes, "named", lambda: {path.stem: path for path in packaged.glob("*.toml")})
    for recipe, path in (
        (str(world.folder / "mine"), world.folder / "mine"),
        (str(world.folder / "mine.toml"), world.folder / "mine.toml"),
        ("recency", packaged / "recency.toml"),
    ):
        config = ProbingConfig(recipe=recipe)
        first = world.key("probe", config)
        alter(path)
        assert world.key("probe", config) != first, recipe


def test_a_config_of_a_dictionary_and_what_it_has_not_seen_change_the_rows(world: World) -> None:
    """Those of the first search are not given for another k, or for other held-out aliases."""
    path = dictionaries.path_of(world.run.path, SAE, 0)
    keys = [world.key("sae-search")]
    record = files.read_json(path / dictionaries.RECORD)
    for change in ({"held_out": 0.5}, {"held_out": 0.34, "seed": 1}):
        files.write_json(path / dictionaries.RECORD, record | change)
        keys.append(world.key("sae-search"))
    config = files.read_json(path / dictionaries.CONFIG)
    files.write_json(path / dictionaries.CONFIG, config | {"k": 1})
    keys.append(world.key("sae-search"))
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])


# ------------------------------------------------------------------------------------ reading files once


def test_a_file_is_read_once_while_nothing_has_changed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was written a moment ago is read again: another write may have left the same times."""
    path = tmp_path / "file"
    read: list[Path] = []
    original = files.sha256
    monkeypatch.setattr(files, "sha256", lambda one: read.append(one) or original(one))
    path.write_bytes(b"one")
    first = inputs.content(path)
    path.write_bytes(b"two")
    assert inputs.content(path) != first
    assert len(read) == 2
    monkeypatch.setattr(inputs, "_SETTLED_NS", 0)
    second = [inputs.content(path) for _ in range(3)]
    assert len(set(second)) == 1
    assert len(read) == 3
    path.write_bytes(b"three")
    assert inputs.content(path) not in (first, second[0])
