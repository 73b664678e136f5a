"""Gradients of single aliases' losses, side by side with a loop over the aliases.

ours     mechocl.learning.gradients.alias_gradients: torch.func differentiates the lean forward pass for many aliases at once
theirs   one alias at a time: the hooked model's own forward pass, then torch.autograd.grad

Both take the gradient of every weight, of the loss of each new alias's definition and of that of its test questions, on an
untrained model of the recipe. Before they are timed, both compute a part of the aliases in float64. Each alias's own row, the
norms of both gradients and their inner product must agree to 1e-6 of their size, otherwise the exit status is 1. Memory is the peak of the
whole process, both sides included.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import measuring
import torch
import torch.nn.functional as F
from torch import Tensor

from mechocl.learning import examples
from mechocl.learning.examples import Examples
from mechocl.learning.gradients import alias_gradients, differentiable
from mechocl.learning.layout import OWN
from mechocl.runs import folders, recipes
from toy_models.integer_set import build
from toy_models.task import Task

TOLERANCE: Final = 1e-6
"""Largest difference that is allowed, as a share of the norm of the gradient, or of the product of two norms."""

RECIPE: Final = "integer-set/cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the comparison is."""

    name: str
    per_subset: int
    """Aliases of each of the three subsets of stage 2."""
    rounds: int
    checked: int = 12
    """Aliases whose numbers are compared."""
    aliases: int = 1000
    """Aliases of the task."""


FULL: Final = Size(name="300 aliases", per_subset=100, rounds=5)
FAST: Final = Size(name="60 aliases, fast", per_subset=20, rounds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What both sides are given."""

    model: Any
    task: Task
    names: Tensor
    given: tuple[Examples, Examples]
    """Definitions and questions."""


def subject(size: Size) -> Subject:
    """An untrained model of the recipe, and the definitions and test questions of new aliases."""
    recipe = recipes.load_recipe(RECIPE, (f"task.aliases={size.aliases}",))
    task = build(recipe.task, seed=0)
    aliases = examples.list_defined(task, stage=2, most=size.per_subset)["alias"].to_numpy()
    return Subject(
        model=folders.build_model(recipe, seed=0, device="cpu"),
        task=task,
        names=examples.name_tokens(task, aliases),
        given=(
            examples.definitions_of(task, aliases),
            examples.questions_of(task, aliases, split="test", loss="trained"),
        ),
    )


def ours(s: Subject) -> list[dict[str, Tensor]]:
    of = differentiable(s.model, s.task)
    return [alias_gradients(of, given, s.names) for given in s.given]


def theirs(s: Subject) -> list[list[tuple[Tensor, ...]]]:
    weights = [p for p in s.model.parameters() if p.requires_grad]
    found = []
    for given in s.given:
        each = []
        for tokens, mask in zip(given.tokens, given.loss_mask[:, :, :-1], strict=True):
            loss = F.cross_entropy(s.model(tokens[:, :-1])[mask], tokens[:, 1:][mask])
            each.append(torch.autograd.grad(loss, weights))
        found.append(each)
    return found


class Disagreement(Exception):
    """The sides do not give the same gradients."""


def difference(s: Subject, *, checked: int) -> float:
    """The largest difference of the two sides in some aliases, in float64, as a share of the size of what is compared."""
    some = torch.linspace(0, len(s.names) - 1, min(checked, len(s.names))).long()
    part = Subject(
        model=s.model.double(),
        task=s.task,
        names=s.names[some],
        given=(
            Examples(s.given[0].tokens[some], s.given[0].loss_mask[some]),
            Examples(s.given[1].tokens[some], s.given[1].loss_mask[some]),
        ),
    )
    batched, looped = ours(part), theirs(part)
    s.model.float()
    flat = [torch.cat(list(groups.values()), 1) for groups in batched]
    partings = []
    for index, names in enumerate(part.names):
        single = [torch.cat([g.flatten() for g in side[index]]) for side in looped]
        norms = [one.norm() for one in single]
        partings.append(
            (flat[0][index] @ flat[1][index] - single[0] @ single[1]).abs() / (norms[0] * norms[1])
        )
        for groups, whole, side, norm in zip(batched, flat, looped, norms, strict=True):
            own = side[index][0][names].flatten()  # the token embedding is the first parameter
            partings.append((groups[OWN][index] - own).abs().max() / norm)
            partings.append((whole[index].norm() - norm).abs() / norm)
    return float(torch.stack(partings).max())


def measure(size: Size, *, threads: int, fast: bool) -> dict[str, Any]:
    """The line of this benchmark. Raises Disagreement when the gradients differ."""
    s = subject(size)
    parting = difference(s, checked=size.checked)
    if not parting <= TOLERANCE:  # true also when it is not a number
        raise Disagreement(f"the gradients differ by {parting:.2g} of their size, more than {TOLERANCE}")
    sides = {"ours": partial(_timed, ours, s), "theirs": partial(_timed, theirs, s)}
    for run in sides.values():
        run()  # the first run of either allocates
    seconds = measuring.in_turns(sides, rounds=size.rounds)
    flags = " --fast" if fast else ""
    return measuring.line(
        "gradients",
        size.name,
        ours_s=statistics.median(seconds["ours"]),
        theirs_s=statistics.median(seconds["theirs"]),
        ratio=measuring.median_ratio(seconds["ours"], seconds["theirs"]),
        peak_mib=measuring.peak_mib(),
        difference=float(f"{parting:.2g}"),
        aliases=len(s.names),
        rounds=size.rounds,
        threads=threads,
        command=f"python benchmarks/gradients.py{flags} --threads {threads} --record",
    )


def _timed(side: Any, s: Subject) -> None:
    side(s)


def main(argv: Sequence[str] | None = None) -> int:
    parser = measuring.parser(__doc__)
    parser.add_argument(
        "--threads", type=int, metavar="N", default=torch.get_num_threads(), help="CPU threads"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        line = measure(FAST if options.fast else FULL, threads=options.threads, fast=options.fast)
    except Disagreement as error:
        print(f"not comparable: {error}", file=sys.stderr)
        return 1
    print(f"{line['case']}, definitions and questions, {line['machine']}")
    measuring.print_table(
        ["side", "seconds", "aliases a second"],
        [
            [name, f"{line[f'{name}_s']:.3f}", f"{line['aliases'] / line[f'{name}_s']:.0f}"]
            for name in ("ours", "theirs")
        ],
    )
    print(
        f"ours / theirs: {line['ratio']:.3f}, {1 / line['ratio']:.1f} times as fast; difference {line['difference']:.1g}"
    )
    measuring.finish([line], record=options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
