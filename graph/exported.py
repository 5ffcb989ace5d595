"""What the nodes of an exported graph are: their names as operators, and which of them matter."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graph.blame import TYPES, unsupported

# Checks that the exporter leaves behind; they compute nothing.
_CHECKS = ("_assert", "sym_constrain", "assert_", "_check")
_BUILTIN_NAMES: dict[Any, str] = {
    operator.getitem: "getitem",
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.floordiv: "floordiv",
    operator.truediv: "truediv",
    operator.mod: "mod",
    operator.pow: "pow",
    operator.neg: "neg",
    operator.eq: "eq",
    operator.ne: "ne",
    operator.lt: "lt",
    operator.le: "le",
    operator.gt: "gt",
    operator.ge: "ge",
    operator.and_: "and",
    operator.or_: "or",
    math.ceil: "ceil",
    math.floor: "floor",
    math.trunc: "trunc",
    round: "round",
    torch.sym_int: "int",
    torch.sym_float: "float",
    torch.sym_max: "max",
    torch.sym_min: "min",
    torch.sym_not: "not",
    torch.sym_ite: "ite",
}
# Operators whose factors have one type; the exporter does not look, the kernels do.
PRODUCTS = {"linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d"}

# Take away dimensions of size 1, which other dimensions may come to be.
SQUEEZES = {"aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims"}


def changes(graph: torch.fx.GraphModule) -> bool:
    """Whether anything in the graph, or in a part of it, changes a tensor in place."""
    return any(
        isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for part in graph.modules()
        if isinstance(part, torch.fx.GraphModule)
        for node in part.graph.nodes
    )


def wanted(graph: torch.fx.GraphModule) -> set[torch.fx.Node]:
    """The nodes that the result or a change in place depends on; not the checks and what only they read."""
    found: set[torch.fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        target = node.target
        check = node.op == "call_function" and base_name(target).startswith(_CHECKS)
        acts = isinstance(target, torch._ops.HigherOrderOperator) or (
            isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
        )
        if not check and (node in found or node.op == "output" or acts):
            found.add(node)
            found.update(node.all_input_nodes)
    return found


def check_types(node: torch.fx.Node) -> None:
    """Refuse a product of tensors of different types, which the kernels would refuse.

    Raises:
        CaptureError: names the line.
    """
    values = [n.meta.get("val") for n in node.all_input_nodes]
    kinds = sorted({str(v.dtype).removeprefix("torch.") for v in values if isinstance(v, Tensor)})
    if len(kinds) > 1:
        raise unsupported(
            f"{base_name(node.target)} is given numbers of different types, {' and '.join(kinds)}",
            node,
            TYPES,
        )


def squeezed(shape: Sequence[Any], dims: int | Sequence[int] | None = None) -> list[int]:
    """The dimensions that a squeeze takes away: no others when channels go or the batch is of one.

    Args:
        shape: of its operand; a free size is no number and stays.
        dims: those that the user named, all where none are.
    """
    rank = len(shape)
    named = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    return [
        d for d in range(rank) if isinstance(shape[d], int) and shape[d] == 1 and {d, d - rank} & {*named}
    ]


def base_name(target: Any) -> str:
    """An operator's name without name space and overload."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).split("::")[1]
    return _BUILTIN_NAMES.get(target, str(getattr(target, "__name__", target)))


def op_name(node: torch.fx.Node) -> str:
    """An operator's name in a program.

    Raises:
        CaptureError: the operator is not one of PyTorch's own.
    """
    target: Callable[..., Any] | str = node.target
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        if namespace == "aten":
            return f"aten.{name}.{target._overloadname}"
        raise unsupported(f"the model calls the custom operator {namespace}::{name}", node)
    if not isinstance(target, str) and target in _BUILTIN_NAMES:
        return f"builtin.{_BUILTIN_NAMES[target]}"
    raise unsupported(f"the model needs {getattr(target, '__name__', target)!r} at run time", node)


def module_path(node: torch.fx.Node, prefix: str) -> str:
    """The submodule that called an operator, without ``prefix``."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for name, _ in stack.values():
        if not str(name).startswith("_empty_nn_module_stack"):
            path = str(name)
    path = path.removeprefix("L['self'].").removeprefix("L['self']")
    return "" if f"{path}." == prefix else path.removeprefix(prefix)
