"""What tests of whole runs share: a listener that keeps what it hears, a search that must not happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from profilers.latency import compare
from prune.trials import Problem, SearchResult, Trial
from prune.tune import EpochResult


class Collected:
    """What a run told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def trial(self, trial: Trial) -> None:
        raise AssertionError("a plan was scored")

    def epoch(self, result: EpochResult) -> None:
        raise AssertionError("the model was tuned")

    def step(self, done: int, total: int) -> None:
        raise AssertionError("the model was tuned")


def no_search(problem: Problem) -> SearchResult:
    """A planner for runs that must not search."""
    raise AssertionError("a plan was searched for")


@contextmanager
def quick_clocks() -> Iterator[None]:
    """Measure latencies for as short as can be: they have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prune.measurement.compare", partial(compare, warmup=1, repeats=2, min_seconds=0))
        yield
