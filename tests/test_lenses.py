"""The logit lens on a model in which each integer's rank follows from the construction."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Mechanism, planted_model, small_task
from scipy.stats import rankdata

from mechocl.errors import MechoclError
from mechocl.lenses import LensConfig, logit_lens
from toy_models import architectures
from toy_models.integer_set import IntegerSetConfig, build
from toy_models.subsets import Fractions
from toy_models.task import Task

CONFIG = LensConfig(aliases_per_subset=10)
LAYERS = ["embed", "layer 0", "layer 1", "layer 2"]
POSITIONS = ["alias", "%", "n1", "n2", "n3", "n4", "="]
TAG_2 = ("qd2_inconsistent", "d2_consistent")


@cache
def task() -> Task:
    return small_task()


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
    assert list(lens.columns) == ["subset", "contains", "layer", "position", "rank", "first", "questions"]
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


@pytest.mark.parametrize("normalization", ["LN", "none"])
def test_lens_is_the_models_own_unembedding(normalization: str) -> None:
    """Ranks by SciPy, of logits through the final layer norm (or none); at the top, the model's own logits."""
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
        if ".b" in name or ".w" in name:  # away from 0 and 1
            parameter.data += torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    lens = logit_lens(model, task(), LensConfig(aliases_per_subset=1)).set_index(["subset", "contains"])
    first, last = task().vocabulary.integers
    for (subset, contains), found in lens.groupby(level=[0, 1]):
        rows = task().rows(kind="question", split="test", subset=subset, answer=contains)
        rows = rows[task().table["alias"].iloc[rows] == task().table["alias"].iloc[rows].min()]
        with torch.no_grad():
            logits, cache = model.run_with_cache(task().tokens[rows])
            middle = cache["blocks.0.hook_resid_post"]
            if normalization == "LN":
                middle = torch.nn.functional.layer_norm(
                    middle, middle.shape[-1:], model.ln_final.w, model.ln_final.b, model.cfg.eps
                )
            middle = middle @ model.W_U + model.b_U
        entity = task().table["entity"].to_numpy()[rows]
        for layer, values in (("layer 0", middle), ("layer 1", logits)):
            ranks = rankdata(-values[:, :7, first:last].numpy(), axis=-1)[range(len(rows)), :, entity]
            at_layer = found[found["layer"] == layer]
            np.testing.assert_allclose(at_layer["rank"], ranks.mean(0))
            np.testing.assert_allclose(at_layer["first"], (ranks == 1).mean(0))


def test_ties_take_their_mean_rank() -> None:
    """A model whose logits are all 0: every integer has rank (n + 1) / 2, and none is first."""
    model = planted_model(task(), Mechanism())
    for parameter in model.parameters():
        parameter.data.zero_()
    lens = logit_lens(model, task(), LensConfig(aliases_per_subset=2))
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
    lens = logit_lens(model, task, LensConfig(aliases_per_subset=3))
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
        LensConfig(aliases_per_subset=0)
