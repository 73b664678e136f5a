"""The predictions are data that can be read, checked and extended; what cannot be evidence is refused in one line."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from docs.write import verdict as page
from docs.write.places import TABLES
from mechocl.analyses.registry import ANALYSES
from mechocl.errors import MechoclError
from mechocl.hypotheses import predictions, quantities
from mechocl.hypotheses.predictions import BESIDE

OWN = predictions.own_file().read_text(encoding="utf-8")


def changed(folder: Path, old: str, new: str) -> Path:
    """The package's file with one change."""
    assert OWN.count(old) >= 1, old
    path = folder / "mine.toml"
    path.write_text(OWN.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_package_s_predictions_are_valid_and_test_every_explanation() -> None:
    found = predictions.load()
    assert {one.analysis for one in found.predictions} <= {*ANALYSES, *BESIDE}
    for one in found.explanations:
        assert found.of(one.name), one.name
    for prediction in found.predictions:
        assert quantities.describe(prediction.quantity).endswith(".")


def test_no_prediction_is_shared_by_all_explanations() -> None:
    """What every explanation expects is no evidence for any of them."""
    for prediction in predictions.load().predictions:
        assert len(set(prediction.expects.values())) > 1, prediction.name


def test_a_shared_prediction_is_refused(tmp_path: Path) -> None:
    line = next(
        line
        for line in OWN.splitlines()
        if line.startswith("expects") and 'readout_gate = "above", selective' in line
    )
    path = changed(tmp_path, line, line.replace('"none"', '"above"'))
    with pytest.raises(
        MechoclError, match=r"unpredictable-tag-2.*all explanations expect the same, so it is no evidence"
    ):
        predictions.load(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('analysis = "steering"', 'analysis = "stering"', "there is no analysis 'stering'; did you mean steering"),
        ('column = "recall"', 'column = "recal"', "the analysis evaluate has no column 'recal'; did you mean recall"),
        ("readout_gate = \"above\"", "readout = \"above\"", "there is no explanation 'readout'; did you mean readout_gate"),
        ('tests = ["moved_tags"]', 'tests = ["moving"]', "there is no explanation 'moving'"),
        ('tests = ["moved_tags"]', 'tests = ["steering"]', "it tests steering, of which it expects nothing"),
        ('quantity = "suppressed"', 'quantity = "supressed"', "there is no quantity 'supressed'; did you mean suppressed"),
        ('probe = "tag-stage-2"', 'prob = "tag-stage-2"', "has no argument 'prob'; did you mean probe"),
        ('arguments = { subset = "d2_consistent" }', "", "the quantity over_chance needs the argument 'subset'"),
        ("ks = [1]", "kss = [1]", "the config of subspace has no field 'kss'"),
        ("ks = [1]", 'ks = ["one"]', "prediction 'tag-direction'"),
        ('name = "larger-loss"', 'name = "larger-los"\nunknown = 1', "unknown key 'predictions"),
        ('name = "larger-loss"', 'name = "gap"', "there are two predictions 'gap'"),
        ("smallest = 0.05", "smallest = -0.05", "smallest is -0.05; give an effect above 0"),
        ('nothing = "none"', 'nothing = "no"', "predictions.0.expects.nothing"),
        ("smallest = 0.05", "smallest = = 0.05", "not valid TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(MechoclError, match=re.escape(said)) as caught:
        predictions.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_history_has_no_config(tmp_path: Path) -> None:
    path = changed(tmp_path, 'analysis = "history"', 'analysis = "history"\nconfig = { steps = 1 }')
    with pytest.raises(MechoclError, match="history has no config; leave it out"):
        predictions.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match=r"nowhere\.toml") as failed:
        predictions.load(tmp_path / "nowhere.toml")
    told = Path(str(failed.value).rpartition("a changed copy of ")[2])
    (tmp_path / "nowhere.toml").write_text(told.read_text().replace("smallest = 0.05", "smallest = 0.04"))
    assert predictions.load(tmp_path / "nowhere.toml") != predictions.load()


def test_the_file_says_all_that_is_read() -> None:
    """Loading adds nothing to the data but defaults."""
    values: dict[str, Any] = tomllib.loads(OWN)
    found = predictions.load()
    for written, read in zip(values["predictions"], found.predictions, strict=True):
        for name, value in written.items():
            held = getattr(read, name)
            assert (list(held) if isinstance(held, tuple) else held) == value


def test_the_document_is_written_from_the_data() -> None:
    """`python -m docs.write.verdict` writes it."""
    assert page.PAGE.read_text(encoding="utf-8") == page.write_page()
    for one in predictions.load().predictions:
        assert f"`{one.name}`" in page.write_page()


def test_what_stands_beside_the_verdicts_agrees_with_them() -> None:
    """The answers by subset, and the exchanges of twins, give the gaps and the rest that the predictions measured."""
    seeds = pd.read_csv(TABLES / "verdict-seeds.csv")
    effects = seeds.groupby(["study", "prediction"])["value"].mean()
    checks = pd.read_csv(TABLES / "verdict-checks.csv").set_index(["study", "check", "of", "what"])["mean"]
    for study in seeds["study"].unique():
        for of, prediction in (("the run", "gap"), ("noise", "noise-gap"), ("unasked", "unasked-gap")):
            gap = checks[study, "AUC", of, "d1"] - checks[study, "AUC", of, "d2"]
            assert gap == pytest.approx(effects[study, prediction], abs=1e-5)
        if (study, "twin-rest") in effects.index:
            whole, along = (
                checks[study, "exchanged", "the run", one] for one in ("twin embedding", "mean direction")
            )
            assert whole - along == pytest.approx(effects[study, "twin-rest"], abs=1e-5)


def test_the_table_of_projected_steps_is_of_the_studies_that_were_judged() -> None:
    """The run's own gap in it is the one that was judged, seed by seed."""
    seeds = pd.read_csv(TABLES / "verdict-seeds.csv")
    gaps = seeds[seeds["prediction"] == "gap"].set_index(["study", "seed"])["value"]
    table = pd.read_csv(TABLES / "verdict-projected.csv")
    own = table[table["metric"] == "auc"].groupby(["study", "seed"])["run_gap"]
    assert (own.nunique() == 1).all()
    pd.testing.assert_series_equal(own.first(), gaps[own.first().index], check_names=False, atol=1e-4)
