"""The section on training: which gap it follows, and what it says of seeds that cannot be compared."""

import pandas as pd
import pytest

from mechocl.closed_book import questioning as closed_book
from mechocl.report import training_sections
from toy_models import list_questioning, measures
from toy_models.words import Words

KINDS = {
    "text": (closed_book.WORDS, closed_book.MEASURES),
    "integers": (list_questioning.WORDS, measures.YES_OR_NO),
}


def history(measure: str, losses: dict[str, list[float]], *, seed: int) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"seed": seed, "stage": 2, "epoch": [0.0, 1.0, 2.0], "subset": subset, "loss": 1.0, "recall": 0.5, "definition_loss": each, measure: [0.1, 0.2, 0.3]})
        for subset, each in losses.items()
    ]  # fmt: skip
    return pd.concat(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gap_is_followed_in_what_the_history_has(kind: str) -> None:
    words, judged = KINDS[kind]
    assert isinstance(words, Words)
    measure = words.training_curves[0]
    falls = {"d1_consistent": [3.0, 2.0, 1.0], "d2_consistent": [3.0, 2.5, 2.0]}
    apart = {"d1_consistent": [3.0, 2.0, 1.0], "d2_consistent": [0.9, 0.8, 0.7]}
    section = training_sections.training(
        pd.concat([history(measure, falls, seed=seed) for seed in (0, 1)]), words, judged
    )
    assert len(section.figures) == 2
    assert "Not on the right" not in section.how_to_read
    rows = pd.concat([history(measure, falls, seed=0), history(measure, apart, seed=4)])
    assert "Not on the right: seed 4," in training_sections.training(rows, words, judged).how_to_read
