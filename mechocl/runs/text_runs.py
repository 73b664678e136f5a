"""Closed-book runs: Hugging Face models, fine-tuned on a text world."""

from collections.abc import Sequence
from typing import Any, Final

from mechocl import files
from mechocl.closed_book import cost
from mechocl.closed_book.questioning import TextQuestioning
from mechocl.closed_book.stages import ClosedBookRecipe, FinetuneStage
from mechocl.errors import MechoclError
from mechocl.models import hub
from mechocl.models.components import take_apart
from mechocl.runs.kinds import RunKind
from mechocl.runs.progress import Progress
from mechocl.runs.text_folders import TextSeedFolder
from toy_models.task import Questioning

_ALWAYS: Final = ("gpt_neox", "gpt2")
"""Model families that `models.components` can take apart."""

_MOSTLY: Final = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
"""Families that it can take apart unless a model has options that it does not cover."""

_TRIED: Final[dict[str, bool]] = {}
"""Digest of a checkpoint of these → whether it could be taken apart."""


class TextRuns(RunKind):
    """Fine-tuned Hugging Face models; each seed trains by itself."""

    command = "finetune"
    has_attributes = True
    reported = (
        "evaluate",
        "lens",
        "tuned-lens",
        "attribution",
        "patch",
        "circuit",
        "probe",
    )

    def questioning(self, recipe: ClosedBookRecipe) -> Questioning:
        return TextQuestioning()

    def folder(self, run: Any, seed: int) -> TextSeedFolder:
        first = run.path / f"seed-{min(run.seeds)}"
        path = run.path / f"seed-{seed}"
        return TextSeedFolder(
            path,
            seed,
            run.recipe,
            asked=run.attribute,
            first=first,
            command=self.command_for(run.path),
            owner=run.owner_of(seed),
        )

    def train(
        self,
        run: Any,
        seeds: Sequence[int],
        *,
        device: str,
        save_every_s: float,
        progress: Progress,
    ) -> None:
        from mechocl.runs.finetune import finetune  # transformers takes seconds to import

        for seed in seeds:
            finetune(run, seed, device=device, save_every_s=save_every_s, progress=progress)

    def count_examples(self, recipe: ClosedBookRecipe, stage: int) -> int:
        wanted = recipe.training.stages[stage]
        own = sum(cost.count_examples(recipe, kind, wanted.data, wanted.part) for kind in wanted.kinds)
        return own + round(wanted.replay * own)

    def judging_stage(self, recipe: ClosedBookRecipe) -> int:
        """The last stage that trains on the data of stage 1, as in the paper. After stage 2 a part of it is forgotten."""
        stages = recipe.training.stages
        return max((n for n, stage in enumerate(stages, start=1) if 1 in stage.data), default=len(stages))

    def can_be_taken_apart(self, run: Any) -> bool:
        finished = run.finished_seeds()
        if not finished:
            return True
        folder, final = finished[0], finished[0].final()
        assert isinstance(folder, TextSeedFolder)
        family = hub.read_config(folder.model_path(final)).model_type
        if family in _MOSTLY and final.sha256 not in _TRIED:
            try:
                pieces = take_apart(folder.model_at(final, device="cpu"))
                _TRIED[final.sha256] = folder.load_task().n_ctx <= pieces.n_ctx
            except MechoclError:
                _TRIED[final.sha256] = False
        return family in _ALWAYS or _TRIED.get(final.sha256, False)

    def facts(self, run: Any) -> dict[str, str]:
        r = run.recipe
        assert isinstance(r, ClosedBookRecipe)
        adapters = "" if r.training.lora is None else f", LoRA of rank {r.training.lora.rank}"
        order = r.task.word_order if r.task.definitions == "tags" else r.task.definitions
        return {
            "Task": f"{r.task.world}: {r.task.entities} entities, definitions in order {order}, tag reliability "
            f"{r.task.tag_reliability:g}"
            + (
                ""
                if r.task.unreliable == "inconsistent"
                else f", tag-2 definitions of stage 1 {r.task.unreliable}"
            ),
            "Model": f"{r.model} ({r.training.kind}{adapters})",
            "Stages": "; ".join(map(_stage, r.training.stages)),
            "Question that lenses, patches and probes look at": run.seed(run.seeds[0]).attribute,
            "Parity with Hugging Face": _parity(run),
        }


def _parity(run: Any) -> str:
    """The largest difference over all models that were opened and whose comparison is stored, in words."""
    remedy = "delete it, and it is written again when an analysis opens the model"
    found = [files.read_json(path, remedy=remedy) for path in sorted(run.path.glob("seed-*/parity/*.json"))]
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
        + ("" if stage.part[1] == 1 else f", part {stage.part[0]} of {stage.part[1]} of the new aliases")
        + ("" if stage.trains == "all" else f", trains {stage.trains.replace('_', ' ')}")
        + ("" if stage.embedding_rate == 1 else f", embeddings at {stage.embedding_rate:g} times that rate")
        + ("" if stage.embedding_rows == "all" else ", embeddings of tokens in the batch alone")
        + (f", {stage.replay:g} replayed texts an example" if stage.replay else "")
        + (
            f", until the definition loss is {stage.stop_at_definition_loss:g} nats"
            if stage.stop_at_definition_loss
            else ""
        )
    )
