"""Whether it is trust in a source: one rule, from the answer to "does the gap need unreliable definitions" and the explanations."""

import pytest
from effects import made_up

from mechocl.hypotheses import pages, predictions
from mechocl.hypotheses.trust import is_it_trust, trust
from mechocl.hypotheses.verdict import RunVerdict, judge_gathered

OWN = predictions.load()
ABOUT = [one.name for one in OWN.explanations if one.beyond_controls]
PLAIN = [one.name for one in OWN.explanations if not one.beyond_controls]


def statuses(**given: str) -> dict[str, str]:
    return dict.fromkeys([*ABOUT, *PLAIN], "contradicted") | given


def judged(**planted: object) -> RunVerdict:
    return judge_gathered(made_up(**planted), OWN)  # type: ignore[arg-type]


def test_the_package_has_explanations_by_unreliability() -> None:
    assert set(ABOUT) == {"tag_semantics", "selective_retrieval", "gradient_alignment"}


@pytest.mark.parametrize("needs", ["yes", "in part", "at least in part"])
def test_what_explains_the_gap_decides_where_it_needs_unreliability(needs: str) -> None:
    for good in ("supported", "met so far"):
        assert is_it_trust(needs, statuses(tag_semantics=good), ABOUT)[0] == "it may be"
    answer, reason = is_it_trust(
        needs, statuses(selective_retrieval="undecided", readout_gate="supported"), ABOUT
    )
    assert answer == "not shown"
    assert (
        "supported: none; not ruled out: selective retrieval. Of the plainer ones, supported: readout gate."
        in reason
    )
    assert is_it_trust(needs, statuses(readout_gate="supported"), ABOUT)[0] == "no"
    assert is_it_trust(needs, statuses(), [])[0] == "not asked"


def test_without_need_of_unreliability_no_explanation_makes_it_trust() -> None:
    best = statuses(**dict.fromkeys(ABOUT, "supported"))
    assert is_it_trust("no", best, ABOUT)[0] == "no"
    assert is_it_trust("cannot tell", best, ABOUT)[0] == "cannot tell"
    assert is_it_trust("not asked", best, ABOUT)[0] == "not asked"


def test_a_verdict_is_asked_and_says_whether_tag_1_is_preferred() -> None:
    """The AUC of d2 is .7, and that of d1 .8."""
    for d3, says in (
        (0.6, "Tag 1 is preferred to a tag that was never seen before (AUC of d1 − that of d3 +0."),
        (
            0.9,
            "does better than tag 1, so tag 1 is not preferred; tag 2 is used less than both (AUC of d1 − that of d3 −0.",
        ),
        (0.8, "does as well as tag 1"),
    ):
        found = trust(judged(gap=0.1, d2=0.7, d3=d3))
        assert says in found.sentence
        assert found.answer == "not shown"
    assert "preferred" not in trust(judged()).sentence


def test_less_is_never_more() -> None:
    assert trust(judged(gap=0.0)).answer == "not asked"
    assert trust(judged(seeds=3)).answer == "cannot tell"
    gate = judged(noise=0.1, recall_tag_2=0.05)
    assert trust(gate).answer == "no"
    assert trust(judged(gap=-0.3)).answer == "not asked"
    assert "preferred" not in trust(judged(gap=0.0, d3=0.2)).sentence


def test_every_form_of_a_verdict_says_it() -> None:
    found = judged(d3=0.9)
    line = trust(found).in_words
    assert line in pages.head(found)
    assert line in pages.to_markdown(found)
    assert pages.to_values(found)["trust in a source"] == "not shown"
    assert trust(found).sentence in str(found)
