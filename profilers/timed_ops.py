"""Which operators of a program take time in onnxruntime, as kernels whose widths follow from a plan.

What onnxruntime folds or fuses costs nothing of its own: batch norm behind a convolution, and an activation
behind both. Views cost nothing. What has no kernel of its own is priced as a pass over its elements, and
named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graph.channels import Axes
from graph.cost import all_dims, mac_factors
from graph.program import INPUT, TENSOR, Node
from graph.rules import CONTRACTIONS
from graph.sizes import Factor
from profilers.single_ops import Kernel

_FUSED = frozenset(
    ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clip", "leaky_relu")
    + ("sigmoid", "tanh", "hardsigmoid")
)
_FREE = frozenset(
    ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "expand", "expand_as")
    + ("dropout", "feature_dropout", "alpha_dropout", "detach", "alias", "lift_fresh_copy", "to", "type_as")
    + ("_to_copy", "sym_size", "zeros", "ones", "full", "arange", "empty", "zeros_like", "ones_like")
    + ("full_like", "scalar_tensor", "_assert_tensor_metadata")
)
# The ONNX operator that stands for others of about the same cost.
_PASSES: Mapping[str, str] = {
    **dict.fromkeys((*_FUSED, "relu6_", "elu", "prelu", "abs", "neg", "sqrt", "rsqrt", "pow"), "Relu"),
    **dict.fromkeys(("silu", "silu_", "hardswish", "hardswish_", "gelu", "exp", "erf", "log"), "Sigmoid"),
    **dict.fromkeys(("softplus", "mish"), "Sigmoid"),
    **dict.fromkeys(("add", "add_", "sub", "sub_", "rsub", "minimum", "maximum", "where"), "Add"),
    **dict.fromkeys(("mul", "mul_", "div", "div_", "batch_norm"), "Mul"),
    **dict.fromkeys(("cat", "concat", "stack"), "Concat"),
    **dict.fromkeys(("permute", "transpose", "t", "movedim", "clone", "roll", "flip", "pad"), "Transpose"),
    **dict.fromkeys(("slice", "select", "split", "chunk", "split_with_sizes", "unbind"), "Transpose"),
    **dict.fromkeys(("index", "index_select", "embedding", "unfold"), "Transpose"),
    **dict.fromkeys(("repeat", "repeat_interleave"), "Transpose"),
}
_LAST_DIM = {
    **dict.fromkeys(("softmax", "log_softmax"), "Softmax"),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "instance_norm"), "LayerNormalization"),
}
_POOLS = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), "MaxPool"),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), "AveragePool"),
}
_MEANS = frozenset(
    ("mean", "sum", "amax", "var", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
    + ("adaptive_max_pool2d",)
)


@dataclass(frozen=True)
class TimedOp:
    """An operator that takes time.

    Attributes:
        node: its name.
        kernel: what it computes, apart from its widths.
        a: the dimensions whose sizes multiply to the kernel's first width.
        b: the same for the second.
        times: dimensions that say how often the kernel runs, as shares of their whole sizes.
        repeats: how often it runs in the whole program.
        divisor: of the second width: the groups of a grouped convolution.
    """

    node: str
    kernel: Kernel
    a: tuple[Factor, ...]
    b: tuple[Factor, ...] = ()
    times: tuple[Factor, ...] = ()
    repeats: int = 1
    divisor: int = 1


def timed_ops(axes: Axes) -> tuple[list[TimedOp], Mapping[str, int]]:
    """The operators of a program that take time, and how often which of them have no kernel of their own."""
    found = _Finder(axes)
    ops = [op for node in axes.program.nodes for op in found.ops(node)]
    return ops, dict(found.guessed)


class _Finder:
    def __init__(self, axes: Axes) -> None:
        self.shapes = axes.shapes
        self.nodes = {n.name: n for n in axes.program.nodes}
        self.uses = Counter(ref for n in axes.program.nodes for ref in n.refs)
        self.folded: set[str] = set()  # values that a convolution leaves in its own kernel
        self.guessed: Counter[str] = Counter()

    def ops(self, node: Node) -> Iterator[TimedOp]:
        """What a node costs: nothing, one kernel or several."""
        base = node.base
        if node.op in (INPUT, TENSOR) or node.op.startswith("builtin.") or base in _FREE:
            return
        if "conv" in base and base in CONTRACTIONS:
            self.folded.add(node.name)
            yield self._convolution(node)
        elif base in CONTRACTIONS:
            yield from self._products(node)
        elif self._folds(node):
            self.folded.add(node.name)
        elif isinstance(self.shapes[node.name], Tensor) or base in _PASSES:
            yield from self._pass(node)

    def _folds(self, node: Node) -> bool:
        if node.base != "batch_norm" and node.base not in _FUSED:
            return False
        source = node.args[0].name
        return source in self.folded and self.uses[source] == 1

    def _convolution(self, node: Node) -> TimedOp:
        x, weight = node.args[0].name, node.args[1].name
        taps = tuple(self.shapes[weight].shape[2:])
        rank = len(taps)
        rest = tuple(self.shapes[x].shape[2:])
        transposed = "transpose" in node.base
        groups = int(node.arg(8 if transposed else 6, "groups", 1))
        if transposed:  # as much work as a plain one on its input
            options = {"kernel_shape": taps, "pads": tuple(k // 2 for k in taps) * 2}
        else:
            dilations = _each(node.arg(5, "dilation", 1), rank)
            padding = node.arg(4, "padding", 0)
            if padding == "valid":
                padding = 0
            elif padding == "same":
                padding = tuple(d * (k - 1) // 2 for d, k in zip(dilations, taps, strict=True))
            options = {
                "kernel_shape": taps,
                "strides": _each(node.arg(3, "stride", 1), rank),
                "pads": _each(padding, rank) * 2,
                "dilations": dilations,
            }
        settings = tuple(options.items())
        if groups > 1 and self.shapes[x].shape[1] == groups:
            return TimedOp(node.name, Kernel("depthwise", rest, settings), ((node.name, 1),))
        if groups > 1:  # as often as there are groups, each from its share of the channels
            kernel, b = Kernel("conv", rest, settings), (x if transposed else node.name, 1)
            return TimedOp(node.name, kernel, ((weight, 1),), (b,), (), groups, groups)
        return TimedOp(node.name, Kernel("conv", rest, settings), ((x, 1),), ((node.name, 1),))

    def _products(self, node: Node) -> Iterator[TimedOp]:
        """Matrix products: the last two dimensions of each term are its widths, the others its rows."""
        operands = [self.nodes[r] for r in node.refs]
        weighted = any(o.op == TENSOR and len(self.shapes[o.name].shape) > 1 for o in operands)
        for term in mac_factors(node, self.shapes) or []:
            if len(term) < 2:  # two vectors: nothing to speak of
                continue
            *rows, b, a = term
            if weighted:
                rest: tuple[int, ...] = (self._count(rows),)
            else:
                rest = (self._count(rows[:-1]), self._count(rows[-1:]))
            kernel = Kernel("matmul" if weighted else "product", rest)
            yield TimedOp(node.name, kernel, (a,), (b,), tuple(rows))
        if node.base == "scaled_dot_product_attention":
            query, key = node.args[0].name, node.args[1].name
            scores = all_dims(query, self.shapes)[:-1]
            length = self.shapes[key].shape[-2]
            yield TimedOp(node.name, Kernel("Softmax", (length,)), tuple(scores))

    def _pass(self, node: Node) -> Iterator[TimedOp]:
        """Operators that go over their elements once."""
        base = node.base
        value = self.shapes[node.name]
        source = next((r for r in node.refs if isinstance(self.shapes[r], Tensor)), None)
        if not isinstance(value, Tensor):  # split and its like: as many elements as they take
            if source is None:
                return
            yield self._elements(node, "Transpose", source)
        elif base in _POOLS and source is not None:
            rank = len(self.shapes[source].shape) - 2
            taps = _each(node.arg(1, "kernel_size"), rank)
            strides = _each(node.arg(2, "stride", None) or taps, rank)
            options = (
                ("kernel_shape", taps),
                ("strides", strides),
                ("pads", _each(node.arg(3, "padding", 0), rank) * 2),
            )
            rest = tuple(self.shapes[source].shape[2:])
            yield TimedOp(node.name, Kernel(_POOLS[base], rest, options), ((source, 1),))
        elif base in _MEANS and source is not None:
            yield self._elements(node, "ReduceMean", source)
        elif base in _LAST_DIM:
            *rows, last = all_dims(node.name, self.shapes)
            if _LAST_DIM[base] == "Softmax":
                yield TimedOp(node.name, Kernel("Softmax", (self._count([last]),)), tuple(rows))
            else:
                yield TimedOp(
                    node.name, Kernel("LayerNormalization", (self._count(rows),)), (last,), (), tuple(rows)
                )
        else:
            if base not in _PASSES:
                self.guessed[node.op] += 1
            yield self._elements(node, _PASSES.get(base, "Mul"), node.name)

    def _elements(self, node: Node, kind: str, value: str) -> TimedOp:
        """A pass over the elements of a value: its second dimension is the width, the others the rest."""
        dims = all_dims(value, self.shapes)
        at = 1 if len(dims) > 2 or (len(dims) == 2 and kind != "ReduceMean") else 0
        rest = [d for i, d in enumerate(dims) if i != at]
        return TimedOp(
            node.name, Kernel(kind, (self._count(rest),)), tuple(dims[at : at + 1]), (), tuple(rest)
        )

    def _count(self, factors: Sequence[Factor]) -> int:
        return math.prod(int(self.shapes[name].shape[dim]) for name, dim in factors)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    """A setting for each dimension."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(int(v) for v in (values * rank if len(values) == 1 else values))
