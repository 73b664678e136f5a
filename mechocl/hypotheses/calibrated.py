"""The table that says how often verdicts are right, as it is kept in the source tree."""

from pathlib import Path
from typing import Final

import pandas as pd

from mechocl.errors import MechoclError
from mechocl.hypotheses import calibration
from mechocl.hypotheses.predictions import Predictions

TABLE: Final = Path(__file__).resolve().parents[2] / "docs" / "results" / "calibration.csv"
"""The lines that `mechocl verdict --calibrate` wrote. An installed package without the source tree has no such file."""


def read_confusion(wanted: Predictions) -> pd.DataFrame | None:
    """The confusion table (`calibration.confusion`) of these explanations; None where there is none, or one of other explanations."""
    try:
        found = calibration.read_table(TABLE, wanted)
    except MechoclError:
        return None
    return None if found.empty else calibration.confusion(found)
