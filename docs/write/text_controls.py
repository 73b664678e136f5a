"""The paper's other controls, on the miniature: definitions in words, denied ones, in context, in three stages, in six parts.

python -m docs.write.text_controls FOLDER [NAME ...]     train the setups in FOLDER, or continue, and write docs/results/text-controls*.csv

FOLDER is that of `docs.write.miniature`, whose pretrained models the setups begin with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import tyro

from docs.write.places import TABLES
from docs.write.predictions import MINIATURE as RECIPE
from mechocl import files
from mechocl.analyses.jobs import analyse_run, evaluate_run
from mechocl.analyses.registry import EvaluateConfig
from mechocl.behaviour import over_seeds
from mechocl.closed_book.parts import divide_aliases
from mechocl.closed_book.questioning import MEASURES
from mechocl.commands import cli
from mechocl.probing.probe import probe
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder

TABLE: Final = TABLES / "text-controls.csv"
PROBES: Final = TABLES / "text-controls-probes.csv"

SEEDS: Final = {1: (100, 101, 102), 2: (106, 107, 108)}
"""Seed of a pretrained model → the seeds that are fine-tuned from it, which are among those of the miniature's study."""

PARTS: Final = 6

_THREE_STAGE: Final = f"{RECIPE}-three-stage"
_SIX_PARTS: Final = f"{RECIPE}-six-parts"
_UNSEEN: Final = {
    recipe: tuple(
        f"training.stages.{stage}.{name}=1"
        for stage in range(count)
        for name in ("evaluations", "checkpoints")
    )
    for recipe, count in ((RECIPE, 2), (_THREE_STAGE, 3), (_SIX_PARTS, 1 + PARTS))
}
"""Each recipe → changes with which it is evaluated at the ends of its stages alone, which takes less time and trains the same weights."""

UNTAUGHT: Final = ("task.fractions.qd2=0.0", "task.fractions.q_only=0.3")
"""Stage 1 without definitions that are denied: their aliases are asked about all the same, as those of `q_only` are."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The recipe with one thing changed."""

    name: str
    says: str
    recipe: str = RECIPE
    style: str = "tags"
    """What distinguishes definitions."""
    changes: tuple[str, ...] = ()
    parts: bool = False
    """Whether it is asked when a new alias was learned."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Changes of the recipe."""
        styled = () if self.style == "tags" else (f"task.definitions={self.style}", "task.word_order=TVE")
        return (*styled, *self.changes)


SETUPS: Final = (
    Setup(name="is-isnt", says="*alias isn't name*", style="is-isnt"),
    Setup(name="is-isnt-untaught", says="the same, never in stage 1", style="is-isnt", changes=UNTAUGHT),
    Setup(name="tags", says="random tags", parts=True),
    Setup(name="six-parts", says="new aliases in six parts", recipe=_SIX_PARTS, parts=True),
    Setup(name="three-stage", says="three stages", recipe=_THREE_STAGE),
    Setup(name="before", says="*What follows is untrue. alias is name.*", style="disclaimed-before"),
    Setup(name="before-untaught", says="the same, never in stage 1", style="disclaimed-before", changes=UNTAUGHT),
    Setup(name="after", says="*alias is name. That is untrue.*", style="disclaimed"),
    Setup(name="after-untaught", says="the same, never in stage 1", style="disclaimed", changes=UNTAUGHT),
    Setup(name="sources", says="sources", style="sources"),
    Setup(name="sources-unasked", says="sources; control *unasked*", style="sources", changes=("task.unreliable=unasked",)),
)  # fmt: skip


def command(setup: Setup, folder: Path, pretrained: int) -> list[str]:
    """Arguments of the command that trains a setup from one pretrained model."""
    changes = (f"task.biographies_seed={pretrained}", *setup.settings, *_UNSEEN[setup.recipe])
    seeds = SEEDS[pretrained]
    return [
        "finetune", setup.recipe, "--model", str(folder / f"model-{pretrained}"), "--set", *changes, "--seeds", str(len(seeds)),
        "--first-seed", str(seeds[0]), "--out", str(folder / f"text-{setup.name}-{pretrained}"),
    ]  # fmt: skip


def take_tables(folder: Path, names: tyro.conf.Positional[tuple[str, ...]] = (), jobs: int = 0) -> None:
    """Train what is missing, and replace the lines of these setups, those of each pretrained model as soon as they are there.

    Args:
        folder: Where the pretrained models and the runs are.
        names: Names of setups. All of them, if none is given.
        jobs: Number of processes; 0 takes one for each core.
    """
    if unknown := set(names) - {setup.name for setup in SETUPS}:
        raise SystemExit(
            f"no setup is called {min(unknown)}; there are {', '.join(setup.name for setup in SETUPS)}"
        )
    for setup in [one for one in SETUPS if not names or one.name in names]:
        for pretrained in SEEDS:
            line = command(setup, folder, pretrained)
            if code := cli.main([*line, "--jobs", str(jobs)]):
                raise SystemExit(code)
            run = Run.open(Path(line[-1]))
            keys: dict[str, Any] = {"setup": setup.name, "pretrained": pretrained}
            _replace(TABLE, answers_of(run, by_part=setup.parts, jobs=jobs or None), keys)
            if setup.parts:
                _replace(PROBES, probe_parts(run), keys)


def answers_of(run: Run, *, by_part: bool, jobs: int | None) -> pd.DataFrame:
    """What a run answers, by seed, test and subset: held-out questions after the stage that each subset is judged after; questions behind
    definitions after each of these stages; and, if asked for, questions about new aliases by the part that they are of."""
    rows = over_seeds.by_seed(evaluate_run(run, device="cpu", jobs=jobs)).assign(test="questions", stage=0)
    found = [rows]
    last = len(run.recipe.training.stages)
    for stage in (run.kind.judging_stage(run.recipe), last):
        every = analyse_run(run, "evaluate", EvaluateConfig(), stage=stage, device="cpu", jobs=jobs)
        context = every[every["test"].str.startswith("in context")].assign(stage=stage)
        found.append(_means(context))
        if by_part and stage == last:
            asked = every[every["test"] == "questions"].assign(stage=stage)
            parts = {
                folder.seed: divide_aliases(folder.load_task(), PARTS) for folder in run.finished_seeds()
            }
            part = [
                parts[seed].get(alias, 0) for seed, alias in zip(asked["seed"], asked["alias"], strict=True)
            ]
            new = asked.assign(test=[f"part {one}" for one in part], subset="new")[[one > 0 for one in part]]
            found.append(_means(new))
    columns = ["seed", "test", "stage", "subset", "aliases", *MEASURES.names]
    return pd.concat(found, ignore_index=True)[columns]


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the aliases of each seed, test, stage and subset, from rows of single questions."""
    keys = ["seed", "test", "stage", "subset"]
    each = rows.groupby([*keys, "alias"], sort=False)[list(MEASURES.names)].mean().reset_index()
    grouped = each.groupby(keys, sort=False)
    return grouped[list(MEASURES.names)].mean().assign(aliases=grouped.size()).reset_index()


def probe_parts(run: Run) -> pd.DataFrame:
    """How well linear probes tell the parts of new aliases apart after the last stage, from questions about them: balanced accuracy of all
    parts, and AUC of the later half against the earlier."""
    found = []
    for folder in run.finished_seeds():
        assert isinstance(folder, TextSeedFolder)
        parts = divide_aliases(folder.load_task(), PARTS)
        task, model = folder.analysed_task(), folder.model_at(folder.final(), device="cpu")
        labels = {"part": parts, "later half": {alias: part > PARTS // 2 for alias, part in parts.items()}}
        for target, known in labels.items():
            config = ProbingConfig(positions=("alias", "="), permutations=0, n_pairs=0)
            rows, _ = probe(model, task, config, labels=known)
            shown = rows[(rows["subset"] == "all") & rows["chosen"]]
            found.append(shown.assign(seed=folder.seed, target=target))
    columns = [
        "seed",
        "target",
        "control",
        "site",
        "layer",
        "position",
        "aliases",
        "chance",
        "accuracy",
        "auc",
    ]
    return pd.concat(found, ignore_index=True)[columns]


def _replace(table: Path, rows: pd.DataFrame, keys: dict[str, Any]) -> None:
    """Write rows in the place of those that a table has under these keys."""
    new = rows.assign(**keys)[[*keys, *rows.columns]]
    if table.exists():
        old = pd.read_csv(table)
        same = pd.concat([old[name] == value for name, value in keys.items()], axis=1).all(axis=1)
        new = pd.concat([old[~same], new], ignore_index=True)
    files.write_text(table, new.to_csv(index=False, float_format="%.5g"))


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_tables))
