"""The refinement of the best plans: offspring, and the surrogate that chooses among them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from graph import topology
from graph.axes import Axes, infer
from graph.capture import capture
from models_zoo import registry
from models_zoo.data import load_embedded
from prune.budget import Budget
from prune.importance import magnitude
from prune.trials import Problem
from prune.widths import Levels, WidthSpace
from rl.book import Book
from rl.population import CHOICE, _broods, evolve
from rl.reward import Evaluator, Score
from rl.search import SearchConfig, search
from rl.surrogate import promise


@functools.cache
def axes() -> Axes:
    torch.manual_seed(0)
    module = registry.build("resnet20", in_channels=1, width=8)
    return infer(capture(module, [torch.randn(2, 1, 8, 8)]))


def problem(space: WidthSpace | None = None, share: float = 0.5) -> Problem:
    space = space or WidthSpace(axes())
    budget = Budget.of(space, macs=int(share * space.base_macs))
    return Problem(axes(), space, budget, magnitude(axes()), load_embedded("digits"), lambda _: None)


class _Toy(Evaluator):
    """Likes the first bundle narrow."""

    def many(self, keeps: Sequence[np.ndarray]) -> list[Score]:
        units = [u for g in axes().bundles[0].groups for u in axes().groups[g].units]
        shares = [float(keep[units].mean()) for keep in keeps]
        return [Score(1.0 - share, share) for share in shares]


def test_broods_grow_with_the_search_and_add_up() -> None:
    assert {n: _broods(n)[0] for n in (2, 50, 124, 200, 800, 5000)} == {
        2: 2, 50: 4, 124: 4, 200: 8, 800: 32, 5000: 32,
    }  # fmt: skip
    assert all(sum(_broods(n)) == n for n in (0, 1, 99, 333))


def test_evolution_improves_without_scoring_a_plan_twice() -> None:
    asked = problem()
    book = Book(asked, _Toy(axes(), load_embedded("digits"), images=2), "loss")
    book.score([book.project(np.ones(asked.space.bundles))], "uniform")
    evolve(book, 40, np.random.default_rng(0), "evolution")
    assert book.best["evolution"][0].loss <= 0.7 * book.best["uniform"][0].loss
    assert len(book.ranked) == len(book.trials) == 41
    assert all(t.macs <= asked.budget.bounds[0].limit for t in book.trials)


class _Valley(Evaluator):
    """Scores a plan by how far its bundles are from the shares that suit them, which nothing tells."""

    def many(self, keeps: Sequence[np.ndarray]) -> list[Score]:
        return [Score(1.0 - loss, loss) for loss in map(self.loss, keeps)]

    @staticmethod
    def loss(keep: np.ndarray) -> float:
        found = axes()
        units = [[u for g in bundle.groups for u in found.groups[g].units] for bundle in found.bundles]
        best = np.random.default_rng(1).uniform(0.4, 1.0, len(units))
        return float(np.mean((np.log([0.01 + keep[u].mean() for u in units]) - np.log(best)) ** 2))


def _valley() -> Book:
    asked = problem()
    book = Book(asked, _Valley(axes(), load_embedded("digits"), images=2), "loss")
    book.score([book.project(np.ones(asked.space.bundles))], "uniform")
    return book


def test_the_surrogate_tells_good_plans_from_bad_ones_that_were_not_scored() -> None:
    book, random = _valley(), np.random.default_rng(0)
    bundles = book.problem.space.bundles
    plans = [book.project(random.uniform(0.3, 1.0, bundles)) for _ in range(120)]
    assert set(promise(book, plans)) == {0.0}  # of one plan nothing can be learned
    book.score(plans[:60], "random")
    told = promise(book, plans[60:])
    found = np.array(book.score(plans[60:], "random"))
    ranks = [np.argsort(np.argsort(x)) for x in (told, found)]
    assert np.corrcoef(*ranks)[0, 1] > 0.5


def test_children_that_are_chosen_among_get_further_with_as_many_plans() -> None:
    losses: dict[int, list[float]] = {1: [], CHOICE: []}
    for choice, found in losses.items():
        for seed in range(3):
            book = _valley()
            evolve(book, 48, np.random.default_rng(seed), "refinement", choice=choice)
            assert len(book.ranked) == len(book.trials) == 49
            found.append(book.winner()[0].loss)
    # Chosen at random they get 0.84 to 0.90 of the loss, since fewer are copies of one another.
    assert np.mean(losses[CHOICE]) < 0.75 * np.mean(losses[1])


def test_the_search_chooses_after_an_agent_and_evolution_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spied(book: Book, plans: Sequence[Levels]) -> NDArray[np.float64]:
        asked.append(len(plans))
        return promise(book, plans)

    monkeypatch.setattr("rl.population.promise", spied)
    graph, scorer = topology.build(axes()), _Valley(axes(), load_embedded("digits"), images=2)
    search(problem(), graph, scorer, SearchConfig(agent="evolution", episodes=12))
    assert not asked
    search(problem(), graph, scorer, SearchConfig(agent="amc", policy="none", episodes=12))
    assert asked and all(count > 4 for count in asked)


def test_a_loss_that_is_no_number_is_the_worst() -> None:
    book = _valley()
    worths = [book.worth(Score(0.5, loss)) for loss in (math.nan, math.inf, 0.3)]
    assert worths == [-10.0, -10.0, -0.3]
    trial = book.winner()[0]
    ranks = [replace(trial, loss=loss).rank for loss in (math.nan, 0.3)]
    assert max(ranks[0], ranks[1]) == max(ranks[1], ranks[0]) == ranks[1]


def test_where_few_plans_are_left_the_refinement_finds_them_and_ends() -> None:
    found = axes()
    free = {g for bundle in found.bundles[1:6] for g in bundle.groups}
    fixed = {g.name: len(g.units) for i, g in enumerate(found.groups) if i not in free}
    space = WidthSpace(found, fixed=fixed, round_to=2)
    random = np.random.default_rng(0)
    for choice, share in ((1, 0.75), (CHOICE, 0.9)):
        book = Book(problem(space, 0.9), _Valley(found, load_embedded("digits"), images=2), "loss")
        book.score([book.project(np.ones(space.bundles))], "uniform")
        within = {book.project(random.uniform(0.1, 1.5, space.bundles)).tobytes() for _ in range(1000)}
        evolve(book, 100, np.random.default_rng(0), "refinement", choice=choice)
        assert len(book.trials) == 101
        assert share * len(within) <= len(book.ranked) <= len(within)
