"""Inference: the pass that gives every prunable index a label and records which labels are equal.

Where a view splits a dimension, each old label is the conjunction of an outer and an inner one (a head and a
lane); where dimensions merge, each pair makes one new label. These definitions are closed together with the
equalities, as terms are unified in a type checker: equal labels have equal parts, equal parts make equal
labels, and a label that is fixed has fixed parts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from typing_extensions import override

from graph import rules
from graph.groups import Site
from graph.labels import FIXED, NOTHING, Field, Labels, Pass
from graph.movement import Movement, movements
from graph.program import INPUT, TENSOR, Node, Program

_SPLITS = ("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")


class Inference(Pass):
    """The pass that invents labels and records what the rules say of them."""

    def __init__(self, program: Program, full: Mapping[str, Any]) -> None:
        super().__init__(program, full)
        self.count = 1  # label 0 is FIXED
        self.origins: list[tuple[int, str, int]] = []  # (first label, tensor or node, dim)
        self.pairs: list[tuple[Labels, Labels]] = []
        self.pins: list[tuple[Labels, str]] = []
        self.balanced: dict[bytes, tuple[str, Labels]] = {}
        self.even: list[Labels] = []  # rows that an operator counts: only single channels of them may go
        self.definitions: list[Labels] = []  # rows (label, outer, inner, how many outers, inners of one)
        self.chosen: list[tuple[Labels, int]] = []  # labels, and how many of them must stay
        self.least: list[tuple[Labels, int]] = []  # the same of channels that nobody picks
        self.sites: list[Site] = []
        self.missing: Counter[str] = Counter()
        self.moves: dict[str, tuple[Movement, ...]] = {}
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
    def create(self, name: str, dim: int) -> None:
        size = int(self.full[name].shape[dim])
        if size > 1:
            self.put(name, dim, self.invent(name, dim, size))

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
        self._count_rows(rows, node)
        self.even.append(rows)

    def _count_rows(self, rows: Labels, node: Node) -> None:
        if len(rows) > 1:
            key = rows.tobytes() + str(rows.shape).encode()
            self.balanced.setdefault(key, (f"{node.name}/{len(self.balanced)}", rows))

    @override
    def choose(self, labels: Labels, count: int, node: Node) -> None:
        self.chosen.append((labels, count))

    @override
    def leave(self, labels: Labels, count: int, node: Node) -> None:
        self.least.append((labels, count))

    @override
    def consume(self, site: Site) -> None:
        self.sites.append(site)

    @override
    def unsupported(self, node: Node) -> None:
        entering = [f.labels for r in self.operands(node) for f in self.fields.get(r.name, {}).values()]
        self.missing[node.op] += sum(len(np.unique(labels)) for labels in entering)

    @override
    def move(self, node: Node) -> None:
        steps = movements(self, node)
        self.moves[node.name] = tuple(steps)
        for step in steps:
            if not step.targets:
                reason = f"single channel taken by {node.op}"
                if node.base in _SPLITS:  # its sizes are rewritten, so that what lies around it may go
                    for labels in step.entering:
                        self.pin(labels[labels != NOTHING], reason, node)
                else:
                    self._pin_sources(node, step, reason)
                continue
            moved = step.entering[-1]
            for outer in reversed(step.entering[:-1]):
                moved = self.product(outer, moved, node)
            for dim in step.tied:
                first = np.take(moved, [0], axis=dim)
                self.equate(moved, first, node)
                moved = first
            if (moved == NOTHING).any():
                if len(step.targets) > 1 or len(step.sources) > 1:
                    self._pin_sources(node, step, f"padded and viewed by {node.op}")
                    continue
                moved = self._fill(step.result, step.targets[0], moved)
            self._factor(step, moved, node)

    def _pin_sources(self, node: Node, step: Movement, reason: str) -> None:
        for ref in self.operands(node):
            for dim in step.sources:
                found = self.fields.get(ref.name, {}).get(dim)
                if found is not None:
                    self.pin(found.labels, reason, node)

    def _fill(self, name: str, dim: int, labels: Labels) -> Labels:
        """Labels for what an operator made itself along a dimension, such as padding."""
        moved = np.moveaxis(labels.copy(), dim, -1)
        mask = (moved == NOTHING).reshape(-1, moved.shape[-1]).all(axis=0)
        self.made[name, dim] = mask
        moved[..., mask] = self.invent(name, dim, int(mask.sum()))
        moved[moved == NOTHING] = FIXED
        return np.moveaxis(moved, -1, dim)

    def product(self, outer: Labels, inner: Labels, node: Node) -> Labels:
        """The labels of elements that belong to an outer and an inner one."""
        outer, inner = np.broadcast_arrays(outer, inner)
        pairs = np.stack([outer.ravel(), inner.ravel()], axis=1)
        unique, index = np.unique(pairs, axis=0, return_inverse=True)
        labels = self.invent(node.name, -1, len(unique))
        sizes = np.array([len(np.unique(unique[:, 0])), 1])
        sizes[1] = max(1, len(unique) // sizes[0])
        self.definitions.append(np.column_stack([labels, unique, np.tile(sizes, (len(unique), 1))]))
        result: Labels = labels[index.ravel()].reshape(outer.shape)
        return result

    def _factor(self, step: Movement, labels: Labels, node: Node) -> None:
        """Put labels that span the targets, as outer and inner ones where there are several."""
        for index, dim in enumerate(step.targets[:-1]):
            later = step.targets[index + 1 :]
            shape = tuple(
                1 if d in (*later, *step.targets[:index]) else s for d, s in enumerate(labels.shape)
            )
            outer = self.invent(step.result, dim, int(np.prod(shape))).reshape(shape)
            inner = self.invent(step.result, later[0], labels.size).reshape(labels.shape)
            wide = np.broadcast_to(outer, labels.shape)
            rest = int(np.prod([labels.shape[d] for d in later]))
            sizes = np.tile([labels.shape[dim], rest], (labels.size, 1))
            self.definitions.append(np.column_stack([labels.ravel(), wide.ravel(), inner.ravel(), sizes]))
            self._set(step.result, dim, outer, node)
            labels = inner
        self._set(step.result, step.targets[-1], labels, node)

    def _set(self, name: str, dim: int, labels: Labels, node: Node) -> None:
        if self.full[name].shape[dim] > 1:
            self.fields.setdefault(name, {})[dim] = Field(dim, labels)
            if labels.size > labels.shape[dim]:
                self._count_rows(Field(dim, labels).rows, node)


def run_rules(run: Pass, program: Program) -> None:
    """Apply the rules of a program's nodes in order.

    A dimension of a parameter gets its labels from the first operator that knows of them. Whoever read the
    parameter before that took all of it, so those labels must stay.
    """
    readers: list[tuple[Node, str, frozenset[int]]] = []
    for node in program.nodes:
        if node.op not in (INPUT, TENSOR):
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
        derived: rows (class, outer, inner): the class stays where both of the others stay.
        fields: the fields with classes in place of labels.
        balanced: the balanced rows, likewise.
        prints: for each class a hash of all the places where it lies.
        origins: for each class the tensor or value that its first label was invented for.
    """

    classes: Labels
    count: int
    derived: Labels
    fields: Mapping[str, Mapping[int, Field]]
    balanced: list[tuple[str, Labels]]
    prints: NDArray[np.uint64]
    origins: list[str]


def solve(run: Inference) -> Solution:
    """Close the recorded statements."""
    classes, count, derived = _closed(run)
    fields = {
        name: {dim: Field(dim, _narrowed(classes[f.labels], dim)) for dim, f in found.items()}
        for name, found in run.fields.items()
    }
    balanced = [(key, classes[rows]) for key, rows in run.balanced.values()]
    tensors = {n.name for n in run.program.nodes if n.op == TENSOR}
    prints = footprints(fields, balanced, derived, count, skip=tensors)
    return Solution(classes, count, derived, fields, balanced, prints, _origins(run, classes, derived, count))


def _narrowed(labels: Labels, dim: int) -> Labels:
    """Size 1 in each other dimension along which all labels turned out to be the same classes."""
    for axis in range(labels.ndim):
        if axis != dim and labels.shape[axis] > 1:
            first = np.take(labels, [0], axis=axis)
            if (labels == first).all():
                labels = first
    return labels


def _origins(run: Inference, classes: Labels, derived: Labels, count: int) -> list[str]:
    """Where each class comes from: a tensor if any of its labels does."""
    names = {str(n.args[0]) for n in run.program.nodes if n.op == TENSOR}
    ranges = run.ranges()
    starts = np.array([start for start, *_ in ranges] or [0])
    of_tensor = np.array([name in names for _, name, *_ in ranges] or [False])
    labels = np.arange(1, len(classes))
    index = np.searchsorted(starts, labels, side="right") - 1
    order = np.lexsort((labels, ~of_tensor[index]))[::-1] if len(labels) else labels
    first = np.full(count, -1, dtype=np.int64)
    first[classes[labels[order]]] = index[order]
    for child, outer, inner in derived[::-1]:  # parts of a tensor's dimension come from the tensor
        for part in (outer, inner):
            if first[part] >= 0 and not of_tensor[first[part]] and first[child] >= 0:
                first[part] = first[child]
    return ["" if i < 0 else ranges[i][1] for i in first]


def _closed(run: Inference) -> tuple[Labels, int, Labels]:
    """The class of each label, numbered by first appearance, and the definitions that remain.

    Everything pinned is class 0.
    """
    none: Labels = np.zeros((2, 1), dtype=np.int64)
    pins = [np.stack([p, np.zeros_like(p)]) for p, _ in run.pins]
    pairs = np.concatenate([np.stack(p) for p in run.pairs] + pins + [none], axis=1)
    given: Labels = np.concatenate([*run.definitions, np.zeros((0, 5), dtype=np.int64)]).astype(np.int64)
    even = np.unique(np.concatenate([rows.ravel() for rows in run.even] + [none[0]]))
    while True:
        classes, count = _components(pairs, run.count)
        known = np.unique(np.column_stack([classes[given[:, :3]], given[:, 3:]]), axis=0)
        new = _consequences(known, np.unique(classes[even]))
        if new.size == 0:
            break
        same = np.stack([np.arange(run.count), _representative(classes)])
        pairs = np.concatenate([same, _lift(new, classes)], axis=1)
    child, outer, inner = known[:, 0], known[:, 1], known[:, 2]
    real = (child != FIXED) & (outer != FIXED) & (inner != FIXED) & (child != outer) & (child != inner)
    return classes, count, np.unique(known[real][:, :3], axis=0)


def _representative(classes: Labels) -> Labels:
    """For each label the first one of its class."""
    _, first = np.unique(classes, return_index=True)
    result: Labels = first[classes]
    return result


def _lift(pairs: Labels, classes: Labels) -> Labels:
    """Pairs of classes as pairs of labels."""
    _, first = np.unique(classes, return_index=True)
    result: Labels = first[pairs]
    return result


def _components(pairs: Labels, count: int) -> tuple[Labels, int]:
    ones = np.ones(pairs.shape[1], dtype=np.int8)
    graph = coo_array((ones, (pairs[0], pairs[1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse.ravel()], len(first)


def _consequences(known: Labels, even: Labels) -> Labels:
    """Pairs (2, n) of different classes that the definitions make equal.

    Args:
        known: rows (label, outer, inner, how many outers, inners of one), as classes.
        even: classes in rows that an operator counts.
    """
    child, outer, inner = known[:, 0], known[:, 1], known[:, 2]
    zero = np.zeros_like(child)
    found = [np.stack(p)[:, where] for p, where in (
        ((outer, zero), child == FIXED), ((inner, zero), child == FIXED),
        ((child, inner), outer == FIXED), ((child, outer), inner == FIXED),
        ((child, outer), outer == inner),
        ((child, inner), (child == outer) & (inner != FIXED)),
        ((child, outer), (child == inner) & (outer != FIXED)))]  # fmt: skip
    real = (child != FIXED) & (outer != FIXED) & (inner != FIXED) & (child != outer) & (child != inner)
    rows = known[real]  # not those of a channel with itself
    if len(rows):
        same_child = rows[np.argsort(rows[:, 0], kind="stable")]
        equal = same_child[1:, 0] == same_child[:-1, 0]
        found += [np.stack([same_child[1:, k], same_child[:-1, k]])[:, equal] for k in (1, 2)]
        same_parts = rows[np.lexsort((rows[:, 2], rows[:, 1]))]
        equal = (same_parts[1:, 1:3] == same_parts[:-1, 1:3]).all(axis=1)
        found.append(np.stack([same_parts[1:, 0], same_parts[:-1, 0]])[:, equal])
    result = np.concatenate(found, axis=1)
    result = result[:, result[0] != result[1]]
    if result.size or not len(rows):
        return result
    return _two_levels(rows, even)


def _two_levels(rows: Labels, even: Labels) -> Labels:
    """Fix what goes beyond one outer and one inner part, and the outer parts of rows that are counted."""
    defined = np.unique(rows[:, 0])
    fixed = [rows[np.isin(rows[:, 0], even), 1]]
    nested = np.isin(rows[:, 1], defined)  # repeated heads: the repetition stays
    fixed.append(rows[np.isin(rows[:, 0], rows[nested, 1]), 2])
    nested = np.isin(rows[:, 2], defined)
    for row in rows[nested]:  # of two nested splits, the coarser one stays
        below = rows[rows[:, 0] == row[2]]
        keep_outer = row[3] <= below[:, 4].min(initial=1 << 40)
        fixed.append(row[1:2] if keep_outer else below[:, 2])
    labels = np.unique(np.concatenate(fixed))
    return np.stack([labels, np.zeros_like(labels)])


def footprints(
    fields: Mapping[str, Mapping[int, Field]],
    balanced: list[tuple[str, Labels]],
    derived: Labels,
    count: int,
    skip: set[str],
) -> NDArray[np.uint64]:
    """A hash for each class of all the places where it lies: equal hashes are interchangeable classes."""
    prints = np.zeros(count, dtype=np.uint64)
    for name, found in fields.items():
        for dim, f in found.items():
            if name not in skip or f.labels.size == f.labels.shape[dim]:
                np.add.at(prints, f.labels.ravel(), _key(f"{name}[{dim}]"))
    own = prints.copy()
    for column, role in ((1, "outer"), (2, "inner")):
        if len(derived):
            np.add.at(prints, derived[:, column], own[derived[:, 0]] * _key(role))
    for key, rows in balanced:
        for index, row in enumerate(rows):
            np.add.at(prints, row, _key(f"{key}#{index}"))
    return prints


def _key(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
