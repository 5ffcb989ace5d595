"""Replay: the rules once more, over the program without the removed channels.

Labels are now the classes that remain, in the order in which they stand. Where labels enter a weight, the
weight is to be gathered in the order in which they arrive; where two values meet, their labels must be the
same ones in the same order. So a channel shuffle, a concatenation or a flatten needs no case here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from graph.channels import Axes
from graph.groups import Site
from graph.labels import NOTHING, Field, Labels, Pass
from graph.movement import moved_labels, translated
from graph.program import Node
from graph.resize import SizeError, run_resized


class Replay(Pass):
    """The pass over the smaller program.

    Args:
        axes: of the whole program.
        keep: for each class whether it stays, completed by ``Axes.closed``.
        orders: for dimensions of tensors whose channels stand in another order than the old one, that order.
    """

    def __init__(self, axes: Axes, keep: NDArray[np.bool_], orders: Mapping[tuple[str, int], Labels]) -> None:
        super().__init__(axes.program, axes.shapes)
        self.axes = axes
        self.keep = keep
        self.orders = orders
        self.sources: dict[tuple[str, int], Labels] = {}
        self.conflict: tuple[tuple[str, int], Labels] | None = None
        self._remaining: dict[tuple[str, int], Labels] = {}

    def remaining(self, value: str, dim: int) -> Labels:
        """The labels of the whole program's dimension that remain."""
        key = (value, dim)
        if key not in self._remaining:
            self._remaining[key] = self.axes.remaining(value, dim, self.keep)
        return self._remaining[key]

    # Lengths of the smaller program

    def length(self, result: str, dim: int) -> int | None:
        """How many of the whole program's labels remain; every row must have equally many."""
        if dim not in self.axes.fields.get(result, {}):
            return None
        return int(self.remaining(result, dim).shape[dim])

    def before(self, value: str, dim: int, position: int) -> int:
        """The kept labels among the first ones."""
        rows = self.keep[self.axes.fields[value][dim].rows]
        full = int(self.remaining(value, dim).shape[dim])
        return int(next(row for row in rows if row.sum() == full)[:position].sum())

    def padding(self, result: str, dim: int, left: int) -> tuple[int, int]:
        """The kept ones among the positions that padding made, on each side."""
        made = self.axes.made[result, dim]
        kept = self.keep[self.axes.fields[result][dim].rows[0]] & made
        return int(kept[:left].sum()), int(kept[left:].sum())

    def check(self, node: Node) -> None:
        """Every labelled dimension has its remaining length, every other one its old length."""
        for name in self.results(node):
            now = self.now.get(name)
            if not isinstance(now, Tensor):
                continue
            for dim, size in enumerate(now.shape):
                expected = self.length(name, dim)
                if size != (self.full[name].shape[dim] if expected is None else expected):
                    raise ValueError(f"dimension {dim} of {name} would have {size} elements")

    # What the rules say

    @override
    def source(self, tensor: Node, dim: int) -> Labels:
        labels: Labels = self.axes.fields[tensor.name][dim].rows[0]
        kept = self.orders.get((tensor.name, dim), labels[self.keep[labels]])
        self.sources[tensor.name, dim] = kept
        return kept

    @override
    def create(self, name: str, dim: int) -> None:
        if dim in self.axes.fields.get(name, {}):
            self.put(name, dim, self.remaining(name, dim))

    @override
    def equate(self, a: Labels, b: Labels, node: Node) -> None:
        wide_a, wide_b = np.broadcast_arrays(a, b)
        if not np.array_equal(wide_a, wide_b):
            self.conflict = self._reordered(b.ravel(), a.ravel()) or self._reordered(a.ravel(), b.ravel())
            raise ValueError("channels meet in different orders")

    def _reordered(self, labels: Labels, wanted: Labels) -> tuple[tuple[str, int], Labels] | None:
        """The latest tensor that makes these labels and could make them in the wanted order instead."""
        if np.array_equal(np.sort(labels), np.sort(wanted)):
            for place, made in reversed(self.sources.items()):
                if (
                    place not in self.orders
                    and np.array_equal(made, labels)
                    and self._may(*place, made, wanted)
                ):
                    return place, wanted
        return None

    def _may(self, name: str, dim: int, made: Labels, wanted: Labels) -> bool:
        """Whether a tensor can hold its channels in another order: those of a group stay within it."""
        fields = self.axes.fields[name]
        own = fields[dim].rows[0]
        for other, found in fields.items():
            if other != dim and found.labels.shape[dim] > 1:
                group = {int(label): row.tobytes() for label, row in zip(own, found.rows, strict=True)}
                if any(group[int(a)] != group[int(b)] for a, b in zip(made, wanted, strict=True)):
                    return False
        return True

    @override
    def pin(self, labels: Labels, reason: str, node: Node) -> None:
        pass  # the plan was made from what inference found pinned

    @override
    def balance(self, rows: Labels, node: Node) -> None:
        pass  # the reshape into rows has succeeded

    @override
    def choose(self, labels: Labels, count: int, node: Node) -> None:
        pass  # the layouts of a bundle hold enough of them

    @override
    def leave(self, labels: Labels, count: int, node: Node) -> None:
        pass  # likewise

    @override
    def consume(self, site: Site) -> None:
        pass

    @override
    def unsupported(self, node: Node) -> None:
        pass

    @override
    def move(self, node: Node) -> None:
        steps = self.axes.moves.get(node.name, ())
        made = {name: frozenset(d for of, d in self.axes.made if of == name) for name in self.results(node)}
        now = moved_labels(self, node, made)
        for step in steps:
            entering = [now[step.result, d] for d in step.sources if (step.result, d) in now]
            for dim in step.targets:
                expected = self.axes.fields.get(step.result, {}).get(dim)
                if expected is None:
                    continue
                if len(entering) < len(step.sources):  # labels that turned out to be fixed
                    labels = self.remaining(step.result, dim)
                    self.fields.setdefault(step.result, {})[dim] = Field(dim, labels)
                elif len(step.sources) == len(step.targets) == 1:
                    self._settle(step.result, dim, entering[0])
                else:
                    found = translated(step.entering, expected.labels, tuple(entering))
                    self._settle(step.result, dim, found)

    def _settle(self, name: str, dim: int, out: Labels) -> None:
        """Store the moved labels of a result, after a check that they are the expected ones."""
        whole, expected = self.axes.fields[name][dim], self.remaining(name, dim)
        for axis, size in enumerate(whole.labels.shape):
            if size == 1 and out.shape[axis] > 1:
                out = out.max(axis=axis, keepdims=True)
        if (name, dim) in self.axes.made:
            made = whole.rows[0][self.axes.made[name, dim]]
            moved = np.moveaxis(out.copy(), dim, -1)
            hole = (moved == NOTHING).reshape(-1, moved.shape[-1]).all(axis=0)
            moved[..., hole] = made[self.keep[made]]
            out = np.moveaxis(moved, -1, dim)
        if all(o in (1, e) for o, e in zip(out.shape, expected.shape, strict=True)):
            out = np.broadcast_to(out, expected.shape)  # what remains may vary less than the whole did
        if not np.array_equal(np.sort(out.ravel()), np.sort(expected.ravel())):
            raise ValueError(f"{name} would hold other channels than it must")
        self.fields.setdefault(name, {})[dim] = Field(dim, out)

    @override
    def put(self, name: str, dim: int, labels: Labels) -> None:
        # A dimension may have shrunk to one channel, but it is still the dimension that the labels lie along.
        if dim in self.axes.fields.get(name, {}):
            super().put(name, dim, labels)


def replay(axes: Axes, keep: NDArray[np.bool_]) -> tuple[Replay, tuple[Node, ...]]:
    """Run the rules over the smaller program.

    A tensor keeps its channels in their old order. Where they meet channels that a shuffle has put into
    another one, the tensor that came last is told to hold them in that order, and the pass starts again.

    Args:
        axes: of the whole program.
        keep: for each class whether it stays.

    Returns:
        The pass, whose ``fields`` say what remains of each tensor, and the nodes of the smaller program.

    Raises:
        SizeError: channels meet in different orders, and no layer can be told otherwise.
    """
    orders: dict[tuple[str, int], Labels] = {}
    keep = axes.closed(keep)
    while True:
        run = Replay(axes, keep, orders)
        try:
            return run, run_resized(run, run)
        except SizeError:
            if run.conflict is None:
                raise
            place, order = run.conflict
            orders = {**orders, place: order}
