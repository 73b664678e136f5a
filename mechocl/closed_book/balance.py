"""Entities of every group in equal shares in each subset, so that subsets differ less by what their entities are."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from toy_models.subsets import Subset


def balanced(
    entities: Int[np.ndarray, " alias"], groups: Sequence[str], subset: Sequence[Subset]
) -> Int[np.ndarray, " alias"]:
    """The same entities in another order, for aliases that belong to these subsets: a systematic sample of the groups.

    The entities stand in a row, group by group. Each subset takes places of the row at equal distances. `groups` has the group of each
    entity. Where subsets keep their sizes and places, as in a control, the same aliases get the same entities.
    """
    row = np.argsort(np.array(groups), kind="stable")
    sizes = Counter(own.name for own in subset)
    met: Counter[str] = Counter()
    places = []
    for own in subset:
        places.append((met[own.name] + 0.5) / sizes[own.name])
        met[own.name] += 1
    result = np.empty_like(entities)
    result[np.argsort(places, kind="stable")] = entities[row]
    return result
