"""Linear probes on a model's activations at questions and definitions: what can be read where, and is it used?

The probes come from a recipe (`probing.recipe`), and are scored on aliases that they were not fitted on. Every
score stands beside its controls:

    shuffled           the labels permuted among the aliases of a fold, for the significance of the whole grid
    untrained          the same probe on a model of the same shape before any training
    token embedding    the same probe on the alias's token embeddings alone
    matched recency    the same probe on equally many aliases of each stage in every class, if the shares differ
    question split     the same labels, split by question, so that an alias is on both sides
    control task       a random label for each alias, also split by question (Hewitt & Liang 2019, arXiv
                       1909.03368); selectivity is `question split` − `control task`
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.subspaces import STREAM_SITES, Place
from mechocl.models.components import Components
from mechocl.models.seam import Transformer
from mechocl.models.untrained import untrained_like
from mechocl.probing.controls import _by_question, _control, _embeddings, _matched
from mechocl.probing.examples import Examples, draw_examples, probe_fits
from mechocl.probing.own_labels import Labels, label_probe, with_labels
from mechocl.probing.places import Reader, reader_of
from mechocl.probing.recipe import Probe, load
from mechocl.probing.scoring import (
    Chosen,
    ProbingConfig,
    Site,
    choose_examples as choose_examples,
    score_probe as score_probe,
    shared_cells as shared_cells,
)
from mechocl.probing.swaps import swap_effects
from mechocl.runs.activation_cache import Collect, directly
from mechocl.shares import in_shares
from probes import grid, linear
from probes.grid import GridScores
from toy_models.task import Task

_DEFAULT: Final = ProbingConfig()

_SWAPPED_DRAWS: Final = 10
"""Shuffled directions that are swapped beside the probe's own direction."""


def probe(
    model: Transformer,
    task: Task,
    config: ProbingConfig = _DEFAULT,
    *,
    labels: Labels | None = None,
    untrained: Transformer | None = None,
    collect: Collect | None = None,
    probes: Sequence[Probe] | None = None,
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Scores of every probe of a recipe at each site, layer and position, with its controls and its directions.

    A ConvNet is read whole, at the site `pixels` (the picture) and after each layer. It has no control *token embedding*, and no direction is swapped.

    `labels` are labels of your own, one for each alias (a dict, a Series, or an array in the order of the aliases; None leaves an
    alias out). They are probed at questions, or as `probes` with the target "label" say, with the same controls. `untrained` is the model of the control *untrained*; None draws the weights of a `HookedTransformer`
    again. `collect` gives the model's activations; None computes them. `probes` replaces the probes of the recipe.

    The columns of the rows are `mechocl.analyses.columns.PROBE`.

    The arrays map `probe/site/layer` to unit directions (position, draw, feature, output). Draw 0 is the probe's own
    direction; all further draws are of shuffled labels. There are shuffles for two classes only.

    Aliases whose class no other alias has are left out, because they cannot be scored on unseen aliases. At
    `n1` … `=` a probe of integers scores a bit above `chance` even if nothing is known: these positions
    see (part of) a list that does not contain the alias's integer, which rules some integers out. With a
    list of k out of n integers the floor rises up to 1 / (n − k). The shuffled control does not rise.

    Raises MechoclError when no probe of the recipe fits the task, when a probe has too few aliases for its folds or
    a single class, when the model lacks a site, when activations are not finite, and for labels that do not fit the task.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Tensor] = {}
    task, recipe = _asked(task, config, probes, labels)
    collect = directly(model) if collect is None else collect
    if untrained is None and config.controls:
        untrained = untrained_like(model, seed=config.seed)
    reader = reader_of(model)
    for kind in in_shares(list(dict.fromkeys(one.at for one in recipe))):
        asked = [one for one in recipe if one.at == kind]
        examples = draw_examples(
            task,
            kind,
            aliases_per_subset=config.aliases_per_subset,
            positions=config.positions,
            seed=config.seed,
        )
        places = reader.places(config)
        own = reader.read(places, examples.tokens, examples, collect)
        controlled = untrained is not None and config.controls
        for site in in_shares(own, end=0.5 if controlled else 1.0):
            for one in asked:
                found, directions = _probed(one, site, examples, task, reader.c, config)
                rows += found
                arrays[f"{one.name}/{site.name}/{site.layer}"] = directions
        if untrained is not None and config.controls:
            rows += _control_rows(
                asked, own, examples, reader, config, places=places, collect=collect, untrained=untrained
            )
    return pd.DataFrame(rows), arrays


def _asked(
    task: Task, config: ProbingConfig, probes: Sequence[Probe] | None, labels: Labels | None
) -> tuple[Task, list[Probe]]:
    """The task, with the labels if there are any, and the probes that fit it."""
    if labels is not None:
        task = with_labels(task, labels)
        probes = [label_probe(task)] if probes is None else probes
    recipe = load(config.recipe) if probes is None else probes
    fitting = [one for one in recipe if probe_fits(one, task)]
    if not fitting:
        raise MechoclError(
            f"no probe of {config.recipe} fits this run: it lacks the subsets that they compare"
            if labels is None
            else "no probe of the labels can be fitted: the aliases that they are of have a single class, or are of other subsets"
        )
    return task, fitting


# ------------------------------------------------------------------------------------- the probe itself


def _probed(
    probe: Probe, site: Site, examples: Examples, task: Task, c: Components | None, config: ProbingConfig
) -> tuple[list[dict[str, Any]], Tensor]:
    """Rows of a probe at one site, with those of its shuffles, and its directions."""
    chosen = choose_examples(probe, examples)
    settings = probe.config(regularisation=config.regularisation, seed=config.seed)
    x = site.x[:, chosen.index]
    scores = score_probe(probe, x, chosen, config, shuffles=config.permutations)
    draws = min(_SWAPPED_DRAWS, config.permutations) if len(scores.classes) == 2 else 0
    directions = scores.direction
    if directions is None:
        directions = grid.directions(x, scores.code[: 1 + draws], config=settings)
    directions = directions[:, : 1 + draws]
    effects = _swaps(probe, site, examples, task, c, directions, config)
    rows = []
    for i, base in enumerate(shared_cells(probe, site, examples, chosen, scores)):
        effect = [{"swap_effect": float(e), "swap_share": float(s)} for e, s in zip(*effects[i], strict=True)]
        own = base | {"control": "none", "draw": -1}
        rows += [own | score for score in _row_scores(scores, i, probe, chosen)]
        rows[-len(_row_scores(scores, i, probe, chosen))] |= effect[0] if effect else {}
        for draw in range(config.permutations):
            shuffled = base | {
                "control": "shuffled",
                "draw": draw,
                "subset": "all",
                "aliases": len(chosen.index),
            }
            shuffled |= {"accuracy": scores.balanced_accuracy[i, draw + 1], "auc": scores.auc[i, draw + 1]}
            rows.append(shuffled | (effect[draw + 1] if draw + 1 < len(effect) else {}))
    if len(settings.regularisation) > 1:
        for value in settings.regularisation:
            fixed = score_probe(probe, x, chosen, config, settings=grid.single(settings, value))
            for i, base in enumerate(shared_cells(probe, site, examples, chosen, fixed)):
                own = base | {"control": "none", "draw": -1, "chosen": False}
                rows.append(own | _row_scores(fixed, i, probe, chosen)[0])
    return rows, directions


def _row_scores(scores: GridScores, i: int, probe: Probe, chosen: Chosen) -> list[dict[str, Any]]:
    """Scores at position `i`: those of all aliases, then the accuracy of each subset."""
    decision, code = scores.decision[i], scores.code[0]
    correct = (decision[:, 0] > 0) == code if decision.shape[1] == 1 else decision.argmax(1) == code
    likely = linear.probability(decision) if linear.has_probability(probe.method) else None
    everyone: dict[str, Any] = {
        "subset": "all",
        "aliases": len(code),
        "accuracy": scores.balanced_accuracy[i, 0],
        "auc": scores.auc[i, 0],
    }
    if likely is not None:
        everyone |= {
            "log_loss": linear.log_loss(likely, code),
            "calibration_error": linear.calibration_error(likely, code),
        }
    subset = chosen.table["subset"].to_numpy()
    return [everyone] + [
        {"subset": s, "aliases": int((subset == s).sum()), "accuracy": float(correct[subset == s].mean())}
        for s in np.unique(subset)
    ]


def _swaps(
    probe: Probe,
    site: Site,
    examples: Examples,
    task: Task,
    c: Components | None,
    directions: Tensor,
    config: ProbingConfig,
) -> list[tuple[list[float], list[float]]]:
    """Effect and share of a swap along each draw's direction, for each position; empty where no swap is tried."""
    nothing: list[tuple[list[float], list[float]]] = [([], [])] * len(examples.labels)
    if (
        c is None
        or not probe.pairs
        or config.n_pairs == 0
        or directions.shape[-1] > 1
        or site.name not in STREAM_SITES
    ):
        return nothing
    pairs = pairs_named(task, probe.pairs, n_pairs=config.n_pairs, seed=config.seed)
    places = [Place(layer=site.layer, site=site.name, position=label) for label in examples.labels]
    effects, shares = swap_effects(c, pairs, places, directions[..., 0])
    return list(zip(effects.tolist(), shares.tolist(), strict=True))


# ------------------------------------------------------------------------------------- the other controls


def _control_rows(
    probes: Sequence[Probe],
    own: Sequence[Site],
    examples: Examples,
    reader: Reader,
    config: ProbingConfig,
    *,
    places: list[tuple[int, str]],
    collect: Collect,
    untrained: Transformer,
) -> list[dict[str, Any]]:
    """Rows of all controls except the shuffles, which are scored with the probe itself.

    `own` are the model's activations at `places`. The activations of the model before any training and those at the
    second questions are made here one after the other, so that they are not held at the same time.
    """
    rows: list[dict[str, Any]] = []
    for site in in_shares(
        reader.read(places, examples.tokens, examples, directly(untrained)), start=0.5, end=0.7
    ):
        for one in probes:
            rows += _control("untrained", one, site, examples, choose_examples(one, examples), config)
    for site in in_shares(own, start=0.7, end=0.85):
        for one in probes:
            rows += _matched(one, site, examples, config)
    if examples.again is not None:
        second = reader.read(places, examples.again, examples, collect)
        for first, again in in_shares(list(zip(own, second, strict=True)), start=0.85):
            for one in probes:
                rows += _by_question(one, first, again, examples, config)
    if reader.c is not None:
        for one in probes:
            rows += _embeddings(one, reader.c, examples, config)
    return rows
