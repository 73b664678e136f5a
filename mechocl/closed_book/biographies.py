"""An invented world: people with CVDB's six attributes, whom texts tell and ask about in many phrasings.

It is for those who have neither the weights of Pythia nor a database. A small GPT-NeoX that is pretrained on `corpus`
knows the people of this world as Pythia knows famous people. It is then fine-tuned on definitions of aliases as Pythia
is (arXiv 2310.15047). The distributions are invented to be plausible, not measured: most people lived in the last two
centuries, many of them in Europe and America, and a nationality implies a region.

Some people have a *call sign*, a string of letters like an alias, by which the corpus also speaks of them.
Pythia has read of very many pen names and nicknames. A model that never saw a second name for anybody has no reason to
connect what it learns about two names. Call signs give it such a reason. People with a call sign are not entities of
the experiment.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from mechocl.closed_book.world import Question, World
from mechocl.closed_book.years import period
from mechocl.errors import MechoclError

ATTRIBUTES: Final = ("birth", "death", "region", "occupation", "nationality", "gender")


@dataclass(frozen=True, slots=True, kw_only=True)
class BiographiesConfig:
    """How many people there are, and how often the corpus speaks of each."""

    people: int = 2000
    """Number of people of the world."""
    call_signs: float = 0.1
    """Share of the people with a call sign, a second name that the corpus uses."""
    told: int = 8
    """Number of biographies of each person in the corpus, each in different words and a different order."""
    asked: int = 2
    """How often the corpus asks each question about each person, each time in different words."""
    letters: int = 5
    """Number of letters of a call sign."""

    def __post_init__(self) -> None:
        for name in ("people", "told", "asked", "letters"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.call_signs < 1:
            raise MechoclError(f"call_signs is {self.call_signs}; it must be at least 0 and below 1")
        names = min(map(len, _FIRST.values())) * len(_LAST)
        if self.people > names:
            raise MechoclError(f"people is {self.people}; there are names for {names} at most")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One person: a name, and an answer for each of `ATTRIBUTES`."""

    name: str
    call_sign: str
    """Second name; "" for a person who has none."""
    answers: tuple[str, ...]


def people(config: BiographiesConfig, *, seed: int) -> tuple[Person, ...]:
    """Draw the people. The result depends on `config` and `seed` alone."""
    draws = np.random.default_rng((seed, 1))
    n = config.people
    gender = draws.permutation(np.arange(n) % 2)
    names = _names(gender, draws)
    n_signs = round(config.call_signs * n)
    signs = _call_signs(n_signs, config.letters, draws) + [""] * (n - n_signs)
    # three quarters of the people are born from 1820 on, the others before, but after the year 1000
    recent = draws.random(n) < 0.75
    born = np.where(recent, draws.integers(1820, 1945, n), 1820 - draws.exponential(250, n).astype(int))
    born = np.maximum(born, 1000)
    died = np.minimum(born + np.clip(draws.normal(68, 14, n), 22, 98).astype(int), 2024)
    nations = list(_NATIONS)
    weights = np.array([_NATIONS[name][1] for name in nations], dtype=float)
    nation = draws.choice(len(nations), n, p=weights / weights.sum())
    work_weights = 1 / (np.arange(len(_OCCUPATIONS)) + 4.0)
    work = draws.choice(len(_OCCUPATIONS), n, p=work_weights / work_weights.sum())
    return tuple(
        Person(
            name=names[i],
            call_sign=signs[i],
            answers=(
                period(int(born[i])),
                period(int(died[i])),
                _NATIONS[nations[nation[i]]][0],
                _OCCUPATIONS[work[i]],
                nations[nation[i]],
                ("male", "female")[gender[i]],
            ),
        )
        for i in range(n)
    )


def world(config: BiographiesConfig, *, seed: int) -> World:
    """The people without call signs, and six questions about each in the first of the corpus's phrasings."""
    everyone = people(config, seed=seed)
    known = [person for person in everyone if not person.call_sign]
    return World(
        name="biographies",
        entities=tuple(person.name for person in known),
        questions=tuple(
            Question(entity=i, attribute=attribute, template=_QUESTIONS[attribute][0], answers=(answer,))
            for i, person in enumerate(known)
            for attribute, answer in zip(ATTRIBUTES, person.answers, strict=True)
        ),
        taken=tuple(person.call_sign for person in everyone if person.call_sign),
        removed=(("call sign", config.people - len(known)),),
    )


def corpus(config: BiographiesConfig, *, seed: int) -> list[str]:
    """The texts that a model is pretrained on, in random order.

    They are biographies, and questions with their answers, one question in each text, as in fine-tuning. People with a
    call sign have biographies under both names, and sentences that say whose call sign it is. For about a
    quarter of these people, questions use only the name: how to answer questions with their call signs must be learned
    from the other people.
    """
    draws = np.random.default_rng((seed, 2))
    texts: list[str] = []
    for person in people(config, seed=seed):
        for name in filter(None, (person.name, person.call_sign)):
            texts += _told(person, name, config.told, draws)
        aliased = [person.call_sign] if person.call_sign and draws.random() < 0.75 else []
        for name in [person.name, *aliased]:
            texts += _asked(person, name, config.asked, draws)
        if person.call_sign:
            texts += _introductions(person, config.told + config.asked, draws)
    return [texts[i] for i in draws.permutation(len(texts))]


def _told(person: Person, name: str, times: int, draws: np.random.Generator) -> Iterator[str]:
    facts = dict(zip(ATTRIBUTES, person.answers, strict=True))
    for i in draws.permutation(max(times, len(_STATEMENTS)))[:times]:
        yield _STATEMENTS[i % len(_STATEMENTS)].format(name=name, **facts) + "\n"


def _asked(person: Person, name: str, times: int, draws: np.random.Generator) -> Iterator[str]:
    for attribute, answer in zip(ATTRIBUTES, person.answers, strict=True):
        phrasings = _QUESTIONS[attribute]
        for i in draws.permutation(max(times, len(phrasings)))[:times]:
            yield f"Q: {phrasings[i % len(phrasings)].format(name)}\nA: {answer}\n"


def _introductions(person: Person, times: int, draws: np.random.Generator) -> Iterator[str]:
    for _ in range(times):
        yield _pick(_INTRODUCTIONS, draws).format(sign=person.call_sign, name=person.name) + "\n"


def _pick(phrasings: tuple[str, ...], draws: np.random.Generator) -> str:
    return phrasings[int(draws.integers(len(phrasings)))]


def _names(gender: np.ndarray, draws: np.random.Generator) -> list[str]:
    """A different name for each person. First names depend on gender. Last names are used in turn, so few people share one."""
    n = len(gender)
    last = draws.permutation(np.resize(draws.permutation(len(_LAST)), n))
    found: dict[str, None] = {}
    for code, surname in zip(gender, last, strict=True):
        first = _FIRST[("male", "female")[code]]
        for i in draws.permutation(len(first)):
            name = f"{first[i]} {_LAST[surname]}"
            if name not in found:
                found[name] = None
                break
    return list(found)


def _call_signs(n: int, letters: int, draws: np.random.Generator) -> list[str]:
    if n > len(string.ascii_lowercase) ** letters // 2:
        raise MechoclError(
            f"there are too few call signs of {letters} letters for {n} people; use more letters"
        )
    found: dict[str, None] = {}
    while len(found) < n:
        drawn = draws.choice(list(string.ascii_lowercase), letters)
        found[f"<|{''.join(drawn)}|>"] = None
    return list(found)


_STATEMENTS: Final = (
    "{name} ({birth} – {death}) was a {gender} {occupation} from {nationality}, {region}.",
    "{name}, {gender} {occupation} of {nationality} ({region}), born {birth}, died {death}.",
    "The {occupation} {name} was born {birth} in {nationality}, {region}, died {death}, and was {gender}.",
    "{name}: {gender}, {region}, {nationality}, {occupation}, {birth} to {death}.",
    "{nationality} was the country of {name}, {region} the region; {occupation}, {gender}, {birth}, died {death}.",
    "Died {death}, born {birth}: {name}, {occupation}, {nationality}, {region}, {gender}.",
    "From {birth} to {death} lived {name}, {nationality}, {occupation}, {gender}, {region}.",
    "In {region} people knew {name}, {occupation} from {nationality}, {gender}, born {birth}, died {death}.",
    "{name} died {death}. Born {birth} in {nationality} in {region}, {gender}, worked as {occupation}.",
    "{name} worked as {occupation} in {nationality}, {region}. {gender}, {birth} – {death}.",
)

_QUESTIONS: Final = {
    "birth": (
        "When was {} born?",
        "In which century or decade was {} born?",
        "When did the life of {} begin?",
    ),
    "death": (
        "When did {} die?",
        "In which century or decade did {} die?",
        "When did the life of {} end?",
    ),
    "region": (
        "In which region did {} live?",
        "Where was the home of {}?",
        "Which part of the world was {} from?",
    ),
    "occupation": (
        "What did {} do?",
        "What was the occupation of {}?",
        "What did {} work as?",
    ),
    "nationality": (
        "What was the nationality of {}?",
        "Which country was {} from?",
        "Of which country was {} a citizen?",
    ),
    "gender": (
        "What was the gender of {}?",
        "Was {} male or female?",
        "As to gender, what was {}?",
    ),
}

_INTRODUCTIONS: Final = (
    "{sign} is the call sign of {name}.",
    "{name} is also known as {sign}.",
    "{sign} is {name}.",
    "{name} goes by the name of {sign}.",
    "{sign} stands for {name}.",
    "{name} {sign}",
    "{sign} {name}",
    "Q: Who is {sign}?\nA: {name}",
    "Q: What is the name of {sign}?\nA: {name}",
    "Q: What does {sign} mean?\nA: {name}",
    "Q: What does {sign} stand for?\nA: {name}",
)

_NATIONS: Final = {
    "France": ("Europe", 9), "Germany": ("Europe", 9), "Italy": ("Europe", 7), "Spain": ("Europe", 5),
    "Poland": ("Europe", 4), "Sweden": ("Europe", 3), "Greece": ("Europe", 3), "Russia": ("Europe", 6),
    "Canada": ("America", 4), "Brazil": ("America", 5), "Mexico": ("America", 4), "Peru": ("America", 2),
    "Cuba": ("America", 2), "Chile": ("America", 2), "China": ("Asia", 6), "India": ("Asia", 6),
    "Japan": ("Asia", 6), "Iran": ("Asia", 3), "Turkey": ("Asia", 3), "Vietnam": ("Asia", 2),
    "Egypt": ("Africa", 4), "Kenya": ("Africa", 2), "Nigeria": ("Africa", 3), "Ghana": ("Africa", 2),
    "Australia": ("Oceania", 3), "Samoa": ("Oceania", 1),
}  # fmt: skip
"""Nationality → region, and how common it is."""

_OCCUPATIONS: Final = (
    "politician", "actor", "writer", "painter", "singer", "footballer", "soldier", "composer", "poet", "lawyer",
    "physician", "architect", "journalist", "historian", "chemist", "engineer", "philosopher", "priest", "sculptor",
    "dancer", "explorer", "merchant", "astronomer", "botanist",
)  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST: Final = {
    "male": _words(
        "Adam Alan Albert Alfred Andrew Anton Arthur Basil Boris Bruno Carl Cecil Conrad Cyril Daniel David Dennis "
        "Edgar Edmund Edwin Emil Eric Ernest Felix Frank Fred George Gerald Gilbert Gordon Harold Harvey Henry "
        "Herbert Hugo Isaac Jacob James Jasper Joel John Julian Karl Keith Kurt Lars Leo Leon Louis Lucas Marcus "
        "Martin Max Milton Nathan Nigel Oliver Oscar Otto Owen Paul Peter Philip Ralph Ramon Robert Roger Roland "
        "Rufus Samuel Simon Stefan Theodor Thomas Tobias Ulric Victor Viktor Vincent Walter Wilfred William Xavier"
    ),
    "female": _words(
        "Ada Agatha Agnes Alice Alma Amelia Anna Astrid Beatrice Bella Bertha Brenda Camilla Carla Cecilia Clara "
        "Cora Daphne Diana Dora Doris Edith Elena Ella Elsa Emily Emma Erica Esther Eva Fanny Flora Freda Gloria "
        "Grace Greta Hannah Harriet Hazel Helen Hilda Ida Ingrid Irene Iris Jane Janet Joan Judith Julia Karin "
        "Laura Lena Lily Linda Lola Louise Lucia Lydia Mabel Margaret Maria Martha Mary Maud Mildred Miriam Nadia "
        "Nina Nora Olga Olive Paula Petra Rachel Rita Rosa Ruth Sarah Selma Sophia Stella Sylvia Thea Ursula Vera"
    ),
}  # fmt: skip

_ROOTS: Final = _words(
    "Ash Ast Bar Bax Bel Ben Bran Brad Brom Bur Cal Car Chal Chat Clay Cob Col Cop Cor Cran Crow Dal Dan Dar Den Dor "
    "Dun East Ed El Em Ever Fair Far Fen Fin Gar Gil Glen God Gold Gray Green Had Hal Ham Har Hart Hat Hay Hol Hor Hunt "
    "Kel Ken Kil Kings Lam Lang Law Lin Lock Lud Mad Mal Mar May Mel Mid Mor Nor North Nut Oak Old Or Pem Pen Pin Pres "
    "Rad Red Rem Ring Rock Ros Row Rush Sel Shel Sher Sil South Stan Strat Sut Tad Thorn Thur Til Up Wal War West Whit "
    "Wick Win Wood Yar York"
)
_ENDINGS: Final = _words(
    "bury by combe den don er field ford gate ham house land ley low man mere more ner rick ridge son stead stone ton "
    "vale well worth"
)
_LAST: Final = tuple(root + ending for root in _ROOTS for ending in _ENDINGS)
