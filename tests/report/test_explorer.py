"""The explorer's arrays are those of the analyses, and they come through packing within half precision."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import text_worlds
import torch
from browser import open_page

from mechocl.analyses import jobs
from mechocl.behaviour import internalization
from mechocl.errors import MechoclError
from mechocl.interventions.named_pairs import partner_pairs
from mechocl.interventions.patching import patch_activations
from mechocl.lenses.attention import AttentionConfig, attention_array, attention_patterns
from mechocl.lenses.logit_lens import LensConfig, logit_lens
from mechocl.report.explorer import data, page
from mechocl.report.explorer.collecting import Work, choose_checkpoints, collect_seed, why_no_twin
from mechocl.report.explorer.packing import lower_triangles, pack, unpack
from mechocl.report.explorer.story import SHIPPED, Story, View, read_story
from mechocl.runs.building import build_model
from mechocl.runs.recipes import load_recipe
from mechocl.runs.run import Run

HALF = 2**-10
"""Relative error of half precision, with room for the last bits of two ways to compute a number."""


@pytest.fixture(scope="module")
def shown(trained: Run) -> data.ShownSeed:
    task = trained.seed(0).task
    return data.show_seed(task, data.choose_aliases(task, 10), seed=0)


@pytest.fixture(scope="module")
def packed(trained: Run, shown: data.ShownSeed) -> dict[str, np.ndarray]:
    """What the page holds of seed 0 after training, read back."""
    folder = trained.seed(0)
    work = Work(
        run=str(trained.path), attribute="", seed=0, checkpoints=(folder.final(),), twin=False,
        aliases=tuple(one.alias for one in shown.aliases), patching=True, device="cpu", most=10**9,
    )  # fmt: skip
    (one,) = collect_seed(work, lambda text, share: None).packed.values()
    return unpack(one.text, one.shapes)


# Numbers


def test_patterns_are_those_of_the_attention_analysis(
    trained: Run, shown: data.ShownSeed, packed: dict[str, np.ndarray]
) -> None:
    folder = trained.seed(0)
    rows = attention_patterns(folder.model, folder.task, AttentionConfig(subsets=("d1_consistent",)))
    compared = 0
    for question, part in rows.groupby("question"):
        if question in shown.rows:
            wanted = lower_triangles(attention_array(part))
            at = list(shown.rows).index(question)
            np.testing.assert_allclose(packed["patterns"][at], wanted, rtol=HALF, atol=1e-4)
            compared += 1
    assert compared == 2


def test_the_lens_is_that_of_the_logit_lens(
    trained: Run, shown: data.ShownSeed, packed: dict[str, np.ndarray]
) -> None:
    """Mean ranks over the questions of each subset, from the page's logits and from the analysis, at every layer and position."""
    folder = trained.seed(0)
    task = folder.task.take(shown.rows)
    rows = logit_lens(folder.model, task, LensConfig(of=("stream",)))
    lens = packed["lens"].astype(np.float64)
    entity = task.table["entity"].to_numpy()
    own = lens[np.arange(len(lens)), ..., entity][..., None]
    rank = 1 + (lens > own).sum(-1) + ((lens == own).sum(-1) - 1) / 2
    for (subset, contains), part in rows.groupby(["subset", "contains"], observed=True):
        chosen = ((task.table["subset"] == subset) & (task.table["answer"] == contains)).to_numpy()
        wanted = part.pivot(index="layer", columns="position", values="rank")
        layers = list(dict.fromkeys(part["layer"]))
        found = pd.DataFrame(rank[chosen].mean(0), index=layers, columns=list(shown.labels))
        # logits closer than half precision tells apart may change places
        np.testing.assert_allclose(
            found.loc[layers, list(shown.labels)], wanted.loc[layers, list(shown.labels)], atol=0.51
        )


def test_logits_and_differences_are_the_models_own(
    trained: Run, shown: data.ShownSeed, packed: dict[str, np.ndarray]
) -> None:
    folder = trained.seed(0)
    tokens = folder.task.tokens[torch.from_numpy(shown.rows)][:, : len(shown.labels)]
    with torch.no_grad():
        logits = folder.model(tokens)[:, -1]
    ids = folder.task.questioning.answer_ids(folder.task.vocabulary)
    np.testing.assert_allclose(packed["logits"], logits[:, ids], rtol=HALF, atol=1e-3)
    difference = internalization.true_logit_difference(folder.model, folder.task, shown.rows)
    np.testing.assert_allclose(packed["difference"], difference, rtol=HALF, atol=1e-3)


def test_measures_are_those_of_the_evaluation(trained: Run, packed: dict[str, np.ndarray]) -> None:
    folder = trained.seed(0)
    rows = internalization.per_alias(folder.model, folder.task).set_index("alias")
    aliases, subsets = data.all_aliases(folder.task)
    assert subsets == [str(subset) for subset in rows.loc[aliases, "subset"]]
    np.testing.assert_allclose(
        packed["measures"], rows.loc[aliases, list(data.MEASURES)], rtol=HALF, atol=1e-3
    )


def test_effects_are_those_of_patching(
    trained: Run, shown: data.ShownSeed, packed: dict[str, np.ndarray]
) -> None:
    """Of a single pair, the analysis's own effect of every site, head and position."""
    folder = trained.seed(0)
    names = data.patch_names(folder.model)
    there = [i for i, partner in enumerate(shown.partners) if partner >= 0]
    for i in there[:3]:
        pairs = partner_pairs(folder.task, shown.rows[[i]], [shown.partners[i]], name="one")
        result = patch_activations(folder.model, pairs, sites=["attn_out", "mlp_out", "resid_post", "z"])
        assert packed["ends"][i] == pytest.approx([result.clean, result.corrupted], rel=HALF, abs=1e-3)
        for row in result.rows.to_dict("records"):
            name = (
                f"L{row['layer']}H{row['index']} z"
                if row["site"] == "z"
                else f"L{row['layer']} {row['site']}"
            )
            found = packed["effects"][i, names.index(name), shown.labels.index(row["position"])]
            assert float(found) == pytest.approx(row["effect"], rel=HALF, abs=1e-3, nan_ok=True)
    assert np.isfinite(packed["effects"][there]).any()


def test_a_partner_has_another_answer(trained: Run, shown: data.ShownSeed) -> None:
    task = trained.seed(0).task
    entity = task.table.drop_duplicates("alias").set_index("alias")["entity"]
    compared = 0
    for row, partner in zip(shown.rows.tolist(), shown.partners, strict=True):
        if partner >= 0:
            listed = task.tokens[row] - task.vocabulary.integers[0]
            answer = bool((listed == int(entity[partner])).any())
            assert answer != bool(task.table["answer"].iloc[row])
            compared += 1
    assert compared > 5


# What is on the page


def test_each_subset_has_an_equal_share_of_the_aliases(trained: Run) -> None:
    task = trained.seed(0).task
    chosen = data.choose_aliases(task, 12)
    table = task.table.drop_duplicates("alias").set_index("alias")
    counts = table.loc[chosen, "subset"].astype(str).value_counts()
    assert len(chosen) == 12
    assert counts.max() - counts.min() <= 1
    assert len(data.choose_aliases(task, 10**6)) == 120


def test_questions_have_both_answers_and_say_where_the_integer_is(shown: data.ShownSeed) -> None:
    for alias in shown.aliases:
        assert [question.right for question in alias.questions] == ["true", "false"]
        with_it, without = alias.questions
        assert [with_it.tokens[i] for i in with_it.matches] == [shown.entities[alias.entity]]
        assert without.matches == ()
        assert (with_it.sign, without.sign) == (1.0, -1.0)
    assert shown.labels[0] == "alias"
    assert shown.labels[-1] == "="


def test_checkpoints_are_spread_and_end_with_the_last(trained: Run) -> None:
    folder = trained.seed(0)
    there = folder.checkpoints()
    assert choose_checkpoints(folder, 100) == there
    some = choose_checkpoints(folder, 3)
    assert len(some) == 3
    assert some == sorted(some, key=there.index)
    assert [some[0], some[-1]] == [there[0], there[-1]]
    assert choose_checkpoints(folder, 1) == [there[-1]]


def test_without_twins_the_command_that_makes_them_is_named(trained: Run) -> None:
    why = why_no_twin(trained.seed(0))
    assert f"`mechocl twins {trained.path.name}`" in why
    assert str(trained.path.parent) not in why


# A text world


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("text")
    model = text_worlds.folder(folder / "model")
    recipe = text_worlds.recipe(folder, model)
    return jobs.train_run(folder / "run", recipe, recipe_name="text", seeds=(0,), device="cpu", jobs=1)


def test_a_text_worlds_page_shows_words(text_run: Run, tmp_path: Path) -> None:
    task = text_run.seed(0).task
    shown = data.show_seed(task, data.choose_aliases(task, 6), seed=0)
    assert all(len(alias.questions) == 1 for alias in shown.aliases)
    question = shown.aliases[0].questions[0]
    assert "".join(question.tokens).startswith("Q: ")
    assert shown.aliases[0].name in "".join(question.tokens)
    assert question.right in shown.entities == shown.candidates
    out = tmp_path / "page.html"
    page.write_explorer(text_run, (0,), out, aliases=6, checkpoints=2, patching=True, device="cpu", jobs=1)
    with open_page(out) as opened:
        opened.page.wait_for_selector("#scatter svg")
        assert opened.page.evaluate("drawnView.question.tokens.length") == len(shown.labels)
        assert "Logit lens at =: every answer" in opened.page.locator("#lens h2").inner_text()
        assert opened.page.evaluate(
            "Number.isFinite(Math.max(...effectsOf(drawnView).filter(Number.isFinite)))"
        )
        assert (
            "variants are for runs of models that are trained from scratch"
            in opened.page.locator("#answers + .absent").inner_text()
        )
        opened.assert_clean()


# Packing


def test_packing_is_reversible_within_half_precision() -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(3, 4, 5)).astype(np.float32) * 100, "b": np.array([np.nan, 0.0, -1.5])}
    one = pack(arrays)
    found = unpack(one.text, one.shapes)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array.astype(np.float16))
    assert pack(arrays) == one
    with pytest.raises(ValueError, match="63 numbers, the shapes 60"):
        unpack(one.text, {"a": (3, 4, 5)})


def test_triangles_stand_row_by_row() -> None:
    pattern = np.array([[1.0, 0.0, 0.0], [0.4, 0.6, 0.0], [0.1, 0.2, 0.7]])
    np.testing.assert_array_equal(lower_triangles(pattern), [1.0, 0.4, 0.6, 0.1, 0.2, 0.7])


def test_four_seeds_of_the_demo_stay_small() -> None:
    """Ten checkpoints of fifty aliases each, with numbers that compress as badly as any: those of a run take less."""
    recipe = load_recipe("integer-set/cpu")
    task, model = recipe.task, build_model(recipe, seed=0)
    layers, heads, patches = model.cfg.n_layers, model.cfg.n_heads, len(data.patch_names(model))
    rng, questions, length = np.random.default_rng(0), 2 * 50, 3 + task.list_length
    shapes = {
        "patterns": (questions, layers, heads, length * (length + 1) // 2),
        "lens": (questions, layers + 1, length, task.integers),
        "logits": (questions, 2),
        "difference": (questions,),
        "effects": (questions, patches, length),
        "ends": (questions, 2),
        "measures": (task.aliases, len(data.MEASURES)),
    }
    one = pack({name: rng.normal(size=shape) for name, shape in shapes.items()})
    assert 4 * 10 * len(one.text) < page.SIZE_LIMIT


# Stories


def test_the_shipped_stories_can_be_read() -> None:
    for name in SHIPPED:
        assert 1 <= len(read_story(name).views) <= 7


def test_what_is_wrong_with_a_story_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "story.toml"
    for text, said in (
        ("title = 1", r"title: .*string"),
        ('title = "t"\nviews = []', r"views: .*at least 1"),
        ('title = "t"\n[[views]]\ncaption = "c"\nhaed = "0.0"', r"views\.1\.haed: "),
        ('title = "t"\n' + '[[views]]\ncaption = "c"\n' * 8, r"views: .*at most 7"),
        ("title", "is no TOML"),
    ):
        path.write_text(text)
        with pytest.raises(MechoclError, match=said) as found:
            read_story(str(path))
        assert "\n" not in " ".join(str(found.value).split())
    with pytest.raises(MechoclError, match="there is no such file; give a TOML file, or demo"):
        read_story(str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"seed": 7}, "seed 7 is not on the page; it has 0"),
        ({"checkpoint": "9.9"}, "checkpoint '9.9' is not on the page; it has first, last, "),
        ({"alias": 10**6}, "alias 1000000 is not on the page"),
        ({"subset": "d1"}, "subset 'd1' is not on the page; it has "),
        ({"position": "n9"}, "position 'n9' is not on the page; it has alias, %"),
        ({"question": 3}, "question 3 is not on the page; it has 1, 2"),
    ],
)
def test_a_view_of_something_else_is_refused(
    trained: Run, shown: data.ShownSeed, view: dict[str, object], said: str
) -> None:
    story = Story(title="t", views=(View(caption="c"), View(caption="c", **view)))  # type: ignore[arg-type]
    with pytest.raises(MechoclError, match=f"view 2 of the story: {said}"):
        story.check({0: (trained.seed(0).checkpoints(), shown)})


def test_a_head_that_the_model_lacks_is_refused() -> None:
    Story(title="t", views=(View(caption="c", head="1.0"),)).check_heads(2, 1)
    with pytest.raises(
        MechoclError, match=r"head '1\.1' is not in the model; write LAYER\.HEAD, from 0\.0 to 1\.0"
    ):
        Story(title="t", views=(View(caption="c", head="1.1"),)).check_heads(2, 1)


# The page


def test_the_same_content_gives_the_same_page_without_any_address() -> None:
    content = {"title": "</script><b>", "story": [], "seeds": [], "live": False}
    one = page.render(content, facts={"Run": "<i>"}, chunks={"chunk-0-1.1": "QUJD"})
    assert one == page.render(content, facts={"Run": "<i>"}, chunks={"chunk-0-1.1": "QUJD"})
    assert "<b>" not in one.replace("<b>Run</b>", "")
    assert "<i>" not in one
    assert "default-src 'none'" in one
    assert "http" not in one.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert one.count("<script") == one.count("</script>") == 3
