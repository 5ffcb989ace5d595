"""Scoring: how good subnetworks are, what was scored so far, and what a search found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from models_zoo.data import DataSet
from prune.evaluation import Evaluation, evaluate
from supernet.elastic import Cost, Elastic, Subnet
from supernet.net import ElasticModule, Supernet

_RECORDS = {False: 512, True: 32}  # images, or windows of text, that each subnetwork is scored on


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A subnetwork that somebody proposed.

    Attributes:
        subnet: the choice.
        method: who proposed it.
        cost: what it uses.
        macs_ratio: its share of the whole's multiply-adds.
        params_ratio: its share of the whole's parameters.
        latency_ms: measured in turns with the whole; None where it was not timed.
    """

    subnet: Subnet
    method: str
    cost: Cost
    macs_ratio: float
    params_ratio: float
    latency_ms: float | None = None

    def told(self) -> str:
        """How good it is, in words."""
        return "not scored"

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            **self.subnet.to_json(),
            "method": self.method,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "macs_ratio": self.macs_ratio,
            "params_ratio": self.params_ratio,
            "latency_ms": self.latency_ms,
        }


@dataclass(frozen=True, kw_only=True)
class Trial(Choice):
    """A scored subnetwork.

    Attributes:
        found: on the search split.
    """

    found: Evaluation

    @property
    def rank(self) -> tuple[float, float]:
        """The greater, the better."""
        return self.found.rank

    def told(self) -> str:
        """How good it is, in words."""
        return self.found.told()

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return super().to_json() | self.found.to_json()


def choice_of(elastic: Elastic, subnet: Subnet, method: str) -> Choice:
    """A subnetwork that is not scored, with its costs."""
    cost, whole = elastic.cost(subnet), elastic.cost(elastic.largest)
    return Choice(
        subnet=subnet, method=method, cost=cost, macs_ratio=cost.macs / whole.macs,
        params_ratio=cost.params / whole.params,
    )  # fmt: skip


def trial_of(elastic: Elastic, subnet: Subnet, method: str, found: Evaluation) -> Trial:
    """One that is scored."""
    return Trial(**vars(choice_of(elastic, subnet, method)), found=found)


def chosen(trials: Iterable[Trial]) -> Trial:
    """The subnetwork to take: of all that chance may have put behind the first, that of the least loss.

    Few images cannot tell accuracies apart: what lies within one standard error of the best may as well be
    it. The loss tells more, since it changes with every image. Text is judged by it anyway, masks by pixels.
    """
    ranked = sorted(trials, key=lambda t: t.rank, reverse=True)
    first = ranked[0].found
    if first.is_text or first.mean_iou is not None:
        return ranked[0]
    error = math.sqrt(first.accuracy * (1 - first.accuracy) / first.records)
    near = [t for t in ranked if t.found.accuracy >= first.accuracy - error]
    return min(near, key=lambda t: t.found.loss)


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        best: the chosen subnetwork within the limits; of a search for a front, its last one.
        front: those that none beats in both accuracy and multiply-adds, from small to large.
        trials: all that were scored, but for those that proved too slow.
        scored: how many were scored; 0 where no data judge.
        whole: the whole network on the same records; None where nothing was scored.
        seconds: wall time, that of timing the best subnetwork included.
        agent: who searched; empty where nothing was scored.
        whole_ms: latency of the whole network, where that of the best was measured.
        too_slow: how many were timed before ``best`` and took longer than allowed.
    """

    best: Choice
    front: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    scored: int
    whole: Evaluation | None
    seconds: float
    agent: str
    whole_ms: float | None = None
    too_slow: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "format": "prune-subnets",
            "version": 1,
            "agent": self.agent,
            "seconds": self.seconds,
            "scored": self.scored,
            "whole": None if self.whole is None else self.whole.to_json(),
            "whole_latency_ms": self.whole_ms,
            "too_slow": self.too_slow,
            "best": self.best.to_json(),
            "front": [t.to_json() for t in self.front],
            "trials": [t.to_json() for t in self.trials],
        }


class Book:
    """Scores subnetworks and remembers them.

    Args:
        net: the supernet.
        data: its search split judges.
        records: of it.
        on_trial: is told of each new one.
    """

    def __init__(
        self, net: Supernet, data: DataSet, records: int | None, on_trial: Callable[[Trial], None]
    ) -> None:
        self.net, self.data, self.on_trial = net, data, on_trial
        self.records = min(records or _RECORDS[data.is_text], len(data.search))
        self.known: dict[Subnet, Trial] = {}
        self._module = ElasticModule(net)

    def score(self, subnet: Subnet, method: str) -> Trial:
        """Score a choice."""
        if subnet not in self.known:
            trial = trial_of(self.net.elastic, subnet, method, self.evaluated(subnet))
            self.known[subnet] = trial
            self.on_trial(trial)
        return self.known[subnet]

    def evaluated(self, subnet: Subnet) -> Evaluation:
        """A choice on the records, whether it keeps the limits or not."""
        self._module.subnet = subnet
        return evaluate(self._module, self.data.search, limit=self.records)


def front_of(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Those that none beats in both rank and multiply-adds, from small to large."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.cost.macs, [-r for r in t.rank])):
        if not front or trial.rank > front[-1].rank:
            front.append(trial)
    return tuple(front)
