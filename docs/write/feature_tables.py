"""The tables docs/results/features-*.csv, taken from the runs' searches, tests and crosscoders."""

from pathlib import Path
from typing import Any, Final

import pandas as pd

from docs.write.inside import RUNS
from docs.write.places import TABLES
from mechocl.analyses import crosscoder_jobs, results
from mechocl.behaviour.over_seeds import over_seeds
from mechocl.features import dictionaries, summaries
from mechocl.features.candidates import EffectsConfig
from mechocl.features.crosscoders import CrosscoderConfig
from mechocl.features.search import SearchConfig
from mechocl.features.settings import QualityConfig
from mechocl.runs.run import Run

SITES = ("resid_pre", "resid_mid", "resid_post")
WIDTH, K = 256, 8

TAGS: Final = (
    "new alias of tag 1, not 2",
    "new alias of tag 3, not 2",
    "new alias of tag 1, not 3",
    "asked-about alias of tag 1, not 2",
)
"""Properties of the tag that the page has tables of, the new aliases' tags 1 and 2 first."""


def _name(site: str, number: int) -> str:
    return f"blocks.0.hook_{site}-topk-{WIDTH}-k{K}-s{number}"


def take_tables(runs: Path) -> None:
    """Write the tables from the results of those runs that are in the folder."""
    kept: dict[str, list[pd.DataFrame]] = {
        name: []
        for name in ("runs", "quality", "existing", "counted", "conjunctions", "causal", "patches", "subsets")
    }
    compared = []
    for one in RUNS:
        if not (runs / one.folder / dictionaries.FOLDER).is_dir():
            continue
        run = Run.open(runs / one.folder)
        for site in SITES:
            where = {"run": one.label, "site": site}
            judged = _rows(run, "sae-quality", site)
            found = _rows(run, "sae-search", site)
            tested = _rows(run, "sae-test", site)
            if judged is None or found is None or tested is None:
                continue
            seeds = ",".join(map(str, sorted(set(judged["seed"]))))
            kept["runs"].append(pd.DataFrame([{**where, "seeds": seeds}]))
            kept["quality"].append(summaries.quality(judged).drop(columns="of").assign(**where))
            kept["existing"].append(summaries.existing(found).assign(**where))
            kept["counted"].append(summaries.counted(found).assign(**where))
            kept["conjunctions"].append(summaries.conjunctions(found).head(8).assign(**where))
            kept["causal"].append(summaries.causal(tested).assign(**where))
            best = summaries.surest_patches(tested)
            columns = [
                "seed",
                "sae",
                "property",
                "kind",
                "effect",
                "gap",
                "share",
                "control",
            ]
            kept["patches"].append(best[columns].assign(**where))
            for metric in ("logit_difference", "within_alias_auc"):
                part = summaries.on_subsets(tested, metric).assign(metric=metric, **where)
                kept["subsets"].append(part)
            rows = _crosscoded(run, site)
            if rows is not None:
                compared.append(rows.assign(**where))
    for name, parts in kept.items():
        if parts:
            _save(pd.concat(parts), name)
    if compared:
        rows = pd.concat(compared)
        keys = ["run", "site"]
        _save(
            pd.concat(
                [
                    summaries.verdicts(p).assign(**dict(zip(keys, k, strict=True)))
                    for k, p in rows.groupby(keys, sort=False)
                ]
            ),
            "crosscoders",
        )
        _save(_explained(rows, keys), "crosscoders-explained")


def _save(table: pd.DataFrame, name: str) -> None:
    table.to_csv(_path(name), index=False, float_format="%.4g")


def _explained(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Explained variance of the checkpoints, and the range of relative norms of the shared features."""
    parts = []
    for column in ("explained_first", "explained_last"):
        one = over_seeds(rows.drop_duplicates([*keys, "seed"]), keys, column)
        parts.append(one.assign(what=column))
    live = rows[rows["kind"] != "dead"]
    for q, name in ((0.025, "relative_norm_low"), (0.975, "relative_norm_high")):
        one = live.groupby([*keys, "seed"], sort=False)["relative_norm"].quantile(q).reset_index()
        parts.append(over_seeds(one, keys, "relative_norm").assign(what=name))
    return pd.concat(parts).drop(columns=["p", "positive", "of"])


def _rows(run: Run, analysis: str, site: str) -> pd.DataFrame | None:
    """Rows of both dictionaries of a site, over the seeds that have them. The column `sae` names the dictionary."""
    parts = []
    names = [_name(site, number) for number in (0, 1)]
    for number, name in enumerate(names):
        config: Any
        match analysis:
            case "sae-quality":
                config = QualityConfig(sae=name, others=(names[1 - number],))
            case "sae-search":
                config = SearchConfig(sae=name)
            case _:
                config = EffectsConfig(sae=name)
        seeds = [
            folder.seed
            for folder in run.finished_seeds()
            if all(
                (dictionaries.path_of(run.path, one, folder.seed) / dictionaries.RECORD).exists()
                for one in names
            )
            and run.load_result(analysis, results.result_key(folder, analysis, config, None)) is not None
        ]
        rows = results.load_rows(run, analysis, config, seeds=seeds) if seeds else None
        if rows is None:
            return None
        parts.append(rows.assign(sae=str(number)))
    return pd.concat(parts, ignore_index=True)


def _crosscoded(run: Run, site: str) -> pd.DataFrame | None:
    config = CrosscoderConfig(site=f"blocks.0.hook_{site}", width=WIDTH, k=K)
    rows = crosscoder_jobs.saved_rows(
        run, config, which="stages", seeds=[f.seed for f in run.finished_seeds()]
    )
    return None if rows.empty else rows


def has_table(name: str) -> bool:
    """Whether a table is saved."""
    return _path(name).exists()


def read_table(name: str) -> pd.DataFrame:
    """Read one of the saved tables."""
    return pd.read_csv(_path(name))


def _path(name: str) -> Path:
    return TABLES / f"features-{name}.csv"
