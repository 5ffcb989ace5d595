"""The latency model: how long any choice of widths takes on this machine, interpolated from a table.

Each operator that takes time is looked up in a table of single operators, measured at four widths for each
of its two dimensions, made monotone and interpolated linearly. Their sum tells how plans compare; what a
whole program takes, fused and laid out as onnxruntime sees fit, only measuring can tell. For convolutions
whose input channels are a multiple of 4 onnxruntime has a faster layout on many processors: others have a
table of their own.

That layout holds channels in blocks of 16 (AVX-512) or 8 (other x86), the last one filled up: widths between
two multiples cost what the upper one costs (MlasNchwcGetBlockSize in onnxruntime's mlas). So the prediction
has steps, and a projection onto a latency takes the channels that come free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.sizes import Kept, SizeTable
from profilers.latency import channel_block
from profilers.op_latency import OpTable, Point
from profilers.timed_ops import TimedOp, timed_ops

FRACTIONS = (0.125, 0.375, 0.6875, 1.0)  # of the whole width, at which operators are measured
_LANES = 4  # channels that onnxruntime's layout for convolutions wants a multiple of
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """Times of an operator over its two widths.

    Attributes:
        a: (points,) widths, ascending.
        b: (points,) the same of the second.
        ms: (points, points) milliseconds, ascending in both.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    ms: Floats


class LatencyModel:
    """Predicts the latency of any choice of widths.

    Args:
        axes: of the whole program.
        table: measures the operators, or remembers them.
        any_width: whether widths that are no multiple of 4 are asked for too; they are measured apart.
        on_progress: is told how many operators are measured, and of how many.

    Attributes:
        guessed: operators that have no kernel of their own, with how often each occurs.
        ops: what is priced, in the order of the program.
    """

    def __init__(
        self,
        axes: Axes,
        table: OpTable,
        *,
        any_width: bool = True,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.ops, self.guessed = timed_ops(axes)
        self._sizes = SizeTable(axes)
        self._a = self._sizes.products([op.a for op in self.ops])
        self._b = self._sizes.products([op.b for op in self.ops])
        self._times = self._sizes.products([op.times for op in self.ops])
        sizes = self._sizes.sizes(self._sizes.widths)
        self._whole_times = self._times(sizes)
        self._repeats = np.array([op.repeats for op in self.ops], dtype=np.float64)
        self._divisors = np.array([op.divisor for op in self.ops], dtype=np.float64)
        a = np.rint(self._a(sizes)).astype(int)
        b = np.rint(self._b(sizes) / self._divisors).astype(int)
        self._whole = (a.astype(np.float64), b.astype(np.float64))
        blocked = [op.kernel.kind in ("conv", "depthwise") for op in self.ops]
        self._blocks = np.where(blocked, channel_block(), 1).astype(np.float64)
        grids = [_grid(op, int(x), int(y), 0) for op, x, y in zip(self.ops, a, b, strict=True)]
        others = [
            _grid(op, int(x), int(y), 1) if any_width and op.kernel.kind == "conv" else None
            for op, x, y in zip(self.ops, a, b, strict=True)
        ]
        asked = [grid for pair in zip(grids, others, strict=True) for grid in pair if grid is not None]
        points: list[Point] = []
        for op, pair in zip(self.ops, zip(grids, others, strict=True), strict=True):
            for grid in pair:
                if grid is not None:
                    points += [(op.kernel, i, j) for i in grid[0] for j in grid[1]]
        assert len(points) == sum(len(x) * len(y) for x, y in asked)
        times = iter(table.milliseconds(points, on_progress))
        even: list[Surface] = []
        odd: list[Surface] = []
        for grid, other in zip(grids, others, strict=True):
            even.append(_surface(grid, times))
            odd.append(even[-1] if other is None else _surface(other, times))
        self._even, self._odd = _stacked(even), _stacked(odd)
        self._has_odd = np.array([other is not None for other in others], dtype=bool)

    def milliseconds_by_op(self, kept: Kept) -> Floats:
        """The time of each operator alone: (..., groups) -> (..., operators)."""
        sizes = self._sizes.sizes(kept)
        a, b = self._a(sizes), self._b(sizes) / self._divisors
        filled = [_filled_up(size, self._whole[i], self._blocks) for i, size in enumerate((a, b))]
        found = _interpolated(self._even, filled[0], filled[1])
        odd = self._has_odd & (np.rint(a).astype(np.int64) % _LANES != 0)
        if odd.any():
            found = np.where(odd, _interpolated(self._odd, a, b), found)
        times: Floats = found * self._repeats * self._times(sizes) / self._whole_times
        return times

    def milliseconds(self, kept: Kept) -> Floats:
        """Their sum: (..., groups) -> (...)."""
        total: Floats = self.milliseconds_by_op(kept).sum(axis=-1)
        return total


def _grid(op: TimedOp, a: int, b: int, less: int) -> tuple[list[int], list[int]]:
    """The widths at which an operator is measured; ``less`` 1 for such as are no multiple of anything."""
    second = _widths(b, 0) if op.b else [b]
    return _widths(a, less), second


def _widths(whole: int, less: int) -> list[int]:
    step = 16 if whole >= 64 else 8 if whole >= 32 else 4 if whole >= 8 else 1
    rounded = {min(whole, max(1, round(whole * f / step)) * step) for f in FRACTIONS} | {whole}
    if less and whole >= _LANES:
        rounded = {w - 1 if w % _LANES == 0 else w for w in rounded}
    return sorted(rounded)


def _surface(grid: tuple[Sequence[int], Sequence[int]], times: object) -> Surface:
    a, b = grid
    ms = np.array([[next(times) for _ in b] for _ in a], dtype=np.float64)  # type: ignore[call-overload]
    ms = np.maximum.accumulate(np.maximum.accumulate(ms, axis=0), axis=1)
    return Surface(np.array(a), np.array(b), ms)


@dataclass(frozen=True)
class _Stack:
    """The surfaces of all operators, filled up to equally many points: (operators, points, ...)."""

    a: Floats
    b: Floats
    ms: Floats


def _stacked(surfaces: Sequence[Surface]) -> _Stack:
    n = max(2, *(max(len(s.a), len(s.b)) for s in surfaces)) if surfaces else 2

    def knots(values: NDArray[np.int64]) -> Floats:
        beyond = values[-1] + np.arange(1, n - len(values) + 1)  # flat there
        return np.concatenate([values, beyond]).astype(np.float64)

    return _Stack(
        np.array([knots(s.a) for s in surfaces]).reshape(-1, n),
        np.array([knots(s.b) for s in surfaces]).reshape(-1, n),
        np.array(
            [np.pad(s.ms, ((0, n - len(s.a)), (0, n - len(s.b))), mode="edge") for s in surfaces]
        ).reshape(-1, n, n),
    )


def _interpolated(stack: _Stack, a: Floats, b: Floats) -> Floats:
    """Bilinear between the points; below the first one, proportional to how far it lies from nothing."""
    i, u = _cell(stack.a, a)
    j, v = _cell(stack.b, b)
    op = np.arange(stack.ms.shape[0])
    low = (1 - v) * stack.ms[op, i, j] + v * stack.ms[op, i, j + 1]
    high = (1 - v) * stack.ms[op, i + 1, j] + v * stack.ms[op, i + 1, j + 1]
    result: Floats = (1 - u) * low + u * high
    below = np.minimum(1.0, a / stack.a[:, 0]) * np.minimum(1.0, b / stack.b[:, 0])
    scaled: Floats = result * np.sqrt(below)
    return scaled


def _filled_up(size: Floats, whole: Floats, block: Floats) -> Floats:
    """Sizes up to full blocks, no longer than in the whole program: (..., operators)."""
    result: Floats = np.minimum(np.ceil(size / block - 1e-9) * block, np.maximum(whole, size))
    return result


def _cell(knots: Floats, width: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Between which points a width lies, and how far along: (operators, points), (..., operators)."""
    index = (width[..., None] >= knots[:, 1:-1]).sum(axis=-1)
    op = np.arange(len(knots))
    start, end = knots[op, index], knots[op, index + 1]
    return index, np.clip((width - start) / (end - start), 0.0, 1.0)
