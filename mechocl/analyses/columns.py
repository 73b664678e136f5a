"""What the columns of every analysis mean: `docs/columns.md` is written from this file.

Conventions of all tables: an effect is the metric of the changed run − that of the unchanged one. Logits and
log-probabilities are in nats. A logit difference is the right answer's logit − the wrong one's, so a value above 0 means
that the answer is right, unless its column says otherwise. In a closed-book run the answer's first token takes the place
of the integer, and the first tokens of all answers to the question take the place of the integers.
"""

from typing import Final

from mechocl.analyses.feature_columns import CROSSCODER, SAE_QUALITY, SAE_SEARCH, SAE_TEST
from mechocl.analyses.learning_columns import (
    ALIAS_GRADIENTS,
    GRADIENTS,
    ONE_UPDATE,
    TWIN_EXCHANGE,
    TWIN_PROBE,
)
from mechocl.analyses.rows import Column, Columns

_FROM_SCRATCH: Final = "runs of models that are trained from scratch"
_CLOSED_BOOK: Final = "closed-book runs"

SEED: Final = Column("int64", "Seed of the run. It is added when the rows are saved.")

_SUBSET: Final = Column("str", "Subset of the aliases that the questions are about.")
_ALIASES: Final = Column("int64", "Number of aliases that the row is over.")
_LAYER: Final = Column("int64", "Layer of the site, from 0.")
_SITE: Final = Column("str", "Site in TransformerLens's words, such as resid_mid or attn_out.")
_POSITION: Final = Column("str", "Label of the position in the question: alias, %, n1, …, =.")
_CONTRAST: Final = Column("str", "Name of the pairs of clean and corrupted examples.")
_METRIC: Final = Column("str", "Name of the metric of the values and effects.")
_PAIRS: Final = Column("int64", "Number of pairs that the row is over.")
_EXCHANGED: Final = Column(
    "int64",
    "Number of pairs in which what is put in differs, by more than rounding, from what was "
    "there. Where it is 0, nothing was exchanged, and value, effect and shares are NaN: not measured.",
)
_SOURCE: Final = Column(
    "str", "Where the activations that are put in come from; of a mean, over which examples and how many."
)
_CLEAN: Final = Column("float64", "Metric of the clean run.", "of the metric")
_CORRUPTED: Final = Column("float64", "Metric of the corrupted run.", "of the metric")
_NORMALISED: Final = Column("float64", "Value on a scale where 0 is the corrupted run and 1 is the clean one. NaN "
    "where the two runs hardly differ.")  # fmt: skip

EVALUATE: Final[Columns] = {
    "alias": Column("int64", "Number of the alias in the task."),
    "subset": Column("str", "Subset that the alias belongs to."),
    "accuracy": Column("float64", "Share of the alias's test questions that are answered rightly. An answer is true "
        "if the true logit − the false logit is above 0. 0.5 is chance. In a world with other answers than true and "
        "false it is the share of the questions in which no other answer is as likely as the right one.", "share", _FROM_SCRATCH),
    "logit_difference": Column("float64", "Mean over the alias's test questions of the right answer's logit − the "
        "wrong answer's.", "nats", _FROM_SCRATCH),
    "auc": Column("float64", "Within-alias AUC: over pairs of the alias's test questions, one that contains its "
        "integer and one that does not, how often the first has the larger true − false logit. Ties count half; 0.5 "
        "means that nothing is known. In a world with other answers it is the share of the other answers that are less "
        "likely than the right one.", "share", _FROM_SCRATCH),
    "test": Column("str", "What is asked: held-out questions, association (whose entity the alias is), or questions "
        "behind a definition in context, which is named by its tag.", "", _CLOSED_BOOK),
    "attribute": Column("str", "Attribute of the entity that is asked for.", "", _CLOSED_BOOK),
    "exact_match": Column("float64", "Share of the test questions whose generated answer is one of the right ones.", "share", _CLOSED_BOOK),
    "log_probability": Column("float64", "Log-probability of the right answer, summed over its tokens, the mean over "
        "the questions.", "nats", _CLOSED_BOOK),
    "generated": Column("str", "The answer that the model gave.", "", _CLOSED_BOOK),
    "recall": Column("float64", "1 where the defined entity is the model's first choice after the beginning of the "
        "training definition, else 0. NaN without a definition, and for word orders in which the alias comes after "
        "the entity.", "share"),
}  # fmt: skip

LENS: Final[Columns] = {
    "subset": _SUBSET,
    "contains": Column("bool", "Whether the question's list contains the alias's integer. Read the rows where it "
        "does not: in these the list itself does not name the integer. Always False for closed-book runs."),
    "component": Column("str", "What is read: stream, the residual stream; L0H1, the output of a head; L0 mlp, the "
        "output of an MLP."),
    "layer": Column("str", "Where the stream is read: embed is before layer 0, layer 0 is after that layer, and "
        "so on. For a component, the layer that it is in."),
    "position": _POSITION,
    "rank": Column("float64", "Mean rank of the alias's integer among the integers. 1 is the top, (integers + 1) / 2 "
        "is chance, and ties take their mean rank.", "rank"),
    "first": Column("float64", "Share of the questions in which that rank is 1.", "share"),
    "vocabulary_rank": Column("float64", "Mean rank of the alias's integer among all tokens that the model can put "
        "out.", "rank"),
    "difference": Column("float64", "Mean of the true logit − the false logit, whichever is right. For closed-book "
        "runs, the right answer's logit − the wrong one's.", "nats"),
    "kl": Column("float64", "Mean Kullback-Leibler divergence of the lens's distribution from the model's own at "
        "that position. NaN for a component, which gives no distribution.", "nats"),
    "questions": Column("int64", "Number of questions that the row is over."),
}  # fmt: skip

ATTRIBUTION: Final[Columns] = {
    "subset": _SUBSET,
    "contains": Column("bool", "Whether the question's list contains the alias's integer. A component that always "
        "pushes towards false is right in one kind of question and wrong in the other, so read both kinds."),
    "component": Column("str", "embedding, L0H1 (a head), L0 mlp, biases (of all attention layers, the final layer "
        "norm and the unembedding), or total (the model itself)."),
    "position": Column("str", "Label of the position whose logits are taken apart."),
    "difference": Column("float64", "Mean contribution to the true − false logit. Its sign is turned where false is "
        "right, so that a value above 0 speaks for the right answer.", "nats"),
    "integer": Column("float64", "Mean contribution to the logit of the alias's integer − the mean logit of all "
        "integers.", "nats"),
    "questions": Column("int64", "Number of questions that the row is over."),
}  # fmt: skip

PATCH: Final[Columns] = {
    "layer": _LAYER,
    "site": _SITE,
    "part": Column("str", "What is patched at once: a head, a key/value head (at k and v, where several heads share one), a "
        "neuron, or the whole site; of a ConvNet, a group of channels or of units."),
    "index": Column("int64", "Number of that head, neuron or group; −1 where the whole site is patched."),
    "position": Column("str", "Position, or role of the positions, that is patched. all means every position. Of a ConvNet, the region of a cell, of the tag, or of the cell that is asked about."),
    "value": Column("float64", "Metric of the patched run.", "of the metric"),
    "effect": Column("float64", "Metric of the patched run − that of the run that is patched into: the corrupted "
        "run where clean activations are put in, else the clean run. So a site that carries the answer has an effect "
        "above 0 in the mode denoise and below 0 in the other modes.", "of the metric"),
    "normalised": _NORMALISED,
    "clean": _CLEAN,
    "corrupted": _CORRUPTED,
    "metric": _METRIC,
    "unit": Column("str", "Unit of the metric."),
    "exchanged": _EXCHANGED,
    "contrast": _CONTRAST,
    "mode": Column("str", "denoise puts clean activations into the corrupted run; noise puts corrupted ones into the "
        "clean run; zero, mean and resample put zeros, means or another pair's activations into the clean run."),
    "source": _SOURCE,
    "pairs": _PAIRS,
}  # fmt: skip

CIRCUIT: Final[Columns] = {
    "contrast": _CONTRAST,
    "kind": Column("str", "edge: the score of one edge. circuit: the edges with the largest scores are kept and all "
        "other edges are corrupted. without: the same edges are corrupted and all other edges are kept. random: as "
        "many edges are kept, which are drawn at random."),
    "sender": Column("str", "Component that the edge comes from. Missing except for edges."),
    "receiver": Column("str", "Input that the edge goes to: L0H1 q, the query of a head; L0KV0 v, the value of a key/value head "
        "that several heads share; L0 mlp; logits. Missing except for edges."),
    "place": Column("str", "Role or position of the edge. Missing except for edges."),
    "value": Column("float64", "For an edge, its score: the metric with the edge's clean value in the corrupted run "
        "− that of the corrupted run, or the estimate of this by gradients. Else the metric of the run.", "of the metric"),
    "attributed": Column("float", "The edge's score by gradients (EAP-IG) beside the exact one. NaN where the score "
        "itself is by gradients, for the within-alias AUC, where nothing was exchanged, and where the row is no edge.", "of the metric"),
    "exchanged": Column("int64", "Number of pairs in which the edge, or any corrupted edge of the run, carries something else in "
        "the clean than in the corrupted run. Where it is 0 the value is NaN: not measured; but the clean run itself, with no "
        "corrupted edge, has its value."),
    "edges": Column("float64", "Number of edges of the circuit. NaN for an edge."),
    "draw": Column("float64", "Number of the random circuit, from 0. 0 for the other circuits, NaN for an edge."),
    "normalised": Column("float64", "Faithfulness: the value on a scale where 0 is the corrupted run and 1 is the "
        "clean one. NaN for an edge, and where the two runs hardly differ."),
    "clean": Column("float64", "Metric of the clean run, on the pairs that judge.", "of the metric"),
    "corrupted": Column("float64", "Metric of the corrupted run, on the pairs that judge.", "of the metric"),
    "pairs": Column("int64", "Number of pairs that judge."),
}  # fmt: skip

SUPPRESSION: Final[Columns] = {
    "component": Column("str", "What is ablated at all positions: L0H1 (a head), L0 mlp, L0N17 (a neuron)."),
    "kind": Column("str", "head, mlp or neuron."),
    "subset": _SUBSET,
    "half": Column("str", "Half of the subset's aliases: choosing, by which the best component is chosen, or "
        "judging."),
    "value": Column("float64", "Within-alias AUC of the ablated model. For closed-book runs, right − wrong logit.", "share, or nats"),
    "effect": Column("float64", "Value − that of the whole model. Above 0, the component held these answers back.", "share, or nats"),
    "exchanged": Column("int64", "Number of questions in which the ablation changed the component's output. Where it is 0, value "
        "and effect are NaN: not measured."),
    "aliases": _ALIASES,
    "source": _SOURCE,
}  # fmt: skip

GRAFT: Final[Columns] = {
    "group": Column("str", "Group of weights that is grafted. none: the model before the stage; all: the model after "
        "it; steering vector and random vector: a vector is added to the stream of the model before the stage."),
    "kind": Column("str", "alone: the group's weights of the model after the stage are put into the model before it; "
        "all but: all weights except this group's are."),
    "site": Column("str", "Layer and position at which a vector is added. Empty for weights."),
    "subset": _SUBSET,
    "metric": Column("str", "auc, accuracy or recall, as in the rows of evaluate."),
    "value": Column("float64", "Metric of the changed model. NaN for recall where there is nothing to recall, and where the "
        "change is 0: not measured.", "share"),
    "effect": Column("float64", "Value − that of the model before the stage: above 0 is better than before. NaN where the value is NaN.", "share"),
    "share": Column("float64", "Effect ÷ gain of the stage: 0 is as before the stage, 1 as after it. NaN where the "
        "gain is below 0.01."),
    "aliases": _ALIASES,
    "change": Column("float64", "Euclidean norm of what is added: the group's difference of weights, or the vector. Where it is 0 "
        "(except for none, which is the unchanged model), nothing was exchanged.", "norm"),
}  # fmt: skip

SUBSPACE: Final[Columns] = {
    "method": Column("str", "whole site (the activation is exchanged, which is the ceiling), difference of means, "
        "rotation (distributed alignment search), or erasure (LEACE: the tag is removed and nothing is put in)."),
    "k": Column("int64", "Dimensions of the subspace. 0 for erasure; the model's own dimensions for the whole site."),
    "layer": _LAYER,
    "site": _SITE,
    "position": _POSITION,
    "control": Column("str", "none; shuffled, which is fitted on labels that were dealt anew over the aliases; or random "
        "model, which is fitted and judged in the model before training."),
    "contrast": Column("str", "What the two aliases of a pair differ in: d1-to-d2 have the same integer, so what "
        "moves is the tag's effect; d2-to-d1 is the other direction; d1-to-other-d2 have different integers."),
    "metric": _METRIC,
    "clean": _CLEAN,
    "corrupted": _CORRUPTED,
    "swapped": Column("float64", "Metric of the corrupted run with the clean run's component in the subspace.", "of the metric"),
    "effect": Column("float64", "Swapped − corrupted.", "of the metric"),
    "normalised": Column("float64", "Effect ÷ the trained model's clean − corrupted, also in the controls, so that "
        "they stand on the same scale. NaN where clean and corrupted hardly differ."),
    "explained": Column("float64", "Share of the pairs' squared difference from the clean run that the swap removes. "
        "It has no unit, so that a random model's share can be compared.", "share"),
    "decoding": Column("float64", "How well the tag of held-out aliases is read: along the difference of means, as "
        "AUC; after erasure, as balanced accuracy of a logistic regression. 0.5 is chance. NaN for the other methods.", "share"),
    "decoding_before": Column("float64", "Balanced accuracy of the same regression before the erasure. NaN for the "
        "other methods.", "share"),
    "exchanged": _EXCHANGED,
    "pairs": _PAIRS,
}  # fmt: skip

PROBE: Final[Columns] = {
    "probe": Column("str", "Name of the probe in its recipe."),
    "target": Column("str", "What it predicts: a column of the task's table."),
    "method": Column("str", "How it is fitted, as in `probes.linear`."),
    "site": Column("str", "Site whose activations it reads. token embedding: it reads the embeddings of the alias's tokens alone."),
    "layer": _LAYER,
    "position": Column("str", "Label of the position in the question or the definition."),
    "token": Column("str", "Token of one example at that position."),
    "regularisation": Column("float64", "Strength of the regularisation; the median over folds where one of several "
        "is chosen."),
    "chosen": Column("bool", "False for one of several values of the regularisation that were tried, True for all "
        "other rows."),
    "chance": Column("float64", "Balanced accuracy of guessing: 1 ÷ number of classes.", "share"),
    "recency": Column("str", "matched where all classes have aliases of the same stages, else confounded."),
    "accuracy": Column("float64", "Accuracy on aliases that the probe was not fitted on: balanced over classes where "
        "the subset is all, else plain.", "share"),
    "auc": Column("float64", "Area under the ROC curve on those aliases. 0.5 is chance. NaN for the rows of single "
        "subsets.", "share"),
    "log_loss": Column("float64", "Mean negative log-probability of the right class. NaN for controls, single "
        "subsets, and methods without probabilities.", "nats"),
    "calibration_error": Column("float64", "Expected calibration error. NaN where log_loss is NaN.", "share"),
    "swap_effect": Column("float64", "What it does to the logit difference to exchange, between the questions of a "
        "pair, the component along the probe's direction. NaN where no exchange is tried, and where the component is the same in "
        "both questions of every pair: not measured.", "nats"),
    "swap_share": Column("float64", "Swap effect ÷ the effect of exchanging the whole activation. NaN where "
        "swap_effect is NaN.", "share"),
    "control": Column("str", "none: the probe itself; shuffled, untrained, token embedding, matched recency, "
        "question split, control task: see `probing.probe`."),
    "draw": Column("int64", "Number of the shuffle, from 0. −1 for all other rows."),
    "subset": Column("str", "Subset that is scored. all means every alias that the probe compares."),
    "aliases": _ALIASES,
}  # fmt: skip

ATTENTION: Final[Columns] = {
    "question": Column("int64", "Row of the question in the task's table."),
    "layer": Column("int64", "Layer, from 0."),
    "head": Column("int64", "Head of the layer, from 0."),
    "query": Column("int64", "Position that attends, from 0."),
    "key": Column("int64", "Position that is attended to, from 0."),
    "value": Column("float32", "Attention probability, 0 … 1; those of one query sum to 1.", "share"),
    "difference": Column("float64", "The question's true logit − false logit, whichever is right. For closed-book "
        "runs, the right answer's logit − the wrong one's.", "nats"),
}  # fmt: skip

ALL: Final[dict[str, Columns]] = {
    "evaluate": EVALUATE, "lens": LENS, "tuned-lens": LENS, "attribution": ATTRIBUTION, "patch": PATCH,
    "circuit": CIRCUIT, "suppression": SUPPRESSION, "graft": GRAFT, "steering": GRAFT, "subspace": SUBSPACE,
    "probe": PROBE, "sae-quality": SAE_QUALITY, "sae-search": SAE_SEARCH, "sae-test": SAE_TEST,
    "attention": ATTENTION, "gradients": GRADIENTS, "alias-gradients": ALIAS_GRADIENTS, "one-update": ONE_UPDATE, "twin-exchange": TWIN_EXCHANGE,
    "twin-probe": TWIN_PROBE, "crosscoder": CROSSCODER,
}  # fmt: skip
"""Columns by the name of the analysis, which is also the name of the folder of its results."""
