"""Recipes: what ships loads, what is wrong is named, and every key is explained."""

import ast
import dataclasses
import inspect
import json
import math
import textwrap
import typing
from pathlib import Path

import pytest
import tiny

from mechocl.analyses import jobs, registry
from mechocl.closed_book import cost
from mechocl.commands import calling
from mechocl.errors import MechoclError
from mechocl.runs import recipes
from mechocl.runs.recipes import Recipe
from mechocl.runs.run import kind_of
from toy_models.architectures import Architecture
from toy_models.stages import StageConfig
from toy_models.subsets import Fractions

CONFIGS = [*recipes.configs().values(), Architecture, *(a.config for a in registry.ANALYSES.values())]


def undocumented(config: type) -> list[str]:
    """Fields of a dataclass without a docstring right under them."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    found = []
    for statement, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            documented = (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
                and bool(after.value.value.strip())
            )
            if not documented:
                found.append(ast.unparse(statement.target))
    return found


@dataclasses.dataclass
class HalfExplained:
    """The check's own failing example."""

    explained: int = 0
    """What it is."""
    silent: int = 0
    empty: int = 0
    """ """
    last: int = 0


def test_the_check_finds_fields_without_a_docstring() -> None:
    assert undocumented(HalfExplained) == ["silent", "empty", "last"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.__name__)
def test_every_field_has_a_docstring(config: type) -> None:
    assert undocumented(config) == []


def test_all_configs_of_recipes_are_looked_at() -> None:
    assert set(recipes.configs()) == {
        "Recipe",
        "ConvNetConfig",
        "ConvNetRecipe",
        "DigitGridConfig",
        "IntegerSetConfig",
        "PlantedSetConfig",
        "Fractions",
        "ModelConfig",
        "TrainingConfig",
        "StageConfig",
        "ClosedBookRecipe",
        "ClosedBookConfig",
        "PaperFractions",
        "BiographiesConfig",
        "MiniatureConfig",
        "FinetuningConfig",
        "FinetuneStage",
        "LoraConfig",
    }


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.__name__)
def test_configs_cannot_be_changed_and_take_keywords_only(config: type) -> None:
    assert config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(config))


@pytest.mark.parametrize("name", recipes.named())
def test_what_ships_loads_and_comes_back_from_a_manifest(name: str) -> None:
    recipe = recipes.load_recipe(name)
    assert recipe == recipes.load_recipe(str(recipes.named()[name]))
    assert recipes.parse(recipes.plain(recipe), source="manifest.json") == recipe
    assert "\n" not in recipe.description


def test_these_recipes_ship() -> None:
    assert set(recipes.named()) >= {"integer-set/cpu", "integer-set/one-stage", "integer-set/paper"}


def test_none_is_kept_and_zero_is_not_lost() -> None:
    recipe = recipes.load_recipe("integer-set/cpu", ("model.d_mlp=0", "model.n_heads=2"))
    again = recipes.parse(recipes.plain(recipe), source="manifest.json")
    assert again == recipe
    assert (again.model.d_mlp, again.model.n_heads, again.model.d_model) == (0, 2, None)


def test_the_paper_recipe_is_the_papers_protocol() -> None:
    """arXiv 2310.15047, section 4 and its public code; see the comment in the file."""
    paper = recipes.load_recipe("integer-set/paper")
    t = paper.task
    assert (t.aliases, t.integers, t.list_length, t.n_intersection) == (8000, 100, 8, 1)
    assert (t.train_questions, t.test_questions) == (12, 12)
    assert (t.word_order, t.definition_separator, t.loss) == ("TVE", True, "every")
    assert (t.tag_reliability, t.label_flip, t.fresh_questions, t.tokens_per_alias) == (1.0, 0.0, False, 1)
    assert t.fractions == Fractions(qd1=0.35, qd2=0.35, d1=0.1, d2=0.1, d3=0.1)
    pythia_70m = Architecture(
        n_layers=6,
        d_model=512,
        n_heads=8,
        d_mlp=2048,
        activation="gelu",
        positions="rotary",
        rotary_fraction=0.25,
        parallel_attn_mlp=True,
        normalization="LN",
        layer_norm_eps=1e-5,
        tied_embeddings=False,
        init_std=0.02,
    )
    assert paper.model.resolve() == pythia_70m
    assert paper.training.precision == "bf16"
    stages = [((1,), 100), ((2,), 40)]
    assert [(s.data, s.epochs) for s in paper.training.stages] == stages
    for stage in paper.training.stages:
        assert (stage.batch_size, stage.optimizer, stage.trains) == (512, "adafactor", "all")
        assert (stage.learning_rate, stage.schedule, stage.warmup) == (5e-5, "linear", 0.0)
        assert (stage.weight_decay, stage.gradient_clip) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "twin"),
    [("short", "one-stage"), ("cpu", "cpu-one-stage"), ("memorised", "memorised-one-stage")],
)
def test_twins_differ_in_their_stages_and_in_who_is_defined_alone(name: str, twin: str) -> None:
    two, one = recipes.load_recipe(f"integer-set/{name}"), recipes.load_recipe(f"integer-set/{twin}")
    shared = dataclasses.replace(one.task, aliases=two.task.aliases, fractions=two.task.fractions)
    assert (shared, one.model, one.training.precision) == (two.task, two.model, two.training.precision)
    assert [s.data for s in two.training.stages] == [(1,), (2,)]
    assert [s.data for s in one.training.stages] == [(1, 2)]


def test_the_smoke_test_of_the_demo_is_a_recipe() -> None:
    from mechocl.commands.training import FAST

    fast = recipes.load_recipe("integer-set/cpu", FAST)
    assert fast.task.aliases < recipes.load_recipe("integer-set/cpu").task.aliases
    assert [name for name, _ in jobs.reported_analyses(fast)] == list(kind_of(fast).reported)
    one_stage = [name for name, _ in jobs.reported_analyses(recipes.load_recipe("integer-set/one-stage"))]
    assert set(kind_of(fast).reported) - set(one_stage) == {"graft", "steering"}


# changes -------------------------------------------------------------------------------------------


def load(folder: Path, *changes: str) -> Recipe:
    return tiny.recipe(folder, *changes)


def test_changes_are_made_and_nothing_else(tmp_path: Path) -> None:
    before = load(tmp_path)
    after = load(
        tmp_path,
        "task.aliases=500",
        "task.word_order=VTE",
        'training.precision="bf16"',
        "training.stages.1.epochs=1_000",
        "training.stages.1.learning_rate=1",
        "training.stages.0.data=[1, 2]",
        "model.tied_embeddings=false",
        "task.fractions.d3=0.0",
        "task.fractions.no_data=0.1",
        "description=a = b",
    )
    first, second = before.training.stages
    replace = dataclasses.replace
    expected = Recipe(
        description="a = b",
        task=replace(
            before.task,
            aliases=500,
            word_order="VTE",
            fractions=replace(before.task.fractions, d3=0.0, no_data=0.1),
        ),
        model=replace(before.model, tied_embeddings=False),
        training=replace(
            before.training,
            precision="bf16",
            stages=(replace(first, data=(1, 2)), replace(second, epochs=1000, learning_rate=1.0)),
        ),
    )
    assert after == expected
    assert isinstance(after.training.stages[1].learning_rate, float)
    assert load(tmp_path) == before


def test_a_table_that_the_file_leaves_out_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(tiny.TOML.replace("fractions = {", "# fractions = {"))
    recipe = recipes.load_recipe(
        str(tmp_path / "short.toml"), ("task.fractions.qd1=0.3", "task.fractions.q_only=0.05")
    )
    assert (recipe.task.fractions.qd1, recipe.task.fractions.q_only) == (0.3, 0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # what, where, and what was expected
        ("task.aliasse=5", "unknown key 'task.aliasse'; did you mean 'task.aliases'?"),
        ("task.aliases =5", "unknown key 'task.aliases '; did you mean 'task.aliases'?"),
        ("training.stages.1.epoch=5", "unknown key 'training.stages.1.epoch'; did you mean 'training.stages.1.epochs'?"),
        ("aliases=5", "unknown key 'aliases'; did you mean 'task.aliases'?"),
        ("epochs=5", "unknown key 'epochs'; did you mean 'training.stages.0.epochs'?"),
        ("d_model=5", "unknown key 'd_model'; did you mean 'model.d_model'?"),
        ("trainning.precision=bf16", "unknown key 'trainning'; did you mean 'training'?"),
        ("zzz=1", "unknown key 'zzz'"),
        ("task=5", "task: input should be an object, not 5"),
        ("task.aliases=5.5", "task.aliases: input should be a valid integer, not 5.5"),
        ("task.aliases='500'", "task.aliases: input should be a valid integer, not '500'"),
        ("task.aliases=many", "task.aliases: input should be a valid integer, not 'many'"),
        ("task.aliases=true", "task.aliases: input should be a valid integer, not True"),
        ("task.fresh_questions=1", "task.fresh_questions: input should be a valid boolean, not 1"),
        ("description=1", "description: input should be a valid string, not 1"),
        ("task.aliases=0", "task: aliases is 0; it must be at least 1"),
        ("task.fractions.qd1=2", "task.fractions: fraction qd1 is 2.0; it must lie between 0 and 1"),
        ("task.fractions.qd1=-0.1", "task.fractions: fraction qd1 is -0.1; it must lie between 0 and 1"),
        ("task.fractions.qd1=0.9", "task.fractions: the subset fractions sum to 1.65, not 1"),
        ("task.list_length=10", "task: list_length 10 needs more than 10 integers"),
        ("task.list_length=40", "task: list_length 40 needs more than 10 integers"),
        (
            "task.word_order=TVX",
            "task.word_order: input should be 'TVE', 'TEV', 'VTE', 'VET', 'EVT' or 'ETV', not 'TVX'",
        ),
        ("task.train_questions=3", "task: train_questions is 3; it must be even and at least 2"),
        ("model.architecture=huge", "model: unknown architecture 'huge'; known: nano, small, pythia-70m"),
        ("model.d_model=17", "model: d_model 17 is not divisible by n_heads 2"),
        ("training.precision=fp8", "training.precision: input should be 'float32' or 'bf16', not 'fp8'"),
        ("training.stages=[]", "training: training.stages is empty; give at least one stage"),
        ("training.stages.0.data=[3]", "training.stages.0.data.0: input should be 1 or 2, not 3"),
        ("training.stages.0.data=[]", "training.stages.0: data is []; name stage 1, stage 2 or both"),
        ("training.stages.1.learning_rate=nan", "training.stages.1.learning_rate: input should be a finite number, not nan"),
        ("training.stages.1.epochs=0", "training.stages.1: epochs is 0; it must be at least 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(MechoclError) as caught:
        load(tmp_path, change)
    where = f"{tmp_path / 'tiny.toml'} with --set {change}: "
    assert str(caught.value).startswith(where + message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task.aliases", "--set 'task.aliases' has no '='; write key=value, for example task.aliases=500"),
        ("training.stages.2.epochs=1", "--set training.stages.2.epochs: there is no entry '2'; entries count from 0"),
        ("training.stages.-1.epochs=1", "--set training.stages.-1.epochs: there is no entry '-1'"),
        ("training.stages.².epochs=1", "--set training.stages.².epochs: there is no entry '²'"),
        ("training.stages.0=1", "--set training.stages.0: name a field of one entry, as in training.stages.0.epochs"),
        ("task.aliases.x.y=1", "--set task.aliases.x.y: 'aliases' is a value, not a table"),
        ("task.aliases.x=1", "--set task.aliases.x: 'aliases' is a value, not a table"),
    ],
)  # fmt: skip
def test_a_change_that_cannot_be_made_is_one_line(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(MechoclError) as caught:
        load(tmp_path, change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_further_mistakes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match=r"\(and 2 more\)$"):
        load(tmp_path, "task.aliases=a", "model.d_model=b", "training.precision=c")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(tiny.TOML.replace("epochs = 3\n", ""))
    with pytest.raises(MechoclError, match=r"bad.toml: the key 'training.stages.0.epochs' is missing"):
        recipes.load_recipe(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"task = ", "is not valid TOML: Invalid value"),
        (b"\xff\xfe", "is not a text file in UTF-8"),
        (b"", "the key 'description' is missing"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(MechoclError) as caught:
        recipes.load_recipe(str(path))
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(
        MechoclError,
        match=r"no recipe 'nothing': not a file, and not one of digit-grid/cpu-one-stage, digit-grid/cpu",
    ):
        recipes.load_recipe("nothing")
    with pytest.raises(
        MechoclError,
        match="is a folder; give a recipe file or one of digit-grid/cpu-one-stage, digit-grid/cpu",
    ):
        recipes.load_recipe(str(tmp_path))


def test_a_change_gives_the_same_as_the_key_in_the_file(tmp_path: Path) -> None:
    """Over every key of a stage: `--set` and TOML read values alike."""
    stage = load(tmp_path).training.stages[0]
    for field in dataclasses.fields(StageConfig):
        value = getattr(stage, field.name)
        text = value if isinstance(value, str) else json.dumps(value)
        assert load(tmp_path, f"training.stages.0.{field.name}={text}").training.stages[0] == stage


@pytest.mark.parametrize("name", recipes.named_closed_book())
def test_closed_book_recipes_parse_and_name_their_cost(name: str) -> None:
    recipe = recipes.load_closed_book_recipe(name)
    assert recipes.parse(recipes.plain(recipe), source=name) == recipe
    if not recipe.model.startswith("runs/"):  # of which the model's folder says how large it is
        found = cost.estimate_cost(recipe)
        assert found.tokens > 1e6
        assert found.parameters is not None
        assert "about" in cost.cost_in_words(found, seeds=2)


def test_the_papers_experiments_have_recipes() -> None:
    names = {name.removeprefix("closed-book/") for name in recipes.named_closed_book()}
    wanted = {
        "two-stage",
        "one-stage",
        "three-stage",
        "reliability",
        "word-order",
        "batch-size",
        "sizes",
        "trex",
        "t5",
    }
    assert names >= wanted | {"sources", "biographies", "miniature-three-stage", "miniature-six-parts"}
    for name in ("integer-set/cpu", str(recipes.named()["integer-set/cpu"])):
        with pytest.raises(MechoclError, match="is a recipe of a model that is trained from scratch"):
            recipes.load_closed_book_recipe(name, ('model="base"',))
    for name in names:
        with pytest.raises(
            MechoclError, match=f"^closed-book/{name} is a closed-book recipe; `mechocl finetune`"
        ):
            recipes.load_recipe(f"closed-book/{name}")


def float_keys(config: object, prefix: str = "") -> list[str]:
    """The keys of all fields of a config that hold a float, or may hold one."""
    hints, found = typing.get_type_hints(type(config)), []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value, hint = getattr(config, field.name), hints[field.name]
        entries = list(enumerate(value)) if isinstance(value, tuple) else []
        if dataclasses.is_dataclass(value):
            found += float_keys(value, f"{prefix}{field.name}.")
        elif entries and dataclasses.is_dataclass(entries[0][1]):
            found += [key for i, one in entries for key in float_keys(one, f"{prefix}{field.name}.{i}.")]
        elif float in (hint, *typing.get_args(hint)):
            found.append(prefix + field.name)
    return found


SHIPPED = sorted({**recipes.named(), **recipes.named_closed_book()})


@pytest.mark.parametrize("name", SHIPPED)
def test_no_field_takes_a_number_that_is_not_finite(name: str) -> None:
    recipe = recipes.load_any_recipe(name)
    keys = float_keys(recipe)
    assert {key.rsplit(".", 1)[1] for key in keys} >= {"learning_rate", "warmup", "tag_reliability"}
    for key in keys:
        for text in ("inf", "-inf", "nan"):
            with pytest.raises(MechoclError) as caught:
                recipes.change_recipe(recipe, (f"{key}={text}",))
            assert f"{key}: input should be a finite number, not {text}" in str(caught.value)


def test_no_option_takes_a_number_that_is_not_finite() -> None:
    checked = 0
    for analysis in registry.ANALYSES.values():
        for key in float_keys(analysis.config()) if not _required(analysis.config) else []:
            for bad in (math.inf, -math.inf, math.nan):
                several = isinstance(getattr(analysis.config(), key), tuple)
                try:
                    config = analysis.config(**{key: (bad,) if several else bad})
                except (MechoclError, ValueError):  # the config itself refuses it
                    continue
                with pytest.raises(MechoclError, match="give a finite number"):
                    calling.refuse_not_finite("config", config)
                checked += 1
    assert checked


def _required(config: type) -> bool:
    return any(
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
    )
