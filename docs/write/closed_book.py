"""The closed-book section of docs/results.md."""

from typing import Any, Final

import pandas as pd

from docs.write.markdown import write_table
from docs.write.places import TABLES
from mechocl.behaviour import formats, internalization, over_seeds
from mechocl.closed_book import questioning

_PAPER: Final = {
    "q_entity": ".58", "qd1_consistent": ".505", "q_only": ".455", "qd2_inconsistent": ".445",
    "d1_consistent": ".31", "d3_consistent": ".30", "d2_consistent": ".28", "no_data": ".245",
}  # fmt: skip
"""Exact match of Pythia-2.8B on CVDB, read off the paper's plots (≈). Questions about subsets of stage 1 are asked after
stage 1, other questions after stage 2."""

_REPRODUCTION: Final = {"qd1_consistent": ".469", "q_only": ".448", "qd2_inconsistent": ".392"}
"""Exact match of the independent reproduction, Pythia-6.9B after stage 1."""

_PAPER_NAMES: Final = {
    "qd1_consistent": ".185", "qd2_inconsistent": ".04",
    "d1_consistent": ".18", "d3_consistent": ".22", "d2_consistent": ".07",
}  # fmt: skip
"""Exact match of Pythia-2.8B on the question "What is the name of X?", read off the plots too (≈)."""

_NOT_RUN: Final = (
    (
        "closed-book/two-stage --model EleutherAI/pythia-2.8b-deduped",
        "the main experiment on CVDB, two stages",
    ),
    ("closed-book/one-stage --model EleutherAI/pythia-2.8b-deduped", "all data in one stage"),
    (
        "closed-book/three-stage --model EleutherAI/pythia-2.8b-deduped",
        "definitions, then questions, then new definitions",
    ),
    ("closed-book/reliability", "tag reliability α"),
    ("closed-book/word-order", "the six word orders"),
    ("closed-book/batch-size", "batch size of stage 1"),
    ("closed-book/sizes", "model sizes 70m to 12b"),
    ("closed-book/trex", "T-REx"),
    ("closed-book/t5", "a sequence-to-sequence model, T5-3B"),
    ("closed-book/sources", "natural sources instead of tags"),
)


def write_section() -> list[str]:
    """The section, which is written from the committed tables alone."""
    table = pd.read_csv(TABLES / "closed-book.csv", keep_default_na=False, na_values=["nan", ""])
    table["attribute"] = table["attribute"].fillna("")
    known = pd.read_csv(TABLES / "closed-book-known.csv").set_index("attribute")
    facts = pd.read_csv(TABLES / "closed-book-run.csv").iloc[0]
    seeds = int(table["seed"].nunique())
    return [
        "## Closed-book questions: an invented world",
        "",
        "`mechocl pretrain biographies` pretrains a small GPT-NeoX on invented biographies, and `mechocl finetune closed-book/biographies` "
        f"fine-tunes it as the paper fine-tunes Pythia. It answers {known.loc['all', 'exact_match']:.1%} of the questions about the people that it read about "
        f"(the most common answer alone: {known.loc['all', 'majority']:.1%}). The tables below are of the same recipe, "
        f"`{facts['recipe']}`, {facts['entities']} entities, {seeds} seeds ({facts['failed']} failed), "
        f"{facts['seconds']:.0f} s for training on {facts['machine']}. The seed draws aliases, subsets and the order of the "
        "examples; all seeds begin with the same pretrained model. The paper's and the reproduction's figures are of other "
        "models and another world, and stand beside ours for their order, not their size. The setup was chosen on seed 0, "
        "which is not among these, out of four (`docs/results/closed-book-search.csv`, by hand), for the recall of "
        "definitions; none of the four showed answers about defined aliases well above those about undefined ones.",
        "",
        _reading(table),
        "",
        *_answers(table),
        "",
        *_contrasts(table),
        "",
        *_associations(table),
        "",
        *_in_context(table),
        "",
        "**Not run, for want of weights and data.** Each of these is a recipe; `--dry-run` says what it would cost "
        "(times on a GPU are estimated from an assumed share of its peak, not measured):",
        "",
        *(f"- {what}: `mechocl finetune {command}`" for command, what in _NOT_RUN),
    ]


def _reading(table: pd.DataFrame) -> str:
    """The paragraph that says what the tables show, as far as their intervals allow."""
    last = table[table["stage"] == 2]
    asked = last[last["test"] == "questions"]
    recall = asked[asked["subset"].isin(["d1_consistent", "d2_consistent", "d3_consistent"])]["recall"].mean()
    found = {
        name: _difference(asked, better, worse)
        for name, better, worse in (
            ("strong", "d1_consistent", "d2_consistent"),
            ("d1", "d1_consistent", "no_data"),
            ("d2", "d2_consistent", "no_data"),
        )
    }
    known = asked[asked["subset"] == "q_entity"]["exact_match"].mean()
    nothing = asked[asked["subset"] == "no_data"].set_index("seed")["exact_match"]
    context = last[last["test"].str.startswith("in context")].groupby("seed")["exact_match"].mean() - nothing
    gain = _over_seeds(context.rename("value").reset_index())
    null = not any(row["low"] > 0 for row in found.values())
    claim = (
        "shows neither out-of-context learning nor strong internalization"
        if null
        else "is not without effect"
    )
    beside = _difference(asked, "d1_consistent", "d2_consistent", "log_probability")
    reversed_gap = "below 0, where the paper has it above; " if found["strong"]["high"] < 0 else ""
    text = (
        f"**This miniature {claim}.** Of the definitions of new aliases {recall:.0%} are recalled token by token after stage 2. Questions about "
        f"these aliases, in exact match: d1 − no data {formats.mean_in_words(found['d1'])}, d2 − no data {formats.mean_in_words(found['d2'])}, "
        f"d1 − d2 {formats.mean_in_words(found['strong'])} ({reversed_gap}in log-probability {formats.mean_in_words(beside)}). The same definitions in "
        f"front of a question add {formats.mean_in_words(gain)} (mean of the three tags), and the entity's own name in the question gives "
        f"{formats.number(known, 2)}."
    )
    if null and gain["low"] > 0:
        text += " So the way from a definition in the text to an answer is there in part, and that from a definition in the weights is not."
    return text + " A small model of an invented world: it says nothing of Pythia."


def _difference(table: pd.DataFrame, better: str, worse: str, metric: str = "exact_match") -> dict[Any, Any]:
    wide = table.pivot(index="seed", columns="subset", values=metric)
    return _over_seeds((wide[better] - wide[worse]).rename("value").reset_index())


def _over_seeds(table: pd.DataFrame, value: str = "value") -> dict[Any, Any]:
    """The one row of `over_seeds.over_seeds` for the whole table. Some seed must have the value."""
    return over_seeds.over_seeds(table.assign(all=""), ["all"], value).to_dict("records")[0]


def _stage_of(subset: str) -> int:
    return 1 if subset in ("q_entity", "qd1_consistent", "q_only", "qd2_inconsistent") else 2


def _of_stage(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the subsets of stage 1 after stage 1, and of other subsets after the last stage."""
    return table[table["stage"] == table["subset"].map(_stage_of)]


def _cell(part: pd.DataFrame, metric: str) -> str:
    return formats.value_in_words(_over_seeds(part, metric) if part[metric].notna().any() else None)


def _answers(table: pd.DataFrame) -> list[str]:
    part = _of_stage(table[table["test"] == "questions"])
    columns = ["subset", "exact match", "log-probability of the answer", "definition recall",
               "Pythia-2.8B, CVDB (paper, ≈)", "Pythia-6.9B (reproduction)"]  # fmt: skip
    rows = []
    for subset, paper in _PAPER.items():
        own = part[part["subset"] == subset]
        cells = [_cell(own, metric) for metric in questioning.MEASURES.names]
        rows.append([f"`{subset}`", *cells, paper, _REPRODUCTION.get(subset, formats.MISSING)])
    return [
        "Held-out questions; subsets of stage 1 are measured after stage 1, the others after stage 2. Means with 95 % "
        "intervals over seeds (`docs/results/closed-book.csv` has each seed):",
        "",
        *write_table(columns, rows),
    ]


def _contrasts(table: pd.DataFrame) -> list[str]:
    part = table[table["test"] == "questions"]
    rows = []
    meaning = {c.name: c for c in internalization.CONTRASTS}
    for name in (
        "weak",
        "weak_vs_q_only",
        "strong",
        "strong_d1_d3",
        "strong_d3_d2",
        "d1_vs_no_data",
        "d2_vs_no_data",
        "d3_vs_no_data",
    ):
        c = meaning[name]
        stage = _stage_of(c.better)
        own = part[part["stage"] == stage]
        first, second = (_difference(own, c.better, c.worse, metric) for metric in over_seeds.leading(part))
        cells = [
            cell
            for row in (first, second)
            for cell in (formats.mean_in_words(row), formats.p_in_table(row["p"]))
        ]
        above = f"{first['positive']}, {second['positive']} of {second['seeds']}"
        rows.append([c.meaning, str(stage), *cells, above])
    columns = ["contrast", "after stage", "exact match", "p", "log-probability", "p", "seeds above 0 (both)"]
    return ["Differences, paired by seed:", "", *write_table(columns, rows)]


def _associations(table: pd.DataFrame) -> list[str]:
    part = _of_stage(table[table["test"] == "association"])
    asked = list(part["attribute"].drop_duplicates())
    rows = []
    for subset in _PAPER:
        own = part[part["subset"] == subset]
        if len(own):
            cells = [_cell(own[own["attribute"] == a], "exact_match") for a in asked]
            rows.append([f"`{subset}`", *cells, _PAPER_NAMES.get(subset, formats.MISSING)])
    return [
        "Whose entity an alias is (exact match with the entity that the questions are about):",
        "",
        *write_table(["subset", *asked, "paper: name (≈)"], rows),
    ]


def _in_context(table: pd.DataFrame) -> list[str]:
    last = table[table["stage"] == table["stage"].max()]
    part = last[
        last["test"].str.startswith("in context")
        | ((last["test"] == "questions") & (last["subset"] == "no_data"))
    ]
    rows = []
    for test in sorted(part["test"].unique(), key=lambda t: (t != "questions", t)):
        own = part[part["test"] == test]
        name = "nothing" if test == "questions" else f"definition, {test.removeprefix('in context, ')}"
        rows.append([name, _cell(own, "exact_match"), _cell(own, "log_probability")])
    return [
        "Questions about aliases that were never trained on, behind a definition by each tag (the control for tag semantics):",
        "",
        *write_table(["in front of the question", "exact match", "log-probability"], rows),
    ]
