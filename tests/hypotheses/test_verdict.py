"""Verdicts on made-up runs whose values are planted: what is supported, contradicted, refused, and what cannot be told apart."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from effects import key_of, made_up

from mechocl.errors import MechoclError
from mechocl.hypotheses import pages, plan, predictions, sources
from mechocl.hypotheses.sources import Gathered, control_key, key
from mechocl.hypotheses.verdict import Finding, RunVerdict, judge_gathered

OWN = predictions.load()


def judged(gathered: Gathered) -> RunVerdict:
    return judge_gathered(gathered, OWN, runs=["runs/made-up"])


def finding(found: RunVerdict, name: str) -> Finding:
    return next(one for one in found.findings if one.explanation.name == name)


def statuses(found: RunVerdict) -> dict[str, str]:
    return {one.explanation.name: one.status for one in found.findings}


def steered(seeds: int, *, vector: float) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        [
            {"seed": seed, "group": group, "subset": "d1_consistent", "metric": "auc"}
            | {"effect": effect + 0.002 * rng.standard_normal()}
            for seed in range(seeds)
            for group, effect in (("steering vector", vector), ("random vector", 0.0))
        ]
    )


def exchanged(seeds: int, *, effect: float) -> pd.DataFrame:
    rng = np.random.default_rng(6)
    return pd.DataFrame(
        [
            {"seed": seed, "contrast": "d1-to-d2", "metric": "within_alias_auc", "site": "resid_pre", "layer": 0}
            | {"position": "alias", "method": method, "control": control, "effect": value + 0.002 * rng.standard_normal()}
            for seed in range(seeds)
            for method, control, value in (
                ("whole site", "none", 0.1),
                ("difference of means", "none", effect),
                ("difference of means", "shuffled", 0.0),
            )
        ]
    )  # fmt: skip


def twins(seeds: int, *, direction: float, rest: float) -> pd.DataFrame:
    """What exchanges of twins' embeddings do: one component, and the whole embedding over it."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        [
            {"seed": seed, "exchange": exchange, "subset": subset, "metric": "auc"}
            | {"tag_1_effect": effect + 0.002 * rng.standard_normal()}
            for seed in range(seeds)
            for subset in ("d1_consistent", "d2_consistent")
            for exchange, effect in (
                ("mean direction", direction),
                ("random, as long as mean direction", 0.0),
                ("twin embedding", direction + rest),
            )
        ]
    )


def test_less_learned_is_found() -> None:
    found = judged(made_up(loss=0.5, equal_loss=0.1))
    assert finding(found, "less_learned").status == "supported"
    assert finding(found, "less_learned").met == ("larger-loss", "gone-at-equal-loss")
    assert finding(found, "readout_gate").status == "contradicted"
    assert finding(found, "tag_semantics").status == "contradicted"
    assert found.supported == ("less_learned",)
    share = next(one.share for one in found.effects if one.prediction.name == "gone-at-equal-loss")
    assert share is not None
    assert share[1] <= 1.0 <= share[2]


def test_a_readout_gate_is_found_and_unreliability_has_nothing_to_explain() -> None:
    """The noise control has the run's whole gap, and stage-1 definitions with tag 2 are not recalled."""
    found = judged(made_up(noise=0.1, recall_tag_2=0.05))
    assert found.beyond.answer == "no"
    assert found.beyond_refusal.startswith("There is nothing to explain beyond the control.")
    assert statuses(found) | {"readout_gate": "supported"} == statuses(found)
    for name in ("tag_semantics", "selective_retrieval", "gradient_alignment"):
        assert finding(found, name).status == "nothing to explain"


def test_what_a_control_has_not_may_be_explained_where_it_has_most_of_the_gap() -> None:
    found = judged(made_up(noise=0.07, recall_tag_2=0.05))
    assert found.beyond.answer == "no"
    assert not found.beyond_refusal
    assert finding(found, "tag_semantics").status == "contradicted"
    assert finding(found, "selective_retrieval").status == "undecided"


def test_semantics_is_found() -> None:
    found = judged(made_up(gap=0.4, d2=0.35))
    assert finding(found, "tag_semantics").status == "supported"
    assert "less_learned" not in found.supported


def test_steering_is_found() -> None:
    tables = {
        key_of("constant-vector"): steered(12, vector=0.2),
        key_of("tag-direction"): exchanged(12, effect=0.1),
        key_of("twin-direction"): twins(12, direction=0.1, rest=0.0),
    }
    found = judged(made_up(tables=tables))
    assert found.supported == ("steering",)
    for other in (
        {key_of("constant-vector"): steered(12, vector=0.0)},
        {key_of("twin-direction"): twins(12, direction=0.0, rest=0.1)},
    ):
        assert finding(judged(made_up(tables=tables | other)), "steering").status == "contradicted"


def test_twins_tell_a_trace_from_what_is_stored() -> None:
    """The same gap, carried by one component of the twins' difference or by the rest of it."""
    for direction, rest, right in ((0.1, 0.0, "selective_retrieval"), (0.0, 0.1, "gradient_alignment")):
        rows = {key_of("twin-direction"): twins(12, direction=direction, rest=rest)}
        found = judged(made_up(tables=rows))
        wrong = {"selective_retrieval", "gradient_alignment"} - {right}
        assert finding(found, right).contradicted == ()
        assert {name: finding(found, name).status for name in wrong} == dict.fromkeys(wrong, "contradicted")


def test_the_controls_own_quantity_is_subtracted() -> None:
    """A direction that does as much in the control that decides does nothing beyond it."""
    prediction = next(one for one in OWN.predictions if one.name == "tag-direction-beyond-control")
    for of_control, answer in ((0.0, "yes"), (0.1, "no")):
        tables = {
            key(prediction): exchanged(12, effect=0.1),
            control_key(prediction, "unasked"): exchanged(12, effect=of_control),
        }
        effects = {one.prediction.name: one for one in judged(made_up(tables=tables)).effects}
        assert effects["tag-direction-beyond-control"].answer == answer
    only = judged(made_up(tables={key(prediction): exchanged(12, effect=0.1)})).effects
    without = next(one for one in only if one.prediction.name == "tag-direction-beyond-control")
    assert without.missing == "the analysis subspace of the control unasked was not computed"


def test_two_explanations_at_once() -> None:
    """They are not exclusive: a gate, and less learned, each with a part; neither alone makes the gap."""
    found = judged(made_up(noise=0.04, recall_tag_2=0.05, loss=0.5, equal_loss=0.05))
    assert found.supported == ("readout_gate", "less_learned")


def test_no_gap_is_refused() -> None:
    found = judged(made_up(gap=0.0))
    assert found.refusal.startswith("There is nothing to explain: no gap d1 − d2")
    assert found.supported == ("nothing",)
    assert {status for name, status in statuses(found).items() if name != "nothing"} == {"nothing to explain"}


def test_a_gap_that_cannot_be_told_is_refused() -> None:
    found = judged(made_up(gap=0.01, seeds=3))
    assert found.refusal.startswith("There is nothing to explain yet")
    assert finding(found, "nothing").status == "undecided"


def test_a_reversed_gap_is_refused() -> None:
    assert "the reverse" in judged(made_up(gap=-0.2)).refusal


def test_nothing_is_not_supported_where_there_is_a_gap() -> None:
    assert finding(judged(made_up()), "nothing").status == "contradicted"


def test_gradient_alignment_is_never_supported_by_what_others_expect_too() -> None:
    """What twins show beside the trace of a tag is expected of less learned, too; it waits for gradients, unless it cannot have any."""
    rows = {key_of("twin-rest"): twins(12, direction=0.0, rest=0.1)}
    found = judged(made_up(tables=rows))
    gradients = finding(found, "gradient_alignment")
    assert set(gradients.met) == {"beyond-control", "twin-rest"}
    assert gradients.status == "undecided"
    without = replace(made_up(tables=rows), cannot=frozenset({key_of("first-step")}))
    assert finding(judged(without), "gradient_alignment").status == "undecided"


def test_what_a_run_cannot_have_is_not_waited_for() -> None:
    """Steering that meets two of three: undecided while the third may still be measured, met so far where it cannot, and contradicted
    all the same by another."""
    tables = {
        key_of("constant-vector"): steered(12, vector=0.2),
        key_of("tag-direction"): exchanged(12, effect=0.1),
    }
    whole = made_up(tables=tables)
    assert finding(judged(whole), "steering").status == "undecided"
    single = replace(whole, cannot=frozenset({key_of("twin-direction")}))
    found = judged(single)
    assert finding(found, "steering").status == "met so far"
    assert finding(found, "steering").not_measured == ("twin-direction",)
    assert found.supported == ()
    worse = replace(single, tables=single.tables | {key_of("constant-vector"): steered(12, vector=0.0)})
    assert finding(judged(worse), "steering").status == "contradicted"
    nothing = replace(made_up(), cannot=frozenset(key(one) for one in OWN.of("steering")))
    assert finding(judged(nothing), "steering").status == "undecided"


def test_what_cannot_be_told_apart_is_named_with_what_would() -> None:
    found = judged(made_up(d2=0.7))
    pairs = {pair.names: pair for pair in found.pairs}
    assert pairs["selective_retrieval", "gradient_alignment"].would
    assert "twin-rest" in pairs["selective_retrieval", "gradient_alignment"].would
    assert pairs["moved_tags", "steering"].would == ()
    assert "no prediction here would" in pairs["moved_tags", "steering"].in_words
    told = {name for pair in pairs for name in pair}
    assert not told & {one.explanation.name for one in found.findings if one.status == "contradicted"}


def test_what_is_undecided_says_how_many_seeds() -> None:
    found = judged(made_up(noise=0.003, seeds=6, recall_tag_2=0.05))
    gate = finding(found, "readout_gate")
    assert gate.undecided == ("noise-gap", "noise-over-unasked")
    assert gate.more_seeds
    assert f"needs about {gate.more_seeds} more seed" in gate.in_words
    lines = plan.plan_in_words(found)
    assert any(
        line.startswith(f"readout_gate: about {gate.more_seeds} more seed") and "minutes" in line
        for line in lines
    )


def test_the_share_of_the_aliases() -> None:
    """One alias per subset has no spread; of many, whose noise is all there is, they are the whole variance."""
    assert plan.share_of_aliases(made_up()) is None
    rng = np.random.default_rng(0)
    rows = [
        {"seed": seed, "alias": alias, "subset": subset, "auc": rng.normal(), "accuracy": 0.5, "logit_difference": 0.0, "recall": 1.0}
        for seed in range(40)
        for subset in ("d1_consistent", "d2_consistent")
        for alias in range(50)
    ]  # fmt: skip
    share = plan.share_of_aliases(replace(made_up(seeds=40), answers=pd.DataFrame(rows)))
    assert share == pytest.approx(1.0, abs=0.35)


def test_all_pages_say_the_same() -> None:
    found = judged(made_up(loss=0.5, equal_loss=0.1))
    page, values = pages.to_markdown(found), pages.to_values(found)
    assert page.startswith(pages.LOOKS_LIKE)
    assert values["verdict"] == statuses(found)
    for one in found.findings:
        assert f"| {one.explanation.name} | {one.status} | {one.in_words} |" in page
        assert values["explanations"][one.explanation.name]["met"] == list(one.met)
    for effect in found.effects:
        assert values["effects"][effect.prediction.name]["answer"] in (effect.answer, "not measured")
        assert f"| {effect.prediction.name} |" in page


def test_runs_are_pooled_by_their_seeds() -> None:
    """Two halves of a run give the verdict of the whole one."""
    whole = made_up(loss=0.5, equal_loss=0.1)
    halves = []
    for seeds in (range(6), range(6, 12)):
        rows = {name: table[table["seed"].isin(seeds)] for name, table in whole.tables.items()}
        controls = {name: table[table["seed"].isin(seeds)] for name, table in whole.controls.rows.items()}
        halves.append(
            replace(
                whole,
                answers=whole.answers[whole.answers["seed"].isin(seeds)],
                counted=replace(whole.counted, learned=tuple(seeds)),
                tables=rows,
                controls=replace(whole.controls, rows=controls),
            )
        )
    assert pages.to_values(judged(sources.pool(halves))) == pages.to_values(judged(whole))


def test_a_measurement_in_the_wrong_place_does_not_pass_silently() -> None:
    gathered = made_up()
    broken = replace(gathered, tables=dict(gathered.tables) | {key_of("gap"): pd.DataFrame({"seed": [0]})})
    with pytest.raises(MechoclError, match="the rows have no subsets"):
        judged(broken)


@pytest.mark.parametrize(
    ("control", "names"),
    [
        ("noise", ("noise-gap", "noise-over-unasked")),
        ("unasked", ("beyond-control", "unasked-gap", "noise-over-unasked")),
    ],
)
def test_a_seed_that_failed_in_the_control_does_not_count_for_what_reads_it(
    control: str, names: tuple[str, ...]
) -> None:
    """It counts as in the head of the verdict, whose other predictions keep it."""
    whole = made_up()
    few = {
        name: table.assign(recall=table["recall"].where((table["seed"] != 3) | (name != control), 0.9))
        for name, table in whole.controls.rows.items()
    }
    rows = pd.concat([table.assign(control=name) for name, table in few.items()], ignore_index=True)
    tables = dict(whole.tables) | {key_of("noise-gap"): rows}
    found = judged(replace(whole, controls=replace(whole.controls, rows=few), tables=tables))
    counted = {one.prediction.name: one.verdict.learned.n for one in found.effects if one.verdict is not None}
    assert {name for name, n in counted.items() if n == 11} == set(names)
    assert {name for name, n in counted.items() if n == 12} == set(counted) - set(names)


def test_a_control_that_one_of_two_runs_lacks_is_missing_for_both() -> None:
    whole = made_up()
    halves = []
    for run, seeds in (("runs/a", range(6)), ("runs/b", range(6, 12))):
        controls = {name: table[table["seed"].isin(seeds)] for name, table in whole.controls.rows.items()}
        rows = {name: table[table["seed"].isin(seeds)] for name, table in whole.tables.items()}
        if run == "runs/b":
            del controls["unasked"]
            of_controls = rows[key_of("noise-gap")]
            rows[key_of("noise-gap")] = of_controls[of_controls["control"] == "noise"]
        halves.append(
            replace(
                whole,
                run=run,
                answers=whole.answers[whole.answers["seed"].isin(seeds)],
                counted=replace(whole.counted, learned=tuple(seeds)),
                tables=rows,
                controls=replace(whole.controls, rows=controls),
            )
        )
    found = judged(sources.pool(halves))
    effects = {one.prediction.name: one for one in found.effects}
    assert effects["beyond-control"].missing.startswith("the control unasked was not trained")
    noise = effects["noise-gap"].verdict
    assert noise is not None
    assert noise.learned.n == 12
    page = pages.to_markdown(found)
    assert "The control unasked is left out: runs/b does not have it" in page
    assert "runs/a does not have it" not in page
