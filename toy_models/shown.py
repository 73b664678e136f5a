"""How objects look in a notebook: a title, facts and tables, as text and as HTML in which every text is escaped.

Nothing here computes a result. So the module does not count as code that a saved result comes from.
"""

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from tabulate import tabulate

from toy_models.subsets import SUBSETS, nearest

if TYPE_CHECKING:
    from toy_models.task import Task

MISSING: Final = "–"
"""What stands in the place of a value that does not exist."""

_DIGITS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Something to look at. `print` it for its text; a notebook shows its HTML."""

    title: str
    facts: tuple[str, ...] = ()
    """Sentences under the title, one a line."""
    tables: tuple[tuple[str, pd.DataFrame], ...] = ()
    """Captions and tables. A table is shown without its index, and numbers with three digits."""

    def __str__(self) -> str:
        parts = ["\n".join((self.title, *self.facts))]
        for caption, table in self.tables:
            cells = _written(table)
            body = tabulate(cells.to_numpy().tolist(), list(cells.columns), "plain", disable_numparse=True)
            parts.append(f"{caption}\n{body}" if caption else body)
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(self.title)}</b></p>"]
        parts += [f"<p>{'<br>'.join(map(html.escape, self.facts))}</p>"] if self.facts else []
        for caption, table in self.tables:
            parts.append(f"<p>{html.escape(caption)}</p>" if caption else "")
            with pd.option_context("display.max_colwidth", None):  # pandas would cut long texts
                made = _written(table).to_html(index=False, escape=True, border=0, justify="left")
            parts.append(
                made.replace("<td>", '<td style="text-align: left">')
            )  # pages align tables to the right
        return f'<div class="mechocl">{"".join(parts)}</div>'


def _written(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every cell as a text."""
    return table.astype(object).map(_cell)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return MISSING
    if isinstance(value, float):
        return f"{value:.{_DIGITS}f}".replace("-", "−")
    return str(value).replace("\n", "\\n")


# ---------------------------------------------------------------------------------------------- tasks


def task_line(task: "Task") -> str:
    """A task in one line."""
    return (
        f"Task({len(task):,} examples of up to {task.n_ctx} tokens, {task.table['alias'].nunique():,} aliases, "
        f"{task.table['subset'].nunique()} subsets, {len(task.vocabulary):,} tokens)"
    )


def task_overview(task: "Task") -> Shown:
    """The subsets of a task, with how many examples of each kind they have, and one example of each kind."""
    table = task.table
    rows: list[dict[str, object]] = []
    for name in (name for name in SUBSETS if name in set(table["subset"])):
        part = table[table["subset"] == name]
        kinds = part.groupby(["kind", "split"], observed=True).size()
        counts: dict[str, object] = {f"{key[0]}s, {key[1]}": int(n) for key, n in kinds.items()}  # type: ignore[index]
        own = SUBSETS[name]
        own_row = {"subset": name, "stage": own.stage or MISSING, "tag": own.tag or MISSING}
        rows.append(own_row | {"aliases": part["alias"].nunique()} | counts)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    first = table.drop_duplicates(["kind", "split"]).index.to_numpy()
    examples = pd.DataFrame({"kind": table.loc[first, "kind"].astype(str), "text": texts(task, first)})
    subsets = pd.DataFrame([{name: row.get(name, 0) for name in columns} for row in rows])
    return Shown(
        title=task_line(task),
        facts=("task.show(ALIAS) has everything that a model is told about one alias.",),
        tables=(("", subsets), ("The first example of each kind:", examples)),
    )


def texts(task: "Task", rows: np.ndarray) -> list[str]:
    """The examples in these rows as texts: their tokens with spaces between them, or in a text world the text itself."""
    if "prompt" in task.table:
        chosen = task.table.iloc[rows]
        found = zip(chosen["prompt"], chosen["answers"], strict=True)
        return [" ".join([prompt, *json.loads(answers)[:1]]) for prompt, answers in found]
    return [
        " ".join(task.vocabulary.decode(tokens[roles > 0].tolist()))  # role 0 is padding
        for tokens, roles in ((task.tokens[row], task.roles[row]) for row in rows.tolist())
    ]


def alias_page(task: "Task", alias: int | str) -> Shown:
    """What `Task.show` returns."""
    number = _number_of(task, alias)
    rows = np.flatnonzero(task.table["alias"] == number)
    part = task.table.iloc[rows]
    name, own = alias_name(task, number), SUBSETS[str(part["subset"].iloc[0])]
    facts = [f"subset {own.name} ({own.notation})" + ("" if own.stage else ": never in the training data")]
    definitions = part[part["kind"] == "definition"]
    if own.defined:
        as_asked = (definitions["defined_entity"] == definitions["entity"]).all()
        right = "what its questions are about" if as_asked else "something else than its questions are about"
        facts.append(f"defined with tag {own.tag} in stage {own.stage} as {right}")
    else:
        facts.append("never defined")
    trained = int(((part["kind"] == "question") & (part["split"] == "train")).sum())
    facts.append(f"{trained} questions in training" if trained else "never asked about in training")
    if task.fresh is not None and (own.redrawn or trained):
        what = "definition" if own.redrawn else "questions"
        facts.append(f"its training {what} may be drawn anew in each epoch; shown as the task saves them")
    columns = {
        "what": [f"{kind}, {split}" for kind, split in zip(part["kind"], part["split"], strict=True)],
        "tag": [tag if kind == "definition" else MISSING for tag, kind in zip(part["tag"], part["kind"], strict=True)],
        "stage": [stage if split == "train" else MISSING for stage, split in zip(part["stage"], part["split"], strict=True)],
        "text": texts(task, rows),
    }  # fmt: skip
    if "attribute" in part:
        columns["asked"] = [one or MISSING for one in part["attribute"]]
    return Shown(title=name, facts=tuple(facts), tables=(("", pd.DataFrame(columns)),))


def alias_name(task: "Task", alias: int) -> str:
    """The alias as it stands in its examples: its tokens in the role of the alias; `alias 7` if none of them names it."""
    from toy_models.task import ROLE

    for row in np.flatnonzero(task.table["alias"] == alias)[:50].tolist():
        tokens = task.tokens[row][task.roles[row] == ROLE["alias"]]
        if len(tokens):
            shown = task.vocabulary.decode(tokens.tolist())
            whole = "".join(shown).strip() if "prompt" in task.table else " ".join(shown)
            return whole.replace("▁", " ").replace("Ġ", " ").strip()
    return f"alias {alias}"


def _number_of(task: "Task", alias: int | str) -> int:
    """The alias's number. Raises ValueError for one that the task does not have."""
    known: set[int] = set(task.table["alias"].tolist())
    if not isinstance(alias, str):
        if isinstance(alias, int | np.integer) and alias in known:
            return int(alias)
        raise ValueError(f"the task has no alias {alias!r}; its aliases are {min(known)} to {max(known)}")
    plain = " ".join(alias.split())
    number = plain.removeprefix("alias").strip()
    if number.isdecimal() and int(number) in known:
        return int(number)
    names = {alias_name(task, one): one for one in sorted(known)}
    if plain not in names:
        raise ValueError(f"the task has no alias {alias!r}{nearest(alias, names)}")
    return names[plain]
