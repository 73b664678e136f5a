"""The internalization of a run as one object."""

import pandas as pd
import pytest

import mechocl
from mechocl.behaviour import over_seeds
from mechocl.errors import MechoclError


def rows(seeds: int = 10) -> pd.DataFrame:
    """Rows of an evaluation in which d1 is answered better than d2."""
    found = []
    for seed in range(seeds):
        for alias in range(40):
            subset = ("qd1_consistent", "qd2_inconsistent", "d1_consistent", "d2_consistent")[alias % 4]
            auc = {
                "qd1_consistent": 0.9,
                "qd2_inconsistent": 0.8,
                "d1_consistent": 0.85,
                "d2_consistent": 0.6,
            }[subset]
            auc += 0.002 * (seed + alias % 3)
            found.append(
                {
                    "seed": seed,
                    "alias": alias,
                    "subset": subset,
                    "auc": auc,
                    "accuracy": auc - 0.1,
                    "logit_difference": 1.0,
                    "recall": 1.0,
                }
            )
    return pd.DataFrame(found)


def test_it_holds_what_the_estimates_say() -> None:
    found = mechocl.summarize_internalization(rows())
    strong = next(one for one in over_seeds.contrasts(rows(), "auc") if one.name == "strong")
    text = str(found)
    assert f"{strong.estimate.mean:+.3f}" in text
    assert "qd2_inconsistent" in text
    assert "Strong internalization (IML): yes" in text
    assert "95 % interval over seeds" in text
    assert "\n" not in repr(found)
    assert repr(found).startswith("Internalization(10 seeds; ")
    assert "<table" in found._repr_html_()
    assert len(found.plot().data) == 8  # seeds, and a mean, of each subset


def test_one_model_needs_no_seed_column() -> None:
    found = mechocl.summarize_internalization(rows(1).drop(columns="seed"))
    assert "over the aliases of one seed" in str(found)


def test_other_tables_are_refused() -> None:
    with pytest.raises(MechoclError, match=r"takes rows of per_alias, .*this table has no column 'alias'"):
        mechocl.summarize_internalization(pd.DataFrame({"subset": ["d1_consistent"]}))
    with pytest.raises(MechoclError, match="this table has none"):
        mechocl.summarize_internalization(rows().head(0))
