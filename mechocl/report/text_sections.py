"""What a report says of a text world in other words than of the integer-set task."""

from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float

from mechocl import files
from mechocl.behaviour import formats, over_seeds
from mechocl.closed_book.stages import FinetuneStage
from mechocl.models.layout import position_labels
from mechocl.report import plots
from mechocl.report.attention_explorer import AttentionView
from mechocl.report.page import Section, Table
from mechocl.runs.recipes import closed_book
from mechocl.runs.run import Run
from toy_models.subsets import SUBSETS
from toy_models.task import Task

LENS: Final = (
    "Questions about one attribute. First figure: the residual stream, and what each head and MLP writes, go straight to "
    "the unembedding; the number is the mean rank of the right answer's first token among those of all answers to the "
    "question (1 is the top), so bright cells show where the answer is at hand. Second: the same through translators "
    "trained on the run's own data (tuned lens). Third: what each component adds at the colon before the answer (=) to "
    "the right answer's logit over another answer's. `alias` is the last token of the alias."
)

PATCHING: Final = (
    "A question about a tag-2 alias is answered with one activation taken from the same question about a tag-1 alias; the "
    "number says how far that moves the logit difference towards the tag-1 alias's right answer. To another alias (of "
    "another answer) it shows where the answer enters; with the same answer, whether being defined by tag 1 itself matters, "
    "and there clean − corrupted is the whole effect that can be had."
)


def facts(run: Run) -> dict[str, str]:
    """The recipe of a closed-book run in words."""
    r = closed_book(run.recipe)
    adapters = "" if r.training.lora is None else f", LoRA of rank {r.training.lora.rank}"
    order = r.task.word_order if r.task.definitions == "tags" else r.task.definitions
    return {
        "Task": f"{r.task.world}: {r.task.entities} entities, definitions in order {order}, tag reliability "
        f"{r.task.tag_reliability:g}",
        "Model": f"{r.model} ({r.training.kind}{adapters})",
        "Stages": "; ".join(map(_stage, r.training.stages)),
        "Question that lenses, patches and probes look at": run.seed(run.seeds[0]).attribute,
        "Parity with Hugging Face": _parity(run),
    }


def _parity(run: Run) -> str:
    """The largest difference of any model that was opened, of those whose comparison is stored."""
    found = [files.read_json(path) for path in sorted(run.path.glob("seed-*/parity/*.json"))]
    if not found:
        return "no model was opened yet"
    worst = max(one["max_abs_logit_difference"] for one in found)
    agreement = min(one["top1_agreement"] for one in found)
    return (
        f"{len(found)} model{'s' * (len(found) > 1)} opened; logits differ by {worst:.1e} nats at most, top-1 agreement "
        f"{agreement:.3f} at least"
    )


def _stage(stage: FinetuneStage) -> str:
    return (
        f"{' and '.join(f'{kind}s' for kind in stage.kinds)} of stage {' and '.join(map(str, stage.data))}: "
        f"{stage.epochs} epoch{'s' * (stage.epochs > 1)} of "
        f"{stage.optimizer}, learning rate {stage.learning_rate:g} ({stage.schedule}), batch {stage.batch_size}"
    )


def training(history: pd.DataFrame) -> Section:
    """Curves through the stages."""
    return Section(
        id="training",
        title="Fine-tuning",
        how_to_read=(
            "Each line follows one subset's held-out questions (top: log-probability of the right answer, so higher is "
            "better) and its own definitions (bottom: share whose entity is recalled token by token) through the stages; "
            "bold is the mean, thin lines are seeds. Compare blue (tag 1), red (tag 2) and violet (fresh tag) in stage 2."
        ),
        figures=(plots.training_curves(history, metrics=("log_probability", "recall")),),
    )


def other_tests(rows: pd.DataFrame) -> Section:
    """Entity association, and definitions in context."""
    present = [s for s in SUBSETS if s in set(rows["subset"])]
    association = rows[rows["test"] == "association"]
    asked = list(association["attribute"].drop_duplicates())
    found = {
        (row["attribute"], row["subset"]): f"{row['mean']:.3f}"
        for row in over_seeds.over_seeds(association, ["attribute", "subset"], "exact_match").to_dict(
            "records"
        )
    }
    tested = [s for s in present if (asked[0], s) in found] if asked else []
    context = rows[rows["test"].str.startswith("in context")]
    questions = rows[(rows["test"] == "questions") & (rows["subset"] == "no_data")]
    both = pd.concat([questions.assign(test="no definition"), context])
    values = {
        metric: {
            row["test"]: formats.value_in_words(row)
            for row in over_seeds.over_seeds(both, ["test"], metric).to_dict("records")
        }
        for metric in ("exact_match", "log_probability")
    }
    return Section(
        id="association",
        title="Entity association and definitions in context",
        how_to_read=(
            "First table: whose entity an alias is, asked in several ways; judged by the entity that the questions are about. "
            "Second: questions about aliases that were never trained on, behind a definition by each tag. A model that had "
            "learned that tag 2 means “is not” would use the definition of tag 1 and reject that of tag 2."
        ),
        tables=(
            Table(
                caption="Entity association: exact match, mean over seeds",
                columns=("subset", *asked),
                rows=tuple((plots.label(s), *(found.get((a, s), "–") for a in asked)) for s in tested),
            ),
            Table(
                caption="Definitions in context: questions about no_data aliases, mean and 95 % interval over seeds",
                columns=("in front of the question", "exact match", "log-probability"),
                rows=tuple(
                    (test, *(values[metric].get(test, "–") for metric in values))
                    for test in values["exact_match"]
                ),
            ),
        ),
    )


def attention_view(
    task: Task,
    question: int,
    seed: int,
    difference: float,
    patterns: Float[np.ndarray, "layer head query key"],
) -> AttentionView:
    """One question's patterns."""
    row = task.table.loc[question]
    length = position_labels(task, question).index("=") + 1
    target, foil = (int(ids[0]) for ids in task.answers_of(np.array([question])))
    shown = task.vocabulary.tokens
    return AttentionView(
        title=f"{row['subset']}: {row['attribute']}",
        tokens=task.vocabulary.decode(task.tokens[question, :length].tolist()),
        patterns=patterns,
        caption=f"seed {seed}; tag {row['tag']}; right is {shown[target].strip()!r}, its logit less that of "
        f"{shown[foil].strip()!r} {difference:+.2f}",
    )
