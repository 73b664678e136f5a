"""Every message that tells its reader to do something has a test that does it, and then what failed succeeds.

The messages are found in the code (`messages.advice`). A new one makes this test fail until it has an entry here.
Messages that ask for another value are not among them: the tests of each config and command give valid values.
"""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import messages
import pandas as pd
import pytest
import tiny
import torch

from mechocl import destinations, files, ledgers
from mechocl.errors import MechoclError
from mechocl.models import components, hub
from mechocl.runs import sweep_folder
from mechocl.runs.activation_cache import FOLDER, ActivationCache
from mechocl.runs.building import build_model
from mechocl.runs.folders import Checkpoint
from mechocl.runs.run import Run

HERE: Final = "tests/test_advice.py::test_doing_what_is_said"
DAMAGE: Final = "tests/test_remedies.py::test_what_is_said_about_a_damaged_file_mends_it"
RESTORING: Final = "tests/runs/test_restoring.py::"
CLI: Final = "tests/commands/test_cli.py::"
MENDED: Final = "tests/test_remedies.py::test_what_else_is_said_of_folders_helps"

DONE: Final = {
    "install mechocl in an environment of its own": "tests/test_wheel.py::test_the_wheel_works_in_an_empty_environment",
    "which is not mechocl's; rename it, or start Python in another folder": "tests/test_owners.py::test_a_file_of_ones_own_is_refused_if_it_hides_ours",
    "move it away and make it anew: mechocl data facts": "tests/closed_book/test_facts.py::test_the_command_replaces_its_own_file_alone",
    "make a file of its own with `mechocl data facts": "tests/closed_book/test_facts.py::test_facts_of_another_model_are_refused",
    "single aliases move in a subspace only if each is one token": "tests/toy_models/test_projected_steps.py::test_what_cannot_be_projected_is_refused",
    "has lost its manifest.json; restore it, or give the command that trained it again": f"{RESTORING}test_a_run_that_lost_its_manifest_gets_a_new_one",
    "has lost its manifest.json; restore it, or give the command that made it again": HERE,
    "and its seeds are of another recipe; choose another --out": f"{RESTORING}test_a_run_that_lost_its_manifest_gets_a_new_one",
    "leave it out, or give --mode resample": "tests/commands/test_mistakes.py::test_an_option_without_effect_beside_what_others_name_is_refused",
    "interrupted; run the same command again": "tests/runs/test_resume.py::test_interrupted_and_killed_and_continued_is_as_undisturbed",
    "worker process was killed": "tests/runs/test_resume.py::test_interrupted_and_killed_and_continued_is_as_undisturbed",
    "its worker was lost too often": "tests/runs/test_on_ray.py::test_a_killed_workers_task_runs_again",
    "a worker was lost; its tasks run again": "tests/runs/test_on_ray.py::test_a_killed_workers_task_runs_again",
    "free some space and run the same command again": "tests/runs/test_resume.py::test_a_full_disk_stops_training_and_it_continues",
    "is a run or a sweep; choose another --out": "tests/analyses/test_probe_sweep.py::test_probes_of_other_options_do_not_replace_the_first",
    "was made by another run, or for another seed": "tests/runs/test_run.py::test_a_folder_of_another_seed_or_another_run_is_named",
    "choose another --out, or delete …": "tests/analyses/test_probe_sweep.py::test_probes_of_other_options_do_not_replace_the_first",
    "give one that `mechocl probe` wrote": DAMAGE,
    "delete … and train it again": DAMAGE,
    "restore it, or delete it and run the same command again": DAMAGE,
    "restore it, or, if you edited it yourself": "tests/test_damage.py::test_a_manifest_that_was_edited_is_refused_until_its_checksum_is_removed",
    "run the same command again": DAMAGE,
    "restore it, or …": DAMAGE,
    "delete it and …": DAMAGE,
    "was truncated or altered; restore it, or …": DAMAGE,
    "is being written by another process": HERE,
    "delete … and run the same `mechocl pretrain` again": DAMAGE,
    "restore it, or delete … and run the same `mechocl pretrain` again": DAMAGE,
    "restore it, or delete … and run the same `mechocl probe` again": DAMAGE,
    "give a TOML file of predictions, such as a changed copy": "tests/hypotheses/test_predictions.py::test_a_file_that_is_not_there",
    "to use the folder as it is": HERE,
    "holds a result of other inputs": HERE,
    "has no finished runs yet": MENDED,
    "was added to a finished checkpoint; remove it": MENDED,
    "train one with: mechocl sae train RUN": MENDED,
    "delete it, and it is computed again": DAMAGE,
    "holds activations of another checkpoint": "tests/runs/test_activation_cache.py::test_another_checkpoint_at_the_same_path_is_refused",
    "raise --cache-gb, delete the folder": HERE,
    "run the same `mechocl …` again to complete it": RESTORING + "test_training_again_restores_what_was_lost",
    "delete … and run the same `mechocl …` again": RESTORING
    + "test_a_damaged_resume_point_is_begun_again_when_its_folder_is_deleted",
    "cannot be restored: training gives other bits": RESTORING
    + "test_other_bits_never_replace_those_of_a_finished_seed",
    "was started on another task": RESTORING + "test_a_seed_of_another_task_trains_anew_when_it_is_deleted",
    "delete … and run the same `mechocl finetune` again": DAMAGE,
    "delete … and run the same command again: what it holds": DAMAGE,
    "does not match its checksum; delete … and run again": DAMAGE,
    "delete … and run again": DAMAGE,
    "delete it and run the same `mechocl sweep` again": DAMAGE,
    "give the folder of the sweep, or run the same": DAMAGE,
    "it is written again when an analysis opens": DAMAGE,
    "exists and is not a run; choose": HERE,
    "holds a run of another recipe": HERE,
    "continue it there, or choose another --out": HERE,
    "exists and is not a sweep; choose": HERE,
    "holds a sweep of another recipe": HERE,
    "is damaged; restore it, or choose another --out": HERE,
    "is damaged: …; restore it": HERE,
    "it has no schema number; restore it": HERE,
    "exists and is not a pretrained model": HERE,
    "exists and is not the model of": "tests/models/test_gguf.py::test_the_same_file_again_and_another_one",
    "`mechocl gguf` makes one of this GGUF file": "tests/models/test_gguf.py::test_the_folder_has_the_weights_of_the_file",
    "holds a model of another": HERE,
    "is read-only; copy the run to a place that can be written, or choose another place for what is new": HERE,
    "is a file, where a folder is needed": HERE,
    "choose another place": CLI + "test_places_that_cannot_be_written",
    "`mechocl …` again with --out …": CLI + "test_an_incomplete_run",
    "look at that one (leave out --stage)": "tests/learning/test_exchange.py::test_only_the_last_stage_has_twins",
    "`mechocl variants … --only …`": "tests/learning/test_variants.py::test_what_was_lost_or_stopped_comes_back_bit_for_bit",
    "began with other weights than": "tests/learning/test_variants.py::test_a_variant_of_other_weights_or_of_another_kind_is_refused",
    "is not the variant": "tests/learning/test_variants.py::test_a_variant_of_other_weights_or_of_another_kind_is_refused",
    "`mechocl controls` with --only … --out …": "tests/runs/test_controls.py::test_an_incomplete_control_is_named_with_a_remedy_that_works",
    "call model.reset_hooks(including_permanent=True)": "tests/test_advice.py::test_a_model_without_hooks_is_taken_apart",
    "run its `mechocl sae train` again": "tests/commands/test_feature_commands.py::test_an_sae_of_other_weights_is_refused_unless_it_is_asked_for",
    "is a pickle, which can run any code": "tests/models/test_load.py::test_a_pickle_is_refused_with_the_command_that_converts_it",
    "convert it and give the folder": "tests/models/test_load.py::test_a_pickle_is_refused_with_the_command_that_converts_it",
}
"""Part of a message → the test that does what it says."""

PLAIN: Final = {
    r"`mechocl (finetune|train)` trains (it|those)": "names the right command; test_recipes gives each recipe to it",
    "lists the runs of a folder": "names a list",
    "`mechocl share …` writes a page with more": "names the right command; test_share runs it",
    "`mechocl share` writes it as a page of its own": "names the right command; test_share runs it",
    "Trust the notebook, or run the cells again": "what a notebook does; test_notebooks runs the cells",
    "for the address that `mechocl serve` printed": "names the address; test_explorer_live opens it",
    "give a directory that `mechocl sweep` made": "asks for another value",
    "give --out DIR, the folder of the run": "asks for another value",
    "search it with `mechocl crosscoder`": "names the right command",
    "rename one|is not UTF-8; rename it": "asks for another name",
    "`mechocl (… )?--help`|say what to do: mechocl": "names the help, which test_cli prints",
    "stopped; run the same command again": "continues as after Ctrl-C, which test_resume does",
    "`mechocl sweep --table …` shows it": "names the right command",
    "does not fit the recipe's model": "a new run, which is what all other tests train",
    "`mechocl sae dashboard`": "no advice about a fault",
    "copy the SAE again|(copy|download|save).* (again|download it)|copy or download it|save .*beside the model|save the model": "a whole copy is what all other tests open",
    "merge (it )?and save": "a merged model is what test_load opens",
    "download it elsewhere": "needs the network",
    "iconv": "a program outside",
    "pip install": "needs the network",
    "log in with `wandb login`": "needs the network",
    "upgrade mechocl": "needs a newer version",
    "to see that they are|found again|make this folder first|for which there is no place": "for programs, not for readers",
    "put the old one back": "as restore: test_a_run_goes_on_with_the_model_that_it_began_with does it",
    r"another process trains them": "test_missing_runs_are_counted runs it again",
    "deciding control": "a report's sentence that names a command; test_controls runs it",
    "checkpoints are missing, such as": "the whole table, which test_a_table_of_a_sweep_that_was_stopped_is_refused reads",
    "does not have it, and `mechocl …`": "a cell of a verdict that names a command; test_controls and test_variants run them",
    "the variant … was not trained": "a cell of a verdict that names a command; test_variants runs it",
    "the control … was not trained": "a cell of a verdict that names a command; test_controls runs it",
    "which must be the last of two or more": "asks for another run",
    "all (activations|.*means) are equal|the two means are equal": "asks for another value",
    "lower learning_rate, and train with another --out": "another recipe, which is what all other tests train",
    "put those back, or train again with another --out": "other images, which test_pictures trains on",
    "delete it, and train it with `mechocl controls`": "train_controls makes it; test_controls",
}
"""Pattern → why no test has to do what it says."""


def entries_for(text: str) -> list[str]:
    return [part for part in DONE if part in text] + [part for part in PLAIN if re.search(part, text)]


def test_every_advice_has_an_entry() -> None:
    missing = [f"{place}: {text}" for place, text in messages.advice() if not entries_for(text)]
    assert not missing, "\n".join(missing)


def test_every_entry_is_of_a_message() -> None:
    used = {entry for _, text in messages.advice() for entry in entries_for(text)}
    assert {*DONE, *PLAIN} == used


@pytest.mark.parametrize("test", sorted(set(DONE.values())))
def test_the_named_tests_exist(test: str) -> None:
    path, name = test.split("::")
    tree = ast.parse((messages.ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


# what is cheap to do ---------------------------------------------------------------------------------------


def create(path: Path, *changes: str, device: str = "cpu") -> Run:
    recipe = tiny.recipe(path.parent, *changes)
    return Run.create(path, recipe, recipe_name="tiny", seeds=(0,), device=device, threads=1, together=1)


def begun(path: Path) -> None:
    create(path)
    files.write_json(path / "seed-0" / "checksums.json", {})


def start(path: Path, *changes: str, device: str = "cpu") -> None:
    sweep_folder.start_sweep(path, tiny.recipe(path.parent, *changes), recipe_name="tiny", device=device)


def lost(path: Path) -> None:
    start(path)
    files.write_json(path / "rows" / "a-0.json", {})
    (path / "manifest.json").unlink()


def filled(path: Path) -> None:
    files.write_text(path / "mother.txt", "Dear")


def without_schema(path: Path) -> None:
    begun(path)
    files.write_json(
        path / "manifest.json",
        {k: v for k, v in files.read_json(path / "manifest.json").items() if k != "schema"},
    )


def keep(path: Path, limit_gb: float, number: int = 1) -> Any:
    checkpoint = Checkpoint(seed=3, stage=2, step=40, name="final.safetensors", sha256="a" * 64)
    cache = ActivationCache(run=path, limit_gb=limit_gb, dtype="float32")
    made = {"site": torch.ones(4, 100)}
    return cache.collect(checkpoint, lambda *_: made)(torch.full((4, 3), number), ["site"])


def elsewhere(path: Path) -> None:
    """As if the run or sweep had been started on a GPU."""
    manifest = path / "manifest.json"
    files.write_json(manifest, files.read_json(manifest) | {"device": "cuda"})


def save_result(path: Path, *, load: bool = False) -> Any:
    run, rows = Run.open(path), pd.DataFrame({"x": [1.0]})
    return run.load_result("lens", {"a": 1}) if load else run.save_result("lens", {"a": 1}, rows)


def other_result(path: Path) -> None:
    create(path)
    record = save_result(path) / "result.json"
    files.write_json(record, files.read_json(record) | {"inputs": {"a": 2}})


def edited(path: Path) -> None:
    """A pretrained folder with a file that its user changed."""
    files.write_text(path / "config.json", "{}")
    hub.ledger_of(path).record("config.json")
    files.write_text(path / "config.json", "{ }")


def delete(path: Path) -> None:
    shutil.rmtree(path)


EPOCHS: Final = "training.stages.0.epochs=4"
Act = Callable[[Path], Any]

CASES: Final[list[tuple[str, Act, Act, list[Act]]]] = [
    ("exists and is not a run; choose another --out", filled, create, [lambda p: create(p.with_name("b"))]),
    (
        "holds a run of another recipe; choose another --out, or delete it", begun, lambda p: create(p, EPOCHS),
        [lambda p: create(p.with_name("b"), EPOCHS), lambda p: (delete(p), create(p, EPOCHS))],
    ),
    (
        "was started on cuda, not cpu; continue it there, or choose another --out",
        lambda p: (begun(p), elsewhere(p)), create, [lambda p: create(p.with_name("b"))],
    ),
    (
        "has lost its manifest.json; restore it, or give the command that made it again", lost, sweep_folder.read_manifest,
        [lambda p: (start(p), sweep_folder.read_manifest(p))],
    ),
    ("exists and is not a sweep; choose another --out", filled, start, [lambda p: start(p.with_name("b"))]),
    (
        "holds a sweep of another recipe; choose another --out, or delete it", start, lambda p: start(p, EPOCHS),
        [lambda p: start(p.with_name("b"), EPOCHS), lambda p: (delete(p), start(p, EPOCHS))],
    ),
    (
        "was started on cuda, not cpu; continue it there, or choose another --out",
        lambda p: (start(p), elsewhere(p)), start, [lambda p: start(p.with_name("b"))],
    ),
    (
        "holds a result of other inputs; delete it and run again", other_result,
        lambda p: Run.open(p).load_result("lens", {"a": 1}),
        [lambda p: (delete(p / "results"), save_result(p), save_result(p, load=True))],
    ),
    (
        "if you edited it yourself, delete .* to use the folder as it is", edited, hub.locate,
        [lambda p: ((p / ledgers.LEDGER).unlink(), hub.locate(p))],
    ),
    ("it has no schema number; restore it", without_schema, Run.open, [lambda p: (delete(p), begun(p), Run.open(p))]),
    (
        "is read-only; copy the run to a place that can be written, or choose another place for what is new|is a file, where a folder is needed; choose another place",
        lambda p: p.touch(), lambda p: destinations.require_folder(p / "x"),
        [lambda p: destinations.require_folder(p.with_name("b"))],
    ),
    (
        "raise --cache-gb, delete the folder, or keep nothing with --cache-gb 0", lambda p: keep(p, 1.0),
        lambda p: keep(p, 2e-6, 2),
        [lambda p: keep(p, 1.0, 3), lambda p: (delete(p / FOLDER), keep(p, 1.0, 2)), lambda p: keep(p, 0.0, 4)],
    ),
]  # fmt: skip
"""Message; what makes the fault; what is refused; the ways out that the message names."""


@pytest.mark.parametrize(("message", "fault", "refused", "ways"), CASES)
def test_doing_what_is_said(tmp_path: Path, message: str, fault: Act, refused: Act, ways: list[Act]) -> None:
    for number, way in enumerate(ways):
        path = tmp_path / str(number) / "a"
        path.parent.mkdir()
        fault(path)
        with pytest.raises(MechoclError, match=message) as caught:
            refused(path)
        assert "\n" not in str(caught.value)
        way(path)


def test_a_lock_is_free_again_when_its_holder_has_ended(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        files.locked(lock, patience=0.0),
        pytest.raises(files.Busy, match="wait for it, or stop it"),
        files.locked(lock, patience=0.0),
    ):
        pass
    with files.locked(lock, patience=0.0):
        pass


def test_a_model_without_hooks_is_taken_apart(tmp_path: Path) -> None:
    model = build_model(tiny.recipe(tmp_path), device="cpu")
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: x)
    with pytest.raises(MechoclError, match=r"call model.reset_hooks\(including_permanent=True\)"):
        components.take_apart(model)
    model.reset_hooks(including_permanent=True)
    assert components.take_apart(model)
