"""The sections of docs/benchmarks.md: what each benchmark compares, and the measurements that the page expects."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A measurement that the page lists even when nobody has made it."""

    case: str
    device: str
    command: str
    aim: float | None = None
    """Aim: the largest ratio that the measurement should give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    benchmark: str
    title: str
    text: str
    ours: str  # heading of the column of our side
    theirs: str
    expected: tuple[Expected, ...]


TRAINING: Final = "python benchmarks/training.py"

SECTIONS: Final = (
    Section(
        benchmark="training",
        title="Training",
        text=(
            "`toy_models.training.train_stage` against `transformers.Trainer` on a `GPTNeoXForCausalLM` of the "
            "same shape, on the same examples with the same batch size, precision and optimiser, without "
            "evaluating, saving or logging; neither is compiled. The losses of both are checked to agree "
            "first. Times are of a step; *stack*: several seeds together, per seed. `cpu` is the recipe "
            "`integer-set/short`, batch 64, whose unembedding GPT-NeoX computes for the whole vocabulary; "
            "`pythia-70m` is `integer-set/paper` in float32 with batch 32; `paper` the same in bf16 with "
            "batch 512. Memory is the peak of each side's own process (on a GPU: of its allocator)."
        ),
        ours="ours",
        theirs="Trainer",
        expected=(
            *(
                Expected(
                    case=f"{case}, {threads} thread{'s' * (threads > 1)}",
                    device="cpu",
                    command=f"{TRAINING} --device cpu --threads {threads} --record",
                    aim=aim,
                )
                for case, aim in (("cpu", 1 / 2), ("pythia-70m", 1 / 1.3))
                for threads in (1, 2)
            ),
            Expected(case="paper", device="cuda", command=f"{TRAINING} --device cuda --record"),
        ),
    ),
    Section(
        benchmark="training-whole",
        title="Whole recipes on a GPU",
        text=(
            "The training steps of all stages, without evaluations. The first is trained to its end; the "
            "others are extrapolated from 200 steps of each stage. The limits are the aims: 2 minutes for a "
            "seed of `integer-set/paper`, 30 minutes for 20 seeds of it together, and for 20 seeds of "
            "`integer-set/short` 3 times what one takes (*limit* is that, measured)."
        ),
        ours="measured",
        theirs="limit",
        expected=tuple(
            Expected(case=case, device="cuda", command=f"{TRAINING} --whole --device cuda --record", aim=1.0)
            for case in ("paper, 1 seed", "paper, 20 seeds", "cpu, 20 seeds")
        ),
    ),
    Section(
        benchmark="task-building",
        title="Building the task",
        text=(
            "`toy_models.integer_set.build` at the paper's scale (recipe `integer-set/paper`: 8000 aliases, "
            "12 training and 12 test questions each) against the same protocol written one example at a time "
            "in plain Python. Both results are checked against the protocol. Memory is the peak of the whole "
            "process, both sides included. Aim: under 2 s."
        ),
        ours="ours",
        theirs="plain Python",
        expected=(
            Expected(
                case="8000 aliases", device="cpu", command="python benchmarks/task_building.py --record"
            ),
        ),
    ),
    Section(
        benchmark="patching",
        title="Activation patching",
        text=(
            "`mechocl.interventions.patching.patch_activations` against `transformer_lens.patching`, on the same model (six "
            "layers, shaped like `integer-set/paper`'s, not trained) and the same 256 pairs: the residual stream "
            "by layer × position, and heads × positions. Both fill the whole grid, and all values agree within "
            "1e-5. Ours begins each forward pass where the patch is and skips a patch that puts in what is "
            "already there. With *alias* pairs, which differ in the alias alone, those are all patches before "
            "layer 0 but one; *apart* pairs are random tokens of which clean and corrupted share none. The "
            "ratio is the worst of the cases; memory is the peak of ours, in a process of its own, with 1024 "
            "examples in a forward pass."
        ),
        ours="ours",
        theirs="TransformerLens",
        expected=(
            Expected(
                case="6 layers, d_model 512",
                device="cpu",
                command="python benchmarks/patching.py --threads 2 --record",
                aim=1 / 4,
            ),
        ),
    ),
    Section(
        benchmark="probing",
        title="Linear probes",
        text=(
            "`mechocl.probing.probe.probe` against the procedure of the earlier tag probe, written plainly: one question at a "
            "time through `run_with_cache` with everything cached, then scikit-learn's logistic regression with a 5-fold "
            "cross-validation for each layer and token. The same 800 questions and folds, every layer and token of an "
            "untrained model with a direction put into its alias embeddings; no balanced accuracy may differ by more than "
            "half a point. Each side has a process of its own; memory is what it takes above the model and the questions. "
            "Theirs keeps all caches; a loop that dropped what it does not need would take less memory and the same time."
        ),
        ours="ours",
        theirs="plain procedure",
        expected=(
            Expected(
                case="6 layers, d_model 512",
                device="cpu",
                command="python benchmarks/probing.py --threads 2 --record",
                aim=1 / 10,
            ),
        ),
    ),
    Section(
        benchmark="gradients",
        title="Gradients of single aliases",
        text=(
            "`mechocl.learning.gradients.alias_gradients` against a loop over the aliases, one forward pass of the hooked model and one "
            "`torch.autograd.grad` for each. Every weight's gradient, of the definition's loss and of the questions' loss of each new alias, "
            "on an untrained model of `integer-set/cpu`. Own rows, norms and inner products are checked to agree to 1e-6 of their size "
            "in float64 first. Memory is the peak of the whole process, both sides included."
        ),
        ours="ours",
        theirs="loop",
        expected=(
            Expected(
                case="300 aliases",
                device="cpu",
                command="python benchmarks/gradients.py --threads 1 --record",
                aim=1 / 5,
            ),
        ),
    ),
    Section(
        benchmark="features",
        title="Sparse autoencoders",
        text=(
            "`mechocl.features.training.train` against SAELens's own `LanguageModelSAETrainingRunner`: a TopK SAE of 1024 "
            "features, k 16, on the residual stream of an untrained `integer-set/short` model, the same number of "
            "activations of the same texts in the same mix, batch 1024, the same learning rates, nothing logged or "
            "saved. The trainer is SAELens's on both sides; what differs is where the activations come from. Theirs gets "
            "the texts pretokenised, as many at a time as ours (`default_ratio` in the results: with its own 32 at a "
            "time). Both must explain the same share of the variance of unseen aliases' activations within 0.03. Each "
            "side has a process of its own; memory is what it takes above the model, the texts and the imported packages."
        ),
        ours="ours",
        theirs="SAELens's runner",
        expected=(
            Expected(
                case="1024 features, k 16",
                device="cpu",
                command="python benchmarks/features.py --threads 2 --record",
                aim=1.0,
            ),
        ),
    ),
    Section(
        benchmark="demo",
        title="The demo",
        text=(
            "`mechocl demo` from start to written report, in a process of its own, against its limit. Memory "
            "is that of the process and its workers together. Aim: twelve seeds and their controls in 8 minutes and 3000 MiB, the "
            "smoke test (`--fast`) in 75 s, on two cores."
        ),
        ours="measured",
        theirs="limit",
        expected=(
            Expected(case="8 seeds", device="cpu", command="python benchmarks/demo.py --record"),
            Expected(case="smoke test", device="cpu", command="python benchmarks/demo.py --fast --record"),
        ),
    ),
)
