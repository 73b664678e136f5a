"""The section of docs/results.md on the miniature, from made-up tables whose differences are known."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from docs.write import miniature, miniature_rows
from docs.write.control_tables import RUN
from mechocl.behaviour.formats import MISSING
from mechocl.runs import recipes
from toy_models.task import ROLE

SUBSETS = {"qd1_consistent": 0.3, "qd2_inconsistent": 0.1, "d3_consistent": 0.2, "no_data": 0.05}


def made_up(gaps: dict[str, float]) -> pd.DataFrame:
    """Six seeds of two pretrained models; d1 has .3 and d2 as much less as the gap of the run or control says."""
    rows = []
    for control, gap in gaps.items():
        for seed in range(6):
            jitter = 0.002 * (seed - 2.5)
            values = SUBSETS | {"d1_consistent": 0.3 + jitter, "d2_consistent": 0.3 - gap}
            for subset, value in values.items():
                rows.append(
                    {
                        "pretrained": 1 + seed % 2, "control": control, "seed": seed, "subset": subset, "aliases": 57,
                        "exact_match": value, "log_probability": np.log(value),
                        "recall": np.nan if subset == "no_data" else 1.0,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(miniature, "TABLE", tmp_path / "miniature.csv")
    monkeypatch.setattr(miniature, "KNOWN", tmp_path / "known.csv")
    monkeypatch.setattr(miniature, "ROW_TABLE", tmp_path / "rows.csv")
    monkeypatch.setattr(miniature_rows, "TABLE", tmp_path / "rows.csv")
    monkeypatch.setattr(miniature_rows, "NAMES", tmp_path / "names.csv")
    known = pd.DataFrame({"pretrained": [1, 2], "attribute": ["all", "all"], "exact_match": [0.99, 1.0]})
    known.to_csv(tmp_path / "known.csv", index=False)
    return tmp_path


def test_a_gap_that_is_larger_in_the_control_is_no_trust(tables: Path) -> None:
    made_up({RUN: 0.05, "noise": 0.1, "unasked": 0.2, "consistent": 0.0}).to_csv(
        tables / "miniature.csv", index=False
    )
    said = "\n".join(miniature.write_section())
    assert "The gap is larger where nothing was ever unreliable" in said
    assert "d2 changes by +0.150 [+0.150, +0.150] and d1 by +0.000 [+0.000, +0.000]" in said
    assert "contradiction lowers the use of tag 2 by more than that of tag 1" in said
    assert "0.100 (unasked), 0.200 (noise), 0.250 (the run), 0.300 (consistent)" in said
    assert "exact match on the people of their texts at least 0.990" in said
    rows = {row[0]: row[1] for row in miniature.readme_rows()}
    assert next(value for label, value in rows.items() if "*unasked*" in label).startswith("−0.150")
    assert "2 pretrained models" in miniature.readme_line()


def test_a_gap_that_exceeds_the_control_is_not_called_so(tables: Path) -> None:
    made_up({RUN: 0.2, "noise": 0.1, "unasked": 0.05, "consistent": 0.0}).to_csv(
        tables / "miniature.csv", index=False
    )
    said = "\n".join(miniature.write_section())
    assert "no evidence of trust" not in said
    assert "The gap is larger than in *unasked*: d2 changes by −0.150" in said


def test_rows_that_were_not_trained_are_named_with_their_command(tables: Path) -> None:
    table = made_up({RUN: 0.1}).drop(columns=["pretrained", "control"]).assign(row="as-it-is")
    table.to_csv(tables / "rows.csv", index=False)
    lines = miniature_rows.write_rows()
    assert sum("not measured" in line for line in lines) == len(miniature_rows.ROWS) - 1
    assert any("docs.write.miniature_rows FOLDER tag-first" in line for line in lines)
    [own] = [line for line in lines if line.startswith("| the recipe as it is")]
    assert "+0.100" in own


@pytest.mark.parametrize("row", miniature_rows.ROWS, ids=lambda row: row.name)
def test_every_row_is_a_recipe_that_differs(row: miniature_rows.Row) -> None:
    """From the recipe as it is, in its settings or in the model that it begins with; and each seed is trained once."""
    plain = recipes.load_closed_book_recipe("closed-book/miniature")
    seeds = []
    for line in miniature_rows.commands(row, Path("folder")):
        if line[0] == "finetune":
            changes = line[line.index("--set") + 1 : line.index("--seeds")]
            changed = recipes.load_closed_book_recipe("closed-book/miniature", tuple(changes[1:]))
            assert (changed != plain) or row.pretraining is not None or row.name == "as-it-is"
            count, first = (int(line[line.index(option) + 1]) for option in ("--seeds", "--first-seed"))
            seeds += range(first, first + count)
    assert seeds == list(miniature_rows.ALL_SEEDS)


class Made:
    """A run of one seed: aliases 0 and 1 stand for names of one token, 2 and 3 for one of two; 3 is of `d2`."""

    seed = 7

    def finished_seeds(self) -> list["Made"]:
        return [self]

    def load_task(self) -> SimpleNamespace:
        roles = torch.zeros(5, 4, dtype=torch.int64)
        roles[:4, 1] = ROLE["entity"]
        roles[2:4, 2] = ROLE["entity"]
        roles[4, :3] = ROLE["entity"]  # a question about a name, which is no definition
        table = pd.DataFrame({"kind": ["definition"] * 4 + ["question"], "alias": [0, 1, 2, 3, 0]})
        return SimpleNamespace(
            roles=roles, table=table, rows=lambda kind: np.flatnonzero((table["kind"] == kind).to_numpy())
        )


def test_answers_are_counted_by_the_tokens_of_the_name(tables: Path) -> None:
    """Each alias counts once, however many questions it has; what has no definition is left out."""
    asked = [
        (0, "d1", 1.0),
        (0, "d1", 0.0),
        (1, "d1", 1.0),
        (2, "d1", 0.25),
        (3, "d2", 1.0),
        (9, "no_data", 0.0),
    ]
    questions = pd.DataFrame(
        [{"seed": 7, "alias": alias, "subset": f"{s}_consistent", "exact_match": x} for alias, s, x in asked]
    )
    found = miniature_rows.by_name_tokens(Made(), questions).set_index(["subset", "tokens"])
    assert dict(found["exact_match"]) == {
        ("d1_consistent", 1): 0.75,
        ("d1_consistent", 2): 0.25,
        ("d2_consistent", 2): 1.0,
    }
    assert dict(found["aliases"]) == {
        ("d1_consistent", 1): 2,
        ("d1_consistent", 2): 1,
        ("d2_consistent", 2): 1,
    }
    rows = [found.reset_index().assign(seed=seed, row="bpe") for seed in range(6)]
    pd.concat(rows).to_csv(tables / "names.csv", index=False)
    made_up({RUN: 0.1}).drop(columns=["pretrained", "control"]).assign(row="bpe").to_csv(
        tables / "rows.csv", index=False
    )
    lines = [line for line in miniature_rows.write_rows() if line.startswith("| names of several BPE tokens")]
    cells = [[cell.strip() for cell in line.split("|")[2:7]] for line in lines[1:]]
    assert cells == [
        ["1", "2", "0.750 [0.750, 0.750]", MISSING, MISSING],
        ["2", "2", "0.250 [0.250, 0.250]", "1.000 [1.000, 1.000]", MISSING],
    ]


def test_a_row_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no row is called tag-frist; there are as-it-is, all-rows"):
        miniature_rows.take_table(tmp_path, ("tag-frist",))
