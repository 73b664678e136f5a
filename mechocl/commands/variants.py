"""`mechocl twins` and `mechocl variants`: train stage 2 of a run again with one thing changed."""

from typing import TYPE_CHECKING, Annotated, Final

import tyro

from mechocl.commands.options import PositionalRun, SaveEvery, jobs_of, listed, seconds_of
from mechocl.runs.train_toy import SAVE_EVERY_S

if TYPE_CHECKING:
    import pandas as pd

    from mechocl.analyses.variant_jobs import Trained
    from mechocl.behaviour.counted import CountedSeeds
    from mechocl.behaviour.statistics import Estimate
    from mechocl.runs.run import Run
    from toy_models.measures import Measures

Jobs = Annotated[int, tyro.conf.arg(help="How many seeds are computed at a time. 0 takes one per core on a CPU, and one on a GPU.")]  # fmt: skip

_DEFAULT: Final = (
    "only-alias-embeddings", "frozen-aliases", "frozen-tags", "cut-tag",
    "tag-1", "tag-1-forward", "tag-1-backward", "tag-3", "tag-3-forward", "tag-3-backward",
    "no-tag", "no-tag-forward", "no-tag-backward",
)  # fmt: skip
"""The variants that are trained where none are named."""


def twins(run: PositionalRun, jobs: Jobs = 0, save_every: SaveEvery = SAVE_EVERY_S) -> None:
    """Train stage 2 again with the tags of d1 and d2 exchanged, and compare each alias under tag 1 and under tag 2.

    Each finished seed begins with its own weights from before the last stage. All but the tags is as in the run: aliases,
    entities, order of the examples. Seeds count that learned their definitions in both trainings. The second training is in RUN/variants/exchanged-tags, which is a run itself. The same
    command continues what was stopped. Beside the twins' gap stands d1 - d2 of the run, and the standard errors of both.

    Then twins exchange their embeddings in the run's own model: the whole of it, the component along the mean difference
    between tags, the rest, and controls. Last comes how well a linear probe reads the tag from the embeddings of other aliases.
    """
    from mechocl.analyses import variant_jobs
    from mechocl.commands import exchanges
    from mechocl.learning.twins import pair_twins
    from mechocl.runs.run import Run
    from mechocl.runs.variants import EXCHANGED, variant_path

    opened, at_a_time = Run.open(run), jobs_of(jobs)
    found = variant_jobs.train_variants(
        opened, (EXCHANGED,), jobs=at_a_time, save_every_s=seconds_of(save_every)
    )
    own = variant_jobs.collect_answers(opened, jobs=at_a_time)
    counted = _count(opened, at_a_time, twin=found[EXCHANGED])
    exchanged = _shown(found[EXCHANGED], counted, of=EXCHANGED)
    for metric in (opened.questioning.measures.leading, "logit_difference"):
        _print_twins(pair_twins(own.rows, exchanged, metric), metric)
    exchanges.print_exchange(opened, exchanged["seed"].unique().tolist(), jobs=at_a_time)
    print(f"twins: {variant_path(run, EXCHANGED)}")


def variants(
    run: PositionalRun,
    only: tuple[str, ...] = (),
    jobs: Jobs = 0,
    save_every: SaveEvery = SAVE_EVERY_S,
) -> None:
    """Train stage 2 again with one thing changed, and say how much of the gap d1 - d2 is gone, paired by seed.

    Each finished seed begins with its own weights from before the last stage. The variants are in RUN/variants/NAME, and
    are runs themselves. The same command continues what was stopped. Beside the share of the gap that is removed stand the
    same share at equal definition loss (and of how many seeds, where some never have an equal one), the recall of the definitions, and their loss as the variant trains them.

    Args:
        only: The variants that are trained. By default those of groups, of the cut tag, and of other tags' embeddings that
            the run can have.
    """
    from mechocl.analyses import variant_jobs
    from mechocl.runs.run import Run
    from mechocl.runs.variants import require_variants, variant_path

    opened, at_a_time = Run.open(run), jobs_of(jobs)
    require_variants(opened)
    names = list(listed(only))
    if not names:
        names, impossible = variant_jobs.find_possible_variants(opened, _DEFAULT)
        for name, why in impossible.items():
            print(f"{name} is left out, for {why}")
    found = variant_jobs.train_variants(opened, names, jobs=at_a_time, save_every_s=seconds_of(save_every))
    own = variant_jobs.collect_answers(opened, jobs=at_a_time)
    counted = _count(opened, at_a_time)
    for metric in (opened.questioning.measures.leading, "logit_difference"):
        _print_variants(own, found, counted, metric)
    _print_unlearned(found, counted, opened.questioning.measures)
    print(f"variants: {variant_path(run, '')}")


def _count(run: "Run", jobs: int | None, *, twin: "Trained | None" = None) -> "CountedSeeds":
    """The seeds that count, in the run and in the training of its twins if there is one; what does not count is printed."""
    from mechocl.analyses.jobs import count_run
    from mechocl.behaviour.counted import count_seeds
    from mechocl.commands import printing
    from mechocl.runs.controls import is_control
    from mechocl.runs.variants import EXCHANGED, open_variant

    if is_control(run.recipe):
        print(
            "This is a control run, in which no definition contradicted a question: its gap is not from that."
        )
    counted = count_run(run, device=run.manifest["device"], jobs=jobs)
    if twin is not None and not twin.rows.empty:
        failures = open_variant(run, EXCHANGED).failures()
        of_twin = count_seeds(twin.rows, run.questioning.measures, diverged=failures)
        counted = counted.in_both(of_twin, of=EXCHANGED)
    printing.failures(counted)
    return counted


def _shown(trained: "Trained", counted: "CountedSeeds", *, of: str) -> "pd.DataFrame":
    """Rows of a variant in the seeds that are shown. Raises MechoclError when there are none."""
    from mechocl.errors import MechoclError

    rows = trained.rows if trained.rows.empty else counted.keep_shown(trained.rows)
    if rows.empty:
        raise MechoclError(f"the variant {of} diverged in every seed, so there is nothing to compare")
    return rows


def _print_twins(twins: "pd.DataFrame", metric: str) -> None:
    from mechocl.behaviour import formats
    from mechocl.commands import printing
    from mechocl.learning.twins import estimate_twins, over_aliases, over_seeds

    by_seed = estimate_twins(twins)
    number = formats.number
    body = [
        [
            str(row["seed"]), number(row["twin_gap"], sign=True), number(row["twin_error"]), number(row["gap"], sign=True),
            number(row["gap_error"]), number(row["gap_error"] / row["twin_error"] if row["twin_error"] else None, 1),
            number(row["unpaired_error"] / row["twin_error"] if row["twin_error"] else None, 1), number(row["correlation"], 2),
        ]
        for row in by_seed.to_dict("records")
    ]  # fmt: skip
    print()
    printing.table(
        [
            f"seed ({formats.NAMES[metric]})",
            "twin gap",
            "its error",
            "d1 − d2",
            "its error",
            "ratio",
            "by pairing",
            "r",
        ],
        body,
    )
    if len(by_seed) == 1:
        twin, gap = over_aliases(twins)
        print(
            f"over the aliases of one seed: twins {formats.describe(twin)}; d1 − d2 {formats.describe(gap)}"
        )
        return
    twin, gap = over_seeds(by_seed, "twin_gap"), over_seeds(by_seed, "gap")
    ratio = gap.deviation / twin.deviation if twin.deviation else None
    print(
        f"over {twin.n} seeds: twins {formats.describe(twin)}; d1 − d2 {formats.describe(gap)}; ratio of their errors over seeds "
        f"{number(ratio, 2)}"
    )


def _share(removed: "Estimate | None", *, of: int = 0) -> str:
    """A share with its interval; `–` where any share is possible, since the run's gap may be 0.

    It ends with how many seeds it is over if these are not all `of` them.
    """
    from mechocl.behaviour import formats

    known = removed is not None and (removed.n < 2 or removed.high == removed.high)
    some = f" ({removed.n} of {of} seeds)" if removed is not None and removed.n < of else ""
    return formats.estimate_in_words(removed if known else None, 2, sign=True) + some


def _print_unlearned(found: "dict[str, Trained]", counted: "CountedSeeds", measures: "Measures") -> None:
    """Print in which of the seeds that are shown a variant recalls too few definitions.

    They count all the same: that a change keeps definitions from being learned is what a variant may show.
    """
    from mechocl.behaviour.counted import count_seeds

    for name, trained in found.items():
        rows = trained.rows if trained.rows.empty else counted.keep_shown(trained.rows)
        failed = {} if rows.empty else count_seeds(rows, measures).failed
        if failed:
            seeds = ", ".join(map(str, sorted(failed)))
            print(
                f"{name}: {len(failed)} of {rows['seed'].nunique()} seeds recall under {measures.least_recall} of the "
                f"definitions, and count all the same (seed {seeds})"
            )


def _print_variants(
    own: "Trained", found: "dict[str, Trained]", counted: "CountedSeeds", metric: str
) -> None:
    from mechocl.behaviour import formats
    from mechocl.commands import printing
    from mechocl.learning.variant_gaps import compare_variant

    number = formats.number
    body, without = [], []
    for name, trained in found.items():
        if trained.rows.empty or counted.keep_shown(trained.rows).empty:
            without.append(name)
            continue
        one = compare_variant(
            (counted.keep_shown(own.rows), own.history), (counted.keep_shown(trained.rows), trained.history), metric
        )  # fmt: skip
        body.append(
            [
                name, number(one.mean("d1")), number(one.mean("d2")), number(one.mean("d3") if "d3" in one.by_seed else None),
                formats.estimate_in_words(one.gap, sign=True), _share(one.removed), _share(one.removed_at_loss, of=one.gap.n),
                number(one.mean("recall"), 2),
                number(one.mean("definition_loss"), 2), f"{one.gap.n} seeds",
            ]
        )  # fmt: skip
    print()
    if body:
        head = [f"variant ({formats.NAMES[metric]})", "d1", "d2", "d3", "gap [95 %]", "share removed [95 %]", "at equal loss", "recall", "loss", ""]  # fmt: skip
        printing.table(head, body)
    for name in without:
        print(f"{name}: diverged in every seed")
