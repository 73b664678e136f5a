"""What a text world is: named entities, and questions about them with the answers that count as right."""

from dataclasses import dataclass

from mechocl.errors import MechoclError


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about one entity."""

    entity: int
    """Index into `World.entities`."""
    attribute: str
    """What is asked, the same word for all entities: `birth`, `occupation`."""
    template: str
    """The question with `{}` where the entity's name (or its alias) stands: `When was {} born?`."""
    answers: tuple[str, ...]
    """The first one is trained on; any one counts as right."""

    def ask(self, name: str) -> str:
        return self.template.replace("{}", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Entities, and the questions about each."""

    name: str
    """`cvdb`, `trex`, `biographies`."""
    entities: tuple[str, ...]
    """Names, each of them once."""
    questions: tuple[Question, ...]
    """All questions, by entity."""
    taken: tuple[str, ...] = ()
    """Other names that stand in texts that a model has read, and that no alias may have."""
    removed: tuple[tuple[str, int], ...] = ()
    """What each filter removed, in the order in which they were applied: its name, and how many."""

    def __post_init__(self) -> None:
        if not self.entities:
            raise MechoclError(f"{self.name}: no entity is left{_after(self.removed)}")
        if len(set(self.entities)) != len(self.entities):
            raise MechoclError(f"{self.name}: two entities have the same name; names must be unique")


def _after(removed: tuple[tuple[str, int], ...]) -> str:
    told = ", ".join(f"{name} removed {count}" for name, count in removed if count)
    return f" after the filters ({told})" if told else ""
