"""`mechocl model …`: any Hugging Face model and one's own pairs, against Hugging Face's own forward pass."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import text_worlds
import torch
from gguf_files import llama, write
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from mechocl.commands import cli
from mechocl.errors import MechoclError, MechoclWarning
from mechocl.interventions.pairs_csv import pairs_of_tokenizer, pairs_of_vocabulary
from mechocl.models import gguf
from toy_models.task import Vocabulary

PAIRS = """clean,corrupted,target,foil
c b c,b b c,b,d
b b c,c b c,d,b
"""


@pytest.fixture(scope="module", params=["GPT-NeoX", "Llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer, whose keys and values are shared by heads, or not."""
    folder = tmp_path_factory.mktemp("own")
    if request.param == "GPT-NeoX":
        return text_worlds.folder(folder / "model")
    write(llama(), folder / "m.gguf")
    gguf.dequantise(folder / "m.gguf", folder / "model")
    return folder / "model"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    (tmp_path / "own.csv").write_text(PAIRS)
    return tmp_path / "own.csv"


def look(what: str, model: Path, pairs: Path, *options: str) -> pd.DataFrame:
    out = pairs.with_name(f"{what}.csv")
    words = ["model", what, str(model), "--pairs", str(pairs), "--out", str(out), "--device", "cpu", *options]
    assert cli.main(words) == 0
    return pd.read_csv(out)


@torch.no_grad()
def theirs(model: Path, pairs: Path) -> pd.DataFrame:
    """By Hugging Face: log-probabilities of target and foil and the difference of their logits, means over the pairs."""
    own, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    rows = []
    for line in pd.read_csv(pairs).itertuples():
        for example in ("clean", "corrupted"):
            ids = tokenizer(getattr(line, example), return_tensors="pt").input_ids
            logits = own(ids).logits[0, -1]
            logs = logits.log_softmax(-1)
            target, foil = (
                tokenizer(f" {word}", add_special_tokens=False).input_ids[0]
                for word in (line.target, line.foil)
            )
            rank = int((logs >= logs[target]).sum())
            rows.append(
                (example, float(logs[target]), float(logs[foil]), rank, float(logits[target] - logits[foil]))
            )
    found = pd.DataFrame(rows, columns=["example", "target", "foil", "target_rank", "difference"])
    return found.groupby("example").mean()


def test_the_last_layer_of_the_lens_says_what_the_model_says(model: Path, pairs: Path) -> None:
    rows = look("lens", model, pairs)
    last = rows.groupby("example").tail(1).set_index("example").sort_index()
    expected = theirs(model, pairs)
    for column in ("target", "foil", "target_rank"):
        assert last[column].tolist() == pytest.approx(expected[column].tolist(), abs=1e-4)
    assert set(rows["pairs"]) == {2}


def test_contributions_add_up_to_the_models_difference(model: Path, pairs: Path) -> None:
    rows = look("attribute", model, pairs)
    expected = theirs(model, pairs)["difference"]
    for example, part in rows.groupby("example"):
        values = part.set_index("component")["difference"]
        assert values["all"] == pytest.approx(expected[example], abs=1e-4)
        assert values.drop("all").sum() == pytest.approx(values["all"], abs=1e-4)


def test_the_whole_stream_carries_everything(
    model: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = look("patch", model, pairs, "--site", "resid_pre", "--by", "all")
    assert rows["normalised"].tolist() == pytest.approx([1.0] * len(rows), abs=1e-4)
    expected = theirs(model, pairs)["difference"]
    assert rows["clean"].iloc[0] == pytest.approx(expected["clean"], abs=1e-4)
    assert rows["corrupted"].iloc[0] == pytest.approx(expected["corrupted"], abs=1e-4)
    by_position = look("patch", model, pairs, "--site", "v")
    assert {position.split()[-1] for position in by_position["position"]} >= {"*", "b", "c"}
    capsys.readouterr()


def test_padding_on_the_left_changes_nothing(model: Path, pairs: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = pairs_of_tokenizer(tokenizer, pairs)
    tokenizer.padding_side = "left"
    assert torch.equal(pairs_of_tokenizer(tokenizer, pairs).clean, plain.clean)


def spelling(*, begin: bool, spaced: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of letters that puts `<s>` before texts, or writes a space as a token of its own before each, or both."""
    names = ["<s>", "▁", *"abcd", "▁a", "▁b"]
    merges = [("▁", "a"), ("▁", "b")]
    letters = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges, unk_token="▁"))
    letters.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if spaced else []), normalizers.Replace(" ", "▁")]
    )
    if begin:
        letters.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>")


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("spaced", [False, True])
def test_begin_tokens_stand_before_examples_and_answers_are_words(
    begin: bool, spaced: bool, tmp_path: Path
) -> None:
    (tmp_path / "own.csv").write_text("clean,corrupted,target,foil\ncb,db,a,b\n")
    tokenizer = spelling(begin=begin, spaced=spaced)
    pairs = pairs_of_tokenizer(tokenizer, tmp_path / "own.csv")
    assert pairs.clean.tolist() == [tokenizer("cb").input_ids]
    assert (pairs.clean[0, 0] == 0) == begin
    assert [pairs.target.item(), pairs.foil.item()] == [6, 7]  # with the space before them
    assert pairs.labels[-1] == f"{pairs.clean.shape[1] - 1} b"
    (tmp_path / "own.csv").write_text("clean,corrupted,target,foil\ncb,db,c,d\n")
    with pytest.raises(
        MechoclError, match="line 2: the tokenizer makes the space before 'c' a token of its own; end"
    ):
        pairs_of_tokenizer(tokenizer, tmp_path / "own.csv")
    (tmp_path / "own.csv").write_text('clean,corrupted,target,foil\n"cb ","db ",c,d\n')
    pairs = pairs_of_tokenizer(tokenizer, tmp_path / "own.csv")
    assert [pairs.target.item(), pairs.foil.item()] == [4, 5]


def test_what_is_wrong_in_a_file_is_named_by_line_and_cell(
    model: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    def said(lines: str, what: str = "lens") -> str:
        (tmp_path / "bad.csv").write_text(lines)
        return fails("model", what, model, "--pairs", tmp_path / "bad.csv", "--device", "cpu")

    assert "line 3: corrupted has " in (
        found := said("clean,corrupted,target\nc b c,b b c,b\nb b c,b b c c,c\n")
    )
    assert "use names of as many tokens, or a file for each length" in found
    assert "line 2: clean and corrupted are the same" in said("clean,corrupted,target\na b,a b,b\n")
    assert "line 2: target has 0 tokens and needs 1" in said("clean,corrupted,target\na b,b b,\n")
    assert "has no column 'target'" in said("clean,corrupted\na b,b b\n")
    assert "has no column foil, and attribution compares" in said(
        "clean,corrupted,target\nc b,b b,c\n", "attribute"
    )
    assert "has none; use log_probability" in said("clean,corrupted,target\nc b,b b,c\n", "patch")


def test_a_line_that_differs_at_more_tokens_than_the_others_is_named(tmp_path: Path) -> None:
    letters = Vocabulary(tokens=(), outputs=128, of_text=lambda text: [ord(letter) for letter in text])
    right = ["aba,bba,b"] * 10
    wrong = ["aba,bbc,b", *right, "aba,bcc,b"]
    (tmp_path / "typo.csv").write_text("\n".join(["clean,corrupted,target", *right, *wrong]))
    with pytest.warns(
        MechoclWarning, match=r"than in all others \(1 or fewer\): line 12 at 2, line 23 at 3; a word may be"
    ):
        pairs_of_vocabulary(letters, tmp_path / "typo.csv", n_ctx=0)
    (tmp_path / "right.csv").write_text("\n".join(["clean,corrupted,target", *right]))
    assert len(pairs_of_vocabulary(letters, tmp_path / "right.csv", n_ctx=0)) == 10


def test_a_model_without_a_tokenizer_and_another_file_at_out(
    model: Path, pairs: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    text_worlds.neox().save_pretrained(tmp_path / "bare")
    assert "tokenizer" in fails("model", "lens", tmp_path / "bare", "--pairs", pairs, "--device", "cpu")
    (tmp_path / "mine.csv").write_text("my,table\n1,2\n")
    options = ("--pairs", pairs, "--device", "cpu", "--out")
    assert "is there already and is not a rows of mechocl" in fails(
        "model", "lens", model, *options, tmp_path / "mine.csv"
    )
    assert "give one that ends in .csv" in fails("model", "lens", model, *options, tmp_path / "rows.parquet")


def test_the_help_offers_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", "patch", "--help"]) == 0
    said = capsys.readouterr().out
    assert "resid_pre" in said
    assert "log_probability" in said
    assert "d1-to-d2" not in said
    assert "within_alias_auc" not in said
