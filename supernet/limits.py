"""Limits: what a subnetwork may use, and how one that uses too much is narrowed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

from graph.errors import TargetError
from prune.demands import Demand
from supernet.elastic import Subnet
from supernet.net import Supernet

_WORDS = {"macs": "multiply-adds", "params": "parameters", "latency": "latency"}

# What a subnetwork uses beyond multiply-adds and parameters, in milliseconds
Latency = Callable[[Subnet], float]


def latency_in(demands: Iterable[Demand]) -> Demand | None:
    """The limit of the latency, where there is one."""
    return next((d for d in demands if d.name == "latency"), None)


class Limits:
    """What a subnetwork may use.

    Args:
        net: the supernet.
        demands: as the user gave them; none for no limit.
        latency: a model of it, where it is limited.

    Attributes:
        demands: the same.

    Raises:
        TargetError: even the smallest subnetwork uses more.
    """

    def __init__(self, net: Supernet, demands: Sequence[Demand], latency: Latency | None = None) -> None:
        self.net, self.demands, self.latency = net, tuple(demands), latency
        self._most = {d: self._limit(d) for d in demands}
        for demand, most in self._most.items():
            least = self.used(demand, net.elastic.smallest)
            if least > most:
                whole = self.used(demand, net.elastic.largest)
                if demand.share is None:
                    has = ask = demand.in_units(least)
                else:
                    has, ask = f"{least / whole:.1%} of the whole's", f"{-(-least * 1000 // whole) / 1000:g}"
                raise TargetError(
                    f"{demand}: the smallest subnetwork has {has} {_WORDS[demand.name]}",
                    hint=f"ask for at least {demand.option} {ask}, or build a "
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

    @property
    def late(self) -> Demand | None:
        """The limit of the latency, where there is one."""
        return latency_in(self.demands)

    def narrowed(self, latency: float) -> Limits:
        """The same with another limit of the latency, in foretold milliseconds."""
        found = copy.copy(self)
        found._most = {d: latency if d is self.late else most for d, most in self._most.items()}
        return found

    def plain(self) -> Subnet:
        """The choice where nothing is scored: as many layers as fit, and those as wide as fits."""
        elastic = self.net.elastic
        for kept in range(len(elastic.layers), elastic.least_layers - 1, -1):
            subnet = self.fitted(elastic.at(1.0, kept))
            if len(elastic.layers) - len(subnet.dropped) == kept:
                return subnet
        return elastic.smallest

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
