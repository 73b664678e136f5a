"""What the miniature needs, and what more realistic text does to it: one change at a time, each a row of docs/results.md.

python -m docs.write.miniature_rows FOLDER [NAME ...]     train the rows in FOLDER, or continue, and write docs/results/miniature-rows.csv

FOLDER is that of `docs.write.miniature`, whose pretrained models the rows begin with if they pretrain none of their own.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd
import tyro

from docs.write.markdown import write_text_table
from docs.write.places import TABLES
from docs.write.predictions import MINIATURE as RECIPE
from mechocl import files
from mechocl.analyses.jobs import evaluate_run
from mechocl.behaviour import formats, over_seeds, statistics
from mechocl.closed_book.questioning import MEASURES
from mechocl.commands import cli
from mechocl.runs.run import Run
from toy_models.task import ROLE

TABLE: Final = TABLES / "miniature-rows.csv"
NAMES: Final = TABLES / "miniature-rows-names.csv"
"""Of rows whose names have several tokens, the answers by the number of tokens."""

SEEDS: Final = {1: (200, 201), 2: (202, 203), 3: (204, 205)}
"""Seed of a pretrained model → the seeds that are fine-tuned from it."""

ALL_SEEDS: Final = tuple(seed for seeds in SEEDS.values() for seed in seeds)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The recipe with one thing changed."""

    name: str
    says: str
    changes: tuple[str, ...] = ()
    """Settings of the recipe."""
    pretraining: tuple[str, ...] | None = None
    """Options of a pretraining of its own, of one model for all seeds; None takes the models of the study."""


_BOTH: Final = ("training.stages.0.{}", "training.stages.1.{}")


def _in_both(setting: str) -> tuple[str, ...]:
    return tuple(one.format(setting) for one in _BOTH)


_ONE_STAGE: Final = (
    "training.stages=[{data=[1,2], epochs=30, batch_size=72, optimizer='adamw', learning_rate=1e-3, embedding_rate=2.0, "
    "embedding_rows='in_batch', replay=0.125, weight_decay=0.1, schedule='constant', warmup=0.02, gradient_clip=0.0}]"
)

ROWS: Final = (
    Row(name="as-it-is", says="the recipe as it is"),
    Row(name="all-rows", says="every embedding row is updated, not those of the batch alone", changes=_in_both("embedding_rows=all")),
    Row(name="no-replay", says="no texts are replayed", changes=_in_both("replay=0.0")),
    Row(name="untied", says="an unembedding of its own", pretraining=("--no-tied-embeddings",)),
    Row(name="large-rows", says="added rows as large as others (standard deviation .02)", changes=("training.added_token_std=0.02",)),
    Row(name="tag-first", says="*TAG alias name* in place of *alias TAG name*", changes=("task.word_order=TVE",)),
    Row(name="alias-last", says="*TAG name alias*", changes=("task.word_order=TEV",)),
    Row(name="one-stage", says="one stage: questions and all definitions together", changes=(_ONE_STAGE,)),
    Row(name="half", says="α = .5: both tags right half of the time", changes=("task.tag_reliability=0.5",)),
    Row(name="phrasings", says="three phrasings of each statement", changes=("task.miniature.phrasings=3",), pretraining=("--phrasings", "3")),
    Row(name="deeper", says="four layers", pretraining=("--n-layers", "4")),
    Row(name="deeper-phrasings", says="four layers, three phrasings", changes=("task.miniature.phrasings=3",), pretraining=("--n-layers", "4", "--phrasings", "3")),
    Row(name="deeper-bpe", says="four layers, names of several BPE tokens", pretraining=("--n-layers", "4", "--tokenizer", "bpe", "--vocabulary", "1500")),
    Row(name="deeper-phrasings-bpe", says="four layers, three phrasings, names of several BPE tokens", changes=("task.miniature.phrasings=3",), pretraining=("--n-layers", "4", "--phrasings", "3", "--tokenizer", "bpe", "--vocabulary", "1500")),
    Row(name="bpe", says="names of several BPE tokens", pretraining=("--tokenizer", "bpe", "--vocabulary", "1500")),
    Row(name="shared-layers", says="layers that share their parameters", pretraining=("--shared-layers",)),
    Row(name="shared-names", says="first and last names that people share, 60 of each", changes=("task.miniature.name_pool=60",), pretraining=("--name-pool", "60")),
    Row(name="bpe-aliases", says="aliases and tags, too, of several BPE tokens", changes=("task.added_tokens=false", "training.added_token_std=0.02"), pretraining=("--tokenizer", "bpe", "--vocabulary", "1500")),
    Row(name="is-isnt", says="*alias is name*, *alias isn't name* in place of tags", changes=("task.definitions=is-isnt", "task.word_order=TVE")),
)  # fmt: skip


def commands(row: Row, folder: Path) -> list[list[str]]:
    """Arguments of the commands that train a row."""
    of = SEEDS if row.pretraining is None else {1: ALL_SEEDS}
    lines = []
    for pretrained, seeds in of.items():
        model = folder / (f"model-{pretrained}" if row.pretraining is None else f"model-{row.name}")
        if row.pretraining is not None:
            lines.append(
                ["pretrain", "miniature", "--seed", str(pretrained), *row.pretraining, "--out", str(model)]
            )
        changes = (f"task.biographies_seed={pretrained}", *row.changes)
        lines.append(
            ["finetune", RECIPE, "--model", str(model), "--set", *changes, "--seeds", str(len(seeds)), "--first-seed", str(seeds[0]),
             "--out", str(folder / f"row-{row.name}-{pretrained}")]
        )  # fmt: skip
    return lines


def take_table(folder: Path, names: tyro.conf.Positional[tuple[str, ...]] = (), jobs: int = 0) -> None:
    """Train what is missing, and replace the lines of these rows.

    Args:
        folder: Where the models and runs are.
        names: Names of rows. All of them, if none is given.
        jobs: Number of processes; 0 takes one for each core.
    """
    if unknown := set(names) - {row.name for row in ROWS}:
        raise SystemExit(f"no row is called {min(unknown)}; there are {', '.join(row.name for row in ROWS)}")
    for row in [one for one in ROWS if not names or one.name in names]:
        parts, by_name = [], []
        for line in commands(row, folder):
            with_jobs = [*line, "--jobs", str(jobs)] if line[0] == "finetune" else line
            if code := cli.main(with_jobs):
                raise SystemExit(code)
            if line[0] == "finetune":
                run = Run.open(Path(line[-1]))
                questions = evaluate_run(run, device="cpu", jobs=jobs or None)
                parts.append(over_seeds.by_seed(questions)[["seed", "subset", "aliases", *MEASURES.names]])
                by_name.append(by_name_tokens(run, questions))
        for table, rows in ((TABLE, pd.concat(parts)), (NAMES, pd.concat(by_name))):
            if not rows.empty:
                _replace(table, rows.assign(row=row.name))


def by_name_tokens(run: Run, questions: pd.DataFrame) -> pd.DataFrame:
    """Means over the aliases of each seed and subset whose definitions name an entity by so many tokens; no rows if all names have one.

    `questions` are rows of the evaluate analysis.
    """
    found = []
    for folder in run.finished_seeds():
        task = folder.load_task()
        rows = task.rows(kind="definition")
        count = (task.roles[rows] == ROLE["entity"]).sum(1).tolist()
        tokens = dict(zip(task.table["alias"].to_numpy()[rows], count, strict=True))
        own = questions[(questions["seed"] == folder.seed) & questions["alias"].isin(tokens)]
        each = own.groupby(["subset", "alias"], sort=False)[MEASURES.leading].mean().reset_index()
        each["tokens"] = each["alias"].map(tokens)
        if each["tokens"].max() > 1:
            grouped = each.groupby(["subset", "tokens"])[MEASURES.leading]
            found.append(grouped.agg(["mean", "size"]).reset_index().assign(seed=folder.seed))
    columns = {
        "seed": "seed",
        "subset": "subset",
        "tokens": "tokens",
        "size": "aliases",
        "mean": MEASURES.leading,
    }
    if not found:
        return pd.DataFrame(columns=list(columns.values()))
    return pd.concat(found, ignore_index=True)[list(columns)].rename(columns=columns)


def _replace(path: Path, rows: pd.DataFrame) -> None:
    """Write rows in the place of those that a table has under the same name."""
    old = [pd.read_csv(path)] if path.exists() else []
    kept = [one[~one["row"].isin(rows["row"])] for one in old]
    together = pd.concat([*kept, rows], ignore_index=True)
    together = together[["row", *(name for name in together if name != "row")]]
    files.write_text(path, together.to_csv(index=False, float_format="%.6g"))


def write_rows() -> list[str]:
    """The table, from the saved lines."""
    table = pd.read_csv(TABLE).assign(alias=0)
    body = []
    for row in ROWS:
        rows = table[table["row"] == row.name]
        if rows.empty:
            command = shlex.join(["python", "-m", "docs.write.miniature_rows", "FOLDER", row.name])
            body.append([row.says, f"not measured: `{command}`", "", "", ""])
            continue
        found = {c.name: c.estimate for c in over_seeds.contrasts(rows, MEASURES.leading, MEASURES)}
        recall = rows.loc[rows["subset"].isin(["d1_consistent", "d2_consistent"]), "recall"].mean()
        cells = [
            formats.estimate_in_words(found[name], sign=True) if name in found else formats.MISSING
            for name in ("d1_vs_no_data", "weak", "strong")
        ]
        body.append([row.says, *cells, formats.number(recall, 2)])
    lines = [
        "What of the recipe matters, and what more realistic text does: one change at a time, exact match, "
        f"{len(ALL_SEEDS)} seeds each (`docs/results/miniature-rows.csv`); a row that pretrains its own model has one model for all of them. "
        "No changed row has controls beside it, so its d1 − d2 says nothing of trust:",
        "",
        *write_text_table(["", "d1 − no data", "qd1 − qd2", "d1 − d2", "recall of new definitions"], body),
    ]
    return [*lines, "", *_write_names()] if NAMES.exists() else lines


_SHOWN: Final = ("d1_consistent", "d2_consistent", "d3_consistent")


def _write_names() -> list[str]:
    """The table of answers by how many tokens a name has, from the saved lines."""
    table = pd.read_csv(NAMES)
    body = []
    for row in ROWS:
        own = table[(table["row"] == row.name) & table["subset"].isin(_SHOWN)]
        for tokens, part in own.groupby("tokens"):
            cells = []
            for subset in _SHOWN:
                values = part.loc[part["subset"] == subset, MEASURES.leading]
                enough = values.size == len(ALL_SEEDS)
                cells.append(
                    formats.estimate_in_words(
                        statistics.estimate(values.to_numpy(), unit="seed", bounds=(0.0, 1.0))
                    )
                    if enough
                    else formats.MISSING
                )
            each = part.groupby("seed")["aliases"].sum().mean()
            body.append([row.says, str(tokens), formats.number(each, 0), *cells])
    return [
        "By the number of tokens of the name that a new alias stands for, exact match; a subset that a seed has no such alias of has no value "
        "(`docs/results/miniature-rows-names.csv`):",
        "",
        *write_text_table(["", "tokens", "aliases a seed", "d1", "d2", "d3"], body),
    ]


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_table))
