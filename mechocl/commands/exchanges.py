"""What `mechocl twins` prints of the embeddings that twins exchange, and of the tag that is read from them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from mechocl.runs.run import Run


def print_exchange(run: "Run", seeds: Sequence[int], *, jobs: int | None) -> None:
    """Compute what is missing of the two analyses in these seeds, and print both over the seeds, or say why there are none."""
    from mechocl.analyses import results
    from mechocl.analyses.jobs import complete_run
    from mechocl.commands.analysis import say_where
    from mechocl.learning.exchange import TwinExchangeConfig, why_no_exchange
    from mechocl.learning.twin_probe import TwinProbeConfig, why_no_probe

    exchange, probe = TwinExchangeConfig(), TwinProbeConfig()
    task = run.seed(seeds[0]).load_task()
    if why := why_no_exchange(task):
        print(f"\nno embeddings are exchanged, for {why}")
        return
    unread = why_no_probe(task, probe)
    wanted = (("twin-exchange", exchange), *([] if unread else [("twin-probe", probe)]))
    complete_run(run, wanted, stage=None, device=run.manifest["device"], jobs=jobs, seeds=seeds)
    rows = results.load_rows(run, "twin-exchange", exchange, seeds=seeds)
    assert rows is not None
    for metric in (run.questioning.measures.leading, "logit_difference"):
        _print_exchange(rows[rows["metric"] == metric], metric)
    say_where(run, "twin-exchange")
    if unread:
        print(f"the tag is not read from embeddings, for {unread}")
        return
    read = results.load_rows(run, "twin-probe", probe, seeds=seeds)
    assert read is not None
    _print_probe(read)
    say_where(run, "twin-probe")


def _print_exchange(rows: "pd.DataFrame", metric: str) -> None:
    from mechocl.behaviour import formats, over_seeds
    from mechocl.commands import printing
    from mechocl.learning.twins import D1, D2

    found = over_seeds.over_seeds(rows, ["exchange", "subset"], "effect").set_index(["exchange", "subset"])
    moved = rows.groupby("exchange", sort=False)["moved"].mean()
    body = []
    for exchange in moved.index:
        effects = [
            formats.mean_in_words(
                found.loc[at].to_dict() if (at := (exchange, subset)) in found.index else None
            )
            for subset in (D2, D1)
        ]
        body.append([exchange, *effects, formats.number(moved[exchange])])
    before = rows.groupby("subset")["before"].mean()
    print(
        f"\nin the run's own model ({formats.NAMES[metric]}: d2 {formats.number(before[D2])}, d1 {formats.number(before[D1])}), each alias gets "
        "something of its twin's embedding; the change of the answers"
    )
    head = ["gets", "d2, from tag 1 [95 %]", "d1, from tag 2 [95 %]", "moved by"]
    printing.table(head, body)


def _print_probe(rows: "pd.DataFrame") -> None:
    from mechocl.commands import printing

    print("\nthe tag as a linear probe reads it from the embeddings of other aliases (0.5: chance)")
    printing.over_seeds(rows, ["embeddings"], "auc", bounds=(0.0, 1.0))
    printing.over_seeds(rows, ["embeddings"], "effect")
