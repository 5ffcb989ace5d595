"""Plans: how many and which channels each group keeps, and the projection of any wish onto the target.

A policy speaks in keep ratios, one for each bundle. ``WidthSpace`` turns ratios into widths that exist and
that cost no more than the target; ``make_plan`` chooses the most important channels of each width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.cost import CostModel
from graph.errors import PlanError, TargetError

Widths = NDArray[np.int64]
Ratios = Sequence[float] | NDArray[np.float64]
TOLERANCE = 0.01  # a plan's MACs lie in [target - TOLERANCE, target], as shares of the whole


@dataclass(frozen=True)
class Plan:
    """Which units each group keeps.

    Attributes:
        kept: for each group by name, the positions of the kept units within the group, ascending.
        widths: for each group by name, how many units the whole program has.
        method: what chose it, such as ``uniform`` or ``ppo``.
        macs: of the pruned program, for one record.
        base_macs: of the whole program.
    """

    kept: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, int]
    method: str
    macs: int
    base_macs: int

    @property
    def ratio(self) -> float:
        """Share of the MACs that remains."""
        return self.macs / self.base_macs

    def keep_mask(self, axes: Axes) -> NDArray[np.bool_]:
        """For each class of the axes whether it stays.

        Raises:
            PlanError: the plan was made for another program.
        """
        mask = np.zeros(axes.classes, dtype=bool)
        mask[0] = True
        if set(self.widths) != {g.name for g in axes.groups}:
            raise PlanError("the plan was made for another model: its groups have other names")
        for group in axes.groups:
            kept = self.kept.get(group.name)
            if kept is None:
                raise PlanError(f"the plan does not say what to keep of group {group.name!r}")
            if self.widths[group.name] != len(group.units):
                raise PlanError(
                    f"the plan was made for another model: group {group.name!r} has {len(group.units)} "
                    f"units, the plan says {self.widths[group.name]}"
                )
            if list(kept) != sorted(set(kept)) or (kept and not 0 <= kept[0] <= kept[-1] < len(group.units)):
                raise PlanError(f"the plan keeps impossible units of group {group.name!r}")
            mask[np.array(group.units)[list(kept)]] = True
        return axes.closed(mask)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "format": "prune-plan",
            "version": 1,
            "method": self.method,
            "macs": self.macs,
            "base_macs": self.base_macs,
            "groups": {
                name: {"width": self.widths[name], "kept": list(kept)} for name, kept in self.kept.items()
            },
        }

    @staticmethod
    def from_json(data: Any) -> Plan:
        """Read back what ``to_json`` wrote.

        Raises:
            PlanError: malformed data.
        """
        try:
            if data["format"] != "prune-plan" or data["version"] != 1:
                raise PlanError("not a plan of version 1")
            groups = data["groups"]
            return Plan(
                {str(k): tuple(int(i) for i in g["kept"]) for k, g in groups.items()},
                {str(k): int(g["width"]) for k, g in groups.items()},
                str(data["method"]),
                int(data["macs"]),
                int(data["base_macs"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise PlanError(f"malformed plan: {type(err).__name__}: {err}") from err


class WidthSpace:
    """All the widths that a program can have, and the projection onto a limit of MACs.

    Args:
        axes: of the whole program.
        round_to: kept counts are multiples of this where a group has at least that many units.
        minimum: for groups by name, the least number of units that they keep.

    Attributes:
        bundles: how many decisions there are.
        level_counts: for each bundle how many widths it can have.
        sizes: for each bundle the number of units in the whole program.
        base_macs: MACs of the whole program for one record.
    """

    def __init__(self, axes: Axes, *, round_to: int = 1, minimum: Mapping[str, int] | None = None) -> None:
        self.axes = axes
        self.cost = CostModel(axes)
        self._layouts = [np.array(b.layouts, dtype=np.int64) for b in axes.bundles]
        if round_to > 1:
            self._layouts = [_rounded(layout, round_to) for layout in self._layouts]
        if minimum:
            least = np.array([minimum.get(g.name, 0) for g in axes.groups], dtype=np.int64)
            self._layouts = [
                _at_least(layout, least[list(b.groups)])
                for b, layout in zip(axes.bundles, self._layouts, strict=True)
            ]
        self._totals = [layout.sum(axis=1) for layout in self._layouts]
        self.bundles = len(axes.bundles)
        self.level_counts = [len(t) for t in self._totals]
        self.sizes = np.array([t[-1] for t in self._totals], dtype=np.int64)
        self.base_macs = self.cost.macs(self.cost.widths)

    def widths(self, levels: NDArray[np.int64]) -> Widths:
        """Kept units of each group for a level of each bundle."""
        result = np.zeros(len(self.axes.groups), dtype=np.int64)
        for bundle, layouts, level in zip(self.axes.bundles, self._layouts, levels, strict=True):
            result[list(bundle.groups)] = layouts[level]
        return result

    def levels(self, ratios: Ratios) -> NDArray[np.int64]:
        """The widest levels whose share of units is at most the ratios (at least the narrowest)."""
        return np.array(
            [
                max(0, int(np.searchsorted(totals, ratio * totals[-1] + 1e-9, side="right")) - 1)
                for totals, ratio in zip(self._totals, ratios, strict=True)
            ],
            dtype=np.int64,
        )

    def ratios(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of units that each bundle keeps."""
        return np.array(
            [t[level] / t[-1] for t, level in zip(self._totals, levels, strict=True)], dtype=np.float64
        )

    def macs(self, levels: NDArray[np.int64]) -> int:
        """MACs for one record at these levels."""
        return self.cost.macs(self.widths(levels))

    @cached_property
    def lowest_macs(self) -> int:
        """The fewest MACs that any widths reach."""
        return self.macs(np.zeros(self.bundles, dtype=np.int64))

    def check_target(self, target: int) -> None:
        """Check that the target can be met.

        Raises:
            TargetError: nothing is prunable, or even the narrowest program costs more; says the lowest.
        """
        if self.bundles == 0:
            raise TargetError(
                "the model has no prunable channels", hint="`prune inspect` says what is pinned and why"
            )
        if target < self.lowest_macs:
            raise TargetError(
                f"{target:,} MACs ({target / self.base_macs:.3f} of the model) cannot be reached",
                hint=f"the lowest reachable is {self.lowest_macs:,} MACs, "
                f"--flops {math.ceil(1000 * self.lowest_macs / self.base_macs) / 1000:g}",
            )

    def project(self, ratios: Ratios, target: int) -> NDArray[np.int64]:
        """The levels nearest to a wish that cost at most ``target`` MACs, and as little less as possible.

        The ratios are scaled by one common factor until the target holds; what is then left over is spent
        one level at a time on the bundle that lies furthest below its wish.

        Raises:
            TargetError: the target cannot be reached.
        """
        self.check_target(target)
        wish = np.clip(np.asarray(ratios, dtype=np.float64), 1e-6, 1.0)
        low, high = 0.0, 1.0 / float(wish.min())
        for _ in range(40):
            middle = (low + high) / 2
            if self.macs(self.levels(np.minimum(1.0, wish * middle))) <= target:
                low = middle
            else:
                high = middle
        wish = np.minimum(1.0, wish * high)
        levels = self.levels(np.minimum(1.0, wish * (low / high)))
        levels = self._fill(levels, wish, target)
        if self.macs(levels) < target - TOLERANCE * self.base_macs:
            levels = self._trade(levels, target)
        return levels

    def _trade(self, levels: NDArray[np.int64], target: int) -> NDArray[np.int64]:
        """Raise one coarse bundle by a level and lower fine ones until the target holds again.

        Only extreme wishes need it: they leave every bundle with small steps at its full width.
        """
        best = levels
        for raised in range(self.bundles):
            trial = levels.copy()
            trial[raised] += 1
            if trial[raised] >= self.level_counts[raised]:
                continue
            while self.macs(trial) > target:
                lowered = [trial - np.eye(self.bundles, dtype=np.int64)[i] for i in range(self.bundles)]
                lowered = [n for i, n in enumerate(lowered) if i != raised and n[i] >= 0]
                if not lowered:
                    break
                trial = max(lowered, key=self.macs)
            if self.macs(best) < self.macs(trial) <= target:
                best = trial
        return best

    def _fill(self, levels: NDArray[np.int64], wish: NDArray[np.float64], target: int) -> NDArray[np.int64]:
        """Raise single levels while the target holds."""
        open_ = {i for i in range(self.bundles) if levels[i] + 1 < len(self._totals[i])}
        while open_:
            short = wish - self.ratios(levels)
            best = max(open_, key=lambda i: (short[i], -i))
            trial = levels.copy()
            trial[best] += 1
            if self.macs(trial) <= target:
                levels = trial
                if levels[best] + 1 >= len(self._totals[best]):
                    open_.discard(best)
            else:
                open_.discard(best)
        return levels


def _rounded(layouts: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    """The layouts whose groups all keep multiples; all of them where there is no such layout."""
    good = ((layouts % multiple == 0) | (layouts == layouts[-1])).all(axis=1)
    result: NDArray[np.int64] = layouts[good]
    return result


def _at_least(layouts: NDArray[np.int64], least: NDArray[np.int64]) -> NDArray[np.int64]:
    """The layouts that keep no less than asked for; the widest one always."""
    good = [bool((row >= least).all()) for row in layouts[:-1]] + [True]
    result: NDArray[np.int64] = layouts[np.array(good)]
    return result


def make_plan(space: WidthSpace, levels: NDArray[np.int64], scores: NDArray[np.float64], method: str) -> Plan:
    """Choose the most important units of each group.

    Args:
        space: of the whole program.
        levels: a level for each bundle.
        scores: importance of each class of the axes; higher stays.
        method: named in the plan.
    """
    widths = space.widths(levels)
    kept = {}
    for group, width in zip(space.axes.groups, widths, strict=True):
        order = np.argsort(-scores[list(group.units)], kind="stable")[:width]
        kept[group.name] = tuple(sorted(int(i) for i in order))
    return Plan(
        kept,
        {g.name: len(g.units) for g in space.axes.groups},
        method,
        space.cost.macs(widths),
        space.base_macs,
    )


def parse_target(text: str, base_macs: int, *, unit: str) -> int:
    """Read a target: a ratio such as ``0.5`` or ``50%``, or an absolute figure such as ``120M``.

    Args:
        text: as the user gave it.
        base_macs: of the whole model.
        unit: ``flops`` or ``macs``; absolute FLOPs are halved.

    Returns:
        The target in MACs.

    Raises:
        TargetError: malformed, not positive, or not below the model's own cost.
    """
    option = f"--{unit}"
    hint = f"a ratio in (0, 1) such as {option} 0.5, or an absolute figure such as {option} 120M"
    stripped = text.strip()
    scale = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(stripped[-1:].upper())
    try:
        if stripped.endswith("%"):
            value, absolute = float(stripped[:-1]) / 100, False
        elif scale is not None:
            value, absolute = float(stripped[:-1]) * scale, True
        else:
            value = float(stripped)
            absolute = value > 1000
    except ValueError:
        raise TargetError(f"{option} {text}: not a number", hint=hint) from None
    if not math.isfinite(value) or value <= 0:
        raise TargetError(f"{option} {text}: must be greater than 0", hint=hint)
    if not absolute:
        if value >= 1:
            raise TargetError(f"{option} {text}: a ratio must be below 1", hint=hint)
        return math.floor(value * base_macs)
    macs = value / 2 if unit == "flops" else value
    if macs >= base_macs:
        whole = base_macs * 2 if unit == "flops" else base_macs
        raise TargetError(
            f"{option} {text}: the model has only {whole:,} {unit.upper()}",
            hint=f"ask for less than {whole / 1e6:.1f}M",
        )
    return math.floor(macs)
