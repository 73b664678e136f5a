"""Blocks that share one set of weights: as they are trained, written, read, opened and contradicted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_book.test_miniature import MODEL, WORLD, run_of
from finetuned import ignore, train
from safetensors.torch import load_file, save_file

import mechocl
from mechocl.errors import MechoclError
from mechocl.models import convert, hub
from mechocl.runs import pretraining

SHARED = replace(MODEL, n_layers=2, shared_layers=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shared") / "model"
    pretraining.pretrain(out, WORLD, SHARED, seed=0, device="cpu", save_every_s=1e9, progress=ignore)
    return out


def blocks_of(path: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of each block, as an ordinary reader of the file finds them."""
    weights = load_file(path / "model.safetensors")
    parts = [f"gpt_neox.layers.{k}." for k in range(2)]
    return [{n.removeprefix(p): w for n, w in weights.items() if n.startswith(p)} for p in parts]


def assert_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() != set()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_trained_is_one_block(base: Path) -> None:
    """A step of plain gradient descent moves the shared weights by the sum of what it moves each block of an ordinary model by."""
    shared = hub.read_model(base)
    config = json.loads((base / "config.json").read_text())
    ordinary = type(shared)(type(shared.config)(**config | {"shared_layers": False}))
    ordinary.load_state_dict(shared.state_dict())
    tokens = torch.arange(2, 22).reshape(2, 10)
    for model in (shared, ordinary):
        model(input_ids=tokens, labels=tokens).loss.backward()
    (first, second), (left, right) = (convert.layers_of(model) for model in (shared, ordinary))
    own = dict(first.named_parameters())
    assert all(own[name] is parameter for name, parameter in second.named_parameters())
    for name, parameter in left.named_parameters():
        sum_of_both = parameter.grad + right.get_parameter(name).grad
        torch.testing.assert_close(own[name].grad, sum_of_both, rtol=1e-4, atol=1e-6)
    assert sum(p.numel() for p in ordinary.parameters()) - sum(p.numel() for p in shared.parameters()) == sum(
        p.numel() for p in own.values()
    )


def test_fine_tuning_keeps_them_alike_and_the_toolbox_opens_them(base: Path, tmp_path: Path) -> None:
    assert_alike(*blocks_of(base))
    run = run_of(tmp_path, base)
    folder = train(run)
    path = folder.model_path(folder.final())
    before, after = blocks_of(base)[0], blocks_of(path)
    assert_alike(*after)
    assert any(not torch.equal(before[name], after[0][name]) for name in before)
    assert mechocl.load(path).cfg.n_layers == 2


def test_a_file_that_contradicts_its_config(base: Path, tmp_path: Path) -> None:
    """It is refused; and with the remedy it is read as it is."""
    path = tmp_path / "model"
    path.mkdir()
    weights = load_file(base / "model.safetensors")
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    save_file({**weights, name: weights[name] + 1.0}, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        MechoclError, match="says shared_layers, and the blocks in the weights beside it differ"
    ):
        hub.read_model(path)
    (path / "config.json").write_text(json.dumps(config | {"shared_layers": False}))
    assert torch.equal(hub.read_model(path).state_dict()[name], weights[name] + 1.0)


def test_adapters_on_shared_blocks_are_refused(base: Path, tmp_path: Path) -> None:
    lora = (
        "training.lora={rank=2}",
        "training.stages.0.embedding_rows=all",
        "training.stages.1.embedding_rows=all",
    )
    run = run_of(
        tmp_path, base, *lora, "training.stages.0.embedding_rate=1.0", "training.stages.1.embedding_rate=1.0"
    )
    with pytest.raises(
        MechoclError, match="share their weights, which adapters would make different; leave out"
    ):
        train(run)
