"""Search without an agent: plans at random, and a population of the best plans that mutate.

The second serves twice: alone, as the evolution that agents are compared with, and after an agent, to refine
the best plans that anybody found; there a surrogate chooses which of many children are scored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prune.widths import Levels
from rl.book import Book
from rl.surrogate import promise

ELITE = 6  # plans that have offspring
BROODS = 25  # so many, where that makes them no smaller than
LEAST, MOST = 4, 32  # plans that are scored together
CHOICE = 8  # children of the refinement for each one that is scored
_CROSS = 0.25  # share of the offspring with two parents
_SIZE = 0.35  # deviation of a mutation, in log of the ratio
_ATTEMPTS = 20  # to find a plan that was not scored yet


def random_plans(book: Book, count: int, random: np.random.Generator) -> None:
    """Score plans whose ratios are uniform in [0.1, 1], projected onto the budget."""
    bundles = book.problem.space.bundles
    for plans in _broods(count):
        wishes = [random.uniform(0.1, 1.0, bundles) for _ in range(plans)]
        book.score([book.project(wish) for wish in wishes], "random")


def evolve(book: Book, count: int, random: np.random.Generator, method: str, *, choice: int = 1) -> None:
    """Score ``count`` offspring of the best plans in the book, brood by brood.

    A child takes the ratios of one parent, or each ratio from either of two; one to a few of them are scaled
    by a random factor; the projection then takes from all the others what these gained, or gives it to them.

    Args:
        book: with at least one scored plan.
        count: plans to score.
        random: source of chance.
        method: name in the book.
        choice: children for each one that is scored, of which the most promising are taken
            (``rl.surrogate``).
    """
    for plans in _broods(count):
        brood = _brood(book, plans, choice, random)
        if len(brood) > plans:
            order = np.argsort(-promise(book, brood), kind="stable")
            brood = [brood[i] for i in order[:plans]]
        book.score(brood, method)


def _brood(book: Book, plans: int, choice: int, random: np.random.Generator) -> list[Levels]:
    """At least so many children, up to ``choice`` times as many as long as new ones are found."""
    parents = [levels for _, levels in book.ranked[:ELITE]]
    new: dict[bytes, Levels] = {}
    for _ in range(plans * choice):
        for _ in range(_ATTEMPTS):
            child = _child(book, parents, random)
            if not book.seen(child) and child.tobytes() not in new:
                new[child.tobytes()] = child
                break
        else:  # hardly any plan is left that was not scored
            if len(new) >= plans:
                break
    return [*new.values(), *[child] * (plans - len(new))]


def _child(book: Book, parents: list[Levels], random: np.random.Generator) -> Levels:
    def pick() -> NDArray[np.float64]:  # the better, the likelier
        return book.ratios(parents[min(random.integers(len(parents)), random.integers(len(parents)))])

    ratios = pick()
    if len(parents) > 1 and random.random() < _CROSS:
        ratios = np.where(random.random(len(ratios)) < 0.5, ratios, pick())
    count = min(len(ratios), 1 + random.poisson(1.0))
    chosen = random.choice(len(ratios), count, replace=False)
    ratios = ratios.copy()
    ratios[chosen] *= np.exp(random.normal(0.0, _SIZE, count))
    return book.project(ratios)


def _broods(count: int) -> list[int]:
    """How many plans are scored together each time, whoever scores them: results must not depend on that."""
    size = min(max(LEAST, count // BROODS), MOST)
    return [min(size, count - start) for start in range(0, count, size)]
