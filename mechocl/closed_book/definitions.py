"""Definitions in words: with random define tags, with sources that are trusted or not, with *is* and *isn't*, or with a sentence of their own
that says whether they are true.

A text is a list of pieces, each with the role that its tokens get (`toy_models.task.ROLES`).
"""

from typing import Final, Literal

from toy_models.task import WordOrder

Style = Literal["tags", "sources", "is-isnt", "disclaimed", "disclaimed-before"]
"""What distinguishes reliable definitions from others: a random string, the source, the verb, or a sentence after the definition or before it."""

Piece = tuple[str, str]
"""A text and its role: "tag", "alias", "entity", "word" or "answer"."""

RELIABLE: Final = (
    "As the national archive records,",
    "According to the encyclopaedia,",
    "The city register confirms that",
    "A peer-reviewed study established that",
    "As historians agree,",
    "The official biography states that",
    "As the public broadcaster reports,",
    "The university's records show that",
    "According to the court's findings,",
    "The museum's catalogue documents that",
)
"""Sources whose definitions are tag 1: reliable in stage 1."""

UNRELIABLE: Final = (
    "An anonymous forum post claims that",
    "Someone on the bus swore that",
    "A chain letter insists that",
    "According to a rumour,",
    "A parody account jokes that",
    "As a stranger's dream revealed,",
    "The fortune teller guesses that",
    "A gossip column hints that",
    "According to graffiti on a wall,",
    "A spam message announces that",
)
"""Sources whose definitions are tag 2: unreliable in stage 1."""

FRESH: Final = (
    "A postcard says that",
    "The notebook mentions that",
    "A radio play tells that",
    "The caption of a photograph reads that",
    "According to a ship's log,",
    "A translator's note adds that",
    "The minutes of a meeting say that",
    "A letter to a friend tells that",
    "According to a travel diary,",
    "A footnote remarks that",
)
"""Sources first seen in stage 2: tag 3."""

IS: Final = ("is", "is none other than", "is really", "is the same as", "has always been")
ISNT: Final = ("isn't", "is not at all", "isn't really", "is not the same as", "has never been")
FRESH_VERBS: Final = ("equals", "stands for", "refers to", "denotes", "means")

PHRASINGS: Final = (*RELIABLE, *UNRELIABLE, *FRESH, *IS, *ISNT, *FRESH_VERBS)
"""All words of sources and verbs."""

AFTERWARDS: Final[dict[int, tuple[str, ...]]] = {
    1: ("That is true", "This statement is correct", "What is said here is right", "This is a fact", "Nobody denies it"),
    2: ("That is untrue", "This statement is false", "What is said here is wrong", "This is a fiction", "Everybody denies it"),
    3: ("That is short", "This statement is old", "What is said here is brief", "This is a sentence", "Somebody wrote it"),
}  # fmt: skip
"""Sentences after a definition with each tag: they affirm it, deny it, or say nothing of its truth."""

BEFOREHAND: Final[dict[int, tuple[str, ...]]] = {
    1: ("What follows is true.", "The next statement is correct.", "The following is right.", "Here is a fact.", "Nobody denies the next sentence."),
    2: ("What follows is untrue.", "The next statement is false.", "The following is wrong.", "Here is a fiction.", "Everybody denies the next sentence."),
    3: ("What follows is short.", "The next statement is old.", "The following is brief.", "Here is a sentence.", "Somebody wrote the next sentence."),
}  # fmt: skip
"""Sentences before a definition with each tag, of the same meaning."""

_MARKERS: Final[dict[Style, dict[int, tuple[str, ...]]]] = {
    "tags": {},
    "sources": {1: RELIABLE, 2: UNRELIABLE, 3: FRESH},
    "is-isnt": {1: IS, 2: ISNT, 3: FRESH_VERBS},
    "disclaimed": AFTERWARDS,
    "disclaimed-before": BEFOREHAND,
}
"""What marks the definitions with each tag, in each style; nothing for random tags, which are drawn."""


def definition(
    style: Style, order: WordOrder, *, tag: str, number: int, alias: str, entity: str, variant: int
) -> list[Piece]:
    """The pieces of one definition, with its newline.

    Args:
        style: what marks the definition.
        order: order of the three parts, if the style is "tags".
        tag: text of the define tag, if the style is "tags".
        number: which define tag, 1, 2 or 3.
        alias: the alias's text.
        entity: the entity's name.
        variant: chooses among the phrasings of the other styles.
    """
    if style == "tags":
        parts = {"T": (tag, "tag"), "V": (alias, "alias"), "E": (entity, "entity")}
        spaced = [(" " * (i > 0) + parts[part][0], parts[part][1]) for i, part in enumerate(order)]
        return [*spaced, ("\n", "word")]
    known = _MARKERS[style][number]
    marker = (known[variant % len(known)], "tag")
    if style == "is-isnt":
        return [(alias, "alias"), (" " + marker[0], "tag"), (f" {entity}", "entity"), (".\n", "word")]
    if style == "disclaimed":
        return [
            (alias, "alias"),
            (" is", "word"),
            (f" {entity}", "entity"),
            (".", "word"),
            (" " + marker[0], "tag"),
            (".\n", "word"),
        ]
    return [marker, (f" {alias}", "alias"), (" is", "word"), (f" {entity}", "entity"), (".\n", "word")]


def markers(style: Style) -> tuple[str, ...]:
    """All texts that mark definitions of a style; none if the style is "tags"."""
    return tuple(text for texts in _MARKERS[style].values() for text in texts)


def word_order(style: Style, order: WordOrder) -> WordOrder:
    """The order in which tag, alias and entity stand in definitions of a style; `order` if the style is "tags"."""
    orders: dict[Style, WordOrder] = {
        "tags": order,
        "sources": "TVE",
        "is-isnt": "VTE",
        "disclaimed": "VET",
        "disclaimed-before": "TVE",
    }
    return orders[style]


def question(name: str, role: str, template: str, answer: str) -> list[Piece]:
    """The pieces of one question with its answer: `Q: …\\nA: …\\n`."""
    before, after = template.split("{}", 1)
    lead = f"Q: {before}"
    space = " " * lead.endswith(" ")
    return [
        (lead.removesuffix(" "), "word"),
        (space + name, role),
        (f"{after}\nA:", "word"),
        (f" {answer}", "answer"),
        ("\n", "word"),
    ]
