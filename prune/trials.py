"""Trials: scored plans, whoever proposed them, and the outcome of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from graph.channels import Axes
from models_zoo.data import DataSet
from prune.budget import Budget
from prune.importance import Scores
from prune.journal import Journal
from prune.placement import CPU
from prune.plan import Plan
from prune.widths import WidthSpace


@dataclass(frozen=True)
class Trial:
    """One scored plan.

    Attributes:
        method: a baseline, ``refinement``, or whoever else searched.
        index: counts the trials of the method, from 1.
        macs: of the plan, for one record.
        accuracy: on the search images, before fine-tuning.
        loss: mean cross entropy there.
        seconds: since the search began.
        ratios: keep ratio of each bundle.
        worth: what the search makes of it, higher is better.
    """

    method: str
    index: int
    macs: int
    accuracy: float
    loss: float
    seconds: float
    ratios: tuple[float, ...] = field(repr=False)
    worth: float

    @property
    def rank(self) -> tuple[float, float, float]:
        """Higher is better: what the search goes by, then the accuracy, then the smaller loss."""
        return (self.worth, self.accuracy, -self.loss if math.isfinite(self.loss) else -math.inf)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"ratios": [round(r, 4) for r in self.ratios]}


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        plan: the best one.
        trials: all of them in order.
        best: the best trial of each method.
        evaluations: how many plans were run; repeated ones are remembered.
        images: how many search images each was scored on.
        seconds: wall time.
        finalists: the best plan of each method and the best plans of all, some also with other channels, to
            be looked at more closely.
        mended_loss: of the plan on the search split, where the finalists were compared once they were mended.
        sensitivity: what each group cut alone costs, as JSON data; None where that was not scored.
        agent: who searched; None where nothing was searched for.
        precision: the numbers that plans were scored in, ``float32`` or ``bfloat16``; None likewise.
        notes: what the user should know.
    """

    plan: Plan
    trials: tuple[Trial, ...]
    best: Mapping[str, Trial]
    evaluations: int
    images: int
    seconds: float
    finalists: tuple[Plan, ...] = ()
    mended_loss: float | None = None
    sensitivity: Mapping[str, Any] | None = None
    agent: str | None = None
    precision: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON data, with every digit."""
        plans = {"plan": self.plan.to_json(), "finalists": [p.to_json() for p in self.finalists]}
        return asdict(replace(self, plan=None, finalists=())) | plans  # type: ignore[arg-type]

    @staticmethod
    def from_json(data: Any) -> SearchResult:
        """Read back what ``to_json`` wrote."""
        return SearchResult(
            **(
                data
                | {
                    "plan": Plan.from_json(data["plan"]),
                    "trials": tuple(_trial(t) for t in data["trials"]),
                    "best": {name: _trial(t) for name, t in data["best"].items()},
                    "finalists": tuple(Plan.from_json(p) for p in data["finalists"]),
                    "notes": tuple(data["notes"]),
                }
            )
        )


@dataclass(frozen=True)
class Problem:
    """What a planner is asked.

    Attributes:
        axes: of the whole program.
        space: the widths it can have.
        budget: what the plan may use.
        scores: importance of each class of channels.
        data: its train and search splits may be used, its test split never.
        on_trial: to be told of each scored plan.
        starts: keep ratios of plans found elsewhere, by name, to be scored beside the baselines.
        journal: scores found so far, also before the run was cut short, and where new ones go.
        reranks: whether plans may keep other channels than those that ``scores``, which are magnitudes
            then, ranks first.
        device: scores plans and takes gradients.
    """

    axes: Axes
    space: WidthSpace
    budget: Budget
    scores: Scores
    data: DataSet
    on_trial: Callable[[Trial], None]
    starts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    reranks: bool = False
    device: torch.device = CPU


def _trial(data: Any) -> Trial:
    return Trial(**(data | {"ratios": tuple(data["ratios"])}))


Planner = Callable[[Problem], SearchResult]
