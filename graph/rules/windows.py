"""Rules of windows over the last dimensions: pooling, resampling, unfolding."""

from __future__ import annotations

import math

import numpy as np

from graph.labels import Pass
from graph.program import Node
from graph.rules.registry import rule
from graph.rules.statements import carry, meet, pin_dims, pin_operands


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
    "upsample_linear1d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "max_pool3d_with_indices",
)  # fmt: skip
def pooling(run: Pass, node: Node) -> None:
    """Windows over the last dimensions; batch and channels pass."""
    x = node.args[0]
    count = int(next(c for c in node.base if c.isdigit()))  # the 2 of max_pool2d
    first = len(run.size(x)) - count
    pin_dims(run, node, x, "pooled over", *range(first))
    carry(run, node, x, *range(first, first + count))


@rule("max_unpool2d", "max_unpool3d")
def unpooling(run: Pass, node: Node) -> None:
    """Numbers go where the positions of a pooling point to, within each channel."""
    rank = len(run.full[node.name].shape)
    first = rank - int(node.base[-2])
    for ref in run.operands(node):
        pin_dims(run, node, ref, "pooled over", *range(first))
    for dim in range(first):
        meet(run, node, dim, rank, [(r, dim) for r in run.operands(node) if run.size(r)[dim] > 1])


@rule("affine_grid_generator")
def grid(run: Pass, node: Node) -> None:
    """Coordinates: all of them stay."""
    pin_operands(run, node, f"coordinates in {node.op}")


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sampling(run: Pass, node: Node) -> None:
    """Channels pass; where they are sampled does not depend on them."""
    x, grid = node.args[:2]
    pin_dims(run, node, x, "sampled over", 1)
    pin_dims(run, node, grid, "names positions")
    labels = run.along(x, 1, node)
    if labels is not None:
        run.put(node.name, 1, labels)


@rule("im2col")
def im2col(run: Pass, node: Node) -> None:
    """Each channel becomes one channel for each element of the window."""
    x = node.args[0]
    pin_dims(run, node, x, "unfolded over", 1)
    labels = run.along(x, 1, node)
    if labels is not None:
        run.put(node.name, 1, np.repeat(labels, math.prod(node.args[1])))


@rule("col2im")
def col2im(run: Pass, node: Node) -> None:
    """The elements of the window of each channel become one channel."""
    x, window = node.args[0], math.prod(node.args[2])
    pin_dims(run, node, x, "folded over", 1)
    labels = run.along(x, 1, node)
    if labels is not None:
        rows = labels.reshape(-1, window)
        run.equate(rows, rows[:, :1], node)
        run.put(node.name, 1, rows[:, 0])
