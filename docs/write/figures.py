"""The figures of the documents, and how they are drawn."""

import re
import shutil
import urllib.parse
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import plotly.offline

from docs.write import dynamics, features, probes, studies
from docs.write.places import TABLES
from mechocl.report import training_plots
from mechocl.runs import sweep_summaries


def draw_figures() -> dict[str, go.Figure]:
    """Every figure of the documents, by the name of its file."""
    found = {}
    for study in studies.read():
        table = study.table()
        if table is not None and study.over and not study.of:
            found[study.name] = training_plots.phase_diagram(sweep_summaries.summaries(table))
    scaling = TABLES / "training-scaling.csv"
    if scaling.exists():
        found["training-scaling"] = training_plots.scaling(pd.read_csv(scaling))
    for one in dynamics.RUNS:
        path = dynamics.table_of(one, "curves")
        if path.exists():
            found[path.stem.removesuffix("-curves")] = training_plots.dynamics(pd.read_parquet(path))
    return found | probes.draw_figures() | features.draw_figures()


def write_svg(figures: dict[str, go.Figure], folder: Path) -> None:
    """Draw figures as SVG files, in a Chromium and with plotly's own code."""
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
            # plotly numbers its figures, colour bars and traces at random
            for i, drawn in enumerate(
                dict.fromkeys(re.findall(r"(?:defs-|cb|trace)([0-9a-f]{6})(?![0-9a-f])", text))
            ):
                text = text.replace(drawn, f"{i:06d}")
            (folder / f"{name}.svg").write_text(text, encoding="utf-8")
        browser.close()
