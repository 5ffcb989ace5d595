"""Ranking: by which criterion a search tells the channels of a group apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prune.importance import Criterion, Scores, balanced, scores_of
from prune.plan import make_plan
from prune.trials import Problem
from rl.baselines import plans_of, score_baselines
from rl.book import Book, Reward
from rl.scorer import PlanScorer

_RIVALS = 3  # of magnitude
CONTEST = plans_of() + _RIVALS  # plans that are scored, beside those of the search, to compare them


@dataclass(frozen=True)
class Ranking:
    """An order of the channels of a group.

    Attributes:
        named: the criterion, where it is not the one that was asked for.
        scores: importance of each class.
    """

    named: Criterion | None
    scores: Scores


def ranked(
    problem: Problem, evaluator: PlanScorer, by_taylor: Scores, reward: Reward, baselines: Sequence[str]
) -> tuple[Problem, list[Ranking]]:
    """The problem with the ranking of channels that suits the network, and all rankings, best first.

    Which criterion tells channels apart differs from network to network (docs/results.md), and hardly with
    the widths: the best baseline's tell it for all. Where the user named one, or states have ranks of their
    own, that one alone is taken.

    Args:
        problem: as for ``search``.
        evaluator: scores plans.
        by_taylor: importance of each class by ``taylor``.
        reward: what makes a plan good.
        baselines: whose best widths the rankings are compared at.
    """
    rankings = [Ranking(None, problem.scores)]
    if not problem.reranks:
        return problem, rankings
    axes, by_magnitude = problem.axes, problem.scores
    by_contribution = scores_of(axes, "contribution", problem.data, problem.device)
    rankings += [
        Ranking("contribution", by_contribution),
        Ranking("magnitude-contribution", balanced(axes, by_magnitude, by_contribution)),
        Ranking("magnitude-taylor", balanced(axes, by_magnitude, by_taylor)),
    ]
    quiet = replace(problem, on_trial=lambda _: None)
    book = Book(quiet, evaluator, reward)
    score_baselines(quiet, book, by_taylor, baselines)
    _, levels = book.winner()
    plans = [make_plan(problem.space, levels, ranking.scores, "ranking") for ranking in rankings]
    found = evaluator.many([plan.keep_mask(axes) for plan in plans])
    # Of those that are worth the same the one with the smaller loss, then the first.
    losses = [score.loss if math.isfinite(score.loss) else math.inf for score in found]
    order = sorted(range(len(found)), key=lambda i: (-book.worth(found[i]), losses[i]))
    best_first = [rankings[i] for i in order]
    return replace(problem, scores=best_first[0].scores), best_first
