"""Each side of the training benchmark in a process of its own, which trains when it is told to.

So the memory of each side can be measured, and the sides can still take turns: while one trains, the other sides wait.
"""

import dataclasses
import math
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import hugging_face
import measuring
import torch

from mechocl.runs import recipes
from mechocl.runs.recipes import Recipe
from toy_models import architectures, integer_set
from toy_models.stages import StageConfig
from toy_models.task import Task
from toy_models.training import train_stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a side trains."""

    recipe: str
    changes: tuple[str, ...]
    batch_size: int
    device: str
    threads: int | None
    """Number of torch's threads. None takes torch's default."""
    steps: int
    """The largest number of steps that will be asked for in all."""

    def load(self) -> tuple[Recipe, StageConfig]:
        """The recipe, and its first stage with a constant learning rate and nothing but training steps."""
        recipe = recipes.load_recipe(self.recipe, self.changes)
        stage = dataclasses.replace(
            recipe.training.stages[0],
            batch_size=self.batch_size,
            schedule="constant",
            warmup=0.0,
            evaluations=1,
            checkpoints=1,
        )
        return recipe, stage


def build_ours(recipe: Recipe, task: Task, *, seed: int) -> Any:
    """A freshly initialised model of the recipe, on the CPU."""
    return architectures.build(
        recipe.model.resolve(),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=seed,
    )


class SideEnded(Exception):
    """The process of a side ended before it was told to."""


class Side:
    """A side's process, seen from the benchmark."""

    def __init__(self, job: Job, *, models: int) -> None:
        """`models`: number of our models that are trained together. 0 means the Trainer."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["transformer_lens", "transformers.trainer"])  # imported once for all
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(job, models, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is seen here

    def start(self, steps: int) -> None:
        """Ask the process for steps, without waiting for their end."""
        self._pipe.send(steps)

    def wait(self) -> float:
        """Wait for the steps, and return the seconds that they took. Raises SideEnded when the process has ended."""
        try:
            return float(self._pipe.recv())
        except EOFError:
            raise SideEnded("a side's process ended before its time; see its output above") from None

    def train(self, steps: int) -> float:
        self.start(steps)
        return self.wait()

    def finish(self) -> float:
        """End the process, and return the largest memory that it had, in MiB."""
        self._pipe.send(0)
        peak = self.wait()
        self._process.join()
        return peak

    def abandon(self) -> None:
        self._process.kill()


class _Turns:
    """The steps that are asked for, seen from a side's process."""

    def __init__(self, pipe: Connection, device: str) -> None:
        self.pipe, self.device = pipe, device
        self.left = 0
        self.started: float | None = None

    def wait(self) -> bool:
        """Wait until steps are asked for. Returns False when no more steps will be."""
        self.left, self.started = int(self.pipe.recv()), None
        return self.left > 0

    def begin_step(self) -> None:
        if self.started is None:
            self._synchronize()
            self.started = time.perf_counter()

    def end_step(self) -> bool:
        """Count a step, and return whether it was the last one that was asked for."""
        self.left -= 1
        if self.left:
            return False
        self._synchronize()
        assert self.started is not None
        self.pipe.send(time.perf_counter() - self.started)
        return True

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _serve(job: Job, models: int, pipe: Connection) -> None:
    if job.threads:
        torch.set_num_threads(job.threads)
    turns = _Turns(pipe, job.device)
    (_train_ours if models else _train_theirs)(job, models, turns)
    pipe.send(measuring.peak_mib(job.device))


def _train_ours(job: Job, models: int, turns: _Turns) -> None:
    recipe, stage = job.load()
    tasks = [integer_set.build(recipe.task, seed=seed) for seed in range(models)]
    ours = [
        build_ours(recipe, task, seed=seed).to(job.device, print_details=False)
        for seed, task in enumerate(tasks)
    ]
    steps_per_epoch = math.ceil(len(tasks[0].training_rows(stage.data)) / stage.batch_size)
    stage = dataclasses.replace(stage, epochs=math.ceil(job.steps / steps_per_epoch) + 1)
    moments = train_stage(ours, tasks, stage, seeds=range(models), precision=recipe.training.precision)
    next(moments)  # step 0, before any training
    while turns.wait():
        ended = False
        while not ended:
            turns.begin_step()
            next(moments)
            ended = turns.end_step()


def _train_theirs(job: Job, models: int, turns: _Turns) -> None:
    recipe, stage = job.load()
    task = integer_set.build(recipe.task, seed=0)
    theirs = hugging_face.build(recipe.model.resolve(), d_vocab=len(task.vocabulary), n_ctx=task.n_ctx)
    turns.wait()
    hugging_face.train(
        theirs,
        task,
        stage,
        precision=recipe.training.precision,
        device=job.device,
        steps=job.steps + 1,
        on_step_begin=turns.begin_step,
        on_step_end=lambda: turns.end_step() and not turns.wait(),
    )
