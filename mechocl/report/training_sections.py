"""The report's section on training."""

import pandas as pd

from mechocl.behaviour.equal_loss import summarize_gap
from mechocl.report import plots, training_plots
from mechocl.report.page import Section
from toy_models.measures import Measures
from toy_models.words import Words

_GAP = (
    "The last figure follows the gap between d1 and d2 (thin: seeds; bold: their mean, where every seed has a value, with "
    "its 95 % interval) along the last stage."
)
_AT_EQUAL_LOSS = (
    "Right, each of the two is taken when its own definitions had come to the same loss, so that this gap cannot come from "
    "definitions of one tag being learned faster. Training goes from left to right; it is as fine as the evaluations are."
)


def training(history: pd.DataFrame, words: Words, measures: Measures) -> Section:
    """The section on training, from the history of the seeds that are shown."""
    figures = [plots.training_curves(history, metrics=words.training_curves)]
    how_to_read = [words.training]
    gap = summarize_gap(history, measure=_followed(history, words, measures))
    if gap is not None:
        figures.append(training_plots.gap_curves(gap))
        how_to_read += [_GAP] if gap.by_loss is None else [_GAP, _AT_EQUAL_LOSS]
        if gap.apart:
            how_to_read.append(
                f"Not on the right: seed{'s' * (len(gap.apart) > 1)} {', '.join(map(str, gap.apart))}, whose d1 and d2 had no "
                "definition loss in common."
            )
    return Section(
        id="training", title=words.training_title, how_to_read=" ".join(how_to_read), figures=tuple(figures)
    )


def _followed(history: pd.DataFrame, words: Words, measures: Measures) -> str:
    """The measure of the gap along training: the leading one, or, where the history has not got it, that of the curves."""
    return measures.leading if measures.leading in history else words.training_curves[0]
