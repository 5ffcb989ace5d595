"""One rule per family of operators: how the labels of its operands and of its result belong together.

A rule is a function of a ``Pass`` and a node. It says which labels are equal, which are summed over, which
must stay, and what labels the result carries. An operator without a rule pins whatever enters it and is
reported by name; nothing unknown is treated as element-wise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from graph.groups import Site
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
CONTRACTIONS = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "mm",
    "mv", "dot", "addmm", "bmm", "baddbmm", "matmul", "einsum", "bilinear", "scaled_dot_product_attention",
    "lstm", "gru", "rnn_tanh", "rnn_relu",
})  # fmt: skip


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


@rule("sym_size", "floordiv", "mod", "item", "_local_scalar_dense")
def number(run: Pass, node: Node) -> None:
    """A size as a number: carries no labels."""


# Element by element


@rule(
    "relu", "relu6", "hardtanh", "sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid", "leaky_relu",
    "elu", "selu", "celu", "mish", "softplus", "softsign", "logsigmoid", "log_sigmoid", "hardshrink",
    "softshrink", "tanhshrink", "clamp", "clamp_min", "clamp_max", "clip", "neg", "negative", "abs", "exp",
    "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "square", "pow", "sin",
    "cos", "tan", "erf", "erfc", "sign", "round", "floor", "ceil", "trunc", "frac", "dropout",
    "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "clone", "contiguous", "detach", "detach_",
    "alias", "to", "_to_copy", "type_as", "add", "sub", "subtract", "mul", "multiply", "div", "divide",
    "true_divide", "floor_divide", "remainder", "fmod", "rsub", "maximum", "minimum", "max", "min", "fmax",
    "fmin", "where", "masked_fill", "addcmul", "addcdiv", "lerp", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and", "bitwise_or",
    "bitwise_xor", "__and__", "__or__", "__xor__", "__rshift__", "__lshift__", "prelu", "zeros_like",
    "ones_like", "full_like", "empty_like", "isnan", "isinf", "isfinite", "nan_to_num", "threshold", "atan",
    "atan2", "asin", "acos", "sinh", "cosh", "sinc", "sgn", "real", "imag", "conj", "_conj", "angle",
    "complex", "polar", "copy", "lift_fresh_copy", "bool", "float", "xlogy", "logaddexp", "hypot",
    "special_expit", "expand_as", "sigmoid_", "fill", "zero", "rrelu", "view_as_complex_copy",
)  # fmt: skip
def elementwise(run: Pass, node: Node) -> None:
    """Broadcasting: where two operands are both longer than 1, index i of one is index i of the other."""
    operands = run.operands(node)
    if node.base in ("max", "min") and (len(operands) == 1 or node.op.endswith((".dim", ".default"))):
        return extremum(run, node)
    if not operands or not hasattr(run.full[node.name], "shape"):
        return
    rank = len(run.full[node.name].shape)
    if node.base == "prelu":
        return _prelu(run, node, operands)
    if node.base in ("to", "type_as"):
        operands = operands[:1]  # the second one names a type alone
    if node.base in ("copy", "fill"):
        operands = operands[1:] + operands[:1]
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


# Contractions


Term = tuple[Ref, str]


def contraction(run: Pass, node: Node, terms: list[Term], out: str) -> None:
    """A sum of products, in the letters of ``einsum``.

    A letter in several terms is the same channel in each; one that is missing in ``out`` is summed over.

    Args:
        run: the pass.
        node: the operator.
        terms: each operand with a letter for each of its dimensions.
        out: a letter for each dimension of the result.
    """
    for letter in dict.fromkeys("".join(letters for _, letters in terms)):
        holders = [(ref, letters) for ref, letters in terms if letter in letters]
        holders = [(ref, letters) for ref, letters in holders if run.size(ref)[letters.index(letter)] > 1]
        labelled = [h for h in holders if run.field(h[0], h[1].index(letter)) is not None]
        if not labelled and holders and all(run.is_tensor(ref) for ref, _ in holders):
            run.along(holders[0][0], holders[0][1].index(letter), node)
            labelled = holders[:1]
        if not labelled:
            continue
        ref, letters = labelled[0]
        found = run.field(ref, letters.index(letter))
        if found is None:
            continue
        for other, theirs in holders:
            if other is not ref:
                sizes = dict(zip(theirs, run.size(other), strict=True))
                labels = _aligned(run, node, found.labels, letters, theirs, sizes)
                run.bind(other, theirs.index(letter), labels, node)
        if letter in out:
            sizes = dict(zip(out, run.full[node.name].shape, strict=True))
            run.put(node.name, out.index(letter), _aligned(run, node, found.labels, letters, out, sizes))
        else:
            _consume(run, node, letter, labelled, holders)


def _aligned(
    run: Pass, node: Node, labels: Labels, letters: str, target: str, sizes: dict[str, int]
) -> Labels:
    """Labels over the dimensions of one operand as labels over those of another one."""
    for axis, letter in enumerate(letters):
        if labels.shape[axis] > 1 and sizes.get(letter, 1) == 1:
            first = np.take(labels, [0], axis=axis)
            run.equate(labels, first, node)
            labels = first
    kept = [letter for letter in target if letter in letters]
    labels = labels.transpose([letters.index(k) for k in kept] + [
        i for i, letter in enumerate(letters) if letter not in target])  # fmt: skip
    labels = labels.reshape(labels.shape[: len(kept)])
    return labels.reshape([labels.shape[kept.index(k)] if k in kept else 1 for k in target])


def _consume(run: Pass, node: Node, letter: str, labelled: list[Term], holders: list[Term]) -> None:
    """A sum over a letter: the mask lies on an activation where there is one."""
    ref, letters = next(((r, t) for r, t in labelled if r.name not in run.static), labelled[0])
    operand = next(i for i, a in enumerate(_flat(node)) if a[1] == ref)
    weight = next(((r, t.index(letter)) for r, t in holders if run.is_tensor(r) and r != ref), None)
    name = str(run.by_name[weight[0].name].args[0]) if weight else None
    dim = letters.index(letter)
    run.consume(
        Site(node.name, _flat(node)[operand][0], ref.name, dim, 0.0, name, weight[1] if weight else 0)
    )


def _flat(node: Node) -> list[tuple[tuple[int, ...], Any]]:
    """The arguments with their positions, lists unfolded."""
    result: list[tuple[tuple[int, ...], Any]] = []
    for i, arg in enumerate(node.args):
        if isinstance(arg, (list, tuple)):
            result += [((i, j), a) for j, a in enumerate(arg)]
        else:
            result.append(((i,), arg))
    return result


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@rule("linear")
def linear(run: Pass, node: Node) -> None:
    """out[..., o] = sum over i of weight[o, i] * x[..., i] + bias[o]."""
    x, weight, bias = node.args[0], node.args[1], node.arg(2, "bias")
    batch = _LETTERS[: len(run.size(x)) - 1]
    outs = "O" if len(run.size(weight)) == 2 else ""
    contraction(run, node, [(x, batch + "I"), (weight, outs + "I")], batch + outs)
    if isinstance(bias, Ref):
        _add_term(run, node, bias)


def _add_term(run: Pass, node: Node, term: Ref) -> None:
    """What is added to a result broadcasts over it."""
    rank = len(run.full[node.name].shape)
    for dim in range(rank):
        own = dim - rank + len(run.size(term))
        if own < 0 or run.size(term)[own] == 1:
            continue
        found = run.fields.get(node.name, {}).get(dim)
        if found is not None:
            run.bind(term, own, _project(run, found.labels, run.size(term), node), node)
        elif run.field(term, own) is not None:
            run.pin(run.fields[term.name][own].labels, f"meets fixed channels in {node.op}", node)


@rule("mm", "mv", "dot", "bmm", "matmul")
def product(run: Pass, node: Node) -> None:
    """Matrix products, batched or not."""
    terms, out = _product_terms(run, node.args[0], node.args[1])
    contraction(run, node, terms, out)


def _product_terms(run: Pass, left: Ref, right: Ref) -> tuple[list[Term], str]:
    a, b = len(run.size(left)), len(run.size(right))
    batch = max(a, b, 2) - 2
    letters = _LETTERS[:batch]
    first = letters[batch - max(0, a - 2) :] + ("MK" if a > 1 else "K")
    second = letters[batch - max(0, b - 2) :] + ("KN" if b > 1 else "K")
    out = letters + ("M" if a > 1 else "") + ("N" if b > 1 else "")
    return [(left, first), (right, second)], out


@rule("addmm", "baddbmm")
def added_product(run: Pass, node: Node) -> None:
    """Term + left @ right."""
    terms, out = _product_terms(run, node.args[1], node.args[2])
    contraction(run, node, terms, out)
    _add_term(run, node, node.args[0])


@rule("einsum")
def einsum(run: Pass, node: Node) -> None:
    """Sums of products as their equation says."""
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.args[1])
    left, _, out = equation.partition("->")
    letters = left.split(",")
    if "->" not in equation:
        every = "".join(letters).replace(".", "")
        out = ("..." if "..." in left else "") + "".join(sorted(c for c in set(every) if every.count(c) == 1))
    ranks = [len(run.size(o)) - len(t.replace("...", "")) for o, t in zip(operands, letters, strict=True)]
    free = [c for c in _LETTERS + _LETTERS.upper() if c not in equation]
    most = max((r for r, t in zip(ranks, letters, strict=True) if "..." in t), default=0)
    dots = "".join(free[:most])
    letters = [t.replace("...", dots[most - r :]) for t, r in zip(letters, ranks, strict=True)]
    out = out.replace("...", dots)
    if any(len(set(t)) < len(t) for t in letters):
        return pin_operands(run, node, f"diagonal taken by {node.op}")
    contraction(run, node, list(zip(operands, letters, strict=True)), out)


@rule("bilinear")
def bilinear(run: Pass, node: Node) -> None:
    """out[..., o] = sum over i, j of weight[o, i, j] * x[..., i] * y[..., j] + bias[o]."""
    batch = _LETTERS[: len(run.size(node.args[0])) - 1]
    x, y, weight = node.args[:3]
    contraction(run, node, [(x, batch + "I"), (y, batch + "J"), (weight, "OIJ")], batch + "O")
    if isinstance(node.arg(3, "bias"), Ref):
        _add_term(run, node, node.arg(3, "bias"))


@rule("scaled_dot_product_attention")
def attention(run: Pass, node: Node) -> None:
    """softmax(q k^T / sqrt(d)) v; with grouped queries each key head serves several query heads."""
    query, key, value = node.args[:3]
    mask = node.arg(3, "attn_mask")
    rank = len(run.size(query))
    _pin_dims(run, node, key, "attended over", *(d for d in range(rank) if d != rank - 2))
    _pin_dims(run, node, value, "attended over", *(d for d in range(rank) if d != rank - 2))
    tokens, last = rank - 2, rank - 1
    for dim in range(rank):
        holders = [query] if dim == tokens else [value] if dim == last else [query, key, value]
        holders = [h for h in holders if run.size(h)[dim] > 1]
        labels = next((run.field(h, dim) for h in holders if run.field(h, dim) is not None), None)
        if labels is None:
            continue
        full = _repeated(labels.labels, run.shape_now(query.name))
        for holder in holders:
            found = run.field(holder, dim)
            if found is None:
                run.pin(full, f"meets a value whose channels are fixed in {node.op}", node)
            else:
                run.equate(_repeated(found.labels, run.shape_now(query.name)), full, node)
        run.put(node.name, dim, full)
        if isinstance(mask, Ref) and dim < last:
            own = dim - rank + len(run.size(mask))
            if own >= 0 and run.size(mask)[own] > 1:
                run.bind(mask, own, _project(run, full, run.size(mask), node), node)
    if isinstance(mask, Ref):
        behind = rank - len(run.size(mask))
        for own, found in list(run.fields.get(mask.name, {}).items()):
            if own + behind == last or run.fields.get(node.name, {}).get(own + behind) is None:
                run.pin(found.labels, f"attended over in {node.op}", node)
    lanes = [h for h in (query, key) if run.field(h, last) is not None]
    if lanes:
        found = run.field(lanes[0], last)
        assert found is not None
        full = _repeated(found.labels, run.shape_now(query.name))
        for holder in (query, key):
            theirs = run.field(holder, last)
            if theirs is None:
                run.pin(full, f"meets a value whose channels are fixed in {node.op}", node)
            else:
                run.equate(_repeated(theirs.labels, run.shape_now(query.name)), full, node)
        operand = 0 if lanes[0] == query else 1
        run.consume(Site(node.name, (operand,), lanes[0].name, last))


def _repeated(labels: Labels, size: tuple[int, ...]) -> Labels:
    """Labels of fewer heads, each repeated for the query heads that it serves."""
    if labels.ndim > 2:
        heads = labels.ndim - 3
        if 1 < labels.shape[heads] < size[heads] and size[heads] % labels.shape[heads] == 0:
            return np.repeat(labels, size[heads] // labels.shape[heads], axis=heads)
    return labels


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
    if ins == 1 and groups > 1:  # depthwise: a filter of its own for each channel
        if labels is None:
            return
        repeated: Labels = np.repeat(labels, outs // groups)
        run.bind(weight, 0, repeated, node)
        result: Labels | None = repeated
    else:
        result = run.along(weight, 0, node)
        if labels is not None:
            if groups == 1:
                run.bind(weight, 1, labels, node)
            else:
                per_group = labels.reshape(groups, -1)
                run.balance(per_group, node)
                made = outs
                if result is not None:
                    run.balance(result.reshape(groups, -1), node)
                    made = len(result)
                rank = len(run.size(weight))
                rows = np.repeat(per_group, made // groups, axis=0)
                run.bind(weight, 1, rows.reshape(*rows.shape, *[1] * (rank - 2)), node)
            run.consume(Site(node.name, (0,), x.name, 1, 0.0, _table_name(run, weight), 1))
        elif groups > 1 and result is not None:
            run.pin(result, "output of a grouped convolution whose input is fixed", node)
    _channels_out(run, node, result, bias)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(run: Pass, node: Node) -> None:
    """As a convolution with weight[i, o]; each group has its own rows of inputs."""
    x, weight, bias = node.args[0], node.args[1], node.arg(2, "bias")
    groups = int(run.by_name[node.name].arg(6, "groups", 1))
    ins, outs = run.size(weight)[:2]
    if len(run.size(x)) < len(run.size(weight)):
        return pin_operands(run, node, f"{node.op} without a batch dimension")
    _pin_dims(run, node, x, "convolved over", 1)
    _pin_dims(run, node, weight, "kernel", 0, 1)
    labels = run.along(x, 1, node)
    if labels is None:
        _pin_dims(run, node, weight, "shared with a fixed input", *range(1, len(run.size(weight))))
    elif groups == 1 or groups == ins:
        run.bind(weight, 0, labels, node)
        if groups == 1:
            run.consume(Site(node.name, (0,), x.name, 1, 0.0, _table_name(run, weight), 0))
    result: Labels | None = None
    if groups == 1:
        result = run.along(weight, 1, node)
    elif labels is not None:
        if groups == ins:  # depthwise: what a channel makes goes with it
            result = np.repeat(labels, outs)
            _pin_dims(run, node, weight, "depthwise", 0)
        else:
            run.pin(labels, f"grouped {node.op}", node)
    _channels_out(run, node, result, bias)


def _table_name(run: Pass, ref: Ref) -> str | None:
    return str(run.by_name[ref.name].args[0]) if run.is_tensor(ref) else None


def _channels_out(run: Pass, node: Node, result: Labels | None, bias: Any) -> None:
    if result is not None:
        if isinstance(bias, Ref):
            run.bind(bias, 0, result, node)
        run.put(node.name, 1, result)


@rule("embedding")
def embedding(run: Pass, node: Node) -> None:
    """Rows of a table: the rows stay, their channels may go."""
    weight, indices = node.args[0], node.args[1]
    _pin_dims(run, node, weight, "looked up", 1)
    labels = run.along(weight, 1, node)
    shift = len(run.full[node.name].shape) - len(run.size(indices))
    for dim in list(run.fields.get(indices.name, {})):
        if (carried := run.along(indices, dim, node)) is not None:
            run.put(node.name, dim, carried)
    if labels is not None and shift == 1:
        run.put(node.name, len(run.size(indices)), labels)


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(run: Pass, node: Node) -> None:
    """Layers of gates over time; every layer and direction keeps equally many hidden channels."""
    if node.op.endswith(".data"):
        return pin_operands(run, node, "packed sequences")
    x, hidden, weights = node.args[:3]
    gates = {"lstm": 4, "gru": 3}.get(node.base, 1)
    states = list(hidden) if isinstance(hidden, (list, tuple)) else [hidden]
    bias, layers, directions = bool(node.args[3]), int(node.args[4]), 2 if node.args[7] else 1
    each = 4 if bias else 2
    units = [weights[i : i + each] for i in range(0, len(weights), each)]
    if len(units) != layers * directions or any(len(u) != each for u in units):
        return pin_operands(run, node, f"projections of {node.op}")
    last = len(run.size(x)) - 1
    entering = run.along(x, last, node)
    for ref in (x, *states):
        _pin_dims(run, node, ref, "runs over time", len(run.size(ref)) - 1)
    rows: list[Labels] = []
    for layer in range(layers):
        made: list[Labels] = []
        for direction in range(directions):
            w_in, w_hidden, *biases = units[layer * directions + direction]
            own = run.along(w_hidden, 1, node)
            if own is None:
                return pin_operands(run, node, f"hidden size of 1 in {node.op}")
            stacked = np.tile(own, gates)
            for ref in (w_in, w_hidden, *biases):
                run.bind(ref, 0, stacked, node)
            site = (2, (layer * directions + direction) * each)
            run.consume(Site(node.name, (2, site[1] + 1), w_hidden.name, 1, 0.0))
            if entering is not None:
                run.bind(w_in, 1, entering, node)
                run.consume(Site(node.name, site, w_in.name, 1, 0.0))
            else:
                _pin_dims(run, node, w_in, "shared with a fixed input", 0)
            made.append(own)
        rows += made
        entering = np.concatenate(made)
    table = np.stack(rows)
    run.balance(table, node)
    for ref in states:
        run.bind(ref, len(run.size(ref)) - 1, table.reshape(len(rows), 1, -1), node)
    names = run.results(node)
    if entering is not None:
        run.put(names[0], last, entering)
    for name in names[1:]:
        run.put(name, 2, table.reshape(len(rows), 1, -1))


# Normalisation and statistics: those of the channels that remain


def _carry(run: Pass, node: Node, x: Ref, *without: int) -> None:
    """Hand the labels of x on to a result of the same rank, but for the dimensions named."""
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim not in without:
            labels = found.labels
            for other in without:
                labels = _one(run, node, labels, other)
            for name in run.results(node):
                run.put(name, dim, labels)


def _one(run: Pass, node: Node, labels: Labels, axis: int) -> Labels:
    """Labels that no longer depend on an axis."""
    if labels.shape[axis] == 1:
        return labels
    first = np.take(labels, [0], axis=axis)
    run.equate(labels, first, node)
    return first


def _pin_dims(run: Pass, node: Node, x: Ref, reason: str, *without: int) -> None:
    """Pin the labels of all dimensions of x but those named."""
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim not in without:
            run.pin(found.labels, f"{reason} in {node.op}", node)


def _statistic(run: Pass, node: Node, x: Ref, dim: int, fills: float | None = None) -> bool:
    """Computed over labelled channels: those that remain."""
    if run.field(x, dim) is None:
        return False
    position = next(p for p, a in _flat(node) if a == x)
    run.consume(Site(node.name, position, x.name, dim, fills))
    return True


@rule("batch_norm", "instance_norm")
def batch_norm(run: Pass, node: Node) -> None:
    """Each channel is normalised on its own; scale, shift and statistics follow it."""
    x = node.args[0]
    _pin_dims(run, node, x, "normalised over", 1, *([0] if node.base == "instance_norm" else []))
    labels = run.along(x, 1, node)
    if labels is not None:
        for operand in node.args[1:5]:
            if isinstance(operand, Ref):
                run.bind(operand, 0, labels, node)
        run.put(node.name, 1, labels)


@rule("layer_norm", "rms_norm")
def layer_norm(run: Pass, node: Node) -> None:
    """Statistics over the last dimensions; scale and shift follow the channels."""
    x, count = node.args[0], len(node.args[1])
    first = len(run.size(x)) - count
    names = (2,) if node.base == "rms_norm" else (2, 3)
    scales = [
        a for i, n in zip(names, ("weight", "bias"), strict=False) if isinstance(a := node.arg(i, n), Ref)
    ]
    for dim, found in list(run.fields.get(x.name, {}).items()):
        labels = found.labels
        if dim >= first:
            if not _statistic(run, node, x, dim):
                continue
            for scale in scales:
                run.bind(scale, dim - first, _project(run, labels, run.size(scale), node), node)
        elif any(labels.shape[d] > 1 for d in range(first, labels.ndim)):
            for other in range(first, labels.ndim):
                labels = _one(run, node, labels, other)
        run.put(node.name, dim, labels)
    for scale in scales:  # fixed channels: their scales stay, too
        for dim in range(count):
            if run.field(x, first + dim) is None:
                _pin_dims(
                    run, node, scale, "normalises fixed channels", *(d for d in range(count) if d != dim)
                )


@rule("group_norm")
def group_norm(run: Pass, node: Node) -> None:
    """Statistics over rows of channels of equal length."""
    x, groups = node.args[0], int(node.args[1])
    _pin_dims(run, node, x, "normalised over", 0, 1)
    labels = run.along(x, 1, node)
    if labels is None or not _statistic(run, node, x, 1):
        return
    run.balance(labels.reshape(groups, -1), node)
    for position, name in ((2, "weight"), (3, "bias")):
        scale = node.arg(position, name)
        if isinstance(scale, Ref):
            run.bind(scale, 0, labels, node)
    run.put(node.name, 1, labels)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin", "logit", "cumsum", "cumprod",
      "logcumsumexp", "cummax", "cummin")  # fmt: skip
def along_one(run: Pass, node: Node) -> None:
    """Computed along one dimension, which keeps its size."""
    x = node.args[0]
    _source_all(run, node, x)
    dim = int(node.args[1]) % max(1, len(run.size(x))) if len(node.args) > 1 else -1
    if dim >= 0 and run.field(x, dim) is not None:
        if node.base in ("cummax", "cummin", "logcumsumexp"):
            run.pin(run.fields[x.name][dim].labels, f"compared over in {node.op}", node)
        else:
            _statistic(run, node, x, dim, {"cumsum": 0.0, "cumprod": 1.0}.get(node.base, -math.inf))
    _carry(run, node, x)


_FILLS = {"sum": 0.0, "nansum": 0.0, "prod": 1.0, "amax": -math.inf, "amin": math.inf, "any": 0.0, "all": 1.0,
          "logsumexp": -math.inf, "linalg_vector_norm": 0.0, "norm": 0.0,
          "count_nonzero": 0.0}  # fmt: skip


@rule("mean", "sum", "amax", "amin", "var", "std", "prod", "nansum", "logsumexp", "linalg_vector_norm",
      "norm", "any", "all", "var_mean", "std_mean", "count_nonzero")  # fmt: skip
def reduction(run: Pass, node: Node) -> None:
    """Reduced dimensions go; over channels, those that remain are reduced."""
    x = node.args[0]
    position = 2 if node.base in ("linalg_vector_norm", "norm") else 1
    given: Any = node.arg(position, "dim")
    if isinstance(given, bool):  # var(x, unbiased)
        given = None
    _reduce(run, node, x, given, _FILLS.get(node.base))


def _reduce(run: Pass, node: Node, x: Ref, given: Any, fills: float | None) -> None:
    _source_all(run, node, x)
    rank = len(run.size(x))
    dims = range(rank) if given is None else [given] if isinstance(given, int) else given
    reduced = {d % max(1, rank) for d in dims} or set(range(rank))
    names = run.results(node)
    keeps_dim = len(run.full[names[0]].shape) == rank
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim in reduced:
            if fills is not None and math.isnan(fills):
                run.pin(found.labels, f"compared over in {node.op}", node)
            else:
                _statistic(run, node, x, dim, fills)
            continue
        labels = found.labels
        for other in reduced:
            labels = _one(run, node, labels, other)
        if not keeps_dim:
            labels = labels.reshape([s for d, s in enumerate(labels.shape) if d not in reduced])
        for name in names:
            run.put(name, dim if keeps_dim else dim - sum(r < dim for r in reduced), labels)


@rule("argmax", "argmin", "median", "nanmedian", "mode", "kthvalue")
def extremum(run: Pass, node: Node) -> None:
    """One element along a dimension, told by its position: that dimension stays."""
    given = node.arg(2 if node.base == "kthvalue" else 1, "dim")
    _reduce(run, node, node.args[0], given, math.nan)


@rule("diff")
def differences(run: Pass, node: Node) -> None:
    """Neighbours along one dimension, which stays; the others pass."""
    dim = int(node.arg(2, "dim", -1)) % max(1, len(run.size(node.args[0])))
    for ref in run.operands(node):
        _source_all(run, node, ref)
        if (found := run.field(ref, dim)) is not None:
            run.pin(found.labels, f"compared over in {node.op}", node)
    _carry(run, node, node.args[0], dim)
    for ref in run.operands(node)[1:]:
        _add_beside(run, node, ref, dim)


def _add_beside(run: Pass, node: Node, ref: Ref, dim: int) -> None:
    """What is put before or behind agrees in every other dimension."""
    for d in range(len(run.size(ref))):
        found = run.fields.get(node.name, {}).get(d)
        if d != dim and found is not None:
            run.bind(ref, d, found.labels, node)
        elif d != dim and run.field(ref, d) is not None:
            run.pin(run.fields[ref.name][d].labels, f"meets fixed channels in {node.op}", node)


@rule("topk", "sort", "argsort")
def ordering(run: Pass, node: Node) -> None:
    """Sorted along one dimension, which stays."""
    x = node.args[0]
    position = 2 if node.base == "topk" else 1
    dim = node.arg(position, "dim", -1)
    dim = (dim if isinstance(dim, int) and not isinstance(dim, bool) else -1) % max(1, len(run.size(x)))
    if run.field(x, dim) is not None:
        run.pin(run.fields[x.name][dim].labels, f"sorted over in {node.op}", node)
    _carry(run, node, x, dim)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
      "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
      "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
      "upsample_linear1d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
      "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
      "_upsample_bicubic2d_aa", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d")  # fmt: skip
def pooling(run: Pass, node: Node) -> None:
    """Windows over the last dimensions; batch and channels pass."""
    x = node.args[0]
    count = int(next(c for c in node.base if c.isdigit()))  # the 2 of max_pool2d
    first = len(run.size(x)) - count
    _pin_dims(run, node, x, "pooled over", *range(first))
    _carry(run, node, x, *range(first, first + count))


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sampling(run: Pass, node: Node) -> None:
    """Channels pass; where they are sampled does not depend on them."""
    x, grid = node.args[:2]
    _pin_dims(run, node, x, "sampled over", 1)
    _pin_dims(run, node, grid, "names positions", *range(0))
    labels = run.along(x, 1, node)
    if labels is not None:
        run.put(node.name, 1, labels)


@rule("im2col")
def im2col(run: Pass, node: Node) -> None:
    """Each channel becomes one channel for each element of the window."""
    x = node.args[0]
    _pin_dims(run, node, x, "unfolded over", 1)
    labels = run.along(x, 1, node)
    if labels is not None:
        run.put(node.name, 1, np.repeat(labels, math.prod(node.args[1])))


@rule("col2im")
def col2im(run: Pass, node: Node) -> None:
    """The elements of the window of each channel become one channel."""
    x, window = node.args[0], math.prod(node.args[2])
    _pin_dims(run, node, x, "folded over", 1)
    labels = run.along(x, 1, node)
    if labels is not None:
        rows = labels.reshape(-1, window)
        run.equate(rows, rows[:, :1], node)
        run.put(node.name, 1, rows[:, 0])


@rule("glu")
def glu(run: Pass, node: Node) -> None:
    """The first half times the sigmoid of the second half."""
    x = node.args[0]
    dim = int(node.arg(1, "dim", -1)) % len(run.size(x))
    found = run.field(x, dim)
    if found is not None:
        first, second = np.split(found.labels, 2, axis=dim)
        run.equate(first, second, node)
        run.put(node.name, dim, first)
    _carry(run, node, x, dim)


@rule("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_fftn", "fft_rfft2", "fft_irfft2",
      "fft_rfftn", "fft_irfftn", "fft_ifft2", "fft_ifftn", "_fft_c2c", "_fft_r2c", "_fft_c2r")  # fmt: skip
def fourier(run: Pass, node: Node) -> None:
    """Transformed dimensions stay, the others pass."""
    x = node.args[0]
    rank = len(run.size(x))
    low = node.base.startswith("_")
    given = node.arg(1 if low else 2, "dim")
    if given is None:
        sizes = node.arg(1, "s")
        count = 2 if node.base.endswith("2") else len(sizes) if isinstance(sizes, (list, tuple)) else rank
        given = list(range(-count, 0)) if node.base.endswith(("n", "2")) else [-1]
    dims = [d % rank for d in ([given] if isinstance(given, int) else given)]
    _pin_dims(run, node, x, "transformed", *(d for d in range(rank) if d not in dims))
    _carry(run, node, x, *dims)


@rule("view_as_complex", "view_as_real")
def complex_view(run: Pass, node: Node) -> None:
    """Pairs of numbers as one complex number, and back."""
    x = node.args[0]
    if node.base == "view_as_complex":
        _pin_dims(run, node, x, "pairs", *range(len(run.size(x)) - 1))
    for dim, found in list(run.fields.get(x.name, {}).items()):
        labels = found.labels
        if node.base == "view_as_real":
            run.put(node.name, dim, labels[..., None])
        elif dim < len(run.size(x)) - 1:
            vector = labels if labels.shape[-1] == 1 else np.take(labels, [0], axis=-1)
            run.equate(labels, vector, node)
            run.put(node.name, dim, vector[..., 0])


@rule("one_hot", "bucketize", "searchsorted", "arange", "linspace", "eye", "scalar_tensor", "tensor", "rand",
      "randn", "tril_indices", "triu_indices", "meshgrid", "nonzero", "hann_window")  # fmt: skip
def positions(run: Pass, node: Node) -> None:
    """Numbers that name positions: what enters stays as it is."""
    pin_operands(run, node, f"becomes positions in {node.op}")


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def creation(run: Pass, node: Node) -> None:
    """The same number everywhere: any length will do."""
    sizes = node.args[0] if node.base in ("zeros", "ones", "full", "empty") else node.args[1]
    for dim, size in enumerate(sizes):
        if isinstance(size, int):
            run.create(node.name, dim)


@rule("tril", "triu", "diagonal", "diag_embed", "rot90", "trace")
def diagonal(run: Pass, node: Node) -> None:
    """The last two dimensions name positions of each other; the others pass."""
    x = node.args[0]
    rank = len(run.size(x))
    if node.base not in ("tril", "triu"):
        return pin_operands(run, node, f"{node.op} names positions among them")
    _pin_dims(run, node, x, "names positions", *range(rank - 2))
    _carry(run, node, x, rank - 2, rank - 1)


# Lookups: positions given by integers


@rule("index", "index_select", "gather", "take_along_dim", "index_put", "index_add", "index_copy", "scatter",
      "scatter_add", "scatter_reduce", "index_fill", "masked_scatter", "masked_select", "select_scatter",
      "slice_scatter_", "index_reduce", "take")  # fmt: skip
def lookup(run: Pass, node: Node) -> None:
    """Dimensions that integers point into stay; the others pass."""
    handler = {"index": _index, "index_put": _index_put}.get(node.base)
    if handler is not None:
        return handler(run, node)
    if node.base in ("index_select", "gather", "take_along_dim"):
        x, dim, ids = node.args[0], node.args[1], node.args[2]
        if node.base == "take_along_dim":
            dim, ids = node.arg(2, "dim"), node.args[1]
        if not isinstance(dim, int) or not isinstance(ids, Ref):
            return pin_operands(run, node, f"{node.op} names positions among them")
        dim %= max(1, len(run.size(x)))
        return _look_up(run, node, x, dim, ids)
    if node.base in ("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "select_scatter"):
        return _scatter(run, node)
    pin_operands(run, node, f"{node.op} names positions among them")


def _look_up(run: Pass, node: Node, x: Ref, dim: int, ids: Ref) -> None:
    """index_select(x, dim, ids), gather(x, dim, ids)."""
    _source_all(run, node, x)
    found = run.field(x, dim)
    if found is not None:
        run.pin(found.labels, f"{node.op} names positions among them", node)
    for d, f in list(run.fields.get(x.name, {}).items()):
        if d == dim:
            continue
        labels = f.labels
        labels = _one(run, node, labels, dim)
        if node.base != "index_select" and run.size(ids)[d] > 1:
            run.bind(ids, d, labels, node)
        run.put(node.name, d, labels)
    own = run.field(ids, dim if node.base != "index_select" else 0)
    if own is not None:
        run.pin(own.labels, f"positions in {node.op}", node)
    if node.base != "index_select":
        for d, f in list(run.fields.get(ids.name, {}).items()):
            if d != dim and run.field(x, d) is None and run.size(x)[d] > 1:
                run.pin(f.labels, f"positions in {node.op}", node)


def _scatter(run: Pass, node: Node) -> None:
    """scatter(x, dim, ids, source): all of them agree in the other dimensions."""
    x, dim = node.args[0], node.args[1]
    if node.base == "select_scatter":
        dim = node.args[2]
    if not isinstance(dim, int):
        return pin_operands(run, node, f"{node.op} names positions among them")
    rank = len(run.size(x))
    dim %= max(1, rank)
    others = [r for r in run.operands(node) if r != x]
    for ref in (x, *others):
        for d, f in list(run.fields.get(ref.name, {}).items()):
            if len(run.size(ref)) != rank or d == dim:
                run.pin(f.labels, f"{node.op} names positions among them", node)
    present = [r for r in (x, *others) if len(run.size(r)) == rank]
    for d in range(rank):
        if d == dim:
            continue
        held = [(r, d) for r in present if run.size(r)[d] > 1]
        if any(run.size(r)[d] != run.size(x)[d] for r, _ in held):
            for r, _ in held:
                if (part := run.field(r, d)) is not None:
                    run.pin(part.labels, f"part of them named by {node.op}", node)
            continue
        _meet(run, node, d, rank, held)


def _index(run: Pass, node: Node) -> None:
    """x[ids_0, :, ids_2]: where an index is given, positions; else the channels pass."""
    x, indices = node.args[0], list(node.args[1])
    _source_all(run, node, x)
    rank = len(run.size(x))
    indices += [None] * (rank - len(indices))
    given = [i for i in indices if isinstance(i, Ref)]
    used: list[int] = []
    dim = 0
    for i in indices:
        width = 1
        if isinstance(i, Ref):
            if run.full[i.name].dtype in (torch.bool, torch.uint8):
                width = len(run.size(i))
            used += range(dim, dim + width)
        dim += width
        if dim >= rank:
            break
    for ref in given:
        for f in run.fields.get(ref.name, {}).values():
            run.pin(f.labels, f"positions in {node.op}", node)
    for d in used:
        if (f0 := run.field(x, d)) is not None:
            run.pin(f0.labels, f"{node.op} names positions among them", node)
    shape = np.broadcast_shapes(*(run.size(i) for i in given)) if len(used) == len(given) else (0,)
    together = used == list(range(used[0], used[-1] + 1)) if used else True
    first = used[0] if together and used else 0
    for d, f in list(run.fields.get(x.name, {}).items()):
        if d in used:
            continue
        labels = f.labels
        for other in used:
            labels = _one(run, node, labels, other)
        rest = [k for k in range(rank) if k not in used]
        shape_rest = [labels.shape[k] for k in rest]
        at = sum(k < first for k in rest)
        array = labels.reshape(shape_rest[:at] + [1] * len(shape) + shape_rest[at:])
        place = rest.index(d) + (len(shape) if rest.index(d) >= at else 0)
        run.put(node.name, place, array)


def _index_put(run: Pass, node: Node) -> None:
    """Values at positions: the indexed dimensions stay, the others agree."""
    x, indices, values = node.args[0], list(node.args[1]), node.args[2]
    rank, count = len(run.size(x)), len(indices)
    for ref in indices:
        if isinstance(ref, Ref):
            for f in run.fields.get(ref.name, {}).values():
                run.pin(f.labels, f"positions in {node.op}", node)
            if run.full[ref.name].dtype == torch.bool:
                count = max(count, len(run.size(ref)))
    if any(i is None for i in indices):
        return pin_operands(run, node, f"{node.op} names positions among them")
    for d, f in list(run.fields.get(x.name, {}).items()):
        if d < count:
            run.pin(f.labels, f"{node.op} names positions among them", node)
    for d in range(count, rank):
        own = d - rank + len(run.size(values)) if isinstance(values, Ref) else -1
        held = [(x, d)] if run.size(x)[d] > 1 else []
        if own >= 0 and run.size(values)[own] > 1:
            held.append((values, own))
        _meet_flat(run, node, d, rank, held)
    if isinstance(values, Ref):
        for d, f in list(run.fields.get(values.name, {}).items()):
            if d < len(run.size(values)) - (rank - count):
                run.pin(f.labels, f"{node.op} names positions among them", node)


def _meet_flat(run: Pass, node: Node, dim: int, rank: int, held: list[tuple[Ref, int]]) -> None:
    """As ``_meet``, with labels that depend on no other dimension."""
    found = next((labels for r, d in held if (labels := run.along(r, d, node)) is not None), None)
    if found is None:
        return
    for ref, d in held:
        run.bind(ref, d, found, node)
    run.put(node.name, dim, found)


def _source_all(run: Pass, node: Node, ref: Ref) -> None:
    """Give every dimension of a parameter labels: an operator will carry them on."""
    if run.is_tensor(ref):
        for dim in range(len(run.size(ref))):
            run.along(ref, dim, node)


# Movement: run on labels, see Pass.move


@rule(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "mT",
    "swapaxes", "cat", "concat", "stack", "split", "split_with_sizes", "chunk", "tensor_split", "unbind",
    "slice", "select", "narrow", "expand", "repeat", "squeeze", "unsqueeze", "pad", "constant_pad_nd", "roll",
    "flip", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "view_as",
    "repeat_interleave", "unfold", "slice_scatter", "numpy_T", "adjoint", "reflection_pad1d",
    "reflection_pad2d", "replication_pad1d", "replication_pad2d", "hsplit", "vsplit", "reshape_as",
    "tile", "swapdims", "moveaxis", "broadcast_to", "as_strided", "permute_copy", "atleast_1d",
)  # fmt: skip
def movement(run: Pass, node: Node) -> None:
    """Elements move and none is computed."""
    operands = run.operands(node)
    if node.base in ("view_as", "reshape_as"):
        operands = operands[:1]
    for ref in operands:
        _source_all(run, node, ref)
    if not any(run.fields.get(r.name) for r in operands) and node.base not in ("expand", "broadcast_to"):
        return
    if node.base in ("repeat_interleave", "repeat", "tile", "as_strided") and len(run.operands(node)) > 1:
        return pin_operands(run, node, f"{node.op} names positions among them")
    if node.base in ("cat", "concat"):
        _tie_beside(run, node, list(node.args[0]), int(node.arg(1, "dim", 0)))
    if node.base == "slice_scatter":
        _tie_beside(run, node, [node.args[0], node.args[1]], int(node.arg(2, "dim", 0)))
    if _positional(run, node):
        for dim, found in list(run.fields.get(operands[0].name, {}).items()):
            if _touched(run, node, dim):
                run.pin(found.labels, f"{node.op} names positions among them", node)
    run.move(node)
    if node.base in ("expand", "broadcast_to"):
        x, sizes = node.args[0], node.args[1]
        shift = len(sizes) - len(run.size(x))
        for dim, size in enumerate(sizes):
            old = run.size(x)[dim - shift] if dim >= shift else 1
            if old == 1 and isinstance(size, int) and size > 1:
                run.create(node.name, dim)


def _positional(run: Pass, node: Node) -> bool:
    """Whether an operator's arguments name positions that do not follow when channels go."""
    if node.base in ("pad", "constant_pad_nd"):
        negative = any(isinstance(a, int) and a < 0 for a in node.args[1])
        return negative or node.arg(2, "mode", "constant") not in ("constant", 0, 0.0, None)
    return node.base in ("unfold", "channel_shuffle", "as_strided", "reflection_pad1d", "reflection_pad2d",
                         "replication_pad1d", "replication_pad2d")  # fmt: skip


def _touched(run: Pass, node: Node, dim: int) -> bool:
    """Whether a positional operator works on a dimension."""
    rank = len(run.size(node.args[0]))
    if node.base == "unfold":
        return dim == int(node.args[1]) % rank
    if node.base in ("channel_shuffle", "as_strided"):
        return True
    amounts = node.args[1]
    pair = 2 * (rank - 1 - dim)
    return pair < len(amounts) and any(amounts[pair : pair + 2])


def _tie_beside(run: Pass, node: Node, parts: list[Ref], joined: int) -> None:
    """Joined values must agree in every dimension but the joined one."""
    parts = [p for p in parts if len(run.size(p)) > 1 or run.size(p) != (0,)]
    rank = len(run.size(parts[0]))
    for dim in range(rank):
        if dim == joined % rank:
            continue
        lead = next((p for p in parts if run.field(p, dim) is not None), None)
        for part in parts:
            if lead is not None and part is not lead:
                found = run.field(lead, dim)
                assert found is not None
                labels = found.labels
                if labels.shape[joined % rank] > 1:
                    first = np.take(labels, [0], axis=joined % rank)
                    run.equate(labels, first, node)
                    labels = first
                run.bind(part, dim, labels, node)


@rule("getitem")
def getitem(run: Pass, node: Node) -> None:
    """One of the results of an operator that has several."""
    source, index = node.args[0], node.args[1]
    if not isinstance(run.full[node.name], torch.Tensor):
        return
    for dim, found in run.fields.get(result_name(source.name, index), {}).items():
        run.put(node.name, dim, found.labels)
