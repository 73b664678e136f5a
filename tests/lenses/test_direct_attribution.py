"""Direct logit attribution, on a model whose contributions follow from its construction, and by TransformerLens."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract import assert_unchanged, neox, saved, task as short_task
from planted import Mechanism, planted_model, small_task
from transformer_lens import HookedTransformer

from mechocl.behaviour.internalization import true_logit_difference
from mechocl.errors import MechoclError
from mechocl.lenses.direct_attribution import (
    TOTAL,
    Attribution,
    AttributionConfig,
    attribute_answers,
    direct_logit_attribution,
)
from mechocl.lenses.summaries import summarize_attribution
from mechocl.models import loading
from mechocl.report import lens_plots
from toy_models import architectures
from toy_models.list_questioning import WORDS
from toy_models.task import Task

CONFIG = AttributionConfig(aliases_per_subset=10)
COMPONENTS = ["embedding", "L0H0", "L0H1", "L1H0", "L1H1", "biases"]
TAG_2 = ("qd2_inconsistent", "d2_consistent")


@cache
def task() -> Task:
    return small_task()


@cache
def planted() -> pd.DataFrame:
    """Tag 2 kept from `=`."""
    return attribute_answers(planted_model(task(), Mechanism(tag2_gain=0.0)), task(), CONFIG)


def assert_contributions(rows: pd.DataFrame, quantity: str, expected: dict[str, Any]) -> None:
    """Of each component the given number (or one per row), and 0 of those that are not named."""
    for name in (*COMPONENTS, TOTAL):
        found = rows.loc[rows["component"] == name, quantity]
        assert len(found) > 0
        np.testing.assert_allclose(found, expected.get(name, 0.0), atol=1e-6)


def test_planted_answer() -> None:
    """The comparison head writes all: ±10, which is right but where tag 2's integer is in the list."""
    rows = planted()
    assert rows["component"].drop_duplicates().tolist() == [*COMPONENTS, TOTAL]
    assert (rows["questions"] == 20).all()
    misled = rows["subset"].isin(TAG_2) & rows["contains"]
    assert_contributions(rows[~misled], "difference", {"L1H0": 10, TOTAL: 10})
    assert_contributions(rows[misled], "difference", {"L1H0": -10, TOTAL: -10})


def test_planted_integer() -> None:
    """The retrieval head writes the one-hot of 1 of 12 integers; the bias is −(i + 1) / 24, its mean −6.5 / 24."""
    asked = task().table.iloc[task().rows(kind="question", split="test")]
    first = asked.drop_duplicates("alias").groupby("subset", observed=True).head(10)["alias"]
    asked = asked[asked["alias"].isin(first)]
    entity = asked.groupby([asked["subset"].astype(str), "answer"])["entity"].mean()
    for subset in planted()["subset"].unique():
        for contains in (True, False):
            rows = planted()[(planted()["subset"] == subset) & (planted()["contains"] == contains)]
            bias = (6.5 - (entity[subset, contains] + 1)) / 24
            written = 0.0 if subset in TAG_2 else 11 / 12
            assert_contributions(rows, "integer", {"L0H0": written, "biases": bias, TOTAL: written + bias})


def test_the_checks_above_can_fail() -> None:
    rows = planted()[planted()["subset"] == "d1_consistent"]
    with pytest.raises(AssertionError):
        assert_contributions(rows, "difference", {"L1H0": 9.99, TOTAL: 10})
    with pytest.raises(AssertionError):
        assert_contributions(rows, "difference", {TOTAL: 10})


def test_other_positions() -> None:
    """The alias retrieves its own integer, of whatever tag; nothing is answered there."""
    config = AttributionConfig(positions=("alias", "="), aliases_per_subset=10)
    rows = attribute_answers(planted_model(task(), Mechanism(tag2_gain=0.0)), task(), config)
    at_alias = rows[rows["position"] == "alias"]
    np.testing.assert_allclose(at_alias.loc[at_alias["component"] == "L0H0", "integer"], 11 / 12, rtol=1e-6)
    assert (at_alias["difference"] == 0).all()
    at_equals = rows[rows["position"] == "="].reset_index(drop=True)
    pd.testing.assert_frame_equal(at_equals, planted())


def test_what_is_attributed_is_what_ablation_takes_away() -> None:
    """Without a layer norm, and in the last layer, where nothing can react."""
    model = planted_model(task(), Mechanism())
    model.b_U.requires_grad_(False)[task().vocabulary.true] += 0.25
    rows = task().rows(kind="question", split="test", subset="d1_consistent")
    found = on_answers(model, task(), rows)
    before = true_logit_difference(model, task(), rows)
    model.blocks[1].attn.W_O.data[0] = 0
    after = true_logit_difference(model, task(), rows)
    np.testing.assert_allclose(found.values[found.components.index("L1H0")], before - after, atol=1e-5)
    assert np.abs(before - after).min() > 9


# ------------------------------------------------------------------------------------ models with norms


def on_answers(model: Any, of: Task, rows: np.ndarray) -> Attribution:
    """Attribution of true − false, at `=`."""
    n = len(rows)
    return direct_logit_attribution(
        model,
        of.tokens[torch.from_numpy(rows)],
        read=torch.from_numpy(of.position_of("equals", rows)),
        plus=torch.full((n,), of.vocabulary.true),
        minus=torch.full((n, 1), of.vocabulary.false),
    )


def assert_complete(found: Attribution) -> None:
    torch.testing.assert_close(found.values.sum(0), found.total, atol=1e-4, rtol=0)


def random_model(*, normalization: str = "LN") -> HookedTransformer:
    architecture = architectures.Architecture(
        n_layers=2, d_model=16, n_heads=2, d_mlp=32, init_std=0.3, normalization=normalization
    )
    vocabulary = task().vocabulary
    model = architectures.build(
        architecture, d_vocab=len(vocabulary), d_vocab_out=vocabulary.outputs, n_ctx=task().n_ctx, seed=0
    )
    for name, parameter in model.named_parameters():
        if ".b" in name or ".w" in name:  # away from 0 and 1
            parameter.data += torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    return model


def test_contributions_are_transformer_lenses() -> None:
    """Per component by `stack_head_results` and `decompose_resid`, scaled by `apply_ln_to_stack`."""
    model = random_model()
    rows = task().rows(kind="question", split="test")[:40]
    found = on_answers(model, task(), rows)
    direction = model.W_U[:, task().vocabulary.true] - model.W_U[:, task().vocabulary.false]
    with torch.no_grad():
        logits, cache = model.run_with_cache(task().tokens[rows, :7])
        heads, names = cache.stack_head_results(pos_slice=-1, return_labels=True)
        others, labels = cache.decompose_resid(pos_slice=-1, mode="mlp", return_labels=True)
        stack = cache.apply_ln_to_stack(torch.cat([heads, others]), layer=-1, pos_slice=-1)
        expected = dict(zip([*names, *labels], stack @ (model.ln_final.w * direction), strict=True))
    assert found.components == ("embedding", "L0H0", "L0H1", "L0 mlp", "L1H0", "L1H1", "L1 mlp", "biases")
    theirs = {"L0 mlp": "0_mlp_out", "L1 mlp": "1_mlp_out", "embedding": "embed"}
    for name, value in zip(found.components[:-1], found.values, strict=False):
        torch.testing.assert_close(value, expected[theirs.get(name, name)], atol=1e-4, rtol=1e-4)
        assert value.std() > 1e-3
    answer = logits[:, -1, task().vocabulary.true] - logits[:, -1, task().vocabulary.false]
    torch.testing.assert_close(found.total, answer, atol=1e-4, rtol=1e-4)
    assert_complete(found)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found.values[:-1].sum(0), found.total, atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalization", ["LN", "none"])
def test_total_is_the_models_own_answer(normalization: str) -> None:
    model = random_model(normalization=normalization)
    rows = task().rows(kind="question", split="test")[:600]  # more than a batch
    found = on_answers(model, task(), rows)
    np.testing.assert_allclose(found.total, true_logit_difference(model, task(), rows), atol=1e-4)
    assert_complete(found)


def test_a_table_signs_each_question_by_its_answer() -> None:
    model = random_model()
    rows = task().rows(kind="question", split="test", subset="d2_consistent")
    rows = rows[np.isin(task().table["alias"].iloc[rows], task().table["alias"].iloc[rows].unique()[:10])]
    found, answer = on_answers(model, task(), rows), task().table["answer"].to_numpy()[rows]
    table = attribute_answers(model, task(), CONFIG).query("subset == 'd2_consistent'")
    values = torch.cat([found.values, found.total[None]]).numpy()
    for name, value in zip([*found.components, TOTAL], values, strict=True):
        part = table[table["component"] == name].set_index("contains")["difference"]
        assert part[True] == pytest.approx(value[answer].mean(), abs=1e-5)
        assert part[False] == pytest.approx(-value[~answer].mean(), abs=1e-5)


def test_minus_is_a_mean() -> None:
    model = random_model()
    tokens, read, plus = task().tokens[-5:], torch.full((5,), 6), torch.full((5,), 3)
    ids = torch.tensor([1, 2, 4])
    together = direct_logit_attribution(model, tokens, read=read, plus=plus, minus=ids.expand(5, 3))
    single = [
        direct_logit_attribution(model, tokens, read=read, plus=plus, minus=torch.full((5, 1), int(i))).values
        for i in ids
    ]
    torch.testing.assert_close(together.values, torch.stack(single).mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("parallel", [True, False])
def test_both_classes_of_model(parallel: bool, tmp_path: Path) -> None:
    """The same contributions, complete, and a model that is as it was."""
    folder = saved(neox(use_parallel_residual=parallel), tmp_path)
    rows = short_task().rows(kind="question", split="test")[:50]
    found = []
    for bridge in (False, True):
        model = loading.load(folder, device="cpu", bridge=bridge)
        with assert_unchanged(model):
            found.append(on_answers(model, short_task(), rows))
        assert_complete(found[-1])
        np.testing.assert_allclose(
            found[-1].total, true_logit_difference(model, short_task(), rows), atol=1e-4
        )
    assert len(found[0].components) == 2 * (4 + 1) + 2
    torch.testing.assert_close(found[0].values, found[1].values, atol=1e-4, rtol=1e-4)


# --------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_attributed() -> None:
    model = planted_model(task(), Mechanism())
    n = torch.zeros(2, dtype=torch.long)

    def of(plus: int, read: int) -> Attribution:
        tokens = task().tokens[-2:]
        return direct_logit_attribution(model, tokens, read=n + read, plus=n + plus, minus=n[:, None])

    assert len(of(plus=1, read=6).total) == 2
    nothing = direct_logit_attribution(model, task().tokens[:0], read=n[:0], plus=n[:0], minus=n[:0, None])
    assert nothing.values.shape == (len(COMPONENTS), 0)
    with pytest.raises(MechoclError, match=r"logit of token -1, but there are those of 0 to \d+"):
        of(plus=-1, read=6)
    with pytest.raises(MechoclError, match=f"logit of token {model.b_U.shape[0]}"):
        of(plus=model.b_U.shape[0], read=6)
    with pytest.raises(MechoclError, match="stream at position 8, but there are those of 0 to 7"):
        of(plus=1, read=8)
    with pytest.raises(MechoclError, match="no position 'n9'; they have alias, %, n1"):
        attribute_answers(model, task(), AttributionConfig(positions=("n9",)))
    model.add_hook("blocks.0.attn.hook_z", lambda x, hook: x)
    with pytest.raises(MechoclError, match="has a hook"):
        attribute_answers(model, task(), CONFIG)


def test_config_refuses_nonsense() -> None:
    with pytest.raises(MechoclError, match="positions is empty"):
        AttributionConfig(positions=())
    with pytest.raises(MechoclError, match="aliases_per_subset is 0"):
        AttributionConfig(aliases_per_subset=0)


# --------------------------------------------------------------------------------------------- figures


@pytest.fixture
def over_seeds() -> pd.DataFrame:
    """Two seeds; contributions of one subset to read off."""
    values = {(0, True): (1.0, 2.0), (0, False): (3.0, 0.0), (1, True): (3.0, 4.0), (1, False): (5.0, 2.0)}
    return pd.DataFrame(
        [
            {"seed": seed, "subset": subset, "contains": contains, "component": component, "position": "=",
             "difference": value + (subset == "d2_consistent"), "integer": -value}
            for (seed, contains), pair in values.items()
            for subset in ("d1_consistent", "d2_consistent")
            for component, value in zip(("L0H0", TOTAL), pair, strict=True)
        ]
    )  # fmt: skip


def test_bars_are_means_with_a_dot_per_seed(over_seeds: pd.DataFrame) -> None:
    found = summarize_attribution(over_seeds, quantity="difference")
    figure = lens_plots.attribution(found, words=WORDS)
    bars = [t for t in figure.data if t.type == "bar"]
    dots = [t for t in figure.data if t.type == "scatter"]
    assert len(bars) == len(dots) == 3 * 2  # three panels, two subsets
    np.testing.assert_allclose([bar.y for bar in bars[::2]], [[2, 3], [4, 1], [3, 2]])
    np.testing.assert_allclose([bar.y for bar in bars[1::2]], [[3, 4], [5, 2], [4, 3]])
    np.testing.assert_allclose(dots[0].y, [1, 2, 3, 4])  # seed by seed
    np.testing.assert_allclose(dots[0].x[:2], bars[0].x)
    np.testing.assert_allclose(bars[0].error_y.array, 12.7062, rtol=1e-4)  # t(.975, 1 df) · 1
    assert sum(bool(t.showlegend) for t in figure.data) == 2
    alone = summarize_attribution(over_seeds[over_seeds["seed"] == 0], quantity="integer")
    one_seed = lens_plots.attribution(alone, words=WORDS)
    assert one_seed.data[0].error_y.array is None
    np.testing.assert_allclose(one_seed.data[0].y, [-1, -2])
