"""What commands print: tables, grids, answers, and which seeds failed."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from mechocl.behaviour import control_gaps, formats, over_seeds as seed_estimates, sentences
from mechocl.behaviour.counted import CountedSeeds
from mechocl.behaviour.verdict import beside_numbers
from mechocl.commands.tables import table as table
from toy_models.measures import Measures

if TYPE_CHECKING:
    from mechocl.runs.run import Run

_number: Final = partial(formats.number, minus=formats.HYPHEN)
"""Numbers in grids of a terminal have a hyphen for a minus."""


def grid(cells: pd.DataFrame, digits: str, *, corner: str = "layer") -> None:
    """Print a table of numbers with named rows and columns. `digits` is a format such as `+.3f`. Cells with texts stay so."""
    sign, places = digits.startswith("+"), int(digits.strip("+.f") or 0)
    body = [
        [
            str(i),
            *(v if isinstance(v, str) else _number(v, places, sign=sign) for v in row),
        ]
        for i, row in zip(cells.index, cells.to_numpy(), strict=True)
    ]
    table([corner, *map(str, cells.columns)], body)


def grid_over_seeds(
    rows: pd.DataFrame, row: str, column: str, value: str, *, corner: str = ""
) -> pd.DataFrame:
    """Print the mean of a value over seeds as a grid of two keys, and return its numbers.

    `corner` stands above the names of the rows; by default it is their key.
    A mean of only some of the seeds has their number behind it: `+0.25 (1 of 2)`.
    """
    found = seed_estimates.over_seeds(rows, [row, column], value)
    some = found["seeds"] < found["of"]
    shown = found["mean"].map(lambda mean: _number(mean, 3, sign=True))
    counts = " (" + found["seeds"].astype(str) + " of " + found["of"].astype(str) + ")"
    found["shown"] = shown.where(~some, shown + counts)
    at = [list(dict.fromkeys(rows[key])) for key in (row, column)]
    texts, numbers = (
        found.pivot(index=row, columns=column, values=name).reindex(index=at[0], columns=at[1])
        for name in ("shown", "mean")
    )
    grid(texts.astype(object).where(texts.notna(), formats.MISSING), "+.3f", corner=corner or row)
    if some.any():
        print("(n of N): the mean of the n seeds alone that have a value, which is no measure of all N")
    return numbers


def not_measured(cells: pd.DataFrame) -> None:
    """Say what a missing number of a grid means, where there is one."""
    if cells.isna().to_numpy().any():
        print(f"{formats.MISSING} {formats.WHY_NOT_MEASURED}")


def frame(title: str, rows: pd.DataFrame) -> None:
    """Print a title and a table without its index. Numbers have three digits, and a missing number is –."""
    print(f"\n{title}")
    table(
        [str(name) for name in rows.columns],
        [[formats.cell(v, minus=formats.HYPHEN) for v in row] for row in rows.itertuples(index=False)],
    )


def over_seeds(
    rows: pd.DataFrame,
    keys: list[str],
    value: str,
    *,
    most: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> None:
    """Print the mean of a value over seeds with its interval, one line for each combination of the keys.

    `most`: print only so many lines, those with the means of largest size, in this order. An interval stays within `bounds`.
    """
    found = seed_estimates.over_seeds(rows, keys, value, bounds=bounds)
    if most is not None:
        found = found.loc[found["mean"].abs().sort_values(ascending=False, kind="stable").index].head(most)
    body = []
    for row in found.to_dict("records"):
        above = f"{row['positive']} of {row['seeds']}"
        body.append([*(str(row[k]) for k in keys), formats.mean_in_words(row), above])
    table([*keys, f"{value} [95 %]", "seeds above 0"], body)


def failures(counted: CountedSeeds, *, of: str = "") -> None:
    """Print a line for each seed that does not count, and a caution if none does. `of`: name of the run, in front."""
    caution = sentences.caution(counted)
    for line in [*sentences.failures_in_words(counted), *([caution] if caution else [])]:
        print(f"{of}: {line}" if of else line)


def trained(run: "Run", *, device: str, jobs: int | None) -> None:
    """Print which seeds failed, after a command has trained seeds of the run.

    While another process still trains seeds of the run, those that diverged are printed alone. Raises MechoclError
    when all seeds diverged.
    """
    from mechocl.analyses.jobs import count_run

    if run.unfinished_seeds() or len(run.failures()) == len(run.seeds):
        done = tuple(seed for seed in run.seeds if run.seed(seed).finished())
        failures(CountedSeeds(done, {}, run.failures()))
        if not run.unfinished_seeds():
            run.finished_seeds()  # raises an error that says so
    else:
        failures(count_run(run, device=device, jobs=jobs))


def answers(rows: pd.DataFrame, measures: Measures | None = None, *, counted: CountedSeeds) -> None:
    """Print the answers to the questions about a run. `rows` are those of `sentences.answers`."""
    for a in sentences.answers(rows, measures, counted=counted):
        print(a.in_words)


def controls(run: "Run", *, device: str, jobs: int | None) -> None:
    """Print the gap of each control run that lies in a run's folder, the run's gap over it, and what that says."""
    from mechocl.analyses.control_jobs import evaluate_controls
    from mechocl.analyses.jobs import count_run, evaluate_run
    from mechocl.runs.controls import is_control_run

    if is_control_run(run):
        return
    measures = run.questioning.measures
    rows = evaluate_run(run, device=device, jobs=jobs)
    counted = count_run(run, device=device, jobs=jobs)
    found = evaluate_controls(run, device=device, jobs=jobs)
    for metric in (measures.leading, measures.second) if found.rows else ():
        body = [
            [
                one.control,
                formats.describe(one.own.learned),
                formats.describe(one.over.learned),
                f"{one.over.learned.n} seeds",
                beside_numbers(one.over.answer),
            ]
            for one in control_gaps.compare_gaps(rows, found, measures, metric=metric, counted=counted)
        ]
        head = f"control ({formats.NAMES[metric]})"
        table([head, "its gap d1 − d2 [95 %]", "the run's gap over it [95 %]", "", "larger?"], body)
    print(control_gaps.explain_gap(rows, found, measures, counted=counted).in_words)


def text_tests(rows: pd.DataFrame) -> None:
    """Print the other tests of a text world: entity association by question, and definitions in context."""
    other = rows[rows["test"] != "questions"]
    print("\nwhose entity an alias is (exact match), and definitions in context")
    keys = ["test", "attribute", "subset"]
    association = other[other["test"] == "association"]
    wide = association.groupby(["attribute", "subset"], sort=False)["exact_match"].mean().unstack()
    grid(wide, ".3f", corner="association")
    context = other[other["test"] != "association"]
    for metric in ("exact_match", "log_probability"):
        over_seeds(context, keys[:1], metric)


def probes(grids: Sequence[Any]) -> None:
    """Print what a probe sweep found at each run's last checkpoint: a grid for each probe, and what its controls say.

    `grids` are those of `probing.summaries.probe_grids`.
    """
    from mechocl.probing import summaries
    from mechocl.report import probe_plots, probe_sections

    for one in grids:
        found = one.cells
        print(
            f"\n{one.probe}, {one.run} ({one.word_order}): {probe_plots.TITLES[one.statistic]}, mean over "
            f"{one.seeds} seed{'s' * (one.seeds > 1)}, chance {_number(one.chance)}; * significant in the whole grid"
        )
        text = [
            _number(m) + "*" * (p < summaries.LEVEL) for m, p in zip(found["mean"], found["p"], strict=True)
        ]
        shown = found.assign(text=text, token=found["position"])
        grid(summaries.grid_table(shown, "text"), "", corner="site")
        controls = [
            f"{control} {_number(found[control].max())}"
            for control in summaries.CONTROLS
            if control in found and found[control].notna().any()
        ]
        alone = one.token_embedding
        controls += [f"token embedding {_number(alone)}"] if alone == alone else []
        print(f"controls, each at its best place: {', '.join(controls) or 'none'}")
        print(probe_sections.described(one))
