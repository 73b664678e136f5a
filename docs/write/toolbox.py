"""Write docs/toolbox.md, a worked question, from the committed tables docs/results/toolbox-*.csv.

`results_doc.py --run runs/demo` takes the tables from that run first.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from mechocl.analyses import jobs, registry
from mechocl.behaviour import formats, over_seeds
from mechocl.interventions import circuits
from mechocl.interventions.attribution_patching import attribute_activations
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.patching import PatchingConfig, patch_activations
from mechocl.interventions.suppression import SuppressionConfig, candidates
from mechocl.runs.run import Run

DOCS = Path(__file__).parent
TABLES = DOCS / "results"

NEW = ("d1_consistent", "d2_consistent", "d3_consistent")
HEADS = PatchingConfig(site=("q", "k", "v", "z"), by="role")
BACK = PatchingConfig(pairs=("d1-to-itself", "d2-to-itself"), from_stage=1, by="role")


def _rows(run: Run, name: str, config: Any = None) -> pd.DataFrame:
    chosen = registry.ANALYSES[name].config() if config is None else config
    rows = jobs.analyse_run(run, name, chosen, stage=None, device="cpu", jobs=None)
    evaluated = jobs.analyse_run(
        run, "evaluate", registry.EvaluateConfig(), stage=None, device="cpu", jobs=None
    )
    return rows[rows["seed"].isin(over_seeds.without_failed(evaluated)[0]["seed"])]


def take(run_path: Path) -> None:
    """Write the tables from a run, computing what it lacks. Seeds that failed to learn are left out."""
    run = Run.open(run_path)
    patched = []
    for which, config in (("stream", None), ("heads", HEADS), ("stage 1 into stage 2", BACK)):
        rows = _rows(run, "patch", config)
        rows = rows.assign(what=which, site=over_seeds.site_names(rows))
        if which == "heads":
            rows["site"] = rows["site"].str.replace(r"^(L\d+)H\d+", r"\1 heads,", regex=True)
            keys = [c for c in rows.columns if c not in ("index", "value", "effect", "normalised")]
            rows = rows.groupby(keys, sort=False, as_index=False)["effect"].sum()
        patched.append(rows)
    columns = ["what", "seed", "contrast", "site", "position", "effect", "clean", "corrupted", "pairs"]
    table = pd.concat(patched, ignore_index=True)[columns]
    _write(table[table["effect"].abs() > 1e-6], "patch")
    found = _rows(run, "circuit")
    edges = [
        circuits.pool_heads(part).assign(contrast=name)
        for name, part in found.groupby("contrast", sort=False)
    ]
    _write(pd.concat(edges, ignore_index=True).query("abs(value) > 1e-6"), "edges")
    each = found[found["kind"] == "edge"]
    _write(each[["seed", "contrast", "sender", "receiver", "place", "value", "attributed"]], "attribution")
    curve = found[found["kind"] != "edge"].groupby(["seed", "contrast", "kind", "edges"], sort=False)[
        "normalised"
    ]
    _write(curve.mean().reset_index(), "circuits")
    _write(_estimated(run), "estimates")
    searched = _rows(run, "suppression")
    config = SuppressionConfig()
    both = ((config.raised, config.spared), (config.spared, config.raised))
    _write(
        pd.concat(
            [candidates(searched, raised=a, spared=b).assign(raised=a) for a, b in both], ignore_index=True
        ),
        "suppression",
    )
    grafts = pd.concat([_rows(run, "graft"), _rows(run, "steering")], ignore_index=True)
    kept = grafts[grafts["subset"].isin(NEW) & (grafts["metric"] == "auc") & (grafts["change"] > 0)]
    _write(kept[["seed", "group", "kind", "site", "subset", "value", "effect", "share"]], "graft")
    swapped = _rows(run, "subspace")
    swapped = swapped[swapped["metric"] == "logit_difference"]
    keys = ["seed", "method", "k", "layer", "site", "position", "control", "contrast"]
    _write(
        swapped[[*keys, "clean", "corrupted", "swapped", "normalised", "explained", "decoding"]], "subspace"
    )
    lens = _rows(run, "lens")
    lens = lens[
        (~lens["contains"]) & lens["position"].isin(["alias", "="]) & lens["subset"].isin([*NEW, "no_data"])
    ]
    _write(lens[["seed", "subset", "component", "layer", "position", "rank"]], "lens")


def _estimated(run: Run) -> pd.DataFrame:
    """How attribution patching of every neuron at `=` ranks them, beside patching each: Spearman's ρ by seed."""
    found = []
    for folder in run.finished_seeds():
        subject = registry.open_subject(folder, stage=None, device="cpu")
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


def _write(table: pd.DataFrame, name: str) -> None:
    table.to_csv(TABLES / f"toolbox-{name}.csv", index=False, float_format="%.5g")


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"toolbox-{name}.csv", keep_default_na=True, na_filter=True)


def _over(rows: pd.DataFrame, keys: list[str], value: str) -> dict[tuple[str, ...], dict[str, Any]]:
    found = over_seeds.over_seeds(rows, keys, value)
    return {tuple(str(row[k]) for k in keys): row for row in found.to_dict("records")}


def _cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else formats.mean_in_words(row)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high} (by seed)"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def page() -> str:
    """The page, from the committed tables alone."""
    patch = _read("patch")
    n = patch["seed"].nunique()
    parts = [
        "# The toolbox on one question",
        "",
        "*Where does the integer of a `d1` alias enter the answer, and what is different for `d2`?*",
        "",
        f"Every number here is of the run that `make demo` makes (recipe `integer-set/cpu`: one layer, two heads; {n} "
        "seeds): a mean over seeds with its 95 % interval. Written by `make results-doc` from `docs/results/toolbox-*.csv`, "
        "which have every seed. Effects are in nats of the true − false logit difference at `=`, its sign turned where "
        "*false* is right, so that more is more right.",
        "",
        *_where_it_enters(patch),
        *_which_edges(),
        *_what_is_different(patch),
        *_which_direction(),
        *_who_suppresses(),
        *_which_weights(patch),
        *_ANSWER,
    ]
    return "\n".join(parts) + "\n"


def _where_it_enters(patch: pd.DataFrame) -> list[str]:
    name = "d1_consistent-to-other-d2_consistent"
    rows = patch[(patch["what"] == "stream") & (patch["contrast"] == name)]
    cells = _over(rows, ["site", "position"], "effect")
    ends = rows.drop_duplicates("seed")
    lens = _over(
        _read("lens").assign(
            at=lambda r: r["component"].where(r["component"] != "stream", "stream, " + r["layer"])
        ),
        ["subset", "at", "position"],
        "rank",
    )
    ats = list(dict.fromkeys(at for _, at, _ in lens))
    subsets = [s for s in (*NEW, "no_data") if any(key[0] == s for key in lens)]
    return [
        "## Where the integer enters",
        "",
        "Ask the same list about a `d2` alias of another integer, and put in one activation of the question about the `d1` "
        "alias (exactly one of the two integers is in the list):",
        "",
        "    mechocl patch runs/demo --pairs d1-to-other-d2",
        "",
        f"Unpatched, the answer stands at {_signed(ends['corrupted'].mean())}; at {_signed(ends['clean'].mean())} when the `d1` alias "
        "itself is asked about. Every other site and position has an effect of 0:",
        "",
        *_table(["site", "at", "effect"], [[site, f"`{at}`", _cell(row)] for (site, at), row in cells.items()]),
        "So the integer sits in the alias's embedding, attention carries it to `=`, and the MLP there compares it with the "
        "list. The lens says the same (`mechocl lens runs/demo`): mean rank of the alias's integer among 30 (15.5 is chance), "
        "in what each component writes, on lists without it. The embedding itself does not speak the language of the "
        "unembedding; what the heads write does.",
        "",
        *_table(
            ["at", *(f"`{s}`" for s in subsets)],
            [
                [f"{at}, `{where}`", *(f"{lens[s, at, where]['mean']:.1f}" for s in subsets)]
                for where in ("alias", "=") for at in ats
            ],
        ),
    ]  # fmt: skip


def _which_edges() -> list[str]:
    edges, curve, scores = _read("edges"), _read("circuits"), _read("attribution")
    lines = [
        "## Along which edges",
        "",
        "Path patching of every edge (sender → receiver, by the role of the position), heads of the layer summed, since seeds "
        "number them differently:",
        "",
        "    mechocl circuit runs/demo",
        "",
    ]
    names = list(edges["contrast"].drop_duplicates())
    cells = {
        name: _over(edges[edges["contrast"] == name], ["sender", "receiver", "place"], "value")
        for name in names
    }
    keys = list(dict.fromkeys(key for name in names for key in cells[name]))
    lines += _table(
        ["edge", *(f"`{name}`" for name in names)],
        [[f"{a} → {b} at `{c}`", *(_cell(cells[name].get((a, b, c))) for name in names)] for a, b, c in keys],
    )
    for name in names:
        part = curve[curve["contrast"] == name]
        size = circuits.sizes_needed(part)
        reached = [k for k in size.values() if k is not None]
        whole = int(part["edges"].max())
        five = _over(part[part["edges"] == 5], ["kind"], "normalised")
        lines.append(
            f"- `{name}`: of {whole} edges, {_range(reached)} reach {circuits.ENOUGH:.0%} of clean − corrupted "
            f"on pairs that scored none of them ({len(reached)} of {len(size)} seeds). With five edges: kept alone "
            f"{_cell(five['circuit',])}, all but them {_cell(five['without',])}, five random ones {_cell(five['random',])}."
        )
    known = scores[scores["value"].abs() > 1e-6]
    neurons = _read("estimates")
    rank = [
        part[["value", "attributed"]].corr("spearman").iloc[0, 1]
        for _, part in known.groupby(["contrast", "seed"])
    ]
    return [
        *lines,
        "",
        f"EAP-IG, which costs 8 backward passes for all edges, ranks those with an effect as path patching does: Spearman's ρ has "
        f"median {pd.Series(rank).median():.2f} (smallest {min(rank):.2f}) over contrasts and seeds. Attribution patching of single "
        f"neurons at `=` beside patching each: median {neurons['rho'].median():.2f} (smallest {neurons['rho'].min():.2f}).",
        "",
    ]


def _what_is_different(patch: pd.DataFrame) -> list[str]:
    rows = patch[(patch["what"] == "heads") & (patch["contrast"] == "d1_consistent-to-d2_consistent")]
    ends = rows.drop_duplicates("seed")
    cells = _over(rows, ["site", "position"], "effect")
    return [
        "## What is different for d2",
        "",
        "Now the two aliases stand for the same integer, so that only the tag of their definitions differed. The circuit is the "
        "same (the right column above). Patching heads one at a time, summed over heads:",
        "",
        "    mechocl patch runs/demo --pairs d1-to-d2 --site q k v z --by role",
        "",
        f"`d1` stands at {_signed(ends['clean'].mean())}, `d2` at {_signed(ends['corrupted'].mean())}; sites without an effect are left out:",
        "",
        *_table(["site", "at", "effect"], [[site, f"`{at}`", _cell(row)] for (site, at), row in cells.items()]),
        "The difference passes through the *values* that the heads read from the alias, not through the keys: what `=` finds "
        "at a `d2` alias is different, not how much it looks there.",
        "",
    ]  # fmt: skip


def _which_direction() -> list[str]:
    rows = _read("subspace")
    rows = rows[rows["position"] == "alias"]
    rows = rows[rows["site"] == "resid_pre"]
    method = rows["method"].where(rows["method"] != "rotation", "rotation, k = " + rows["k"].astype(str))
    cells = _over(rows.assign(what=method), ["what", "contrast", "control"], "normalised")
    contrasts = [c for c in ("d1-to-d2", "d2-to-d1", "d1-to-other-d2") if any(key[1] == c for key in cells)]
    read = _over(rows[(rows["method"] == "difference of means")], ["control"], "decoding")
    methods = list(dict.fromkeys(key[0] for key in cells))
    untrained = max(abs(row["mean"]) for key, row in cells.items() if key[2] == "random model")
    return [
        "## In which direction",
        "",
        "Exchange only a few directions of the alias's embedding between two questions, fitted on one half of the aliases and judged on "
        "the other (0: nothing happens, 1: the answer becomes the other question's; in brackets the same fit on shuffled targets):",
        "",
        "    mechocl subspace runs/demo",
        "",
        *_table(
            ["", *(f"`{c}`" for c in contrasts)],
            [
                [
                    m,
                    *(
                        _cell(cells.get((m, c, "none")))
                        + (f" ({cells[m, c, 'shuffled']['mean']:+.3f})".replace("-", "−") if (m, c, "shuffled") in cells else "")
                        for c in contrasts
                    ),
                ]
                for m in methods
            ],
        ),
        f"One direction, the difference of the two subsets' means, moves most of what the tag did, and not the integer: with a `d2` alias of "
        f"another integer it strengthens that alias's own answer, which is the opposite one. The "
        f"defining tag of a held-out alias can be read along it: AUC {_cell(read.get(('none',)))} (shuffled labels {_cell(read.get(('shuffled',)))}). "
        "Learned rotations do no better than it on the tag, and their shuffled control is not at 0 from `d2` to `d1`, where any "
        f"disturbance is harm: they are the weaker evidence. In an untrained model no mean effect is larger than {untrained:.3f} in size.",
        "",
    ]  # fmt: skip


def _who_suppresses() -> list[str]:
    rows = _read("suppression")
    cells = _over(rows, ["raised", "subset"], "effect")
    raised = list(dict.fromkeys(key[0] for key in cells))
    return [
        "## Who holds d2 back",
        "",
        "Mean-ablate each head, MLP and neuron; choose on half of the aliases, in each seed, the one that raises `d2` most and changes "
        "`d1` least; look at the other half (effect on the AUC). Beside it the same search with `d1` and `d2` exchanged:",
        "",
        *_table(
            ["chosen to raise", *(f"`{s}`" for s in NEW)],
            [[f"`{r}`", *(_cell(cells.get((r, s))) for s in NEW)] for r in raised],
        ),
    ]


def _which_weights(patch: pd.DataFrame) -> list[str]:
    rows = _read("graft")
    cells = _over(rows, ["group", "kind", "subset"], "share")
    groups = list(dict.fromkeys((group, kind) for group, kind, _ in cells if group != "all"))
    back = patch[(patch["what"] == "stage 1 into stage 2") & patch["site"].str.endswith("resid_pre")]
    undone = _over(back[back["position"] == "alias"], ["contrast"], "effect")
    ends = back.drop_duplicates(["seed", "contrast"]).groupby("contrast")[["clean", "corrupted"]].mean()
    lines = [
        f"`{name}`: {_signed(ends.loc[name, 'corrupted'])} → {_signed(ends.loc[name, 'clean'])} in the whole model of stage 1, effect of the alias's embedding alone {_cell(undone[name,])}"
        for name in ends.index
    ]
    return [
        "## Which weights hold it",
        "",
        "Graft parts of stage 2's weight difference onto the model before it: share of stage 2's gain in AUC.",
        "",
        "    mechocl graft runs/demo",
        "",
        *_table(
            ["weights, how grafted", *(f"`{s}`" for s in NEW)],
            [[f"{g}, {k}", *(_cell(cells.get((g, k, s))) for s in NEW)] for g, k in groups],
        ),
        "The change of the aliases' own embeddings is enough and needed, for all three tags; a constant steering vector gives nothing. "
        "(The recipe's stage 2 trains embeddings 50 times as fast as the rest; that this is where facts go is partly its doing.) "
        "Putting the activations of the model before stage 2 into the one after it undoes the answer at the same place "
        "(`mechocl patch runs/demo --pairs d1-to-itself d2-to-itself --from-stage 1 --by role`, at `resid_pre` of the alias): "
        + "; ".join(lines) + ".",
        "",
    ]  # fmt: skip


_ANSWER = [
    "## The answer",
    "",
    "In these models the integer of a `d1` alias enters by its embedding, which stage 2 wrote; the heads copy it to `=`, and the MLP there "
    "compares it with the list. A `d2` alias takes the same path, and attention to it makes no difference. What differs is what its embedding holds: one "
    "direction, common to all integers, which says how the alias was defined, and which, put in from a `d1` alias, makes the answer about "
    "the `d2` alias nearly as good. That is what selective retrieval predicts for moving the tag's direction; a component whose removal "
    "frees `d2` is not established (above). Not shown here: that the direction is the tag's and not the consequence of having been "
    "learned less well, and anything about models of another size or recipe.",
]
