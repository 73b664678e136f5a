"""Write docs/toolbox.md, in which the toolbox answers one question, from the tables docs/results/toolbox-*.csv.

`python -m docs.write.results` writes it together with docs/results.md.
"""

from typing import Any

import pandas as pd

from docs.write.markdown import write_table
from docs.write.toolbox_tables import NEW, read_table
from mechocl.behaviour import over_seeds
from mechocl.behaviour.formats import mean_in_words, number
from mechocl.interventions import circuits


def _over(rows: pd.DataFrame, keys: list[str], value: str) -> dict[tuple[str, ...], dict[str, Any]]:
    found = over_seeds.over_seeds(rows, keys, value)
    return {tuple(str(row[k]) for k in keys): row for row in found.to_dict("records")}


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high} (by seed)"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [*write_table(head, rows), ""]


def write_page() -> str:
    """The page, which is written from the committed tables alone."""
    patch = read_table("patch")
    n = patch["seed"].nunique()
    parts = [
        "# The toolbox on one question",
        "",
        "*Where does the integer of a `d1` alias enter the answer, and what is different for `d2`?*",
        "",
        f"Every number here is of `mechocl train integer-set/short --seeds {n} --out runs/short` (one layer, two heads; {n} "
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
        read_table("lens").assign(
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
        "    mechocl patch runs/short --pairs d1-to-other-d2",
        "",
        f"Unpatched, the answer stands at {number(ends['corrupted'].mean(), 2, sign=True)}; at {number(ends['clean'].mean(), 2, sign=True)} when the `d1` alias "
        "itself is asked about. Every other site and position has an effect of 0:",
        "",
        *_table(["site", "at", "effect"], [[site, f"`{at}`", mean_in_words(row)] for (site, at), row in cells.items()]),
        "So the integer sits in the alias's embedding, attention carries it to `=`, and the MLP there compares it with the "
        "list. The lens says the same (`mechocl lens runs/short`): mean rank of the alias's integer among 30 (15.5 is chance), "
        "in what each component writes, on lists without it. The embedding itself does not speak the language of the "
        "unembedding; what the heads write does.",
        "",
        *_table(
            ["at", *(f"`{s}`" for s in subsets)],
            [
                [f"{at}, `{where}`", *(number(lens[s, at, where]["mean"], 1) for s in subsets)]
                for where in ("alias", "=") for at in ats
            ],
        ),
    ]  # fmt: skip


def _which_edges() -> list[str]:
    edges, curve, scores = read_table("edges"), read_table("circuits"), read_table("attribution")
    lines = [
        "## Along which edges",
        "",
        "Path patching of every edge (sender → receiver, by the role of the position), heads of the layer summed, since seeds "
        "number them differently:",
        "",
        "    mechocl circuit runs/short",
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
        [
            [f"{a} → {b} at `{c}`", *(mean_in_words(cells[name].get((a, b, c))) for name in names)]
            for a, b, c in keys
        ],
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
            f"{mean_in_words(five['circuit',])}, all but them {mean_in_words(five['without',])}, five random ones {mean_in_words(five['random',])}."
        )
    known = scores[scores["value"].abs() > 1e-6]
    neurons = read_table("estimates")
    rank = [
        part[["value", "attributed"]].corr("spearman").iloc[0, 1]
        for _, part in known.groupby(["contrast", "seed"])
    ]
    return [
        *lines,
        "",
        f"EAP-IG, which costs 8 backward passes for all edges, ranks those with an effect as path patching does: Spearman's ρ has "
        f"median {number(pd.Series(rank).median(), 2)} (smallest {number(min(rank), 2)}) over contrasts and seeds. Attribution patching of single "
        f"neurons at `=` beside patching each: median {number(neurons['rho'].median(), 2)} (smallest {number(neurons['rho'].min(), 2)}).",
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
        "    mechocl patch runs/short --pairs d1-to-d2 --site q k v z --by role",
        "",
        f"`d1` stands at {number(ends['clean'].mean(), 2, sign=True)}, `d2` at {number(ends['corrupted'].mean(), 2, sign=True)}; sites without an effect are left out:",
        "",
        *_table(["site", "at", "effect"], [[site, f"`{at}`", mean_in_words(row)] for (site, at), row in cells.items()]),
        "The difference passes through the *values* that the heads read from the alias, not through the keys: what `=` finds "
        "at a `d2` alias is different, not how much it looks there.",
        "",
    ]  # fmt: skip


def _which_direction() -> list[str]:
    rows = read_table("subspace")
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
        "    mechocl subspace runs/short",
        "",
        *_table(
            ["", *(f"`{c}`" for c in contrasts)],
            [
                [
                    m,
                    *(
                        mean_in_words(cells.get((m, c, "none")))
                        + (f" ({number(cells[m, c, 'shuffled']['mean'], sign=True)})" if (m, c, "shuffled") in cells else "")
                        for c in contrasts
                    ),
                ]
                for m in methods
            ],
        ),
        f"One direction, the difference of the two subsets' means, moves most of what the tag did, and not the integer: with a `d2` alias of "
        f"another integer it strengthens that alias's own answer, which is the opposite one. The "
        f"defining tag of a held-out alias can be read along it: AUC {mean_in_words(read.get(('none',)))} (shuffled labels {mean_in_words(read.get(('shuffled',)))}). "
        "Learned rotations do no better than it on the tag, and their shuffled control is not at 0 from `d2` to `d1`, where any "
        f"disturbance is harm: they are the weaker evidence. In an untrained model no mean effect is larger than {number(untrained)} in size.",
        "",
    ]  # fmt: skip


def _who_suppresses() -> list[str]:
    rows = read_table("suppression")
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
            [[f"`{r}`", *(mean_in_words(cells.get((r, s))) for s in NEW)] for r in raised],
        ),
    ]


def _which_weights(patch: pd.DataFrame) -> list[str]:
    rows = read_table("graft")
    cells = _over(rows, ["group", "kind", "subset"], "share")
    groups = list(dict.fromkeys((group, kind) for group, kind, _ in cells if group != "all"))
    back = patch[(patch["what"] == "stage 1 into stage 2") & patch["site"].str.endswith("resid_pre")]
    undone = _over(back[back["position"] == "alias"], ["contrast"], "effect")
    ends = back.drop_duplicates(["seed", "contrast"]).groupby("contrast")[["clean", "corrupted"]].mean()
    lines = [
        f"`{name}`: {number(ends.loc[name, 'corrupted'], 2, sign=True)} → {number(ends.loc[name, 'clean'], 2, sign=True)} in the whole model of stage 1, effect of the alias's embedding alone {mean_in_words(undone[name,])}"
        for name in ends.index
    ]
    return [
        "## Which weights hold it",
        "",
        "Graft parts of stage 2's weight difference onto the model before it: share of stage 2's gain in AUC.",
        "",
        "    mechocl graft runs/short",
        "",
        *_table(
            ["weights, how grafted", *(f"`{s}`" for s in NEW)],
            [[f"{g}, {k}", *(mean_in_words(cells.get((g, k, s))) for s in NEW)] for g, k in groups],
        ),
        "The change of the aliases' own embeddings is enough and needed, for all three tags; a constant steering vector gives nothing. "
        "(The recipe's stage 2 trains embeddings 50 times as fast as the rest; that this is where facts go is partly its doing.) "
        "Putting the activations of the model before stage 2 into the one after it undoes the answer at the same place "
        "(`mechocl patch runs/short --pairs d1-to-itself d2-to-itself --from-stage 1 --by role`, at `resid_pre` of the alias): "
        + "; ".join(lines) + ".",
        "",
    ]  # fmt: skip


_ANSWER = [
    "## The answer",
    "",
    "In these models the integer of a `d1` alias enters by its embedding, which stage 2 wrote; the heads copy it to `=`, and the MLP there "
    "compares it with the list. A `d2` alias takes the same path, and attention to it makes no difference. What differs is what its embedding holds: one "
    "direction, common to all integers, which, put in from a `d1` alias, makes the answer about the `d2` alias nearly as good.",
    "",
    "That does not show selective retrieval, and not trust. In this recipe the definitions with tag 2 are not learned in stage 1, so tag 2 "
    "also marks what cannot be predicted, and a gap is there when nothing was ever unreliable, too "
    "([results.md](results.md#what-is-known-gaps-and-their-controls)). A plainer reading, which a replication proposed and which is not measured here, fits the same numbers: at a definition, tag 1 opens and tag 2 closes a "
    "readout of the alias's embedding; stage 2 must push the embedding of a `d2` alias along that direction until its integer can be "
    "read, and the push harms its answers. So the direction is what the tag did to the *learning* of the definition; that it says how the "
    "alias was defined, and that a circuit reads it so, is not shown. Where the definitions of both tags are memorised "
    "(`integer-set/memorised`) the toolbox has not been used yet. A component whose removal frees `d2` is not established (above).",
]
