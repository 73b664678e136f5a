"""The commands that analyse a run. They compute missing rows, print them over the seeds, and say where they are."""

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import tyro

from mechocl.commands.options import Where, jobs_of
from mechocl.errors import MechoclError
from mechocl.interventions.circuits import CircuitConfig
from mechocl.interventions.grafting import GraftConfig
from mechocl.interventions.patching import PatchingConfig
from mechocl.interventions.subspace_study import SubspaceConfig
from mechocl.lenses.logit_lens import LensConfig

if TYPE_CHECKING:
    import pandas as pd

    from mechocl.behaviour.counted import CountedSeeds
    from mechocl.runs.run import Run
    from toy_models.measures import Measures

_GRID_ROWS: Final = 24
"""The largest number of sites that a grid on the terminal shows."""

_LARGEST: Final = 10
"""Number of lines with the largest effects."""

On = Annotated[Where, tyro.conf.OmitArgPrefixes]


def evaluate(on: On) -> None:
    """Print the answers to every test question: each subset, and weak and strong internalization with intervals."""
    from mechocl.analyses.jobs import evaluate_run
    from mechocl.analyses.registry import EvaluateConfig
    from mechocl.behaviour import formats, over_seeds
    from mechocl.commands import printing

    if on.attribute:
        raise MechoclError("evaluate asks about every attribute; leave out --attribute")
    opened, counted, (rows,) = analysed(on, ("evaluate", EvaluateConfig()), every=True)
    measures = opened.questioning.measures
    last = len(opened.recipe.training.stages)
    if on.stage is None and opened.kind.judging_stage(opened.recipe) < last:
        rows = evaluate_run(opened, device=on.resolved_device(), jobs=jobs_of(on.jobs))
        print(
            "each subset after the last stage that trains on its data; with --stage N, all subsets after that stage"
        )
    shown = counted.keep_shown(rows)
    cells = {(e.subset, e.metric): e.estimate for e in over_seeds.subsets(shown, measures)}
    names = list(dict.fromkeys(subset for subset, _ in cells))
    metrics = measures.names
    body = [
        [s] + [formats.number(cells[s, m].mean) if (s, m) in cells else formats.MISSING for m in metrics]
        for s in names
    ]
    printing.table(["subset", *metrics], body)
    for metric in (measures.leading, measures.second):
        _print_contrasts(rows, metric, measures, counted)
    if "test" in rows.columns:
        printing.text_tests(shown)
    printing.answers(rows, measures, counted=counted)
    if on.stage is None:
        printing.controls(opened, device=on.resolved_device(), jobs=jobs_of(on.jobs))
    say_where(opened, "evaluate")


def _print_contrasts(
    rows: "pd.DataFrame", metric: str, measures: "Measures", counted: "CountedSeeds"
) -> None:
    from mechocl.behaviour import formats, over_seeds
    from mechocl.commands import printing

    lines = [
        [
            c.name,
            formats.describe(c.estimate),
            f"{c.positive_seeds} of {len(counted.shown)} seeds above 0",
            c.verdict.answer,
        ]
        for c in over_seeds.contrasts(rows, metric, measures, counted=counted)
    ]
    printing.table([f"contrast ({formats.NAMES[metric]})", "difference [95 %]", "", "verdict"], lines)


def lens(
    on: On,
    config: Annotated[LensConfig, tyro.conf.OmitArgPrefixes] = LensConfig(),  # noqa: B008
    kind: Literal["logit", "tuned", "direct"] = "logit",
) -> None:
    """Show what the residual stream and its components say, layer by layer, of the alias's integer and the answer.

    Args:
        on: The run.
        config: What the lens looks at.
        kind: logit reads through the final layer norm and the unembedding. tuned does the same after translators
            that are trained on the run's own data, for the residual stream alone. direct says what each component adds
            to the answer's logits.
    """
    from mechocl.commands import printing
    from mechocl.lenses.direct_attribution import AttributionConfig
    from mechocl.lenses.tuned_lens import TunedLensConfig

    if kind == "direct":
        aliases = AttributionConfig(aliases_per_subset=config.aliases_per_subset)
        opened, _, (rows,) = analysed(on, ("attribution", aliases))
        print("contribution at = to the right answer's logit − the other answer's, in nats")
        cells = rows.groupby(["component", "subset"], sort=False)["difference"].mean().unstack()
        printing.grid(cells, "+.3f", corner="component")
        say_where(opened, "attribution")
        return
    name = "lens" if kind == "logit" else "tuned-lens"
    chosen = config if kind == "logit" else TunedLensConfig(aliases_per_subset=config.aliases_per_subset)
    opened, _, (rows,) = analysed(on, (name, chosen))
    shown = rows[(~rows["contains"]) & rows["position"].isin(["alias", "="])]
    shown = shown.assign(layer=shown["layer"].where(shown["component"] == "stream", shown["component"]))
    cells = (
        shown.groupby(["subset", "layer", "position"], sort=False)["rank"]
        .mean()
        .unstack(["layer", "position"])
    )
    print(opened.questioning.words.lens_rank.format(attribute=opened.seed(opened.seeds[0]).attribute))
    cells.columns = cells.columns.map(", ".join)
    printing.grid(cells, ".1f", corner="subset")
    say_where(opened, name)


def patch(
    on: On,
    config: Annotated[PatchingConfig, tyro.conf.OmitArgPrefixes] = PatchingConfig(),  # noqa: B008
) -> None:
    """Patch activations: put activations of one question into another, and see what this does to the answer."""
    from mechocl.behaviour import formats, over_seeds
    from mechocl.commands import printing

    opened, _, (rows,) = analysed(on, ("patch", config))
    _say_cuts(opened, config)
    for name, part in rows.groupby("contrast", sort=False):
        _print_ends(name, part)
        part = part.assign(site=over_seeds.site_names(part))
        if not _measured(part):
            continue
        if part["site"].nunique() <= _GRID_ROWS:
            printing.not_measured(
                printing.grid_over_seeds(part, "site", "position", "effect", corner="effect")
            )
        printing.over_seeds(part, ["site", "position"], "effect", most=_LARGEST)
        if config.mode in ("mean", "resample"):
            print(f"put in: {formats.said_of_all(part['source'])}")
        print(_shares(part[part["exchanged"] > 0]))
    say_where(opened, "patch")


def circuit(
    on: On,
    config: Annotated[CircuitConfig, tyro.conf.OmitArgPrefixes] = CircuitConfig(),  # noqa: B008
    suppression: bool = True,
) -> None:
    """Find edges that carry the answer, how much circuits of them carry alone, and components that hold tag 2 back.

    Args:
        on: The run.
        config: How edges are scored, and how circuits are judged.
        suppression: Search for components whose ablation raises the answers about d2 and leaves d1 alone.
    """
    from mechocl.behaviour import formats
    from mechocl.commands import printing
    from mechocl.interventions import circuits
    from mechocl.interventions.suppression import SuppressionConfig, candidates

    search = SuppressionConfig(seed=config.seed)
    also = (("suppression", search),) if suppression else ()
    opened, _, (rows, *searched) = analysed(on, ("circuit", config), *also)
    _say_cuts(opened, config)
    for name, part in rows.groupby("contrast", sort=False):
        _print_ends(name, part)
        if not _measured(part):
            continue
        edges = circuits.pool_heads(part)
        printing.over_seeds(edges, ["sender", "receiver", "place"], "value", most=_LARGEST)
        print(circuits.circuit_in_words(part))
    for found in searched:
        for raised, spared in ((search.raised, search.spared), (search.spared, search.raised)):
            print(
                f"the component whose ablation raises {raised} most and changes {spared} least, "
                f"chosen on half of the aliases: effect on the {opened.questioning.words.answers_in} of the other half"
            )
            best = candidates(found, raised=raised, spared=spared)
            if best.empty:
                print(
                    f"{formats.NOT_MEASURED}: no ablation changed anything in the questions about both subsets"
                )
                continue
            printing.over_seeds(best, ["subset"], "effect")
    say_where(opened, "circuit")


def graft(
    on: On,
    config: Annotated[GraftConfig, tyro.conf.OmitArgPrefixes] = GraftConfig(),  # noqa: B008
    steering: bool = True,
) -> None:
    """Find which weights carry what stage 2 added: parts of the weight difference are grafted alone, and left out.

    Args:
        on: The run.
        config: What is measured.
        steering: Fit the best constant steering vector too, which is the baseline that a part has to beat. It is added to a stream between
            layers, which ConvNets do not have; of their runs it is left out.
    """
    import pandas as pd

    from mechocl.behaviour.formats import NOT_MEASURED
    from mechocl.commands import printing
    from mechocl.interventions.grafting import SMALLEST_GAIN
    from mechocl.interventions.steering import SteeringConfig
    from toy_models.subsets import SUBSETS

    search = SteeringConfig(aliases_per_subset=config.aliases_per_subset)
    run = on.opened()
    also = (("steering", search),) if steering and run.kind.takes(run, "steering") else ()
    opened, _, found = analysed(on, ("graft", config), *also)
    rows = pd.concat(found, ignore_index=True)
    rows = rows[rows["subset"].map(lambda name: SUBSETS[name].stage == 2)]
    leading = opened.questioning.measures.leading
    metrics = [name for name in dict.fromkeys((leading, "auc", "accuracy")) if name in set(rows["metric"])]
    for metric in metrics:
        print(f"share of stage 2's gain in {metric} (0: as before it, 1: as after it), mean over seeds")
        part = rows[rows["metric"] == metric]
        printing.grid_over_seeds(
            part.assign(graft=part["group"] + ", " + part["kind"]), "graft", "subset", "share"
        )
        changed = part.groupby("group", sort=False)["change"].max()
        if unchanged := [group for group in changed.index[changed == 0] if group != "none"]:
            print(f"{', '.join(unchanged)}: {NOT_MEASURED}, since stage 2 did not change them")
        gained = part[part["change"] > 0]
        for subset, seeds in gained[gained["share"].isna()].groupby("subset", sort=False)["seed"]:
            print(
                f"{subset}: no share in {seeds.nunique()} of {part['seed'].nunique()} seeds, where stage 2 gained less than "
                f"{SMALLEST_GAIN:g}; read the column `effect` of the rows there"
            )
    part = rows[(rows["metric"] == metrics[0]) & (rows["kind"] == "alone") & (rows["change"] > 0)]
    if part["share"].notna().any():
        printing.over_seeds(part, ["group", "subset"], "share")
    say_where(opened, "graft")


def subspace(
    on: On,
    config: Annotated[SubspaceConfig, tyro.conf.OmitArgPrefixes] = SubspaceConfig(),  # noqa: B008
) -> None:
    """Find which directions carry the tag and the integer: swap them between questions, or erase them, with controls."""
    from mechocl.behaviour.formats import WHY_NOT_MEASURED
    from mechocl.commands import printing
    from mechocl.interventions.summaries import SUBSPACE_CONTROLS

    opened, _, (rows,) = analysed(on, ("subspace", config))
    rows = rows[rows["metric"] == "logit_difference"]
    rows = rows.assign(
        place=rows["position"] + ", " + rows["site"] + " " + rows["layer"].astype(str),
        method=rows["method"].where(rows["method"] != "rotation", "rotation, k = " + rows["k"].astype(str)),
    )
    for name, part in rows.groupby("contrast", sort=False):
        whole = part[part["control"] == "none"]
        _print_ends(name, whole)
        print("effect as a share of clean − corrupted, mean over seeds")
        part = part[part["control"].isin(SUBSPACE_CONTROLS)].assign(
            what=part["method"] + "; " + part["place"]
        )
        part = part.sort_values("control", key=lambda of: of.map(SUBSPACE_CONTROLS.index), kind="stable")
        printing.grid_over_seeds(part, "what", "control", "normalised")
        print(_shares(whole))
        exchanged = part.groupby("what", sort=False)["exchanged"].max()
        if (exchanged == 0).any():
            print(f"{', '.join(exchanged.index[exchanged == 0])}: {WHY_NOT_MEASURED}")
    say_where(opened, "subspace")


def analysed(
    on: Where, *wanted: tuple[str, Any], every: bool = False
) -> "tuple[Run, CountedSeeds, list[pd.DataFrame]]":
    """The run, which of its seeds count, and the rows of each analysis (name, config) over the seeds that are shown.

    Prints which seeds failed. With `every`, the rows are those of every finished seed.
    """
    from mechocl.analyses import results
    from mechocl.analyses.jobs import complete_run, count_run
    from mechocl.commands import printing

    run = on.opened()
    device, jobs = on.resolved_device(), jobs_of(on.jobs)
    counted = count_run(run, device=device, jobs=jobs)
    seeds = None if every else counted.shown
    complete_run(run, wanted, stage=on.stage, device=device, jobs=jobs, seeds=seeds)
    printing.failures(counted)
    found = [results.load_rows(run, name, config, stage=on.stage, seeds=seeds) for name, config in wanted]
    return run, counted, [rows for rows in found if rows is not None]


def _say_cuts(run: "Run", config: PatchingConfig | CircuitConfig) -> None:
    """Say of which files of pairs not all are used, and the option that takes all of them."""
    from mechocl.analyses.jobs import cuts_of

    for line in cuts_of(run, config, option="--n-pairs "):
        print(line)


def _print_ends(name: object, part: "pd.DataFrame") -> None:
    """Print the metric of the clean and the corrupted run of a contrast, over the seeds."""
    from mechocl.behaviour import formats

    clean, corrupted = part["clean"].mean(), part["corrupted"].mean()
    print(
        f"\n{name}: clean {clean:+.3f}, corrupted {corrupted:+.3f}; {formats.count_range(part['pairs'])} pairs, "
        f"{part['seed'].nunique()} seeds"
    )


def _measured(part: "pd.DataFrame") -> bool:
    """Whether anything was exchanged in a contrast; says so if nothing was."""
    from mechocl.behaviour.formats import NOT_MEASURED

    if (part["exchanged"] > 0).any():
        return True
    print(
        f"{NOT_MEASURED}: nothing was exchanged in any of its pairs; choose pairs that differ, or another mode"
    )
    return False


def _shares(part: "pd.DataFrame") -> str:
    """Say whether the effects can be read as shares."""
    without = part.loc[part["normalised"].isna(), "seed"].nunique()
    if without == 0:
        return "`normalised` in the rows: 0 is the corrupted run, 1 the clean one"
    return (
        f"no shares in {without} of {part['seed'].nunique()} seeds: clean and corrupted hardly differ there, "
        "so read the raw effects"
    )


def say_where(run: "Run", name: str) -> None:
    """Print where the rows of an analysis are."""
    print(f"rows: {run.path / 'results' / name}")
