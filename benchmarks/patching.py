"""Activation patching, side by side with transformer_lens.patching on the same model and the same pairs.

ours     mechocl.interventions.patching.patch_activations
theirs   transformer_lens.patching.get_act_patch_resid_pre and …_attn_head_out_by_pos, all pairs in one batch,
         without progress bars; the clean run is cached at the patched hook points alone

Two grids are filled, the residual stream by layer × position and heads × positions, in an untrained model of six
layers, over 256 pairs. Both sides fill the whole grid. Every value must agree within 1e-5, otherwise the exit status
is 1. There are two sorts of pairs, because ours skips a patch that puts in what is already there:

alias    the same list is asked about two aliases, so before layer 0 the pair differs at one position alone
apart    clean and corrupted are random tokens of different halves of the vocabulary, so nothing is skipped

The line's ratio is the worst of the cases. The line also has the number of backward passes that score all edges by
EAP-IG (at most 3 for each step, otherwise the exit status is 1), the time of EAP-IG and of path patching some edges,
and the peak memory of ours after grids of more and more patches, in a process for each batch size.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import measuring
import torch
from patching_memory import memory_of_processes
from patching_subject import FAST, FULL, GRIDS, Size, subject
from torch import Tensor
from transformer_lens import patching as theirs

from mechocl.interventions.edge_attribution import attribute_edges
from mechocl.interventions.edge_graph import graph_of
from mechocl.interventions.edges import patch_paths
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.patching import patch_activations
from mechocl.models.seam import Transformer

BATCH_SIZE: Final = 1024
"""Number of examples in one forward pass of ours."""
TOLERANCE: Final = 1e-5
"""Largest difference of a value of the grid that is allowed, in logits."""


class Disagreement(Exception):
    """The sides do not give the same grid, or EAP-IG goes backward more often than it may."""


# ------------------------------------------------------------------------------------------ grids


def ours_grid(model: Transformer, pairs: Pairs, site: str) -> Tensor:
    """Logit difference of each patched run, in the order of transformer_lens.

    Where nothing is exchanged, which is not measured, the patched run is the corrupted one.
    """
    found = patch_activations(model, pairs, sites=[site], batch_size=BATCH_SIZE)
    values = found.rows["value"].where(found.rows["exchanged"] > 0, found.corrupted)
    return torch.tensor(values.to_numpy())


@torch.no_grad()
def theirs_grid(model: Any, pairs: Pairs, site: str) -> Tensor:
    def difference(logits: Tensor) -> Tensor:
        at, pair = logits[:, -1], torch.arange(len(pairs))
        return (at[pair, pairs.target] - at[pair, pairs.foil]).mean()

    patched = {
        "resid_pre": theirs.get_act_patch_resid_pre,
        "z": theirs.get_act_patch_attn_head_out_by_pos,
    }
    with mock.patch.object(theirs, "tqdm", lambda rows: rows):
        _, cache = model.run_with_cache(
            pairs.clean, names_filter=lambda name: name.endswith(f"hook_{site}"), return_type=None
        )
        values: Tensor = patched[site](model, pairs.corrupted, cache, difference)
    return values.flatten()


def time_grid(model: Transformer, pairs: Pairs, grid: str, *, rounds: int) -> dict[str, Any]:
    """Time both sides in turns. Raises Disagreement when a value differs."""
    values: dict[str, Tensor] = {}

    def fill(side: str, how: Callable[[Any, Pairs, str], Tensor]) -> Callable[[], None]:
        return lambda: values.update({side: how(model, pairs, GRIDS[grid])})

    sides = {"ours": fill("ours", ours_grid), "theirs": fill("theirs", theirs_grid)}
    seconds = measuring.in_turns(sides, rounds=rounds)
    difference = float((values["ours"] - values["theirs"]).abs().max())
    if not difference <= TOLERANCE:  # true also when one is not a number
        raise Disagreement(f"{grid}: a value differs by {difference:.2g}, more than {TOLERANCE:g}")
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    return {
        "grid": grid,
        "pairs": pairs.name,
        "patches": len(values["ours"]),
        "rounds": rounds,
        "ours_s": float(f"{medians['ours']:.4g}"),
        "theirs_s": float(f"{medians['theirs']:.4g}"),
        "ratio": float(f"{measuring.median_ratio(seconds['ours'], seconds['theirs']):.3g}"),
        "difference": float(f"{difference:.1g}"),
    }


# ------------------------------------------------------------------------------------------ edges


@contextmanager
def counted_gradients() -> Iterator[list[int]]:
    """A list that gets an entry for every backward pass."""
    calls: list[int] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return grad(*args, **kwargs)

    with mock.patch.object(torch.autograd, "grad", counted):
        yield calls


def time_edges(model: Transformer, pairs: Pairs, *, steps: int, paths: int) -> dict[str, Any]:
    """Time EAP-IG of all edges in one batch, and path patching of some edges.

    Raises Disagreement when EAP-IG needs too many backward passes.
    """
    graph = graph_of(model, pairs, along="position")
    possible = graph.possible.nonzero()
    started = time.perf_counter()
    with counted_gradients() as calls:
        attribute_edges(model, pairs, along="position", steps=steps, batch_size=len(pairs))
    attributed_s = time.perf_counter() - started
    if not 0 < len(calls) <= 3 * steps:
        raise Disagreement(f"EAP-IG went backward {len(calls)} times in {steps} steps, more than 3 for each")
    some = possible[:: -(-len(possible) // paths)].tolist()
    names = [(graph.senders[s], graph.receivers[r], graph.places[p]) for s, r, p in some]
    started = time.perf_counter()
    patch_paths(model, pairs, names, along="position", batch_size=BATCH_SIZE)
    patched_s = time.perf_counter() - started
    return {
        "edges": len(possible),
        "pairs": len(pairs),
        "steps": steps,
        "backward_passes": len(calls),
        "eap_ig_s": float(f"{attributed_s:.4g}"),
        "path_s": float(f"{patched_s / len(some):.4g}"),  # seconds of one edge
        "paths": len(some),
    }


# ------------------------------------------------------------------------------------------ the line


def measure(size: Size, *, threads: int | None, fast: bool) -> dict[str, Any]:
    made = subject(size)
    cases = [
        {**time_grid(made.model, made.pairs[sort], grid, rounds=rounds), "pairs": sort}
        for (grid, sort), rounds in size.rounds.items()
    ]
    few = made.pairs["apart"][: size.edge_pairs]
    edges = time_edges(made.model, few, steps=size.edge_steps, paths=size.paths)
    memory = memory_of_processes(fast=fast, batches=size.memory_batches)
    _print(size, cases, edges, memory)
    flags = (" --fast" if fast else "") + (f" --threads {threads}" if threads else "")
    worst = max(cases, key=lambda case: case["ratio"])
    return measuring.line(
        "patching",
        size.name,
        ours_s=worst["ours_s"],
        theirs_s=worst["theirs_s"],
        ratio=worst["ratio"],
        peak_mib=max(row["peak_mib"] for row in memory if row["batch_size"] == size.memory_batches[-1]),
        worst=f"{worst['grid']}, {worst['pairs']}",
        pairs=size.pairs,
        batch_size=BATCH_SIZE,
        cases=cases,
        edges=edges,
        memory=memory,
        threads=torch.get_num_threads(),
        command=f"python benchmarks/patching.py{flags} --record",
    )


def _print(
    size: Size, cases: list[dict[str, Any]], edges: dict[str, Any], memory: list[dict[str, Any]]
) -> None:
    print(f"{size.name}, {size.n_heads} heads, {size.pairs} pairs, {measuring.machine()}; all values agree")
    measuring.print_table(
        ["grid", "pairs", "patches", "ours", "theirs", "ours / theirs (lower is better)", "times as fast"],
        [
            [
                case["grid"],
                case["pairs"],
                str(case["patches"]),
                f"{case['ours_s']:.2f} s",
                f"{case['theirs_s']:.2f} s",
                f"{case['ratio']:.3f}",
                f"{1 / case['ratio']:.1f}",
            ]
            for case in cases
        ],
    )
    print(
        f"\nEAP-IG, {edges['steps']} steps, {edges['pairs']} pairs: {edges['edges']} edges in "
        f"{edges['backward_passes']} backward passes, {edges['eap_ig_s']:.2f} s; "
        f"path patching: {1e3 * edges['path_s']:.0f} ms an edge ({edges['paths']} patched)\n"
    )
    measuring.print_table(
        ["examples in a batch", "after the grid", "patches", "peak MiB so far"],
        [[str(row["batch_size"]), row["grid"], str(row["patches"]), str(row["peak_mib"])] for row in memory],
    )
    print()


def main(argv: Sequence[str] | None = None) -> int:
    parser = measuring.parser(__doc__)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's)")
    options = parser.parse_args(argv)
    size = FAST if options.fast else FULL
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        line = measure(size, threads=options.threads, fast=options.fast)
    except (Disagreement, RuntimeError) as error:
        print(f"not comparable: {error}" if isinstance(error, Disagreement) else error, file=sys.stderr)
        return 1
    measuring.finish([line], record=options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
