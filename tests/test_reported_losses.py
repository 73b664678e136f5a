"""Every loss that is reported is a mean over tokens: it does not change with the size of the batches.

The means of uneven batches, averaged, would: a batch of two short examples would weigh as much as one of eight long ones.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_worlds
import torch
from small_stage import make_model, make_task

import mechocl
from mechocl.closed_book import answers, examples
from mechocl.closed_book.batches import Collator, Examples
from mechocl.features import quality
from mechocl.runs.trainer import Moment, Settings, train_model
from toy_models import definition_loss
from toy_models.stages import StageConfig
from toy_models.task import Task
from toy_models.training import train_stage

SIZES = (3, 8)
"""Batches of both sizes have an uneven last one, and hold examples of different lengths."""

STILL = 1e-30
"""A learning rate that moves no weight, so that only the batches differ."""


@functools.cache
def text_task() -> Task:
    return examples.build(
        text_worlds.config(), text_worlds.world(), text_worlds.tokenizer(), seed=0, context=128
    )


def without_dropout() -> Any:
    model = text_worlds.t5(5.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


def toy_training(batch_size: int, folder: Path) -> float:
    """The loss that a stage of questions and definitions ends with."""
    task = make_task()
    stage = StageConfig(data=(1, 2), epochs=1, batch_size=batch_size, learning_rate=STILL, evaluations=1)
    moments = list(
        train_stage([make_model(task, init_std=0.5)], [task], stage, seeds=[0], precision="float32")
    )
    return moments[-1].losses[0]


def text_training(model: Callable[[], Any], accumulation: int, batch_size: int, folder: Path) -> float:
    """The loss of an epoch of Hugging Face's Trainer."""
    theirs, task = model(), text_task()
    rows = np.array([3, 0, 40, 1, 77, 2, 5, 4, 60, 61, 90])
    seq2seq = theirs.config.is_encoder_decoder
    losses: list[float] = []

    def then(moment: Moment) -> bool:
        losses.append(moment.loss)
        return False

    settings = Settings(
        epochs=1,
        batch_size=batch_size * accumulation,
        accumulation=accumulation,
        optimizer="adamw",
        learning_rate=STILL,
    )
    train_model(
        theirs,
        Examples(task, rows),
        Collator(pad=0, eos=theirs.config.eos_token_id if seq2seq else None),
        settings,
        folder=folder / f"{batch_size}",
        seed=0,
        device="cpu",
        save_every_s=1e9,
        at=lambda steps: [steps],
        then=then,
        progress=lambda text, share: None,
    )
    return losses[-1]


def sae_quality(batch_size: int, folder: Path) -> float:
    task = make_task()
    return quality.loss(make_model(task, init_std=0.5), task, batch_size=batch_size)


def definition_losses(batch_size: int, folder: Path) -> float:
    task = make_task()
    model = make_model(task, init_std=0.5)
    rows = task.rows(kind="definition")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definition_loss, "_AT_ONCE", batch_size)
        return float(definition_loss.measure_definition_losses(model, task, rows).mean())


def text_definition_losses(batch_size: int, folder: Path) -> float:
    task = text_task()
    rows = task.rows(kind="definition")
    return float(
        answers.recall_definitions(text_worlds.neox(scale=5), task, rows, batch_size=batch_size)[0].mean()
    )


def text_log_probabilities(batch_size: int, folder: Path) -> float:
    task = text_task()
    rows = task.rows(kind="question")
    return float(answers.log_probability(text_worlds.neox(scale=5), task, rows, batch_size=batch_size).mean())


REPORTED: dict[str, Callable[[int, Path], float]] = {
    "toy training": toy_training,
    "fine-tuning": functools.partial(text_training, functools.partial(text_worlds.neox, scale=20), 1),
    "fine-tuning in parts": functools.partial(
        text_training, functools.partial(text_worlds.neox, scale=20), 2
    ),
    "T5": functools.partial(text_training, without_dropout, 1),
    "T5 in parts": functools.partial(text_training, without_dropout, 2),
    "SAE quality": sae_quality,
    "definition losses": definition_losses,
    "definition losses of texts": text_definition_losses,
    "answers of texts": text_log_probabilities,
}

COMPUTED_IN = {
    "toy_models/losses.py": "toy training",
    "toy_models/definition_loss.py": "definition losses",
    "mechocl/features/quality.py": "SAE quality",
    "mechocl/runs/trainer_state.py": "fine-tuning",
}
"""Files that compute a cross-entropy, or take one from Hugging Face's Trainer."""

NOT_REPORTED = {"mechocl/learning/gradients.py"}
"""Files that compute the loss of single examples for its gradient, and report no loss."""


@pytest.mark.parametrize("name", REPORTED)
def test_a_reported_loss_does_not_depend_on_the_batches(name: str, tmp_path: Path) -> None:
    few, many = (REPORTED[name](size, tmp_path) for size in SIZES)
    assert few == pytest.approx(many, rel=1e-4)
    assert abs(few) > 0.1


def test_every_file_that_computes_a_loss_is_walked() -> None:
    root = Path(mechocl.__file__).parents[1]
    found = {
        str(path.relative_to(root))
        for package in ("mechocl", "toy_models", "probes")
        for path in (root / package).rglob("*.py")
        if re.search(r"\bcross_entropy\(|\bdef training_step\(", path.read_text())
    }
    assert found == COMPUTED_IN.keys() | NOT_REPORTED
    assert set(COMPUTED_IN.values()) <= REPORTED.keys()
