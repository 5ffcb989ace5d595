"""Baselines: plans that follow from the importance of channels alone, without scoring a single one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from graph.errors import UsageError
from prune.budget import Budget
from prune.importance import Scores, normalised
from prune.plan import Plan, make_plan
from prune.widths import WidthSpace

# Keep ratios of the bundles under a budget.
Ratios = Callable[[WidthSpace, Scores, Budget], NDArray[np.float64]]


def uniform(space: WidthSpace, scores: Scores, budget: Budget) -> NDArray[np.float64]:
    """The same share everywhere."""
    return np.ones(space.bundles)


def global_ratios(
    space: WidthSpace, scores: Scores, budget: Budget, *, relative: bool = True, by_price: float = 0.0
) -> NDArray[np.float64]:
    """Keep ratios of one threshold for the whole network.

    The threshold is the lowest whose widths keep the budget; each bundle keeps at least a tenth.

    Args:
        space: of the whole program.
        scores: importance of each class.
        budget: what a plan may use.
        relative: whether scores are divided by their group's mean first. Undivided, channels that many layers
            write and read, such as those of a residual stream, weigh as much as all their slices do.
        by_price: power of the price (see ``prices``) that scores are divided by. 0 asks how important a
            channel is, 1 how important for what it costs.
    """
    axes = space.axes
    compared = normalised(axes, scores) if relative else scores
    per = prices(space, budget) ** by_price
    units = [
        np.sort(compared[[u for g in bundle.groups for u in axes.groups[g].units]]) / price
        for bundle, price in zip(axes.bundles, per, strict=True)
    ]
    candidates = np.sort(np.concatenate(units))
    low, high = 0, len(candidates) - 1
    ratios = np.ones(len(units))
    while low < high:
        middle = (low + high) // 2
        kept = [(len(u) - np.searchsorted(u, candidates[middle], side="right")) / len(u) for u in units]
        ratios = np.maximum(0.1, np.array(kept))
        if budget.holds(space.levels(ratios)):
            high = middle
        else:
            low = middle + 1
    return ratios


def prices(space: WidthSpace, budget: Budget) -> NDArray[np.float64]:
    """What a unit of each bundle costs: the share of the tightest limit that it takes (bundles,).

    It is the mean over the units between the bundle's narrowest and its whole width, all others whole.
    """
    narrowed = np.where(np.eye(space.bundles, dtype=bool), space.narrowest, space.widest)
    saved = budget.load(space.widest) - budget.load(narrowed)
    widest, narrowest = space.ratios(space.widest), space.ratios(space.narrowest)
    units = np.maximum((widest - narrowest) * space.sizes, 1.0)
    found: NDArray[np.float64] = np.maximum(saved / units, 1e-12)
    return found


BASELINES: Mapping[str, Ratios] = {"uniform": uniform, "global": global_ratios}


def baseline_plan(name: str, space: WidthSpace, scores: Scores, budget: Budget) -> Plan:
    """The plan of a baseline.

    Raises:
        UsageError: there is no baseline of that name.
        TargetError: the limits cannot be met.
    """
    if name not in BASELINES:
        raise UsageError(f"--planner {name}: unknown", hint="one of search, " + ", ".join(BASELINES))
    budget.check_reachable()
    return make_plan(space, budget.project(BASELINES[name](space, scores, budget)), scores, name)
