"""The part of docs/toolbox.md on exchanged embeddings and single updates, from docs/results/toolbox-RECIPE-exchange.csv and its like.

python -m docs.write.exchanges RUN     take the tables from a run that has twins
"""

from pathlib import Path
from typing import Final

import pandas as pd
import tyro

from docs.write.markdown import write_table
from docs.write.toolbox_tables import has_table, read_table, write_learning
from mechocl.analyses import jobs
from mechocl.behaviour import over_seeds
from mechocl.behaviour.formats import mean_in_words, number, value_in_words
from mechocl.learning import summaries
from mechocl.learning.twins import D1, D2
from mechocl.runs.run import Run

_CHANGES: Final = ("loss_change", "loss_predicted", "loss_effect", "auc_effect", "stage_auc_change")


def take_tables(run_path: Path) -> None:
    """Write the tables from a run whose twins are trained, over the seeds that learned their definitions."""
    run = Run.open(run_path)
    device = run.manifest["device"]
    counted = jobs.count_run(run, device=device, jobs=None)
    exchange, probe, update = (
        counted.keep_shown(jobs.analyse_run(run, name, device=device))
        for name in ("twin-exchange", "twin-probe", "one-update")
    )
    shown = exchange[exchange["metric"].isin(["auc", "logit_difference"])]
    write_learning(shown, "exchange", of=run.recipe_name)
    write_learning(probe, "twin-probe", of=run.recipe_name)
    means = update.groupby(["seed", "step", "tag"])[list(_CHANGES)].mean().reset_index()
    write_learning(means, "one-update", of=run.recipe_name)
    write_learning(summaries.correlate_updates(update), "one-update-correlations", of=run.recipe_name)


def write_part(of: str) -> list[str]:
    """The part of a recipe; nothing where it has no tables."""
    if not has_table("exchange", of=of):
        return []
    exchange, probe = read_table("exchange", of=of), read_table("twin-probe", of=of)
    update, correlations = read_table("one-update", of=of), read_table("one-update-correlations", of=of)
    name, seeds = of.split("/")[-1], exchange["seed"].nunique()
    return [
        f"Exchanged embeddings, {seeds} seeds:",
        "",
        f"    mechocl train {of} --seeds {seeds} --out runs/{name}",
        f"    mechocl twins runs/{name}",
        f"    mechocl updates runs/{name}",
        "",
        "In the run's own model each alias of `d2` gets something of the embedding that was written under tag 1, and each of `d1` of that which was written under tag 2: the change of "
        "the answers. The last two rows exchange all other weights, and everything; the three above them are controls: any change of an embedding harms what is answered well, so the "
        "effect on `d1` is read beside that of a random direction. An exchange says where the difference between the tags lies, and not what made it.",
        "",
        *_exchange_table(exchange),
        *_probe_in_words(probe),
        "",
        "One step on one definition from the weights before stage 2, mean over all new aliases; what is beyond the same step on another alias:",
        "",
        *_update_table(update),
        *_correlations_in_words(correlations),
        "",
    ]


def _exchange_table(rows: pd.DataFrame) -> list[str]:
    found = {
        (row["exchange"], row["subset"], row["metric"]): row
        for row in over_seeds.over_seeds(rows, ["exchange", "subset", "metric"], "effect").to_dict("records")
    }
    moved = rows.groupby("exchange", sort=False)["moved"].mean()
    body = [
        [
            one, *(mean_in_words(found.get((one, subset, "auc"))) for subset in (D2, D1)),
            mean_in_words(found.get((one, D2, "logit_difference"))), number(moved[one]),
        ]
        for one in moved.index
    ]  # fmt: skip
    head = ["what is exchanged", "`d2`, AUC", "`d1`, AUC", "`d2`, nats", "embedding moved by"]
    return [*write_table(head, body), ""]


def _probe_in_words(rows: pd.DataFrame) -> list[str]:
    found = over_seeds.over_seeds(rows, ["embeddings"], "auc", bounds=(0.0, 1.0)).to_dict("records")
    said = ", ".join(f"{row['embeddings']} {value_in_words(row)}" for row in found)
    shuffled = over_seeds.over_seeds(rows, ["embeddings"], "auc_shuffled")["mean"]
    return [
        f"The tag, as a linear probe reads it from the embeddings of aliases that it was not trained on (AUC): {said}; with shuffled labels "
        f"{number(shuffled.min(), 2)} to {number(shuffled.max(), 2)}."
    ]


def _update_table(rows: pd.DataFrame) -> list[str]:
    found = {
        value: {
            (row["step"], row["tag"]): row
            for row in over_seeds.over_seeds(rows, ["step", "tag"], value).to_dict("records")
        }
        for value in _CHANGES
    }
    keys = list(found["loss_change"])
    values = ("loss_change", "loss_predicted", "loss_effect", "auc_effect")
    body = [
        [key[0], str(key[1]), *(mean_in_words(found[value].get(key)) for value in values)] for key in keys
    ]
    head = [
        "step",
        "tag",
        "loss (nats)",
        "to first order",
        "loss, beyond another alias",
        "AUC, beyond another alias",
    ]
    return [*write_table(head, body), ""]


def _correlations_in_words(rows: pd.DataFrame) -> list[str]:
    return [
        f"- {row['step']}, correlation over aliases of the {row['between']}: {mean_in_words(row)}."
        for row in over_seeds.over_seeds(
            rows, ["step", "between"], "correlation", bounds=(-1.0, 1.0)
        ).to_dict("records")
    ]


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_tables))
