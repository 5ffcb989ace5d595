"""Baselines of the search: plans that are scored first, and the agent starts from the best of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prune.baselines import global_ratios
from prune.importance import Scores, magnitude
from prune.trials import Problem
from rl.book import Book

PER_COST = "global-per-cost"
BASELINES = ("uniform", "global-magnitude", "global-sum", PER_COST, "global-taylor")
_POWERS = (0.25, 0.5, 0.75)  # of the price


def plans_of(names: Sequence[str] = BASELINES) -> int:
    """How many plans these baselines make."""
    return sum(len(_POWERS) if name == PER_COST else 1 for name in names)


def score_baselines(
    problem: Problem, book: Book, by_taylor: Scores, names: Sequence[str] = BASELINES
) -> None:
    """Score the plans that need no search: equal shares, one threshold of importance, and the starts."""
    found = baseline_ratios(problem, by_taylor)
    starts = {name: [np.asarray(wish)] for name, wish in problem.starts.items()}
    for name, wishes in {**{name: found[name] for name in names}, **starts}.items():
        book.score([book.project(wish) for wish in wishes], name)


def baseline_ratios(problem: Problem, by_taylor: Scores) -> dict[str, list[NDArray[np.float64]]]:
    """The wishes of each baseline; which channels stay, ``problem.scores`` says for all of them."""
    space, budget = problem.space, problem.budget
    by_magnitude = magnitude(problem.axes)
    return {
        "uniform": [np.ones(space.bundles)],
        "global-magnitude": [global_ratios(space, by_magnitude, budget)],
        "global-sum": [global_ratios(space, by_magnitude, budget, relative=False)],
        PER_COST: [
            global_ratios(space, by_magnitude, budget, relative=False, by_price=power) for power in _POWERS
        ],
        "global-taylor": [global_ratios(space, by_taylor, budget)],
    }
