"""Budgets: limits on what a plan may use, all at once, and the projection of any wish onto them.

A ``Quantity`` is something that a plan uses, exact or as a monotone model, for any widths: MACs, parameters,
bytes of memory, milliseconds. A ``Budget`` sets a limit to some of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.cost import Costs
from graph.errors import TargetError
from prune.demands import Demand
from prune.widths import Levels, Ratios, Widths, WidthSpace

TOLERANCE = 0.01  # the tightest quantity of a plan lies in [limit - TOLERANCE, limit], as shares of the whole
_GRID = 16  # factors that are tried at once


@dataclass(frozen=True)
class Quantity:
    """Something that a plan uses.

    Attributes:
        name: ``macs``, ``params``, ``memory`` or ``latency``.
        unit: of its values, for messages.
        whole: how much the whole program uses.
        value: how much any widths use: (..., groups) -> (...). More units never use less, as good as.
    """

    name: str
    unit: str
    whole: float
    value: Callable[[Widths], NDArray[Any]]

    def told(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.3f} {self.unit}" if self.name == "latency" else f"{math.floor(value):,} {self.unit}"


@dataclass(frozen=True)
class Bound:
    """A limit on one quantity.

    Attributes:
        quantity: what is limited.
        limit: the most that a plan may use.
        demand: how the user asked for it; None where no user did.
    """

    quantity: Quantity
    limit: float
    demand: Demand | None = None

    @property
    def share(self) -> float:
        """The limit as a share of the whole program."""
        return self.limit / self.quantity.whole


def exact_quantities(space: WidthSpace, whole: Costs | None = None) -> dict[str, Quantity]:
    """The quantities that follow from the program alone, by name: MACs, parameters, bytes of memory.

    Args:
        space: the widths that the program can have.
        whole: costs that count as the whole, where the program is a part of another; its own when left out.
    """
    cost = space.cost
    values: dict[str, tuple[str, Callable[[Widths], NDArray[Any]]]] = {
        "macs": ("MACs", cost.macs),
        "params": ("parameters", cost.params),
        "memory": ("bytes", cost.memory_bytes),
    }
    widest = {name: float(f(cost.widths)) for name, (_, f) in values.items()}
    if whole is not None:
        widest = {"macs": whole.macs, "params": whole.params, "memory": whole.memory_bytes}
    return {name: Quantity(name, unit, widest[name], f) for name, (unit, f) in values.items()}


@dataclass(frozen=True)
class Budget:
    """Limits on what the plans of a program may use; a plan has to keep all of them.

    Levels are (bundles,), or (..., bundles) for many plans at once; results have the leading shape.

    Attributes:
        space: the widths that the program can have.
        bounds: the limits, one for each limited quantity.
    """

    space: WidthSpace
    bounds: tuple[Bound, ...]

    @staticmethod
    def of(space: WidthSpace, quantities: Mapping[str, Quantity] | None = None, **limits: float) -> Budget:
        """A budget of absolute limits by quantity: ``Budget.of(space, macs=500_000, params=10_000)``."""
        known = {**exact_quantities(space), **(quantities or {})}
        return Budget(space, tuple(Bound(known[name], limit) for name, limit in limits.items()))

    @staticmethod
    def from_demands(
        space: WidthSpace,
        demands: Sequence[Demand],
        latency: Quantity | None = None,
        whole: Costs | None = None,
    ) -> Budget:
        """What a user's demands mean for a program.

        Args:
            space: the widths that the program can have.
            demands: one for each limited quantity.
            latency: the model of it, where it is limited.
            whole: what shares are shares of; the program itself when left out.

        Raises:
            TargetError: an absolute figure that is not below what the whole model uses.
        """
        known = exact_quantities(space, whole) | ({"latency": latency} if latency else {})
        return Budget(space, tuple(_bound(known[d.name], d) for d in demands))

    @property
    def share(self) -> float:
        """The limit that leaves least of the whole program, as a share."""
        return min(bound.share for bound in self.bounds)

    def load(self, levels: Levels) -> NDArray[np.float64]:
        """The largest share of any limit that is used; at most 1 where all limits hold."""
        widths = self.space.widths(levels)
        shares = [np.asarray(b.quantity.value(widths)) / b.limit for b in self.bounds]
        result: NDArray[np.float64] = np.max(shares, axis=0)
        return result

    def holds(self, levels: Levels) -> NDArray[np.bool_]:
        """Whether all limits hold."""
        widths = self.space.widths(levels)
        kept = [np.asarray(b.quantity.value(widths)) <= b.limit for b in self.bounds]
        result: NDArray[np.bool_] = np.logical_and.reduce(kept)
        return result

    def used(self, levels: Levels) -> dict[str, float]:
        """For one plan, the share of each limit that it uses, by quantity."""
        widths = self.space.widths(levels)
        return {b.quantity.name: float(b.quantity.value(widths)) / b.limit for b in self.bounds}

    def slack(self, levels: Levels) -> float:
        """For one plan, how far it stays below its tightest limit, as a share of the whole program."""
        widths = self.space.widths(levels)
        return min((b.limit - float(b.quantity.value(widths))) / b.quantity.whole for b in self.bounds)

    def with_quantity(self, quantity: Quantity) -> Budget:
        """The same with another model of one quantity."""
        return Budget(
            self.space,
            tuple(
                replace(b, quantity=quantity) if b.quantity.name == quantity.name else b for b in self.bounds
            ),
        )

    def check_reachable(self) -> None:
        """Check that all limits can be met.

        Raises:
            TargetError: there is a limit and nothing is prunable, or even the narrowest program uses more;
                says the lowest.
        """
        if self.bounds and self.space.bundles == 0:
            raise TargetError(
                "the model has no prunable channels", hint="`prune inspect` says what is pinned and why"
            )
        for bound, lowest in zip(self.bounds, self._lowest, strict=True):
            if lowest > bound.limit:
                raise _unreachable(bound, lowest, self.space.round_to)

    @cached_property
    def _lowest(self) -> tuple[float, ...]:
        widths = self.space.widths(self.space.narrowest)
        return tuple(float(b.quantity.value(widths)) for b in self.bounds)

    def project(self, ratios: Ratios) -> Levels:
        """The levels nearest to a wish that keep all limits, and use as little less as possible.

        The ratios are scaled by one common factor until the limits hold; what is then left over is spent one
        level at a time on the bundle that lies furthest below its wish.

        Args:
            ratios: (bundles,) shares of units.

        Raises:
            TargetError: the limits cannot be met.
        """
        self.check_reachable()
        wish = np.clip(np.asarray(ratios, dtype=np.float64), 1e-6, 1.0)
        levels, wish = self._scaled(wish)
        levels = self._filled(levels, wish)
        if self.slack(levels) > TOLERANCE:
            levels = self._filled(self._traded(levels), wish)
        return levels

    def _scaled(self, wish: NDArray[np.float64]) -> tuple[Levels, NDArray[np.float64]]:
        """The levels of the largest factor at which the limits hold, and the wish scaled just beyond it."""
        low, high = 0.0, 1.0 / float(wish.min())
        levels = self.space.narrowest
        while high - low > 1e-9 * high:
            factors = np.linspace(low, high, _GRID + 1)[1:]
            tried = self.space.levels(np.minimum(1.0, wish * factors[:, None]))
            failing = np.flatnonzero(~self.holds(tried))
            if len(failing) == 0:
                return tried[-1], np.minimum(1.0, wish * high)
            first = int(failing[0])
            if first > 0:
                low, levels = float(factors[first - 1]), tried[first - 1]
            high = float(factors[first])
            if np.abs(tried[first] - levels).sum() <= 1:
                break
        return levels, np.minimum(1.0, wish * high)

    def _filled(self, levels: Levels, wish: NDArray[np.float64]) -> Levels:
        """Raise single levels while the limits hold."""
        counts = self.space.level_counts
        open_ = {i for i in range(self.space.bundles) if levels[i] + 1 < counts[i]}
        while open_:
            short = wish - self.space.ratios(levels)
            best = max(open_, key=lambda i: (short[i], -i))
            trial = levels.copy()
            trial[best] += 1
            if self.holds(trial):
                levels = trial
            if levels[best] + 1 >= counts[best] or levels is not trial:
                open_.discard(best)
        return levels

    def _traded(self, levels: Levels) -> Levels:
        """Raise one coarse bundle by a level and lower fine ones until the limits hold again.

        Only extreme wishes need it: they leave every bundle with small steps at its full width.
        """
        step = np.eye(self.space.bundles, dtype=np.int64)
        best, best_load = levels, float(self.load(levels))
        for raised in range(self.space.bundles):
            trial = levels + step[raised]
            if trial[raised] >= self.space.level_counts[raised]:
                continue
            load = float(self.load(trial))
            while load > 1.0:
                lowered = trial - np.delete(step, raised, axis=0)
                lowered = lowered[(lowered >= 0).all(axis=1)]
                if len(lowered) == 0:
                    break
                loads = self.load(lowered)
                trial, load = lowered[loads.argmax()], float(loads.max())
            if best_load < load <= 1.0 and self.holds(trial):
                best, best_load = trial, load
        return best


def _bound(quantity: Quantity, demand: Demand) -> Bound:
    if demand.share is not None:
        limit = demand.share * quantity.whole
        return Bound(quantity, limit if quantity.name == "latency" else math.floor(limit), demand)
    assert demand.amount is not None
    if demand.amount >= quantity.whole:
        factor, unit = (2, "FLOPs") if demand.option == "--flops" else (1, quantity.unit)
        whole = replace(quantity, unit=unit).told(quantity.whole * factor)
        raise TargetError(f"{demand}: the model has only {whole}", hint="ask for less")
    return Bound(quantity, demand.amount, demand)


def _unreachable(bound: Bound, lowest: float, round_to: int) -> TargetError:
    quantity = bound.quantity
    named = bound.demand or quantity.name
    option = bound.demand.option if bound.demand else f"--{quantity.name}"
    share = math.ceil(1000 * lowest / quantity.whole) / 1000
    hint = f"the lowest reachable is {quantity.told(lowest)}, {option} {share:g}"
    if share >= 1:
        hint = f"no choice of widths uses less than {quantity.told(lowest)}: the whole model does"
    if round_to > 1:
        hint += f"; a smaller --round-to than {round_to} may reach lower"
    return TargetError(
        f"{named}: {quantity.told(bound.limit)} ({bound.share:.3f} of the model) cannot be reached", hint=hint
    )
