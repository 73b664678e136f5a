"""Search and causal tests of features, on a model in which what every feature does is known."""

import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import ANSWER, Mechanism, planted_model, small_task, subspaces
from sae_lens import StandardSAE, StandardSAEConfig
from scipy import stats
from sklearn.linear_model import OrthogonalMatchingPursuit
from sklearn.metrics import mutual_info_score, roc_auc_score

from mechocl.errors import MechoclError
from mechocl.features import effects, exchanges, properties, search, summaries
from mechocl.features.candidates import EffectsConfig
from mechocl.features.dictionaries import Dictionary
from mechocl.features.search import SearchConfig
from mechocl.interventions.subspaces import Place
from mechocl.models.components import take_apart
from mechocl.runs.activation_cache import directly

SITE = "blocks.0.hook_resid_pre"
GATED = Mechanism(tag2_gain=0.0, name_dims=24)
"""Tag 2 keeps the alias's integer from being retrieved: the tag's coordinate is what decides."""
UNUSED = Mechanism(name_dims=24)
"""The tag is at the alias, and nothing reads it."""

TAG1, TAG2 = 12, 13
"""Features of the dictionary below: the tags' coordinates come behind those of the 12 stored integers."""
NAMES = slice(15, 15 + 48)


def dictionary(mechanism: Mechanism) -> Dictionary:
    """One feature for each stored integer and each tag, and ± each coordinate of the names, which nothing reads."""
    space = subspaces(small_task(), mechanism)
    d = space.name.stop
    eye = torch.eye(d)
    known = torch.cat([eye[space.stored], eye[space.tag]])
    rows = torch.cat([known, eye[space.name], -eye[space.name]])
    sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=len(rows)))
    sae.W_enc.data, sae.W_dec.data = rows.T.contiguous(), rows
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    return Dictionary(sae.eval(), SITE, SITE, {"held_out": 0.34, "seed": 0})


@cache
def found(mechanism: Mechanism) -> pd.DataFrame:
    task = small_task()
    model = planted_model(task, mechanism)
    return search.search(task, dictionary(mechanism), SearchConfig(), collect=directly(model))


@cache
def effects_of(mechanism: Mechanism, **changes: Any) -> pd.DataFrame:
    task = small_task()
    model = planted_model(task, mechanism)
    config = EffectsConfig(**{"n_pairs": 60, "n_questions": 60, **changes})
    return effects.effects(
        model, task, dictionary(mechanism), config, search_rows=found(mechanism), collect=directly(model)
    )


# ------------------------------------------------------------------------------------------ search


def test_the_planted_tag_is_the_first_row() -> None:
    first = found(GATED).iloc[0]
    assert (first["what"], first["group"], first["text"], first["position"]) == (
        "feature",
        "tag",
        "question",
        "alias",
    )
    assert int(first["features"]) in (TAG1, TAG2)
    assert first["property"] == "tag 1, not 2"
    assert first["sign"] == (1 if int(first["features"]) == TAG1 else -1)
    assert first["auc"] == first["auc_chosen"] == 1.0
    assert first["mutual_information"] == pytest.approx(1.0, abs=0.02)
    assert first["q"] < 1e-4


def test_every_stored_integer_has_its_feature() -> None:
    rows = found(GATED)
    rows = rows[(rows["group"] == "integer") & (rows["position"] == "alias") & (rows["text"] == "question")]
    best = rows.sort_values("auc_chosen", ascending=False, kind="stable").groupby("property").head(1)
    assert len(best) == 12
    assert (best["features"] == best["property"].str.removeprefix("integer ")).all()
    assert (best["auc"] == 1.0).all()


def test_nothing_is_found_where_nothing_varies() -> None:
    """At `%` and `=` the embedding is the same in all texts; names say nothing of the tag."""
    rows = found(GATED)
    assert not rows["position"].isin(["%", "="]).any()
    names = rows[rows["features"].str.isdecimal() & (rows["what"] == "feature") & (rows["group"] == "tag")]
    names = names[names["features"].astype(int) >= NAMES.start]
    assert len(names) >= 10
    assert (names["q"] < 0.05).mean() < 0.06


@pytest.mark.parametrize("group", [(), ("role",), ("tag",)])
@pytest.mark.parametrize("share", [0.004, 0.01, 0.02, 0.04, 0.1])
def test_few_held_out_aliases(share: float, group: tuple[str, ...]) -> None:
    """Either every row has a p, or one line says how many texts can judge and how many are needed."""
    few = replace(dictionary(GATED), record={"held_out": share, "seed": 0})
    collect = directly(planted_model(small_task(), GATED))
    said = ""
    try:
        rows = search.search(small_task(), few, SearchConfig(group=group, sets=(1,)), collect=collect)
    except MechoclError as error:
        said = str(error)
    if said:
        judging = r"\(\d+ of \d+ questions and \d+ of \d+ definitions are of held-out aliases\)"
        assert re.fullmatch(rf"no property of .* has 4 aliases on both sides, .*{judging}; .*", said)
        return
    assert np.isfinite(rows[["p", "q", "auc"]]).all(axis=None)
    assert (rows[["positive", "negative"]] >= properties.LEAST).all(axis=None)


def test_features_that_were_never_active_are_not_measured() -> None:
    """Tag 3's feature in pairs of tag 1 and tag 2: exchanging 0 for 0 is no test."""
    rows = effects_of(
        GATED, features=(str(TAG2 + 1),), property="new alias of tag 1, not 2", position="alias"
    )
    none = rows[rows["exchanged"] == 0]
    assert len(none) > 0
    assert none[["effect", "share", "control_mean", "control_95", "beats"]].isna().all(axis=None)
    assert not none["retrieval"].any()
    known = effects_of(GATED)
    assert (known["effect"].notna() == (known["exchanged"] > 0)).all()
    clamped = known[known["intervention"] == "clamp"]
    assert clamped["source"].str.fullmatch(r"mean over the [\d, ]+ texts about aliases .*").all()


def test_a_sparse_set_beside_the_dense_probe() -> None:
    rows = found(GATED)
    rows = rows[
        (rows["what"] == "set") & (rows["property"] == "tag 1, not 2") & (rows["position"] == "alias")
    ]
    one = rows[(rows["k"] == 1) & (rows["text"] == "question")].iloc[0]
    assert int(one["features"]) in (TAG1, TAG2)
    assert one["auc"] == one["dense_auc"] == one["all_auc"] == 1.0


def test_a_conjunction_is_told_from_its_parts() -> None:
    """A feature of tag 1 alone is none of (tag 1 and odd); one that is active on both alone is."""
    task, mechanism = small_task(), GATED
    model = planted_model(task, mechanism)
    base = dictionary(mechanism)
    assert not len(found(mechanism).query("what == 'conjunction' and q < .05 and auc > .6"))
    space = subspaces(task, mechanism)
    both = torch.zeros(space.name.stop)
    both[space.tag.start] = 1
    both[space.stored][1::2] = 1
    base.sae.W_enc.data[:, NAMES.start] = both
    base.sae.b_enc.data[NAMES.start] = -1.5
    rows = search.search(task, base, SearchConfig(), collect=directly(model))
    first = rows[rows["what"] == "conjunction"].iloc[0]
    assert first["property"] == "tag 1, not 2 & odd integer"
    assert (first["features"], first["auc"]) == (str(NAMES.start), 1.0)


def test_scores_are_those_of_independent_implementations() -> None:
    draws = np.random.default_rng(0)
    f = np.maximum(draws.normal(size=(200, 6)).round(1), 0)  # with ties
    f[:, 5] = 0
    positive = draws.random(200) < 0.3
    for i, auc in enumerate(search.aucs(f, positive)):
        assert auc == pytest.approx(roc_auc_score(positive, f[:, i]), abs=1e-12)
    for i, bits in enumerate(search.mutual_information(f, positive)):
        on = f[:, i] > 0
        binned = np.where(on, np.where(f[:, i] > np.median(f[on, i] if on.any() else [0]), 2, 1), 0)
        assert bits == pytest.approx(mutual_info_score(binned, positive) / np.log(2), abs=1e-12)
    x = draws.normal(size=(80, 12))
    y = x[:, 3] + 0.5 * x[:, 7] > 0
    order = search.pursued(x, y, 4)
    z = (x - x.mean(0)) / np.linalg.norm(x - x.mean(0), axis=0)
    for k in (1, 2, 3, 4):
        theirs = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False).fit(z, y - y.mean())
        assert set(order[:k]) == set(np.flatnonzero(theirs.coef_))
    assert set(order[:2]) == {3, 7}


def test_p_values_hold_under_the_null() -> None:
    """Rare features and rare properties: the share of p < 0.05 is at most about 0.05."""
    draws = np.random.default_rng(1)
    below = []
    for fires, share in ((0.5, 0.5), (0.02, 0.5), (0.02, 0.05), (0.5, 0.05), (1.0, 0.1)):
        f = draws.exponential(size=(120, 400)) * (draws.random((120, 400)) < fires)
        positive = np.arange(120) < 120 * share
        _, p = search.significance(f, positive)
        below.append((p < 0.05).mean())
    assert max(below) < 0.08


def test_perfect_separation_of_few_has_a_small_p() -> None:
    """Always active, no ties, four of the rarer kind: 1 / (20 choose 4); nothing active: 1."""
    f = np.stack([np.arange(1.0, 21.0), np.zeros(20)], axis=1)
    auc, p = search.significance(f, np.arange(20) >= 16)
    assert (auc[0], p[0]) == (1.0, pytest.approx(1 / 4845))
    assert p[1] == 1.0


def test_nothing_varies_in_a_set() -> None:
    assert len(search.pursued(np.zeros((10, 3)), np.arange(10) > 4, 4)) == 0


def test_a_large_effect_has_a_small_p() -> None:
    draws = np.random.default_rng(2)
    positive = np.arange(100) < 50
    f = draws.exponential(size=(100, 1)) + positive[:, None]
    _, p = search.significance(f, positive)
    assert p[0] == pytest.approx(
        stats.mannwhitneyu(f[positive, 0], f[~positive, 0], alternative="greater", method="asymptotic").pvalue
    )


def test_properties_that_no_example_has() -> None:
    task = small_task()
    model = planted_model(task, GATED)
    with pytest.raises(
        MechoclError, match="no group of properties is called 'colour'; they are tag, contains"
    ):
        SearchConfig(group=("colour",))
    with pytest.raises(MechoclError, match="no property of answer has 4 aliases on both sides"):
        search.search(task, dictionary(GATED), SearchConfig(group=("answer",)), collect=directly(model))


def test_texts_are_one_of_each_alias_and_balanced() -> None:
    task = small_task()
    question, definition = properties.texts(task, seed=0)
    assert (question.kind, definition.kind) == ("question", "definition")
    assert question.labels == ("alias", "%", "n1", "n2", "n3", "n4", "=")
    assert not question.table["alias"].duplicated().any()
    assert len(question) == len(definition) == 360
    assert question.table["answer"].mean() == 0.5


# ------------------------------------------------------------------------------------------ causal tests


def patch(rows: pd.DataFrame, features: str, name: str = "new alias of tag 1, not 2") -> pd.Series:
    patched = rows[(rows["intervention"] == "patch") & (rows["metric"] == "logit_difference")]
    chosen = patched[(patched["features"] == features) & (patched["property"] == name)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_the_planted_tag_passes() -> None:
    """d1 answers +10 or −10 rightly; d2 always −10: of lists with and without the integer alike, the mean gap is 10.

    The gate is −S at tag 2 and +S at tag 1 against an alias's 2S: without tag 2 the alias is retrieved.
    """
    rows = effects_of(GATED)
    row = patch(rows, str(TAG2))
    assert row["gap"] == pytest.approx(ANSWER, abs=1.5)
    assert row["sign"] == -1
    assert row["retrieval"]
    assert row["share"] == pytest.approx(1, abs=0.02)
    assert row["beats"] == 1.0
    assert abs(row["control_mean"]) < ANSWER / 20
    assert row["control_95"] < ANSWER / 4
    assert row["controls"] == 40
    other = patch(rows, str(TAG1))  # as selective, but the gate does not look at it
    assert (other["auc"], other["effect"], other["retrieval"]) == (1.0, 0.0, False)


def test_a_decodable_feature_that_nothing_reads_fails() -> None:
    """The same features with the same AUC, in a model that answers d1 and d2 alike."""
    rows = effects_of(UNUSED)
    row = patch(rows, str(TAG1))
    assert (row["auc"], row["sign"]) == (1.0, 1)
    assert row["q"] < 0.05
    assert row["effect"] == 0
    assert not row["retrieval"]
    tags = rows[(rows["group"] == "tag") & (rows["intervention"] == "patch")]
    assert not tags["retrieval"].any()


def test_stored_integers_pass_in_both() -> None:
    rows = effects_of(UNUSED)
    integers = rows[
        (rows["group"] == "integer") & (rows["intervention"] == "patch") & (rows["position"] == "alias")
    ]
    assert len(integers) == 10
    assert (integers["features"] == integers["property"].str.removeprefix("integer ")).all()
    assert integers["retrieval"].all()


def test_ablating_and_clamping_the_gate() -> None:
    """Without tag 2's feature d2 is answered like d1; with it at 1 in d1, like d2. Tag 1's own feature does nothing."""
    rows = effects_of(GATED)
    part = rows[(rows["features"] == str(TAG2)) & (rows["metric"] == "within_alias_auc")]
    effect = part.drop_duplicates(["intervention", "subset"]).set_index(["intervention", "subset"])["effect"]
    assert effect["ablate", "d2"] == pytest.approx(0.5)
    # it is not active in questions about d1 and d3, and at its mean in those about d2
    assert np.isnan([effect["ablate", "d1"], effect["ablate", "d3"], effect["clamp", "d2"]]).all()
    assert effect["clamp", "d1"] == pytest.approx(-0.5)
    assert effect["clamp", "d3"] == pytest.approx(-0.5)
    predicted = part.drop_duplicates("intervention").set_index("intervention")["predicted"]
    assert (predicted["ablate"], predicted["clamp"]) == (1, -1)


def test_controls_have_equal_rate_and_norm() -> None:
    """Other live decoder rows, scaled to the candidate's: the same activations, changes of the same size."""
    task, one = small_task(), dictionary(GATED)
    with torch.no_grad():
        one.sae.W_dec[TAG2] *= 3
    read = properties.texts(task, seed=0)[0]
    known = {p.name: p for p in properties.text_properties(task, read)}
    for features in ((TAG2,), (TAG2, 5)):
        candidate = effects.Candidate(
            property=known["tag 1, not 2"],
            position="alias",
            features=features,
            sign=-1,
            auc=1.0,
            q=0.0,
            like=(TAG1,),
        )
        test = effects._Test(
            take_apart(planted_model(task, GATED)),
            exchanges.Asked(task, EffectsConfig()),
            one,
            Place(layer=0, site="resid_pre", position="alias"),
            candidate,
            EffectsConfig(controls=30),
            directly(planted_model(task, GATED)),
            read,
            np.zeros(360, dtype=bool),
        )
        rows = test.rows
        assert rows.shape[:2] == (31, len(features))
        assert torch.equal(rows[0], one.W_dec[list(features)])
        assert torch.allclose(rows.norm(dim=-1), rows[0].norm(dim=-1).expand(31, -1), atol=1e-5)
        others = torch.nn.functional.normalize(rows[1:], dim=-1)
        nearest = (others @ torch.nn.functional.normalize(one.W_dec, dim=-1).T).argmax(-1)
        assert not set(nearest.flatten().tolist()) & {TAG1, *features}
        assert all(
            len(set(row)) == len(features) for row in nearest.tolist()
        )  # no feature twice in a control
        if len(features) == 1:
            assert len(set(nearest[:, 0].tolist())) == 30
        f = torch.rand(7, len(features))
        sizes = test._change(f).norm(dim=-1)
        if len(features) == 1:
            assert torch.allclose(sizes, sizes[0].expand_as(sizes), atol=1e-5)


def test_named_features_and_sets() -> None:
    rows = effects_of(
        GATED,
        features=(f"{TAG1},{TAG2}", str(NAMES.start)),
        property="new alias of tag 1, not 2",
        position="alias",
    )
    both, name = patch(rows, f"{TAG1},{TAG2}"), patch(rows, str(NAMES.start))
    assert both["k"] == 2
    assert both["share"] == pytest.approx(1, abs=0.02)
    assert name["effect"] == pytest.approx(0, abs=1e-6)
    assert not name["retrieval"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": ("1",)}, "--features needs --property and --position"),
        ({"features": ("x",), "property": "p", "position": "="}, "features 'x': give numbers"),
        ({"controls": 0}, "controls is 0; use at least 1"),
    ],
)
def test_settings_that_mean_nothing(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MechoclError, match=words):
        EffectsConfig(**change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"property": "no such"}, "no property 'no such' has pairs of questions"),
        (
            {"features": ("999",), "property": "new alias of tag 1, not 2", "position": "alias"},
            "feature 999: the SAE has features 0 to 62",
        ),
        (
            {"features": ("1",), "property": "new alias of tag 1, not 2", "position": "n9"},
            "no position is called 'n9'",
        ),
    ],
)
def test_what_is_not_there(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MechoclError, match=words):
        effects_of(GATED, **change)


def test_a_site_outside_the_stream_is_not_tested() -> None:
    task = small_task()
    model = planted_model(task, GATED)
    one = dictionary(GATED)
    other = Dictionary(one.sae, "blocks.0.attn.hook_z", "blocks.0.attn.hook_z", {})
    with pytest.raises(MechoclError, match=r"features of blocks\.0\.attn\.hook_z cannot be changed"):
        effects.effects(
            model, task, other, EffectsConfig(), search_rows=found(GATED), collect=directly(model)
        )


# ------------------------------------------------------------------------------------------ summaries


def test_summaries_over_seeds() -> None:
    rows = pd.concat([found(GATED).assign(seed=s) for s in (0, 1)])
    table = summaries.existing(rows).set_index(["property", "position"])
    tag = table.loc[("new alias of tag 1, not 2", "alias")]
    assert (tag["selective"], tag["dictionaries"], tag["auc"], tag["dense"]) == (2, 2, 1.0, 1.0)
    one = rows[(rows["seed"] == 0) | (rows["property"] != "new alias of tag 1, not 2")]
    tag = (
        summaries.existing(one)
        .set_index(["property", "position"])
        .loc[("new alias of tag 1, not 2", "alias")]
    )
    assert (tag["selective"], tag["dictionaries"]) == (1, 1)
    count = summaries.counted(rows).set_index("group")
    assert (count.loc["integer", "of"], count.loc["integer", "found"]) == (12, 12)
    causal = summaries.causal(pd.concat([effects_of(GATED).assign(seed=s) for s in (0, 1)]))
    feature = causal.set_index(["property", "kind"]).loc[("new alias of tag 1, not 2", "feature")]
    assert (feature["with_retrieval"], feature["seeds"]) == (2, 2)
    assert (feature["tested"], feature["retrieval"]) == (4, 2)
    subsets = summaries.on_subsets(
        pd.concat([effects_of(GATED).assign(seed=s) for s in (0, 1)]), "within_alias_auc"
    )
    assert {"d1", "d2", "d3"} == set(subsets["subset"])
