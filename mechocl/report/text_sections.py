"""The report's section on the other tests of text worlds: whose entity an alias is, and definitions in context."""

import pandas as pd

from mechocl.behaviour import formats, over_seeds
from mechocl.closed_book.questioning import MEASURES
from mechocl.report import plots
from mechocl.report.page import Section, Table
from toy_models.subsets import SUBSETS


def other_tests(rows: pd.DataFrame) -> Section:
    """The section on entity association and definitions in context, from the rows of the evaluate analysis."""
    present = [s for s in SUBSETS if s in set(rows["subset"])]
    association = rows[rows["test"] == "association"]
    asked = list(association["attribute"].drop_duplicates())
    found = {
        (row["attribute"], row["subset"]): formats.number(row["mean"])
        for row in over_seeds.over_seeds(association, ["attribute", "subset"], "exact_match").to_dict(
            "records"
        )
    }
    tested = [s for s in present if (asked[0], s) in found] if asked else []
    context = rows[rows["test"].str.startswith("in context")]
    questions = rows[(rows["test"] == "questions") & (rows["subset"] == "no_data")]
    both = pd.concat([questions.assign(test="no definition"), context])
    values = {
        metric: {
            row["test"]: formats.value_in_words(row)
            for row in over_seeds.over_seeds(both, ["test"], metric, bounds=MEASURES.bounds[metric]).to_dict(
                "records"
            )
        }
        for metric in ("exact_match", "log_probability")
    }
    return Section(
        id="association",
        title="Entity association and definitions in context",
        how_to_read=(
            "First table: whose entity an alias is, asked in several ways; judged by the entity that the questions are about. "
            "Second: questions about aliases that were never trained on, behind a definition by each tag. A model that had "
            "learned that tag 2 means “is not” would use the definition of tag 1 and reject that of tag 2."
        ),
        tables=(
            Table(
                caption="Entity association: exact match, mean over seeds",
                columns=("subset", *asked),
                rows=tuple(
                    (plots.label(s), *(found.get((a, s), formats.MISSING) for a in asked)) for s in tested
                ),
            ),
            Table(
                caption="Definitions in context: questions about no_data aliases, mean and 95 % interval over seeds",
                columns=("in front of the question", "exact match", "log-probability"),
                rows=tuple(
                    (test, *(values[metric].get(test, formats.MISSING) for metric in values))
                    for test in values["exact_match"]
                ),
            ),
        ),
    )
