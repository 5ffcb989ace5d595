"""Sizes: how long each dimension of a program is under any choice of widths, without building it.

The size of a dimension is linear in how many channels each group keeps, or a product of heads and lanes. So
the sizes of all dimensions, for many choices at once, are one small matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.labels import FIXED

Factor = tuple[str, int]  # (value, dimension)
Kept = Sequence[int] | NDArray[Any]  # (..., groups): how many units each group keeps


class Products:
    """Terms of a table of sizes, each a product of dimensions; made by ``SizeTable.products``.

    Args:
        coefficients: (terms,) the product of all sizes that do not vary.
        factors: (terms, longest) rows of the table of sizes, filled up with row 0, which is 1.
    """

    def __init__(self, coefficients: NDArray[np.float64], factors: NDArray[np.int64]) -> None:
        self.coefficients, self.factors = coefficients, factors

    def __call__(self, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., sizes) -> (..., terms)."""
        result: NDArray[np.float64] = self.coefficients * sizes[..., self.factors].prod(axis=-1)
        return result


class SizeTable:
    """The dimensions of a program whose sizes vary.

    Ask for all ``products`` first, then for ``sizes``.

    Attributes:
        widths: how many units each group of the whole program has.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.widths: NDArray[np.int64] = np.array([len(g.units) for g in axes.groups], dtype=np.int64)
        self._index: dict[Factor, int] = {}
        self._base: list[float] = [1.0]  # size 0 of the table stands for "no factor"
        self._slopes: list[NDArray[np.float64]] = [np.zeros(len(axes.groups))]
        self._pairs: dict[tuple[int, int], dict[int, float]] = {}  # (group, group): {size: coefficient}
        self._matrices: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]] | None = None
        self._parts = _parts(axes)

    def sizes(self, kept: Kept) -> NDArray[np.float64]:
        """The sizes that vary: (..., groups) -> (..., sizes)."""
        counts = np.asarray(kept, dtype=np.float64)
        if self._matrices is None:
            paired = np.zeros((len(self._pairs), len(self._base)))
            for row, found in zip(paired, self._pairs.values(), strict=True):
                row[list(found)] = list(found.values())
            groups = np.array(list(self._pairs), dtype=np.int64).reshape(-1, 2)
            self._matrices = np.stack(self._slopes, axis=1), paired, groups
        slopes, paired, groups = self._matrices
        sizes: NDArray[np.float64] = np.array(self._base) + counts @ slopes
        if len(groups):
            sizes += counts[..., groups].prod(axis=-1) @ paired
        return sizes

    def products(self, terms: Sequence[Sequence[Factor]]) -> Products:
        """Terms as constant coefficients and the sizes that vary."""
        coefficients = np.ones(len(terms))
        varying: list[list[int]] = []
        for row, term in enumerate(terms):
            varying.append([])
            for factor in term:
                index = self._size(factor)
                if index == 0:
                    coefficients[row] *= self.axes.shapes[factor[0]].shape[factor[1]]
                else:
                    varying[row].append(index)
        width = max((len(v) for v in varying), default=0)
        factors = np.zeros((len(terms), max(1, width)), dtype=np.int64)
        for row, indices in enumerate(varying):
            factors[row, : len(indices)] = indices
        return Products(coefficients, factors)

    def varies(self, factor: Factor) -> bool:
        """Whether the size of a dimension depends on the widths."""
        return self._size(factor) > 0

    def _size(self, factor: Factor) -> int:
        """The row of a dimension in the table of sizes, 0 where it does not vary."""
        name, dim = factor
        found = self.axes.fields.get(name, {}).get(dim)
        if found is None or not (self._parts[found.labels, 0] >= 0).any():
            return 0
        if factor not in self._index:
            rows = found.rows
            first, second = self._parts[rows, 0], self._parts[rows, 1]
            single = (first >= 0) & (second < 0)
            slopes = np.bincount(first[single], minlength=len(self.widths)) / len(rows)
            self._base.append(float((rows == FIXED).sum()) / len(rows))
            self._slopes.append(slopes / self.widths)
            index = self._index[factor] = len(self._base) - 1
            self._matrices = None
            both = np.stack([first[second >= 0], second[second >= 0]], axis=1)
            for (a, b), count in zip(*np.unique(both, axis=0, return_counts=True), strict=True):
                pairs = float(self.widths[a] * (self.widths[b] - (a == b)))  # of one group: with the others
                share = float(count) / len(rows) / pairs
                self._pairs.setdefault((int(a), int(b)), {})[index] = share
                if a == b:
                    self._slopes[-1][a] -= share
        return self._index[factor]


def _parts(axes: Axes) -> NDArray[np.int64]:
    """For each class its group, or the groups of its outer and inner part; -1 for what is fixed."""
    own = axes.group_of_class()
    result = np.full((axes.classes, 2), -1, dtype=np.int64)
    result[:, 0] = own
    result[axes.derived[:, 0], 0] = own[axes.derived[:, 1]]
    result[axes.derived[:, 0], 1] = own[axes.derived[:, 2]]
    return result
