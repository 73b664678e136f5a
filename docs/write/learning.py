"""The section of docs/toolbox.md on twins and variants, from the tables docs/results/toolbox-RECIPE-twins.csv and -variants.csv.

python -m docs.write.learning RUN     take the tables from a run that has twins and variants
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
import tyro

from docs.write import exchanges
from docs.write.markdown import write_table
from docs.write.toolbox_tables import has_table, read_table, write_learning
from mechocl.analyses import jobs, variant_jobs
from mechocl.behaviour.formats import MISSING, estimate_in_words, number
from mechocl.behaviour.statistics import Estimate, estimate, share_removed
from mechocl.learning.twins import estimate_twins, pair_twins
from mechocl.learning.variant_gaps import compare_variant
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED, VARIANTS, open_variant, variant_path

_METRICS: Final = ("auc", "logit_difference")


def take_tables(run_path: Path) -> None:
    """Write the tables from a run whose twins and variants are trained, over the seeds that learned their definitions."""
    run = Run.open(run_path)
    counted = jobs.count_run(run, device=run.manifest["device"], jobs=None)
    own = variant_jobs.collect_answers(run, jobs=None)
    there = [name for name in VARIANTS if (variant_path(run.path, name) / "manifest.json").exists()]
    opened = {name: open_variant(run, name) for name in there}
    names = [name for name in there if not opened[name].unfinished_seeds()]
    if EXCHANGED not in names:
        raise SystemExit(
            f"the twins of {run_path} are not trained to their end; run `mechocl twins {run_path}`"
        )
    exchanged = counted.keep_shown(variant_jobs.collect_answers(opened[EXCHANGED], jobs=None).rows)
    twins = [
        estimate_twins(pair_twins(own.rows, exchanged, metric)).assign(metric=metric) for metric in _METRICS
    ]
    write_learning(pd.concat(twins), "twins", of=run.recipe_name)
    write_learning(
        compare_variants(run, [name for name in names if name != EXCHANGED]), "variants", of=run.recipe_name
    )


def compare_variants(run: Run, names: Sequence[str]) -> pd.DataFrame:
    """One row per measure, variant and seed that learned its definitions (`variant_gaps.compare_variant`)."""
    counted = jobs.count_run(run, device=run.manifest["device"], jobs=None)
    own = variant_jobs.collect_answers(run, jobs=None)
    found = {name: variant_jobs.collect_answers(open_variant(run, name), jobs=None) for name in names}
    return pd.concat(
        [
            compare_variant(
                (counted.keep_shown(own.rows), own.history),
                (counted.keep_shown(found[name].rows), found[name].history),
                metric,
            ).by_seed.assign(metric=metric, variant=name)
            for metric in _METRICS for name in names
        ]
    )  # fmt: skip


def write_section(recipes: Sequence[str]) -> list[str]:
    """The section, over the recipes that have the tables."""
    there = [of for of in recipes if has_table("twins", of=of)]
    return [
        "# Twins and interventions on training",
        "",
        "*Twins*: stage 2 is trained twice from the same weights, with the tags of `d1` and `d2` exchanged in the second training; all else is equal (`mechocl twins`). "
        "So each alias has answers under both tags, and its gap (tag 1 − tag 2) has no variance between aliases in it. *Variants*: stage 2 is trained again from the "
        "same weights with one thing changed (`mechocl variants`). The share removed is 1 − the variant's gap / the run's gap, paired by seed, with Fieller's 95 % interval; – where "
        "the run's gap may be 0. It is compared with the run itself; whether the gap owes to unreliability is not asked here, and the same commands take a control run for that.",
        "",
        *(line for of in there for line in _of_recipe(of)),
        "**What this cannot show.** Where no tag reaches the training at all (*cut-tag*, *tag-1*, *tag-3*, *no-tag*), no gap can be left but by chance: these are checks, and "
        "what they add is the level at which `d1` and `d2` then stand. In the *forward* and *backward* variants an update is no longer down the slope of any loss. Where their definition "
        "loss stays high, definitions were learned in another way, and equal definition loss is no fair comparison. A share says what a path of the update is needed for, not "
        "that a model trusts a tag. Nothing is said of models of more than one layer.",
        "",
    ]


def _of_recipe(of: str) -> list[str]:
    name = of.split("/")[-1]
    twins, variants = read_table("twins", of=of), read_table("variants", of=of)
    return [
        f"## `{of}`",
        "",
        f"    mechocl train {of} --seeds 8 --first-seed 300 --out runs/twins-{name}",
        f"    mechocl twins runs/twins-{name}",
        f"    mechocl variants runs/twins-{name}{_only(variants)}",
        "",
        *[line for metric in _METRICS for line in _twins_in_words(twins[twins["metric"] == metric], metric)],
        "",
        *variant_table(variants),
        *exchanges.write_part(of),
    ]


def _only(variants: pd.DataFrame) -> str:
    """The option that names the variants of a table, where it has few of them."""
    names = list(dict.fromkeys(variants["variant"]))
    return f" --only {' '.join(names)}" if len(names) < 10 else ""


_NAMES: Final = {"auc": "AUC", "logit_difference": "Logit difference (nats)"}


def _twins_in_words(rows: pd.DataFrame, metric: str) -> list[str]:
    twin, gap = (estimate(rows[name].to_numpy(dtype=float), unit="seed") for name in ("twin_gap", "gap"))
    within = rows["gap_error"] / rows["twin_error"]
    pairing = rows["unpaired_error"] / rows["twin_error"]
    return [
        f"- {_NAMES[metric]}, {twin.n} seeds: twins {estimate_in_words(twin, sign=True)}, d1 − d2 {estimate_in_words(gap, sign=True)}. Within a seed, the "
        f"standard error over aliases is {number(within.min(), 1)} to {number(within.max(), 1)} times smaller for twins (median {number(within.median(), 1)}; by pairing alone, with as much "
        f"training, {number(pairing.median(), 1)}). Over seeds it is {number(gap.deviation / twin.deviation, 2)} times smaller: models differ in the gap itself."
    ]


def variant_table(rows: pd.DataFrame) -> list[str]:
    """A line for each variant of rows of `compare_variants`."""
    body = []
    for name in dict.fromkeys(rows["variant"]):
        auc, nats = (rows[(rows["variant"] == name) & (rows["metric"] == metric)] for metric in _METRICS)
        body.append(
            [
                f"`{name}`", *(number(auc[subset].mean()) for subset in ("d1", "d2", "d3")), _removed(auc, "gap"),
                _removed(nats, "gap"), _removed(auc, "gap_at_loss"), number(auc["recall"].mean(), 2),
                number(auc["definition_loss"].mean(), 2),
            ]
        )  # fmt: skip
    head = [
        "variant", "`d1`", "`d2`", "`d3`", "share of the AUC gap removed", "of the gap in nats", "AUC gap, at equal definition loss",
        "recall", "definition loss",
    ]  # fmt: skip
    return [*write_table(head, body), ""]


def _removed(rows: pd.DataFrame, column: str) -> str:
    both = rows.dropna(subset=[f"run_{column}", column])
    if len(both) < 2:
        return MISSING
    found: Estimate = share_removed(
        both[f"run_{column}"].to_numpy(dtype=float), both[column].to_numpy(dtype=float), unit="seed"
    )
    return MISSING if found.high != found.high else estimate_in_words(found, 2, sign=True)


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_tables))
