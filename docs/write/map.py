"""The parts of docs/results.md that come from the studies: the map, the dynamics, the search; and all figures."""

import shutil
import urllib.parse
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import plotly.offline
import studies

from mechocl import files
from mechocl.analyses import jobs
from mechocl.behaviour import dynamics, formats, internalization
from mechocl.report import training_plots
from mechocl.runs import sweep_folder, sweep_summaries
from mechocl.runs.run import Run
from toy_models.measures import YES_OR_NO

TABLES = Path(__file__).parent / "results"

DYNAMICS = {
    "dynamics-two-stage": (
        "Two stages",
        "mechocl train integer-set/cpu --seeds 8 --first-seed 200 --out runs/dynamics-two-stage "
        "--set training.stages.0.evaluations=48 training.stages.1.evaluations=40",
    ),
    "dynamics-one-stage": (
        "One stage",
        "mechocl train integer-set/one-stage --seeds 8 --first-seed 200 --out runs/dynamics-one-stage "
        "--set training.stages.0.evaluations=60",
    ),
}
"""Runs behind the section on dynamics: title and command."""


def take_dynamics(runs: Path) -> None:
    """Write the curves and onsets of the runs in `DYNAMICS`, where they are in a folder."""
    for name in DYNAMICS:
        if (runs / name).exists():
            curves, onsets = jobs.measure_dynamics(Run.open(runs / name))
            files.write_table(TABLES / f"{name}-curves.parquet", curves)
            files.write_table(TABLES / f"{name}-onsets.parquet", onsets)


def the_dynamics() -> list[str]:
    """When each part is learned, and in which order, from the saved onsets."""
    lines = [
        "## When it appears",
        "",
        "`mechocl dynamics` on runs with many evaluations. A part counts as learned where its curve passes half of its way "
        f"for good (a tag effect: half of its own final value, where that is at least {dynamics.SMALLEST_EFFECT}); the order of two "
        "parts is tested over seeds by a sign test.",
    ]
    for name, (title, command) in DYNAMICS.items():
        path = TABLES / f"{name}-onsets.parquet"
        if not path.exists():
            continue
        onsets = pd.read_parquet(path)
        lines += [
            "",
            f"### {title}: order of learning",
            "",
            f"    {command}",
            f"    mechocl dynamics runs/{name}",
            "",
        ]
        lines += ["| part | stage | epoch: median (range) | seeds | meaning |", "|---|---|---|---|---|"]
        for event in dynamics.EVENTS:
            part = onsets[onsets["event"] == event.name]
            if part.empty:
                continue
            e = part["epoch"].dropna()
            times = f"{e.median():.1f} ({e.min():.1f} … {e.max():.1f})" if len(e) else "–"
            stage = part["stage"].iloc[0]
            lines.append(f"| {event.name} | {stage} | {times} | {len(e)} of {len(part)} | {event.meaning} |")
        lines += [
            "",
            "| first | then | seeds in this order | epochs between | sign test |",
            "|---|---|---|---|---|",
        ]
        for o in dynamics.order(onsets):
            gap = f"{o.lead.mean:.1f} [{o.lead.low:.1f}, {o.lead.high:.1f}]"
            lines.append(
                f"| {o.first} | {o.second} | {o.before} of {o.seeds} | {gap} | {formats.p_value(o.p)} |"
            )
        lines += ["", f"![{title}](figures/{name}.svg)"]
    return lines


def the_map() -> list[str]:
    """Every study with a table: its command, its settings, and the paper's finding beside ours."""
    meaning = {c.name: c.meaning for c in internalization.CONTRASTS}
    done = [(study, table) for study in studies.read() if (table := study.table()) is not None]
    lines = [
        "## The map: where internalization lives",
        "",
        "Every table below is what the command above it trains and `mechocl sweep --table docs/results/sweeps/NAME.parquet` "
        "prints. AUC after the last stage, means over the seeds that did not fail; *gap* is d1 − d2 (strong "
        "internalization) with its 95 % interval over seeds. A run fails when its loss is not finite or when it recalls "
        f"fewer than {100 * (YES_OR_NO.least_recall or 0):.0f} % of the new aliases' definitions; failed runs are counted and left out.",
        "",
        "| study | the paper | here | decided by |",
        "|---|---|---|---|",
    ]
    for study, table in done:
        e = studies.evidence(study, table)
        here = studies.verdict(study, e)
        by = "–"
        if e is not None and e.n:
            by = f"{meaning[study.contrast]}; {studies.QUANTITY[study.judged]}: {formats.describe(e)}"
        where = next(s.title for s, _ in done if s.name == (study.of or study.name))
        lines.append(f"| [{study.title}](#{_anchor(where)}) | {study.paper} | {here} | {by} |")
    for study, table in done:
        if study.of:
            continue
        lines += ["", f"### {study.title}", "", f"    {study.command}", ""]
        if study.note:
            lines += [study.note, ""]
        lines += _settings_table(table)
        if study.over:
            lines += ["", f"![{study.title}](figures/{study.name}.svg)"]
    missing = [study for study in studies.read() if study.table() is None]
    if missing:
        lines += ["", "### Not measured", "", "Each with the command that measures it:", ""]
        lines += [f"- {study.title}: `{study.command}`" for study in missing]
    return lines


def confirmed() -> list[str]:
    """A line for each setup: its gap on the confirming seeds."""
    lines = []
    for study in studies.read():
        table = study.table()
        if table is None or study.over or study.of:
            continue
        (one,) = sweep_summaries.summaries(table)
        e = one.contrasts["strong"]
        lines.append(
            f"- `{study.recipe}`: {formats.describe(e)}, {e.n} seeds ({one.failed} failed); d1 {one.auc['d1_consistent'].mean:.3f}, "
            f"d2 {one.auc['d2_consistent'].mean:.3f}, d3 {one.auc['d3_consistent'].mean:.3f}"
        )
    return lines


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _settings_table(table: pd.DataFrame) -> list[str]:
    found = sweep_summaries.summaries(table)
    keys = sweep_folder.axes(table)
    two_stages = any(one.before == one.before for one in found)
    subsets = ("qd1_consistent", "qd2_inconsistent", "d1_consistent", "d2_consistent", "d3_consistent")
    head = [k.split(".")[-1] for k in keys] + ["runs (failed)"]
    head += ["qd1 before stage 2"] if two_stages else []
    head += [s.split("_")[0] for s in subsets] + ["weak", "gap", "gap in accuracy", "d1 − d3"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in found:
        cells = [str(one.setting[k]) for k in keys]
        cells.append(f"{one.runs} ({one.failed})")
        cells += [_number(one.before)] if two_stages else []
        cells += [_number(one.auc[s].mean) if s in one.auc else "–" for s in subsets]
        for table_of, name in (
            (one.contrasts, "weak"), (one.contrasts, "strong"), (one.accuracy, "strong"), (one.contrasts, "strong_d1_d3"),
        ):  # fmt: skip
            cells.append(sweep_summaries.described(table_of.get(name)))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _number(value: float) -> str:
    return f"{value:.3f}" if value == value else "–"


def figures() -> dict[str, go.Figure]:
    """Every figure of the documents, by the name of its file."""
    found = {}
    for study in studies.read():
        table = study.table()
        if table is not None and study.over and not study.of:
            found[study.name] = training_plots.phase_diagram(sweep_summaries.summaries(table))
    scaling = TABLES / "training-scaling.csv"
    if scaling.exists():
        found["training-scaling"] = training_plots.scaling(pd.read_csv(scaling))
    for name in DYNAMICS:
        path = TABLES / f"{name}-curves.parquet"
        if path.exists():
            found[name] = training_plots.dynamics(pd.read_parquet(path))
    return found


def write_svg(figures: dict[str, go.Figure], folder: Path) -> None:
    """Draw figures in a Chromium, with plotly's own code, as SVG files."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise SystemExit("the figures need a Chromium; install it, on Debian with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox"])
        page = browser.new_page()
        page.set_content(f"<script>{plotly.offline.get_plotlyjs()}</script>")
        for name, figure in figures.items():
            layout = figure.layout
            options = {"format": "svg", "width": layout.width or 860, "height": layout.height or 500}
            url = page.evaluate(
                "([figure, options]) => Plotly.toImage(JSON.parse(figure), options)",
                [figure.to_json(), options],
            )
            text = urllib.parse.unquote(url.split(",", 1)[1])
            (folder / f"{name}.svg").write_text(text, encoding="utf-8")
        browser.close()


def _range(table: pd.DataFrame) -> str:
    gaps = table["gap"].astype(float)
    return f"{formats.signed(gaps.min())} to {formats.signed(gaps.max())} ({len(table)} trainings)"


def the_search() -> list[str]:
    """How the setups were found."""
    table = pd.read_csv(TABLES / "search.csv", keep_default_na=False)
    seeds = table["seeds"].astype(int)
    table["t"] = table["gap"].astype(float) / (table["gap_sd"].astype(float) / seeds**0.5)
    first_stages = table.groupby("recipe")["changes"].nunique()
    one = table["changes"].str.contains("n_layers=1")
    everything = table["stage_2"].str.contains("adamw") & table["stage_2"].str.contains("trains=all")
    fast = table["stage_2"].str.contains("embedding_rate=")
    starts_small = table["changes"].str.contains("embedding_std")
    untied = table["changes"].str.contains("tied_embeddings=false")
    two_layers = table[~one & everything & ~fast]
    one_layer = table[one & table["stage_2"].str.contains("alias_embeddings")]
    small = table[
        one
        & everything
        & fast
        & starts_small
        & untied
        & ~table["stage_2"].str.contains("embedding_rate=[13] ")
    ]
    decayed = table[table["changes"].str.contains("weight_decay=0.3")]
    lines = [
        "## How the setups were found",
        "",
        f"By hand, on seeds 0 … 5: {len(table)} trainings of 4 to 6 seeds ({first_stages['cpu']} first stages, each with up to 11 "
        f"second stages, and {first_stages['one-stage']} one-stage setups), all in `docs/results/search.csv`, as changes to the "
        "recipes of commit ac9fc7c. The numbers of the map above are from other seeds. What the search said:",
        "",
        f"- Two layers, everything trained with AdamW at one learning rate in stage 2: gaps from {_range(two_layers)}.",
        f"- One layer, only the aliases' embeddings trained: gaps from {_range(one_layer)}. Fewer layers leave fewer ways around "
        "what stage 1 built (a reading, not a test).",
        f"- Embeddings that start small (standard deviation .01 or .03) and learn at least 10 times as fast as the rest in stage 2, "
        f"untied, one layer, everything trained: gaps from {_range(small)}.",
        f"- Weight decay .3 in stage 1: gaps from {_range(decayed)}; it keeps stage 1 from being learned.",
        "",
        "The eight trainings with the largest t of the gap:",
        "",
        "| recipe | changes | stage 2 | seeds | d1 | d2 | d3 | gap | t |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for _, row in table.sort_values("t", ascending=False).head(8).iterrows():
        numbers = [f"{float(row[c]):.3f}" for c in ("d1", "d2", "d3", "gap")]
        cells = [
            row["recipe"],
            f"`{row['changes']}`",
            f"`{row['stage_2']}`" if row["stage_2"] else "–",
            str(row["seeds"]),
        ]
        lines.append("| " + " | ".join([*cells, *numbers, f"{row['t']:.1f}"]) + " |")
    return lines
