"""Write docs/results.md, docs/toolbox.md and README's results from the committed tables in docs/results/.

python -m docs.write.results --run runs/demo     take the tables from a run first
python -m docs.write.results --closed-book runs/closed-book --model runs/biographies
                                                 take the tables of the closed-book section first
python -m docs.write.results                     only write the pages and the figures (needs a Chromium)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import pandas as pd
import tyro

from docs.write import (
    batch_sizes,
    closed_book,
    closed_book_tables,
    controls,
    dynamics,
    equal_loss,
    feature_tables,
    features,
    figures,
    gate,
    machines,
    map,
    miniature,
    probe_tables,
    probes,
    real,
    search,
    text_control_sections,
    text_verdicts,
    toolbox,
    toolbox_tables,
    verdict_results,
)
from docs.write.markdown import write_table, write_text_table
from docs.write.places import ADDRESS, DOCS, README, TABLES
from mechocl.analyses import registry, results
from mechocl.behaviour import formats, internalization, over_seeds
from mechocl.behaviour.counted import count_seeds
from mechocl.behaviour.internalization import METRICS
from mechocl.runs.run import Run
from toy_models.measures import YES_OR_NO

_START: Final = "<!-- results: written by `make results-doc` -->"
_END: Final = "<!-- end of results -->"
_MEANING: Final = {c.name: c.meaning for c in internalization.CONTRASTS}


def take_tables(run_path: Path) -> None:
    """Write the tables from the results of a run."""
    run = Run.open(run_path)
    rows = results.load_rows(run, "evaluate", registry.EvaluateConfig())
    if rows is None:
        raise SystemExit(f"{run_path} has no evaluation yet; run `mechocl evaluate {run_path}` first")
    counted = count_seeds(rows, diverged=run.failures())
    TABLES.mkdir(exist_ok=True)
    columns = ["seed", "subset", "aliases", *METRICS]
    shown = over_seeds.by_seed(counted.keep_shown(rows))[columns]
    shown.to_csv(TABLES / "demo-subsets.csv", index=False, float_format="%.6g")
    found = []
    for metric in ("auc", "accuracy"):
        for c in over_seeds.contrasts(rows, metric, counted=counted):
            e = c.estimate
            found.append(
                {
                    "metric": metric, "contrast": c.name, "mean": e.mean, "low": e.low, "high": e.high, "p": e.p,
                    "seeds": e.n, "positive_seeds": c.positive_seeds, "verdict": c.verdict.answer,
                    "seeds_to_decide": c.verdict.seeds_to_decide,
                }
            )  # fmt: skip
    pd.DataFrame(found).to_csv(TABLES / "demo-contrasts.csv", index=False, float_format="%.6g")
    facts = {
        "recipe": run.recipe_name,
        "seeds": " ".join(str(seed) for seed in run.seeds),
        "failed": len(counted.failed) + len(counted.diverged),
        "seconds": sum(run.manifest["seconds"].values()),
        "machine": run.manifest["machine"],
        "torch": run.manifest["packages"]["torch"],
    }
    pd.DataFrame([facts]).to_csv(TABLES / "demo-run.csv", index=False)
    lens = results.load_rows(run, "lens", registry.ANALYSES["lens"].config())
    if lens is not None:
        keys = [c for c in lens.columns if lens[c].dtype.kind not in "fi" and c != "seed"]
        mean = lens.drop(columns="seed").groupby(keys, sort=False).mean(numeric_only=True).reset_index()
        mean.to_csv(TABLES / "demo-lens.csv", index=False, float_format="%.6g")


def write_page() -> str:
    """The page, which is written from the committed tables alone."""
    subsets = pd.read_csv(TABLES / "demo-subsets.csv")
    contrasts = pd.read_csv(TABLES / "demo-contrasts.csv")
    facts = pd.read_csv(TABLES / "demo-run.csv").iloc[0]
    n = int(subsets["seed"].nunique())
    lines = [
        "# Results",
        "",
        "Written by `make results-doc` from the tables in `docs/results/`.",
        "",
        "d1, d2, d3: aliases that are only defined, in stage 2, with tag 1, tag 2 and a fresh tag. qd1, qd2: aliases that are defined and asked about in "
        "stage 1, with tag 1 (right) and tag 2 (wrong). *no*: aliases without training data. α: how often tag 1 is right and tag 2 wrong. Word orders: T "
        "the tag, V the alias, E the integer. AUC is that within an alias, over its questions; .5 is chance. An effect under "
        f"{YES_OR_NO.smallest['auc']:g} in AUC or {YES_OR_NO.smallest['accuracy']:g} in accuracy does not matter ([how](concepts.md#how-a-verdict-is-made)). Seeds 0–27 are those on "
        "which the setups were chosen, here and in a replication; seeds from 100 up are not.",
        "",
        *controls.write_known(),
        "",
        *verdict_results.write_summary(),
        *machines.write_section(),
        "",
        *equal_loss.write_section(),
        "",
        *batch_sizes.write_section(),
        "## The small integer-set experiment",
        "",
        f"`mechocl demo`: recipe `{facts['recipe']}`, {n} seeds ({facts['failed']} failed), "
        f"{facts['seconds']:.0f} s in all on {facts['machine']}, torch {facts['torch']}.",
        "",
        f"Means over {n} seeds (`docs/results/demo-subsets.csv` has each seed):",
        "",
        *_subsets(subsets),
    ]
    for metric, title in (("auc", "within-alias AUC"), ("accuracy", "accuracy")):
        lines += [
            "",
            f"Differences in {title}, paired by seed, with 95 % intervals over seeds:",
            "",
            *_contrasts(contrasts[contrasts["metric"] == metric]),
        ]
    lines += [
        "",
        *map.write_map(),
        "",
        *dynamics.write_dynamics(),
        "",
        *search.write_search(),
        "",
        *_inside(),
        "",
        *probes.write_section(),
        "",
        *features.write_section(),
        "",
        *miniature.write_section(),
        "",
        *text_verdicts.write_section(),
        *text_control_sections.write_section(),
        "",
        *real.write_section(),
        *closed_book.write_section(),
    ]
    return "\n".join(lines) + "\n"


def _subsets(subsets: pd.DataFrame) -> list[str]:
    """The table of each subset's means over seeds."""
    means = subsets.groupby("subset", sort=False)[list(METRICS)].mean()
    return write_table(
        ["subset", "AUC", "accuracy", "logit difference", "definition recall"],
        [[f"`{name}`", *(formats.number(row[m]) for m in METRICS)] for name, row in means.iterrows()],
    )


def _contrasts(contrasts: pd.DataFrame) -> list[str]:
    """The table of each contrast in one quantity."""
    rows = [
        [
            _MEANING[c["contrast"]],
            _difference(c),
            formats.p_value(c["p"]),
            f"{c['positive_seeds']} of {c['seeds']}",
            c["verdict"],
        ]
        for c in contrasts.to_dict("records")
    ]
    columns = ["contrast", "difference", "p", "seeds above 0", "verdict"]
    return write_table(columns, rows, left=(0, 4))


def _difference(c: Mapping[Any, Any]) -> str:
    """A saved contrast and its interval, as text."""
    return formats.interval(c["mean"], c["low"], c["high"], sign=True, minus=formats.HYPHEN)


def _inside() -> list[str]:
    """The section on what the analyses show, as small tables."""
    lens = pd.read_csv(TABLES / "demo-lens.csv")
    lines = [
        "## Inside the models",
        "",
        "Means over the demo's seeds. Patching, circuits, grafts and subspaces: [toolbox.md](toolbox.md).",
        "",
    ]
    part = lens[
        (lens["component"] == "stream") & (~lens["contains"]) & lens["position"].isin(["alias", "%", "="])
    ]
    grid = _pivot(part, "subset", ["layer", "position"], "rank")
    lines += [
        "**Logit lens**: mean rank of the alias's integer among the integers (1 is the top), lists without it.",
        "",
    ]
    lines += _grid(grid, digits=1)
    return lines


def _pivot(table: pd.DataFrame, index: str, columns: list[str], value: str) -> pd.DataFrame:
    """A pivot table whose rows and columns keep the order in which they come."""
    grid = table.pivot(index=index, columns=columns, values=value)
    order = (
        pd.MultiIndex.from_frame(table[columns].drop_duplicates())
        if len(columns) > 1
        else table[columns[0]].unique()
    )
    return grid.loc[table[index].unique(), order]


def _grid(grid: pd.DataFrame, *, digits: int) -> list[str]:
    names = [", ".join(c) if isinstance(c, tuple) else str(c) for c in grid.columns]
    rows = [
        [str(i), *(formats.number(v, digits) for v in row)]
        for i, row in zip(grid.index, grid.to_numpy(), strict=True)
    ]
    return write_table(["", *names], rows)


def write_readme(text: str) -> str:
    """README's text, with its results section made anew from the tables."""
    contrasts = pd.read_csv(TABLES / "demo-contrasts.csv").set_index(["metric", "contrast"])
    facts = pd.read_csv(TABLES / "demo-run.csv").iloc[0]
    auc = pd.read_csv(TABLES / "demo-subsets.csv").groupby("subset")["auc"].mean()
    n = len(str(facts["seeds"]).split())

    def cell(metric: str, name: str) -> str:
        c = contrasts.loc[(metric, name)]
        return f"{_difference(c)}, {formats.p_value(c['p'])}"

    shown = ("qd1_consistent", "d1_consistent", "d2_consistent", "d3_consistent", "no_data")
    names = ("weak", "ocl_d1", "strong", "strong_d1_d3", "strong_d3_d2")
    lines = [
        f"`make demo`, {n} seeds. Within-alias AUC by subset (.5 is chance): "
        + ", ".join(f"`{s}` {formats.number(auc[s])}" for s in shown)
        + ".",
        "Differences, paired by seed, with 95 % intervals over seeds:",
        "",
        *write_text_table(
            ["", "in AUC; in text: exact match", "in accuracy; in text: log-probability"],
            [[_MEANING[name], cell("auc", name), cell("accuracy", name)] for name in names]
            + miniature.readme_rows(),
        ),
        "",
        miniature.readme_line(),
        "",
        *machines.write_line(),
        "The demo's seeds are among those on which the setup was chosen. On seeds that confirm it, beside the control that decides, in which nothing was unreliable:",
        "",
        *controls.write_short(),
        "",
        f"[docs/results.md]({ADDRESS}/blob/main/docs/results.md) has every table, and what the effect depends on.",
    ]
    before, rest = text.split(_START)
    return before + _START + "\n\n" + "\n".join(lines) + "\n\n" + _END + rest.split(_END)[1]


def main(
    run: Annotated[Path | None, tyro.conf.arg(help="Take the tables from this run first.")] = None,
    closed_book_run: Annotated[
        Path | None, tyro.conf.arg(name="closed-book", help="Take the closed-book tables from this run.")
    ] = None,
    model: Annotated[Path, tyro.conf.arg(help="The model that it began with.")] = Path("runs/biographies"),
) -> None:
    if run is not None:
        take_tables(run)
        dynamics.take_dynamics(run.parent)
        probe_tables.take_tables(run.parent)
        feature_tables.take_tables(run.parent)
        toolbox_tables.take_tables(run)
        toolbox_tables.take_control_tables(run.parent)
        gate.take_table(run.parent)
    if closed_book_run is not None:
        closed_book_tables.take_tables(closed_book_run, model)
    figures.write_svg(figures.draw_figures(), DOCS / "figures")
    (DOCS / "results.md").write_text(write_page(), encoding="utf-8")
    (DOCS / "toolbox.md").write_text(toolbox.write_page(), encoding="utf-8")
    README.write_text(write_readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {DOCS / 'results.md'}, {DOCS / 'toolbox.md'} and the results in {README}")


if __name__ == "__main__":
    tyro.cli(main)
