"""Write docs/toolbox.md, in which the toolbox answers one question, from the tables docs/results/toolbox-*.csv.

`python -m docs.write.results` writes it together with docs/results.md.
"""

from typing import Any, Final

import pandas as pd

from docs.write import gate, inside, learning
from docs.write.markdown import write_table
from docs.write.toolbox_tables import NEW, has_table, read_table
from mechocl.behaviour import over_seeds
from mechocl.behaviour.formats import estimate_in_words, mean_in_words, number, value_in_words
from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.interventions import circuits


def _over(rows: pd.DataFrame, keys: list[str], value: str) -> dict[tuple[str, ...], dict[str, Any]]:
    found = over_seeds.over_seeds(rows, keys, value)
    return {tuple(str(row[k]) for k in keys): row for row in found.to_dict("records")}


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high} (by seed)"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [*write_table(head, rows), ""]


RECIPES: Final = ("integer-set/cpu", "integer-set/memorised")
"""The recipes of the page, in its order."""

_RUNS: Final = {
    "integer-set/cpu": ("runs/demo", "make demo"),
    "integer-set/memorised": (
        "runs/memorised", "mechocl train integer-set/memorised --seeds 16 --first-seed 100 --out runs/memorised",
    ),
}  # fmt: skip
"""Folder of the run of each recipe in the commands of the page, and the command that makes it."""


def write_page() -> str:
    """The page, which is written from the committed tables alone."""
    parts = [
        "# The toolbox on one question",
        "",
        "*Where does the integer of a `d1` alias enter the answer, and what is different for `d2`?*",
        "",
        "Asked of two recipes: of `integer-set/cpu`, in which the definitions with tag 2 are not learned in stage 1, and of "
        "`integer-set/memorised`, in which they are. Every number is a mean over seeds with its 95 % interval, written by `make results-doc` from "
        "`docs/results/toolbox-RECIPE-*.csv`, which have every seed. Effects are in nats of the true − false logit difference at `=`, "
        "its sign turned where *false* is right, so that more is more right. What the gap itself owes to unreliability is in "
        "[results.md](results.md#what-is-known-gaps-and-their-controls): the analyses here compare `d1` with `d2`, and two of them have control "
        "runs beside them: the direction, and the reading at the end of the page. So they say what differs between two kinds of alias, and not that a model trusts one of them.",
        "",
    ]
    for of in RECIPES:
        patch = read_table("patch", of=of)
        command = _RUNS[of][1]
        parts += [
            f"# `{of}`",
            "",
            f"{patch['seed'].nunique()} seeds of one layer and two heads, `{command}`.",
            "",
            *_where_it_enters(patch, of),
            *_which_edges(of),
            *_what_is_different(patch, of),
            *_which_direction(of),
            *_who_suppresses(of),
            *_which_weights(patch, of),
        ]
    return "\n".join([*parts, *_gate(), *learning.write_section(RECIPES), *_answer()]) + "\n"


def _where_it_enters(patch: pd.DataFrame, of: str) -> list[str]:
    name = "d1_consistent-to-other-d2_consistent"
    rows = patch[(patch["what"] == "stream") & (patch["contrast"] == name)]
    cells = _over(rows, ["site", "position"], "effect")
    ends = rows.drop_duplicates("seed")
    lens = _over(
        read_table("lens", of=of).assign(
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
        f"    mechocl patch {_RUNS[of][0]} --pairs d1-to-other-d2",
        "",
        f"Unpatched, the answer stands at {number(ends['corrupted'].mean(), 2, sign=True)}; at {number(ends['clean'].mean(), 2, sign=True)} when the `d1` alias "
        "itself is asked about. Every other site and position has an effect of 0:",
        "",
        *_table(["site", "at", "effect"], [[site, f"`{at}`", mean_in_words(row)] for (site, at), row in cells.items()]),
        f"The alias's embedding, alone, is worth {_of_the_way(rows, _embedding(rows))} of the way from the one answer to the other (all of it by "
        "construction, where the questions differ in the alias alone). What each "
        f"component writes, seen by the lens (`mechocl lens {_RUNS[of][0]}`): mean rank of the alias's integer among 30 (15.5 is chance), on "
        "lists without it:",
        "",
        *_table(
            ["at", *(f"`{s}`" for s in subsets)],
            [
                [f"{at}, `{where}`", *(number(lens[s, at, where]["mean"], 1) for s in subsets)]
                for where in ("alias", "=") for at in ats
            ],
        ),
    ]  # fmt: skip


def _which_edges(of: str) -> list[str]:
    edges, curve, scores = (
        read_table("edges", of=of),
        read_table("circuits", of=of),
        read_table("attribution", of=of),
    )
    lines = [
        "## Along which edges",
        "",
        "Path patching of every edge (sender → receiver, by the role of the position), heads of the layer summed, since seeds "
        "number them differently:",
        "",
        f"    mechocl circuit {_RUNS[of][0]}",
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
    neurons = read_table("estimates", of=of)
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


def _what_is_different(patch: pd.DataFrame, of: str) -> list[str]:
    rows = patch[(patch["what"] == "heads") & (patch["contrast"] == "d1_consistent-to-d2_consistent")]
    ends = rows.drop_duplicates("seed")
    cells = _over(rows, ["site", "position"], "effect")
    return [
        "## What is different for d2",
        "",
        "Now the two aliases stand for the same integer, so that only the tag of their definitions differed; their edges are "
        "in the right column above. Patching heads one at a time, summed over heads:",
        "",
        f"    mechocl patch {_RUNS[of][0]} --pairs d1-to-d2 --site q k v z --by role",
        "",
        f"`d1` stands at {number(ends['clean'].mean(), 2, sign=True)}, `d2` at {number(ends['corrupted'].mean(), 2, sign=True)}; sites without an effect are left out:",
        "",
        *_table(["site", "at", "effect"], [[site, f"`{at}`", mean_in_words(row)] for (site, at), row in cells.items()]),
        "An effect at the alias in `k` is a change of how much `=` attends to it; in `v`, of what `=` finds there.",
        "",
    ]  # fmt: skip


def _which_direction(of: str) -> list[str]:
    rows = read_table("subspace", of=of)
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
        f"    mechocl subspace {_RUNS[of][0]}",
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
        f"Along the difference of the two subsets' means the defining tag of a held-out alias can be read with an AUC of {value_in_words(read.get(('none',)))} "
        f"(shuffled labels {value_in_words(read.get(('shuffled',)))}). Where the shuffled control of a rotation is not at 0, any disturbance "
        f"moves the answer, and the rotation is the weaker evidence. In an untrained model no mean effect is larger than {number(untrained)} in size.",
        "",
        *_direction_in_control(of),
    ]  # fmt: skip


def _direction_in_control(of: str) -> list[str]:
    """What the same direction does in the recipe's control, in which no definition contradicted a question."""
    recipe = of.split("/")[-1]
    control = next(one for one in inside.CONTROLS if one.label.startswith(f"{recipe}: "))
    if not has_table("subspace", of=control.label):
        return []
    rows = read_table("subspace", of=control.label)
    rows = rows[
        (rows["position"] == "alias")
        & (rows["site"] == "resid_pre")
        & (rows["method"] == "difference of means")
    ]
    rows = rows[rows["contrast"] == "d1-to-d2"]
    moved, read = (_over(rows, ["control"], value) for value in ("normalised", "decoding"))
    gap = _tag_did(control.label)
    name = control.label.partition(": ")[2]
    shuffled = number(moved["shuffled",]["mean"], sign=True)
    return [
        f"**In the control *{name}***, in which no definition ever contradicted a question (`mechocl subspace runs/{control.folder}`, "
        f"{gap.n} seeds): `d1` and `d2` answers differ by {estimate_in_words(gap, 2, sign=True)} nats. The difference of means moves "
        f"{mean_in_words(moved.get(('none',)))} of that ({shuffled} with shuffled targets), and the tag can be read along it with an AUC of "
        f"{value_in_words(read.get(('none',)))}. What is as large there does not need that tag 2 was unreliable.",
        "",
    ]


def _who_suppresses(of: str) -> list[str]:
    rows = read_table("suppression", of=of)
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


def _which_weights(patch: pd.DataFrame, of: str) -> list[str]:
    rows = read_table("graft", of=of)
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
        f"    mechocl graft {_RUNS[of][0]}",
        "",
        *_table(
            ["weights, how grafted", *(f"`{s}`" for s in NEW)],
            [[f"{g}, {k}", *(mean_in_words(cells.get((g, k, s))) for s in NEW)] for g, k in groups],
        ),
        "(The recipe's stage 2 trains embeddings 50 times as fast as the rest; that facts go there is partly its doing.) "
        "Putting the activations of the model before stage 2 into the one after it: "
        "(`mechocl patch RUN --pairs d1-to-itself d2-to-itself --from-stage 1 --by role`, at `resid_pre` of the alias) "
        + "; ".join(lines) + ".",
        "",
    ]  # fmt: skip


def _embedding(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the alias's embedding among rows of patching."""
    return rows[rows["site"].str.endswith("resid_pre") & (rows["position"] == "alias")]


def _of_the_way(rows: pd.DataFrame, part: pd.DataFrame) -> str:
    """Effect of a part as a share of clean − corrupted, in words."""
    share = part.assign(share=part["effect"] / (part["clean"] - part["corrupted"]))
    return value_in_words(next(iter(_over(share, ["what"], "share").values()), None))


def _moved(of: str) -> str:
    """Share of what the tag did that the difference of means moves at the alias, from d1 into d2, in words."""
    rows = read_table("subspace", of=of)
    rows = rows[
        (rows["position"] == "alias") & (rows["site"] == "resid_pre") & (rows["contrast"] == "d1-to-d2")
        & (rows["method"] == "difference of means") & (rows["control"] == "none")
    ]  # fmt: skip
    return value_in_words(_over(rows, ["method"], "normalised")["difference of means",])


def _raised(of: str) -> str:
    """What removing the component that was chosen to raise d2 does to it, in words."""
    rows = read_table("suppression", of=of)
    return mean_in_words(_over(rows, ["raised", "subset"], "effect")["d2", "d2_consistent"])


def _tag_did(of: str) -> Estimate:
    """How much more `d1` is answered than `d2`, in nats, in the pairs of which directions are exchanged."""
    rows = read_table("subspace", of=of)
    rows = rows[(rows["contrast"] == "d1-to-d2") & (rows["control"] == "none")]
    ends = (
        rows[(rows["position"] == "alias") & (rows["site"] == "resid_pre")]
        .groupby("seed")[["clean", "corrupted"]]
        .mean()
    )
    return estimate((ends["clean"] - ends["corrupted"]).to_numpy(), unit="seed")


def _gate() -> list[str]:
    """Whether d2 and d1 differ along what the tags themselves differ in, in the runs and in their controls."""
    if not gate.TABLE.exists():
        return []
    table = pd.read_csv(gate.TABLE)
    body = []
    for run, rows in table.groupby("run", sort=False):
        gap, left = rows["gap"].to_numpy(), rows["gap_put_back"].to_numpy()
        found = [
            estimate(values, unit="seed") for values in (rows["cosine"].to_numpy(), gap, left, gap - left)
        ]
        words = [estimate_in_words(e, 2 if i == 0 else 3, sign=True) for i, e in enumerate(found)]
        random = number(float((rows["gap"] - rows["gap_random"]).mean()), sign=True)
        body.append([f"`{run}`", str(len(rows)), *words, random])
    return [
        "# A reading that needs no reliability",
        "",
        "A replication proposed this for `integer-set/cpu`: at a definition, attention sums the tag and the alias; tag 1 opens and tag 2 closes a "
        "readout of the alias; so stage 2 has to push a `d2` alias towards what tag 1 adds over tag 2, and that costs answers. Then, on the values of "
        "the heads, `d2` − `d1` points where tag 1 − tag 2 pointed after stage 1 (*cosine*), and the gap shrinks when the values of `d2` aliases along "
        "that direction are put back to those of aliases without training data. AUC, means over seeds with 95 % intervals "
        "(`python -m docs.write.results --run runs/demo`, from the runs of [what can be read where](results.md#what-can-be-read-where)):",
        "",
        *_table(
            [
                "run",
                "seeds",
                "cosine",
                "gap",
                "gap, put back",
                "what that takes away",
                "along random directions",
            ],
            body,
        ),
        *_gate_in_words(table),
    ]


def _gate_in_words(table: pd.DataFrame) -> list[str]:
    """In which runs putting back takes the gap away, in sentences from the table."""
    said = []
    for run, rows in table.groupby("run", sort=False):
        gap, left = (estimate(rows[c].to_numpy(), unit="seed") for c in ("gap", "gap_put_back"))
        taken = estimate((rows["gap"] - rows["gap_put_back"]).to_numpy(), unit="seed")
        if not gap.low > 0:
            said.append(f"- `{run}`: there is no gap to take away.")
        elif taken.low > 0:
            rest = "and what is left is above 0" if left.low > 0 else "and what is left is not told from 0"
            said.append(f"- `{run}`: it takes {taken.mean / gap.mean:.0%} of the gap away, {rest}.")
        else:
            said.append(f"- `{run}`: it does not take the gap away.")
    return [*said, ""]


def _in_controls() -> list[str]:
    """What the direction moves in the controls, as one line of the answer."""
    said = []
    for one in inside.CONTROLS:
        if has_table("subspace", of=one.label):
            recipe, _, control = one.label.partition(": ")
            did = estimate_in_words(_tag_did(one.label), 2, sign=True)
            said.append(
                f"{_moved(one.label)} of {did} nats in the control *{control}* of `integer-set/{recipe}`"
            )
    if not said:
        return []
    return [
        f"- The same difference of means moves {' and '.join(said)}, where no definition ever contradicted a question. Where that is as much as in "
        "the run, moving the direction does not show that the model retrieves by how reliable a tag was."
    ]


def _answer() -> list[str]:
    return [
        "# What this does and does not show",
        "",
        "- Selective retrieval predicts that moving the tag's direction makes `d2` be answered like `d1`. The difference of the two "
        f"subsets' means moves {_moved(RECIPES[0])} of what the tag did in `{RECIPES[0]}`, and {_moved(RECIPES[1])} in `{RECIPES[1]}`. So what "
        "holds for the one gap need not hold for the other. It also predicts components whose removal raises `d2` alone: the one chosen raises "
        f"it by {_raised(RECIPES[0])} in `{RECIPES[0]}` and by {_raised(RECIPES[1])} in `{RECIPES[1]}` (AUC, on aliases that did not choose it).",
        *_in_controls(),
        "- That the direction in which `d1` and `d2` differ is the tag's meaning, or its reliability, is not shown. A definition that was harder to "
        "learn because of its tag leaves a trace in the alias's embedding, too; the section before this one looks for that trace.",
        "- Nothing is shown about models of another size. In the control runs, only the direction and that reading were looked at.",
    ]
