"""Growth: the exponent with which a figure grows over length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Growth:
    """A power law ``value ~ length ** exponent``, fitted by least squares on logarithms.

    Attributes:
        exponent: 1 is linear, 2 quadratic.
        error: standard error of the exponent; 0 for two points.
        tail: exponent over the upper half of the lengths (two at the least), where constant costs no longer
            hide how the figure grows.
        points: that were fitted.
    """

    exponent: float
    error: float
    tail: float
    points: int


def growth(lengths: Sequence[float], values: Sequence[float]) -> Growth | None:
    """Fit a power law.

    Args:
        lengths: positive.
        values: one for each length; those that are not positive are left out.

    Returns:
        The fit, or None where fewer than two different lengths are left.
    """
    pairs = sorted((n, v) for n, v in zip(lengths, values, strict=True) if n > 0 and v > 0)
    if len({n for n, _ in pairs}) < 2:
        return None
    x, y = np.log(np.array(pairs)).T
    exponent, error = _slope(x, y)
    half = max(2, math.ceil(len(pairs) / 2))
    tail = _slope(x[-half:], y[-half:])[0] if len(set(x[-half:])) > 1 else exponent
    return Growth(exponent, error, tail, len(pairs))


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    residual = y - y.mean() - slope * centred
    free = len(x) - 2
    return slope, math.sqrt(float(residual @ residual) / free / spread) if free else 0.0
