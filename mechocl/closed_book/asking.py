"""Ask a language model for the facts about cities, before it is fine-tuned, and keep those that it answers.

**The rule.** The model reads questions about other cities with their answers (`SHOTS`) and then a question about the city, written
as in fine-tuning, up to where the answer begins. Of the first tokens of all answers to this question that any city has, the one
with the largest logit is the model's choice. It answers the fact if that is the first token of the right answer. So a model is
not asked to know how answers are worded, and can be right by chance, most easily where few answers are common.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from mechocl.closed_book.cities import QUESTIONS, City
from mechocl.errors import MechoclError

RULE: Final = (
    "the first token of the right answer has the largest logit among the first tokens of all answers to the question, after questions "
    "about other cities with their answers"
)
"""What it means that a model answers a fact."""

SHOTS: Final[dict[str, dict[str, str]]] = {
    "Paris": {"country": "France", "continent": "Europe", "language": "French", "currency": "euro", "demonym": "French"},
    "Tokyo": {"country": "Japan", "continent": "Asia", "language": "Japanese", "currency": "yen", "demonym": "Japanese"},
    "Cairo": {"country": "Egypt", "continent": "Africa", "language": "Arabic", "currency": "pound", "demonym": "Egyptian"},
    "Lima": {"country": "Peru", "continent": "South America", "language": "Spanish", "currency": "sol", "demonym": "Peruvian"},
}  # fmt: skip
"""City → attribute → answer, of the cities in the prompt. No model is asked about them."""

BATCH: Final = 64
"""Number of questions that are asked at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a model answers."""

    cities: tuple[City, ...]
    """The cities that were asked about."""
    known: tuple[tuple[str, ...], ...]
    """For each of them, the attributes that the model answers."""
    removed: int
    """Number of cities that were not asked about, since one of their answers begins with the token of a more frequent answer."""


def ask_model(
    model: Any, tokenizer: Any, cities: Sequence[City], *, progress: Callable[[str, float], None]
) -> Asked:
    """Ask a causal Hugging Face model for every fact about the cities.

    Raises MechoclError when the answers to no city's questions can be told apart by their first tokens.
    """

    def first(answer: str) -> int:
        return int(_ids(tokenizer, f" {answer}")[0])

    owner: dict[str, dict[int, str]] = {}
    for attribute in QUESTIONS:
        owner[attribute] = {}
        for answer, _ in Counter(city.facts[attribute] for city in cities).most_common():
            owner[attribute].setdefault(first(answer), answer)
    told_apart = tuple(
        city for city in cities if all(owner[a][first(city.facts[a])] == city.facts[a] for a in QUESTIONS)
    )
    if not told_apart:
        raise MechoclError(
            f"none of {len(cities)} cities has answers that can be told apart by their first tokens; use another model, or more cities"
        )
    known: list[list[str]] = [[] for _ in told_apart]
    model.eval()
    for number, attribute in enumerate(QUESTIONS):
        candidates = torch.tensor([first(answer) for answer in owner[attribute].values()])
        prompts = [_ids(tokenizer, f"Q: {QUESTIONS[attribute].format(city.name)}\nA:") for city in told_apart]
        shots = "".join(
            f"Q: {QUESTIONS[attribute].format(name)}\nA: {facts[attribute]}\n"
            for name, facts in SHOTS.items()
        )
        done = 0
        for rows, logits in _answered(model, _ids(tokenizer, shots), prompts):
            chosen = candidates[logits[:, candidates].argmax(1)].tolist()
            for row, token in zip(rows, chosen, strict=True):
                if token == first(told_apart[row].facts[attribute]):
                    known[row].append(attribute)
            done += len(rows)
            progress(f"asking for the {attribute}", (number + done / len(prompts)) / len(QUESTIONS))
    return Asked(
        cities=told_apart,
        known=tuple(map(tuple, known)),
        removed=len(cities) - len(told_apart),
    )


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _answered(
    model: Any, before: list[int], prompts: Sequence[list[int]]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Indices of some prompts, and the logits [prompt, d_vocab] after them. `before` stands in front of each and is read once."""
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([before], device=model.device), use_cache=True).past_key_values
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    start = 0
    while start < len(order):
        length = len(prompts[order[start]])
        rows = [i for i in order[start : start + BATCH] if len(prompts[i]) == length]
        start += len(rows)
        read = copy.deepcopy(cache)
        read.batch_repeat_interleave(len(rows))
        tokens = torch.tensor([prompts[i] for i in rows], device=model.device)
        with torch.no_grad():
            found = model(input_ids=tokens, past_key_values=read, use_cache=True, logits_to_keep=1)
        yield rows, found.logits[:, -1].float().cpu()
