"""Real facts: cities and what a language model answers about them, in a file that `mechocl data facts` writes.

A closed-book experiment can only show that a model uses a definition if the model knows the entity. So the world has the cities
of which the model itself answers enough (`asking.RULE`), and asks about them only what it answers. The file says which model was
asked; it is of no use for another one. The model's own texts are not known; true sentences and questions about the cities stand in
where a stage replays texts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mechocl import files
from mechocl.closed_book.asking import RULE, SHOTS, Asked, ask_model
from mechocl.closed_book.cities import QUESTIONS, STATEMENTS, Cities, CitiesConfig, read_cities
from mechocl.closed_book.world import Question, World
from mechocl.errors import MechoclError
from mechocl.models import hub

LEAST_KNOWN: Final = 3
"""Number of the questions about a city that the model must answer, by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCity:
    """A city, and what the model answers about it."""

    name: str
    facts: dict[str, str]
    """Attribute → answer, of the facts that the model answers."""
    group: str
    """Continent and country, by which subsets are balanced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file of facts holds."""

    cities: tuple[KnownCity, ...]
    removed: tuple[tuple[str, int], ...]
    """The filters in the order in which they are applied, and how many cities each removed."""
    model: str
    """The model that answered, as it was named."""
    weights: dict[str, str]
    """What distinguishes this model from any other one (`weights_of`)."""


def write_facts(
    out: Path,
    model: str,
    config: CitiesConfig,
    *,
    least_known: int,
    device: str,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    """Ask a model (a folder, or a name on the hub) for the facts about cities, write what it answers into a file, and return its content.

    Raises MechoclError as `read_cities`, `hub.locate`, `ask_model`, `keep_known` and `refuse_seq2seq` do.
    """
    refuse_least_known(least_known)
    read = read_cities(config, but=frozenset(SHOTS))
    folder = hub.locate(model)
    tokenizer = hub.require_tokenizer(folder)
    refuse_seq2seq(folder)
    asked = ask_model(hub.read_model(folder).to(device), tokenizer, read.cities, progress=progress)
    content = keep_known(read, asked, model=model, least_known=least_known)
    files.write_json(out, content)
    return content


def refuse_least_known(least_known: int) -> None:
    """Raise MechoclError for a least number of answered questions that leaves none to hold out, or that is larger than all."""
    if not 2 <= least_known <= len(QUESTIONS):
        raise MechoclError(
            f"least_known is {least_known}; a city has {len(QUESTIONS)} questions, of which at least one is trained on and one held out, so "
            f"use 2 to {len(QUESTIONS)}"
        )


def refuse_seq2seq(folder: Path) -> None:
    """Raise MechoclError for a sequence-to-sequence model, which is asked in another way."""
    config = hub.read_config(folder)
    if config.kind != "causal":
        raise MechoclError(
            f"{folder} is a {config.model_type} model, and only causal models are asked for facts; give a causal model"
        )


def keep_known(read: Cities, asked: Asked, *, model: str, least_known: int) -> dict[str, Any]:
    """The content of a file of facts.

    Raises MechoclError when the model answers `least_known` questions about no city, and as `refuse_least_known` does.
    """
    refuse_least_known(least_known)
    kept = [
        {
            "name": city.name,
            "facts": {name: city.facts[name] for name in known},
            "group": f"{city.facts['continent']}, {city.facts['country']}",
        }
        for city, known in zip(asked.cities, asked.known, strict=True)
        if len(known) >= least_known
    ]
    if not kept:
        raise MechoclError(
            f"{model} answers {least_known} of the {len(QUESTIONS)} questions about none of {len(asked.cities)} cities; use a smaller "
            "--least-known, or a larger model"
        )
    removed = [
        *read.removed,
        ("an answer that begins as a more frequent one", asked.removed),
        (f"fewer than {least_known} questions answered by the model", len(asked.cities) - len(kept)),
    ]
    return {
        "world": "facts",
        "rule": RULE,
        "least_known": least_known,
        "model": model,
        "weights": weights_of(model),
        "packages": read.versions,
        "there": read.there,
        "removed": removed,
        "asked": len(asked.cities),
        "answered": {name: sum(name in known for known in asked.known) for name in QUESTIONS},
        "cities": kept,
    }


def read_facts(path: Path) -> Facts:
    """What a file holds. Raises MechoclError, which names the file, for one that `mechocl data facts` has not written."""
    remedy = f"move it away and make it anew: mechocl data facts --model MODEL --out {path}"
    values = files.read_json(path, remedy=remedy)
    try:
        cities = tuple(
            KnownCity(
                name=str(one["name"]),
                facts={name: str(one["facts"][name]) for name in QUESTIONS if name in one["facts"]},
                group=str(one["group"]),
            )
            for one in values["cities"]
        )
        removed = tuple((str(name), int(count)) for name, count in values["removed"])
        model, weights = str(values["model"]), dict(values["weights"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MechoclError(
            f"{path} is no file of facts ({type(error).__name__}: {error}); {remedy}"
        ) from error
    if bad := [one.name for one in cities if len(one.facts) < 2]:
        raise MechoclError(f"{path}: fewer than two facts about {bad[0]!r}; {remedy}")
    return Facts(cities=cities, removed=removed, model=model, weights=weights)


def weights_of(model: str) -> dict[str, str]:
    """What distinguishes the weights of a model: of a folder, the sha256 of each safetensors file by its name; of a hub name, the
    commit. Raises MechoclError as `hub.locate` does."""
    found = hub.fingerprint_model(model)
    own = {Path(path).name: digest for path, digest in found.items() if path.endswith(".safetensors")}
    return own or found


def refuse_other_model(path: Path, model: str) -> None:
    """Raise MechoclError when a file of facts was made with another model than the one that is to be fine-tuned."""
    known = read_facts(path)
    if known.weights != weights_of(model):
        raise MechoclError(
            f"{path} says what {known.model} answers, and the model is {model}, which may know other facts; make a file of its own with "
            f"`mechocl data facts --model {model} --out FILE`, and give it as task.file"
        )


def world(known: Facts) -> World:
    """The world of the cities, with the questions that the model answers."""
    return World(
        name="facts",
        entities=tuple(city.name for city in known.cities),
        questions=tuple(
            Question(entity=i, attribute=name, template=QUESTIONS[name], answers=(answer,))
            for i, city in enumerate(known.cities)
            for name, answer in city.facts.items()
        ),
        groups=tuple(city.group for city in known.cities),
        removed=known.removed,
    )


def corpus(known: Facts) -> list[str]:
    """True texts about the cities: of each fact one sentence, and the question with its answer."""
    return [
        text
        for city in known.cities
        for name, answer in city.facts.items()
        for text in (
            STATEMENTS[name].replace("{answer}", answer).replace("{}", city.name) + "\n",
            f"Q: {QUESTIONS[name].replace('{}', city.name)}\nA: {answer}\n",
        )
    ]
