"""Costs: multiply-adds, parameters and activation bytes of a program, exactly and for any choice of widths.

Convention: one multiply-add is one MAC, and FLOPs = 2 x MACs, as in torch's own flop counter. Convolutions
and matrix products count; normalisation, activation, pooling and movement count nothing. An operator that
is in neither list is named in ``Costs.unknown``, never counted as zero in silence.

Every cost here is a sum of products of dimension sizes, and the size of a dimension is linear in how many
channels each group keeps, or a product of heads and lanes. So a plan is priced by one small matrix product,
without building anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graph.channels import Axes
from graph.labels import FIXED
from graph.program import INPUT, TENSOR, Node, Program
from graph.rules import CONTRACTIONS, known_operators

Factor = tuple[str, int]  # (value, dimension)


@dataclass(frozen=True)
class OpCost:
    """What one operator costs for one record of the batch.

    Attributes:
        node: its name.
        op: the ATen operator.
        module: dotted path of the submodule.
        macs: multiply-adds.
        params: elements of the trainable tensors it reads (a tensor is counted where it is first read).
        activation_bytes: size of its result.
    """

    node: str
    op: str
    module: str
    macs: int
    params: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * self.macs


@dataclass(frozen=True)
class Costs:
    """What a program costs for one record of the batch.

    Attributes:
        ops: one entry for each operator that yields a tensor.
        macs: multiply-adds in all.
        params: elements of all trainable tensors.
        peak_activation_bytes: the most that is alive at one time, inputs included, weights not.
        unknown: operators without a cost rule, with how often each occurs.
    """

    ops: tuple[OpCost, ...]
    macs: int
    params: int
    peak_activation_bytes: int
    unknown: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * self.macs


def _all_dims(name: str, shapes: Mapping[str, Any], *, start: int = 0) -> list[Factor]:
    return [(name, dim) for dim in range(start, len(shapes[name].shape))]


def _convolution(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Batch x out channels x positions x (in channels of a group x kernel)."""
    return [_all_dims(node.name, shapes) + _all_dims(node.args[1].name, shapes, start=1)]


def _product(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Elements of the result x length of the rows of the left operand."""
    left = node.args[1].name if node.base in ("addmm", "addmv", "baddbmm") else node.args[0].name
    return [[*_all_dims(node.name, shapes), (left, len(shapes[left].shape) - 1)]]


def _letters_left(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Elements of the result x what is summed over of the left operand."""
    left = node.args[1 if node.base == "addbmm" else 0].name
    summed = [0, 2] if node.base == "addbmm" else [int(d) % len(shapes[left].shape) for d in node.args[2]]
    return [_all_dims(node.name, shapes) + [(left, dim) for dim in summed]]


def _pairs(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """One product for each element of the result."""
    return [_all_dims(node.name, shapes)]


def _cell(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Both weight matrices once for each row of the batch."""
    rows = _all_dims(node.args[0].name, shapes)[:-1]
    return [rows + _all_dims(w.name, shapes) for w in node.args[2:4]]


def _attention(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Queries times keys, and weights times values."""
    query, key = node.args[0].name, node.args[1].name
    keys = (key, len(shapes[key].shape) - 2)
    return [[*_all_dims(query, shapes), keys], [*_all_dims(node.name, shapes), keys]]


def _transposed(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Each input element meets the filters of its channel."""
    return [_all_dims(node.args[0].name, shapes) + _all_dims(node.args[1].name, shapes, start=1)]


def _einsum(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """The sizes of all letters, once for each product."""
    letters = str(node.args[0]).replace(" ", "").partition("->")[0].split(",")
    longest: dict[str, Factor] = {}
    dots: dict[int, Factor] = {}
    for ref, term in zip(node.args[1], letters, strict=True):
        rank = len(shapes[ref.name].shape)
        width = rank - len(term.replace("...", ""))
        before, found, after = term.partition("...")
        names: list[str | int] = [*before, *(range(-width, 0) if found else ()), *after]
        for dim, name in enumerate(names):
            factor = (ref.name, dim)
            table: dict[Any, Factor] = dots if isinstance(name, int) else longest
            if name not in table or shapes[ref.name].shape[dim] > _length(table[name], shapes):
                table[name] = factor
    return [[*longest.values(), *dots.values()]] * max(1, len(letters) - 1)


def _length(factor: Factor, shapes: Mapping[str, Any]) -> int:
    return int(shapes[factor[0]].shape[factor[1]])


def _bilinear(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Elements of the result x both inputs' lengths."""
    return [_all_dims(node.name, shapes) + _all_dims(node.args[2].name, shapes, start=1)]


def _recurrent(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """At each step every weight matrix once."""
    steps = _all_dims(node.args[0].name, shapes)[:2]
    names = [w.name for w in node.args[2] if len(shapes[w.name].shape) == 2]
    return [steps + _all_dims(name, shapes) for name in names]


_RULES: dict[str, Callable[[Node, Mapping[str, Any]], list[list[Factor]]]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("linear", "mm", "mv", "dot", "vdot", "inner", "cdist"), _product),
    **dict.fromkeys(("addmm", "addmv", "bmm", "baddbmm", "matmul"), _product),
    **dict.fromkeys(("tensordot", "addbmm"), _letters_left),
    **dict.fromkeys(("addr", "outer", "ger"), _pairs),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "einsum": _einsum,
    "bilinear": _bilinear,
    "scaled_dot_product_attention": _attention,
}
assert set(_RULES) >= CONTRACTIONS
_FREE = frozenset(known_operators()) - CONTRACTIONS


def mac_factors(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]] | None:
    """The dimensions whose sizes multiply to an operator's MACs, one list per term; None if unknown."""
    found = _RULES.get(node.base)
    if found is not None and node.op.startswith("aten."):
        return found(node, shapes)
    if node.base in _FREE or node.op.startswith("builtin.") or node.op in (INPUT, TENSOR):
        return []
    return None


def costs(program: Program) -> Costs:
    """Count a program from its shapes alone, for a batch of one.

    Raises:
        ProgramError: the program does not run on its own shapes.
    """
    shapes = program.shapes(1 if program.dynamic_batch else None)
    records = _records(program)
    unknown: Counter[str] = Counter()
    counted: set[str] = set()
    total = 0
    tensor_of = {n.name: str(n.args[0]) for n in program.nodes if n.op == TENSOR}
    ops = []
    for node in program.nodes:
        if node.op in (INPUT, TENSOR):
            continue
        terms = mac_factors(node, shapes)
        if terms is None:
            unknown[node.op] += 1
        macs = sum(math.prod(shapes[v].shape[d] for v, d in term) for term in terms or [])
        total += macs
        read = {tensor_of[r] for r in node.refs if r in tensor_of} & program.trainable - counted
        counted |= read
        params = sum(program.tensors[name].numel() for name in read)
        value = shapes[node.name]
        if isinstance(value, Tensor):
            size = value.numel() * value.element_size() // records
            ops.append(OpCost(node.name, node.op, node.module, macs // records, params, size))
    return Costs(
        tuple(ops),
        total // records,
        sum(program.tensors[name].numel() for name in program.trainable),
        _peak(program, shapes) // records,
        dict(unknown),
    )


def _records(program: Program) -> int:
    """How many records the shapes of a program hold: one unless its batch size is fixed."""
    if program.dynamic_batch or not program.inputs:
        return 1
    return max(1, *program.inputs[0].shape[:1])


def _peak(program: Program, shapes: Mapping[str, Any]) -> int:
    """The most bytes of activations that are alive at one time."""
    last: dict[str, int] = {}
    for index, node in enumerate(program.nodes):
        for ref in node.refs:
            last[ref] = index
    last |= dict.fromkeys(program.outputs, len(program.nodes))
    dying: dict[int, int] = {}
    alive = peak = 0
    for index, node in enumerate(program.nodes):
        value = shapes[node.name]
        if node.op != TENSOR and isinstance(value, Tensor):
            size = value.numel() * value.element_size()
            alive += size
            end = last.get(node.name, index)
            dying[end] = dying.get(end, 0) + size
        peak = max(peak, alive)
        alive -= dying.pop(index, 0)
    return peak


class CostModel:
    """Prices any choice of widths of a program without building it.

    Attributes:
        widths: how many units each group of the whole program has.
        macs_by_term: names of the operators behind the MAC terms.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.widths: NDArray[np.int64] = np.array([len(g.units) for g in axes.groups], dtype=np.int64)
        self._index: dict[Factor, int] = {}
        self._base: list[float] = [1.0]  # size 0 of the table stands for "no factor"
        self._slopes: list[NDArray[np.float64]] = [np.zeros(len(axes.groups))]
        self._products: list[tuple[int, int, int, float]] = []  # (size, group, group, coefficient)
        self._parts = _parts(axes)
        program, shapes = axes.program, axes.shapes
        macs = [(node.name, term) for node in program.nodes for term in (mac_factors(node, shapes) or [])]
        node_of = {str(n.args[0]): n.name for n in program.nodes if n.op == TENSOR}
        params = [_all_dims(node_of[name], shapes) for name in sorted(program.trainable) if name in node_of]
        self.macs_by_term = tuple(name for name, _ in macs)
        coefficients, factors = self._table([term for _, term in macs])
        self._macs = coefficients, factors
        self._per_record = _records(program)
        self._params = self._table(params)
        self._base_sizes = np.array(self._base)
        self._slope_matrix = np.stack(self._slopes)
        table = np.array(self._products or [(0, 0, 0, 0.0)], dtype=np.float64)
        self._rows, self._first, self._second = table[:, :3].astype(np.int64).T
        self._coefficients = table[:, 3]

    def macs(self, kept: Sequence[int] | NDArray[Any]) -> int:
        """MACs for one record when group g keeps ``kept[g]`` units."""
        return round(float(self._evaluate(self._macs, kept).sum())) // self._per_record

    def macs_per_term(self, kept: Sequence[int] | NDArray[Any]) -> NDArray[np.float64]:
        """The same for each term, in the order of ``macs_by_term``."""
        return self._evaluate(self._macs, kept) / self._per_record

    def params(self, kept: Sequence[int] | NDArray[Any]) -> int:
        """Elements of the trainable tensors."""
        return round(float(self._evaluate(self._params, kept).sum()))

    def _evaluate(
        self, table: tuple[NDArray[np.float64], NDArray[np.int64]], kept: Sequence[int] | NDArray[Any]
    ) -> NDArray[np.float64]:
        counts = np.asarray(kept, dtype=np.float64)
        sizes = self._base_sizes + self._slope_matrix @ counts
        if self._products:
            products = self._coefficients * counts[self._first] * counts[self._second]
            sizes = sizes + np.bincount(self._rows, weights=products, minlength=len(sizes))
        coefficients, factors = table
        result: NDArray[np.float64] = coefficients * sizes[factors].prod(axis=1)
        return result

    def _table(self, terms: list[list[Factor]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Terms as constant coefficients and the sizes that vary."""
        coefficients = np.ones(len(terms))
        varying: list[list[int]] = []
        for row, term in enumerate(terms):
            varying.append([])
            for factor in term:
                index = self._size(factor)
                if index == 0:
                    coefficients[row] *= self.axes.shapes[factor[0]].shape[factor[1]]
                else:
                    varying[row].append(index)
        width = max((len(v) for v in varying), default=0)
        table = np.zeros((len(terms), max(1, width)), dtype=np.int64)
        for row, indices in enumerate(varying):
            table[row, : len(indices)] = indices
        return coefficients, table

    def _size(self, factor: Factor) -> int:
        """The row of a dimension in the table of sizes, 0 where it does not vary."""
        name, dim = factor
        found = self.axes.fields.get(name, {}).get(dim)
        if found is None or not (self._parts[found.labels, 0] >= 0).any():
            return 0
        if factor not in self._index:
            rows = found.rows
            first, second = self._parts[rows, 0], self._parts[rows, 1]
            single = (first >= 0) & (second < 0)
            slopes = np.bincount(first[single], minlength=len(self.widths)) / len(rows)
            self._base.append(float((rows == FIXED).sum()) / len(rows))
            self._slopes.append(slopes / self.widths)
            index = self._index[factor] = len(self._base) - 1
            both = np.stack([first[second >= 0], second[second >= 0]], axis=1)
            for (a, b), count in zip(*np.unique(both, axis=0, return_counts=True), strict=True):
                pairs = float(self.widths[a] * (self.widths[b] - (a == b)))  # of one group: with the others
                share = float(count) / len(rows) / pairs
                self._products.append((index, int(a), int(b), share))
                if a == b:
                    self._slopes[-1][a] -= share
        return self._index[factor]


def _parts(axes: Axes) -> NDArray[np.int64]:
    """For each class its group, or the groups of its outer and inner part; -1 for what is fixed."""
    own = axes.group_of_class()
    result = np.full((axes.classes, 2), -1, dtype=np.int64)
    result[:, 0] = own
    result[axes.derived[:, 0], 0] = own[axes.derived[:, 1]]
    result[axes.derived[:, 0], 1] = own[axes.derived[:, 2]]
    return result
