"""Linear probes on a model's activations at questions: what can be read where."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import torch

from mechocl import activations
from mechocl.errors import MechoclError
from mechocl.models import Transformer
from probes import controls, linear, splits
from toy_models.randomness import generator
from toy_models.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbingConfig:
    """Which probes, and their control."""

    recipe: str = "definition-retrieval"
    """Name of a recipe in `probes/recipes`."""
    shuffles: int = 1
    """Times that the labels are shuffled over aliases, as the control."""
    aliases_per_subset: int = 300
    """Aliases of each subset, the first ones."""
    seed: int = 0
    """Draws the questions, folds and shuffles."""

    def __post_init__(self) -> None:
        if self.shuffles < 0:
            raise MechoclError(f"shuffles is {self.shuffles}; use 0 or more")
        if self.aliases_per_subset < 1:
            raise MechoclError(f"aliases_per_subset is {self.aliases_per_subset}; use at least 1")


def probe_questions(model: Transformer, task: Task, config: ProbingConfig) -> pd.DataFrame:
    """Cross-validated probe scores at each layer and position of one test question per alias.

    The question is one whose list does not contain the alias's integer, so that the integer cannot be
    copied from the list. No alias is in both the training and the test part of a fold. Rows: `probe`,
    `layer`, `position`, `subset` (each subset on its own, and "all"), `control` ("none" | "shuffled"),
    `accuracy` (balanced accuracy for "all", plain accuracy within a subset), `auc` (binary, "all" only),
    `chance`, `aliases`.

    Aliases whose class no other alias has are left out: they cannot be scored on unseen aliases. What a
    probe of integers scores at `n1` … `=` where nothing is known lies a bit above `chance`: those positions
    see (part of) a list that does not contain the alias's integer, and so rules some integers out. With a
    list of k out of n integers the floor rises up to 1 / (n − k). The shuffled control does not rise.

    Raises MechoclError when no probe of the recipe fits the task, or one has too few aliases for its folds.
    """
    rows = _one_question_per_alias(task, config)
    labels = activations.asked_positions(task, rows)
    sites = activations.residual_sites(model.cfg.n_layers)
    found = activations.collect(model, task.tokens[torch.from_numpy(rows)], list(sites.values()))
    table = task.table.iloc[rows].reset_index(drop=True)
    results = []
    for probe in load_recipe(config.recipe):
        chosen = np.flatnonzero(table["subset"].isin(probe["subsets"]).to_numpy())
        missing = set(probe["subsets"]) - set(table["subset"].iloc[chosen])
        if len(missing) == len(probe["subsets"]) or (probe["target"] == "tag" and missing):
            continue  # this run has no such aliases
        of_all = table.iloc[chosen]
        keep = splits.scorable(of_all["alias"].to_numpy(), of_all[probe["target"]].to_numpy())
        chosen, part = chosen[keep], of_all[keep]
        alias, target = part["alias"].to_numpy(), part[probe["target"]].to_numpy()
        subset = part["subset"].astype(str).to_numpy()
        settings = linear.ProbeConfig(
            method=probe["method"],
            regularisation=tuple(probe["regularisation"]),
            n_folds=probe["n_folds"],
            seed=config.seed,
        )
        _check_folds(probe["name"], target, alias, settings)
        targets = [("none", target)] + [
            ("shuffled", controls.shuffle_by_alias(target, alias, seed=config.seed + 1 + i))
            for i in range(config.shuffles)
        ]
        for layer, site in sites.items():
            for i, position in enumerate(labels):
                x = found[site][chosen, i].numpy()
                for control, y in targets:
                    score = linear.cross_validate(x, y, alias, config=settings)
                    results += _rows(probe["name"], layer, position, control, score, subset)
    if not results:
        raise MechoclError(f"no probe of {config.recipe} fits this run: it has none of their subsets")
    keys = ["probe", "layer", "position", "subset", "control"]
    return pd.DataFrame(results).groupby(keys, sort=False, as_index=False).mean()


def load_recipe(name: str) -> list[dict[str, Any]]:
    """The probes of a recipe in `probes/recipes`; MechoclError when there is none of that name."""
    folder = resources.files("probes") / "recipes"
    file = folder / f"{name}.toml"
    if not file.is_file():
        known = sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))
        raise MechoclError(f"no probe recipe {name!r}; known: {', '.join(known)}")
    probes: list[dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))["probes"]
    return probes


def _one_question_per_alias(task: Task, config: ProbingConfig) -> np.ndarray:
    rows = task.rows(kind="question", split="test", answer=False)
    rows = rows[task.table["tag"].to_numpy()[rows] > 0]
    if len(rows) == 0:
        raise MechoclError("the task has no defined aliases to probe")
    order = torch.randperm(len(rows), generator=generator(config.seed, "probe questions")).numpy()
    table = task.table.loc[rows[order]].drop_duplicates("alias")
    kept = table.sort_values("alias").groupby("subset", observed=True).head(config.aliases_per_subset)
    return np.sort(kept.index.to_numpy())


def _check_folds(name: str, target: np.ndarray, alias: np.ndarray, settings: linear.ProbeConfig) -> None:
    try:
        splits.alias_folds(alias, target, n_folds=settings.n_folds, seed=settings.seed)
    except ValueError as error:
        raise MechoclError(f"probe {name}: {error}; use more aliases or another recipe") from error


def _rows(
    name: str, layer: str, position: str, control: str, score: linear.ProbeScore, subset: np.ndarray
) -> list[dict[str, Any]]:
    base = {"probe": name, "layer": layer, "position": position, "control": control, "chance": score.chance}
    rows = [
        base
        | {"subset": "all", "accuracy": score.balanced_accuracy, "auc": score.auc, "aliases": len(subset)}
    ]
    for s in np.unique(subset):
        inside = subset == s
        rows.append(
            base
            | {
                "subset": s,
                "accuracy": float(score.correct[inside].mean()),
                "auc": float("nan"),
                "aliases": int(inside.sum()),
            }
        )
    return rows
