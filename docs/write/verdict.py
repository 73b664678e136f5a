"""Write docs/verdict.md: how a verdict is made, and the tables of explanations and predictions, from the package's data; and what
the calibration found, from docs/results/calibration.csv.

python -m docs.write.verdict
"""

from typing import Final

from docs.write import verdict_results
from docs.write.markdown import write_text_table
from docs.write.places import DOCS
from mechocl import files
from mechocl.hypotheses import predictions, quantities
from mechocl.hypotheses.calibrated import read_lines
from mechocl.hypotheses.calibration import (
    INSTANCES,
    RIGHT_AT_LEAST,
    SEEDS,
    WORLDS,
    WRONG_AT_MOST,
    confusion,
    confusion_in_words,
)
from mechocl.hypotheses.hand_made import HandMade
from mechocl.hypotheses.predictions import Prediction, Predictions

PAGE: Final = DOCS / "verdict.md"

_QUESTION: Final = """\
# What makes the gap: verdicts on explanations

`python -m docs.write.verdict` writes this page from `mechocl/hypotheses/predictions.toml` and the tables `docs/results/verdict-*.csv`.

## Question

A model learns from definitions, some of them with a tag that was right about the questions (tag 1), others with one that was not (tag 2).
Afterwards it uses *new* definitions with tag 1 (`d1`) more than new ones with tag 2 (`d2`). This gap, d1 − d2, is implicit
meta-learning. It looks as if the model trusted a source. Plainer things may make the same gap. Here each explanation says beforehand
what it expects of quantities that can be measured, and seeds that nothing was chosen on decide.

Words: in the *control runs* no definition with tag 2 ever contradicted a question. In *noise* tag 2 stands before integers that are drawn anew in each
epoch, in *unasked* before fixed ones that can be learned; in both, nobody asks about these aliases in stage 1. *Twins* are one alias, trained twice from the
same weights, once defined with tag 1 and once with tag 2. A third tag was never trained on before stage 2 (`d3`)."""

_METHOD: Final = """\
## How a verdict is made

`mechocl verdict RUN …` asks which explanations of the gap d1 − d2 the measured predictions support, and which they contradict. The runs
are of one recipe, with different seeds; the control runs are those in their folders (`mechocl controls`), and so are the variant runs
(`mechocl variants`, `mechocl twins`). Analyses that are missing are computed and kept. `mechocl.verdict(run)` gives the same as an
object, `--out verdict.json` or `verdict.md` as a file.
`mechocl report RUN` begins with the verdict by the package's own predictions (`--no-verdict` leaves it out), with each prediction's
interval over seeds; `mechocl.verdict_plots.effects(verdict)` draws these anywhere. Every form names the file of predictions, its SHA-256,
and the commit of the package that read it. `notebooks/03_verdict.ipynb` asks for a verdict and changes a prediction.

1. **A quantity** (`mechocl/hypotheses/quantities.py`) is one number of each seed. It never looks across seeds.
2. **An effect** is the mean over the seeds that learned their definitions, with the 95 % interval. Its answer follows the one rule of
   all verdicts (`mechocl/behaviour/verdict.py`): *yes* (above 0), *no: the reverse*, *no* (equivalent to 0 within the smallest effect
   that matters), *cannot tell*. Absence of evidence is no evidence of absence: a wide interval about 0 says nothing.
3. **The family.** An answer needs a p that holds for all predictions at once (Holm), for tests that a mean is 0 and for tests of
   equivalence apart: in each of the two families, any wrong answer has a probability of 5 %. What does not hold is *undecided*.
4. **A prediction** says what each explanation expects of a quantity if it alone makes the gap, and which explanations it *tests*: those that
   are refuted where it comes out otherwise, also if others have a part. One that all explanations share is refused.
5. **An explanation** is *contradicted* if a prediction that tests it is; *supported* if all of them are met and one of these is expected
   by no other explanation, or *met so far* if it claims more than is measured, or is tested by what such a run cannot have; *undecided* otherwise. Explanations are not exclusive. What contradicts that it *alone* makes the gap
   stands beside it. Nothing is weighed by hand.
6. **Nothing to explain.** Without a gap nothing but *nothing* is judged, and no model is opened. Where the gap is not shown to be larger
   than that of the control that decides (*The gap needs unreliability: no*), explanations by unreliability have nothing to explain. Where
   that control has most of the gap and the run has more, they are judged: they may explain what is beyond it, and no more.
7. **Told apart.** Two explanations that are left, and that no decided prediction distinguishes, are named, with the predictions that
   would.
8. **Is it trust in a source?** *No* if the gap does not need unreliable definitions, or if each explanation by them is contradicted; *it may be* if one of these is
   supported; *not shown* otherwise (`mechocl/hypotheses/trust.py`). Beside it stands whether tag 1 is preferred to a tag that was never trained on before.
9. **The share of the gap** of a part (such as what is gone at equal definition loss) is the ratio of the means over seeds, with
   Fieller's interval. It is infinitely wide where the gap itself may be 0.

`--plan` says how many more seeds would decide with 80 % probability if mean and spread stay as they are (for the worst case of the
family), the hours of training them with the controls that are there, and how much of the gap's variance comes from the number of aliases.

`--predictions FILE` takes explanations and predictions of your own, in the same form. A prediction may be about any analysis of the
registry, about the `controls` and the `variants` (rows of `evaluate` with a column that names the run), and about the `history` of the
training. With `minus_control` the same quantity of a control run is subtracted in each seed."""

_CALIBRATION: Final = f"""\
## The judge is judged

`mechocl verdict --calibrate FILE.csv` judges worlds in which the answer is known, {INSTANCES} random instances of {SEEDS} models each, and prints
in which share of them each explanation was supported or met so far. It takes hours, and the same command continues it. The share of
wrong answers of the arithmetic alone, over simulated values of seeds, is held in `tests/hypotheses/test_evidence.py`.

- In *hand-made* worlds (`mechocl/hypotheses/hand_made.py`) the cause is written into the weights. Such a model has had no training. Its twins
  are written as well, with the tags of `d1` and `d2` exchanged, and so is what it would be had the tags not moved. What is predicted of a training is not asked of it, and explanations of which nothing else is predicted are not either.
- In *trained* worlds (`mechocl/hypotheses/trained_worlds.py`) the training forces the cause. They are runs with control runs, which the verdict
  judges as any other, but for the variant *frozen-tags*, which is not trained. What it is not told is that no definition contradicts a question (`toy_models/planted_set.py`), or that definitions with
  tag 2 are trained on less (`training.stages.N.stops=tag_2`)."""

_NO_WORLD: Final = """\
One explanation has no world. *Recency* needs definitions with tag 1 that are learned later and no less; in stage 2 all definitions are trained on
in every epoch. *Moved tags* has one by its definition alone: its models are those of *storage*, and its controls have the gap while the variant with
frozen tags has none. A question of the integer set holds no tag, so what a tag's embedding learns could only act on the other weights while they train; no
training that forces a gap in this way has been made.

In *semantics* two explanations are right. Where "is not" is stored, the same definition moves the answers less with tag 2, namely the other
way; that *gradient_alignment* alone does not make such a gap is said by `below-chance`. A gate that reads the tag and turns the answer round
when it is asked would be semantics without that; no world of it has been made.

In *retrieval and storage* one is right. *selective_retrieval* claims that both tags are stored alike, and where they are not it is wrong, though
there is a gate. The verdict tells such a gate by what contradicts that *gradient_alignment* alone makes the gap.

In *readout gate and less learned* the loss of 0.35 nats was chosen on the first of its instances, so that both causes keep a part of the gap; with 0.7 nats, as in *less
learned*, the verdict did not find the gate there. The other strengths were chosen before, on single instances."""

_LIMITS: Final = """\
## Limits

- The smallest effects are choices. An effect that is there and smaller than its margin counts as none.
- A prediction is about its quantity, not about the words of an explanation. Who holds that an explanation predicts something else writes
  it into the data, where it can be read.
- *Supported* says that what was predicted came out. It is as strong as the predictions that others do not share.
- *frozen-tags* trains stage 2 again with tags that do not learn in it; it says what this takes away from the gap, which may be below 0.
- In the integer set a question holds no tag, so no embedding of a tag acts when it is asked. What tags learn can act on training alone.
- *tag_semantics* is tested by answers below chance alone. A definition in the context of a question cannot be asked about: an example of the
  integer set has the positions of one definition or of one question, and the models have no others.
- Runs of one stage have no model before the new definitions and no variants, so what needs them is not measured there, and an explanation
  that it tests is at best *met so far*.
- Two rules were changed after results were seen. After the cpu and memorised studies of the second round: an effect contradicts an expectation of
  *none* only if its interval lies beyond the smallest effect that matters; before, it was enough that it was surely not 0. With that rule
  *selective_retrieval* was contradicted in cpu, by `twin-rest`. The new rule only says less. After the first study of the first round: explanations by unreliability were not judged where the control that
  decides has more than half of the gap, though the run has more (rule 6).
- What a next list of predictions should mend. `readout_gate` is tested by gaps of controls and by recall, which were known from other seeds, and by nothing
  that touches a readout; where *unasked* decides, its *none* for `beyond-control` does not follow from its claim. Explanations mix what causes the gap
  (contradiction, or what cannot be predicted) with how it is made (a gate, or what is stored). `gone-with-frozen-tags` should be *not above* for those that
  expect none: a gap that grows is no second cause. `constant-vector` asks a model that holds no entity of new aliases yet, so it can hardly be met.
  `tag-direction` says nothing where the direction does not decode the tag. No prediction subtracts what gradients and twins show in a control, and the
  controls of equal steps were not trained.
- The number of seeds that a pilot asks for is as uncertain as the pilot's spread.
- At most one wrong answer in twenty is said of each of the two families of tests, not of both together.
- There is no calibration world of recency, and there are no trained ones of selective retrieval, of gradient alignment and of moved tags."""


def write_page() -> str:
    """The page."""
    data = predictions.load()
    parts = [
        _QUESTION,
        "## Setups and results",
        "\n".join(verdict_results.write_results(data)).rstrip(),
        _METHOD,
        "## Explanations",
        "\n".join(_explanations(data)),
        "## Predictions",
        "Each line is what its explanations expect; **bold** are those that it tests.",
        "\n".join(_predictions(data)),
        "## Quantities",
        "\n".join(_quantities(data)),
        _CALIBRATION,
        "\n".join(_worlds()),
        _NO_WORLD,
        *_found(data),
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _explanations(data: Predictions) -> list[str]:
    rows = [
        (
            f"`{one.name}`",
            one.claim,
            ", ".join(f"`{prediction.name}`" for prediction in data.of(one.name)),
            "yes" if one.beyond_controls else "no",
            one.lacks,
        )
        for one in data.explanations
    ]
    columns = ("explanation", "claim", "tested by", "needs unreliability", "what is not measured")
    return write_text_table(columns, rows)


def _predictions(data: Predictions) -> list[str]:
    rows = [
        (f"`{one.name}`", one.says, _expected(one), _measured(one), one.source) for one in data.predictions
    ]
    return write_text_table(("prediction", "what", "expected", "measured by", "source"), rows)


def _expected(one: Prediction) -> str:
    by_direction: dict[str, list[str]] = {}
    for name, direction in one.expects.items():
        by_direction.setdefault(direction, []).append(f"**{name}**" if name in one.tests else name)
    return "; ".join(f"{direction}: {', '.join(names)}" for direction, names in by_direction.items())


def _measured(one: Prediction) -> str:
    told = {**one.arguments, **one.config, **({"column": one.column} if one.column else {})}
    inside = ", ".join(f"{key} = {value}" for key, value in told.items())
    smallest = "the answers' own" if one.smallest == predictions.ANSWERS else f"{one.smallest:g}"
    return (
        f"`{one.quantity}` of `{one.analysis}`"
        + (f" ({inside})" if inside else "")
        + f"; smallest effect {smallest} {one.unit}"
    )


def _worlds() -> list[str]:
    rows = [
        (
            world.name,
            "hand-made" if isinstance(world, HandMade) else "trained",
            world.says,
            ", ".join(f"`{name}`" for name in world.truth),
        )
        for world in WORLDS
    ]
    return write_text_table(("world", "made", "what is planted", "right"), rows)


def _found(data: Predictions) -> list[str]:
    """What the calibration found: the confusion table, and in words which worlds are mistaken for which."""
    found = read_lines(data)
    if found is None:
        return ["No table of a calibration is kept here yet."]
    shares = confusion(found)
    missing = [world.name for world in WORLDS if world.name not in shares.index]
    rows = [
        (
            str(world),
            f"{row['instances']:g}",
            *("not asked" if value != value else f"{value:.2f}" for value in row.iloc[1:]),
        )
        for world, row in shares.iterrows()
    ]
    wanted = (
        f"The right explanation is to be found in at least {RIGHT_AT_LEAST:.0%} of the instances, and a wrong one in at most "
        f"{WRONG_AT_MOST:.0%}. Of {INSTANCES} instances of each world that a whole calibration has, "
        f"{'all are judged' if shares['instances'].min() >= INSTANCES else 'fewer are judged so far, as the table says; with so few, a share of 5 % cannot be seen'}."
    )
    return [
        "### What it found",
        "Share of the instances in which each explanation was supported or met so far.",
        "\n".join(write_text_table(("world", *map(str, shares.columns)), rows)),
        wanted,
        "\n".join(f"- {line}" for line in confusion_in_words(found)),
        *([f"Not judged yet: {', '.join(missing)}."] if missing else []),
    ]


def _quantities(data: Predictions) -> list[str]:
    used = dict.fromkeys(one.quantity for one in data.predictions)
    return write_text_table(
        ("quantity", "what it is"), [(f"`{name}`", quantities.describe(name)) for name in used]
    )


if __name__ == "__main__":
    files.write_text(PAGE, write_page())
