"""How a world's questions and answers are worded, in figures, tables and on the command line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Nouns and sentences of one world."""

    entity: str
    """What an alias stands for, as a question asks about it: `integer`, `answer`."""
    entities: str
    """Several of them."""
    difference: str
    """The two logits whose difference is looked at: `true − false`."""
    attributed_difference: str
    """What direct logit attribution adds to, of that difference."""
    attributed_entity: str
    """What direct logit attribution adds to, of the entity's own logit."""
    answers_in: str
    """What answers are measured in where an intervention is judged by them: `AUC`, `right − wrong logit`."""
    lens_rank: str
    """What the ranks of a lens are, for the command line. `{attribute}` is what the questions are about."""
    lens: str
    """How the figures of the lenses are read."""
    patching: str
    """How the figures of activation patching are read."""
    training_title: str
    """Title of the section on training."""
    training: str
    """How the curves of training are read."""
    training_curves: tuple[str, str]
    """Measures whose curves are drawn: of answers, and of definitions."""
    judged_after: str
    """After what each subset is judged: `training`."""
    floor: str
    """The value, or the subset, of a model that knows nothing of an alias: `.5`, `no_data`."""
