"""Surgery: a plan becomes a smaller program.

The rules of the inference run once more, over the program without the removed channels. Where labels enter
a weight, the weight is gathered in the order in which they arrive; where two values meet, their labels must
be the same ones in the same order. So a channel shuffle, a concatenation or a flatten needs no case here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from graph.axes import Axes
from graph.errors import PlanError
from graph.labels import FIXED, NOTHING, Field, Labels, Pass, run_on_labels, spread
from graph.program import TENSOR, Node, Program
from graph.resize import SizeError, run_resized
from prune.plan import Plan


class Replay(Pass):
    """The pass over the smaller program: labels are the classes that remain, in the order they stand in."""

    def __init__(self, axes: Axes, keep: NDArray[np.bool_], orders: Mapping[str, Labels]) -> None:
        super().__init__(axes.program, axes.shapes)
        self.axes = axes
        self.keep = keep
        self.orders = orders
        self.sources: dict[str, Labels] = {}
        self.conflict: tuple[str, Labels] | None = None

    # Lengths of the smaller program

    def length(self, result: str, dim: int) -> int | None:
        """The kept labels of the whole program's dimension; every row must have equally many."""
        found = self.axes.fields.get(result, {}).get(dim)
        if found is None:
            return None
        counts = self.keep[found.rows].sum(axis=1)
        if (counts != counts[0]).any():
            raise ValueError(f"rows of {result} would keep {sorted(set(counts.tolist()))} channels")
        return int(counts[0])

    def before(self, value: str, dim: int, position: int) -> int:
        """The kept labels among the first ones."""
        return int(self.keep[self.axes.fields[value][dim].rows[0][:position]].sum())

    def padding(self, result: str, dim: int, left: int) -> tuple[int, int]:
        """The kept ones among the positions that padding made, on each side."""
        made = self.axes.made[result, dim]
        kept = self.keep[self.axes.fields[result][dim].rows[0]] & made
        return int(kept[:left].sum()), int(kept[left:].sum())

    # What the rules say

    @override
    def source(self, tensor: Node, dim: int) -> Labels:
        labels: Labels = self.axes.fields[tensor.name][dim].rows[0]
        kept: Labels = labels[self.keep[labels]]
        if dim == 0:
            kept = self.orders.get(tensor.name, kept)
            self.sources[tensor.name] = kept
        return kept

    @override
    def equate(self, a: Labels, b: Labels, node: Node) -> None:
        wide_a, wide_b = np.broadcast_arrays(a, b)
        if not np.array_equal(wide_a, wide_b):
            self.conflict = self._reordered(b.ravel(), a.ravel()) or self._reordered(a.ravel(), b.ravel())
            raise ValueError("channels meet in different orders")

    def _reordered(self, labels: Labels, wanted: Labels) -> tuple[str, Labels] | None:
        """The latest layer that makes these labels and could make them in the wanted order instead."""
        if np.array_equal(np.sort(labels), np.sort(wanted)):
            for name, made in reversed(self.sources.items()):
                if name not in self.orders and np.array_equal(made, labels):
                    return name, wanted
        return None

    @override
    def pin(self, labels: Labels, reason: str, node: Node) -> None:
        pass  # the plan was made from what inference found pinned

    @override
    def balance(self, rows: Labels, node: Node) -> None:
        pass  # the reshape into rows has succeeded

    @override
    def contract(self, node: Node, operand: int, dim: int, weight: Node | None, weight_dim: int) -> None:
        pass

    @override
    def unsupported(self, node: Node) -> None:
        pass

    @override
    def move(self, node: Node) -> None:
        operands = [r.name for r in self.operands(node)]
        single = not isinstance(self.full[node.name], (list, tuple))
        for (name, owner), dim in self.axes.moves.items():
            if name.partition(":")[0] != node.name:
                continue
            inputs = {}
            for operand in operands:
                shape = tuple(self.now[operand].shape)
                found = self.fields.get(operand, {}).get(dim)
                inputs[operand] = torch.full(shape, FIXED) if found is None else spread(found, shape)
            outs = run_on_labels(node, self.now, inputs)
            out = outs[0] if single else outs[int(name.rpartition(":")[2])]
            self._settle(name, owner, out.numpy())

    def _settle(self, name: str, owner: int, out: Labels) -> None:
        """Store the moved labels of a result, after a check that they are the expected ones."""
        whole = self.axes.fields.get(name, {}).get(owner)
        if whole is None:
            return
        for dim, size in enumerate(whole.labels.shape):
            if size == 1:
                out = out.max(axis=dim, keepdims=True)
        if (name, owner) in self.axes.made:
            made = whole.rows[0][self.axes.made[name, owner]]
            moved = np.moveaxis(out.copy(), owner, -1)
            moved[..., (moved == NOTHING).reshape(-1, moved.shape[-1]).all(axis=0)] = made[self.keep[made]]
            out = np.moveaxis(moved, -1, owner)
        expected = whole.labels[self.keep[whole.labels]]
        if not np.array_equal(np.sort(out.ravel()), np.sort(expected.ravel())):
            raise ValueError(f"{name} would hold other channels than it must")
        self.fields.setdefault(name, {})[owner] = Field(owner, out)

    @override
    def put(self, name: str, dim: int, labels: Labels) -> None:
        # A dimension may have shrunk to one channel, but it is still the dimension that the labels lie along.
        if dim in self.axes.fields.get(name, {}):
            super().put(name, dim, labels)


def prune_program(axes: Axes, plan: Plan) -> Program:
    """Remove the channels that a plan does not keep.

    Args:
        axes: of the whole program, which is left as it was.
        plan: made for these axes.

    Raises:
        PlanError: the plan belongs to another program, or keeps channels that leave uneven rows.
    """
    run, nodes = _replay(axes, plan.keep_mask(axes))
    tensors = dict(axes.program.tensors)
    for node in axes.program.nodes:
        if node.op == TENSOR and node.name in run.fields:
            name = str(node.args[0])
            tensors[name] = _gather(tensors[name], axes.weights[name], run.fields[node.name])
    return replace(axes.program, nodes=nodes, tensors=tensors)


def _replay(axes: Axes, keep: NDArray[np.bool_]) -> tuple[Replay, tuple[Node, ...]]:
    """Run the rules over the smaller program.

    A layer makes its kept channels in their old order. Where they meet channels that a shuffle has put into
    another one, the layer is told to make them in that order, and the pass starts again.

    Raises:
        PlanError: channels meet in different orders, and no layer can be told otherwise.
    """
    orders: dict[str, Labels] = {}
    while True:
        run = Replay(axes, keep, orders)
        try:
            return run, run_resized(run, run)
        except SizeError:
            if run.conflict is None:
                raise
            name, order = run.conflict
            orders = {**orders, name: order}


def _gather(tensor: Tensor, whole: Mapping[int, Field], kept: Mapping[int, Field]) -> Tensor:
    """Slice a tensor: each kept label takes the slice that carried it."""
    rows: dict[int, Labels] = {}
    # Dimensions with one row first; the others are looked up row by row of those.
    for dim in sorted(kept, key=lambda d: kept[d].labels.size):
        old, new = whole[dim], kept[dim]
        if old.labels.size == old.labels.shape[dim]:
            index = positions(old.labels.ravel(), new.rows[0])
            tensor = tensor.index_select(dim, torch.from_numpy(index))
            rows[dim] = index
        else:
            tensor = _gather_rows(tensor, dim, old, new, rows)
    return tensor.detach().clone()


def _gather_rows(tensor: Tensor, dim: int, old: Field, new: Field, rows: Mapping[int, Labels]) -> Tensor:
    """Slice one dimension where the labels depend on another one (weights of grouped convolutions)."""
    (other,) = (d for d in range(old.labels.ndim) if d != dim and old.labels.shape[d] > 1)
    before, after = old.rows, new.rows
    picked = rows[other] if other in rows else np.arange(len(before))
    index = np.stack([positions(before[p], row) for p, row in zip(picked, after, strict=True)])
    shape = [1] * tensor.dim()
    shape[other], shape[dim] = index.shape
    target = list(tensor.shape)
    target[dim] = index.shape[1]
    if other > dim:
        index = index.T
    return tensor.gather(dim, torch.from_numpy(index.copy()).reshape(shape).expand(target))


def positions(labels: Labels, wanted: Labels) -> NDArray[np.int64]:
    """Where each wanted label stands among the labels; the k-th occurrence is the k-th occurrence.

    Raises:
        PlanError: a wanted label is not there.
    """
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    wanted_order = np.argsort(wanted, kind="stable")
    sorted_wanted = wanted[wanted_order]
    first = np.searchsorted(sorted_wanted, sorted_wanted, side="left")
    occurrence = np.arange(len(wanted)) - first
    place = np.searchsorted(ordered, sorted_wanted, side="left") + occurrence
    if len(wanted) and (place.max() >= len(ordered) or (ordered[place] != sorted_wanted).any()):
        raise PlanError("a channel is wanted where the whole program has none")
    result = np.empty(len(wanted), dtype=np.int64)
    result[wanted_order] = order[place]
    return result
