"""Costs: multiply-adds, parameters and bytes of a program, counted exactly from its shapes.

Convention: one multiply-add is one MAC, and FLOPs = 2 x MACs, as in torch's own flop counter. Convolutions
and matrix products count; normalisation, activation, pooling and movement count nothing. An operator that
is in neither list is named in ``Costs.unknown``, never counted as zero in silence.

Memory is what a plain executor holds for one record: all tensors of the program (parameters, buffers and
constants) and the activations that are alive at the worst moment, each until its last use, views as copies.

Every cost here is a sum of products of dimension sizes; ``graph.cost_model`` prices plans by that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor

from graph.program import INPUT, TENSOR, Node, Program
from graph.rules import CONTRACTIONS, known_operators
from graph.sizes import Factor


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
        weight_bytes: of all tensors of the program: parameters, buffers and constants.
        unknown: operators without a cost rule, with how often each occurs.
    """

    ops: tuple[OpCost, ...]
    macs: int
    params: int
    peak_activation_bytes: int
    weight_bytes: int
    unknown: Mapping[str, int]

    @property
    def memory_bytes(self) -> int:
        """What a plain executor holds for one record: weights, and activations at the worst moment."""
        return self.weight_bytes + self.peak_activation_bytes

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * self.macs


def all_dims(name: str, shapes: Mapping[str, Any], *, start: int = 0) -> list[Factor]:
    """The dimensions of a value whose sizes multiply to its number of elements."""
    return [(name, dim) for dim in range(start, len(shapes[name].shape))]


def _convolution(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Batch x out channels x positions x (in channels of a group x kernel)."""
    return [all_dims(node.name, shapes) + all_dims(node.args[1].name, shapes, start=1)]


def _product(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Elements of the result x length of the rows of the left operand."""
    left = node.args[1].name if node.base in ("addmm", "addmv", "baddbmm") else node.args[0].name
    return [[*all_dims(node.name, shapes), (left, len(shapes[left].shape) - 1)]]


def _letters_left(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Elements of the result x what is summed over of the left operand."""
    left = node.args[1 if node.base == "addbmm" else 0].name
    summed = [0, 2] if node.base == "addbmm" else [int(d) % len(shapes[left].shape) for d in node.args[2]]
    return [all_dims(node.name, shapes) + [(left, dim) for dim in summed]]


def _pairs(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """One product for each element of the result."""
    return [all_dims(node.name, shapes)]


def _cell(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Both weight matrices once for each row of the batch."""
    rows = all_dims(node.args[0].name, shapes)[:-1]
    return [rows + all_dims(w.name, shapes) for w in node.args[2:4]]


def _attention(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Queries times keys, and weights times values."""
    query, key = node.args[0].name, node.args[1].name
    keys = (key, len(shapes[key].shape) - 2)
    return [[*all_dims(query, shapes), keys], [*all_dims(node.name, shapes), keys]]


def _transposed(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """Each input element meets the filters of its channel."""
    return [all_dims(node.args[0].name, shapes) + all_dims(node.args[1].name, shapes, start=1)]


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
    return [all_dims(node.name, shapes) + all_dims(node.args[2].name, shapes, start=1)]


def _recurrent(node: Node, shapes: Mapping[str, Any]) -> list[list[Factor]]:
    """At each step every weight matrix once."""
    steps = all_dims(node.args[0].name, shapes)[:2]
    names = [w.name for w in node.args[2] if len(shapes[w.name].shape) == 2]
    return [steps + all_dims(name, shapes) for name in names]


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
    records = records_of(program)
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
        sum(t.numel() * t.element_size() for t in program.tensors.values()),
        dict(unknown),
    )


def records_of(program: Program) -> int:
    """How many records the shapes of a program hold: one unless its batch size is fixed."""
    if program.dynamic_batch or not program.inputs:
        return 1
    return max(1, *program.inputs[0].shape[:1])


def lifetimes(program: Program, shapes: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """The activations of a program: name, and the first and last node, by position, at which it is alive."""
    last: dict[str, int] = {}
    for index, node in enumerate(program.nodes):
        for ref in node.refs:
            last[ref] = index
    last |= dict.fromkeys(program.outputs, len(program.nodes) - 1)
    for index, node in enumerate(program.nodes):
        if node.op != TENSOR and isinstance(shapes[node.name], Tensor):
            yield node.name, index, last.get(node.name, index)


def _peak(program: Program, shapes: Mapping[str, Any]) -> int:
    """The most bytes of activations that are alive at one time."""
    change = [0] * (len(program.nodes) + 1)
    for name, born, last in lifetimes(program, shapes):
        size = shapes[name].numel() * shapes[name].element_size()
        change[born] += size
        change[last + 1] -= size
    return max(accumulate(change))
