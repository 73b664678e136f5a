"""The logit lens on a model in which each integer's rank follows from the construction."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Mechanism, planted_model, small_task
from scipy.stats import rankdata
from transformer_lens import HookedTransformer

from mechocl.errors import MechoclError
from mechocl.lenses.logit_lens import QUANTITIES, LensConfig, frozen_norm, logit_lens, written
from mechocl.models.components import take_apart
from mechocl.report import lens_plots
from toy_models import architectures
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.list_questioning import WORDS
from toy_models.subsets import Fractions
from toy_models.task import Task

CONFIG = LensConfig(of=("stream",), aliases_per_subset=10)
LAYERS = ["embed", "layer 0", "layer 1", "layer 2"]
POSITIONS = ["alias", "%", "n1", "n2", "n3", "n4", "="]
TAG_2 = ("qd2_inconsistent", "d2_consistent")


@cache
def task() -> Task:
    return small_task()


EVERYTHING = LensConfig(aliases_per_subset=10, of=("stream", "heads", "mlps"))


@cache
def components() -> pd.DataFrame:
    return logit_lens(planted_model(task(), Mechanism()), task(), EVERYTHING)


@cache
def unretrieved() -> pd.DataFrame:
    """Mean of entity + 1 (the rank where nothing is retrieved) and share of entity 0, over the questions."""
    table = task().table.iloc[task().rows(kind="question", split="test")]
    kept = table.drop_duplicates("alias").groupby("subset", observed=True).head(CONFIG.aliases_per_subset)
    table = table[table["alias"].isin(kept["alias"])].rename(columns={"answer": "contains"})
    by = table.assign(
        rank=table["entity"] + 1, first=table["entity"] == 0, subset=table["subset"].astype(str)
    )
    return by.groupby(["subset", "contains"])[["rank", "first"]].mean()


def assert_ranks(lens: pd.DataFrame, *, retrieved: bool) -> None:
    """Rank 1 everywhere, or the rank of an integer that is not there."""
    assert len(lens) > 0
    if retrieved:
        assert (lens[["rank", "first"]] == 1).all(axis=None)
    else:
        expected = unretrieved().loc[pd.MultiIndex.from_frame(lens[["subset", "contains"]])]
        np.testing.assert_allclose(lens[["rank", "first"]], expected, rtol=1e-12)


@pytest.mark.parametrize("tag2_gain", [1.0, 0.0])
def test_planted_ranks(tag2_gain: float) -> None:
    """Retrieved in layer 1, by `=` from the alias, which retrieves its own integer; tag 2 is kept from `=`."""
    mechanism = Mechanism(n_layers=3, retrieval_layer=1, comparison_layer=2, tag2_gain=tag2_gain)
    lens = logit_lens(planted_model(task(), mechanism), task(), CONFIG)
    keys = ["subset", "contains", "component", "layer", "position"]
    assert list(lens.columns) == [*keys, *QUANTITIES, "questions"]
    assert (lens["component"] == "stream").all()
    assert len(lens) == 5 * 2 * len(LAYERS) * len(POSITIONS)
    assert lens["layer"].drop_duplicates().tolist() == LAYERS
    assert lens["position"].drop_duplicates().tolist() == POSITIONS
    assert (lens["questions"] == 20).all()  # 10 aliases, two questions of each kind

    before = lens["layer"].isin(LAYERS[:2])
    at_equals, at_alias = lens["position"] == "=", lens["position"] == "alias"
    suppressed = lens["subset"].isin(TAG_2) if tag2_gain == 0 else np.zeros(len(lens), dtype=bool)
    assert_ranks(lens[before], retrieved=False)
    assert_ranks(lens[~at_equals & ~at_alias], retrieved=False)
    assert_ranks(lens[~before & at_alias], retrieved=True)
    assert_ranks(lens[~before & at_equals & ~suppressed], retrieved=True)
    if tag2_gain == 0:
        assert_ranks(lens[~before & at_equals & suppressed], retrieved=False)


def test_the_checks_above_can_fail() -> None:
    lens = logit_lens(planted_model(task(), Mechanism()), task(), CONFIG)
    at_equals = lens[(lens["position"] == "=") & (lens["layer"] == "layer 1")]
    with pytest.raises(AssertionError):
        assert_ranks(at_equals, retrieved=False)
    with pytest.raises(AssertionError):
        assert_ranks(lens[lens["layer"] == "embed"], retrieved=True)


# -------------------------------------------------------------------------- vocabulary and components


def at(rows: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows with these values; there must be some, of every subset and kind of question."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 5 * 2
    return rows


def test_planted_vocabulary() -> None:
    """The planted model's docstring: rank i + 3 before, 1 once retrieved, 2 after the answer; ±10."""
    entity_plus_1 = unretrieved()["rank"]
    for layer in ("embed", "layer 0", "layer 1"):
        for position in POSITIONS:
            rows = at(components(), component="stream", layer=layer, position=position)
            compared = layer == "layer 1" and position != "alias"
            retrieved = layer != "embed" and position in ("alias", "=")
            if retrieved:
                rank = 2.0 if compared else 1.0
            else:
                before = entity_plus_1.loc[pd.MultiIndex.from_frame(rows[["subset", "contains"]])].to_numpy()
                rank = before + (1 if compared else 2)
            np.testing.assert_allclose(rows["vocabulary_rank"], rank)
            sign = np.where(rows["contains"] & (position == "="), 1, -1)
            np.testing.assert_allclose(rows["difference"], 10 * sign * compared)
    np.testing.assert_allclose(components().query("component == 'stream' and layer == 'layer 1'")["kl"], 0)


def test_planted_components() -> None:
    """L0H0 writes the integer, L1H0 the answer (no integer: all tie), the heads 1 nothing; there is no MLP."""
    lens, tokens = components(), task().vocabulary.outputs
    assert lens["component"].drop_duplicates().tolist() == ["stream", "L0H0", "L0H1", "L1H0", "L1H1"]
    for name, layer in (("L0H0", "layer 0"), ("L0H1", "layer 0"), ("L1H0", "layer 1"), ("L1H1", "layer 1")):
        for position in POSITIONS:
            rows = at(lens, component=name, layer=layer, position=position)
            retrieves = name == "L0H0" and position in ("alias", "=")
            answers = 10 * (name == "L1H0" and position != "alias")
            assert (rows["rank"] == (1 if retrieves else 6.5)).all()
            assert (rows["first"] == retrieves).all()
            assert (rows["vocabulary_rank"] == (1 if retrieves else (tokens + 1) / 2)).all()
            sign = np.where(rows["contains"] & (position == "="), 1, -1)
            np.testing.assert_allclose(rows["difference"], sign * answers)
            assert rows["kl"].isna().all()


def random_model(normalization: str) -> HookedTransformer:
    """Two layers; every weight and bias away from 0 and 1."""
    architecture = architectures.Architecture(
        n_layers=2, d_model=16, n_heads=2, d_mlp=32, init_std=0.3, normalization=normalization
    )
    model = architectures.build(
        architecture,
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=0,
    )
    for name, parameter in model.named_parameters():
        if ".b" in name or ".w" in name:
            parameter.data += torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    return model


def expected(values: torch.Tensor, own: torch.Tensor, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The lens's numbers at every position, by SciPy and torch, from logits (`own`: the model's)."""
    first, last = task().vocabulary.integers
    entity = task().table["entity"].to_numpy()[rows]
    ranks = rankdata(-values[:, :7, first:last].numpy(), axis=-1)[range(len(rows)), :, entity]
    of_all = rankdata(-values[:, :7].numpy(), axis=-1)[range(len(rows)), :, first + entity]
    p, q = own[:, :7].log_softmax(-1), values[:, :7].log_softmax(-1)
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    difference = values[:, :7, task().vocabulary.true] - values[:, :7, task().vocabulary.false]
    found = (ranks, ranks == 1, of_all, difference.numpy(), kl.numpy())
    return {name: value.mean(0) for name, value in zip(QUANTITIES, found, strict=True)}


@pytest.mark.parametrize("normalization", ["LN", "none"])
def test_lens_is_the_models_own_unembedding(normalization: str) -> None:
    """Ranks by SciPy, of logits through the final layer norm (or none); at the top, the model's own logits.

    Heads and MLPs as TransformerLens takes them apart and scales them.
    """
    model = random_model(normalization)
    w = model.ln_final.w if normalization == "LN" else 1.0
    lens = logit_lens(model, task(), replace(EVERYTHING, aliases_per_subset=1))
    for (subset, contains), found in lens.groupby(["subset", "contains"]):
        rows = task().rows(kind="question", split="test", subset=subset, answer=contains)
        rows = rows[task().table["alias"].iloc[rows] == task().table["alias"].iloc[rows].min()]
        with torch.no_grad():
            logits, cache = model.run_with_cache(task().tokens[rows])
            middle = cache["blocks.0.hook_resid_post"]
            if normalization == "LN":
                middle = torch.nn.functional.layer_norm(
                    middle, middle.shape[-1:], model.ln_final.w, model.ln_final.b, model.cfg.eps
                )
            values = {("stream", "layer 0"): middle @ model.W_U + model.b_U, ("stream", "layer 1"): logits}
            for layer in (0, 1):
                z, mlp = cache[f"blocks.{layer}.attn.hook_z"], cache[f"blocks.{layer}.hook_mlp_out"]
                parts = [z[:, :, head] @ model.W_O[layer, head] for head in (0, 1)]
                stack = cache.apply_ln_to_stack(torch.stack([*parts, mlp]), layer=-1)
                names = (f"L{layer}H0", f"L{layer}H1", f"L{layer} mlp")
                for name, x in zip(names, stack * w @ model.W_U, strict=True):
                    values[name, f"layer {layer}"] = x
        assert set(values) == set(zip(found["component"], found["layer"], strict=True)) - {
            ("stream", "embed")
        }
        for (component, layer), own in values.items():
            part = found[(found["component"] == component) & (found["layer"] == layer)]
            for name, value in expected(own, logits, rows).items():
                if name != "kl" or component == "stream":
                    np.testing.assert_allclose(part[name], value, atol=1e-4)


@pytest.mark.parametrize("normalization", ["LN", "none"])
def test_components_sum_to_the_stream_and_their_frozen_norms_to_its_norm(normalization: str) -> None:
    c = take_apart(random_model(normalization))
    pieces = written(c, task().tokens[-50:])
    stream = pieces.stream[-1]
    torch.testing.assert_close(pieces.values.sum(0), stream, atol=1e-4, rtol=0)
    shift = 0.0 if c.ln_final.b is None else c.ln_final.b
    normed = frozen_norm(c, pieces.values, stream=stream).sum(0) + shift
    torch.testing.assert_close(normed, c.ln_final(stream), atol=1e-4, rtol=0)
    with pytest.raises(AssertionError):  # and every part counts
        torch.testing.assert_close(pieces.values[:-1].sum(0), stream, atol=1e-4, rtol=0)


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("LN")
    few = replace(EVERYTHING, aliases_per_subset=3)
    whole = logit_lens(model, task(), few)
    monkeypatch.setattr("mechocl.lenses.logit_lens._BATCH", 7)
    pd.testing.assert_frame_equal(logit_lens(model, task(), few), whole, atol=1e-5)


def test_the_stream_alone_is_a_part_of_everything() -> None:
    stream = logit_lens(planted_model(task(), Mechanism()), task(), CONFIG)
    part = components()[components()["component"] == "stream"].reset_index(drop=True)
    pd.testing.assert_frame_equal(stream, part)


def test_a_hooked_model_is_refused() -> None:
    model = planted_model(task(), Mechanism())
    model.add_hook("blocks.0.attn.hook_z", lambda x, hook: x)
    with pytest.raises(MechoclError, match="has a hook at blocks"):
        logit_lens(model, task(), CONFIG)


def test_component_figure_shows_the_table() -> None:
    """A panel per subset, a row per component (the stream's layers first), a column per position."""
    figure = lens_plots.component_lens(components(), words=WORDS, value="rank", contains=True)
    assert len(figure.data) == 5
    panel = figure.data[2]
    assert "d1_consistent" in figure.layout.annotations[2].text
    names = ["stream, embed", "stream, layer 0", "stream, layer 1", "L0H0", "L0H1", "L1H0", "L1H1"]
    assert list(panel.y) == names
    assert list(panel.x) == POSITIONS
    kept = components().query("subset == 'd1_consistent' and contains and component == 'L0H0'")
    np.testing.assert_allclose(panel.z[3], kept["rank"])
    of_streams = lens_plots.component_lens(components(), words=WORDS, value="kl", contains=True)
    assert list(of_streams.data[0].y) == names[:3]  # a component has no KL
    assert of_streams.layout.coloraxis.cmin == 0
    signed = lens_plots.component_lens(components(), words=WORDS, value="difference", contains=True)
    assert (signed.layout.coloraxis.cmin, signed.layout.coloraxis.cmax) == (-10, 10)


def test_ties_take_their_mean_rank() -> None:
    """A model whose logits are all 0: every integer has rank (n + 1) / 2, and none is first."""
    model = planted_model(task(), Mechanism())
    for parameter in model.parameters():
        parameter.data.zero_()
    lens = logit_lens(model, task(), LensConfig(of=("stream",), aliases_per_subset=2))
    assert (lens["rank"] == 6.5).all()
    assert (lens["first"] == 0).all()


def test_questions_that_name_the_integer_are_left_out() -> None:
    fractions = Fractions(qd1=0.3, qd2=0.3, q_entity=0.2, d1=0.2, d2=0.0, d3=0.0)
    config = IntegerSetConfig(
        aliases=40, integers=12, list_length=4, test_questions=2, fractions=fractions, tokens_per_alias=2
    )
    task = build(config, seed=0)
    model = architectures.build(
        architectures.ARCHITECTURES["nano"],
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=0,
    )
    lens = logit_lens(model, task, LensConfig(of=("stream",), aliases_per_subset=3))
    assert set(lens["subset"]) == {"qd1_consistent", "qd2_inconsistent", "d1_consistent"}
    assert lens["position"].drop_duplicates().tolist() == ["alias 1", "alias 2", *POSITIONS[1:]]


def test_a_task_without_aliases_is_refused() -> None:
    fractions = Fractions(qd1=0.0, qd2=0.0, q_entity=1.0, d1=0.0, d2=0.0, d3=0.0)
    config = IntegerSetConfig(aliases=20, integers=12, list_length=4, fractions=fractions)
    task = build(config, seed=0)
    with pytest.raises(MechoclError, match="no test questions about aliases"):
        logit_lens(planted_model(small_task(), Mechanism()), task, CONFIG)


def test_no_aliases_at_all_are_refused() -> None:
    with pytest.raises(MechoclError, match="aliases_per_subset is 0"):
        LensConfig(of=("stream",), aliases_per_subset=0)


def test_a_lens_of_nothing_is_refused() -> None:
    with pytest.raises(MechoclError, match="a lens of nothing does not exist; use stream, heads or mlps"):
        LensConfig(of=())
