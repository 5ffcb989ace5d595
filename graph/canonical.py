"""Canonical forms: the operators of decomposed exports, written as the ones that models call.

An exported program may come in the core set of ATen, where a normalisation also returns its statistics, and
every convolution is one operator. The forms that models call are the ones that train, that have rules, and
that ONNX knows; where nobody reads more than the first result, both compute the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from graph.program import Node, refs_in

Arguments = tuple[Any, ...]
Form = tuple[str, Arguments, dict[str, Any]]


def canonical(nodes: Sequence[Node], output: Any) -> list[Node]:
    """Rewrite the nodes of a program one by one.

    Args:
        nodes: of a program, in order.
        output: of the program.

    Returns:
        The nodes under the same names, without those of which only the first result was read.
    """
    firsts = {n.name: n.args[0].name for n in nodes if n.op == "builtin.getitem" and n.args[1] == 0}
    uses = Counter(r for n in nodes for r in n.refs) + Counter(r.name for r in refs_in(output))
    once = {source for source in firsts.values() if uses[source] == 1}
    forms = {n.name: _SEVERAL[n.base](n) for n in nodes if n.name in once and n.base in _SEVERAL}
    result = []
    for node in nodes:
        if node.name in forms:
            continue
        form = forms.get(firsts.get(node.name, ""))
        if node.base == "convolution":
            form = _convolution(node)
        result.append(node if form is None else Node(node.name, form[0], form[1], form[2], node.module))
    return result


def _convolution(node: Node) -> Form:
    """convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    rank = len(stride)
    if transposed:
        args = (x, weight, bias, stride, padding, output_padding, groups, dilation)
        return f"aten.conv_transpose{rank}d.{'default' if rank == 1 else 'input'}", args, {}
    return f"aten.conv{rank}d.default", (x, weight, bias, stride, padding, dilation, groups), {}


def _layer_norm(node: Node) -> Form:
    return "aten.layer_norm.default", node.args, {}


def _group_norm(node: Node) -> Form:
    """native_group_norm(x, weight, bias, N, C, positions, groups, eps)."""
    x, weight, bias, *_, groups, eps = node.args
    return "aten.group_norm.default", (x, groups, weight, bias, eps), {}


def _batch_norm(node: Node) -> Form:
    """_native_batch_norm_legit_no_training(x, weight, bias, mean, variance, momentum, eps)."""
    *given, momentum, eps = node.args
    return "aten.batch_norm.default", (*given, False, momentum, eps, True), {}


def _dropout(node: Node) -> Form:
    return "aten.dropout.default", (*node.args[:2], False), {}


def _attention(node: Node) -> Form:
    """_scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, causal, attn_mask=, scale=)."""
    query, key, value = node.args[:3]
    dropout, causal = node.arg(3, "dropout_p", 0.0), node.arg(4, "is_causal", False)
    args = (query, key, value, node.kwargs.get("attn_mask"), dropout, causal)
    return "aten.scaled_dot_product_attention.default", args, {"scale": node.kwargs.get("scale")}


def _max_pool(node: Node) -> Form:
    return f"aten.{node.base.removesuffix('_with_indices')}.default", node.args, dict(node.kwargs)


_SEVERAL: dict[str, Callable[[Node], Form]] = {
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_dropout": _dropout,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "max_pool2d_with_indices": _max_pool,
    "max_pool3d_with_indices": _max_pool,
}
