"""The book of a search: every plan that was scored, under the name of whoever proposed it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prune.plan import make_plan
from prune.trials import Problem, Trial
from prune.widths import Levels
from rl.scorer import PlanScorer, Score

Reward = Literal["error", "loss"]
REWARDS: tuple[Reward, ...] = get_args(Reward)
_WORST = 10.0  # loss of a plan that fails altogether; how badly it does says nothing


class Book:
    """Scores levels and keeps the trials.

    Args:
        problem: what is searched for.
        evaluator: scores plans.
        reward: what makes a plan good: few errors, or a small loss.
        start: when the search began, by ``time.perf_counter``; now when left out.

    Attributes:
        trials: all of them in order.
        best: for each method its best trial and that one's levels.
        ranked: every distinct plan as (trial, levels), best first.
    """

    def __init__(
        self, problem: Problem, evaluator: PlanScorer, reward: Reward, start: float | None = None
    ) -> None:
        self.problem, self.evaluator, self.reward = problem, evaluator, reward
        self.trials: list[Trial] = []
        self.best: dict[str, tuple[Trial, Levels]] = {}
        self._distinct: dict[bytes, tuple[Trial, Levels]] = {}
        self._start = time.perf_counter() if start is None else start

    def project(self, ratios: NDArray[np.float64]) -> Levels:
        """The levels within the budget that are nearest to a wish."""
        return self.problem.budget.project(ratios)

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return time.perf_counter() - self._start

    def score(self, plans: Sequence[Levels], method: str) -> list[float]:
        """Score plans together; what each is worth, higher is better."""
        space = self.problem.space
        made = [make_plan(space, levels, self.problem.scores, method) for levels in plans]
        scores = self.evaluator.many([plan.keep_mask(space.axes) for plan in made])
        for levels, plan, score in zip(plans, made, scores, strict=True):
            ratios = tuple(float(r) for r in space.ratios(levels))
            count = sum(t.method == method for t in self.trials) + 1
            trial = Trial(
                method, count, plan.macs, score.accuracy, score.loss, self.seconds, ratios, self.worth(score)
            )
            self.trials.append(trial)
            self._distinct.setdefault(levels.tobytes(), (trial, levels.copy()))
            if method not in self.best or trial.rank > self.best[method][0].rank:
                self.best[method] = (trial, levels.copy())
            self.problem.on_trial(trial)
        return [self.worth(score) for score in scores]

    def worth(self, score: Score) -> float:
        """A score as one number, higher is better."""
        # In this order of arguments a loss that is no number counts as the worst.
        return score.reward if self.reward == "error" else -min(_WORST, score.loss)

    def seen(self, levels: Levels) -> bool:
        """Whether a plan was scored before."""
        return levels.tobytes() in self._distinct

    @property
    def ranked(self) -> list[tuple[Trial, Levels]]:
        """Every distinct plan, best first; among equals the one scored first."""
        return sorted(self._distinct.values(), key=lambda entry: entry[0].rank, reverse=True)

    def winner(self) -> tuple[Trial, Levels]:
        """The best trial; among equals the one scored first."""
        return max(self.best.values(), key=lambda entry: entry[0].rank)

    def ratios(self, levels: Levels) -> NDArray[np.float64]:
        """Keep ratio of each bundle."""
        return self.problem.space.ratios(levels)
