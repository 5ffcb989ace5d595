"""The surrogate: which plans are worth scoring, told from those that were scored.

A Gaussian process over the logarithms of the keep ratios: a linear trend around the best plan, and what lies
near it (Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1). It learns
ranks, not scores, so that plans that fail altogether weigh no more than others. The constants are fixed,
since a hundred plans are few to fit them to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from prune.widths import Levels
from rl.book import Book

_LEARNED = 500  # plans that it learns from, the best ones: its cost grows with their cube
_NEAR = 0.2  # deviation of a log ratio within which plans are alike
_FAR = 0.5  # deviation of a log ratio at which the trend counts as much as what lies near
_NOISE = 0.3  # variance of ranks that ratios do not tell


def promise(book: Book, plans: Sequence[Levels]) -> NDArray[np.float64]:
    """How good each plan will probably turn out; higher is better, only the order means something.

    Args:
        book: with the plans that were scored, at least one.
        plans: each of (bundles,).

    Returns:
        (plans,).
    """
    known = [levels for _, levels in book.ranked[:_LEARNED]]
    scored, asked = _log_ratios(book, known), _log_ratios(book, plans)
    best, n = scored[0], scored.shape[1]
    targets = -np.log1p(np.arange(len(known)))  # logarithms of ranks
    targets = (targets - targets.mean()) / (targets.std() or 1.0)
    kernel = (
        RBF(_NEAR * np.sqrt(n))
        + ConstantKernel(1 / (_FAR**2 * n)) * DotProduct(0.0, "fixed")
        + WhiteKernel(_NOISE)
    )
    process = GaussianProcessRegressor(kernel, optimizer=None).fit(scored - best, targets)
    return np.asarray(process.predict(asked - best), dtype=np.float64)


def _log_ratios(book: Book, plans: Sequence[Levels]) -> NDArray[np.float64]:
    """Logarithms of the keep ratios: (plans, bundles)."""
    ratios = np.array([book.ratios(levels) for levels in plans])
    return np.asarray(np.log(np.maximum(0.01, ratios)), dtype=np.float64)
