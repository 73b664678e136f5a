"""The tables docs/results/probes-*.csv, taken from the sweeps of probes."""

import dataclasses
from pathlib import Path
from typing import Final

import pandas as pd

from docs.write.inside import CONTROLS, LABELS, RECIPES, RUNS
from docs.write.places import TABLES
from mechocl.analyses import jobs, probe_sweep
from mechocl.probing.summaries import PLACE, Grid, landmarks, probe_grids

SITES: Final = " --sites resid_post,attn_out,mlp_out"
SWEEPS: Final = {
    "definition-retrieval": (RUNS, SITES),
    "reliability": ((*RECIPES, *CONTROLS), f" --recipe reliability-at-definition{SITES}"),
    "others": (RECIPES, f" --recipe implied-entity,recency,defined,tag-across-integers{SITES}"),
}
"""Each sweep of last checkpoints: its folder in runs/probes, its runs, and its options."""


def write_command(name: str) -> str:
    """The command that makes a sweep of probes."""
    runs, options = SWEEPS[name]
    return f"mechocl probe {' '.join(f'runs/{one.folder}' for one in runs)}{options} --out runs/probes/{name}"


def take_tables(runs: Path) -> None:
    """Write the tables from those sweeps that are in `runs/probes`."""
    for name in SWEEPS:
        path = runs / "probes" / name
        if path.exists():
            rows = probe_sweep.read_table(path)
            grids = probe_grids(rows)
            cells = [one.cells.assign(**_facts(one)) for one in grids]
            pd.concat(cells).to_csv(_path(name), index=False, float_format="%.4g")
            subsets = [one.subsets.assign(**_facts(one)) for one in grids if len(one.subsets)]
            if subsets:
                pd.concat(subsets).to_csv(_path(f"{name}-subsets"), index=False, float_format="%.4g")
    path = runs / "probes" / "definition-retrieval"
    if path.exists():
        rows = probe_sweep.read_table(path)
        _landmarks(rows).to_csv(_path("orders"), index=False, float_format="%.4g")
        gaps = jobs.iml_gaps([runs / one.folder for one in RUNS], device="cpu", jobs=None)
        gaps.to_csv(_path("gaps"), index=False, float_format="%.6g")


def _facts(grid: Grid) -> dict[str, object]:
    """Fields of a grid that its cells do not have."""
    fields = [f.name for f in dataclasses.fields(Grid) if f.name not in ("cells", "subsets")]
    return {name: getattr(grid, name) for name in fields}


def _landmarks(rows: pd.DataFrame) -> pd.DataFrame:
    """Each seed's scores at the landmarks, for probes with the true labels."""
    own = rows[(rows["control"] == "none") & (rows["subset"] == "all") & rows["chosen"]]
    keys = zip(own["site"], own["layer"], own["position"], strict=True)
    marks = set(landmarks(own))
    columns = [*probe_sweep.WHERE, "probe", *PLACE, "accuracy", "auc", "chance"]
    return own.loc[[key in marks for key in keys], columns]


def read_grids(name: str) -> list[Grid]:
    """The grids of a saved sweep. Their `run` is the label of the run."""
    table = pd.read_csv(_path(name), keep_default_na=True)
    path = _path(f"{name}-subsets")
    subsets = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["recipe", "probe", "run"])
    facts = [f.name for f in dataclasses.fields(Grid) if f.name not in ("cells", "subsets")]
    found = []
    for (recipe, probe, run), part in table.groupby(["recipe", "probe", "run"], sort=False):
        own = subsets[(subsets["recipe"] == recipe) & (subsets["probe"] == probe) & (subsets["run"] == run)]
        cells = part.drop(columns=facts).dropna(axis=1, how="all").reset_index(drop=True)
        first = part[facts].head(1).astype(object).to_dict("records")[0]  # values of Python's own types
        found.append(Grid(cells=cells, subsets=own, **first | {"run": LABELS[run]}))
    return found


def read_landmarks(name: str) -> pd.DataFrame:
    """Read a table of landmarks, with the columns that figures need."""
    rows = pd.read_csv(_path(name))
    return rows.assign(run=rows["run"].map(LABELS), control="none", subset="all", chosen=True)


def has_table(name: str) -> bool:
    """Whether a table is saved."""
    return _path(name).exists()


def read_gaps() -> pd.DataFrame:
    """The IML gap in AUC of each seed of each run, by the run's label."""
    gaps = pd.read_csv(_path("gaps"))
    return gaps.assign(run=gaps["run"].map(LABELS))


def _path(name: str) -> Path:
    return TABLES / f"probes-{name}.csv"
