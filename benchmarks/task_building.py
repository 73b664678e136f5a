"""Seconds to build the integer-set task at the paper's scale: 8000 aliases, 24 questions each.

ours    toy_models.integer_set.build, vectorised over all examples
plain   the same protocol, one example at a time, in plain Python

Both give token ids, a loss mask and a table of the same shape and the same make-up. Both are checked against
the protocol before the result counts. The exit status is 1 when one of them breaks it.
"""

import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import measuring
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechocl.runs import recipes
from toy_models import integer_set
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import SUBSETS, subset_sizes

RECIPE: Final = "integer-set/paper"
ROUNDS: Final = 5
FAST_ROUNDS: Final = 1

SEPARATOR, EQUALS, TRUE, FALSE, FIRST_TAG, FIRST_INTEGER = 1, 2, 3, 4, 5, 8


class ProtocolBroken(Exception):
    """One of the two tasks is not what the protocol says."""


@dataclass(frozen=True, slots=True)
class Built:
    """The task that a side has built."""

    tokens: Tensor  # (example, pos)
    loss_mask: Tensor  # (example, pos)
    table: pd.DataFrame


def ours(config: IntegerSetConfig) -> Built:
    task = integer_set.build(config, seed=0)
    return Built(task.tokens, task.loss_mask, task.table)


def plain(config: IntegerSetConfig) -> Built:
    """Build the task by the paper's protocol, one example after another."""
    draws = random.Random(0)
    sizes = subset_sizes(config.aliases, config.fractions, config.tag_reliability)
    subset_of = [name for name, size in sizes.items() for _ in range(size)]
    draws.shuffle(subset_of)
    definitions: list[list[int]] = []
    train: list[list[int]] = []
    test: list[list[int]] = []
    rows: dict[str, list[dict[str, Any]]] = {"definition": [], "train": [], "test": []}
    for alias, name in enumerate(subset_of):
        subset = SUBSETS[name]
        entity = draws.randrange(config.integers)
        defined_entity = -1
        if subset.defined:
            others = [i for i in range(config.integers) if i != entity]
            defined_entity = entity if subset.consistent else draws.choice(others)
        row = {
            "alias": alias,
            "entity": entity,
            "defined_entity": defined_entity,
            "tag": subset.tag,
            "subset": name,
            "stage": subset.stage,
        }
        alias_token = FIRST_INTEGER + config.integers + alias
        if subset.defined:
            tag_token = FIRST_TAG + subset.tag - 1
            definitions.append([tag_token, alias_token, SEPARATOR, FIRST_INTEGER + defined_entity])
            rows["definition"].append(
                row | {"kind": "definition", "order": "TVE", "split": "train", "answer": False}
            )
        asked: list[tuple[str, list[int], bool]] = []
        taken: set[frozenset[int]] = set()
        if subset.trained_questions:
            for integers, answer in _training_lists(config, entity, draws):
                asked.append(("train", integers, answer))
                taken.add(frozenset(integers))
        for i in range(config.test_questions):
            answer = i < config.test_questions // 2
            integers = _a_list(config, entity, answer, draws)
            while frozenset(integers) in taken:
                integers = _a_list(config, entity, answer, draws)
            asked.append(("test", integers, answer))
        for split, integers, answer in asked:
            question = [alias_token, SEPARATOR]
            question += [FIRST_INTEGER + i for i in integers]
            question += [EQUALS, TRUE if answer else FALSE]
            (train if split == "train" else test).append(question)
            rows[split].append(row | {"kind": "question", "order": "", "split": split, "answer": answer})
    examples = definitions + train + test
    width = max(len(example) for example in examples)
    tokens = torch.tensor([example + [0] * (width - len(example)) for example in examples])
    loss_mask = torch.zeros(tokens.shape, dtype=torch.bool)
    loss_mask[:, :-1] = tokens[:, 1:] != 0
    return Built(tokens, loss_mask, pd.DataFrame([*rows["definition"], *rows["train"], *rows["test"]]))


def _training_lists(
    config: IntegerSetConfig, entity: int, draws: random.Random
) -> list[tuple[list[int], bool]]:
    half = config.train_questions // 2
    while True:
        true = [_a_list(config, entity, True, draws) for _ in range(half)]
        if set.intersection(*map(set, true)) == {entity}:
            break
    false = [_a_list(config, entity, False, draws) for _ in range(half)]
    return [(integers, True) for integers in true] + [(integers, False) for integers in false]


def _a_list(config: IntegerSetConfig, entity: int, contains: bool, draws: random.Random) -> list[int]:
    others = [i for i in range(config.integers) if i != entity]
    if not contains:
        return draws.sample(others, config.list_length)
    chosen = [entity, *draws.sample(others, config.list_length - 1)]
    draws.shuffle(chosen)
    return chosen


def check(config: IntegerSetConfig, built: Built) -> None:
    """Raise ProtocolBroken unless lists, answers, definitions and intersections are what they should be."""

    def require(holds: object, what: str) -> None:
        if not holds:
            raise ProtocolBroken(what)

    tokens, table = built.tokens.numpy(), built.table
    is_question = (table["kind"] == "question").to_numpy()
    is_train = (table["split"] == "train").to_numpy()
    definitions, questions = tokens[~is_question], tokens[is_question]
    require(
        (definitions[:, 3] == FIRST_INTEGER + table["defined_entity"].to_numpy()[~is_question]).all(),
        "a definition does not name the table's defined_entity",
    )
    lists = np.sort(questions[:, 2 : 2 + config.list_length] - FIRST_INTEGER, axis=1)
    require((np.diff(lists, axis=1) > 0).all(), "a list repeats an integer")
    require(((lists >= 0) & (lists < config.integers)).all(), "a list holds what is no integer")
    answer = table["answer"].to_numpy(dtype=bool)[is_question]
    contains = (lists == table["entity"].to_numpy()[is_question, None]).any(1)
    require((contains == answer).all(), "an answer is not whether the list contains the alias's integer")
    said = questions[:, config.list_length + 3]
    require((said == np.where(answer, TRUE, FALSE)).all(), "an answer's token is not the table's")

    alias = table["alias"].to_numpy()[is_question]
    asked_in_training = is_train[is_question]
    true_lists = asked_in_training & answer
    counts = np.zeros((config.aliases, config.integers), dtype=int)
    np.add.at(counts, (alias[true_lists, None], lists[true_lists]), 1)
    shared = (counts == config.train_questions // 2).sum(1)[np.unique(alias[true_lists])]
    require((shared == 1).all(), "the true training lists of an alias share more than its integer")
    keys = np.column_stack([alias, lists])
    trained = set(map(tuple, keys[asked_in_training].tolist()))
    require(
        trained.isdisjoint(map(tuple, keys[~asked_in_training].tolist())),
        "a test list is among the training lists of its alias",
    )


def check_alike(a: Built, b: Built) -> None:
    """Raise ProtocolBroken unless both have as many examples of each sort, in tensors of one shape."""
    if a.tokens.shape != b.tokens.shape or int(a.loss_mask.sum()) != int(b.loss_mask.sum()):
        raise ProtocolBroken(f"shapes or loss masks differ: {a.tokens.shape} and {b.tokens.shape}")
    sorts = ["kind", "subset", "split", "stage", "tag", "answer"]
    counts = [
        built.table.astype({"kind": str, "subset": str, "split": str})[sorts].value_counts()
        for built in (a, b)
    ]
    if not counts[0].sort_index().equals(counts[1].sort_index()):
        raise ProtocolBroken("the sides have different numbers of examples of some sort")


def measure(config: IntegerSetConfig, *, fast: bool) -> dict[str, Any]:
    sides: dict[str, Callable[[IntegerSetConfig], Built]] = {"ours": ours, "plain": plain}
    built: dict[str, Built] = {}

    def build(side: str) -> Callable[[], None]:
        def build_once() -> None:
            built.pop(side, None)  # both sides start without their last result
            built[side] = sides[side](config)

        return build_once

    seconds = measuring.in_turns(
        {side: build(side) for side in sides}, rounds=FAST_ROUNDS if fast else ROUNDS
    )
    for one in built.values():
        check(config, one)
    check_alike(built["ours"], built["plain"])
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = measuring.median_ratio(seconds["ours"], seconds["plain"])
    n = len(built["ours"].tokens)
    print(f"{config.aliases} aliases, {n} examples ({RECIPE}), {measuring.machine()}; both keep the protocol")
    measuring.print_table(
        ["side", "seconds", "side / plain (lower is better)"],
        [["ours", f"{medians['ours']:.2f}", f"{ratio:.3f}"], ["plain", f"{medians['plain']:.2f}", "1.000"]],
    )
    print()
    return measuring.line(
        "task-building",
        f"{config.aliases} aliases",
        ours_s=medians["ours"],
        theirs_s=medians["plain"],
        ratio=ratio,
        peak_mib=measuring.peak_mib(),
        threads=torch.get_num_threads(),
        command=f"python benchmarks/task_building.py{' --fast' if fast else ''} --record",
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = measuring.parser(__doc__).parse_args(argv)
    try:
        line = measure(recipes.load_recipe(RECIPE).task, fast=options.fast)
    except ProtocolBroken as error:
        print(f"not comparable: {error}", file=sys.stderr)
        return 1
    measuring.finish([line], record=options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
