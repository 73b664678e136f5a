"""Every analysis on other models than the plain GPT-NeoX of `test_both_classes.py`: GPT-2, folded layer norms, half precision."""

import pandas as pd
import pytest
import torch
from contract import (
    NOT_SHARED,
    OF_ANY_MODEL,
    assert_tables_equal,
    assert_unchanged,
    companion,
    compute,
    loaded,
)

from mechocl.analyses.registry import ANALYSES
from mechocl.errors import MechoclError


@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_gpt2_gives_the_same_table_in_both_classes(name: str) -> None:
    """And leaves the models as they were."""
    tables = []
    for bridge in (False, True):
        model = loaded(0, gpt_2=True, bridge=bridge)
        with assert_unchanged(model), assert_unchanged(companion(model)):
            tables.append(compute(name, model).drop(columns=NOT_SHARED.get(name, [])))
    assert len(tables[0]) > 0
    assert_tables_equal(*tables)


def comparable(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Rows that folding leaves as they are, in an order that does not hang on the last bits of a number.

    It makes the scale of a layer norm part of the weights of layers and of the unembedding, so grafts of these are others.
    """
    if name == "graft":
        own = table["group"].str.contains("layer|unembedding")
        return table[~own].drop(columns="change").reset_index(drop=True)
    if name == "circuit":
        labels = ["contrast", "kind", "sender", "receiver", "place", "edges", "draw"]
        drawn = (
            table["kind"] == "random"
        )  # from the edges in the order of their effects, where two may almost tie
        return table[~drawn].sort_values(labels, ignore_index=True)
    return table


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_folded_layer_norms_change_no_number(name: str, bridge: bool) -> None:
    """The residual stream and the logits stay the same."""
    plain, folded = (
        comparable(name, compute(name, loaded(0, bridge=bridge, fold=fold))) for fold in (False, True)
    )
    assert len(plain) > 0
    assert_tables_equal(plain, folded)


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
@pytest.mark.parametrize("name", ANALYSES)
def test_half_precision_is_refused_in_one_line_with_what_works(name: str, bridge: bool) -> None:
    """What works is to load it in float32, as every other test does."""
    half = loaded(0, bridge=bridge, dtype=torch.bfloat16)
    with pytest.raises(MechoclError, match=r"the model is in bfloat16, .* dtype=torch\.float32") as raised:
        compute(name, half)
    assert "\n" not in str(raised.value)
