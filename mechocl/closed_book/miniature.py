"""A small invented world: people of one-word names with six attributes, each of as many equally likely answers.

A GPT-NeoX of a few hundred thousand weights learns all of it in minutes. With it the question can be asked on a processor what lets a
model that was pretrained on text use the definitions that it is fine-tuned on (arXiv 2310.15047). What a text says of an attribute is said in
few phrasings. Each text has several sentences about one person; about half of them are questions with their answers, as in fine-tuning.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from mechocl.closed_book.world import Question, World
from mechocl.errors import MechoclError


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniatureConfig:
    """How many people and answers there are, and what is told of them."""

    entities: int = 520
    """Number of people of the world."""
    values: int = 16
    """Number of answers of each attribute, all equally likely."""
    phrasings: int = 2
    """Number of phrasings, 1 to 3, of each statement. Of each question there are as many, but at most 2."""
    sentences: int = 3
    """Number of sentences of a text, each about another attribute of its person."""
    texts: int = 43_200
    """Number of texts of the corpus."""
    name_pool: int = 0
    """If above 0, a name is a first and a last name, each one of so many, so that people share them. With 0 a name is one word of its own."""

    def __post_init__(self) -> None:
        if self.name_pool < 0:
            raise MechoclError(f"name_pool is {self.name_pool}; use 0 for names of one word, or more")
        if self.name_pool and self.entities > self.name_pool**2:
            raise MechoclError(
                f"name_pool is {self.name_pool}; so many first and last names are for {self.name_pool**2} people at most, and entities is {self.entities}"
            )
        if 2 * self.name_pool > _MOST_PEOPLE:
            raise MechoclError(f"name_pool is {self.name_pool}; use {_MOST_PEOPLE // 2} at most")
        for name in ("entities", "values", "phrasings", "sentences", "texts"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.phrasings > 3:
            raise MechoclError(f"phrasings is {self.phrasings}; there are 3 at most")
        if self.sentences > len(ATTRIBUTES):
            raise MechoclError(f"sentences is {self.sentences}; a person has {len(ATTRIBUTES)} attributes")
        if self.entities > _MOST_PEOPLE:
            raise MechoclError(f"entities is {self.entities}; there are names for {_MOST_PEOPLE} at most")
        if self.values > _MOST_VALUES:
            raise MechoclError(
                f"values is {self.values}; there are words for {_MOST_VALUES} of each attribute at most"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One person: a name, and an answer for each of `ATTRIBUTES`."""

    name: str
    answers: tuple[str, ...]


def people(config: MiniatureConfig, *, seed: int) -> tuple[Person, ...]:
    """Draw the people. The result depends on `config` and `seed` alone."""
    draws = np.random.default_rng((seed, 1))
    words = _words("CVCVC", config.values * len(ATTRIBUTES), draws)
    names = _pooled_names(config, draws) if config.name_pool else _names(config.entities, draws)
    answers = np.array(words).reshape(len(ATTRIBUTES), config.values)
    drawn = draws.integers(config.values, size=(config.entities, len(ATTRIBUTES)))
    return tuple(
        Person(name=name, answers=tuple(str(answers[k, own[k]]) for k in range(len(ATTRIBUTES))))
        for name, own in zip(names, drawn, strict=True)
    )


def world(config: MiniatureConfig, *, seed: int) -> World:
    """The people, and six questions about each in the first of the corpus's phrasings."""
    everyone = people(config, seed=seed)
    return World(
        name="miniature",
        entities=tuple(person.name for person in everyone),
        questions=tuple(
            Question(entity=i, attribute=attribute, template=_QUESTIONS[attribute][0], answers=(answer,))
            for i, person in enumerate(everyone)
            for attribute, answer in zip(ATTRIBUTES, person.answers, strict=True)
        ),
    )


def corpus(config: MiniatureConfig, *, seed: int) -> list[str]:
    """The texts that a model is pretrained on, in random order."""
    draws = np.random.default_rng((seed, 2))
    everyone = people(config, seed=seed)
    who = draws.integers(len(everyone), size=config.texts)
    which = draws.random((config.texts, len(ATTRIBUTES))).argsort(1)[:, : config.sentences]
    asks = draws.random(which.shape) < 0.5
    wording = draws.integers(np.iinfo(np.int32).max, size=which.shape)
    return [
        "".join(
            _sentence(everyone[person], ATTRIBUTES[k], asked=bool(ask), wording=int(w), most=config.phrasings)
            for k, ask, w in zip(some, asked, words, strict=True)
        )
        for person, some, asked, words in zip(who, which, asks, wording, strict=True)
    ]


def _sentence(person: Person, attribute: str, *, asked: bool, wording: int, most: int) -> str:
    answer = person.answers[ATTRIBUTES.index(attribute)]
    phrasings = (_QUESTIONS if asked else _STATEMENTS)[attribute][:most]
    told = phrasings[wording % len(phrasings)].replace("{}", person.name)
    return f"Q: {told}\nA: {answer}\n" if asked else told.replace("{answer}", answer) + "\n"


def _names(n: int, draws: np.random.Generator) -> list[str]:
    return [name.capitalize() for name in _words("CVCVCV", n, draws)]


def _pooled_names(config: MiniatureConfig, draws: np.random.Generator) -> list[str]:
    """Different pairs of a first and a last name."""
    pool = config.name_pool
    words = _names(2 * pool, draws)
    pairs = draws.choice(pool * pool, size=config.entities, replace=False)
    return [f"{words[pair // pool]} {words[pool + pair % pool]}" for pair in pairs]


def _words(pattern: str, n: int, draws: np.random.Generator) -> list[str]:
    """Different words of consonants and vowels."""
    letters = {"C": _CONSONANTS, "V": _VOWELS}
    found: dict[str, None] = {}
    while len(found) < n:
        found["".join(letters[kind][draws.integers(len(letters[kind]))] for kind in pattern)] = None
    return list(found)


_CONSONANTS: Final = "bdfgklmnprstvz"
_VOWELS: Final = "aeiou"
_MOST_PEOPLE: Final = (len(_CONSONANTS) * len(_VOWELS)) ** 3 // 10
_MOST_VALUES: Final = (len(_CONSONANTS) * len(_VOWELS)) ** 2 * len(_CONSONANTS) // 60

_STATEMENTS: Final = {
    "home": ("{} was born in {answer}.", "{} comes from {answer}.", "{} grew up in {answer}."),
    "work": ("{} works as a {answer}.", "{} earns a living as a {answer}.", "by trade {} is a {answer}."),
    "subject": ("{} studied {answer}.", "{} has a degree in {answer}.", "{} knows much about {answer}."),
    "instrument": ("{} plays the {answer}.", "{} practises the {answer}.", "{} owns an old {answer}."),
    "team": ("{} supports {answer}.", "{} cheers for {answer}.", "{} never misses a match of {answer}."),
    "animal": ("{} keeps a {answer}.", "{} lives with a {answer}.", "{} feeds a {answer} at home."),
}
_QUESTIONS: Final = {
    "home": ("where was {} born?", "what is the home of {}?"),
    "work": ("what does {} do for a living?", "what is the trade of {}?"),
    "subject": ("what did {} study?", "what is the degree of {}?"),
    "instrument": ("what does {} play?", "what is the instrument of {}?"),
    "team": ("which team does {} support?", "what is the team of {}?"),
    "animal": ("which animal does {} keep?", "what is the animal of {}?"),
}

ATTRIBUTES: Final = tuple(_QUESTIONS)
