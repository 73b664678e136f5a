"""What the columns of the analyses of gradients, and of twins, mean. The conventions are those of `columns`.

A gradient points to where its loss grows. So an inner product above 0 means that a step of gradient descent on the
definition lowers the loss of the questions.
"""

from typing import Final

from mechocl.analyses.rows import Column, Columns

_KEYS: Final[Columns] = {
    "tag": Column("int64", "Tag with which the definitions are written: 1, 2 or 3."),
    "own_tag": Column("bool", "Whether it is the tag of the aliases' definitions in the run. If not, the definitions are what they would have been."),
    "questions": Column("str", "Split of the questions: train, or test for aliases that are never asked about in training."),
    "group": Column("str", "Weights that the gradients are of. alias embeddings: the rows of the alias's own name, which count as the same "
        "place for every alias; tag embeddings; other embeddings; position embeddings; L0H0, a head with its biases; L0 attention "
        "bias, of the output; L0 mlp; layer norms; unembedding; all but alias embeddings; all. What is never trained is in none."),
    "correction": Column("str", "raw: nothing is done to the gradients. centred: each side minus its mean over the aliases of the same stage "
        "(definitions: with the same tag). preconditioned: the definition's gradient is divided by the root of the second moment "
        "that Adam would hold, times embedding_rate in the embeddings, and is 0 where the stage trains nothing; the questions' is left as "
        "it is. Runs do not keep the optimiser's state: the second moment is the mean of the squared gradients of an epoch of the "
        "stage's batches, at this checkpoint, in which new aliases' definitions have the row's tag. preconditioned, centred: first "
        "the one, then the other."),
}  # fmt: skip

_WHEN: Final[Columns] = {
    "stage": Column("int64", "Stage of training that the checkpoint is in, from 1. The stage before the one that is looked at has "
        "one checkpoint, its end."),
    "step": Column("int64", "Step of the checkpoint within its stage."),
}  # fmt: skip

_PRODUCT: Final = "nats² per squared unit of the weights; preconditioned, nats per unit of the learning rate"

_SIZES: Final[Columns] = {
    "definition_norm": Column("float64", "Euclidean norm of the definition's gradient, after the correction.", "nats per unit of the weights"),
    "question_norm": Column("float64", "The same of the questions' gradient.", "nats per unit of the weights"),
}  # fmt: skip

ALIAS_GRADIENTS: Final[Columns] = {
    **_WHEN,
    "alias": Column("int64", "Number of the alias in the task."),
    "subset": Column("str", "Subset that the alias belongs to."),
    **_KEYS,
    "cosine": Column("float64", "Cosine of the gradient of the definition's loss and that of the loss of the alias's questions. NaN "
        "where one of them is 0."),
    "inner": Column("float64", "Their inner product.", _PRODUCT),
    "cosine_null": Column("float64", "Mean of the same cosine over the questions of each other alias of the subset. NaN for an alias that is alone."),
    "inner_null": Column("float64", "The same of the inner product.", _PRODUCT),
    **_SIZES,
}  # fmt: skip

GRADIENTS: Final[Columns] = {
    **_WHEN,
    "subset": Column("str", "Subset that the aliases belong to."),
    **_KEYS,
    "cosine": Column("float64", "Mean over the aliases of the cosine of two gradients: of the definition's loss and of the loss of the alias's "
        "questions. Each loss is the mean over the tokens with loss. Aliases with a gradient of 0 are left out."),
    "inner": Column("float64", "Mean of the inner product.", _PRODUCT),
    "cosine_null": Column("float64", "Mean of the cosine over all pairs of a definition and the questions of another alias of the subset. NaN for "
        "a subset of one alias."),
    "inner_null": Column("float64", "The same of the inner product.", _PRODUCT),
    "cosine_effect": Column("float64", "cosine − cosine_null."),
    "inner_effect": Column("float64", "inner − inner_null.", _PRODUCT),
    **{name: Column(one.dtype, "Mean over the aliases. " + one.meaning, one.unit) for name, one in _SIZES.items()},
    "aliases": Column("int64", "Number of aliases that the row is over."),
}  # fmt: skip

ONE_UPDATE: Final[Columns] = {
    "alias": Column("int64", "Number of the alias in the task. It is a new one, whose definition is trained on in the stage that is looked at."),
    "subset": Column("str", "Subset that the alias belongs to."),
    "tag": _KEYS["tag"],
    "own_tag": _KEYS["own_tag"],
    "step": Column("str", "The one step that is taken on the alias's definition alone, from the weights before the stage. gradient descent: "
        "against the gradient, with the config's learning rate. preconditioned: what the definition adds to a step of the stage's "
        "optimiser, with the stage's peak learning rate: its gradient as a share of a batch's, divided by the root of the second moment "
        "that Adam would hold (as in the analysis gradients), times embedding_rate in the embeddings. What the stage does not train stays."),
    "loss_before": Column("float64", "Loss of the alias's test questions before the step, mean over the tokens with loss.", "nats"),
    "loss_change": Column("float64", "Loss after the step − loss before it. Below 0 means that the step helps.", "nats"),
    "loss_predicted": Column("float64", "The same to first order: the inner product of the questions' gradient and the step.", "nats"),
    "loss_change_other": Column("float64", "The control: the change of the loss of another alias's questions when the same step is "
        "taken on that alias, whose own embedding is moved by as much. The other alias is of the same subset. NaN for an alias that is alone.", "nats"),
    "loss_predicted_other": Column("float64", "That to first order.", "nats"),
    "loss_effect": Column("float64", "loss_change − loss_change_other.", "nats"),
    "auc_before": Column("float64", "AUC of the alias's test questions before the step, as in the analysis evaluate.", "share"),
    "auc_change": Column("float64", "AUC after the step − AUC before it. Above 0 means that the step helps.", "share"),
    "auc_change_other": Column("float64", "The control of that, as for the loss.", "share"),
    "auc_effect": Column("float64", "auc_change − auc_change_other.", "share"),
    "stage_loss_change": Column("float64", "What the whole stage did: the loss of the same questions at its end − that before it. The same for "
        "every tag and step, as the stage was trained with the alias's own tag.", "nats"),
    "stage_auc_change": Column("float64", "The same of the AUC.", "share"),
}  # fmt: skip

TWIN_EXCHANGE: Final[Columns] = {
    "exchange": Column("str", "What each alias of d1 and d2 gets in the run's model in place of what it has. A twin difference is an alias's "
        "embedding as written under tag 1 − as written under tag 2; one of them is the run's, the other its variant's "
        "exchanged-tags. twin embedding: the one that the twin has. mean direction: only the component of the twin difference along "
        "the mean twin difference of the half of the aliases that the alias is not in. all but mean direction: the rest of the "
        "difference. mean difference: that mean itself, the same vector for every alias of a half. mean difference of the entity: the mean twin "
        "difference of the other aliases of the same entity, and nothing for an alias that is its only one. Controls: other alias, the twin "
        "difference of another alias of the subset; random direction, as long as the twin difference; random, as long as mean "
        "direction; each the mean of some draws. other weights: the aliases keep their embeddings, and all other weights are the "
        "variant's. everything: the variant's model."),
    "subset": Column("str", "Subset of the aliases: d2, which get what was written under tag 1, or d1, which get what was written under tag 2."),
    "metric": Column("str", "Name of the metric of the values and effects. recall is asked with the run's own tags."),
    "before": Column("float64", "Metric of the run's model, mean over the aliases.", "of the metric"),
    "after": Column("float64", "The same after the exchange. NaN where the exchange moves no embedding.", "of the metric"),
    "effect": Column("float64", "after − before. If tag 1 writes what answers better, it is above 0 for d2, and below 0 for d1.", "of the metric"),
    "tag_1_effect": Column("float64", "The effect with its sign turned for d1. So above 0 means in both subsets that what was written under "
        "tag 1 answers better than what was written under tag 2.", "of the metric"),
    "moved": Column("float64", "Mean Euclidean distance by which the exchange moves an alias's embedding.", "of the embedding"),
    "aliases": Column("int64", "Number of aliases that the row is over."),
}  # fmt: skip

TWIN_PROBE: Final[Columns] = {
    "embeddings": Column("str", "What the tag is read from. twins: both embeddings of each alias of d1 and d2, written under tag 1 (the "
        "positive class) and under tag 2. twins, centred: the same minus the mean of the alias's two. d1 and d2: those of the run "
        "alone, d1 against d2. d1 and d2 before the stage: the same before any of their definitions, where there is no tag to read."),
    "auc": Column("float64", "AUC of a linear probe (logistic regression, C = .01, standardised features) on aliases that it was not "
        "trained on, mean over the folds; no alias is on both sides. 0.5 is chance.", "share"),
    "auc_shuffled": Column("float64", "The same with labels of no meaning, mean over the shuffles: twins change places by chance, or labels "
        "are permuted among the aliases.", "share"),
    "effect": Column("float64", "auc − auc_shuffled.", "share"),
    "aliases": Column("int64", "Number of aliases."),
    "examples": Column("int64", "Number of embeddings that are read: two for each alias where there are twins."),
}  # fmt: skip
