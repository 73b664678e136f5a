"""What is read beside the verdicts of docs/verdict.md: answers by subset, recall along stage 1, and exchanges of twins.

None of it was predicted. The rows are taken with those of the studies (`verdict_studies`) into docs/results/verdict-checks.csv.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pandas as pd

from docs.write.markdown import write_table
from docs.write.places import TABLES
from mechocl.analyses import jobs, results
from mechocl.behaviour import formats
from mechocl.behaviour.statistics import estimate
from mechocl.hypotheses import predictions
from mechocl.hypotheses.predictions import Prediction
from mechocl.hypotheses.quantities import QUANTITIES, TAG_1, TAG_2, Data, Values, by_subset, values_of
from mechocl.hypotheses.sources import Gathered
from mechocl.hypotheses.verdict import RunVerdict
from mechocl.learning.exchange import ALONG, OF_ENTITY, OTHER, RANDOM_ALONG, WHOLE
from mechocl.runs.controls import CONTROLS, control_path
from mechocl.runs.run import Run

TABLE: Final = TABLES / "verdict-checks.csv"

_OF_TAG_2: Final = ("qd2_inconsistent", "d2_noise", "d2_unasked")
"""Subsets of stage 1 whose definitions have tag 2, of a run and of its controls."""

BY_SUBSET: Final = "AUC"
_RECALL: Final = "recall"
_EXCHANGED: Final = "exchanged"
_GRADIENTS: Final = "gradients"

_SUBSETS: Final = {
    "d1": TAG_1, "d2": TAG_2, "d3": "d3_consistent", "no definition": "no_data",
}  # fmt: skip
_EXCHANGES: Final = (WHOLE, ALONG, OF_ENTITY, OTHER, RANDOM_ALONG)


def take_rows(run: Run, found: RunVerdict) -> list[dict[str, Any]]:
    """A line for each check of a study: `check`, `of`, `what`, and the mean over seeds with its 95 % interval."""
    gathered, rows = found.gathered, []
    for check, of, what, values in [
        *_answers(gathered),
        *_recall(run, gathered),
        *_exchanges(gathered),
        *_gradients(run, gathered),
    ]:
        counted = [values[seed] for seed in gathered.counted.learned if seed in values]
        if not counted:
            continue
        e = estimate(pd.Series(counted).to_numpy(dtype=float), unit="seed")
        line = {"check": check, "of": of, "what": what, "mean": e.mean, "low": e.low, "high": e.high}
        rows.append(line | {"n": e.n})
    return rows


Check = tuple[str, str, str, Values]


def _answers(gathered: Gathered) -> Iterator[Check]:
    for of, answers in {"the run": gathered.answers, **gathered.controls.rows}.items():
        table = by_subset(answers, gathered.measures.leading)
        for name, subset in _SUBSETS.items():
            if subset in table:
                yield BY_SUBSET, of, name, values_of(table[subset])


def _recall(run: Run, gathered: Gathered) -> Iterator[Check]:
    """Recall of stage-1 definitions with tag 1 − with tag 2: mean over the evaluations of stage 1, and at its end."""
    for of, one in _runs(run, gathered):
        history = pd.concat(
            [f.history().assign(seed=f.seed) for f in one.finished_seeds()], ignore_index=True
        )
        history = history[history["stage"] == 1]
        tag_2 = history[history["subset"].isin(_OF_TAG_2)]
        tag_1 = history[history["subset"] == "qd1_consistent"]
        keys = ["seed", "epoch"]
        difference = (tag_1.groupby(keys)["recall"].mean() - tag_2.groupby(keys)["recall"].mean()).dropna()
        if difference.empty:
            continue
        yield _RECALL, of, "mean", values_of(difference.groupby("seed").mean())
        yield _RECALL, of, "end", values_of(difference.groupby("seed").last())


def _exchanges(gathered: Gathered) -> Iterator[Check]:
    for name, rows in gathered.tables.items():
        if not name.startswith("twin-exchange ") or " of " in name:
            continue
        rows = rows[rows["metric"] == gathered.measures.leading]
        table = rows.pivot_table(index="seed", columns="exchange", values="tag_1_effect")
        for one in _EXCHANGES:
            yield _EXCHANGED, "the run", one, values_of(table[one])
        yield _EXCHANGED, "the run", f"{WHOLE} − {OF_ENTITY}", values_of(table[WHOLE] - table[OF_ENTITY])
        return


def _gradients(run: Run, gathered: Gathered) -> Iterator[Check]:
    """What `first-step` and `along-the-path` measure, in the run and in those controls whose gradients are there."""
    for of, one in _runs(run, gathered):
        for prediction in _predictions_of_gradients():
            rows = results.load_rows(one, "gradients", prediction.analysis_config())
            if rows is None:
                continue
            data = Data(
                answers=gathered.answers, rows=rows, measures=gathered.measures, column=prediction.column
            )
            measure = QUANTITIES[prediction.quantity]
            yield _GRADIENTS, of, prediction.name, measure(data, **prediction.arguments)


def compute_gradients(run: Run) -> None:
    """The gradients of a run's controls, with the config of the predictions."""
    for name in CONTROLS:
        if control_path(run.path, name).exists():
            config = _predictions_of_gradients()[0].analysis_config()
            jobs.analyse_run(Run.open(control_path(run.path, name)), "gradients", config)


def _predictions_of_gradients() -> list[Prediction]:
    return [one for one in predictions.load().predictions if one.analysis == "gradients"]


def _runs(run: Run, gathered: Gathered) -> list[tuple[str, Run]]:
    controls = [(name, Run.open(control_path(run.path, name))) for name in gathered.controls.rows]
    return [("the run", run), *controls]


def write_checks(studies: Sequence[str]) -> list[str]:
    """The section, from the saved table."""
    if not TABLE.exists():
        return []
    table = pd.read_csv(TABLE)
    table = table[table["study"].isin(studies)]
    return [
        "### What was not predicted",
        "",
        "Read after the verdicts, so it can change a mind and confirm nothing. Means over seeds with 95 % intervals.",
        "",
        "*Is tag 1 preferred?* AUC of new aliases by how they were defined; `d3` has a tag that was never trained on before. Where `d3` is answered at least as well as `d1`, the gap is "
        "not a preference for tag 1 but something that tag 2 takes away.",
        "",
        *_wide(table[table["check"] == BY_SUBSET], sign=False),
        "",
        "*Was tag 2 the harder one to predict, on the way?* Recall of stage-1 definitions with tag 1 − with tag 2, as a mean over the evaluations of stage 1 and at its end. "
        "`unpredictable-tag-2` reads the end alone. A control whose definitions with tag 2 are recalled earlier than the run's is no match for it in this.",
        "",
        *_wide(table[table["check"] == _RECALL], sign=True),
        "",
        "*Whose is the rest?* What exchanges of twins' embeddings do, towards tag 1. The mean difference of the entity is that of other aliases of the same integer: where it does what the "
        "twin's own embedding does, what differs beside the trace belongs to the integer and not to the alias.",
        "",
        *_wide(table[table["check"] == _EXCHANGED], sign=True),
        "",
        *_write_gradients(table[table["check"] == _GRADIENTS]),
    ]


def _write_gradients(rows: pd.DataFrame) -> list[str]:
    command = "`python -m docs.write.verdict_studies gradients`"
    asked = "*Do gradients tell the run from its controls?*"
    measured = set(rows.loc[rows["of"] != "the run", "study"])
    if not measured:
        return [
            f"{asked} `first-step` and `along-the-path` are not measured in the controls: {command}.",
            "",
        ]
    return [
        f"{asked} What `first-step` and `along-the-path` measure (cosine, tag 1 − tag 2), in the run and in the controls in which it was measured as well ({command}).",
        "",
        *_wide(rows[rows["study"].isin(measured)], sign=True),
        "",
    ]


def _wide(rows: pd.DataFrame, *, sign: bool) -> list[str]:
    columns = list(dict.fromkeys(rows["what"]))
    cells = {
        (r["study"], r["of"], r["what"]): formats.interval(r["mean"], r["low"], r["high"], 3, sign=sign)
        for r in rows.to_dict("records")
    }
    keys = list(dict.fromkeys(zip(rows["study"], rows["of"], strict=True)))
    body = [[*key, *(cells.get((*key, one), formats.MISSING) for one in columns)] for key in keys]
    return write_table(("study", "of", *columns), body, left=(0, 1))
