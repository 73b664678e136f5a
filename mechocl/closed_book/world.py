"""A text world: named entities, and questions about them with the answers that count as right."""

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
    """Answers that count as right. The first one is trained on."""

    def ask(self, name: str) -> str:
        return self.template.replace("{}", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Entities, and questions about each of them."""

    name: str
    """Name of the world: `cvdb`, `trex`, `facts`, `biographies` or `miniature`."""
    entities: tuple[str, ...]
    """Names of the entities, all different."""
    questions: tuple[Question, ...]
    """All questions, in the order of the entities."""
    taken: tuple[str, ...] = ()
    """Other names, which stand in texts that a model has read. No alias may have such a name."""
    groups: tuple[str, ...] = ()
    """The group of each entity, such as its country. Subsets get equal shares of every group. Empty where entities have none."""
    removed: tuple[tuple[str, int], ...] = ()
    """Name of each filter and how many it removed, in the order in which the filters were applied."""

    def __post_init__(self) -> None:
        if not self.entities:
            raise MechoclError(f"{self.name}: no entity is left{_after(self.removed)}")
        if len(set(self.entities)) != len(self.entities):
            raise MechoclError(f"{self.name}: two entities have the same name; names must be unique")


def _after(removed: tuple[tuple[str, int], ...]) -> str:
    told = ", ".join(f"{name} removed {count}" for name, count in removed if count)
    return f" after the filters ({told})" if told else ""
