"""Inference: the pass that gives every prunable index a label and records which labels are equal."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from typing_extensions import override

from graph import rules
from graph.groups import Site
from graph.labels import FIXED, NOTHING, Field, Labels, Pass, run_on_labels, spread
from graph.program import TENSOR, Node, Program

# Operators that hand a labelled dimension on only if its channels stay where they are: their arguments
# name positions along it.
_POSITIONAL = {"roll", "flip", "repeat", "select", "pixel_shuffle", "pixel_unshuffle", "repeat_interleave",
               "channel_shuffle", "unbind"}  # fmt: skip


class Inference(Pass):
    """The pass that invents labels and records what the rules say of them."""

    def __init__(self, program: Program, full: Mapping[str, Any]) -> None:
        super().__init__(program, full)
        self.count = 1  # label 0 is FIXED
        self.origins: list[tuple[int, str, int]] = []  # (first label, tensor or node, dim)
        self.pairs: list[tuple[Labels, Labels]] = []
        self.pins: list[tuple[Labels, str]] = []
        self.balanced: list[tuple[str, Labels]] = []
        self.sites: list[Site] = []
        self.missing: Counter[str] = Counter()
        self.moves: dict[tuple[str, int], int] = {}
        self.made: dict[tuple[str, int], NDArray[np.bool_]] = {}

    def invent(self, name: str, dim: int, count: int) -> Labels:
        """``count`` labels that nothing else carries yet."""
        self.origins.append((self.count, name, dim))
        labels = np.arange(self.count, self.count + count, dtype=np.int64)
        self.count += count
        return labels

    def ranges(self) -> list[tuple[int, str, int, int]]:
        """For each invention: its first label, whom it was for, the dimension, and the end of its labels."""
        ends = [start for start, _, _ in self.origins[1:]] + [self.count]
        return [(*origin, end) for origin, end in zip(self.origins, ends, strict=True)]

    @override
    def source(self, tensor: Node, dim: int) -> Labels:
        return self.invent(str(tensor.args[0]), dim, self.full[tensor.name].shape[dim])

    @override
    def equate(self, a: Labels, b: Labels, node: Node) -> None:
        if a is not b:
            wide_a, wide_b = np.broadcast_arrays(a, b)
            self.pairs.append((wide_a.ravel(), wide_b.ravel()))

    @override
    def pin(self, labels: Labels, reason: str, node: Node) -> None:
        self.pins.append((np.unique(labels), reason))

    @override
    def balance(self, rows: Labels, node: Node) -> None:
        if len(rows) > 1:
            self.balanced.append((f"{node.name}/{len(self.balanced_at(node))}", rows))

    def balanced_at(self, node: Node) -> list[Labels]:
        """The balanced rows recorded for a node so far."""
        return [rows for key, rows in self.balanced if key.rpartition("/")[0] == node.name]

    @override
    def contract(self, node: Node, operand: int, dim: int, weight: Node | None, weight_dim: int) -> None:
        name = str(weight.args[0]) if weight is not None and weight.op == TENSOR else None
        value = node.args[operand].name
        self.sites.append(Site(node.name, operand, value, dim, name, weight_dim))

    @override
    def unsupported(self, node: Node) -> None:
        entering = [f.labels for r in self.operands(node) for f in self.fields.get(r.name, {}).values()]
        self.missing[node.op] += sum(len(np.unique(labels)) for labels in entering)

    @override
    def move(self, node: Node) -> None:
        operands = self.operands(node)
        for dim in sorted({d for r in operands for d in self.fields.get(r.name, {})}):
            self._move_along(node, [r.name for r in operands], dim)

    def _move_along(self, node: Node, operands: list[str], dim: int) -> None:
        """Follow the labels of one dimension of the operands into the results."""
        inputs, positions = {}, {}
        for name in operands:
            shape = tuple(self.now[name].shape)
            found = self.fields.get(name, {}).get(dim)
            if found is not None:
                inputs[name] = spread(found, shape)
                line = torch.arange(shape[dim]).reshape([-1 if d == dim else 1 for d in range(len(shape))])
                positions[name] = line.expand(shape)
            else:
                inputs[name] = torch.full(shape, FIXED, dtype=torch.int64)
                positions[name] = torch.full(shape, NOTHING, dtype=torch.int64)
        outs = run_on_labels(node, self.now, inputs)
        lines = run_on_labels(node, self.now, positions)
        for name, out, line in zip(self.results(node), outs, lines, strict=True):
            owner, array = _owner(out.numpy(), line.numpy())
            if owner is None:
                for r in operands:
                    if dim in self.fields.get(r, {}) and not bool((out == FIXED).all()):
                        self.pin(self.fields[r][dim].labels, f"single channel taken by {node.op}", node)
                continue
            array = array.copy()
            if (array == NOTHING).any():
                mask = np.moveaxis(array == NOTHING, owner, -1).reshape(-1, array.shape[owner]).all(axis=0)
                self.made[name, owner] = mask
                array = np.moveaxis(array, owner, -1)
                array[..., mask] = self.invent(name, owner, int(mask.sum()))
                array = np.moveaxis(array, -1, owner)
            if (other := self.fields.get(name, {}).get(owner)) is not None:
                reason = f"merged with another prunable dimension by {node.op}"
                self.pin(np.concatenate([other.labels.ravel(), array.ravel()]), reason, node)
            self.moves[name, owner] = dim
            if self.full[name].shape[owner] > 1:
                self.fields.setdefault(name, {})[owner] = Field(owner, array)
            if array.size > array.shape[owner]:
                self.balance(Field(owner, array).rows, node)
            if _positional(node) and not self._in_place(operands[0], dim, array.ravel()):
                self.pin(array, f"{node.op} names positions among them", node)

    def _in_place(self, operand: str, dim: int, labels: Labels) -> bool:
        before = self.fields[operand][dim].labels.ravel()
        return len(before) == len(labels) and bool((before == labels).all())


def _positional(node: Node) -> bool:
    """Whether a moving operator's arguments name positions that do not follow when channels go."""
    if node.base == "slice":
        return int(node.arg(4, "step", 1)) != 1
    if node.base in ("pad", "constant_pad_nd"):
        return any(amount < 0 for amount in node.args[1]) or node.arg(2, "mode", "constant") not in (
            "constant", 0, 0.0)  # fmt: skip
    return node.base in _POSITIONAL


def _owner(out: Labels, line: Labels) -> tuple[int | None, Labels]:
    """The dimension along which neighbouring labels were neighbours, and the labels without the others.

    Args:
        out: labels that an operator moved.
        line: the position of each label along its old dimension, moved likewise.

    Returns:
        The dimension (None where the labels do not vary), and the labels with size 1 in each dimension
        that they do not depend on.
    """
    for d in range(out.ndim):  # expanded dimensions cost nothing to tell
        if out.strides[d] == 0 == line.strides[d]:
            out, line = out.take([0], axis=d), line.take([0], axis=d)
    spanned: list[int] = []
    for d in sorted(range(out.ndim), key=lambda d: -out.shape[d]):
        if out.shape[d] < 2:
            continue
        flat = out.max(axis=d, keepdims=True)
        if ((out == flat) | (out == NOTHING)).all():
            out, line = flat, line.max(axis=d, keepdims=True)
        else:
            spanned.append(d)
    steps: dict[int, float] = {}
    for d in spanned:
        head, tail = np.moveaxis(line, d, 0)[:-1], np.moveaxis(line, d, 0)[1:]
        known = (head != NOTHING) & (tail != NOTHING)
        steps[d] = float(np.median(np.abs(head - tail)[known])) or math.inf if known.any() else math.inf
    return min(spanned, key=lambda d: steps[d]) if spanned else None, out


def run_rules(run: Pass, program: Program) -> None:
    """Apply the rules of a program's nodes in order.

    A dimension of a parameter gets its labels from the first operator that knows of them. Whoever read the
    parameter before that took all of it, so those labels must stay.
    """
    readers: list[tuple[Node, str, frozenset[int]]] = []
    for node in program.nodes:
        if node.op not in ("input", TENSOR):
            rules.apply(run, node)
            for ref in run.operands(node):
                if run.is_tensor(ref):
                    readers.append((node, ref.name, frozenset(run.fields.get(ref.name, {}))))
    for node, name, known in readers:
        for dim, found in run.fields.get(name, {}).items():
            if dim not in known:
                run.pin(found.labels, f"taken whole by {node.op}", node)


@dataclass(frozen=True)
class Solution:
    """The closed statements of an inference.

    Attributes:
        classes: the class of each label.
        count: how many classes there are.
        fields: the fields with classes in place of labels.
        balanced: the balanced rows, likewise.
        prints: for each class a hash of all the places where it lies.
        origins: for each class the tensor or value that its first label was invented for.
    """

    classes: Labels
    count: int
    fields: Mapping[str, Mapping[int, Field]]
    balanced: list[tuple[str, Labels]]
    prints: NDArray[np.uint64]
    origins: list[str]


def solve(run: Inference) -> Solution:
    """Close the recorded statements."""
    classes, count = _classes(run)
    fields = {
        name: {dim: Field(dim, classes[f.labels]) for dim, f in found.items()}
        for name, found in run.fields.items()
    }
    balanced = [(key, classes[rows]) for key, rows in run.balanced]
    prints = footprints(fields, balanced, count, skip={n.name for n in run.program.nodes if n.op == TENSOR})
    first = np.zeros(count, dtype=np.int64)
    first[classes[::-1]] = np.arange(len(classes))[::-1]
    starts = np.array([start for start, _, _ in run.origins] or [0])
    origins = ["" if i == 0 else run.origins[np.searchsorted(starts, f, side="right") - 1][1]
               for i, f in enumerate(first)]  # fmt: skip
    return Solution(classes, count, fields, balanced, prints, origins)


def _classes(run: Inference) -> tuple[Labels, int]:
    """The class of each label, numbered by first appearance; everything pinned is class 0."""
    pins = [np.stack([p, np.zeros_like(p)]) for p, _ in run.pins]
    pairs = np.concatenate([np.stack(p) for p in run.pairs] + pins + [np.zeros((2, 1), np.int64)], axis=1)
    ones = np.ones(pairs.shape[1], dtype=np.int8)
    graph = coo_array((ones, (pairs[0], pairs[1])), shape=(run.count, run.count))
    _, component = connected_components(graph, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse], len(first)


def footprints(
    fields: Mapping[str, Mapping[int, Field]],
    balanced: list[tuple[str, Labels]],
    count: int,
    skip: set[str],
) -> NDArray[np.uint64]:
    """A hash for each class of all the places where it lies: equal hashes are interchangeable classes."""
    prints = np.zeros(count, dtype=np.uint64)
    for name, found in fields.items():
        for dim, f in found.items():
            if name not in skip or f.labels.size == f.labels.shape[dim]:
                np.add.at(prints, f.labels.ravel(), _key(f"{name}[{dim}]"))
    for key, rows in balanced:
        for index, row in enumerate(rows):
            np.add.at(prints, row, _key(f"{key}#{index}"))
    return prints


def _key(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
