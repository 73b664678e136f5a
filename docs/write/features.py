"""The section of docs/results.md on sparse autoencoders, and its figures."""

from typing import Final

import pandas as pd
import plotly.graph_objects as go

from docs.write.feature_reading import share_in_words, write_reading
from docs.write.feature_tables import TAGS, WIDTH, K, has_table, read_table
from docs.write.inside import RUNS, file_name
from docs.write.markdown import write_table
from mechocl.behaviour.formats import HYPHEN, MISSING, interval, number
from mechocl.features.candidates import ALPHA
from mechocl.features.checkpoint_comparison import NEW, REMOVED
from mechocl.features.quality import FOUND_AGAIN
from mechocl.features.settings import HELD_OUT
from mechocl.features.summaries import summarize_shares
from mechocl.report import feature_plots

_QUALITY: Final = {
    ("explained_variance", "all"): "explained variance",
    ("explained_variance", "alias"): "at the alias",
    ("dead", "all"): "dead",
    ("loss", "recovered"): "loss recovered",
    ("auc_recovered", "d1_consistent"): "AUC recovered, d1",
    ("auc_recovered", "d2_consistent"): "d2",
    ("auc_recovered", "d3_consistent"): "d3",
    ("found_again", "all"): "found again",
}


def draw_figures() -> dict[str, go.Figure]:
    """Figures of which properties have features where, and of what patching them does, by run."""
    if not has_table("existing"):
        return {}
    existing, best = read_table("existing"), read_table("patches")
    panels = [
        (f"{run}, {site}", existing[(existing["run"] == run) & (existing["site"] == site)])
        for run, site in existing[["run", "site"]].drop_duplicates().itertuples(index=False)
    ]
    found = {"features-selectivity": feature_plots.selectivity(panels)}
    for run in best["run"].unique():
        part = best[(best["run"] == run) & (best["site"] == "resid_pre")]
        figure = feature_plots.shares(summarize_shares(part), title=f"{run}: features of the embeddings")
        found[f"features-shares-{file_name(run)}"] = figure
    return found


def write_section() -> list[str]:
    """The section on what exists, what is causal, and what differs before and after stage 2."""
    if not has_table("existing"):
        return []
    runs = read_table("existing")["run"].unique()
    return [
        "## Features of internalization",
        "",
        *_commands(),
        "",
        *_quality(),
        "",
        *_what_exists(),
        "",
        *_what_is_causal(),
        "",
        *(f"![Shares, {run}](figures/features-shares-{file_name(run)}.svg)" for run in runs),
        "",
        "Ablating and clamping the surest feature of the tag, on questions about new aliases (within-alias AUC; means with "
        "95 % intervals over model seeds, resid_pre):",
        "",
        *_subsets(read_table("subsets")),
        "",
        *_before_and_after(),
        *write_reading(),
    ]


def _commands() -> list[str]:
    """The paragraphs and commands that say what was trained, and how."""
    runs = read_table("runs").astype({"seeds": str})
    seeds = runs.groupby("run", sort=False)["seeds"].first()
    sites = runs.groupby("run", sort=False)["site"].agg(list)
    numbers = ", ".join(f"{n.count(',') + 1} of {run}" for run, n in seeds.items())
    folders = {one.label: one.folder for one in RUNS}
    return [
        f"Sparse autoencoders of both recipes, and of the control of each that decides whether its gap needs unreliability (the runs of the "
        f"section above): TopK, {WIDTH} features, k {K}, two of each from "
        f"other initial weights, for several model seeds ({numbers}). {HELD_OUT:.0%} of the aliases were kept from their training; "
        "everything below is judged on those, but for dead features and stability. Width and k were settled on two seeds of "
        "`integer-set/short`, of 64, 256 and 1024 features and k of 4 and 8.",
        "",
        *(
            f"    mechocl sae train runs/{folders[run]} --seeds {seeds[run]} "
            f"--site {' '.join(f'blocks.0.hook_{site}' for site in sites[run])} --width {WIDTH} --k {K} --sae-seeds 2"
            for run in seeds.index
        ),
        "",
        "then `mechocl sae search` and `mechocl sae test` of each, and `mechocl crosscoder RUN --site SITE --width "
        f"{WIDTH} --k {K}`. Tables: `docs/results/features-*.csv`.",
    ]


def _quality() -> list[str]:
    table = read_table("quality")
    cells = table.set_index(["run", "site", "measure", "part"])["mean"]
    rows = [
        [run, site, *(number(cells.get((run, site, *key))) for key in _QUALITY)]
        for run, site in table[["run", "site"]].drop_duplicates().itertuples(index=False)
    ]
    return [
        "**Quality** (means over model seeds; *recovered*: with the reconstruction in the place of the activation, 1 is the "
        "model's own, 0 zeros in its place for the loss, .5 for the AUC; *found again*: cosine above "
        f"{FOUND_AGAIN:g} with a feature of "
        "the other dictionary):",
        "",
        *write_table(["run", "site", *_QUALITY.values()], rows, left=(0, 1)),
    ]


def _what_exists() -> list[str]:
    return [
        "**What exists.** Properties of a group that some feature stands for at some position of a question (q < "
        f"{ALPHA:g} on held-out aliases), mean over dictionaries, of all properties of the group:",
        "",
        *_counted(read_table("counted")),
        "",
        "Tags, at the alias. *selective*: dictionaries with such a "
        "feature there; AUC on held-out aliases of the best feature, of sets, of all features, and of the activations "
        "themselves (dense probe):",
        "",
        *_tags(read_table("existing")),
        "",
        "![AUC of the best feature](figures/features-selectivity.svg)",
    ]


def _counted(table: pd.DataFrame) -> list[str]:
    order_of_groups = ("tag", "contains", "stage", "integer", "range", "subset", "defined as", "token")
    groups = [g for g in order_of_groups if g in set(table["group"])]
    text = [
        f"{number(found, 1)} / {number(of, 0)}" for found, of in zip(table["found"], table["of"], strict=True)
    ]
    cells = table.assign(text=text).set_index(["run", "site", "group"])["text"]
    rows = [
        [run, site, *(cells.get((run, site, g), MISSING) for g in groups)]
        for run, site in table[["run", "site"]].drop_duplicates().itertuples(index=False)
    ]
    return write_table(["run", "site", *groups], rows, left=(0, 1))


def _tags(table: pd.DataFrame) -> list[str]:
    rows = []
    part = table[table["property"].isin(TAGS) & (table["position"] == "alias")]
    for row in part.to_dict("records"):
        selective = f"{row['selective']} of {row['dictionaries']}"
        numbers = (number(row[c]) for c in ("auc", "k=4", "k=16", "all", "dense"))
        rows.append([row["run"], row["site"], row["property"], selective, *numbers])
    columns = ["run", "site", "property", "selective", "best feature", "k=4", "k=16", "all", "dense"]
    return write_table(columns, rows, left=range(3))


def _what_is_causal() -> list[str]:
    rows = [
        [
            r["run"],
            r["site"],
            r["property"],
            r["kind"],
            number(r["gap"], 2, minus=HYPHEN),
            share_in_words(r),
            number(r["control"], sign=True, minus=HYPHEN),
            f"{r['retrieval']} of {r['tested']}",
            f"{r['with_retrieval']} of {r['dictionaries']}",
        ]
        for r in read_table("causal").to_dict("records")
    ]
    columns = ["run", "site", "property", "of", "gap, nats", "share [95 %]", "controls", "pass", "dictionaries with one"]  # fmt: skip
    return [
        "**What is causal.** Exchanging a feature's activation between two questions: share of the gap in the answers (logit "
        "difference) that moves, of the feature that the search was surest of, and of sets, with 95 % intervals over model "
        "seeds (of integers the mean of the ten surest); *controls*: 95th percentile of random features of equal firing rate "
        f"and norm; *pass*: selective features that move the answer more than 95 % of their own controls, of those tested (by chance {ALPHA:.0%} "
        "would). A share of a gap near 0 may be any number.",
        "",
        *write_table(columns, rows, left=range(4)),
    ]


def _subsets(table: pd.DataFrame) -> list[str]:
    part = table[
        (table["metric"] == "within_alias_auc")
        & (table["site"] == "resid_pre")
        & (table["property"] == TAGS[0])
    ]
    rows = []
    for (run, intervention), own in part.groupby(["run", "intervention"], sort=False):
        subsets = own.set_index("subset").loc[["d1", "d2", "d3"]].to_dict("records")
        effects = [interval(r["mean"], r["low"], r["high"], sign=True, minus=HYPHEN) for r in subsets]
        controls = " / ".join(number(r["control"], sign=True, minus=HYPHEN) for r in subsets)
        rows.append([run, intervention, *effects, controls])
    return write_table(["run", "intervention", "d1", "d2", "d3", "controls, d1 / d2 / d3"], rows, left=(0, 1))


def _before_and_after() -> list[str]:
    if not has_table("crosscoders"):
        return []
    table, explained = read_table("crosscoders"), read_table("crosscoders-explained")
    verdicts = ("shared", "new", "removed", "shrunken", "other", "dead")
    what = explained.set_index(["run", "site", "what"])["mean"]
    rows = []
    for (run, site), own in table.groupby(["run", "site"], sort=False):
        by = {r["verdict"]: r for r in own.to_dict("records")}
        low, high = (number(what[run, site, f"relative_norm_{end}"], 2) for end in ("low", "high"))
        before, after = (number(what[run, site, f"explained_{end}"]) for end in ("first", "last"))
        counts = (
            interval(by[v]["mean"], by[v]["low"], by[v]["high"], 1, minus=HYPHEN) if v in by else "0"
            for v in verdicts
        )
        rows.append([run, site, *counts, f"{low} to {high}", f"{before} / {after}"])
    return [
        f"**Before and after stage 2.** Crosscoders ({WIDTH} features, k {K}, BatchTopK) of the two checkpoints: features by what "
        "stage 2 did to them (mean over model seeds with 95 % interval). A feature is *new* (or *removed*) above "
        f"{NEW:g} (below {REMOVED:g}) of the decoder norm; *shrunken* ones look so and fail the check of latent scaling. *relative norm*: the 95 % of the live "
        "features in the middle.",
        "",
        *write_table(
            ["run", "site", *verdicts, "relative norm", "explained, before / after"], rows, left=(0, 1)
        ),
        "",
    ]
