"""How a world's questions and answers are worded, in figures, tables and on the command line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Nouns and sentences of one world."""

    entity: str
    """What an alias stands for, as a question asks about it: `integer`, `answer`."""
    entities: str
    """Plural of `entity`."""
    difference: str
    """The two logits whose difference is looked at: `true − false`."""
    attributed_difference: str
    """Label of direct logit attribution to that difference."""
    attributed_entity: str
    """Label of direct logit attribution to the entity's own logit."""
    answers_in: str
    """The measure of answers by which an intervention is judged: `AUC`, `right − wrong logit`."""
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
    """The two measures whose curves are drawn: one of answers, and one of definitions."""
    judged_after: str
    """The time after which each subset is judged, in words: `training`."""
    floor: str
    """The value of a model that knows nothing about an alias, or the subset that shows it: `.5`, `no_data`."""
