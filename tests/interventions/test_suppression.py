"""Suppressing components: found where one is planted, effects derived; not found where there is none."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from contract import assert_unchanged
from edge_models import task
from planted import Mechanism, planted_model, small_task, subspaces
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechocl.errors import MechoclError
from mechocl.interventions.suppression import SuppressionConfig, ablate_components, candidates
from mechocl.models import components
from toy_models.architectures import hooked_transformer_allowed
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions

D1, D2, D3 = "d1_consistent", "d2_consistent", "d3_consistent"
Ablation = Literal["mean", "zero", "resample"]
EXACT = pytest.mark.parametrize("ablation", ["zero", "mean"])


def with_head() -> Any:
    """Nothing held back by the keys; but head 1 of layer 0 takes tag 2's integer away again.

    Its query at `=` scores an alias of tag 2 with 2S and others with −S, `%` with S. So it reads `stored` at
    the former, and `%`, where nothing is stored, for the latter; and it writes −`stored` into `retrieved`:
    for tag 2, e_i − e_i = 0. All questions about d2 are answered −10, which ranks none above another: AUC ½;
    with the head ablated 1, as of d1 and d3.
    """
    mechanism = Mechanism()
    model, space = planted_model(task(), mechanism), subspaces(task(), mechanism)
    attention, s = model.blocks[0].attn, mechanism.sharpness
    with torch.no_grad():
        attention.W_K[1, space.tag, 1] = torch.tensor([-3 * s, 0, -3 * s])
        identity = torch.eye(space.stored.stop - space.stored.start)
        attention.W_V[1, space.stored, : len(identity)] = identity
        attention.W_O[1, : len(identity), space.retrieved] = -identity
    return model


def with_neuron() -> Any:
    """A neuron of layer 0, the second of three, is 1 at `=` after an alias of tag 2, and takes 1 from every integer.

    Then `retrieved` is 0 for the alias's integer and −1 for the others, and `%` gets all attention: −10, AUC ½
    for d2. `=` learns the tag from head 1 of layer 0, so that ablating the head undoes it too.
    """
    mechanism = Mechanism(tag_at_equals=True)
    attention_only, space = planted_model(task(), mechanism), subspaces(task(), mechanism)
    config = attention_only.cfg.to_dict() | {"attn_only": False, "d_mlp": 3, "act_fn": "relu"}
    with hooked_transformer_allowed():
        model = HookedTransformer(HookedTransformerConfig.from_dict(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.load_state_dict(attention_only.state_dict(), strict=False)
        model.blocks[0].mlp.W_in[space.copied_tag, 1] = torch.tensor([0.0, 1, 0])
        model.blocks[0].mlp.W_out[1, space.retrieved] = -1
    return model


def ablated(model: Any, **changes: Any) -> pd.DataFrame:
    return ablate_components(model, task(), SuppressionConfig(**changes))


def assert_effects(rows: pd.DataFrame, expected: dict[str, dict[str, float]]) -> None:
    """Effect of each component on each subset, in both halves; 0 where none is named."""
    for row in rows.itertuples():
        effect = expected.get(row.component, {}).get(row.subset, 0.0)
        assert row.exchanged == 0 or row.effect == pytest.approx(effect, abs=1e-6), (
            row.component,
            row.subset,
            row.half,
        )
        assert row.exchanged > 0 or (np.isnan(row.effect) and effect == 0)


ANSWERS = dict.fromkeys((D1, D2, D3), -0.5)
TAGS_1_AND_3 = {D1: -0.5, D3: -0.5}


@EXACT
def test_a_planted_head(ablation: Ablation) -> None:
    """Effects in AUC. Retrieval (L0H0) and comparison (L1H0) answer d1 and d3: −½ without; d2 has nothing to lose."""
    rows = ablated(with_head(), ablation=ablation)
    assert set(rows["component"]) == {"L0H0", "L0H1", "L1H0", "L1H1"}
    expected = {"L0H1": {D2: 0.5}, "L0H0": TAGS_1_AND_3, "L1H0": TAGS_1_AND_3}
    assert_effects(rows, expected)
    for wrong in ({**expected, "L0H1": {D2: -0.5}}, {**expected, "L0H1": {}}):
        with pytest.raises(AssertionError):
            assert_effects(rows, wrong)
    found = candidates(rows.assign(seed=0), raised="d2", spared="d1")
    assert found.set_index("subset")["effect"].to_dict() == pytest.approx({D1: 0, D2: 0.5, D3: 0})
    assert set(found["component"]) == {"L0H1"}
    control = candidates(rows.assign(seed=0), raised="d1", spared="d2")
    # L1H1 writes zeros, so it is not measured; what is left lowers d1, or raises d2 and not d1
    assert set(control["component"]) < {"L0H0", "L0H1", "L1H0"}
    assert control.set_index("subset")["effect"][D1] <= 0


@EXACT
def test_a_planted_neuron(ablation: Ablation) -> None:
    """The neuron, its MLP and the head that it hears of the tag: each alone gives d2 its answers back."""
    rows = ablated(with_neuron(), ablation=ablation)
    heads, mlps = ({f"L{layer}{what}" for layer in (0, 1)} for what in ("H", " mlp"))
    assert set(rows.loc[rows["kind"] == "mlp", "component"]) == mlps
    assert set(rows.loc[rows["kind"] == "head", "component"]) == {f"{h}{i}" for h in heads for i in (0, 1)}
    neurons = {f"L{layer}N{i}" for layer in (0, 1) for i in (0, 1, 2)}
    assert set(rows.loc[rows["kind"] == "neuron", "component"]) == neurons
    raises = {name: {D2: 0.5} for name in ("L0N1", "L0 mlp", "L0H1")}
    # mean: a third of tag 2 reaches every `=`, and e_i − ⅓ still wins over `%`
    assert_effects(rows, raises | {"L0H0": TAGS_1_AND_3, "L1H0": TAGS_1_AND_3})
    whole = rows["subset"].map({D1: 1.0, D2: 0.5, D3: 1.0})
    np.testing.assert_allclose(rows["value"], whole + rows["effect"], atol=1e-6)
    found = candidates(rows.assign(seed=0), raised="d2", spared="d1")
    assert found.set_index("subset")["effect"].to_dict() == pytest.approx({D1: 0, D2: 0.5, D3: 0})


@pytest.mark.parametrize("gate", ["retrieval", "storage"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_nothing_to_find(gate: Literal["retrieval", "storage"], ablation: Ablation) -> None:
    """Tag 2 suppressed by keys or by storage: no component holds it back, so no ablation raises it.

    The other heads write zeros, so the best that was measured is one that d1 and d3 need."""
    rows = ablated(planted_model(task(), Mechanism(tag2_gain=0.0, gate=gate)), ablation=ablation)
    if ablation != "resample":
        assert_effects(rows, {"L0H0": TAGS_1_AND_3, "L1H0": TAGS_1_AND_3})
    found = candidates(rows.assign(seed=0), raised="d2", spared="d1")
    assert set(found["component"]) <= {"L0H0", "L1H0"}
    assert found.set_index("subset")["effect"].max() <= 0


def test_nothing_suppressed() -> None:
    rows = ablated(planted_model(task(), Mechanism()), ablation="zero")
    assert_effects(rows, {"L0H0": ANSWERS, "L1H0": ANSWERS})


def test_halves_are_of_aliases_and_disjoint() -> None:
    rows = ablated(with_head(), n_questions=400)
    aliases = rows.groupby(["subset", "half"])["aliases"].agg(["nunique", "first"])
    assert (aliases["nunique"] == 1).all()
    counts = aliases["first"].unstack("half")
    assert ((counts["choosing"] - counts["judging"]).abs() <= 1).all()
    assert counts.to_numpy().sum() in (100, 101)  # 400 questions, four to an alias
    assert set(rows["half"]) == {"choosing", "judging"}
    assert rows.groupby(["component", "subset", "half"]).size().eq(1).all()


def test_candidates_choose_on_one_half_and_report_the_other() -> None:
    """By hand. A: +.3 on d2 but −.2 on d1: .1. B: +.2, alone: .2, chosen. C: −.9 on choosing, +.9 on judging."""
    choosing = {"A": (0.3, -0.2), "B": (0.2, 0.0), "C": (-0.9, 0.0), "D": (0.25, 0.1)}
    judging = {"A": (0.8, 0.0), "B": (0.05, -0.01), "C": (0.9, 0.0), "D": (0.0, 0.0)}
    rows = pd.DataFrame(
        [
            {"seed": seed, "component": name, "subset": subset, "half": half, "effect": sign * value}
            for seed, sign in ((0, 1.0), (1, -1.0))
            for half, of in (("choosing", choosing), ("judging", judging))
            for name, values in of.items()
            for subset, value in zip((D2, D1), values, strict=True)
        ]
    )
    found = candidates(rows, raised="d2", spared="d1")
    assert found.groupby("seed")["component"].unique().map(list).to_dict() == {0: ["B"], 1: ["C"]}
    effects = found.set_index(["seed", "subset"])["effect"].to_dict()
    assert effects == {(0, D2): 0.05, (0, D1): -0.01, (1, D2): -0.9, (1, D1): 0.0}
    control = candidates(rows, raised=D1, spared=D2)
    assert set(control.loc[control["seed"] == 0, "component"]) == {"D"}
    with pytest.raises(MechoclError, match=r"'d9' names no subset that was ablated; there are d2_consistent"):
        candidates(rows, raised="d9", spared="d1")


def test_subsets_that_are_watched() -> None:
    model = with_head()
    assert set(ablated(model, n_questions=200)["subset"]) == {D1, D2, D3}
    assert set(ablated(model, n_questions=200, watched=())["subset"]) == {D1, D2}
    assert set(ablated(model, n_questions=200, watched=("d9", "d3"))["subset"]) == {D1, D2, D3}
    assert set(ablated(model, n_questions=200, raised="qd2", watched=("d1",))["subset"]) == {
        "qd2_inconsistent",
        D1,
    }


def test_the_seed_is_all_that_is_random() -> None:
    first = ablated(with_head(), n_questions=200, ablation="resample")
    torch.manual_seed(5)
    pd.testing.assert_frame_equal(ablated(with_head(), n_questions=200, ablation="resample"), first)
    assert not ablated(with_head(), n_questions=200, ablation="resample", seed=1).equals(first)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_head()
    with pytest.raises(MechoclError, match="n_questions is 7; use at least 8"):
        SuppressionConfig(n_questions=7)
    for changes, message in (
        ({"raised": "d9"}, "'d9' names no subset"),
        (
            {"n_questions": 8},
            r"too few aliases among the questions \([01]\) for two halves; raise n_questions",
        ),
    ):
        with assert_unchanged(model), pytest.raises(MechoclError, match=message) as raised:
            ablated(model, **changes)
        assert "\n" not in str(raised.value)
    without_d2 = build(
        IntegerSetConfig(
            aliases=60, integers=12, list_length=4, test_questions=4,
            fractions=Fractions(qd1=0.5, qd2=0.0, d1=0.5, d2=0.0, d3=0.0),
        ),
        seed=0,
    )  # fmt: skip
    with pytest.raises(MechoclError, match="'d2' names no subset"):
        ablate_components(planted_model(without_d2, Mechanism()), without_d2, SuppressionConfig())

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(components.Components, "logits", stop)
    with assert_unchanged(model), pytest.raises(KeyboardInterrupt):
        ablated(model)


def test_nothing_changes() -> None:
    for model in (with_head(), with_neuron()):
        with assert_unchanged(model):
            ablated(model, n_questions=100)
    assert small_task().tokens.equal(task().tokens)
