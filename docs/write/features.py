"""The section of docs/results.md on sparse autoencoders, and its figures, from the tables that `take` saves."""

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from mechocl.analyses import crosscoder_jobs, registry
from mechocl.behaviour.over_seeds import over_seeds
from mechocl.features import dictionaries, summaries
from mechocl.features.candidates import ALPHA, EffectsConfig
from mechocl.features.checkpoint_comparison import NEW, REMOVED
from mechocl.features.crosscoders import CrosscoderConfig
from mechocl.features.quality import FOUND_AGAIN
from mechocl.features.search import SearchConfig
from mechocl.features.settings import HELD_OUT, QualityConfig
from mechocl.report import feature_plots
from mechocl.runs.run import Run

TABLES = Path(__file__).parent / "results"

ORDERS = {"TVE": "demo", "VTE": "order-VTE", "EVT": "order-EVT", "VET": "order-VET"}
"""The word orders in which internalization is strong, and their runs."""

SITES = ("resid_pre", "resid_mid", "resid_post")
WIDTH, K = 256, 8
TRAINED = (
    f"--site {' '.join(f'blocks.0.hook_{site}' for site in SITES)} --width {WIDTH} --k {K} --sae-seeds 2"
)

_QUALITY = {
    ("explained_variance", "all"): "explained variance",
    ("explained_variance", "alias"): "at the alias",
    ("dead", "all"): "dead",
    ("loss", "recovered"): "loss recovered",
    ("auc_recovered", "d1_consistent"): "AUC recovered, d1",
    ("auc_recovered", "d2_consistent"): "d2",
    ("auc_recovered", "d3_consistent"): "d3",
    ("found_again", "all"): "found again",
}


def _name(site: str, number: int) -> str:
    return f"blocks.0.hook_{site}-topk-{WIDTH}-k{K}-s{number}"


def take(runs: Path) -> None:
    """Write the tables from the runs' own results, where they are."""
    kept: dict[str, list[pd.DataFrame]] = {
        name: []
        for name in ("runs", "quality", "existing", "counted", "conjunctions", "causal", "patches", "subsets")
    }
    compared = []
    for order, folder in ORDERS.items():
        if not (runs / folder / dictionaries.FOLDER).is_dir():
            continue
        run = Run.open(runs / folder)
        for site in SITES:
            where = {"order": order, "site": site}
            judged = _rows(run, "sae-quality", site)
            found = _rows(run, "sae-search", site)
            tested = _rows(run, "sae-test", site)
            if judged is None or found is None or tested is None:
                continue
            seeds = ",".join(map(str, sorted(set(judged["seed"]))))
            kept["runs"].append(pd.DataFrame([{**where, "seeds": seeds}]))
            kept["quality"].append(summaries.quality(judged).assign(**where))
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
        keys = ["order", "site"]
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
    table.to_csv(TABLES / f"features-{name}.csv", index=False, float_format="%.4g")


def _explained(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Explained variance of the checkpoints, and the shared features' range of relative norms."""
    parts = []
    for column in ("explained_first", "explained_last"):
        one = over_seeds(rows.drop_duplicates([*keys, "seed"]), keys, column)
        parts.append(one.assign(what=column))
    live = rows[rows["kind"] != "dead"]
    for q, name in ((0.025, "relative_norm_low"), (0.975, "relative_norm_high")):
        one = live.groupby([*keys, "seed"], sort=False)["relative_norm"].quantile(q).reset_index()
        parts.append(over_seeds(one, keys, "relative_norm").assign(what=name))
    return pd.concat(parts).drop(columns=["p", "positive"])


def _rows(run: Run, analysis: str, site: str) -> pd.DataFrame | None:
    """Rows of both dictionaries of a site, over the seeds that have them; `sae` tells which."""
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
            and run.load_result(analysis, registry.result_key(folder, analysis, config, None)) is not None
        ]
        rows = registry.load_rows(run, analysis, config, seeds=seeds) if seeds else None
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


def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"features-{name}.csv")


def figures() -> dict[str, go.Figure]:
    """Which properties have features where (TVE), and what patching them does, by word order."""
    if not (TABLES / "features-existing.csv").exists():
        return {}
    existing, best = _table("existing"), _table("patches")
    panels = [
        (f"TVE, {site}", existing[(existing["order"] == "TVE") & (existing["site"] == site)])
        for site in SITES
    ]
    found = {"features-selectivity-TVE": feature_plots.selectivity(panels)}
    for order in best["order"].unique():
        part = best[(best["order"] == order) & (best["site"] == "resid_pre")]
        figure = feature_plots.shares(part, title=f"{order}: features of the embeddings")
        found[f"features-shares-{order}"] = figure
    return found


def section() -> list[str]:
    """What exists, what is causal, what differs before and after stage 2."""
    if not (TABLES / "features-existing.csv").exists():
        return []
    quality, existing, counted = _table("quality"), _table("existing"), _table("counted")
    causal = _table("causal")
    runs = _table("runs").astype({"seeds": str})
    seeds = runs.groupby("order", sort=False)["seeds"].first()
    sites = runs.groupby("order", sort=False)["site"].agg(list)
    number = ", ".join(f"{n.count(',') + 1} of {order}" for order, n in seeds.items())
    lines = [
        "## Features of internalization",
        "",
        f"Sparse autoencoders of the word orders with strong internalization: TopK, {WIDTH} features, k {K}, two of each from "
        f"other initial weights, for every model seed ({number}). {HELD_OUT:.0%} of the aliases were kept from their training; "
        "everything below is judged on those, but for dead features and stability. Width and k were settled on two seeds "
        "(`mechocl sae train runs/demo --seeds 0,1 --width 64 256 1024 --k K --sae-seeds 2` for k of 4 and 8), which are among those of TVE.",
        "",
        *(
            f"    mechocl sae train runs/{ORDERS[order]} --seeds {seeds[order]} "
            f"--site {' '.join(f'blocks.0.hook_{site}' for site in sites[order])} --width {WIDTH} --k {K} --sae-seeds 2"
            for order in seeds.index
        ),
        "",
        "then `mechocl sae search` and `mechocl sae test` of each, and `mechocl crosscoder RUN --site SITE --width "
        f"{WIDTH} --k {K}`. Tables: `docs/results/features-*.csv`.",
        "",
        "**Quality** (means over model seeds; *recovered*: with the reconstruction in the place of the activation, 1 is the "
        "model's own, 0 zeros in its place for the loss, .5 for the AUC; *found again*: cosine above "
        f"{FOUND_AGAIN:g} with a feature of "
        "the other dictionary):",
        "",
        "| order | site | " + " | ".join(_QUALITY.values()) + " |",
        "|---|---|" + "---:|" * len(_QUALITY),
    ]
    cells = quality.set_index(["order", "site", "measure", "part"])["mean"]
    for order, site in quality[["order", "site"]].drop_duplicates().itertuples(index=False):
        values = [cells.get((order, site, *key), float("nan")) for key in _QUALITY]
        lines.append(
            f"| {order} | {site} | " + " | ".join("–" if v != v else f"{v:.3f}" for v in values) + " |"
        )
    lines += [
        "",
        "**What exists.** Properties of a group that some feature stands for at some position of a question (q < "
        f"{ALPHA:g} on held-out aliases), mean over dictionaries, of all properties of the group:",
        "",
        *_counted(counted),
        "",
        "Tags, at the position where the best feature separates them most. *selective*: dictionaries with such a "
        "feature there; AUC on held-out aliases of the best feature, of sets, of all features, and of the activations "
        "themselves (dense probe):",
        "",
        *_tags(existing),
        "",
        "![AUC of the best feature, TVE](figures/features-selectivity-TVE.svg)",
        "",
        "**What is causal.** Exchanging a feature's activation between two questions: share of the gap in the answers (logit "
        "difference) that moves, of the feature that the search was surest of, and of sets, with 95 % intervals over model "
        "seeds (of integers the mean of the ten surest); *controls*: 95th percentile of random features of equal firing rate "
        f"and norm; *pass*: retrieval features of those tested: selective, and above 95 % of their own controls ({ALPHA:.0%} of "
        "features that do nothing of their own would be).",
        "",
        *_causal(causal),
        "",
        *(f"![Shares, {order}](figures/features-shares-{order}.svg)" for order in seeds.index),
        "",
        "Ablating and clamping the surest feature of the tag, on questions about new aliases (within-alias AUC; means with "
        "95 % intervals over model seeds, resid_pre):",
        "",
        *_subsets(_table("subsets")),
        "",
        *_before_and_after(),
        *_reading(),
    ]
    return lines


def _counted(table: pd.DataFrame) -> list[str]:
    groups = [
        g
        for g in ("tag", "contains", "stage", "integer", "range", "subset", "defined as", "token")
        if g in set(table["group"])
    ]
    wide = table.assign(text=[f"{f:.1f} / {o:.0f}" for f, o in zip(table["found"], table["of"], strict=True)])
    wide = wide.pivot(index=["order", "site"], columns="group", values="text")
    lines = ["| order | site | " + " | ".join(groups) + " |", "|---|---|" + "---:|" * len(groups)]
    for order, site in table[["order", "site"]].drop_duplicates().itertuples(index=False):
        row = wide.loc[(order, site)]
        lines.append(
            f"| {order} | {site} | "
            + " | ".join(str(row[g]) if isinstance(row[g], str) else "–" for g in groups)
            + " |"
        )
    return lines


_TAGS = (
    "new alias of tag 1, not 2",
    "new alias of tag 3, not 2",
    "new alias of tag 1, not 3",
    "asked-about alias of tag 1, not 2",
)


def _tags(table: pd.DataFrame) -> list[str]:
    lines = [
        "| order | site | property | at | selective | best feature | k=4 | k=16 | all | dense |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    part = table[table["property"].isin(_TAGS)]
    for (order, site, name), own in part.groupby(["order", "site", "property"], sort=False):
        top = own.sort_values("auc_chosen", ascending=False, kind="stable").iloc[0]
        numbers = [top[c] for c in ("auc", "k=4", "k=16", "all", "dense")]
        lines.append(
            f"| {order} | {site} | {name} | `{top['position']}` | {top['selective']} of {top['dictionaries']} | "
            + " | ".join("–" if v != v else f"{v:.3f}" for v in numbers)
            + " |"
        )
    return lines


def _causal(table: pd.DataFrame) -> list[str]:
    lines = [
        "| order | site | property | of | gap, nats | share [95 %] | controls | pass | dictionaries with one |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in table.to_dict("records"):
        share = "–" if r["share"] != r["share"] else _share(r)
        control = "–" if r["control"] != r["control"] else f"{r['control']:+.3f}"
        lines.append(
            f"| {r['order']} | {r['site']} | {r['property']} | {r['kind']} | {r['gap']:.2f} | {share} | {control} | "
            f"{r['retrieval']} of {r['tested']} | {r['with_retrieval']} of {r['dictionaries']} |"
        )
    return lines


def _subsets(table: pd.DataFrame) -> list[str]:
    part = table[
        (table["metric"] == "within_alias_auc")
        & (table["site"] == "resid_pre")
        & (table["property"] == _TAGS[0])
    ]
    lines = [
        "| order | intervention | d1 | d2 | d3 | controls, d1 / d2 / d3 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (order, intervention), own in part.groupby(["order", "intervention"], sort=False):
        by = own.set_index("subset")
        cells = [
            f"{by.loc[s, 'mean']:+.3f} [{by.loc[s, 'low']:+.3f}, {by.loc[s, 'high']:+.3f}]"
            for s in ("d1", "d2", "d3")
        ]
        controls = " / ".join(f"{by.loc[s, 'control']:+.3f}" for s in ("d1", "d2", "d3"))
        lines.append(f"| {order} | {intervention} | {' | '.join(cells)} | {controls} |")
    return lines


def _before_and_after() -> list[str]:
    if not (TABLES / "features-crosscoders.csv").exists():
        return []
    table, explained = _table("crosscoders"), _table("crosscoders-explained")
    lines = [
        f"**Before and after stage 2.** Crosscoders ({WIDTH} features, k {K}, BatchTopK) of the two checkpoints: features by what "
        "stage 2 did to them (mean over model seeds with 95 % interval). A feature is *new* (or *removed*) above "
        f"{NEW:g} (below {REMOVED:g}) of the decoder norm; *shrunken* ones look so and fail the check of latent scaling. *relative norm*: the 95 % of the live "
        "features in the middle.",
        "",
        "| order | site | shared | new | removed | shrunken | other | dead | relative norm | explained, before / after |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    what = explained.set_index(["order", "site", "what"])["mean"]
    for (order, site), own in table.groupby(["order", "site"], sort=False):
        by = own.set_index("verdict")
        cells = [
            f"{by.loc[v, 'mean']:.1f} [{by.loc[v, 'low']:.1f}, {by.loc[v, 'high']:.1f}]"
            if v in by.index
            else "0"
            for v in ("shared", "new", "removed", "shrunken", "other", "dead")
        ]
        norm = (
            f"{what[order, site, 'relative_norm_low']:.2f} to {what[order, site, 'relative_norm_high']:.2f}"
        )
        both = f"{what[order, site, 'explained_first']:.3f} / {what[order, site, 'explained_last']:.3f}"
        lines.append(f"| {order} | {site} | {' | '.join(cells)} | {norm} | {both} |")
    return [*lines, ""]


def _reading() -> list[str]:
    """What the tables say, in words; every number and every yes and no is taken from them."""
    existing, causal = _table("existing"), _table("causal").set_index(["order", "site", "property", "kind"])
    counted = _table("counted").set_index(["order", "site", "group"])
    quality = _table("quality").set_index(["order", "site", "measure", "part"])["mean"]
    lines = ["**What that says**", ""]
    for order in existing["order"].unique():
        lines.append(f"- *{order}*, embeddings. " + _tag_in_words(order, existing, causal))
    matches = []
    for order, site in existing[["order", "site"]].drop_duplicates().itertuples(index=False):
        key = (order, site, "list contains the integer", "feature")
        part = existing[(existing["order"] == order) & (existing["site"] == site)]
        part = part[(part["property"] == key[2]) & (part["position"] == "=")]
        if site != "resid_pre" and len(part) and key in causal.index:
            row, top = causal.loc[key], part.iloc[0]
            matches.append(
                f"{order} {site}: AUC {top['auc']:.2f}, {_share(row)} of the gap, {row['retrieval']:.0f} of "
                f"{row['tested']:.0f} pass"
            )
    if matches:
        lines.append(
            '- *The list contains the alias\'s integer* ("retrieve now" succeeded), at `=`: '
            + "; ".join(matches)
            + "."
        )
    pairs = _table("conjunctions")
    often = pairs[pairs["selective"] >= pairs["dictionaries"] / 2]
    lines.append(
        "- *Conjunctions* of two properties with a feature of their own (against either property alone) in at least half of "
        "the dictionaries: "
        + (
            "; ".join(
                f"{r['order']} {r['site']}: {r['property']} (`{r['position']}`, AUC {r['auc']:.2f}, {r['selective']} of "
                f"{r['dictionaries']})"
                for r in often.groupby(["order", "site"], sort=False).head(2).to_dict("records")
            )
            or "none"
        )
        + "."
    )
    integers = [
        f"{order} {site}: {counted.loc[(order, site, 'integer'), 'found']:.1f} of {counted.loc[(order, site, 'integer'), 'of']:.0f}, "
        f"{row['retrieval']:.0f} of {row['tested']:.0f} tested pass"
        for (order, site, name, _), row in causal.iterrows()
        if name == "any integer"
    ]
    lines.append(
        "- *The alias's integer.* Integers with a feature of their own: " + "; ".join(integers) + "."
    )
    wrong = [
        f"{order} {site} {counted.loc[(order, site, 'defined as'), 'found']:.1f} of {counted.loc[(order, site, 'defined as'), 'of']:.0f}"
        for order, site in existing[["order", "site"]].drop_duplicates().itertuples(index=False)
        if (order, site, "defined as") in counted.index
    ]
    lines.append(
        "- *The integer that an unreliable definition named* (qd2, where the questions say another): features for "
        + "; ".join(wrong)
        + " integers."
    )
    again = [quality.loc[key] for key in quality.index if key[2:] == ("found_again", "all")]
    lines.append(
        f"- *Stability.* {min(again):.0%} to {max(again):.0%} of the live features of a dictionary are found again from other initial weights."
    )
    if (TABLES / "features-crosscoders.csv").exists():
        verdicts = _table("crosscoders")
        most = {v: verdicts[verdicts["verdict"] == v]["mean"].max() for v in ("new", "removed", "shrunken")}
        said = ", ".join(f"{0 if m != m else m:.1f} {v}" for v, m in most.items())
        lines.append(
            f"- *Stage 2.* At most (mean over seeds, any site and order) {said} features, out of {WIDTH}: "
            + (
                "what stage 2 adds lies in directions that stage 1 had made."
                if all(m != m or m < 1 for m in most.values())
                else "some of what stage 2 adds is in features of its own."
            )
        )
    return [*lines, ""]


def _share(row: Any) -> str:
    interval = "" if row["low"] != row["low"] else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['share']:+.2f}{interval}"


def _tag_in_words(order: str, existing: pd.DataFrame, causal: pd.DataFrame) -> str:
    """Is there a feature of the tag of new aliases, how much of the tag is in it, and what does it do?"""
    name = _TAGS[0]
    part = existing[
        (existing["order"] == order) & (existing["site"] == "resid_pre") & (existing["property"] == name)
    ]
    top = part.sort_values("auc_chosen", ascending=False, kind="stable").iloc[0]
    text = (
        f"A feature tells new aliases of tag 1 from those of tag 2 in {top['selective']} of {top['dictionaries']} dictionaries: "
        f"AUC {top['auc']:.2f} alone, {top['k=16']:.2f} with sixteen, {top['dense']:.2f} of the embeddings themselves. "
    )
    for kind, words in (
        ("feature", "Exchanging the surest one"),
        ("4 features", "a set of 4"),
        ("16 features", "a set of 16"),
    ):
        key = (order, "resid_pre", name, kind)
        if key in causal.index:
            row = causal.loc[key]
            text += (
                f"{words} moves {_share(row)} of the gap in the answers (controls {row['control']:+.2f}; "
                f"{row['retrieval']:.0f} of {row['tested']:.0f} tested pass)"
            )
            text += "; " if kind != "16 features" else ". "
    asked = existing[
        (existing["order"] == order) & (existing["site"] == "resid_pre") & (existing["property"] == _TAGS[3])
    ]
    best = asked.sort_values("selective", ascending=False, kind="stable").iloc[0]
    text += (
        "Compare the swap along one dense direction, under *Is it used?* above. " if order == "TVE" else ""
    )
    return text + (
        f"The tag of asked-about aliases has a feature in {best['selective']} of {best['dictionaries']} dictionaries "
        f"(`{best['position']}`, AUC {best['auc']:.2f})."
    )
