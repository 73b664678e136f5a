"""`mechocl sae …` and `mechocl crosscoder`: train dictionaries, search them, test what they hold, share them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mechocl.commands.options import WhereSae, WhereSeeds, jobs_of, listed
from mechocl.destinations import require_file
from mechocl.errors import MechoclError
from mechocl.features.candidates import EffectsConfig
from mechocl.features.crosscoders import CrosscoderConfig, Which
from mechocl.features.search import SearchConfig
from mechocl.features.settings import TrainingConfig

if TYPE_CHECKING:
    import pandas as pd

    from mechocl.runs.run import Run


On = Annotated[WhereSeeds, tyro.conf.OmitArgPrefixes]
OnSae = Annotated[WhereSae, tyro.conf.OmitArgPrefixes]


def train(
    on: On,
    config: Annotated[TrainingConfig, tyro.conf.OmitArgPrefixes] = TrainingConfig(),  # noqa: B008
) -> None:
    """Train sparse autoencoders with SAELens on the run's own activations, and judge them on unseen aliases.

    Several sites, widths and initial weights are trained in one pass over the activations. An autoencoder that exists
    already is not trained again. Each is in RUN/saes/NAME/seed-K, as sae_lens.SAE.load_from_disk opens it.

    Args:
        on: The run.
        config: Which dictionaries are trained, and on what.
    """
    from mechocl.analyses import sae_jobs

    config = replace(
        config, site=listed(config.site), subsets=listed(config.subsets), roles=listed(config.roles)
    )
    run, seeds, device = _opened(on)
    judged = sae_jobs.train_dictionaries(
        run, config, seeds=seeds, stage=on.stage, device=device, jobs=jobs_of(on.jobs)
    )
    for name, quality in judged.items():
        _print_quality(name, _rows(run, "sae-quality", quality, on, seeds))
    for name in judged:
        print(f"search it: mechocl sae search {on.run} {name}")
    print(f"sparse autoencoders: {run.path / 'saes'}")


def search(
    on: OnSae,
    config: Annotated[SearchConfig, tyro.conf.OmitArgPrefixes] = SearchConfig(),  # noqa: B008
) -> None:
    """Search the features of a sparse autoencoder for every property of the task, judged on held-out aliases.

    Args:
        on: The run and the SAE.
        config: What is searched.
    """
    from mechocl.behaviour import formats
    from mechocl.commands import printing
    from mechocl.features import summaries
    from mechocl.features.properties import LEAST

    config = replace(config, sae=on.sae, transfer=on.transfer, group=listed(config.group))
    run, seeds, _ = _computed(on, "sae-search", config)
    rows = _rows(run, "sae-search", config, on, seeds)
    printing.frame(
        "AUC on held-out aliases, in questions: of the best feature, of k features, of all features, of the activations",
        summaries.existing(rows),
    )
    printing.frame(
        "properties of a group that a feature stands for (q < 0.05), mean over the seeds",
        summaries.counted(rows),
    )
    for kind in sorted({"question", "definition"} - set(rows["text"])):
        print(
            f"{kind}s: {formats.NOT_MEASURED}; no property has {LEAST} held-out aliases with it and {LEAST} without it there"
        )
    _say_trained_on(rows)
    print(f"test them: mechocl sae test {on.run} {on.sae}{' --transfer' if on.transfer else ''}")
    _say_where(run, "sae-search")


def causal_test(
    on: OnSae,
    config: Annotated[EffectsConfig, tyro.conf.OmitArgPrefixes] = EffectsConfig(),  # noqa: B008
) -> None:
    """Patch, ablate and clamp the features that a search has found, beside random features of equal rate and norm.

    Args:
        on: The run and the SAE.
        config: Which features are tested, and beside how many random ones.
    """
    from mechocl.commands import printing
    from mechocl.features import summaries

    config = replace(config, sae=on.sae, transfer=on.transfer)
    run, seeds, _ = _computed(on, "sae-test", config)
    rows = _rows(run, "sae-test", config, on, seeds)
    if rows.empty:
        raise MechoclError(
            f"there is nothing to test in {on.sae}: no feature is selective for a property that pairs of questions differ "
            "in; name features with --features, --property and --position"
        )
    printing.frame(
        "share of the answers' gap that patching moves (the surest feature, and sets), and the 95th percentile of the controls",
        summaries.causal(rows),
    )
    for metric, unit in (
        ("logit_difference", "nats, right − wrong"),
        ("within_alias_auc", "within-alias AUC"),
    ):
        printing.frame(
            f"effect of ablating and clamping the surest feature, in {unit}, and of the controls",
            summaries.on_subsets(rows, metric),
        )
    passed = rows[rows["retrieval"]]
    tested = len(summaries.patches(rows))
    print(
        f"retrieval features (selective on held-out aliases, and moving the answer more than 95 % of controls): "
        f"{len(passed)} of {tested} tested, in {passed['seed'].nunique()} of {len(seeds)} seeds; about {0.05 * tested:.0f} "
        "would be by chance"
    )
    _say_trained_on(rows)
    _say_where(run, "sae-test")


def dashboard(on: OnSae, site: str = "", out: Path | None = None) -> None:
    """Write one self-contained HTML page of a sparse autoencoder: a table of its features, and a page of each.

    Searches the features if that has not been done. Shows what `mechocl sae test` has found, if that has been done.

    Args:
        on: The run and the SAE. If there are several seeds, the page shows the first one that counts, and names it.
        site: Hook point of an SAE that does not name its own.
        out: File of the page. By default it is RUN/saes/SAE/seed-K.html.
    """
    from mechocl.report import sae_dashboard

    if out is not None:
        require_file(out)
    config = SearchConfig(sae=on.sae, site=site, transfer=on.transfer)
    run, seeds, device = _computed(on, "sae-search", config, first=True)
    out = out or run.path / "saes" / Path(on.sae).name / f"seed-{seeds[0]}.html"
    require_file(out)
    size = sae_dashboard.write_sae_dashboard(run, seeds[0], out, config=config, stage=on.stage, device=device)
    print(f"dashboard ({size / 1e6:.1f} MB): {out.resolve().as_uri()}")


def crosscoder(
    on: On,
    config: Annotated[CrosscoderConfig, tyro.conf.OmitArgPrefixes] = CrosscoderConfig(),  # noqa: B008
    checkpoints: Which = "stages",
) -> None:
    """Train one dictionary of a site in several checkpoints, to see which features training keeps, removes and makes.

    Each is in RUN/saes, as an SAE of the checkpoints' activations side by side.

    Args:
        on: The run.
        config: The crosscoder, and what it is trained on.
        checkpoints: stages compares the last checkpoint of each stage, so the models before and after stage 2. all
            compares every checkpoint that training kept.
    """
    from mechocl.analyses import crosscoder_jobs
    from mechocl.commands import printing
    from mechocl.features import summaries

    if on.stage is not None:
        raise MechoclError("a crosscoder compares stages; leave out --stage")
    config = replace(config, subsets=listed(config.subsets), roles=listed(config.roles))
    run, seeds, device = _opened(on)
    rows = crosscoder_jobs.crosscode(
        run, config, which=checkpoints, seeds=seeds, device=device, jobs=jobs_of(on.jobs)
    )
    name = crosscoder_jobs.crosscoder_name(config, checkpoints, attribute=run.attribute)
    first, last = rows.groupby("seed")[["explained_first", "explained_last"]].first().mean()
    print(
        f"explained variance on unseen aliases: {first:.3f} of the first checkpoint, {last:.3f} of the last"
    )
    printing.frame("features by what training did to them, mean over the seeds", summaries.verdicts(rows))
    printing.frame(
        "properties that they stand for (q < 0.05): features of a seed, mean over the seeds",
        summaries.properties_of_verdicts(rows),
    )
    print(f"crosscoders: {run.path / 'saes' / name}")
    _say_where(run, crosscoder_jobs.ANALYSIS)


def _opened(on: WhereSeeds) -> "tuple[Run, tuple[int, ...], str]":
    """The run, the seeds that the user asks for, and the device. Without `--seeds`, those that count are taken."""
    from mechocl.analyses import jobs
    from mechocl.commands import printing

    run, device = on.opened(), on.resolved_device()
    counted = jobs.count_run(run, device=device, jobs=jobs_of(on.jobs))
    seeds = on.chosen(run, counted)
    printing.failures(counted)
    return run, seeds, device


def _computed(
    on: WhereSeeds, name: str, config: Any, *, first: bool = False
) -> "tuple[Run, tuple[int, ...], str]":
    """Compute the rows of an analysis over the chosen seeds, or for the first one. Returns run, seeds and device."""
    from mechocl.analyses import jobs

    run, seeds, device = _opened(on)
    seeds = seeds[:1] if first else seeds
    jobs.complete_run(
        run, ((name, config),), stage=on.stage, device=device, jobs=jobs_of(on.jobs), seeds=seeds
    )
    return run, seeds, device


def _rows(run: "Run", name: str, config: Any, on: WhereSeeds, seeds: tuple[int, ...]) -> "pd.DataFrame":
    from mechocl.analyses import results

    rows = results.load_rows(run, name, config, stage=on.stage, seeds=seeds)
    assert rows is not None
    return rows


def _print_quality(name: str, rows: "pd.DataFrame") -> None:
    from mechocl.behaviour import formats
    from mechocl.commands import printing
    from mechocl.features import summaries

    found = summaries.quality(rows)
    body = [[r["measure"], r["part"], formats.mean_in_words(r)] for r in found.to_dict("records")]
    print(f"\n{name}, on aliases that it has not seen")
    printing.table(["measure", "of", "mean [95 %]"], body)


def _say_trained_on(rows: "pd.DataFrame") -> None:
    """Say where the dictionaries of some seeds are of other weights than those that they were used on."""
    from mechocl.features import summaries

    for value, seeds in rows.groupby("trained_on")["seed"].unique().items():
        if words := summaries.TRAINED_ON[str(value)]:
            print(f"seed {', '.join(map(str, seeds))}: {words}")


def _say_where(run: "Run", name: str) -> None:
    print(f"rows: {run.path / 'results' / name}")
