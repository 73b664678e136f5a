"""Fine-tune a Hugging Face model on a text world, in stages. Each stage ends with an ordinary Hugging Face folder."""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from mechocl import files
from mechocl.closed_book import evaluation, examples, worlds
from mechocl.closed_book.batches import Collator, Examples, Replayed, choose_pad
from mechocl.closed_book.parts import training_rows as training_rows
from mechocl.closed_book.stages import ClosedBookRecipe, FinetuneStage, FinetuningConfig
from mechocl.destinations import written_by_library
from mechocl.errors import MechoclError
from mechocl.models import hub, shared_layers
from mechocl.runs import trainer
from mechocl.runs.adapters import with_adapters
from mechocl.runs.added_tokens import add_rows, learn_tokens
from mechocl.runs.batch_rows import move_rows_of_the_batch
from mechocl.runs.frozen_weights import freeze_weights
from mechocl.runs.progress import Progress
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder
from mechocl.runs.text_stopping import Stopping
from toy_models.randomness import generator
from toy_models.stages import evaluation_steps, log_steps
from toy_models.task import Task

EVALUATED_ALIASES: Final = 40
"""Number of aliases of each subset that evaluations during training look at."""

_LOCK_PATIENCE_S: Final = 2.0


def finetune(run: Run, seed: int, *, device: str, save_every_s: float, progress: Progress) -> None:
    """Fine-tune one seed of a run to the end, or continue where an earlier call was stopped.

    On the CPU the result does not depend on where training was stopped. A loss that is not finite is recorded as the
    seed's failure. Raises MechoclError for a model or a world that does not fit the recipe.
    """
    folder = run.seed(seed)
    assert isinstance(folder, TextSeedFolder)
    recipe = run.recipe
    assert isinstance(recipe, ClosedBookRecipe)
    with files.locked(folder.path / f"lock-{os.environ.get('RANK', '0')}", patience=_LOCK_PATIENCE_S):
        stages = recipe.training.stages
        folder.forget_damaged_failure()
        todo = folder.lost_stages() if folder.failure() is None else []
        if not todo and folder.task_saved():
            return
        progress("building the task", math.nan)
        _refuse_other_base(run, recipe)
        source = hub.locate(recipe.model)
        tokenizer = hub.require_tokenizer(source)
        known = len(tokenizer)
        task = _task(folder, recipe, tokenizer, context=hub.read_config(source).context)
        work = [len(training_rows(task, stage)) * (1 + stage.replay) * stage.epochs for stage in stages]
        for number in range(1, max(todo, default=0) + 1):
            if number in todo:

                def stage_progress(text: str, share: float, number: int = number) -> None:
                    done = sum(work[: number - 1]) + share * work[number - 1]
                    progress(f"stage {number}, {text}", done / sum(work))

                stage = _Stage(
                    folder=folder,
                    number=number,
                    training=recipe.training,
                    task=task,
                    tokenizer=tokenizer,
                    known=known,
                    source=source,
                )
                try:
                    _train_stage(stage, device=device, save_every_s=save_every_s, progress=stage_progress)
                except _Diverged as error:
                    folder.fail(f"stage {number}: {error}")
                    return
            source = folder.model_path(folder.final(number))


def _refuse_other_base(run: Run, recipe: ClosedBookRecipe) -> None:
    """Record the model and the database that the run begins with. Raises MechoclError when it began with others."""
    base = worlds.fingerprint(recipe)
    path = run.path / "base.json"
    with files.locked(run.path / "base.lock", patience=60.0):
        made = any(run.path.glob("seed-*/checksums.json"))
        if not made or not path.exists():
            files.write_json(path, base)
        elif (known := files.read_json(path)) != base:
            differs = next(name for name in {**known, **base} if known.get(name) != base.get(name))
            raise MechoclError(
                f"{run.path} began with another {differs} than there is now; put the old one back, or choose another --out"
            )


def refuse(recipe: ClosedBookRecipe) -> None:
    """Raise MechoclError for a recipe whose database, tokenizer or model is missing, before a run of it is made."""
    worlds.refuse_file(recipe)
    worlds.refuse_replay(recipe)
    hub.require_tokenizer(hub.locate(recipe.model, weights=False))


def processes() -> int:
    """Number of processes that train together, which `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the first one, which prints and writes."""
    return os.environ.get("RANK", "0") == "0"


class _Diverged(RuntimeError):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One stage of a seed, and the model that it begins with."""

    folder: TextSeedFolder
    number: int
    """From 1."""
    training: FinetuningConfig
    task: Task
    tokenizer: Any
    known: int
    """Number of tokens of the tokenizer before the task added its own."""
    source: Path
    """Folder of the model that the stage begins with."""

    @property
    def config(self) -> FinetuneStage:
        return self.training.stages[self.number - 1]

    def read_model(self) -> Any:
        """The model that the stage begins with. Raises MechoclError when it is of another kind than the recipe says."""
        config, kind = hub.read_config(self.source), self.training.kind
        if config.kind != kind:
            raise MechoclError(
                f"{self.source} is a {config.model_type} model, and training.kind is {kind!r}; use kind = {config.kind!r}"
            )
        attention = None if self.training.attention == "default" else self.training.attention
        model = hub.read_model(self.source, attention=attention)
        if self.training.lora is not None and shared_layers.are_shared(model):
            raise MechoclError(
                f"training.lora is set, and the blocks of {self.source} share their weights, which adapters would make different; leave out training.lora"
            )
        recipe = self.folder.recipe
        assert isinstance(recipe, ClosedBookRecipe)
        if self.number == 1 and recipe.task.added_tokens:
            add_rows(
                model, self.task, known=self.known, std=self.training.added_token_std, seed=self.folder.seed
            )
        return model

    def tokens(self) -> range:
        """Ids of the tokens that the task added: its aliases, its tags, and words of definitions; none if it added none."""
        recipe = self.folder.recipe
        assert isinstance(recipe, ClosedBookRecipe)
        return range(self.known, len(self.task.vocabulary)) if recipe.task.added_tokens else range(0)

    def collator(self) -> Collator:
        seq2seq = self.training.kind == "seq2seq"
        return Collator(pad=choose_pad(self.tokenizer), eos=self.tokenizer.eos_token_id if seq2seq else None)

    def examples(self, *, seed: int) -> Examples | Replayed:
        """What the stage trains on. `seed` decides which texts of the corpus are among it, if any are."""
        own = Examples(self.task, training_rows(self.task, self.config))
        if not self.config.replay:
            return own
        recipe = self.folder.recipe
        assert isinstance(recipe, ClosedBookRecipe)

        def encode(texts: list[str]) -> list[list[int]]:
            found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            return found

        corpus = worlds.corpus(recipe)
        return Replayed(own, corpus, encode=encode, share=self.config.replay, seed=seed)

    def trainer_settings(self) -> trainer.Settings:
        return trainer.Settings(
            epochs=self.config.epochs,
            batch_size=self.config.batch_size,
            accumulation=self.config.accumulation,
            optimizer=self.config.optimizer,
            learning_rate=self.config.learning_rate,
            embedding_rate=self.config.embedding_rate,
            weight_decay=self.config.weight_decay,
            schedule=self.config.schedule,
            warmup=self.config.warmup,
            gradient_clip=self.config.gradient_clip,
            precision=self.training.precision,
            gradient_checkpointing=self.training.gradient_checkpointing,
        )


def _train_stage(stage: _Stage, *, device: str, save_every_s: float, progress: Progress) -> None:
    """Train a stage to its end, evaluate during training, and keep the stage's models.

    Raises _Diverged for a loss that is not finite.
    """
    folder, config, lora = stage.folder, stage.config, stage.training.lora
    seeds = generator(folder.seed, "fine-tuning", stage.number)
    order, adapters = (int(torch.randint(2**31, (), generator=seeds)) for _ in range(2))

    def fresh() -> Any:
        model = stage.read_model()
        return model if lora is None else with_adapters(model, lora, seed=adapters, tokens=stage.tokens())

    def merged(weights: dict[str, torch.Tensor]) -> Any:
        one = fresh()
        one.load_state_dict(weights)
        return one.merge_and_unload()

    model = fresh()
    sample = evaluation.first_aliases(stage.task, EVALUATED_ALIASES)
    history = _History(folder.path / f"stage-{stage.number}" / "history.json")

    stopping = Stopping(model, stage.task, config, number=stage.number, processes=processes())

    def evaluated_at(total: int) -> set[int]:
        return ({0} if config.evaluates_first else set()) | evaluation_steps(total, config.evaluations)

    def at(total: int) -> list[int]:
        return sorted({*evaluated_at(total), *log_steps(total, config.checkpoints), *stopping.steps(total)})

    def then(moment: trainer.Moment) -> bool:
        if moment.step and not math.isfinite(moment.loss):
            raise _Diverged(f"the training loss is {moment.loss} at step {moment.step} of {moment.total}")
        over = moment.step == moment.total or stopping.reached(moment)
        if over or moment.step in evaluated_at(moment.total):
            history.add(moment.step, _evaluated(stage, moment, sample))
        if over or (moment.step and moment.step in log_steps(moment.total, config.checkpoints)):
            _keep(stage, moment, merged if lora else None, final=over)
        return over

    chosen = stage.examples(seed=order)
    callbacks = [freeze_weights(model, stage.task, config.trains)]
    if config.embedding_rows == "in_batch":
        callbacks = [move_rows_of_the_batch(model, processes=processes()), *callbacks]
    trainer.train_model(
        model,
        chosen,
        stage.collator(),
        stage.trainer_settings(),
        folder=folder.resume_folder(stage.number),
        seed=order,
        device=device,
        save_every_s=save_every_s,
        at=at,
        then=then,
        progress=progress,
        begin_epoch=chosen.begin_epoch,
        callbacks=callbacks,
    )
    _finish(stage, history)


def _finish(stage: _Stage, history: "_History") -> None:
    """Record that a stage is trained to its end, and remove what it could continue from. All processes end together."""
    if is_first():
        stage.folder.finish_stage(stage.number, history.rows)
        shutil.rmtree(stage.folder.resume_folder(stage.number), ignore_errors=True)
        history.path.unlink(missing_ok=True)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _evaluated(stage: _Stage, moment: trainer.Moment, sample: np.ndarray) -> list[dict[str, Any]]:
    """Rows of the history at a moment of a stage."""
    position = {"stage": stage.number, "step": moment.step, "epoch": moment.epoch, "loss": moment.loss}
    return [position | row for row in evaluation.forced(moment.model, stage.task, sample)]


def _keep(stage: _Stage, moment: trainer.Moment, merged: Callable[..., Any] | None, *, final: bool) -> None:
    """Keep the model as a Hugging Face folder; adapters are merged into a fresh copy of the weights under them.

    `final`: whether the stage ends with it.
    """
    weights = moment.state()  # all processes take part

    def write(path: Path) -> None:
        with written_by_library(path):
            if merged is None:
                moment.save(path, shared_layers.separated(moment.model, weights))
            else:
                merged(weights).save_pretrained(path)
            stage.tokenizer.save_pretrained(path)

    if moment.first:
        stage.folder.save_model(write, stage=stage.number, step=moment.step, final=final)


def _anew(stage: Path) -> str:
    """What to do when files that an unfinished stage continues from are damaged."""
    return f"delete {stage} and run the same `mechocl finetune` again: the stage begins again"


class _History:
    """Evaluations of an unfinished stage. Those after a resume point are made again, and replace the old ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[int, list[dict[str, Any]]] = {}
        if path.exists():
            self.found = {int(k): v for k, v in files.read_json(path, remedy=_anew(path.parent)).items()}

    def add(self, step: int, rows: list[dict[str, Any]]) -> None:
        self.found[step] = rows
        if is_first():
            files.write_json(self.path, self.found)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for step in sorted(self.found) for row in self.found[step]]


def _task(folder: TextSeedFolder, recipe: ClosedBookRecipe, tokenizer: Any, *, context: int) -> Task:
    """The seed's task, which is drawn and saved first if it is not saved yet. The model reads `context` tokens at a time.

    If definitions change from epoch to epoch, it is drawn again, since only those of one draw are saved. Raises
    MechoclError when another task was saved.
    """
    saved = folder.load_task() if folder.task_saved() else None
    if saved is not None and recipe.task.added_tokens:
        learn_tokens(tokenizer, saved)
    if saved is not None and recipe.task.unreliable != "noise":
        return saved
    world = worlds.build_world(recipe)
    task = examples.build(recipe.task, world, tokenizer, seed=folder.seed, context=context)
    for stage in recipe.training.stages:
        training_rows(task, stage)
    if saved is None and is_first():
        folder.save_task(task)
    if saved is not None and not (
        torch.equal(saved.tokens, task.tokens) and torch.equal(saved.roles, task.roles)
    ):
        raise MechoclError(folder.other_task())
    return task
