"""The verdicts on the confirming seeds: train what is missing, judge, and write the tables docs/results/verdict-*.csv.

python -m docs.write.verdict_studies list            the commands
python -m docs.write.verdict_studies run [NAME ...]  train in runs/, judge, and replace the rows of these studies
python -m docs.write.verdict_studies gradients [NAME ...]  compute the gradients of the controls, too, and judge again
python -m docs.write.verdict_studies judge [NAME ...]  judge again what was trained and analysed; the time that it took stays

The predictions are those of `mechocl/hypotheses/predictions.toml` in the commit that the tables name. It is older than the
models: no seed from 500 on was trained before.
"""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import tyro

import mechocl
from docs.write import verdict_checks
from docs.write.places import TABLES
from mechocl import files
from mechocl.commands import cli
from mechocl.hypotheses import evidence, pages, predictions
from mechocl.hypotheses.quantities import control_named
from mechocl.hypotheses.verdict import RunVerdict
from mechocl.runs.run import Run

SEEDS: Final = 16
FIRST_SEED: Final = 500

KINDS: Final = ("studies", "effects", "findings", "seeds", "checks")
"""The tables: one line for each study, prediction, explanation, value of a seed, and what was not predicted (`verdict_checks`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One recipe that is judged."""

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    two_stages: bool = True
    """Whether new aliases are defined in a stage of their own, which variants train again."""

    @property
    def run(self) -> Path:
        return Path("runs") / f"verdict-{self.name}"

    @property
    def commands(self) -> list[list[str]]:
        """Arguments of the commands that train what is judged, and of the one that judges it."""
        setting = ["--set", *self.changes] if self.changes else []
        seeds = ["--seeds", str(SEEDS), "--first-seed", str(FIRST_SEED)]
        trained = [
            ["controls", self.recipe, "--only", "noise", "unasked", *seeds, *setting, "--out", str(self.run)]
        ]
        if self.two_stages:
            trained.append(["variants", str(self.run), "--only", "exchanged-tags", "frozen-tags"])
        return [*trained, ["verdict", str(self.run)]]


STUDIES: Final = (
    Study(name="cpu", recipe="integer-set/cpu"),
    Study(name="memorised", recipe="integer-set/memorised"),
    Study(name="cpu-one-stage", recipe="integer-set/cpu-one-stage", two_stages=False),
    Study(name="memorised-one-stage", recipe="integer-set/memorised-one-stage", two_stages=False),
    Study(name="cpu-VTE", recipe="integer-set/cpu", changes=("task.word_order=VTE",)),
    Study(name="cpu-EVT", recipe="integer-set/cpu", changes=("task.word_order=EVT",)),
)
"""What is judged. The word order of integer-set/cpu itself is TVE."""


def read_table(kind: str) -> pd.DataFrame:
    """A table of all studies."""
    return pd.read_csv(TABLES / f"verdict-{kind}.csv", keep_default_na=False, na_values=["nan"])


def run(names: list[str]) -> None:
    """Train and judge the named studies, all by default, one after the other."""
    for study in [one for one in STUDIES if not names or one.name in names]:
        *training, _ = study.commands
        for arguments in training:
            if code := cli.main(arguments):
                raise SystemExit(code)
        begun = time.perf_counter()
        found = mechocl.verdict(Run.open(study.run))
        replace_rows(study, found, seconds=time.perf_counter() - begun)


def gradients(names: list[str]) -> None:
    """Compute the gradients of the controls of the named studies of two stages, and judge these again."""
    chosen = [one for one in STUDIES if one.two_stages and (not names or one.name in names)]
    for study in chosen:
        verdict_checks.compute_gradients(Run.open(study.run))
    judge([one.name for one in chosen])


def judge(names: list[str]) -> None:
    """Judge the named studies again, from the rows that there are; all studies in the tables by default."""
    known = read_table("studies").set_index("study")
    chosen = [one for one in STUDIES if one.name in (names or known.index)]
    verdicts = [mechocl.verdict(Run.open(one.run)) for one in chosen]  # all before a table is changed
    for study, found in zip(chosen, verdicts, strict=True):
        replace_rows(study, found, seconds=float(known.loc[study.name, "seconds"]))


def replace_rows(study: Study, found: RunVerdict, *, seconds: float) -> None:
    """Write a study's rows into the tables, in place of those that it had. `seconds`: how long its analyses took."""
    for kind, rows in tables_of(study, found, seconds=seconds).items():
        path = TABLES / f"verdict-{kind}.csv"
        old = pd.read_csv(path) if path.exists() else pd.DataFrame()
        kept = old[old["study"] != study.name] if len(old) else old
        order = {one.name: place for place, one in enumerate(STUDIES)}
        together = pd.concat([kept, pd.DataFrame(rows)], ignore_index=True)
        together = together.sort_values("study", key=lambda names: names.map(order), kind="stable")
        files.write_text(path, together.to_csv(index=False))


def tables_of(study: Study, found: RunVerdict, *, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """The rows of a verdict, by the kind of table."""
    of = {"study": study.name}
    seeds = []
    for one in found.effects:
        if one.verdict is not None:
            counted = evidence.count_for(one.prediction, found.gathered).learned
            by_seed = evidence.measure(one.prediction, found.gathered)
            seeds += [
                of | {"prediction": one.prediction.name, "seed": seed, "value": round(by_seed[seed], 6)}
                for seed in sorted(by_seed) if seed in counted
            ]  # fmt: skip
    effects = [of | row for row in effect_rows(found)]
    findings = [of | row for row in finding_rows(found)]
    line = of | {
        "recipe": study.recipe, "changes": " ".join(study.changes), "seeds": found.seeds, "gap": found.gap.learned.mean,
        "low": found.gap.learned.low, "high": found.gap.learned.high, "answer": found.gap.answer,
        "needs_unreliability": found.beyond.answer,
        "deciding": control_named("deciding", found.gathered.answers, found.gathered.measures), "lines": "\n".join([*pages.head(found), *pages.tail(found)]),
        "predictions": files.sha256(predictions.own_file())[:12], "commit": commit_of_predictions(), "seconds": round(seconds),
    }  # fmt: skip
    checks = [of | row for row in verdict_checks.take_rows(Run.open(study.run), found)]
    return {"studies": [line], "effects": effects, "findings": findings, "seeds": seeds, "checks": checks}


def effect_rows(found: RunVerdict) -> list[dict[str, Any]]:
    """A row for each prediction: what its effect came out as, and its share of the gap."""
    values, rows = pages.to_values(found)["effects"], []
    for one in found.effects:
        told = values[one.prediction.name]
        share = one.share or (float("nan"),) * 3
        rows.append(
            {"prediction": one.prediction.name}
            | {name: told.get(name) for name in ("answer", "mean", "low", "high", "n", "smallest", "unit")}
            | {
                "p": told.get("p"),
                "p_family": told.get("p of the family"),
                "more_seeds": told.get("more seeds"),
            }
            | {"share": share[0], "share_low": share[1], "share_high": share[2], "reason": told["reason"]}
        )
    return rows


def finding_rows(found: RunVerdict) -> list[dict[str, Any]]:
    """A row for each explanation: what the verdict says of it."""
    return [
        {"explanation": f.explanation.name, "verdict": f.status, "predictions": f.in_words}
        for f in found.findings
    ]


def commit_of_predictions() -> str:
    """The commit in which the predictions came to be what they are. Raises where they are changed and not committed."""
    path = str(predictions.own_file())
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", path], check=False).returncode:
        raise SystemExit(f"{path} is not committed; predictions come before the models")
    told = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", path], check=True, capture_output=True, text=True
    )
    return told.stdout.strip()


def main(action: tyro.conf.Positional[str], names: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    """List the commands, run studies, compute the gradients of their controls, or judge them again.

    Args:
        action: list, run, gradients or judge.
        names: Names of studies. All, if none is given.
    """
    if action in ("run", "gradients", "judge"):
        {"run": run, "gradients": gradients, "judge": judge}[action](list(names))
        return
    for study in STUDIES:
        for arguments in study.commands:
            print(shlex.join(["mechocl", *arguments]))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
