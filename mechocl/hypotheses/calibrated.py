"""The table that says how often verdicts are right, as it is kept in the source tree."""

from pathlib import Path
from typing import Final

import pandas as pd

from mechocl.errors import MechoclError
from mechocl.hypotheses import calibration
from mechocl.hypotheses.predictions import Predictions

TABLE: Final = Path(__file__).resolve().parents[2] / "docs" / "results" / "calibration.csv"
"""The lines that `mechocl verdict --calibrate` wrote. An installed package without the source tree has no such file."""


def read_lines(wanted: Predictions) -> pd.DataFrame | None:
    """The lines of the package's predictions; None where there are none, or those that other predictions gave, or of worlds that
    have since been changed."""
    try:
        found = calibration.read_table(TABLE, wanted)
    except MechoclError:
        return None
    if found.empty or set(found["predictions"]) != {calibration.digits(None)}:
        return None
    if calibration.changed_worlds(found):
        return None
    return found


def read_confusion(wanted: Predictions) -> pd.DataFrame | None:
    """Their confusion table (`calibration.confusion`); None where there is none."""
    found = read_lines(wanted)
    return None if found is None else calibration.confusion(found)
