"""The controls of a probe: other models, other splits, matched stages, and the token embeddings."""

from typing import Any

import numpy as np
import torch
from einops import rearrange

from mechocl.models.components import Components
from mechocl.probing.examples import Examples
from mechocl.probing.recipe import Probe
from mechocl.probing.scoring import Chosen, ProbingConfig, Site, choose_examples, score_probe, shared_cells
from probes import controls, splits
from probes.grid import GridScores


def _control(
    name: str, probe: Probe, site: Site, examples: Examples, chosen: Chosen, config: ProbingConfig
) -> list[dict[str, Any]]:
    """Rows of the same probe on other activations, or on some of the examples."""
    scores = score_probe(probe, site.x[:, chosen.index], chosen, config)
    return _control_rows(name, probe, site, examples, chosen, scores)


def _control_rows(
    name: str, probe: Probe, site: Site, examples: Examples, chosen: Chosen, scores: GridScores
) -> list[dict[str, Any]]:
    return [
        base
        | {"control": name, "draw": -1, "subset": "all", "aliases": len(chosen.index)}
        | {"accuracy": scores.balanced_accuracy[i, 0], "auc": scores.auc[i, 0]}
        for i, base in zip(
            range(len(scores.auc)), shared_cells(probe, site, examples, chosen, scores), strict=False
        )
    ]


def _matched(probe: Probe, site: Site, examples: Examples, config: ProbingConfig) -> list[dict[str, Any]]:
    """Rows with the classes' stages matched; no rows where the stages match already, or cannot be matched."""
    chosen = choose_examples(probe, examples)
    stage = chosen.table["stage"].to_numpy()
    if probe.target == "stage" or len(np.unique(stage)) == 1:
        return []
    keep = controls.matched(chosen.target, stage, chosen.alias, seed=config.seed)
    if not keep.any() or keep.all():
        return []
    keep[keep] = splits.scorable(chosen.alias[keep], chosen.target[keep])
    _, counts = np.unique(chosen.target[keep], return_counts=True)
    if len(counts) < 2 or counts.max() < probe.n_folds:  # matching left too few aliases to split
        return []
    return _control("matched recency", probe, site, examples, _part(chosen, keep), config)


def _by_question(
    probe: Probe, first: Site, again: Site, examples: Examples, config: ProbingConfig
) -> list[dict[str, Any]]:
    """Rows of the labels, and of random labels, when the probe is tested on another question about the same aliases."""
    chosen = choose_examples(probe, examples)
    x = torch.cat([first.x[:, chosen.index], again.x[:, chosen.index]], dim=1)
    alias = np.tile(chosen.alias, 2)
    random = controls.random_label_per_alias(
        chosen.alias, n_classes=len(np.unique(chosen.target)), seed=config.seed
    )
    rows = []
    for control, target in (("question split", chosen.target), ("control task", random)):
        scores = score_probe(
            probe,
            x,
            chosen,
            config,
            target=np.tile(target, 2),
            alias=alias,
            group=alias,
            fold=np.repeat([0, 1], len(chosen.index)),
        )
        rows += _control_rows(control, probe, first, examples, chosen, scores)
    return rows


def _part(chosen: Chosen, keep: np.ndarray) -> Chosen:
    return Chosen(
        chosen.index[keep],
        chosen.table[keep],
        chosen.target[keep],
        chosen.alias[keep],
        chosen.group[keep],
        "matched",
    )


def _embeddings(
    probe: Probe, c: Components, examples: Examples, config: ProbingConfig
) -> list[dict[str, Any]]:
    """Rows of the control that sees only the alias's own token embeddings."""
    chosen = choose_examples(probe, examples)
    names = [i for i, label in enumerate(examples.labels) if label.split(" ")[0] == "alias"]
    if not names:
        return []
    ids = examples.tokens[:, [examples.at[i] for i in names]]
    x = c.W_E.detach().cpu()[ids[chosen.index]]
    x = rearrange(x, "example name d -> 1 example (name d)")
    scores = score_probe(probe, x, chosen, config)
    row = _control_rows(
        "token embedding", probe, Site(layer=0, name="token embedding", x=x), examples, chosen, scores
    )[0]
    return [row | {"position": "alias", "token": examples.shown[names[-1]]}]
