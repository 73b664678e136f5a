"""Which features stand for what: every feature against every property of the task, judged on aliases used for nothing else."""

import itertools
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import tyro
from jaxtyping import Bool, Float, Int
from scipy import stats
from sklearn.linear_model import Ridge, orthogonal_mp

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.features import properties
from mechocl.features.dictionaries import Dictionary, flat
from mechocl.features.properties import GROUPS, Property, Texts
from mechocl.features.quality import unseen_aliases
from mechocl.features.settings import HELD_OUT
from mechocl.runs.activation_cache import Collect
from toy_models.task import Task

_CONJOINED: Final = ("tag", "contains", "answer", "range", "stage")
"""Groups of properties whose conjunctions are searched: yes/no properties of many examples."""

_FIRES: Final = 3
"""Number of choosing examples on which a feature must be active at a position to be looked at there."""

_IN_SETS: Final = ("tag", "contains", "answer", "stage")
"""Groups of properties that sets of features are chosen for."""

_OF_SETS: Final = ("dense_auc", "all_auc")
"""Columns that only the rows of sets fill."""

_ALPHA: Final = 10.0
"""Strength of the ridge of the probes, for standardised inputs."""

_EXPECTED: Final = 5
"""Number of examples of the rarer kind that must be expected to be active for the normal approximation to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What is searched, and how much of it is kept."""

    sae: tyro.conf.Suppress[str] = ""
    """Name of an SAE of the run, or an SAE folder in SAELens's format."""
    site: str = ""
    """Hook point of an SAE that does not name its own."""
    transfer: tyro.conf.Suppress[bool] = False
    """Use an SAE also on weights that it was not trained on."""
    group: tuple[str, ...] = ()
    """Groups of properties: tag, contains, answer, integer, range, stage, subset, defined as, token, role; default: all."""
    best: int = 3
    """Features that are judged for each property and position, the best ones on the aliases that choose."""
    sets: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Sizes of the sets of features that predict a property together."""
    held_out: float = HELD_OUT
    """Share of the aliases that judge, for an SAE that does not say which aliases it has not seen."""
    seed: int = 0
    """Draws the texts, and the aliases that judge if the SAE does not say which aliases it has not seen."""

    def __post_init__(self) -> None:
        settle(self)
        if unknown := set(self.group) - set(GROUPS):
            raise MechoclError(
                f"no group of properties is called {min(unknown)!r}; they are {', '.join(GROUPS)}"
            )
        if self.best < 1 or not self.sets or min(self.sets) < 1:
            name = "best" if self.best < 1 else "sets"
            raise MechoclError(f"{name} is {getattr(self, name)}; use at least 1")


def search(task: Task, dictionary: Dictionary, config: SearchConfig, *, collect: Collect) -> pd.DataFrame:
    """The features that stand for each property, at each position of questions and definitions.

    Rows, by `what`:

        feature      one feature for one property, the best on the aliases that choose
        conjunction  one feature for two properties: examples of both against those of the first alone, and against
                     those of the second alone; the worse result counts
        set          `k` features together, chosen by orthogonal matching pursuit, for a ridge probe

    The columns are `mechocl.analyses.feature_columns.SAE_SEARCH`. Single features come first, the surest ones at the top. Raises MechoclError when no property has enough aliases.
    """
    rows: list[dict[str, Any]] = []
    asked = config.group or GROUPS
    judging: list[str] = []
    for read in properties.texts(task, seed=config.seed):
        unseen = unseen_aliases(task, dictionary, share=config.held_out, seed=config.seed)
        judge = unseen[read.table["alias"].to_numpy()]
        judging.append(f"{judge.sum()} of {len(judge)} {read.kind}s")
        x = flat(collect(read.tokens, [dictionary.read])[dictionary.read])
        f = dictionary.encode(x).cpu().numpy()
        of_all = properties.text_properties(task, read)
        for i, position in enumerate(read.labels):
            where = {"text": read.kind, "position": position}
            alive = _alive(f[~judge, i])
            if len(alive) == 0:  # also when every text has the same activations, as with = at the embedding
                continue
            here = f[:, i, alive]
            found = [*of_all, *properties.token_properties(task, read, position)]
            found = [p for p in found if p.group in asked and p.enough(judge) and p.enough(~judge)]
            rows += [where | row for row in _features(found, here, alive, judge, config)]
            rows += [where | row for row in _conjunctions(found, here, alive, judge, config)]
            rows += [where | row for row in _sets(found, here, alive, judge, x[:, i].numpy(), config)]
        if "role" in asked:
            rows += _roles(read, f, judge, config)
    if not rows:
        raise MechoclError(
            f"no property of {', '.join(asked)} has {properties.LEAST} aliases on both sides, among those that choose and among those that "
            f"judge ({' and '.join(judging)} are of held-out aliases); ask for another group, or use more aliases"
        )
    table = pd.DataFrame(rows)
    table = table.assign(**{name: np.nan for name in _OF_SETS if name not in table})
    for _, part in table.groupby("what"):
        table.loc[part.index, "q"] = stats.false_discovery_control(part["p"].to_numpy())
    return _sorted(table).assign(trained_on=dictionary.trained_on)


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """Single features first, groups in their order, questions before definitions, the surest first."""
    ranks = {
        "_what": table["what"].map({"feature": 0, "set": 1, "conjunction": 2}),
        "_group": table["group"].map(lambda name: GROUPS.index(name.split(" & ")[0])),
        "_text": table["text"].map({"question": 0, "definition": 1}),
    }
    keys = [*ranks, "q", "auc"]
    order = table.assign(**ranks).sort_values(keys, ascending=[True] * 4 + [False], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def aucs(
    f: Float[np.ndarray, "example feature"], positive: Bool[np.ndarray, " example"]
) -> Float[np.ndarray, " feature"]:
    """Area under the ROC curve of every column: how often a positive example has the larger value; ties count half."""
    ranks = stats.rankdata(f, axis=0)
    n = positive.sum()
    found: np.ndarray = (ranks[positive].sum(0) - n * (n + 1) / 2) / (n * (len(positive) - n))
    return found


def mutual_information(
    f: Float[np.ndarray, "example feature"], positive: Bool[np.ndarray, " example"]
) -> Float[np.ndarray, " feature"]:
    """Mutual information, in bits, of activations (off, lower half, upper half of a column) and a property.

    It is the plug-in estimate.
    """
    on = f > 0
    median = np.nanmedian(np.where(on.any(0), np.where(on, f, np.nan), 0.0), axis=0)
    binned = on.astype(int) + (on & (f > median))
    joint = np.stack(
        [[((binned == b) & (positive == y)[:, None]).mean(0) for y in (False, True)] for b in range(3)]
    )
    alone = joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.where(joint > 0, joint * np.log2(joint / alone), 0.0).sum((0, 1))
    return found


def _features(
    found: list[Property], f: np.ndarray, alive: np.ndarray, judge: np.ndarray, config: SearchConfig
) -> list[dict[str, Any]]:
    """The best features of each property. Properties of the same examples share their ranks."""
    rows = []
    for examples in {p.compared.tobytes(): p.compared for p in found}.values():
        at = examples & ~judge
        ranks = stats.rankdata(f[at], axis=0)
        for p in found:
            if not np.array_equal(p.compared, examples):
                continue
            positive = p.positive[at]
            n = positive.sum()
            auc = (ranks[positive].sum(0) - n * (n + 1) / 2) / (n * (len(positive) - n))
            base = {"what": "feature", "property": p.name, "group": p.group}
            rows += [base | row for row in _judged(auc, f, alive, p.positive, examples & judge, config.best)]
    return rows


def _judged(
    auc: np.ndarray, f: np.ndarray, alive: np.ndarray, positive: np.ndarray, judge: np.ndarray, best: int
) -> list[dict[str, Any]]:
    """Rows of the features with the most extreme AUC on the aliases that choose, judged on other aliases."""
    chosen = np.argsort(-np.abs(auc - 0.5), kind="stable")[:best]
    value, yes = f[judge][:, chosen], positive[judge]
    sign = np.where(auc[chosen] >= 0.5, 1, -1)
    above, p = significance(value * sign, yes)
    return [
        {
            "features": str(alive[i]),
            "k": 1,
            "sign": int(sign[at]),
            "auc_chosen": float(0.5 + abs(auc[i] - 0.5)),
            "auc": float(above[at]),
            "mutual_information": float(bits),
            "p": float(p[at]),
            "positive": int(yes.sum()),
            "negative": int((~yes).sum()),
            "fires": float((value[:, at] > 0).mean()),
        }
        for at, (i, bits) in enumerate(zip(chosen.tolist(), mutual_information(value, yes), strict=True))
    ]


def significance(
    f: Float[np.ndarray, "example feature"], positive: Bool[np.ndarray, " example"]
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """AUC of every column, and the probability of one as large by chance: a one-sided Mann–Whitney test.

    Its normal approximation fails if few of the rarer examples can differ from the rest. If fewer than 5 of them are
    expected to differ, it is replaced: by Fisher's exact test of *active* with the property for a column that is mostly
    off, and by the exact distribution for a column without ties.
    """
    test = stats.mannwhitneyu(f[positive], f[~positive], axis=0, alternative="greater", method="asymptotic")
    p = np.where(np.isfinite(test.pvalue), test.pvalue, 1.0)
    on, rarer = f != 0, min(positive.sum(), (~positive).sum())
    for i in np.flatnonzero(rarer * on.mean(0) < _EXPECTED):
        if on[:, i].mean() < 0.5:
            up = on[:, i] if (f[:, i] >= 0).all() else ~on[:, i]
            table = [[int((up & y).sum()), int((~up & y).sum())] for y in (positive, ~positive)]
            p[i] = stats.fisher_exact(table, alternative="greater").pvalue
        elif len(np.unique(f[:, i])) == len(f):
            exact = stats.mannwhitneyu(f[positive, i], f[~positive, i], alternative="greater", method="exact")
            p[i] = exact.pvalue
    auc: np.ndarray = test.statistic / (positive.sum() * (~positive).sum())
    return auc, p


def _conjunctions(
    found: list[Property], f: np.ndarray, alive: np.ndarray, judge: np.ndarray, config: SearchConfig
) -> list[dict[str, Any]]:
    """Features that tell examples of two properties from those of the first alone, and from those of the second alone.

    AUC and p are the worse ones of the two comparisons: a feature of one property alone has an AUC of ½ in one of them.
    """
    rows = []
    usable = [p for p in found if p.group in _CONJOINED]
    for a, b in itertools.combinations(usable, 2):
        examples, both = a.compared & b.compared, a.positive & b.positive
        alone = [examples & one.positive for one in (a, b)]
        p = Property(
            name=f"{a.name} & {b.name}", group=f"{a.group} & {b.group}", positive=both, compared=examples
        )
        sides = [Property(name="", group="", positive=both, compared=one) for one in alone]
        if a.group == b.group or not all(p.enough(part) for p in sides for part in (judge, ~judge)):
            continue
        auc = np.minimum(*(aucs(f[one & ~judge], both[one & ~judge]) for one in alone))
        best = np.argsort(-auc, kind="stable")[:1]
        if auc[best[0]] <= 0.5:
            continue
        first, second = (
            _judged(auc[best], f[:, best], alive[best], both, one & judge, 1)[0] for one in alone
        )
        worse = first if first["auc"] <= second["auc"] else second
        row = worse | {"p": max(first["p"], second["p"]), "positive": int((both & examples & judge).sum())}
        row |= {"negative": int((examples & judge & (alone[0] ^ alone[1])).sum())}
        rows.append({"what": "conjunction", "property": p.name, "group": p.group} | row)
    return rows


def _sets(
    found: list[Property],
    f: np.ndarray,
    alive: np.ndarray,
    judge: np.ndarray,
    x: np.ndarray,
    config: SearchConfig,
) -> list[dict[str, Any]]:
    """How well k features predict a property, beside all features and the site's own activations."""
    rows = []
    for p in found:
        if p.group not in _IN_SETS:
            continue
        train, test = p.compared & ~judge, p.compared & judge
        base = {
            "what": "set",
            "property": p.name,
            "group": p.group,
            "sign": 1,
            "positive": int((p.positive & test).sum()),
            "negative": int((~p.positive & test).sum()),
            "dense_auc": _probe(x, p.positive, train, test)["auc"],
            "all_auc": _probe(f, p.positive, train, test)["auc"],
        }
        order = pursued(f[train], p.positive[train], max(config.sets))
        for k in [k for k in config.sets if k <= len(order)]:
            chosen = order[:k]
            numbers = ",".join(map(str, alive[chosen].tolist()))
            rows.append(base | {"features": numbers, "k": k} | _probe(f[:, chosen], p.positive, train, test))
    return rows


def pursued(
    f: Float[np.ndarray, "example feature"], positive: Bool[np.ndarray, " example"], most: int
) -> Int[np.ndarray, " k"]:
    """Columns in the order in which orthogonal matching pursuit takes them to fit the property; at most `most`.

    The algorithm is scikit-learn's (Pati et al. 1993). The first one is the column with the largest correlation.
    """
    z = f - f.mean(0)
    z /= np.maximum(np.linalg.norm(z, axis=0), 1e-12)
    with warnings.catch_warnings():
        # it stops with a warning when columns depend on each other
        warnings.simplefilter("ignore", RuntimeWarning)
        path = orthogonal_mp(
            z, positive - positive.mean(), n_nonzero_coefs=min(most, *z.shape), return_path=True
        )
    used = np.abs(path.reshape(z.shape[1], -1)) > 0
    if not used.any():  # no column varies
        return np.array([], dtype=int)
    taken = np.flatnonzero(used.any(1))
    order: np.ndarray = taken[np.argsort(used[taken].argmax(1), kind="stable")]
    return order


def _probe(x: np.ndarray, positive: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """AUC of a ridge probe on the examples that it was fitted on, and AUC and p on the test examples."""
    scale = x[train].std(0)
    z = (x - x[train].mean(0)) / np.where(scale > 1e-9, scale, 1.0)
    score = Ridge(alpha=_ALPHA).fit(z[train], positive[train].astype(float)).predict(z)[:, None]
    chosen = float(aucs(score[train], positive[train])[0])
    auc, p = significance(score[test], positive[test])
    return {"auc_chosen": chosen, "auc": float(auc[0]), "p": float(p[0])}


def _alive(f: Float[np.ndarray, "example feature"]) -> Int[np.ndarray, " alive"]:
    """Features that are active on enough of the examples, and not equally on all of them."""
    found: np.ndarray = np.flatnonzero(((f > 0).sum(0) >= _FIRES) & (np.ptp(f, axis=0) > 0))
    return found


def _roles(read: Texts, f: np.ndarray, judge: np.ndarray, config: SearchConfig) -> list[dict[str, Any]]:
    """Rows of features for a position's role, compared with the other roles of the same texts."""
    rows = []
    for position, role in properties.role_names(read).items():
        at, positive = properties.roles(read, position, seed=config.seed)
        here = f[np.arange(len(read)), at]
        alive = _alive(here[~judge])
        p = Property(name=f"role {role}", group="role", positive=positive, compared=np.ones(len(read), bool))
        if len(alive) == 0 or not (p.enough(judge) and p.enough(~judge)):
            continue
        auc = aucs(here[~judge][:, alive], positive[~judge])
        base = {"what": "feature", "property": p.name, "group": p.group}
        base |= {"text": read.kind, "position": "any"}
        rows += [base | row for row in _judged(auc, here[:, alive], alive, positive, judge, config.best)]
    return rows
