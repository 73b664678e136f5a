"""The tables docs/results/closed-book*.csv, taken from a closed-book run and the model that it began with."""

from pathlib import Path

import pandas as pd

from docs.write.places import TABLES
from mechocl.analyses import registry, results
from mechocl.closed_book import questioning
from mechocl.runs.run import Run


def take_tables(path: Path, model: Path) -> None:
    """Write the tables from a run's evaluations after both stages, and from the model that it began with."""
    run = Run.open(path)
    recipe = run.recipe
    tables = []
    for stage in range(1, len(recipe.training.stages) + 1):
        rows = results.load_rows(run, "evaluate", registry.EvaluateConfig(), stage=stage)
        if rows is None:
            raise SystemExit(
                f"{path} has no evaluation yet; run `mechocl evaluate {path} --stage {stage}` first"
            )
        attribute = rows["attribute"].where(rows["test"] == "association", "")
        keys = ["stage", "seed", "test", "attribute", "subset"]
        means = rows.assign(stage=stage, attribute=attribute).groupby(keys, sort=False)
        metrics = list(questioning.MEASURES.names)
        tables.append(means[metrics].mean().assign(aliases=means["alias"].nunique()).reset_index())
    pd.concat(tables).to_csv(TABLES / "closed-book.csv", index=False, float_format="%.5g")
    known = pd.read_csv(model / "known-people.csv")
    known.to_csv(TABLES / "closed-book-known.csv", index=False, float_format="%.4g")
    facts = {
        "recipe": run.recipe_name,
        "seeds": len(run.seeds),
        "failed": len(run.failures()),
        "seconds": sum(run.manifest["seconds"].values()),
        "machine": run.manifest["machine"],
        "entities": recipe.task.entities,
    }
    pd.DataFrame([facts]).to_csv(TABLES / "closed-book-run.csv", index=False)
