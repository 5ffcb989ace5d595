"""Scoring: what a subnetwork may use, how good it is, and what was scored so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from graph.errors import TargetError, UsageError
from graph.suggest import suggestion
from models_zoo.data import DataSet
from prune.demands import Demand
from prune.tune import Evaluation, evaluate
from supernet.elastic import Cost, Subnet
from supernet.net import ElasticModule, Supernet

SearchAgent = Literal["tpe", "nsga2", "random", "gnn-rl", "agmc", "amc"]
AGENTS: tuple[SearchAgent, ...] = get_args(SearchAgent)
LEARNING = ("gnn-rl", "agmc", "amc")
_RECORDS = {False: 512, True: 32}  # images, or windows of text, that each subnetwork is scored on


@dataclass(frozen=True)
class Trial:
    """A scored subnetwork.

    Attributes:
        subnet: the choice.
        method: who proposed it.
        cost: what it uses.
        macs_ratio: its share of the whole's multiply-adds.
        params_ratio: its share of the whole's parameters.
        found: on the search split.
    """

    subnet: Subnet
    method: str
    cost: Cost
    macs_ratio: float
    params_ratio: float
    found: Evaluation

    @property
    def rank(self) -> tuple[float, float]:
        """The greater, the better."""
        return self.found.rank

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            **self.subnet.to_json(),
            "method": self.method,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "macs_ratio": self.macs_ratio,
            "params_ratio": self.params_ratio,
            **self.found.to_json(),
        }


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
        trials: all that were scored.
        whole: the whole network on the same records.
        seconds: wall time.
        agent: who searched.
    """

    best: Trial
    front: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    whole: Evaluation
    seconds: float
    agent: str

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "format": "prune-subnets",
            "version": 1,
            "agent": self.agent,
            "seconds": self.seconds,
            "scored": len(self.trials),
            "whole": self.whole.to_json(),
            "best": self.best.to_json(),
            "front": [t.to_json() for t in self.front],
            "trials": [t.to_json() for t in self.trials],
        }


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        agent: one of ``AGENTS``.
        trials: subnetworks that are scored, the plain ones included.
        seed: of everything random.
        records: of the search split that each is scored on; None for 512 images or 32 windows.

    Raises:
        UsageError: a value out of range.
    """

    agent: str = "tpe"
    trials: int = 60
    seed: int = 0
    records: int | None = None

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise UsageError(f"--agent {self.agent}: unknown", hint=suggestion(self.agent, AGENTS))
        if self.trials < 1:
            raise UsageError(f"--trials {self.trials}: at least 1", hint="such as --trials 60")


# What a subnetwork uses beyond multiply-adds and parameters, in milliseconds
Latency = Callable[[Subnet], float]


class Limits:
    """What a subnetwork may use.

    Args:
        net: the supernet.
        demands: as the user gave them; none for no limit.
        latency: a model of it, where it is limited.

    Attributes:
        demands: the same.

    Raises:
        TargetError: even the smallest subnetwork uses more, or a figure is no less than the whole uses.
    """

    def __init__(self, net: Supernet, demands: Sequence[Demand], latency: Latency | None = None) -> None:
        self.net, self.demands, self.latency = net, tuple(demands), latency
        self._most = {d: self._limit(d) for d in demands}
        for demand, most in self._most.items():
            least = self.used(demand, net.elastic.smallest)
            if least > most:
                whole = self.used(demand, net.elastic.largest)
                raise TargetError(
                    f"{demand}: the smallest subnetwork has {least / whole:.1%} of the whole's "
                    f"{_WORDS[demand.name]}",
                    hint=f"ask for at least {demand.option} {-(-least * 1000 // whole) / 1000:g}, or build a "
                    "supernet with a smaller --least, --least-depth or more --kinds",
                )

    def _limit(self, demand: Demand) -> float:
        if demand.name == "memory":
            raise TargetError(f"{demand}: supernets have no limit of memory", hint="use --params")
        if demand.name == "latency" and self.latency is None:
            raise TargetError(f"{demand}: nothing tells how long a subnetwork takes", hint="use --flops")
        if demand.share is not None:
            return demand.share * self.used(demand, self.net.elastic.largest)
        assert demand.amount is not None
        return demand.amount

    def used(self, demand: Demand, subnet: Subnet) -> float:
        """How much of what is limited a subnetwork uses."""
        if demand.name == "latency":
            assert self.latency is not None
            return self.latency(subnet)
        cost = self.net.elastic.cost(subnet)
        return float(cost.macs if demand.name == "macs" else cost.params)

    def kept(self, subnet: Subnet) -> bool:
        """Whether a subnetwork keeps all limits."""
        return all(self.used(d, subnet) <= most for d, most in self._most.items())

    def fitted(self, subnet: Subnet) -> Subnet:
        """The subnetwork, narrowed until it keeps the limits: the axis with the largest share first."""
        elastic = self.net.elastic
        subnet = elastic.canonical(subnet)
        while not self.kept(subnet):
            open_axes = [
                i for i, (level, c) in enumerate(zip(subnet.levels, elastic.choices, strict=True))
                if level and c.layer not in subnet.dropped
            ]  # fmt: skip
            if open_axes:
                widest = max(open_axes, key=lambda i: elastic.choices[i].shares[subnet.levels[i]])
                levels = tuple(level - (i == widest) for i, level in enumerate(subnet.levels))
                subnet = Subnet(levels, subnet.dropped)
            else:
                gone = next(i for i in elastic.depth_order if i not in subnet.dropped)
                subnet = elastic.canonical(Subnet(subnet.levels, tuple(sorted((*subnet.dropped, gone)))))
        return subnet


_WORDS = {"macs": "multiply-adds", "params": "parameters", "latency": "latency"}


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
        self._whole = net.elastic.cost(net.elastic.largest)

    def score(self, subnet: Subnet, method: str) -> Trial:
        """Score a choice."""
        if subnet not in self.known:
            found = self.evaluated(subnet)
            cost = self.net.elastic.cost(subnet)
            trial = Trial(
                subnet, method, cost, cost.macs / self._whole.macs, cost.params / self._whole.params, found
            )
            self.known[subnet] = trial
            self.on_trial(trial)
        return self.known[subnet]

    def evaluated(self, subnet: Subnet) -> Evaluation:
        """A choice on the records, whether it keeps the limits or not."""
        self._module.subnet = subnet
        return evaluate(self._module, self.data.search, limit=self.records)

    def front(self) -> tuple[Trial, ...]:
        """Those that none beats in both rank and multiply-adds, from small to large."""
        front: list[Trial] = []
        for trial in sorted(self.known.values(), key=lambda t: (t.cost.macs, [-r for r in t.rank])):
            if not front or trial.rank > front[-1].rank:
                front.append(trial)
        return tuple(front)
