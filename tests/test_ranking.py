"""Rankings compete for the channels of a search, on a real, tiny network that was trained."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph import topology
from graph.axes import Axes, infer
from graph.capture import capture
from models_zoo.data import load_embedded
from prune.budget import Budget
from prune.importance import Scores, magnitude, scores_of
from prune.plan import Plan, kept_ratios, kept_widths, make_plan
from prune.trials import Problem, SearchResult
from prune.tune import fit
from prune.tune_config import TuneConfig
from prune.widths import WidthSpace
from rl.baselines import BASELINES
from rl.ranking import ranked
from rl.reward import Evaluator
from rl.search import RERANKED, SearchConfig, planner, search
from rl.sensitivity import sensitivity

DEAD = 8  # of 16 channels of each layer
CONFIG = SearchConfig(agent="random", episodes=8)


class Misleading(nn.Module):
    """Half of its channels never light up, and are read with the largest weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, stride=2)
        self.last = nn.Linear(16 * 16, 10)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight[:DEAD], layer.bias[:DEAD] = 0.0, -1.0
            self.second.weight[DEAD:, :DEAD] *= 30
            self.last.weight[:, : DEAD * 16] *= 30

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.last(F.relu(self.second(F.relu(self.first(x)))).flatten(1))
        return hidden


@functools.cache
def axes() -> Axes:
    torch.manual_seed(0)
    module = Misleading()
    fit(module, load_embedded("digits"), TuneConfig(epochs=12, lr=0.05))
    return infer(capture(module.eval(), [torch.randn(2, 1, 8, 8)]))


def problem(*, reranks: bool) -> Problem:
    space = WidthSpace(axes())
    budget = Budget.of(space, macs=space.base_macs // 2)
    data = load_embedded("digits")
    return Problem(axes(), space, budget, magnitude(axes()), data, lambda _: None, reranks=reranks)


@functools.cache
def found(*, reranks: bool) -> SearchResult:
    evaluator = Evaluator(axes(), load_embedded("digits"), images=256)
    return search(problem(reranks=reranks), topology.build(axes()), evaluator, CONFIG)


def ranks_first(plan: Plan, scores: Scores) -> bool:
    """Whether a plan keeps the channels of each group that have the highest scores."""
    for group in axes().groups:
        kept = np.zeros(len(group.units), dtype=bool)
        kept[list(plan.kept[group.name])] = True
        each = scores[list(group.units)]
        if not kept.all() and each[kept].min() < each[~kept].max():
            return False
    return True


def test_a_ranking_that_misleads_is_replaced() -> None:
    plain, better = found(reranks=False), found(reranks=True)
    assert plain.plan.importance is None and {p.importance for p in plain.finalists} == {None}
    assert better.plan.importance in ("contribution", "magnitude-contribution")
    assert max(t.accuracy for t in better.trials) > max(t.accuracy for t in plain.trials) + 0.2
    assert len(better.trials) == len(plain.trials) == CONFIG.trials  # who competed is not among them


def test_the_rankings_stand_in_the_order_of_what_the_best_baseline_is_worth_by_them() -> None:
    asked = problem(reranks=True)
    evaluator = Evaluator(axes(), asked.data, images=256)
    by_taylor = scores_of(axes(), "taylor", asked.data)
    changed, rankings = ranked(asked, evaluator, by_taylor, "error", BASELINES)
    assert changed.scores is rankings[0].scores
    names = ["contribution", "magnitude-contribution", "magnitude-taylor"]
    assert sorted(r.named for r in rankings if r.named) == names and len(rankings) == 4
    for ranking in rankings:
        criterion = ranking.named or "magnitude"
        assert np.allclose(ranking.scores, scores_of(axes(), criterion, asked.data))
    plain = found(reranks=False)
    best = max((t for t in plain.trials if t.method in BASELINES), key=lambda t: t.rank)
    levels = asked.space.levels(np.array(best.ratios))
    plans = [make_plan(asked.space, levels, r.scores, "t").keep_mask(axes()) for r in rankings]
    worth = [s.reward for s in evaluator.many(plans)]
    assert worth == sorted(worth, reverse=True)
    alone, (only,) = ranked(problem(reranks=False), evaluator, by_taylor, "error", BASELINES)
    assert only.named is None and only.scores is alone.scores


def test_the_best_plans_are_also_offered_with_the_channels_of_the_next_ranking() -> None:
    asked = problem(reranks=True)
    evaluator, by_taylor = Evaluator(axes(), asked.data, images=256), scores_of(axes(), "taylor", asked.data)
    first, *others = ranked(asked, evaluator, by_taylor, "error", BASELINES)[1]
    finalists = found(reranks=True).finalists
    plans = [p for p in finalists if p.importance == first.named]
    assert 0 < len(finalists) - len(plans) <= RERANKED and finalists[: len(plans)] == tuple(plans)
    assert all(ranks_first(p, first.scores) for p in plans)
    for plan in finalists[len(plans) :]:
        same = [p for p in plans if kept_widths(axes(), p).tolist() == kept_widths(axes(), plan).tolist()]
        assert len(same) == 1 and same[0].macs == plan.macs and same[0].kept != plan.kept
        place = [r.named for r in others].index(plan.importance)
        assert ranks_first(plan, others[place].scores)
        levels = asked.space.levels(kept_ratios(asked.space, plan))
        for skipped in others[:place]:
            assert make_plan(asked.space, levels, skipped.scores, "t").kept == same[0].kept
        assert Plan.from_json(plan.to_json()) == plan


def test_whoever_names_a_criterion_is_obeyed() -> None:
    asked = replace(problem(reranks=False), scores=scores_of(axes(), "taylor", load_embedded("digits")))
    evaluator = Evaluator(axes(), asked.data, images=256)
    result = search(asked, topology.build(axes()), evaluator, CONFIG)
    assert {p.importance for p in result.finalists} == {None}
    assert all(ranks_first(p, asked.scores) for p in result.finalists)


def test_groups_are_cut_alone_by_the_ranking_of_the_plan() -> None:
    asked = problem(reranks=True)
    with planner(replace(CONFIG, sensitivity=True, precision="float32"), images=256) as plan:
        result = plan(asked)
    assert result.plan.importance == found(reranks=True).plan.importance
    evaluator = Evaluator(axes(), asked.data, images=256)
    by_rank, by_magnitude = (
        sensitivity(replace(asked, scores=scores_of(axes(), criterion, asked.data)), evaluator, None)
        for criterion in (result.plan.importance or "magnitude", "magnitude")
    )
    assert result.sensitivity == by_rank != by_magnitude
