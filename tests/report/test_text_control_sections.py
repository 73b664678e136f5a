"""The section of docs/results.md on the other controls on text, from made-up tables whose differences are known."""

from pathlib import Path

import pandas as pd
import pytest

from docs.write import text_control_sections, text_controls
from docs.write.text_control_answers import read_answers
from docs.write.text_controls import PARTS, SEEDS, SETUPS
from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.runs import recipes

ALL = tuple(seed for seeds in SEEDS.values() for seed in seeds)
LEVELS = {
    "qd1_consistent": 0.3,
    "qd2_inconsistent": 0.1,
    "d1_consistent": 0.3,
    "d3_consistent": 0.2,
    "no_data": 0.05,
}


def made_up(denied: dict[str, float]) -> pd.DataFrame:
    """By setup, what exact match has where a definition is denied; all else is alike, but for a jitter of each seed."""
    rows = []
    for setup, d2 in denied.items():
        last = {"six-parts": 7, "three-stage": 3}.get(setup, 2)
        for k, seed in enumerate(ALL):
            base = {"setup": setup, "pretrained": 1 + k % 2, "seed": seed, "aliases": 57, "recall": 1.0}
            jitter = 0.001 * (k - 2.5)

            def row(
                test: str, stage: int, subset: str, value: float, base: dict[str, object] = base
            ) -> dict[str, object]:
                at = {"test": test, "stage": stage, "subset": subset}
                return base | at | {"exact_match": value, "log_probability": -value}

            for subset, value in (LEVELS | {"d2_consistent": d2 + jitter}).items():
                rows.append(row("questions", 0, subset, value))
            for stage in sorted({2 if setup == "three-stage" else 1, last}):
                rows += [
                    row(f"in context, tag {t}", stage, "no_data", 0.8 - 0.1 * t + jitter) for t in (1, 2, 3)
                ]
            if setup in ("six-parts", "tags"):
                steps = 0.05 if setup == "six-parts" else 0.0
                rows += [row(f"part {k}", last, "new", 0.2 + steps * k + jitter) for k in range(1, PARTS + 1)]
    return pd.DataFrame(rows)


def made_up_probes() -> pd.DataFrame:
    rows = []
    for setup, auc in (("six-parts", 0.7), ("tags", 0.5)):
        for k, seed in enumerate(ALL):
            for control in ("none", "untrained"):
                for target in ("part", "later half"):
                    for site, layer in (("resid_pre", 0), ("resid_post", 0), ("resid_post", 1)):
                        rows.append(
                            {
                                "setup": setup, "seed": seed, "target": target, "control": control, "site": site, "layer": layer,
                                "position": "alias", "chance": 0.5, "accuracy": 0.25, "auc": auc + 0.001 * k,
                            }
                        )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(text_controls, "TABLE", tmp_path / "text.csv")
    monkeypatch.setattr(text_controls, "PROBES", tmp_path / "probes.csv")
    return tmp_path


def said(tables: Path, denied: dict[str, float]) -> str:
    made_up(denied).to_csv(tables / "text.csv", index=False)
    made_up_probes().to_csv(tables / "probes.csv", index=False)
    return "\n".join(text_control_sections.write_section())


def test_nothing_is_said_without_a_table(tables: Path) -> None:
    assert text_control_sections.write_section() == []


def test_belief_and_cure_are_read_from_the_differences(tables: Path) -> None:
    cured = dict.fromkeys((setup.name for setup in SETUPS), 0.3) | {"is-isnt": 0.1}
    text = said(tables, cured)
    assert "*is-isnt*: new definitions that are denied are believed (d2 − no data +0.050" in text
    assert "Does stage 1 lower that against the fresh marker? yes (d3 − d2 +0.200 [+0.200, +0.200])" in text
    assert "*before*: new definitions that are denied are believed (d2 − no data +0.250" in text
    assert "Not trained to the end yet" not in text
    share = next(line for line in text.splitlines() if line.startswith("| *alias isn't name*"))
    assert share.split("|")[-2].strip() == "0.20 [0.19, 0.21]"
    table = [line for line in text.splitlines() if line.startswith("| *is-isnt* − *is-isnt-untaught*")]
    assert "-0.200" in table[0].replace("−", "-")


def test_parts_and_predictions(tables: Path) -> None:
    text = said(tables, dict.fromkeys((setup.name for setup in SETUPS), 0.3))
    [parts] = [line for line in text.splitlines() if line.startswith("| one after another: exact match")]
    assert [cell.strip() for cell in parts.split("|")[2:9]] == [
        "0.250", "0.300", "0.350", "0.400", "0.450", "0.500", "+0.050 [+0.050, +0.050]",
    ]  # fmt: skip
    outcome = {
        (cells[1].strip(), cells[3].strip()): cells[4].strip()
        for line in text.splitlines()
        if len(cells := line.split("|")) == 6 and cells[1].strip().isdigit()
    }
    assert outcome["25", "what is denied is believed: d2 − no data above 0"] == "held"
    assert outcome["30", "exact match changes by less than .02 from part to part"] == "did not hold"
    assert outcome["30", "better than where all were learned at once"] == "held"
    assert outcome["28", "in context, after stage 1: tag 1 − tag 2 between −.05 and +.05"] == "did not hold"
    assert len(outcome) == len(text_control_sections._PREDICTED)


def test_what_is_not_trained_yet_is_named_and_left_out(tables: Path) -> None:
    text = said(tables, {"tags": 0.3, "is-isnt": 0.1})
    assert "*is-isnt-untaught* (0 of 6 seeds)" in text
    assert "*tags* (" not in text
    assert "six parts" not in text.split("More stages")[0]
    assert "| 25" not in text


def test_in_context_after_both_stages(tables: Path) -> None:
    said(tables, {"three-stage": 0.3})
    answers = read_answers()
    assert (answers.first("three-stage"), answers.last("three-stage")) == (2, 3)
    assert answers.in_context("three-stage", 1, 2).mean() == pytest.approx(0.7)


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_every_setup_is_a_recipe_of_its_own(setup: text_controls.Setup) -> None:
    """It differs from the plain recipe in what it says, and every stage is evaluated at its end alone."""
    found: list[ClosedBookRecipe] = []
    seeds: list[int] = []
    for pretrained in SEEDS:
        line = text_controls.command(setup, Path("folder"), pretrained)
        changes = line[line.index("--set") + 1 : line.index("--seeds")]
        found.append(recipes.load_closed_book_recipe(line[1], tuple(changes[1:])))
        count, first = (int(line[line.index(option) + 1]) for option in ("--seeds", "--first-seed"))
        seeds += range(first, first + count)
    assert found[0] == found[1]
    assert tuple(seeds) == ALL
    assert {(s.evaluations, s.checkpoints) for s in found[0].training.stages} == {(1, 1)}
    task = found[0].task
    assert task.definitions == setup.style
    assert (task.fractions.qd2 == 0) == setup.name.endswith("untaught")
    assert task.fractions.qd2 + task.fractions.q_only == pytest.approx(0.3)


def test_lines_of_a_setup_are_replaced_and_others_kept(tables: Path) -> None:
    rows = pd.DataFrame({"seed": [100], "exact_match": [0.25]})
    for name, pretrained in (("a", 1), ("a", 2), ("b", 1), ("a", 1)):
        text_controls._replace(tables / "t.csv", rows, {"setup": name, "pretrained": pretrained})
    kept = pd.read_csv(tables / "t.csv")
    assert sorted(zip(kept["setup"], kept["pretrained"], strict=True)) == [("a", 1), ("a", 2), ("b", 1)]


def test_an_unknown_setup_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no setup is called c; there are is-isnt, "):
        text_controls.take_tables(tmp_path, ("c",))
