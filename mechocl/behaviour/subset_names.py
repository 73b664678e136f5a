"""Names of subsets, as users write them."""

from mechocl.errors import MechoclError
from toy_models.subsets import SUBSETS
from toy_models.task import Task


def subset_named(task: Task, short: object, *, absent: bool = False) -> str:
    """`d1` → `d1_consistent`, as `toy_models.subsets.subset_named`. Raises MechoclError for none or several.

    With `absent`, the whole name of a subset that the task does not have is taken, too.
    """
    try:
        found = task.subset_named(short)
    except ValueError as error:
        raise MechoclError(str(error)) from None
    there = [name for name in SUBSETS if name in set(task.table["subset"].unique())]
    if not absent and found not in there:
        raise MechoclError(f"{short!r} names no subset of the run; use one of {', '.join(there)}")
    return found
