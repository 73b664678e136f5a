"""Activations on disk: computed once, of one checkpoint only, within a limit."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.runs.activation_cache import FOLDER, ActivationCache, Precision, size
from mechocl.runs.folders import Checkpoint

CHECKPOINT = Checkpoint(seed=3, stage=2, step=40, name="stage-2-final.safetensors", sha256="a" * 64)
OTHER = Checkpoint(seed=3, stage=2, step=40, name="stage-2-final.safetensors", sha256="b" * 64)
SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
TOKENS = torch.arange(12).reshape(4, 3)


class Model:
    """Activations that are a formula of the tokens and the layer, and a list of what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        self.calls.append(tuple(sites))
        return {site: activations(tokens, site) for site in sites}


def activations(tokens: Tensor, site: str) -> Tensor:
    layer = int(site.split(".")[1])
    return 2 + torch.sin(tokens[:, :, None] + 10 * layer + torch.arange(5) / 7)


def cache(run: Path, *, limit_gb: float = 1.0, dtype: Precision = "float32") -> ActivationCache:
    return ActivationCache(run=run, limit_gb=limit_gb, dtype=dtype)


def written(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def test_activations_are_computed_once(tmp_path: Path) -> None:
    model = Model()
    for _ in range(3):  # a cache of its own each, as another process has
        found = cache(tmp_path).collect(CHECKPOINT, model)(TOKENS, SITES)
        assert list(found) == list(SITES)
        for site in SITES:
            torch.testing.assert_close(found[site], activations(TOKENS, site), rtol=0, atol=0)
    assert model.calls == [SITES]
    folder = tmp_path / FOLDER / "seed-3" / "stage-2-final"
    assert [path.parent for path in written(tmp_path)] == [folder] * 2
    assert size(tmp_path) == sum(path.stat().st_size for path in written(tmp_path))
    assert size(tmp_path) >= 2 * 4 * 3 * 5 * 4


def test_only_missing_sites_are_computed(tmp_path: Path) -> None:
    model = Model()
    collect = cache(tmp_path).collect(CHECKPOINT, model)
    collect(TOKENS, SITES[1:])
    both = collect(TOKENS, SITES)
    assert model.calls == [SITES[1:], SITES[:1]]
    assert list(both) == list(SITES)
    for site in SITES:
        assert torch.equal(both[site], activations(TOKENS, site))


def test_other_examples_checkpoints_and_precisions_are_computed_anew(tmp_path: Path) -> None:
    model = Model()
    earlier = Checkpoint(seed=3, stage=1, step=0, name="stage-1-000000.safetensors", sha256="c" * 64)
    other_seed = Checkpoint(seed=4, stage=2, step=40, name="stage-2-final.safetensors", sha256="d" * 64)
    for checkpoint in (CHECKPOINT, earlier, other_seed):
        cache(tmp_path).collect(checkpoint, model)(TOKENS, SITES)
    cache(tmp_path, dtype="float16").collect(CHECKPOINT, model)(TOKENS, SITES)
    found = cache(tmp_path).collect(CHECKPOINT, model)(TOKENS + 1, SITES)
    assert model.calls == [SITES] * 5
    assert torch.equal(found[SITES[0]], activations(TOKENS + 1, SITES[0]))
    assert len(written(tmp_path)) == 10


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 24), ("float16", 11), ("bfloat16", 8)])
def test_activations_come_back_in_single_precision(tmp_path: Path, dtype: Precision, bits: int) -> None:
    """Rounded to a significand of so many bits: a relative error of at most 2⁻ᵇⁱᵗˢ. Fresh and read ones are equal."""
    collect = cache(tmp_path, dtype=dtype).collect(CHECKPOINT, Model())
    fresh, read = collect(TOKENS, SITES), collect(TOKENS, SITES)
    for site in SITES:
        assert fresh[site].dtype == read[site].dtype == torch.float32
        assert torch.equal(fresh[site], read[site])
        exact = activations(TOKENS, site)
        error = ((read[site] - exact) / exact).abs().max()
        assert error <= 2.0**-bits
        assert dtype == "float32" or error > 2.0 ** -(bits + 4)  # it was rounded
    smallest = min(path.stat().st_size for path in written(tmp_path))
    assert smallest < 4 * 3 * 5 * (4 if dtype == "float32" else 2) + 450


def test_another_checkpoint_at_the_same_path_is_refused(tmp_path: Path) -> None:
    """Trained again into the same folder: same name, other weights."""
    cache(tmp_path).collect(CHECKPOINT, Model())(TOKENS, SITES)
    before = {path: path.read_bytes() for path in written(tmp_path)}
    model = Model()
    with pytest.raises(MechoclError) as refusal:
        cache(tmp_path).collect(OTHER, model)(TOKENS, SITES)
    assert str(refusal.value) == (
        f"{next(p for p in before if SITES[0] in p.name)} holds activations of another checkpoint than "
        "stage-2-final.safetensors of seed 3; delete it, and it is computed again"
    )
    assert model.calls == []
    assert {path: path.read_bytes() for path in written(tmp_path)} == before
    for path in before:
        path.unlink()
    cache(tmp_path).collect(OTHER, model)(TOKENS, SITES)
    assert model.calls == [SITES]


@pytest.mark.parametrize("other", ["site", "examples", "precision"])
def test_a_file_in_the_place_of_another_is_refused(tmp_path: Path, other: str) -> None:
    """Whole files of one checkpoint, renamed or exchanged: of another hook point, other examples, another precision."""
    collect = cache(tmp_path).collect(CHECKPOINT, Model())
    collect(TOKENS, SITES)
    collect(TOKENS + 1, SITES)
    cache(tmp_path, dtype="bfloat16").collect(CHECKPOINT, Model())(TOKENS, SITES)
    name_of = {path: tuple(path.name.split("-", 2)) for path in written(tmp_path)}
    own = next(path for path, (examples, dtype, _) in name_of.items() if dtype == "bfloat16")
    examples = next(examples for examples, dtype, _ in name_of.values() if dtype == "bfloat16")
    own = own.with_name(f"{examples}-float32-{SITES[0]}.safetensors")
    place = ["examples", "precision", "site"].index(other)
    mine = (examples, "float32", f"{SITES[0]}.safetensors")
    (found,) = [
        path
        for path, name in name_of.items()
        if [a != b for a, b in zip(name, mine, strict=True)] == [i == place for i in range(3)]
    ]
    own.write_bytes(found.read_bytes())
    with pytest.raises(MechoclError, match=f"{own.name} holds what belongs into {found.name}; delete it"):
        collect(TOKENS, SITES)
    own.unlink()
    assert torch.equal(collect(TOKENS, SITES)[SITES[0]], activations(TOKENS, SITES[0]))


@pytest.mark.parametrize("kept", [0, 5, 200], ids=["empty", "half a header", "half the numbers"])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    collect = cache(tmp_path).collect(CHECKPOINT, Model())
    collect(TOKENS, SITES)
    path = written(tmp_path)[0]
    assert path.stat().st_size > kept
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        MechoclError, match=rf"^{re.escape(str(path))} is damaged.*; delete it, and it is computed again"
    ) as refusal:
        collect(TOKENS, SITES)
    assert "\n" not in str(refusal.value)


def test_the_limit_is_kept(tmp_path: Path) -> None:
    """Numbers of 480 bytes are kept; 480 more are over the limit of what is there and 400."""
    collect = cache(tmp_path, limit_gb=1e-3).collect(CHECKPOINT, Model())
    collect(TOKENS, SITES)
    there = size(tmp_path)
    limit = (there + 400) / 1e9
    before = written(tmp_path)
    small = cache(tmp_path, limit_gb=limit).collect(CHECKPOINT, Model())
    with pytest.raises(MechoclError) as refusal:
        small(TOKENS + 1, SITES)
    assert str(refusal.value) == (
        f"{tmp_path / FOLDER} holds {there / 1e9:.3g} GB and 4.8e-07 more are needed, over the limit of "
        f"{limit:g}; raise --cache-gb, delete the folder, or keep nothing with --cache-gb 0"
    )
    assert written(tmp_path) == before
    assert torch.equal(small(TOKENS, SITES)[SITES[0]], activations(TOKENS, SITES[0]))  # reading needs no room
    assert len(small(TOKENS + 1, SITES[:1])) == 1  # and 240 fit


def test_half_precision_needs_half_of_the_room(tmp_path: Path) -> None:
    limit = 300 / 1e9
    with pytest.raises(MechoclError, match=r"holds 0 GB and 4\.8e-07 more are needed"):
        cache(tmp_path, limit_gb=limit).collect(CHECKPOINT, Model())(TOKENS, SITES)
    assert written(tmp_path) == []
    cache(tmp_path, limit_gb=limit, dtype="bfloat16").collect(CHECKPOINT, Model())(TOKENS, SITES)
    assert len(written(tmp_path)) == 2


def test_a_limit_of_zero_keeps_nothing(tmp_path: Path) -> None:
    model = Model()
    collect = cache(tmp_path, limit_gb=0.0).collect(CHECKPOINT, model)
    for _ in range(2):
        assert torch.equal(collect(TOKENS, SITES)[SITES[1]], activations(TOKENS, SITES[1]))
    assert model.calls == [SITES, SITES]
    assert list(tmp_path.iterdir()) == []
    assert size(tmp_path) == 0


def test_the_limit_counts_what_a_killed_write_left(tmp_path: Path) -> None:
    collect = cache(tmp_path, limit_gb=2e-6).collect(CHECKPOINT, Model())
    (tmp_path / FOLDER / "seed-3").mkdir(parents=True)
    left = tmp_path / FOLDER / "seed-3" / ".a.safetensors.0a1b.tmp"
    left.write_bytes(bytes(1900))
    assert size(tmp_path) == 1900
    with pytest.raises(MechoclError, match="raise --cache-gb"):
        collect(TOKENS, SITES)
    left.unlink()
    collect(TOKENS, SITES)
