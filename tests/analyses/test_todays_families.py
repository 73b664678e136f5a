"""A closed-book run of a model of today is analysed as any other: shared key/value heads, norms behind, short windows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import text_worlds
from checkpoints import LLAMA, randomised
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM

from mechocl.analyses import jobs
from mechocl.interventions.circuits import CircuitConfig
from mechocl.interventions.grafting import GraftConfig
from mechocl.interventions.patching import PatchingConfig
from mechocl.lenses.logit_lens import LensConfig

SHAPE = {k: v for k, v in LLAMA.items() if k != "vocab_size"} | {
    "max_position_embeddings": 256,
    "head_dim": 8,
    "pad_token_id": 0,
}


def qwen3() -> Any:
    return randomised(Qwen3ForCausalLM(Qwen3Config(**SHAPE, vocab_size=len(text_worlds.tokenizer()))))


def gemma3() -> Any:
    """With a window of 64 tokens, which is shorter than its positions and longer than a question."""
    options = {"sliding_window": 64, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2}
    return randomised(
        Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **options, vocab_size=len(text_worlds.tokenizer())))
    )


@pytest.mark.parametrize(("build", "positions"), [(qwen3, 256), (gemma3, 64)])
def test_a_run_is_analysed(build: Callable[[], Any], positions: int, tmp_path: Path) -> None:
    recipe = text_worlds.recipe(tmp_path, text_worlds.folder(tmp_path / "model", build()))
    run = jobs.train_run(tmp_path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)
    assert run.kind.can_be_taken_apart(run)
    seed = run.seed(0)
    assert seed.model_at(seed.final(), device="cpu").cfg.n_ctx == positions

    def analyse(name: str, config: Any) -> pd.DataFrame:
        return jobs.analyse_run(run, name, config, stage=None, device="cpu", jobs=1)

    assert analyse("lens", LensConfig(of=("stream",), aliases_per_subset=3))["rank"].notna().all()
    pairs = ("d1-to-other-d2",)
    patched = analyse("patch", PatchingConfig(site=("v", "z"), pairs=pairs, n_pairs=4))
    assert patched.groupby("site")["part"].unique().map(list).to_dict() == {
        "v": ["key/value head"],
        "z": ["head"],
    }
    assert patched.groupby("site")["index"].max().to_dict() == {"v": 1, "z": 3}
    edges = analyse("circuit", CircuitConfig(method="eap", pairs=pairs, n_pairs=4, random_circuits=0))
    receivers = set(edges["receiver"].dropna())
    assert {"L1KV0 k", "L1KV1 v"} <= receivers
    assert not {"L1H0 k", "L1H0 v"} & receivers
    grafted = analyse("graft", GraftConfig(aliases_per_subset=3))
    assert "layer norms" in set(grafted["group"])
