"""Baselines: plans that follow from the weights alone, without a single image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from graph.errors import UsageError
from prune.importance import Scores
from prune.plan import Plan, WidthSpace, make_plan

# Keep ratios of the bundles for a target in MACs.
Ratios = Callable[[WidthSpace, Scores, int], NDArray[np.float64]]


def uniform(space: WidthSpace, scores: Scores, target: int) -> NDArray[np.float64]:
    """The same share everywhere."""
    return np.ones(space.bundles)


BASELINES: Mapping[str, Ratios] = {"uniform": uniform}


def baseline_plan(
    name: str, known: Mapping[str, Ratios], space: WidthSpace, scores: Scores, target: int
) -> Plan:
    """The plan of a baseline.

    Raises:
        UsageError: there is no baseline of that name.
        TargetError: the target cannot be reached.
    """
    if name not in known:
        raise UsageError(f"--planner {name}: unknown", hint="one of search, " + ", ".join(known))
    space.check_target(target)
    return make_plan(space, space.project(known[name](space, scores, target), target), scores, name)
