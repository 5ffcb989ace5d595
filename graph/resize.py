"""Resizing: the arguments of an operator that name sizes, rewritten for a program with fewer channels.

A view holds the sizes that it makes, a split those of its parts, a slice its ends, a pad its amounts, a
depthwise convolution the number of its groups. Everything else follows from the shapes of its operands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch

from graph import rules
from graph.errors import PlanError, first_line
from graph.labels import Field, Pass, result_name
from graph.meta import on_shapes
from graph.program import INPUT, TENSOR, Node, Ref, resolve, substitute


class SizeError(PlanError):
    """An operator does not run on the smaller shapes.

    Attributes:
        node: the operator.
    """

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(f"{node.name} ({node.op}) does not fit the smaller shapes: {reason}")
        self.node = node
        self.reason = reason


class Lengths(Protocol):
    """How long dimensions become."""

    def length(self, result: str, dim: int) -> int | None:
        """The new size of a result's dimension, or None where it keeps its size."""

    def before(self, value: str, dim: int, position: int) -> int:
        """How many of the first ``position`` indices of an operand's dimension remain."""

    def padding(self, result: str, dim: int, left: int) -> tuple[int, int]:
        """How much padding remains on each side, of which ``left`` was on the left."""

    def check(self, node: Node) -> None:
        """Raise ValueError if the results of a node, as they are now, have other sizes than they should."""


def run_resized(run: Pass, lengths: Lengths) -> tuple[Node, ...]:
    """Run the rules over a smaller program.

    Args:
        run: gets ``now`` filled with the values of the smaller program.
        lengths: the sizes that the smaller program's arguments must name.

    Returns:
        The nodes of the smaller program.

    Raises:
        SizeError: the sizes do not fit each other.
    """
    run.now = {}
    nodes = []
    for node in run.program.nodes:
        small = node
        if node.op == INPUT:
            run.now[node.name] = run.full[node.name]
        elif node.op != TENSOR:
            for ref in run.operands(node):
                if run.is_tensor(ref):
                    run.now.setdefault(ref.name, run.full[ref.name])
            try:
                rules.enter(run, node)
                small = resized(node, run, lengths)
                rules.apply(run, small)
                for ref in run.operands(node):
                    if run.is_tensor(ref):
                        run.now[ref.name] = _meta(run, ref.name)
                _execute(run, small)
                lengths.check(node)
            except (RuntimeError, TypeError, IndexError, ValueError, KeyError) as err:
                raise SizeError(node, first_line(err)) from err
        nodes.append(small)
    for node in run.program.nodes:
        run.now.setdefault(node.name, run.full[node.name])
    return tuple(nodes)


def _meta(run: Pass, name: str) -> torch.Tensor:
    """A tensor of the table on the meta device, in the shape that its fields give it."""
    full = run.full[name]
    shape = list(full.shape)
    for dim, found in run.fields.get(name, {}).items():
        shape[dim] = found.labels.shape[dim]
    return torch.empty(shape, dtype=full.dtype, device="meta")


def _execute(run: Pass, node: Node) -> None:
    meta = torch.device("meta")
    args, kwargs = substitute(node.args, run.now, meta), substitute(dict(node.kwargs), run.now, meta)
    value = on_shapes(resolve(node.op), args, kwargs)
    run.now[node.name] = value
    if isinstance(value, (list, tuple)):
        run.now |= {result_name(node.name, i): v for i, v in enumerate(value)}


def resized(node: Node, run: Pass, lengths: Lengths) -> Node:
    """A node with the sizes among its arguments rewritten."""
    rewrite = _REWRITES.get(node.base)
    return rewrite(node, run, lengths) if rewrite is not None else node


def names_sizes(node: Node) -> bool:
    """Whether the sizes among a node's arguments may need rewriting."""
    return node.base in _REWRITES


def _sizes(node: Node, run: Pass, lengths: Lengths) -> Node:
    """view(x, sizes), reshape(x, sizes), expand(x, sizes), new_zeros(x, sizes)."""
    sizes = _listed(node.args[1], node, run, lengths, spare=node.base in _VIEWS)
    return replace(node, args=(node.args[0], sizes, *node.args[2:]))


def _created(node: Node, run: Pass, lengths: Lengths) -> Node:
    """zeros(sizes), full(sizes, value)."""
    return replace(node, args=(_listed(node.args[0], node, run, lengths), *node.args[1:]))


def _listed(given: Any, node: Node, run: Pass, lengths: Lengths, *, spare: bool = False) -> list[Any]:
    """A list of sizes for a result; ``spare``: one of them may be left to the operator as -1."""
    sizes = list(given)
    for dim, size in enumerate(sizes):
        new = lengths.length(node.name, dim)
        full = int(run.full[node.name].shape[dim])
        if new is None or (isinstance(size, int) and size == -1):
            continue
        if isinstance(size, int):
            sizes[dim] = new
        elif new != full:  # a product with the batch size, in which the channels are a number
            if not spare or -1 in sizes:
                raise ValueError("a size computed from the batch size counts channels")
            sizes[dim] = -1
    return sizes


def _unflatten(node: Node, run: Pass, lengths: Lengths) -> Node:
    """unflatten(x, dim, sizes)."""
    dim = int(node.args[1]) % len(run.size(node.args[0]))
    sizes = [
        size if isinstance(size, Ref) or size == -1 else lengths.length(node.name, dim + i) or size
        for i, size in enumerate(node.args[2])
    ]
    return replace(node, args=(node.args[0], node.args[1], sizes, *node.args[3:]))


def _split(node: Node, run: Pass, lengths: Lengths) -> Node:
    """split(x, size, dim), split(x, sizes, dim), chunk(x, chunks, dim): becomes split_with_sizes."""
    x = node.args[0]
    dim = int(node.arg(2, "dim", 0)) % len(run.size(x))
    if run.field(x, dim) is None:
        return node
    names = run.results(node)
    sizes = [
        found if (found := lengths.length(name, dim)) is not None else int(run.full[name].shape[dim])
        for name in names
    ]
    return replace(node, op="aten.split_with_sizes.default", args=(x, sizes, dim), kwargs={})


def _slice(node: Node, run: Pass, lengths: Lengths) -> Node:
    """slice(x, dim, start, end, step), narrow(x, dim, start, length)."""
    x, dim = node.args[0], int(node.arg(1, "dim", 0)) % len(run.size(node.args[0]))
    new = lengths.length(node.name, dim)
    if new is None or run.field(x, dim) is None:
        return node
    size = run.size(x)[dim]
    start = slice(node.arg(2, "start"), None).indices(size)[0]
    if node.base == "slice" and start == 0 and int(run.full[node.name].shape[dim]) == size:
        return node  # all of it, however long it is: a dimension merged with the batch has no size of its own
    if node.base == "narrow":
        return replace(node, args=(x, dim, lengths.before(x.name, dim, start), new), kwargs={})
    step = int(node.arg(4, "step", 1))
    if step == 1:
        start = lengths.before(x.name, dim, start)
    else:
        start = _first(lengths, x.name, dim, range(start, size, step))
    return replace(node, args=(x, dim, start, start + (new - 1) * step + 1, step), kwargs={})


def _first(lengths: Lengths, value: str, dim: int, taken: range) -> int:
    """Where the first of the positions that remain stands; the others must follow at the same step.

    Raises:
        ValueError: they do not.
    """
    places = [(lengths.before(value, dim, p), lengths.before(value, dim, p + 1)) for p in taken]
    kept = [before for before, after in places if after > before]
    if not kept or any(b - a != taken.step for a, b in itertools.pairwise(kept)):
        raise ValueError("every so many-th channel is taken, and those do not remain so")
    return kept[0]


def _slice_scatter(node: Node, run: Pass, lengths: Lengths) -> Node:
    """slice_scatter(x, part, dim, start, end, step)."""
    x, part, dim = node.args[0], node.args[1], int(node.arg(2, "dim", 0)) % len(run.size(node.args[0]))
    if run.field(x, dim) is None:
        return node
    size = run.size(x)[dim]
    start = lengths.before(x.name, dim, slice(node.arg(3, "start"), None).indices(size)[0])
    return replace(node, args=(x, part, dim, start, start + int(run.now[part.name].shape[dim])), kwargs={})


def _normalised(node: Node, run: Pass, lengths: Lengths) -> Node:
    """layer_norm(x, sizes, ...), rms_norm(x, sizes, ...)."""
    shape = run.now[node.args[0].name].shape
    return replace(node, args=(node.args[0], list(shape[-len(node.args[1]) :]), *node.args[2:]))


def _attention(node: Node, run: Pass, lengths: Lengths) -> Node:
    """scaled_dot_product_attention: the scale of the whole program stays."""
    if node.kwargs.get("scale") is not None:
        return node
    return replace(node, kwargs={**node.kwargs, "scale": 1.0 / math.sqrt(run.size(node.args[0])[-1])})


def _pad(node: Node, run: Pass, lengths: Lengths) -> Node:
    """pad(x, amounts): two amounts for each dimension, the last dimension first."""
    amounts = list(node.args[1])
    rank = len(run.size(node.args[0]))
    for i in range(0, len(amounts), 2):
        dim = rank - 1 - i // 2
        if amounts[i] + amounts[i + 1] > 0 and run.field(node.args[0], dim) is not None:
            amounts[i : i + 2] = lengths.padding(node.name, dim, amounts[i])
    return replace(node, args=(node.args[0], amounts, *node.args[2:]))


def _roll(node: Node, run: Pass, lengths: Lengths) -> Node:
    """roll(x, shifts, dims): as many channels as remain of those that come to the front."""
    x, shifts = node.args[0], node.arg(1, "shifts")
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = node.arg(2, "dims") or []
    size = run.size(x)
    for i, given in enumerate([dims] if isinstance(dims, int) else dims):
        dim = int(given) % len(size)
        if run.field(x, dim) is not None and isinstance(shifts[i], int):
            start = -shifts[i] % size[dim]
            shifts[i] = -lengths.before(x.name, dim, start)
    return replace(node, args=(x, shifts, dims), kwargs={})


def _convolution(node: Node, run: Pass, lengths: Lengths) -> Node:
    """conv(x, weight, bias, stride, padding, dilation, groups): one group per channel if depthwise."""
    x, weight = node.args[0], node.args[1]
    transposed = node.base.startswith("conv_transpose")
    groups = int(node.arg(6, "groups", 1))
    own = run.size(weight)[1] == 1 if not transposed else run.size(x)[1] == groups
    if groups == 1 or not own or run.field(x, 1) is None:
        return node
    now = int(run.now[x.name].shape[1])
    if len(node.args) > 6:
        return replace(node, args=(*node.args[:6], now, *node.args[7:]))
    return replace(node, kwargs={**node.kwargs, "groups": now})


def _one_hot(node: Node, run: Pass, lengths: Lengths) -> Node:
    """one_hot(ids, classes)."""
    new = lengths.length(node.name, len(run.size(node.args[0])))
    return node if new is None else replace(node, args=(node.args[0], new), kwargs={})


def _repeated(node: Node, run: Pass, lengths: Lengths) -> Node:
    """repeat_interleave(x, repeats, dim, output_size=): the size follows from the operand's."""
    return replace(node, kwargs={k: v for k, v in node.kwargs.items() if k != "output_size"})


_VIEWS = ("view", "reshape", "_unsafe_view")
_REWRITES = {
    **dict.fromkeys((*_VIEWS, "expand", "new_zeros", "new_ones", "new_full", "new_empty"), _sizes),
    **dict.fromkeys(("zeros", "ones", "full", "empty"), _created),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"), _split),
    **dict.fromkeys(("slice", "narrow"), _slice),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "roll": _roll,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalised),
    "slice_scatter": _slice_scatter,
    "repeat_interleave": _repeated,
    "one_hot": _one_hot,
    "scaled_dot_product_attention": _attention,
    "unflatten": _unflatten,
}


class Proportional:
    """Lengths of a program whose sources shrink in proportion: each result follows its operand.

    Args:
        run: the pass over the smaller program.
        labelled: for each value the dimensions that may shrink.
    """

    def __init__(self, run: Pass, labelled: Mapping[str, Mapping[int, Field]]) -> None:
        self.run = run
        self.labelled = labelled

    def length(self, result: str, dim: int) -> int | None:
        """The dimension's size times the ratio in which the operand's elements became fewer."""
        if dim not in self.labelled.get(result, {}):
            return None
        operand = self._operand(result)
        full = int(self.run.full[result].shape[dim])
        return _exact(full * self.run.now[operand].numel(), self.run.full[operand].numel())

    def before(self, value: str, dim: int, position: int) -> int:
        """The position in proportion."""
        return _exact(position * self.run.now[value].shape[dim], self.run.full[value].shape[dim])

    def padding(self, result: str, dim: int, left: int) -> tuple[int, int]:
        """Both sides in proportion."""
        operand = self._operand(result)
        now, full = self.run.now[operand].shape[dim], self.run.full[operand].shape[dim]
        right = self.run.full[result].shape[dim] - full - left
        return _exact(left * now, full), _exact(right * now, full)

    def check(self, node: Node) -> None:
        """What does not fit shows where the channels are counted."""

    def _operand(self, result: str) -> str:
        return self.run.operands(self.run.by_name[result.partition(":")[0]])[0].name


def _exact(numerator: int, denominator: int) -> int:
    if numerator % denominator:
        raise ValueError("the size does not divide")
    return numerator // denominator
