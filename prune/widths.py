"""Widths: all the choices of how many channels each group keeps.

A policy speaks in keep ratios, one for each bundle; a bundle has levels, from its narrowest width to its
whole one; a level is a kept count for each group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.cost_model import CostModel
from graph.errors import PlanError

Widths = NDArray[np.int64]  # (..., groups): kept units
Levels = NDArray[np.int64]  # (..., bundles): positions among the widths of each bundle
Ratios = Sequence[float] | NDArray[np.float64]  # (..., bundles): shares of units


class WidthSpace:
    """All the widths that a program can have.

    Args:
        axes: of the whole program.
        round_to: kept counts are multiples of this where a group has at least that many units.
        multiples: for groups by index, what their counts are multiples of where they are no less.
        minimum: for groups by name, the least number of units that they keep.
        fixed: for groups by name, the number of units that they keep, which is no choice any more.

    Attributes:
        bundles: how many decisions there are.
        level_counts: for each bundle how many widths it can have.
        sizes: for each bundle the number of units at its widest.
        base_macs: MACs of the whole program for one record.
    """

    def __init__(
        self,
        axes: Axes,
        *,
        round_to: int = 1,
        multiples: Mapping[int, int] | None = None,
        minimum: Mapping[str, int] | None = None,
        fixed: Mapping[str, int] | None = None,
    ) -> None:
        self.axes = axes
        self.round_to = round_to
        self.cost = CostModel(axes)
        layouts = [np.array(b.layouts, dtype=np.int64) for b in axes.bundles]
        if round_to > 1:
            layouts = [_rounded(layout, round_to) for layout in layouts]
        if multiples:
            layouts = [
                _in_blocks(layout, np.array([multiples.get(g, 1) for g in b.groups]))
                for b, layout in zip(axes.bundles, layouts, strict=True)
            ]
        if minimum:
            least = np.array([minimum.get(g.name, 0) for g in axes.groups], dtype=np.int64)
            layouts = [
                _at_least(layout, least[list(b.groups)])
                for b, layout in zip(axes.bundles, layouts, strict=True)
            ]
        for group, count in (fixed or {}).items():
            layouts = _fixed(axes, layouts, group, count)
        self._totals = [layout.sum(axis=1) for layout in layouts]
        self.bundles = len(layouts)
        self.level_counts = [len(t) for t in self._totals]
        self.sizes = np.array([t[-1] for t in self._totals], dtype=np.int64)
        self.base_macs = int(self.cost.macs(self.cost.widths))
        # The layouts of all groups one after another, so that many levels become widths at once.
        columns = [
            (g, b, layouts[b][:, i]) for b, k in enumerate(axes.bundles) for i, g in enumerate(k.groups)
        ]
        columns.sort(key=lambda column: column[0])
        self._bundle_of = np.array([b for _, b, _ in columns], dtype=np.int64)
        self._start = np.cumsum([0, *(len(c) for *_, c in columns)])[: len(columns)]
        self._columns = np.concatenate([np.zeros(0, dtype=np.int64), *(c for *_, c in columns)])

    def widths(self, levels: Levels) -> Widths:
        """Kept units of each group for a level of each bundle: (..., bundles) -> (..., groups)."""
        result: Widths = self._columns[self._start + np.asarray(levels)[..., self._bundle_of]]
        return result

    def levels(self, ratios: Ratios) -> Levels:
        """The widest levels whose share of units is at most the ratios (at least the narrowest)."""
        given = np.asarray(ratios, dtype=np.float64)
        result = np.zeros(given.shape, dtype=np.int64)
        for bundle, totals in enumerate(self._totals):
            found = np.searchsorted(totals, given[..., bundle] * totals[-1] + 1e-9, side="right")
            result[..., bundle] = np.maximum(0, found - 1)
        return result

    def ratios(self, levels: Levels) -> NDArray[np.float64]:
        """The share of units that each bundle keeps, for a level of each: (bundles,)."""
        return np.array(
            [t[level] / t[-1] for t, level in zip(self._totals, levels, strict=True)], dtype=np.float64
        )

    @cached_property
    def narrowest(self) -> Levels:
        """The lowest level of each bundle: (bundles,)."""
        return np.zeros(self.bundles, dtype=np.int64)

    @cached_property
    def widest(self) -> Levels:
        """The highest level of each bundle, which is the whole program where nothing is fixed: (bundles,)."""
        return np.array(self.level_counts, dtype=np.int64) - 1

    def macs(self, levels: Levels) -> int:
        """MACs for one record at a level of each bundle."""
        return int(self.cost.macs(self.widths(levels)))

    @cached_property
    def lowest_macs(self) -> int:
        """The fewest MACs that any widths reach."""
        return self.macs(self.narrowest)


def _rounded(layouts: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    """The layouts whose groups all keep multiples, or all of their units; the widest one always."""
    good = ((layouts % multiple == 0) | (layouts == layouts[-1])).all(axis=1)
    result: NDArray[np.int64] = layouts[good]
    return result


def _in_blocks(layouts: NDArray[np.int64], multiples: NDArray[np.int64]) -> NDArray[np.int64]:
    """The layouts whose groups keep multiples, less than one, or as much as the widest one, which stays."""
    good = (layouts % multiples == 0) | (layouts < multiples) | (layouts == layouts[-1])
    result: NDArray[np.int64] = layouts[good.all(axis=1)]
    return result


def _at_least(layouts: NDArray[np.int64], least: NDArray[np.int64]) -> NDArray[np.int64]:
    """The layouts that keep no less than asked for; the widest one always."""
    good = [bool((row >= least).all()) for row in layouts[:-1]] + [True]
    result: NDArray[np.int64] = layouts[np.array(good)]
    return result


def _fixed(axes: Axes, layouts: list[NDArray[np.int64]], name: str, count: int) -> list[NDArray[np.int64]]:
    """The layouts, of one bundle only those that keep so many units of a group.

    Raises:
        PlanError: there is none: what is tied to the group leaves no such width.
    """
    group = next(i for i, g in enumerate(axes.groups) if g.name == name)
    index = next(i for i, b in enumerate(axes.bundles) if group in b.groups)
    bundle = axes.bundles[index]
    column = bundle.groups.index(group)
    # Of all widths: a rounding may have left out the one that is wanted.
    found = np.array([row for row in bundle.layouts if row[column] == count], dtype=np.int64)
    if not len(found):
        raise PlanError(f"{name} cannot keep {count} units: the channels that are tied to it do not fit")
    return [*layouts[:index], found, *layouts[index + 1 :]]
