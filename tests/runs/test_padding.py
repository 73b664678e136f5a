"""Batches in two parts: which parts they are, and that losses and gradients are those of the whole batch."""

from pathlib import Path

import pytest
import text_worlds
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainingArguments

from mechocl.closed_book.batches import causal_batch
from mechocl.runs.padding import LEAST_SAVED, by_length
from mechocl.runs.trainer_state import RecordingTrainer
from toy_models.task import ROLE


def batch(lengths: list[int], *, seed: int = 0) -> dict[str, Tensor]:
    tokens = torch.randint(1, 40, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return causal_batch(tokens, torch.where(real, ROLE["word"], ROLE["pad"]), pad=0)


def padded(parts: list[dict[str, Tensor]]) -> int:
    return sum(part["input_ids"].numel() for part in parts)


def test_the_parts_are_those_that_leave_the_fewest_tokens() -> None:
    """Against all divisions of the examples by length."""
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        n = int(torch.randint(1, 9, (), generator=generator))
        lengths = torch.randint(2, 30, (n,), generator=generator).tolist()
        whole = batch(lengths, seed=seed)
        parts = by_length(whole)
        ordered = sorted(lengths)
        fewest = min(
            (k * ordered[k - 1] + (n - k) * ordered[-1] for k in range(1, n)), default=n * ordered[-1]
        )
        most = n * ordered[-1]
        assert padded(parts) == (fewest if fewest <= (1 - LEAST_SAVED) * most else most)
        rows = [
            tuple(ids[:length].tolist())
            for part in parts
            for ids, length in zip(part["input_ids"], part["attention_mask"].sum(1).tolist(), strict=True)
        ]
        given = [tuple(ids[:k].tolist()) for ids, k in zip(whole["input_ids"], lengths, strict=True)]
        assert sorted(rows) == sorted(given)
        for part in parts:
            assert part["attention_mask"].shape == part["labels"].shape == part["input_ids"].shape
            assert (part["labels"] >= 0).equal(part["attention_mask"].bool())


def test_what_has_no_padding_stays_whole() -> None:
    for whole in (batch([7, 7, 7]), {"input_ids": torch.ones(2, 3), "labels": torch.ones(2, 3)}):
        assert by_length(whole) == [whole]


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("lengths", [[4, 4, 4, 20], [9, 3, 3, 3, 3, 25]])
def test_losses_and_gradients_are_those_of_the_whole_batch(
    accumulated: int, lengths: list[int], tmp_path: Path
) -> None:
    """A step of the Trainer in parts, against plain cross-entropy over all tokens of all batches."""
    model = AutoModelForCausalLM.from_pretrained(text_worlds.folder(tmp_path / "model"))
    batches = [batch(lengths, seed=seed) for seed in range(accumulated)]
    assert all(len(by_length(one)) == 2 for one in batches)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        report_to="none",
        gradient_accumulation_steps=accumulated,
    )
    trainer = RecordingTrainer(model=model, args=arguments)
    tokens = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    losses = [trainer.training_step(model, one, tokens) for one in batches]
    found = {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }
    model.zero_grad()
    nats = torch.zeros(())
    for one in batches:
        logits = model(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits
        nats = nats + torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), one["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
    count = accumulated * (sum(lengths) - len(lengths))
    (nats / count).backward()
    torch.testing.assert_close(torch.stack(losses).sum(), (nats / count).detach())
    assert trainer.mean_loss() == pytest.approx(float(nats.detach() / count), rel=1e-6)
    assert found
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)
