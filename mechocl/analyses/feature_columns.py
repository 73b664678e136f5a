"""What the columns of the analyses of dictionaries mean: of sparse autoencoders and of crosscoders.

The conventions are those of `columns`, which has the columns of all other analyses.
"""

from typing import Final

from mechocl.analyses.rows import Column, Columns

_POSITION: Final = Column("str", "Label of the position in the question: alias, %, n1, …, =.")
_METRIC: Final = Column("str", "Name of the metric of the values and effects.")
_TRAINED_ON: Final = Column("str", "Weights that the dictionary was trained on: these, which the rows are of; others, which "
    "--transfer asked for; unknown, if it does not say.")  # fmt: skip

SAE_QUALITY: Final[Columns] = {
    "measure": Column("str", "What is measured, on held-out aliases except for dead and found_again. "
        "explained_variance: 1 − Σ‖x − x̂‖² / Σ‖x − mean‖². l0: mean number of active features on a token. dead, "
        "silent: share of the features that are active on no token of any alias, of the held-out aliases. loss: nats "
        "per token that carries loss. auc_clean, auc_spliced: within-alias AUC without and with the reconstruction "
        "in the place of the activation; auc_recovered: (spliced − ½) / (clean − ½) where clean is at least 0.55. "
        "found_again: share of the live features of which another dictionary has one with a cosine above 0.9."),
    "part": Column("str", "all, or a role of the tokens; of the loss clean, spliced, zero (zeros in the place of the "
        "activation) or recovered, (zero − spliced) / (zero − clean); of the AUC a subset; of found_again the other "
        "dictionary."),
    "value": Column("float64", "The measure's value. NaN where it is not defined, as for tokens that are always the "
        "same, and auc_recovered where the clean AUC is under 0.55.", "of the measure"),
    "trained_on": _TRAINED_ON,
}  # fmt: skip

SAE_SEARCH: Final[Columns] = {
    "text": Column("str", "Kind of the texts in which activations are read: question or definition."),
    "position": Column("str", "Label of the position. any means a position of each role."),
    "what": Column("str", "feature: one feature for one property. conjunction: one feature for two properties, "
        "against the examples of each alone; the worse of the two. set: k features together, for a ridge probe."),
    "property": Column("str", "The property of the examples."),
    "group": Column("str", "Group of the property: tag, contains, answer, integer, range, stage, subset, defined as, "
        "token, role."),
    "features": Column("str", "Numbers of the features, with commas."),
    "k": Column("int64", "Number of features."),
    "sign": Column("int64", "+1: active on the property's examples; −1: active on the other examples."),
    "auc_chosen": Column("float64", "How often an example with the property has a larger activation × sign than an "
        "example without it, among the aliases that choose. Ties count half; ½ is chance.", "share"),
    "auc": Column("float64", "The same among the aliases that judge.", "share"),
    "mutual_information": Column("float64", "Mutual information of the activation (off, lower half, upper half) and "
        "the property. NaN for a set.", "bits"),
    "p": Column("float64", "One-sided p of the Mann-Whitney test in the direction of the sign, or of an exact test where examples are few."),
    "positive": Column("int64", "Number of judging aliases with the property."),
    "negative": Column("int64", "Number of judging aliases without it."),
    "fires": Column("float64", "Share of the judging aliases on which the feature is active. NaN for a set.", "share"),
    "dense_auc": Column("float64", "AUC of a ridge probe of the site's activations on the same split. NaN except for "
        "a set.", "share"),
    "all_auc": Column("float64", "AUC of a ridge probe of all features on the same split. NaN except for a set.", "share"),
    "q": Column("float64", "False discovery rate (Benjamini-Hochberg) over the rows of one `what`."),
    "trained_on": _TRAINED_ON,
}  # fmt: skip

SAE_TEST: Final[Columns] = {
    "property": Column("str", "Property that the features stand for."),
    "group": Column("str", "Group of the property."),
    "features": Column("str", "Numbers of the features that are changed together, with commas."),
    "k": Column("int64", "Number of features."),
    "sign": Column("int64", "+1: active on the property's examples; −1: active on the other examples; 0: features of a set."),
    "position": _POSITION,
    "auc": Column("float64", "AUC of the search. NaN for features that the search has not found.", "share"),
    "q": Column("float64", "False discovery rate of the search. NaN for features that the search has not found."),
    "intervention": Column("str", "patch: activations exchanged between the runs of pairs; ablate: set to 0; clamp: "
        "set to the mean where active."),
    "subset": Column("str", "Subset whose questions are asked. pairs means the pairs of a patch."),
    "metric": _METRIC,
    "base": Column("float64", "Metric of the untouched run.", "of the metric"),
    "gap": Column("float64", "For a patch, what exchanging everything would do, in the direction of the property. NaN "
        "for the other interventions.", "of the metric"),
    "effect": Column("float64", "Changed − untouched run; of a patch the mean of both exchanges, towards the other "
        "run.", "of the metric"),
    "share": Column("float64", "Effect ÷ gap. NaN where there is no gap, or almost none.", "share"),
    "predicted": Column("int64", "Sign of the effect that the property predicts. 0 means that it predicts none."),
    "controls": Column("int64", "Number of random features of equal norm that were changed in the same way."),
    "control_mean": Column("float64", "Mean effect of the controls. NaN without controls.", "of the metric"),
    "control_95": Column("float64", "95th percentile of the controls' effects × predicted, or of their sizes where "
        "nothing is predicted. NaN without controls.", "of the metric"),
    "beats": Column("float64", "Share of the controls with a smaller effect in that sense. NaN without controls.", "share"),
    "rate": Column("float64", "Share of the questions on which the features are active.", "share"),
    "strength": Column("float64", "Mean norm of what the features write where they are active.", "norm"),
    "exchanged": Column("int64", "Number of pairs, or questions, in which the change is more than rounding. Where it is 0, "
        "effects and controls are NaN: not measured."),
    "source": Column("str", "Where the activations that are put in come from; of a mean, over how many texts."),
    "retrieval": Column("bool", "Whether it is a retrieval feature: its q is below 0.05, and patching it moves the "
        "logit difference as predicted, and more than 95 % of at least 20 controls do."),
    "trained_on": _TRAINED_ON,
}  # fmt: skip

CROSSCODER: Final[Columns] = {
    "feature": Column("int64", "Number of the feature."),
    "norm_{n}": Column("float64", "Norm of its decoder row for checkpoint n, where activations are scaled to the "
        "same mean norm in all checkpoints.", "norm"),
    "relative_norm": Column("float64", "‖last‖ / (‖first‖ + ‖last‖) of the decoder rows of the first and the last "
        "checkpoint, from 0 (the feature is in the first alone) to 1 (it is in the last alone)."),
    "cosine": Column("float64", "Cosine of these two rows."),
    "firing_rate": Column("float64", "Share of the tokens on which it is active.", "share"),
    "kind": Column("str", "dead: never active; else by the relative norm: new above 0.9, removed below 0.1, shared "
        "from 0.3 to 0.7, other."),
    "nu_error": Column("float64", "For a new feature: how much of it is in what the reconstruction lacks of the first "
        "checkpoint, in proportion to the last. For a removed feature, the other way round. 0: it is not there. 1: it is "
        "there, and its decoder has shrunk (complete shrinkage). NaN for the other kinds."),
    "nu_reconstruction": Column("float64", "The same for the reconstructions. 1: other features write it there "
        "(latent decoupling). NaN for the other kinds."),
    "verdict": Column("str", "The kind, or shrunken for a new or removed feature whose nu_error is not below 0.2 or "
        "whose nu_reconstruction is not below 0.5."),
    "explained_first": Column("float64", "Explained variance of the first checkpoint's activations.", "share"),
    "explained_last": Column("float64", "Explained variance of the last checkpoint's activations.", "share"),
    "property": Column("str", "Property that the feature stands for best, by the rows of sae-search. This column and "
        "the following ones are missing where no property has q below 0.05."),
    "group": Column("str", "Group of the property."),
    "text": Column("str", "Kind of the text where it was found: question or definition."),
    "position": Column("str", "Label of the position where it was found."),
    "sign": Column("float64", "+1: active on the property's examples; −1: active on the other examples."),
    "auc": Column("float64", "AUC of the feature for the property on judging aliases.", "share"),
    "q": Column("float64", "False discovery rate of that search."),
}  # fmt: skip
