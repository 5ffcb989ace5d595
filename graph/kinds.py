"""Kinds: what the units of a group are, read off how the network uses them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graph.groups import Kind
from graph.inference import Inference, Solution
from graph.program import TENSOR

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")


def kinds(run: Inference, solution: Solution, group_of: NDArray[np.int64], count: int) -> list[Kind]:
    """The kind of each group.

    A *head* is the outer and a *lane* the inner part of a split dimension that meets in a product of two
    activations; an *expert* is a slice of stacked weights that is not summed over; a *state* lies in the
    second dimension of a parameter that scales activations; a *residual* channel is added to by several
    layers; any other is *mlp* if linear layers make it, and a plain *channel* else.

    Args:
        run: the inference.
        solution: what it came to.
        group_of: for each class its group, -1 for those that are no unit.
        count: how many groups there are.
    """
    outer, inner = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for column, told in ((1, outer), (2, inner)):
        parts = group_of[solution.derived[:, column]]
        told[parts[parts >= 0]] = True
    batched, stacked, convolved, summed = (np.zeros(count, dtype=np.int64) for _ in range(4))
    adders: list[set[str]] = [set() for _ in range(count)]
    for node in run.program.nodes:
        if node.op == TENSOR:
            continue
        if node.base in _PRODUCTS:
            both = all(not run.is_tensor(r) for r in run.operands(node)[:2])
            for ref in run.operands(node):
                for f in solution.fields.get(ref.name, {}).values():
                    (batched if both else stacked)[_groups(f.labels, group_of)] += 1
        elif node.base in _CONVOLUTIONS:
            for f in solution.fields.get(node.name, {}).values():
                convolved[_groups(f.labels, group_of)] += 1
        elif node.base == "add":
            for f in solution.fields.get(node.name, {}).values():
                for group in _groups(f.labels, group_of):
                    adders[group].add(node.name)
    for site in run.sites:
        for f in [solution.fields[site.value][site.dim]]:
            summed[_groups(f.labels, group_of)] += site.fills == 0.0
    result: list[Kind] = []
    for index in range(count):
        if outer[index] and batched[index]:
            result.append("head")
        elif inner[index] and batched[index]:
            result.append("lane")
        elif stacked[index] and not summed[index]:
            result.append("expert")
        elif len(adders[index]) > 2 and summed[index] > 2:
            result.append("residual")
        elif convolved[index]:
            result.append("channel")
        else:
            result.append("mlp")
    return result


def _groups(labels: NDArray[np.int64], group_of: NDArray[np.int64]) -> NDArray[np.int64]:
    found = np.unique(group_of[labels])
    result: NDArray[np.int64] = found[found >= 0]
    return result
