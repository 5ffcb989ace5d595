"""Labels: which channel each index of each dimension stands for, and what a rule may say about them.

Every index of every prunable dimension carries an integer label. Equal labels are the same channel: they
stay or go together. The rules of ``graph.rules`` are written once against ``Pass`` and run in two ways:
inference (``graph.axes``) invents labels and records which are equal; replay (``prune.surgery``) runs the
same rules over the smaller program and checks that the labels that meet are the same, in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graph.groups import Site
from graph.program import INPUT, TENSOR, Node, Program, Ref

Labels = NDArray[np.int64]
FIXED = 0  # the label of what always stays
NOTHING = -1  # in a tensor of labels: an element that belongs to no channel, such as padding


@dataclass(frozen=True)
class Field:
    """The labels of one dimension of one value.

    Attributes:
        dim: the dimension that gets shorter when labels go.
        labels: int64, of the value's rank; size 1 in every dimension that the labels do not depend on.
            Usually only ``dim`` is longer than 1. After a view splits C into (H, D), D has a label for
            each lane of each head: an array of both dimensions, each row of which keeps equally many.
    """

    dim: int
    labels: Labels

    @property
    def rows(self) -> Labels:
        """The labels as a matrix (rows, size of ``dim``)."""
        return np.moveaxis(self.labels, self.dim, -1).reshape(-1, self.labels.shape[self.dim])


class Pass(ABC):
    """One run of the rules over a program.

    Attributes:
        program: what is run.
        full: every value of the whole program on the meta device; rules decide by these shapes.
        now: the values in this run; differ from ``full`` when the rules run over a smaller program.
        fields: for each value, its labelled dimensions. A dimension without a field is fixed.
        pointers: for values that are positions along a labelled dimension, that dimension's labels.
    """

    def __init__(self, program: Program, full: Mapping[str, Any]) -> None:
        self.program = program
        self.full = dict(full)
        self.static = static_values(program)
        for name, value in full.items():
            if isinstance(value, (list, tuple)):  # results of split, chunk, unbind
                self.full |= {result_name(name, i): v for i, v in enumerate(value)}
        self.now: dict[str, Any] = self.full
        self.by_name = {n.name: n for n in program.nodes}
        self.fields: dict[str, dict[int, Field]] = {}
        self.pointers: dict[str, Labels] = {}

    # What a kind of pass has to say

    @abstractmethod
    def source(self, tensor: Node, dim: int) -> Labels:
        """The labels of a dimension of a parameter that nothing has determined yet."""

    @abstractmethod
    def equate(self, a: Labels, b: Labels, node: Node) -> None:
        """The two (broadcast against each other) are the same channels."""

    @abstractmethod
    def pin(self, labels: Labels, reason: str, node: Node) -> None:
        """These channels cannot be removed."""

    @abstractmethod
    def balance(self, rows: Labels, node: Node) -> None:
        """Each row of the matrix must keep equally many."""

    @abstractmethod
    def choose(self, labels: Labels, count: int, node: Node) -> None:
        """The operator picks so many among these channels: no fewer may stay."""

    @abstractmethod
    def leave(self, labels: Labels, count: int, node: Node) -> None:
        """Fewer channels than so many make no number, as far as these channels have no parts."""

    @abstractmethod
    def consume(self, site: Site) -> None:
        """An operator sums, averages or compares over labelled channels."""

    @abstractmethod
    def unsupported(self, node: Node) -> None:
        """There is no rule for this operator."""

    @abstractmethod
    def move(self, node: Node) -> None:
        """The operator only moves elements: find the labels of its result by running it on labels."""

    @abstractmethod
    def create(self, name: str, dim: int) -> None:
        """A dimension along which all elements are equal (zeros, expand): it can have any length."""

    # What rules use

    def size(self, ref: Ref) -> tuple[int, ...]:
        """The shape of a value in the whole program."""
        return tuple(self.full[ref.name].shape)

    def shape_now(self, name: str) -> tuple[int, ...]:
        """The shape of an operand in this run; a parameter has the one that its labels give it."""
        if self.by_name[name].op != TENSOR:
            return tuple(self.now[name].shape)
        shape = list(self.full[name].shape)
        for dim, found in self.fields.get(name, {}).items():
            shape[dim] = found.labels.shape[dim]
        return tuple(shape)

    def is_tensor(self, ref: Ref) -> bool:
        """Whether the value stands in the tensor table (a parameter, buffer or constant)."""
        return self.by_name[ref.name].op == TENSOR

    def field(self, ref: Ref, dim: int) -> Field | None:
        """The field of a dimension, or None where it is fixed or not yet determined."""
        return self.fields.get(ref.name, {}).get(dim)

    def put(self, name: str, dim: int, labels: Labels) -> None:
        """Give a value labels along ``dim``: a vector, or an array of the value's rank."""
        rank = len(self.full[name].shape)
        if labels.ndim == 1:
            shape = [1] * rank
            shape[dim] = len(labels)
            labels = labels.reshape(shape)
        if self.full[name].shape[dim] > 1:
            self.fields.setdefault(name, {})[dim] = Field(dim, labels)

    def along(self, ref: Ref, dim: int, node: Node) -> Labels | None:
        """The labels of a dimension as one vector; rows that differ are made the same channels.

        A dimension of a parameter that nothing has determined yet gets its labels here.
        Returns None where the dimension is fixed.
        """
        found = self.field(ref, dim)
        if found is None:
            if not self.is_tensor(ref) or self.size(ref)[dim] <= 1:
                return None
            self.put(ref.name, dim, self.source(self.by_name[ref.name], dim))
            found = self.fields[ref.name][dim]
        rows = found.rows
        if len(rows) > 1:
            self.equate(rows, rows[:1], node)
        first: Labels = rows[0]
        return first

    def bind(self, ref: Ref, dim: int, labels: Labels, node: Node) -> None:
        """Say that a dimension of an operand carries these labels (a vector or an array of its rank)."""
        if self.size(ref)[dim] == 1:
            return
        found = self.field(ref, dim)
        if found is not None:
            if labels.ndim == 1:
                shape = [1] * found.labels.ndim
                shape[dim] = len(labels)
                labels = labels.reshape(shape)
            self.equate(found.labels, labels, node)
        elif self.is_tensor(ref):
            self.put(ref.name, dim, labels)
        else:
            self.pin(labels, f"meets a value whose channels are fixed in {node.op}", node)

    def operands(self, node: Node) -> list[Ref]:
        """The tensors among a node's arguments, in order."""
        return [Ref(name) for name in node.refs if isinstance(self.full[name], Tensor)]

    def results(self, node: Node) -> list[str]:
        """The names under which a node's results stand in ``full`` and ``fields``."""
        value = self.full[node.name]
        if isinstance(value, (list, tuple)):
            return [result_name(node.name, i) for i in range(len(value))]
        return [node.name]


def result_name(node: str, index: int) -> str:
    """The name of one result of an operator that has several."""
    return f"{node}:{index}"


def static_values(program: Program) -> frozenset[str]:
    """The values that depend on no input."""
    static: set[str] = set()
    for node in program.nodes:
        if node.op == TENSOR or (node.op != INPUT and all(r in static for r in node.refs)):
            static.add(node.name)
    return frozenset(static)
