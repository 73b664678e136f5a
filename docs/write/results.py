"""Write docs/results.md from the committed tables in docs/results/.

python docs/results_doc.py --run runs/demo     take the tables from a run first
python docs/results_doc.py --closed-book runs/closed-book --model runs/biographies
                                               take those of the closed-book section
python docs/results_doc.py                     only write the page and the figures (needs a Chromium)
"""

from pathlib import Path
from typing import Annotated

import closed_book_doc
import feature_doc
import map_doc
import pandas as pd
import probe_doc
import toolbox_doc
import tyro

from mechocl.analyses import registry
from mechocl.behaviour import formats, internalization, over_seeds
from mechocl.behaviour.internalization import METRICS
from mechocl.runs.run import Run

DOCS = Path(__file__).parent
TABLES = DOCS / "results"
_START = "<!-- results: written by `make results-doc` -->"
_END = "<!-- end of results -->"


def take(run_path: Path) -> None:
    """Write the tables from a run's own results."""
    run = Run.open(run_path)
    rows = registry.load_rows(run, "evaluate", registry.EvaluateConfig())
    if rows is None:
        raise SystemExit(f"{run_path} has no evaluation yet; run `mechocl evaluate {run_path}` first")
    rows, unlearned = over_seeds.without_failed(rows)
    TABLES.mkdir(exist_ok=True)
    columns = ["seed", "subset", "aliases", *METRICS]
    over_seeds.by_seed(rows)[columns].to_csv(TABLES / "demo-subsets.csv", index=False, float_format="%.6g")
    found = []
    for metric in ("auc", "accuracy"):
        for c in over_seeds.contrasts(rows, metric):
            e = c.estimate
            found.append(
                {
                    "metric": metric,
                    "contrast": c.name,
                    "mean": e.mean,
                    "low": e.low,
                    "high": e.high,
                    "p": e.p,
                    "seeds": e.n,
                    "positive_seeds": c.positive_seeds,
                    "seeds_for_power": e.seeds_for_power,
                }
            )
    pd.DataFrame(found).to_csv(TABLES / "demo-contrasts.csv", index=False, float_format="%.6g")
    facts = {
        "recipe": run.recipe_name,
        "seeds": " ".join(map(str, run.seeds)),
        "failed": len(run.failures()) + len(unlearned),
        "seconds": sum(run.manifest["seconds"].values()),
        "machine": run.manifest["machine"],
        "torch": run.manifest["packages"]["torch"],
    }
    pd.DataFrame([facts]).to_csv(TABLES / "demo-run.csv", index=False)
    lens = registry.load_rows(run, "lens", registry.ANALYSES["lens"].config())
    if lens is not None:
        keys = [c for c in lens.columns if lens[c].dtype.kind not in "fi" and c != "seed"]
        mean = lens.drop(columns="seed").groupby(keys, sort=False).mean(numeric_only=True).reset_index()
        mean.to_csv(TABLES / "demo-lens.csv", index=False, float_format="%.6g")


def page() -> str:
    """The page, from the committed tables alone."""
    subsets = pd.read_csv(TABLES / "demo-subsets.csv")
    contrasts = pd.read_csv(TABLES / "demo-contrasts.csv")
    facts = pd.read_csv(TABLES / "demo-run.csv").iloc[0]
    means = subsets.groupby("subset", sort=False)[list(METRICS)].mean()
    meaning = {c.name: c.meaning for c in internalization.CONTRASTS}
    n = int(subsets["seed"].nunique())
    lines = [
        "# Results",
        "",
        "Written by `make results-doc` from the tables in `docs/results/`: those of the first section and of the logit lens come from the run that `make demo` makes, those of the map from `make studies`, the others as they say.",
        "",
        "## The small integer-set experiment",
        "",
        f"`mechocl demo`: recipe `{facts['recipe']}`, {n} seeds ({facts['failed']} failed), "
        f"{facts['seconds']:.0f} s in all on {facts['machine']}, torch {facts['torch']}.",
        "",
        f"Means over {n} seeds (`docs/results/demo-subsets.csv` has each seed):",
        "",
        "| subset | AUC | accuracy | logit difference | definition recall |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in means.iterrows():
        cells = [f"{row[m]:.3f}" if pd.notna(row[m]) else "–" for m in METRICS]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    for metric, title in (("auc", "within-alias AUC"), ("accuracy", "accuracy")):
        lines += [
            "",
            f"Differences in {title}, paired by seed, with 95 % intervals over seeds:",
            "",
            "| contrast | difference | p | seeds above 0 | seeds for 80 % power |",
            "|---|---:|---:|---:|---:|",
        ]
        for _, c in contrasts[contrasts["metric"] == metric].iterrows():
            lines.append(
                f"| {meaning[c['contrast']]} | {c['mean']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}] | "
                f"{formats.p_value(c['p'])} | {c['positive_seeds']} of {c['seeds']} | {c['seeds_for_power']:.0f} |"
            )
    lines += [
        "",
        *map_doc.the_map(),
        "",
        *map_doc.the_dynamics(),
        "",
        *map_doc.the_search(),
        "",
        *_inside(),
        "",
        *probe_doc.section(),
        "",
        *feature_doc.section(),
        "",
        *closed_book_doc.section(),
    ]
    return "\n".join(lines) + "\n"


def _inside() -> list[str]:
    """What the analyses show, as small tables."""
    lens = pd.read_csv(TABLES / "demo-lens.csv")
    lines = [
        "## Inside the models",
        "",
        "Means over the same seeds. Patching, circuits, grafts and subspaces: [toolbox.md](toolbox.md).",
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
    lines += _markdown(grid, digits=1)
    return lines


def _pivot(table: pd.DataFrame, index: str, columns: list[str], value: str) -> pd.DataFrame:
    """Pivot with rows and columns in the order in which they come."""
    grid = table.pivot(index=index, columns=columns, values=value)
    order = (
        pd.MultiIndex.from_frame(table[columns].drop_duplicates())
        if len(columns) > 1
        else table[columns[0]].unique()
    )
    return grid.loc[table[index].unique(), order]


def _markdown(grid: pd.DataFrame, *, digits: int) -> list[str]:
    names = [", ".join(c) if isinstance(c, tuple) else str(c) for c in grid.columns]
    head = f"| | {' | '.join(names)} |"
    body = [
        f"| {i} | " + " | ".join(f"{v:.{digits}f}" for v in row) + " |"
        for i, row in zip(grid.index, grid.to_numpy(), strict=True)
    ]
    return [head, "|---|" + "---:|" * len(names), *body]


def readme(text: str) -> str:
    """README's text with its results section made from the tables."""
    contrasts = pd.read_csv(TABLES / "demo-contrasts.csv").set_index(["metric", "contrast"])
    facts = pd.read_csv(TABLES / "demo-run.csv").iloc[0]
    auc = pd.read_csv(TABLES / "demo-subsets.csv").groupby("subset")["auc"].mean()
    n = len(str(facts["seeds"]).split())

    def cell(metric: str, name: str) -> str:
        c = contrasts.loc[(metric, name)]
        return f"{c['mean']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}], {formats.p_value(c['p'])}"

    shown = ("qd1_consistent", "d1_consistent", "d2_consistent", "d3_consistent", "no_data")
    names = ("weak", "ocl_d1", "strong", "strong_d1_d3", "strong_d3_d2")
    meaning = {c.name: c.meaning for c in internalization.CONTRASTS}
    lines = [
        f"`make demo`, {n} seeds. Within-alias AUC by subset (.5 is chance): "
        + ", ".join(f"`{s}` {auc[s]:.3f}" for s in shown)
        + ".",
        "Differences, paired by seed, with 95 % intervals over seeds:",
        "",
        "| | in AUC | in accuracy |",
        "|---|---|---|",
        *(f"| {meaning[name]} | {cell('auc', name)} | {cell('accuracy', name)} |" for name in names),
        "",
        "The setups were chosen on other seeds than those that confirm them. Strong internalization (d1 − d2, AUC) on the "
        "confirming seeds:",
        "",
        *map_doc.confirmed(),
        "",
        "[docs/results.md](docs/results.md) has every table, and what the effect depends on.",
    ]
    before, rest = text.split(_START)
    return before + _START + "\n\n" + "\n".join(lines) + "\n\n" + _END + rest.split(_END)[1]


def main(
    run: Annotated[Path | None, tyro.conf.arg(help="Take the tables from this run first.")] = None,
    closed_book: Annotated[
        Path | None, tyro.conf.arg(help="Take the closed-book tables from this run.")
    ] = None,
    model: Annotated[Path, tyro.conf.arg(help="The model that it began with.")] = Path("runs/biographies"),
) -> None:
    if run is not None:
        take(run)
        map_doc.take_dynamics(run.parent)
        probe_doc.take(run.parent)
        feature_doc.take(run.parent)
        toolbox_doc.take(run)
    if closed_book is not None:
        closed_book_doc.take(closed_book, model)
    map_doc.write_svg(map_doc.figures() | probe_doc.figures() | feature_doc.figures(), DOCS / "figures")
    (DOCS / "results.md").write_text(page(), encoding="utf-8")
    (DOCS / "toolbox.md").write_text(toolbox_doc.page(), encoding="utf-8")
    front = DOCS.parent / "README.md"
    front.write_text(readme(front.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {DOCS / 'results.md'}, {DOCS / 'toolbox.md'} and the results in {front}")


if __name__ == "__main__":
    tyro.cli(main)
