"""Slicing: surgery for a search, which cuts thousands of plans out of one program.

``prune.surgery`` runs the rules anew for each plan, because a view that splits channels into rows, or a roll,
may bring what remains into another order. Where no dimension is split into rows and nothing else reorders,
which slices a plan takes is read off the labels, and only the operators that name sizes are looked at again.
Other programs are cut by surgery itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.channels import Axes
from graph.labels import Field
from graph.program import TENSOR, Node, Program
from graph.replay import Replay, replay
from graph.resize import names_sizes, resized
from prune.surgery import cut, positions

# Which channels of the whole program a dimension of a value keeps, in the smaller one's order; None: all.
Kept = Callable[[str, int], NDArray[np.int64] | None]
# Moving operators after which the channels that remain stand in the order in which they stood before
_ORDERLY = {
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "expand"),
    *("cat", "split", "split_with_sizes", "chunk", "slice", "narrow", "pad", "constant_pad_nd", "flip"),
}


class Slicer:
    """Cuts plans out of one program.

    Args:
        axes: of the whole program.

    Attributes:
        direct: whether slices are read off the labels, without a run of the rules.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        by_name = {n.name: n for n in axes.program.nodes}
        self.direct = all(_single(f) for fields in axes.fields.values() for f in fields.values()) and all(
            by_name[name].base in _ORDERLY for name in axes.moves
        )
        used = {str(n.args[0]) for n in axes.program.nodes if n.op == TENSOR}
        self._sliced = {
            name: [(dim, field.labels.ravel()) for dim, field in sorted(fields.items())]
            for name, fields in axes.weights.items()
            if name in used
        }
        self._named = [i for i, node in enumerate(axes.program.nodes) if names_sizes(node)]

    def __call__(self, keep: NDArray[np.bool_]) -> Program:
        """The program without the classes that ``keep`` leaves out (shape: classes).

        Raises:
            PlanError: the channels that remain do not fit each other.
        """
        if not self.direct:
            return cut(self.axes, keep)
        keep = self.axes.closed(keep)
        program = self.axes.program
        tensors = dict(program.tensors)
        for name, dims in self._sliced.items():
            tensors[name] = _taken(tensors[name], dims, keep)
        return replace(program, nodes=self.nodes(keep), tensors=tensors)

    def kept(self, keep: NDArray[np.bool_]) -> Kept:
        """Which channels of the whole program a dimension of a value then has, in their order."""
        keep = self.axes.closed(keep)
        whole = self.axes.fields
        remaining = None if self.direct else replay(self.axes, keep)[0].fields

        def kept(value: str, dim: int) -> NDArray[np.int64] | None:
            if dim not in whole.get(value, {}):
                return None
            labels = whole[value][dim].labels.ravel()
            if remaining is None:
                return np.flatnonzero(keep[labels])
            return positions(labels, remaining[value][dim].labels.ravel())

        return kept

    def nodes(self, keep: NDArray[np.bool_]) -> tuple[Node, ...]:
        """The nodes with the sizes that the smaller program has, where its channels keep their order.

        Args:
            keep: for each class whether it stays, completed by ``Axes.closed``.
        """
        nodes = list(self.axes.program.nodes)
        run = Replay(self.axes, keep, {})
        run.fields = {name: dict(fields) for name, fields in self.axes.fields.items()}
        for index in self._named:
            node = nodes[index]
            run.now = {}
            for ref in run.operands(node):
                shape = list(run.size(ref))
                for dim in run.fields.get(ref.name, {}):
                    shape[dim] = int(run.remaining(ref.name, dim).shape[dim])
                run.now[ref.name] = SimpleNamespace(shape=tuple(shape))
            nodes[index] = resized(node, run, run)
        return tuple(nodes)


def _single(field: Field) -> bool:
    """Whether the labels along a dimension are the same everywhere."""
    return int(field.labels.size) == int(field.labels.shape[field.dim])


def _taken(tensor: Tensor, dims: list[tuple[int, NDArray[np.int64]]], keep: NDArray[np.bool_]) -> Tensor:
    for dim, labels in dims:
        stays = keep[labels]
        if not stays.all():
            places = torch.from_numpy(np.flatnonzero(stays))
            tensor = tensor.index_select(dim, places.to(tensor.device))
    return tensor.detach()
