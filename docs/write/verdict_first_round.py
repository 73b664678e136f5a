"""The part of docs/verdict.md on the first round of seeds, from the tables docs/results/verdict-first-round*.csv, which stay as they are."""

from collections.abc import Sequence
from typing import Final

import pandas as pd

from docs.write.markdown import write_table, write_text_table
from docs.write.places import TABLES
from mechocl.behaviour import formats
from mechocl.behaviour.statistics import estimate

SIGNS: Final = {
    "supported": "**supported**",
    "met so far": "met so far",
    "contradicted": "contradicted",
    "undecided": "undecided",
    "nothing to explain": "–",
}
"""How a status is written in the wide table."""

FIRST_ROUND: Final = TABLES / "verdict-first-round.csv"
"""What the predictions of a first round said of other seeds."""


def write_first_round(judged: Sequence[str]) -> list[str]:
    """The section on the first round: its verdicts, and what was changed since. `judged` are the studies of the second round."""
    found = pd.read_csv(FIRST_ROUND, keep_default_na=False)
    names = list(dict.fromkeys(found["study"]))
    verdicts = found.set_index(["explanation", "study"])["verdict"]
    rows = [
        [f"`{name}`", *(SIGNS[str(verdicts[(name, study)])] for study in names)]
        for name in dict.fromkeys(found["explanation"])
    ]
    gaps = [
        f"{line['study']} {formats.interval(line['gap'], line['low'], line['high'], 3)}, it needs unreliability: {line['needs_unreliability']}"
        for line in found.drop_duplicates("study").to_dict("records")
    ]
    seeds = f"{found['first_seed'].min()} to {(found['first_seed'] + found['seeds']).max() - 1}"
    commits = ", ".join(f"`{one}`" for one in found["predictions_commit"].unique())
    return [
        "### A first round",
        "",
        f"Seeds {seeds} were judged by an earlier list of predictions (commit {commits}). Gaps d1 − d2 there: {'; '.join(gaps)}.",
        "",
        *write_text_table(("explanation", *names), rows),
        "",
        *_CHANGED_SINCE,
        *_both_rounds([name for name in names if name in judged]),
    ]


_MEASURED_ALIKE: Final = (
    "gap", "beyond-control", "noise-gap", "unasked-gap", "twin-gap", "first-step", "along-the-path", "twin-direction", "twin-rest",
    "entity-alike", "gap-before-stage-2",
)  # fmt: skip
"""Predictions whose quantity is the same in both rounds."""


def _both_rounds(names: Sequence[str]) -> list[str]:
    """Quantities that both rounds measured alike, over the seeds of both."""
    first, second = (
        pd.read_csv(TABLES / "verdict-first-round-seeds.csv"),
        pd.read_csv(TABLES / "verdict-seeds.csv"),
    )
    if not names:
        return []
    rows = []
    for prediction in _MEASURED_ALIKE:
        cells = []
        for study in names:
            values = [
                table.loc[(table["study"] == study) & (table["prediction"] == prediction), "value"]
                for table in (first, second)
            ]
            found = estimate(pd.concat(values).to_numpy(dtype=float), unit="seed")
            cells.append(f"{formats.estimate_in_words(found, sign=True)}, n = {found.n}")
        rows.append([f"`{prediction}`", *cells])
    return [
        "Over the seeds of both rounds, of what both measured alike, each with its own interval and no correction:",
        "",
        *write_table(("prediction", *names), rows),
        "",
    ]


_CHANGED_SINCE: Final = (
    "Then the list was changed in five points, before a seed of the second round was trained:",
    "",
    "- `unasked-gap` tests nothing any more. `noise-over-unasked` tests *readout_gate* in its place: a difference of two controls needs fewer seeds than that one of them has no gap.",
    "- `constant-vector` matters from .05 instead of .01, and also tests *selective_retrieval*: what one vector adds varies too much to be shown to lie within .01.",
    "- `entity-alike` tests *selective_retrieval* alone. That less is *stored* under tag 2 was our reading of *gradient_alignment*, whose claim is that the answers move less.",
    "- `tag-direction` and `tag-direction-beyond-control` exchange the direction at the alias alone; two places tied before.",
    "- Probes have 10 shuffles instead of 20.",
    "",
)
