"""The tables docs/results/toolbox-RECIPE-*.csv, one set for each recipe of docs/toolbox.md.

python -m docs.write.toolbox_tables RUN     take the tables from a run of one of these recipes
"""

import functools
from pathlib import Path
from typing import Any, Final

import pandas as pd
import tyro

from docs.write import inside
from docs.write.places import TABLES
from mechocl.analyses import jobs, registry
from mechocl.analyses.subject import open_subject
from mechocl.behaviour import over_seeds
from mechocl.interventions import circuits
from mechocl.interventions.attribution_patching import attribute_activations
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.patching import PatchingConfig, patch_activations
from mechocl.interventions.suppression import SuppressionConfig, candidates
from mechocl.runs.run import Run

NEW: Final = ("d1_consistent", "d2_consistent", "d3_consistent")
"""Subsets of new aliases."""

_HEADS: Final = PatchingConfig(site=("q", "k", "v", "z"), by="role")
_BACK: Final = PatchingConfig(pairs=("d1-to-itself", "d2-to-itself"), from_stage=1, by="role")


def _rows(run: Run, name: str, config: Any = None) -> pd.DataFrame:
    chosen = registry.ANALYSES[name].config() if config is None else config
    rows = jobs.analyse_run(run, name, chosen, stage=None, device="cpu", jobs=None)
    evaluated = jobs.analyse_run(
        run, "evaluate", registry.EvaluateConfig(), stage=None, device="cpu", jobs=None
    )
    return rows[rows["seed"].isin(over_seeds.without_failed(evaluated)[0]["seed"])]


def take_tables(run_path: Path) -> None:
    """Write the tables from a run, computing what it lacks. Seeds that failed to learn are left out."""
    run = Run.open(run_path)
    patched = []
    for which, config in (("stream", None), ("heads", _HEADS), ("stage 1 into stage 2", _BACK)):
        rows = _rows(run, "patch", config)
        rows = rows.assign(what=which, site=over_seeds.site_names(rows))
        if which == "heads":
            rows["site"] = rows["site"].str.replace(r"^(L\d+)H\d+", r"\1 heads,", regex=True)
            keys = [
                c for c in rows.columns if c not in ("index", "value", "effect", "normalised", "exchanged")
            ]
            rows = rows.groupby(keys, sort=False, as_index=False)["effect"].sum()
        patched.append(rows)
    columns = ["what", "seed", "contrast", "site", "position", "effect", "clean", "corrupted", "pairs"]
    table = pd.concat(patched, ignore_index=True)[columns]
    write = functools.partial(_write, of=run.recipe_name)
    write(table[table["effect"].abs() > 1e-6], "patch")
    found = _rows(run, "circuit")
    edges = [
        circuits.pool_heads(part).assign(contrast=name)
        for name, part in found.groupby("contrast", sort=False)
    ]
    write(pd.concat(edges, ignore_index=True).query("abs(value) > 1e-6"), "edges")
    each = found[found["kind"] == "edge"]
    write(each[["seed", "contrast", "sender", "receiver", "place", "value", "attributed"]], "attribution")
    curve = found[found["kind"] != "edge"].groupby(["seed", "contrast", "kind", "edges"], sort=False)[
        "normalised"
    ]
    write(curve.mean().reset_index(), "circuits")
    write(_estimated(run), "estimates")
    searched = _rows(run, "suppression")
    config = SuppressionConfig()
    both = ((config.raised, config.spared), (config.spared, config.raised))
    write(
        pd.concat(
            [candidates(searched, raised=a, spared=b).assign(raised=a) for a, b in both], ignore_index=True
        ),
        "suppression",
    )
    grafts = pd.concat([_rows(run, "graft"), _rows(run, "steering")], ignore_index=True)
    kept = grafts[grafts["subset"].isin(NEW) & (grafts["metric"] == "auc") & (grafts["change"] > 0)]
    write(kept[["seed", "group", "kind", "site", "subset", "value", "effect", "share"]], "graft")
    write(_subspaces(run), "subspace")
    lens = _rows(run, "lens")
    lens = lens[
        (~lens["contains"]) & lens["position"].isin(["alias", "="]) & lens["subset"].isin([*NEW, "no_data"])
    ]
    write(lens[["seed", "subset", "component", "layer", "position", "rank"]], "lens")


def take_control_tables(runs: Path) -> None:
    """Write the table of subspaces of the control runs of `inside.RUNS` that are in the folder."""
    for one in inside.CONTROLS:
        if (runs / one.folder).exists():
            _write(_subspaces(Run.open(runs / one.folder)), "subspace", of=one.label)


def _subspaces(run: Run) -> pd.DataFrame:
    swapped = _rows(run, "subspace")
    swapped = swapped[swapped["metric"] == "logit_difference"]
    keys = ["seed", "method", "k", "layer", "site", "position", "control", "contrast"]
    return swapped[[*keys, "clean", "corrupted", "swapped", "normalised", "explained", "decoding"]]


def _estimated(run: Run) -> pd.DataFrame:
    """How attribution patching ranks the neurons at `=`, compared with patching each: Spearman's ρ by seed."""
    found = []
    for folder in run.finished_seeds():
        subject = open_subject(folder, stage=None, device="cpu")
        for name in PatchingConfig().pairs:
            pairs = pairs_named(subject.task, name, n_pairs=200, seed=0)
            both = [
                how(subject.model, pairs, sites=["mlp_post"], metric="logit_difference", by="role").rows[
                    "effect"
                ]
                for how in (patch_activations, attribute_activations)
            ]
            moved = both[0].abs() > 1e-6
            rho = both[0][moved].corr(both[1][moved], method="spearman")
            found.append({"seed": folder.seed, "contrast": name, "neurons": int(moved.sum()), "rho": rho})
    return pd.DataFrame(found)


def _path(name: str, of: str) -> Path:
    return TABLES / f"toolbox-{inside.file_name(of.split('/')[-1])}-{name}.csv"


def _write(table: pd.DataFrame, name: str, *, of: str) -> None:
    table.to_csv(_path(name, of), index=False, float_format="%.5g")


def write_learning(table: pd.DataFrame, name: str, *, of: str) -> None:
    """Save a table of `docs.write.learning`."""
    _write(table, name, of=of)


def has_table(name: str, *, of: str) -> bool:
    """Whether a table is saved."""
    return _path(name, of).exists()


def read_table(name: str, *, of: str) -> pd.DataFrame:
    """Read one of the saved tables of a recipe, or of a control (the label of `inside`)."""
    return pd.read_csv(_path(name, of), keep_default_na=True, na_filter=True)


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_tables))
