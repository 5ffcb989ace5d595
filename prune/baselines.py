"""Baselines: plans that follow from the weights alone, without a single image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from graph.errors import UsageError
from prune.budget import Budget
from prune.importance import Scores
from prune.plan import Plan, make_plan
from prune.widths import WidthSpace

# Keep ratios of the bundles under a budget.
Ratios = Callable[[WidthSpace, Scores, Budget], NDArray[np.float64]]


def uniform(space: WidthSpace, scores: Scores, budget: Budget) -> NDArray[np.float64]:
    """The same share everywhere."""
    return np.ones(space.bundles)


BASELINES: Mapping[str, Ratios] = {"uniform": uniform}


def baseline_plan(
    name: str, known: Mapping[str, Ratios], space: WidthSpace, scores: Scores, budget: Budget
) -> Plan:
    """The plan of a baseline.

    Raises:
        UsageError: there is no baseline of that name.
        TargetError: the limits cannot be met.
    """
    if name not in known:
        raise UsageError(f"--planner {name}: unknown", hint="one of search, " + ", ".join(known))
    budget.check_reachable()
    return make_plan(space, budget.project(known[name](space, scores, budget)), scores, name)
