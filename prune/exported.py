"""Exported programs: a ``.pt2`` as a module that takes its tensors by position, one by one."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.node import map_aggregate

from graph.errors import ModelFileError
from prune.inputs import BATCH, ModelInput, ModelInputs


def open_exported(path: Path, exported: ExportedProgram) -> tuple[nn.Module, ModelInputs]:
    """The module of an exported program, and the inputs that it was exported for.

    Nested arguments are flattened, and those that are no tensors keep the values they were exported with.
    The batch stays free where it is free in the file.

    Raises:
        ModelFileError: the program takes no tensor, or one without a batch.
    """
    given = _inputs(exported)
    if not given or any(not shape for _, shape, _ in given):
        what = "a number as a tensor" if given else "no tensor"
        raise ModelFileError(f"{path}: the program takes {what}", hint="export it with batches of records")
    free = all(isinstance(shape[0], SymInt) for _, shape, _ in given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The guards of a fixed batch must stay: they keep the capture from freeing it. Those of a free one
        # hold a range ("at least 2") that the graph itself does not need.
        module: Any = exported.module(check_guards=not free)
    _flatten(module)
    # An exported module refuses train() and eval(); the capture needs only that they do no harm.
    for method in ("train", "eval"):
        vars(module).pop(method, None)
    inputs = []
    for name, shape, dtype in given:
        sizes = [_size(n, exported) for n in shape]
        sizes[0] = BATCH if free else sizes[0]
        inputs.append(ModelInput(name, tuple(sizes), str(dtype).removeprefix("torch.")))
    return module, ModelInputs(tuple(inputs), fixed=not free)


def _inputs(exported: ExportedProgram) -> list[tuple[str, tuple[Any, ...], torch.dtype]]:
    """Name, shape and type of each tensor that the caller passes."""
    values = {n.name: n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder"}
    found = []
    for spec in exported.graph_signature.input_specs:
        value = values.get(getattr(spec.arg, "name", ""))
        if spec.kind is InputKind.USER_INPUT and isinstance(value, Tensor):
            found.append((spec.arg.name, tuple(value.shape), value.dtype))
    return found


def _size(size: int | SymInt, exported: ExportedProgram) -> int:
    """A size, that of the example where it is free."""
    if isinstance(size, int):
        return size
    hint = size.node.hint if size.node.has_hint() else None
    if hint is not None:
        return int(hint)
    bounds = exported.range_constraints.get(size.node.expr)
    return max(BATCH, int(bounds.lower)) if bounds is not None else BATCH


def _flatten(module: fx.GraphModule) -> None:
    """Give the module a plain signature: its tensors in order, and a flat tuple as result."""
    graph = module.graph
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op == "placeholder" and not isinstance(value, Tensor):
            for user in list(node.users):
                user.args = map_aggregate(user.args, partial(_replaced, node, value))
            graph.erase_node(node)
    graph.set_codegen(fx.graph.CodeGen())
    module._forward_pre_hooks.clear()  # they compare the arguments with the old signature
    output = graph.output_node()
    results: Any = output.args[0]
    values = [v for v in results if isinstance(v, fx.Node)]
    output.args = (values[0] if len(values) == 1 else tuple(values),)
    module.recompile()


def _replaced(node: fx.Node, value: Any, arg: Any) -> Any:
    return value if arg is node else arg
