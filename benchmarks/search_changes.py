"""What an ablation of the search changes that no option of it does: ranks, scores, children, deviations."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from unittest import mock

import numpy as np
from stable_baselines3 import DDPG, PPO

from graph.channels import Axes
from graph.program import ProgramModule
from models_zoo.data import DataSet
from prune.evaluation import evaluate
from prune.importance import Scores, bn_scale, magnitude, normalised, sampled, scores_of, taylor
from prune.mend import Mender
from prune.plan import make_plan
from prune.slicing import Slicer
from prune.widths import Levels
from rl import population, search
from rl.agents import agent
from rl.agents.gnn_rl import START_STD
from rl.book import Book
from rl.scorer import Keep, Score

RANKS: Mapping[str, Callable[[Axes, DataSet], Scores]] = {
    "taylor": lambda axes, data: taylor(axes, sampled(data, 2000)),
    "bn-scale": lambda axes, data: bn_scale(axes),
    "magnitude": lambda axes, data: magnitude(axes),
    "contribution": lambda axes, data: scores_of(axes, "contribution", data),
    "members": lambda axes, data: magnitude(_alike(axes)),
}
_CHILDREN = 4  # of which ``+proxy`` scores one


def _alike(axes: Axes) -> Axes:
    """The axes of a program whose weights have the same norm each."""
    tensors = {n: t / t.norm() if t.is_floating_point() else t for n, t in axes.program.tensors.items()}
    return dataclasses.replace(axes, program=dataclasses.replace(axes.program, tensors=tensors))


class Fitted:
    """Scores plans with fitted weights; for ``search`` what an ``Evaluator`` is."""

    precision = "float32"

    def __init__(self, axes: Axes, data: DataSet, mender: Mender, images: int) -> None:
        self.axes, self.data, self.mender, self.images = axes, data, mender, images
        self.cut = Slicer(axes)
        self.evaluations = 0

    def many(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order."""
        self.evaluations += len(keeps)
        programs = [self.mender.mended(keep, self.cut(keep)).program for keep in keeps]
        found = [evaluate(ProgramModule(p), self.data.search, limit=self.images) for p in programs]
        return [Score(f.accuracy, f.loss) for f in found]


def _best_child(book: Book, parents: list[Levels], random: np.random.Generator) -> Levels:
    """Of several children the one that keeps most of the channels' magnitude."""
    problem = book.problem

    def kept(levels: Levels) -> float:
        keep = make_plan(problem.space, levels, problem.scores, "proxy").keep_mask(problem.axes)
        return float(normalised(problem.axes, problem.scores)[keep].sum())

    return max((_CHILD(book, parents, random) for _ in range(_CHILDREN)), key=kept)


_CHILD = population._child


@contextlib.contextmanager
def changed(changes: Sequence[str]) -> Iterator[None]:
    """The search with what no option of it changes."""
    with contextlib.ExitStack() as stack:
        if {"proxy", "unguided"} & set(changes):
            stack.enter_context(mock.patch.object(search, "CHOICE", 1))
        if "proxy" in changes:
            stack.enter_context(mock.patch.object(population, "_child", _best_child))
        if "steady" in changes:
            stack.enter_context(mock.patch.object(agent, "END_STD", START_STD))
        if "frozen" in changes:
            for learner in (PPO, DDPG):
                stack.enter_context(mock.patch.object(learner, "train", lambda *_, **__: None))
        yield
