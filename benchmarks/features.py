"""Training a sparse autoencoder on a task's activations, side by side with SAELens's own runner.

ours     mechocl.features.training.train: a stream of the task's activations into SAELens's trainer
theirs   sae_lens.LanguageModelSAETrainingRunner: its ActivationsStore into the same trainer

Both train a TopK SAE of the same width, k, batch, learning rate and number of activations on the same hook point of
the same untrained toy model, on the same texts in the same mix, without pads and answers. SAELens gets the texts as a
pretokenised data set (`override_dataset`) and the model by `override_model`, so it works without a tokenizer, and
`exclude_special_tokens` takes ids. Its buffer holds as many activations as ours, and as many texts go through the
model at a time. *by default* means SAELens's own 32 texts at a time. Nothing is logged or saved.

The two must explain the same share of the variance of the held-out aliases' activations within 0.03. Otherwise the
exit status is 1. Each side runs in a process of its own, so that its peak memory can be measured. The memory that is
compared is what a side takes above the model, the texts and the imported packages.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import measuring
import numpy as np
import torch

from mechocl.features.dictionaries import flat
from mechocl.features.settings import TrainingConfig
from mechocl.features.stream import about_aliases, held_out, read_tokens, weights
from mechocl.models import activations
from mechocl.runs import folders, recipes
from toy_models.integer_set import build
from toy_models.task import ROLE, Task

TOLERANCE: Final = 0.03
"""Largest difference of the explained variance that is allowed."""

SITE: Final = "blocks.0.hook_resid_post"
RECIPE: Final = "integer-set/short"
PROMPTS: Final = {"theirs": 1024, "theirs, by default": 32}
"""Number of texts that go through the model at a time on SAELens's sides. Ours takes 1024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the comparison is."""

    name: str
    activations: int
    buffer: int
    rounds: int
    width: int = 1024
    aliases: int = 1000


FULL: Final = Size(name="1024 features, k 16", activations=200_000, buffer=65_536, rounds=2)
FAST: Final = Size(name="1024 features, k 16, fast", activations=30_000, buffer=8192, rounds=1)


def config_of(size: Size) -> TrainingConfig:
    return TrainingConfig(
        site=(SITE,), width=(size.width,), k=16, activations=size.activations, buffer=size.buffer
    )


def subject(size: Size) -> tuple[Any, Task]:
    """An untrained model of the recipe, and its task."""
    recipe = recipes.load_recipe(RECIPE, (f"task.aliases={size.aliases}",))
    return folders.build_model(recipe, seed=0, device="cpu"), build(recipe.task, seed=0)


def ours(model: Any, config: TrainingConfig, task: Task) -> Any:
    from mechocl.features import training

    (sae,) = training.train(model, task, config).values()
    return sae


def dataset(task: Task, config: TrainingConfig) -> Any:
    """A pretokenised data set of texts that are drawn as ours are, enough for all activations."""
    from datasets import Dataset

    weight = weights(task, config.mix(), without=held_out(task, config.held_out, seed=config.seed))
    per_text = float(read_tokens(task, ()).sum(1).numpy() @ weight)
    texts = int(1.2 * (config.activations + config.buffer) / per_text)
    rows = np.random.default_rng(0).choice(len(task), size=texts, p=weight)
    return Dataset.from_dict({"tokens": task.tokens[torch.from_numpy(rows)].tolist()})


def theirs(model: Any, config: TrainingConfig, task: Task, texts: Any, *, prompts: int) -> Any:
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        TopKTrainingSAEConfig,
    )

    steps = config.activations // config.batch_size
    unread = (task.roles == ROLE["pad"]) | (task.roles == ROLE["answer"])
    sae = TopKTrainingSAEConfig(
        d_in=model.cfg.d_model,
        d_sae=config.width[0],
        k=config.k,
        normalize_activations="expected_average_only_in",
    )
    cfg = LanguageModelSAERunnerConfig(
        sae=sae,
        hook_name=SITE,
        context_size=task.n_ctx,
        prepend_bos=False,
        exclude_special_tokens=task.tokens[unread].unique().tolist(),
        training_tokens=steps * config.batch_size,
        train_batch_size_tokens=config.batch_size,
        store_batch_size_prompts=prompts,
        n_batches_in_buffer=config.buffer // task.n_ctx,
        n_batches_for_norm_estimate=8,
        lr=config.learning_rate,
        lr_end=config.learning_rate / 10,
        lr_decay_steps=steps // 5,
        dead_feature_window=max(20, steps // 10),
        feature_sampling_window=max(20, steps // 4),
        seed=config.seed,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=None,
        verbose=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each row of the data set that is a tensor already gives a warning
        return LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=texts).run()


def explained(model: Any, task: Task, sae: Any, config: TrainingConfig) -> float:
    """Explained variance, 1 − Σ‖x − x̂‖² / Σ‖x − mean‖², over the tokens about aliases that were not seen."""
    unseen = about_aliases(task, held_out(task, config.held_out, seed=config.seed))
    x = flat(activations.collect(model, unseen.tokens, [SITE])[SITE])[read_tokens(unseen, ())][:20_000]
    with torch.no_grad():
        off = (sae(x) - x).square().sum()
    return 1 - float(off / (x - x.mean(0)).square().sum())


def side(name: str, size: Size) -> dict[str, Any]:
    """One side's seconds, its memory above that of its inputs, and its explained variance."""
    import sae_lens  # noqa: F401  both sides import it

    from mechocl.features import training  # noqa: F401

    config = config_of(size)
    model, task = subject(size)
    texts = None if name == "ours" else dataset(task, config)
    before = measuring.peak_mib()
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # hides SAELens's progress bars
        if name == "ours":
            sae = ours(model, config, task)
        else:
            sae = theirs(model, config, task, texts, prompts=PROMPTS[name])
    seconds = time.perf_counter() - started
    mib = measuring.peak_mib() - before
    return {"seconds": seconds, "mib": mib, "explained": explained(model, task, sae, config)}


def in_a_process(name: str, *, fast: bool, threads: int) -> dict[str, Any]:
    fastness = ["--fast"] if fast else []
    command = [sys.executable, __file__, "--side", name, "--threads", str(threads), *fastness]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"the process of {name} ended with exit status {found.returncode}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


class Disagreement(Exception):
    """The sides do not learn equally well."""


def measure(size: Size, *, threads: int, fast: bool) -> dict[str, Any]:
    """The line of this benchmark. Raises Disagreement when one side explains more than the other."""
    sides = ["ours", *PROMPTS]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(size.rounds):
        for name in sides[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(in_a_process(name, fast=fast, threads=threads))
    explains = {name: statistics.median(r["explained"] for r in runs) for name, runs in found.items()}
    if not max(explains.values()) - min(explains.values()) <= TOLERANCE:  # true also when one is not a number
        raise Disagreement(f"the variance that they explain differs by more than {TOLERANCE}: {explains}")
    seconds = {name: [r["seconds"] for r in runs] for name, runs in found.items()}
    mib = {name: statistics.median(r["mib"] for r in runs) for name, runs in found.items()}
    default = list(PROMPTS)[1]
    flags = " --fast" if fast else ""
    return measuring.line(
        "features",
        size.name,
        ours_s=statistics.median(seconds["ours"]),
        theirs_s=statistics.median(seconds["theirs"]),
        ratio=measuring.median_ratio(seconds["ours"], seconds["theirs"]),
        peak_mib=mib["ours"],
        theirs_peak_mib=round(mib["theirs"]),
        default_s=float(f"{statistics.median(seconds[default]):.4g}"),
        default_ratio=float(f"{measuring.median_ratio(seconds['ours'], seconds[default]):.3g}"),
        default_peak_mib=round(mib[default]),
        activations_s={name: round(size.activations / statistics.median(seconds[name])) for name in sides},
        explained={name: float(f"{value:.3f}") for name, value in explains.items()},
        activations=size.activations,
        rounds=size.rounds,
        threads=threads,
        command=f"python benchmarks/features.py{flags} --threads {threads} --record",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = measuring.parser(__doc__)
    parser.add_argument(
        "--threads", type=int, metavar="N", default=torch.get_num_threads(), help="CPU threads"
    )
    parser.add_argument("--side", choices=["ours", *PROMPTS], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    size = FAST if options.fast else FULL
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(side(options.side, size)))
        return 0
    try:
        line = measure(size, threads=options.threads, fast=options.fast)
    except (Disagreement, RuntimeError) as error:
        print(f"not comparable: {error}", file=sys.stderr)
        return 1
    print(f"{size.name}, {line['activations']} activations, {line['machine']}")
    times = {"ours": line["ours_s"], "theirs": line["theirs_s"], list(PROMPTS)[1]: line["default_s"]}
    memory = [line["peak_mib"], line["theirs_peak_mib"], line["default_peak_mib"]]
    measuring.print_table(
        ["side", "seconds", "activations a second", "explained", "MiB above model and texts"],
        [
            [name, f"{times[name]:.2f}", str(line["activations_s"][name]), f"{value:.3f}", str(mib)]
            for (name, value), mib in zip(line["explained"].items(), memory, strict=True)
        ],
    )
    print(f"ours / theirs: {line['ratio']:.3f}; by default {line['default_ratio']:.3f}")
    measuring.finish([line], record=options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
