"""Gradients of fine-tuned models: against Hugging Face's own backward pass, with tied and with untied embeddings."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from adam_scales import assert_same_scales
from finetuned import ignore, train
from torch import Tensor

from mechocl.closed_book.miniature import MiniatureConfig
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.learning.alignment import align
from mechocl.learning.course import refuse_adapters
from mechocl.learning.examples import Examples, definitions_of, name_tokens, questions_of, write_with_tag
from mechocl.learning.gradients import alias_gradients, differentiable
from mechocl.learning.layout import ALL
from mechocl.learning.preconditioning import adam_scales, scale_as_adam
from mechocl.models import hub
from mechocl.runs import pretraining, recipes
from mechocl.runs.pretraining_config import MINIATURE
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder
from toy_models.task import Task

WORLD = MiniatureConfig(entities=40, values=4, texts=300)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one seed, whose pretrained model has tied embeddings, or not."""
    folder = tmp_path_factory.mktemp("text")
    model = replace(MINIATURE, n_layers=1, d_model=16, n_heads=2, epochs=1, tied_embeddings=request.param)
    pretraining.pretrain(
        folder / "model", WORLD, model, seed=0, device="cpu", save_every_s=1e9, progress=ignore
    )
    changes = (
        f'model="{folder / "model"}"',
        "task.entities=40",
        "task.miniature.entities=40",
        "task.miniature.values=4",
        "task.miniature.texts=300",
        "training.stages.0.epochs=4",
        "training.stages.1.epochs=3",
        "training.stages.1.checkpoints=2",
    )
    recipe = recipes.load_closed_book_recipe("closed-book/miniature", changes)
    made = Run.create(
        folder / "run", recipe, recipe_name="miniature", seeds=(0,), device="cpu", threads=1, together=1
    )
    train(made)
    return made


@pytest.fixture(scope="module")
def folder(run: Run) -> TextSeedFolder:
    one = run.seed(0)
    assert isinstance(one, TextSeedFolder)
    return one


def new_aliases(task: Task) -> np.ndarray:
    """Two aliases of each tag."""
    table = task.table.iloc[task.rows(kind="definition", stage=2)]
    found: np.ndarray = table.groupby("tag", observed=True).head(2)["alias"].to_numpy()
    return found


def theirs(folder: TextSeedFolder, examples: Examples) -> tuple[Tensor, list[str]]:
    """The gradient of each alias's loss by Hugging Face's model, as one row, and the names of the weights in it."""
    model = hub.read_model(folder.model_path(folder.final(1)))
    rows = []
    for tokens, mask in zip(examples.tokens, examples.loss_mask, strict=True):
        model.zero_grad()
        logits = model(input_ids=tokens).logits
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        carries = mask[:, :-1].flatten()
        (each[carries].sum() / carries.sum()).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(rows), [name for name, _ in model.named_parameters()]


def test_inner_products_are_those_of_hugging_faces_gradients(folder: TextSeedFolder) -> None:
    """Between the definition and the questions of each alias, over all weights, each counted once."""
    task = write_with_tag(folder.analysed_task(), 2)
    of = differentiable(folder.model_at(folder.final(1), device="cpu"), task)
    aliases = new_aliases(task)
    definitions = definitions_of(task, aliases)
    questions = questions_of(task, aliases, split="test", loss="answer")
    names = name_tokens(task, aliases)
    ours = [alias_gradients(of, one, names) for one in (definitions, questions)]
    ones = {group: torch.ones(1, 1) for group in ours[0]}
    everyone = {"all of them": torch.ones(len(aliases), dtype=torch.bool)}
    found = {(group, correction): values for group, correction, _, values in align(*ours, ones, everyone)}
    one, other = (theirs(folder, examples)[0].double() for examples in (definitions, questions))
    whole = found[ALL, "raw"]
    torch.testing.assert_close(whole["inner"], (one * other).sum(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole["definition_norm"], one.norm(dim=1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole["question_norm"], other.norm(dim=1), rtol=1e-4, atol=1e-6)


def test_scales_are_those_of_adam_with_the_rates_of_fine_tuning(folder: TextSeedFolder, run: Run) -> None:
    """The embedding's rate holds for the embedding and for an unembedding of its own; by Hugging Face's squared gradients."""
    task = folder.analysed_task()
    of = differentiable(folder.model_at(folder.final(1), device="cpu"), task)
    settings = replace(run.recipe.training.stages[1], batch_size=10**6)
    names = name_tokens(task, new_aliases(task))
    scales = scale_as_adam(of, settings, names, tag=None, seed=0)
    rows = torch.from_numpy(task.training_rows(settings.data))
    batch = Examples(task.tokens[rows][None], task.loss_mask[rows][None])
    gradient, weights = theirs(folder, batch)
    model = hub.read_model(folder.model_path(folder.final(1)))
    sizes = [p.numel() for p in model.parameters()]
    squares = dict(zip(weights, gradient[0].split(sizes), strict=True))
    rate = settings.embedding_rate
    expected = {name: 1 / (part.abs() + 1e-8) for name, part in squares.items()}
    own = expected["gpt_neox.embed_in.weight"].view(-1, of.model.cfg.d_model)[names[:, 0]] * rate
    assert_same_scales(scales["alias embeddings"], own)
    if not of.layout.tied:
        unembedding = model.get_output_embeddings().weight
        name = next(name for name, p in model.named_parameters() if p is unembedding)
        out = expected[name].view(-1, of.model.cfg.d_model).T.flatten() * rate
        assert_same_scales(scales["unembedding"][0, : out.numel()], out)
    ours, mlp = scales["L0 mlp"][0], [expected[name].flatten() for name in weights if ".mlp." in name]
    assert_same_scales(ours.sort().values, torch.cat(mlp).sort().values)


def test_rows_that_no_example_of_the_stage_has_take_no_step(folder: TextSeedFolder, run: Run) -> None:
    """As fine-tuning leaves them, where it moves the rows of a batch alone; and kinds that a stage does not train are in no batch."""
    task, settings = folder.load_task(), run.recipe.training.stages[1]
    of = differentiable(folder.model_at(folder.final(1), device="cpu"), folder.analysed_task(), task)
    names = name_tokens(of.task, new_aliases(of.task))
    read = torch.zeros(len(task.vocabulary), dtype=torch.bool)
    read[task.tokens[torch.from_numpy(task.rows(split="train", stage=2))]] = True
    assert not read.all()
    for rows, moved in (("in_batch", read), ("all", torch.ones_like(read))):
        _, scales = adam_scales(of, replace(settings, embedding_rows=rows), names, tag=None, seed=0)
        assert torch.equal((scales["embed.W_E"] > 0).all(1), moved[of.layout.others])
        if of.layout.tied:
            assert torch.equal((scales["unembed.W_U"] > 0).all(0), moved)
    first = run.recipe.training.stages[0]
    kinds = [("definition", "question"), ("question",), ("definition",)]
    found = [
        adam_scales(of, replace(first, kinds=kind), names, tag=None, seed=0)[1]["blocks.0.mlp.W_in"]
        for kind in kinds
    ]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    alone = differentiable(folder.model_at(folder.final(1), device="cpu"), folder.analysed_task())
    one_attribute = adam_scales(alone, first, names, tag=None, seed=0)[1]["blocks.0.mlp.W_in"]
    assert not torch.equal(found[0], one_attribute)


def test_the_commands_follow_a_fine_tuned_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--aliases-per-subset", "2", "--device", "cpu", "--jobs", "1")
    assert cli.main(["gradients", str(run.path), *small]) == 0
    said = capsys.readouterr().out
    assert "stage 2 replays texts of pretraining, which are not in the second moments" in said
    assert cli.main(["updates", str(run.path), *small]) == 0
    folders = {
        path.parent.name: pd.read_parquet(path / "rows.parquet") for path in run.path.glob("results/*/*")
    }
    kept = [one.step for one in run.seed(0).checkpoints() if one.stage == 2]
    assert len(kept) == 2
    rows = folders["gradients"]
    assert set(rows.loc[rows["stage"] == 2, "step"]) == set(kept)
    assert set(folders["one-update"]["subset"]) == {"d1_consistent", "d2_consistent", "d3_consistent"}


def test_a_run_of_adapters_is_refused() -> None:
    recipe = recipes.load_closed_book_recipe("closed-book/two-stage", ("training.lora={rank=2}",))
    with pytest.raises(
        MechoclError, match=r"trains adapters \(training.lora\), and gradients are of a model's own"
    ):
        refuse_adapters(recipe)
