"""The verdict of a report: a run that has none still has a report, which says why."""

from dataclasses import dataclass

from mechocl.analyses import jobs as analysis_jobs
from mechocl.errors import TooLittleData
from mechocl.hypotheses.quantities import TAG_1, TAG_2
from mechocl.hypotheses.verdict import RunVerdict, verdict
from mechocl.runs.controls import is_control_run
from mechocl.runs.run import Run


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """Why there is no verdict on a run."""

    why: str
    """One sentence."""


def judge_run(run: Run, *, device: str, jobs: int | None) -> RunVerdict | NoVerdict:
    """The verdict on a run by the predictions of the package, or why it has none. Missing analyses are computed and kept.

    Raises MechoclError as `verdict` does where the run itself cannot be read.
    """
    if is_control_run(run):
        return NoVerdict("This run is itself a control; the verdict is on the run that it is the control of.")
    answers = analysis_jobs.evaluate_run(run, device=device, jobs=jobs)
    if not {TAG_1, TAG_2} <= set(answers["subset"]):
        return NoVerdict("The run has no aliases for the gap d1 − d2, which the explanations are about.")
    counted = analysis_jobs.count_run(run, device=device, jobs=jobs)
    learned, total = len(counted.learned), counted.total
    if learned == total == 1:
        return NoVerdict("One seed says nothing about other seeds; train more.")
    if learned < 2:
        return NoVerdict(
            f"An interval needs two seeds that learned their definitions, and {learned} of {total} did; train more."
        )
    try:
        return verdict(run, device=device, jobs=jobs)
    except TooLittleData as error:
        return NoVerdict(f"The run has too little data for it: {error}.")
