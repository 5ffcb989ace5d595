"""One rule per family of operators: how the labels of its operands and of its result belong together.

A rule is a function of a ``Pass`` and a node. It says which labels are equal, which are summed over, which
must stay, and what labels the result carries. An operator without a rule pins whatever enters it and is
reported by name; nothing unknown is treated as element-wise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graph.labels import Labels, Pass, result_name
from graph.program import Node, Ref

Rule = Callable[[Pass, Node], None]
_RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators by their base names; a second rule for one operator is an error."""

    def add(function: Rule) -> Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"{op} already has the rule {_RULES[op].__name__}")
            _RULES[op] = function
        return function

    return add


# Operators whose work is multiply-adds; all others with a rule move, scale, compare or average.
CONTRACTIONS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})


def known_operators() -> tuple[str, ...]:
    """Base names of all operators with a rule, sorted."""
    return tuple(sorted(_RULES))


def apply(run: Pass, node: Node) -> None:
    """Run the rule of a node's operator."""
    found = _RULES.get(node.base)
    if found is not None:
        found(run, node)
    elif any(run.fields.get(r.name) or run.is_tensor(r) for r in run.operands(node)):
        pin_operands(run, node, f"no rule for {node.op}")
        run.unsupported(node)


def pin_operands(run: Pass, node: Node, reason: str) -> None:
    """Pin every label that enters a node."""
    for ref in run.operands(node):
        for found in list(run.fields.get(ref.name, {}).values()):
            run.pin(found.labels, reason, node)


@rule("sym_size", "floordiv", "mod")
def number(run: Pass, node: Node) -> None:
    """A size as a number: carries no labels."""


# Element by element


@rule(
    "relu", "relu6", "hardtanh", "sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid", "leaky_relu",
    "elu", "selu", "celu", "mish", "softplus", "softsign", "logsigmoid", "hardshrink", "softshrink", "clamp",
    "clamp_min", "clamp_max", "neg", "abs", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal",
    "square", "pow", "sin", "cos", "erf", "sign", "round", "floor", "ceil", "dropout", "feature_dropout",
    "alpha_dropout", "clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as", "add", "sub",
    "mul", "div", "rsub", "maximum", "minimum", "where", "masked_fill", "addcmul", "addcdiv", "lerp", "eq",
    "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "bitwise_not", "prelu",
    "zeros_like", "ones_like", "isnan", "isinf", "threshold", "atan", "sinh", "cosh",
)  # fmt: skip
def elementwise(run: Pass, node: Node) -> None:
    """Broadcasting: where two operands are both longer than 1, index i of one is index i of the other."""
    operands = run.operands(node)
    if not operands or not hasattr(run.full[node.name], "shape"):
        return
    rank = len(run.full[node.name].shape)
    if node.base == "prelu":
        return _prelu(run, node, operands)
    if node.base in ("to", "type_as"):
        operands = operands[:1]  # the second one names a type alone
    for dim in range(rank):
        present = [(r, dim - rank + len(run.size(r))) for r in operands]
        present = [(r, d) for r, d in present if d >= 0 and run.size(r)[d] > 1]
        _meet(run, node, dim, rank, present)


def _meet(run: Pass, node: Node, dim: int, rank: int, present: list[tuple[Ref, int]]) -> None:
    """Tie what the operands carry along one dimension of the result."""
    labelled = [(r, d) for r, d in present if run.field(r, d) is not None]
    moving = [(r, d) for r, d in present if not run.is_tensor(r)]
    if not labelled and moving:
        return  # fixed activations: a parameter that meets them stays as it is
    if not labelled and present:
        run.along(*present[0], node)
        labelled = [p for p in present if run.field(*p) is not None]
    if not labelled:
        return
    lead, lead_dim = labelled[0]
    found = run.field(lead, lead_dim)
    assert found is not None
    labels = found.labels.reshape((1,) * (rank - found.labels.ndim) + found.labels.shape)
    for ref, d in present:
        if (ref, d) != (lead, lead_dim):
            run.bind(ref, d, _project(run, labels, run.size(ref), node), node)
    run.put(node.name, dim, labels)


def _project(run: Pass, labels: Labels, size: tuple[int, ...], node: Node) -> Labels:
    """Labels of the result's rank as labels of an operand of lower rank or of size 1 in some dimensions."""
    for dim in range(labels.ndim):
        d = dim - labels.ndim + len(size)
        if labels.shape[dim] > 1 and (d < 0 or size[d] == 1):
            first = np.take(labels, [0], axis=dim)
            run.equate(labels, first, node)
            labels = first
    return labels.reshape(labels.shape[labels.ndim - len(size) :])


def _prelu(run: Pass, node: Node, operands: list[Ref]) -> None:
    x, weight = operands
    _carry(run, node, x, 1)
    labels = run.along(x, 1, node) if len(run.size(x)) > 1 else None
    if labels is not None:
        run.bind(weight, 0, labels, node)
        run.put(node.name, 1, labels)


# Contractions and normalisation


@rule("conv1d", "conv2d", "conv3d")
def convolution(run: Pass, node: Node) -> None:
    """out[:, o] = sum over i of weight[o, i] * x[:, i], within each of ``groups`` groups."""
    x, weight, bias = node.args[0], node.args[1], node.arg(2, "bias")
    groups = int(run.by_name[node.name].arg(6, "groups", 1))
    outs, ins = run.size(weight)[:2]
    if len(run.size(x)) < len(run.size(weight)):
        return pin_operands(run, node, f"{node.op} without a batch dimension")
    _pin_dims(run, node, x, "convolved over", 1)
    _pin_dims(run, node, weight, "kernel", 0, 1)
    labels = run.along(x, 1, node)
    if labels is None:
        _pin_dims(run, node, weight, "shared with a fixed input", 0, *range(2, len(run.size(weight))))
    weight_node = run.by_name[weight.name]
    if ins == 1 and groups > 1:  # depthwise: a filter of its own for each channel
        if labels is None:
            return
        repeated: Labels = np.repeat(labels, outs // groups)
        run.bind(weight, 0, repeated, node)
        result: Labels | None = repeated
    else:
        result = run.along(weight, 0, node)
        if labels is not None:
            per_group = labels.reshape(groups, -1)
            if groups == 1:
                run.bind(weight, 1, labels, node)
            else:
                assert result is not None
                run.balance(per_group, node)
                run.balance(result.reshape(groups, -1), node)
                rank = len(run.size(weight))
                rows = np.repeat(per_group, len(result) // groups, axis=0)
                run.bind(weight, 1, rows.reshape(*rows.shape, *[1] * (rank - 2)), node)
            run.contract(node, 0, 1, weight_node, 1)
        elif groups > 1 and result is not None:
            run.pin(result, "output of a grouped convolution whose input is fixed", node)
    if result is not None:
        if isinstance(bias, Ref):
            run.bind(bias, 0, result, node)
        run.put(node.name, 1, result)


@rule("linear")
def linear(run: Pass, node: Node) -> None:
    """out[..., o] = sum over i of weight[o, i] * x[..., i] + bias[o]."""
    x, weight, bias = node.args[0], node.args[1], node.arg(2, "bias")
    last = len(run.size(x)) - 1
    labels = run.along(x, last, node)
    if labels is not None:
        run.bind(weight, 1, labels, node)
        run.contract(node, 0, last, run.by_name[weight.name], 1)
    else:
        _pin_dims(run, node, weight, "shared with a fixed input", 0)
    _carry(run, node, x, last)
    result = run.along(weight, 0, node)
    if result is not None:
        if isinstance(bias, Ref):
            run.bind(bias, 0, result, node)
        run.put(node.name, last, result)


def _carry(run: Pass, node: Node, x: Ref, *without: int) -> None:
    """Hand the labels of x on to a result of the same rank, but for the dimensions named."""
    for dim in list(run.fields.get(x.name, {})):
        if dim not in without:
            labels = run.along(x, dim, node)
            if labels is not None:
                run.put(node.name, dim, labels)


def _pin_dims(run: Pass, node: Node, x: Ref, reason: str, *without: int) -> None:
    """Pin the labels of all dimensions of x but those named."""
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim not in without:
            run.pin(found.labels, f"{reason} in {node.op}", node)


@rule("batch_norm", "instance_norm")
def batch_norm(run: Pass, node: Node) -> None:
    """Each channel is normalised on its own; scale, shift and statistics follow it."""
    _pin_dims(run, node, node.args[0], "normalised over", 1)
    labels = run.along(node.args[0], 1, node)
    if labels is not None:
        for operand in node.args[1:5]:
            if isinstance(operand, Ref):
                run.bind(operand, 0, labels, node)
        run.put(node.name, 1, labels)


# Reductions and pooling


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
      "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
      "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")  # fmt: skip
def pooling(run: Pass, node: Node) -> None:
    """Windows over the last dimensions; batch and channels pass."""
    x = node.args[0]
    first = len(run.size(x)) - int(node.base[-2])  # the 2 of max_pool2d
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim >= first:
            run.pin(found.labels, f"pooled over in {node.op}", node)
        else:
            labels = run.along(x, dim, node)
            if labels is not None:
                for name in run.results(node):  # values, and indices if asked for
                    run.put(name, dim, labels)


@rule("mean", "sum", "amax", "amin", "var", "std", "prod")
def reduction(run: Pass, node: Node) -> None:
    """Reduced dimensions go; a channel dimension that is reduced must stay whole."""
    x = node.args[0]
    rank = len(run.size(x))
    given: Any = node.arg(1, "dim")
    if isinstance(given, bool):  # var(x, unbiased)
        given = None
    dims = range(rank) if given is None else [given] if isinstance(given, int) else given
    reduced = {d % rank for d in dims} or set(range(rank))
    keeps_dim = len(run.full[node.name].shape) == rank
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim in reduced:
            run.pin(found.labels, f"reduced over in {node.op}", node)
            continue
        labels = run.along(x, dim, node)
        if labels is not None:
            run.put(node.name, dim if keeps_dim else dim - sum(r < dim for r in reduced), labels)


# Movement: run on labels, see Pass.move


@rule(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "movedim",
    "swapaxes", "cat", "concat", "stack", "split", "split_with_sizes", "chunk", "unbind", "slice", "select",
    "narrow", "expand", "repeat", "squeeze", "unsqueeze", "pad", "constant_pad_nd", "roll", "flip",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "view_as", "expand_as", "repeat_interleave",
)  # fmt: skip
def movement(run: Pass, node: Node) -> None:
    """Elements move and none is computed."""
    if node.base in ("cat", "concat"):
        _tie_beside(run, node)
    run.move(node)


def _tie_beside(run: Pass, node: Node) -> None:
    """Joined values must agree in every dimension but the joined one."""
    parts: list[Ref] = list(node.args[0])
    rank = len(run.size(parts[0]))
    joined = int(node.arg(1, "dim", 0)) % rank
    for dim in range(rank):
        if dim == joined:
            continue
        with_labels = [p for p in parts if run.field(p, dim) is not None]
        for part in parts:
            if with_labels and part is not with_labels[0]:
                labels = run.along(with_labels[0], dim, node)
                assert labels is not None
                run.bind(part, dim, labels, node)


@rule("getitem")
def getitem(run: Pass, node: Node) -> None:
    """One of the results of an operator that has several."""
    source, index = node.args[0], node.args[1]
    for dim, found in run.fields.get(result_name(source.name, index), {}).items():
        run.put(node.name, dim, found.labels)
