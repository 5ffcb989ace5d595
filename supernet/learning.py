"""Learning agents: those of ``prune compress`` choose the widths of a supernet, with all of its layers.

They walk the bundles of the whole program, of which only the widths that the supernet offers are left, and
their plans keep the first units of each group: such a plan is a subnetwork.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graph import topology
from graph.channels import Axes
from prune.budget import Budget
from prune.trials import Problem
from prune.widths import WidthSpace
from rl.reward import Score
from rl.search import SearchConfig as PlanSearch
from rl.search import search as search_plans
from supernet.agents import SearchConfig
from supernet.elastic import Elastic, Subnet
from supernet.limits import Limits
from supernet.scoring import Book


def learn(book: Book, limits: Limits, config: SearchConfig) -> None:
    """Let an agent propose until enough subnetworks are scored; ``supernet.agents`` says what it cannot do.

    Raises:
        TargetError: no widths keep the limits with all layers.
    """
    elastic = book.net.elastic
    axes = _offered(elastic)
    space = WidthSpace(axes)
    scores = np.zeros(axes.classes)
    for group in axes.groups:
        scores[list(group.units)] = np.arange(len(group.units), 0, -1)  # the first ones stay
    problem = Problem(
        axes, space, Budget.from_demands(space, limits.demands), scores, book.data, lambda trial: None
    )
    left = max(0, config.trials - len(book.known))
    plan = PlanSearch(agent=config.agent, episodes=left, seed=config.seed, baselines=("uniform",))
    search_plans(problem, topology.build(axes), _Evaluator(book, axes, config.agent), plan)


def _offered(elastic: Elastic) -> Axes:
    """The axes with the layouts that the supernet offers, and the whole one alone of all other bundles."""
    layouts = {choice.groups: choice.layouts for choice in elastic.choices}
    axes = elastic.axes
    bundles = (replace(b, layouts=layouts.get(b.groups, b.layouts[-1:])) for b in axes.bundles)
    return replace(axes, bundles=tuple(bundles))


class _Evaluator:
    """What the search of plans asks of an evaluator, answered by the book of subnetworks."""

    precision = "float32"

    def __init__(self, book: Book, axes: Axes, method: str) -> None:
        self.book, self.axes, self.method = book, axes, method
        self.images = book.records

    @property
    def evaluations(self) -> int:
        """How many subnetworks were scored."""
        return len(self.book.known)

    def many(self, keeps: Sequence[NDArray[np.bool_]]) -> list[Score]:
        """Score plans, in their order."""
        return [self(keep) for keep in keeps]

    def __call__(self, keep: NDArray[np.bool_]) -> Score:
        """Score a plan."""
        elastic = self.book.net.elastic
        kept = [int(keep[list(g.units)].sum()) for g in self.axes.groups]
        levels = tuple(c.layouts.index(tuple(kept[g] for g in c.groups)) for c in elastic.choices)
        found = self.book.score(Subnet(levels), self.method).found
        return Score(found.accuracy, found.loss)
