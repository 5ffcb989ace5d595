"""Rules of operators that only move or create elements: they are run on labels, see ``Pass.move``."""

from __future__ import annotations

import numpy as np
import torch

from graph.labels import Pass, result_name
from graph.program import Node, Ref
from graph.rules.registry import find, rule
from graph.rules.statements import pin_operands, source_all


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def creation(run: Pass, node: Node) -> None:
    """The same number everywhere: any length will do."""
    sizes = node.args[0] if node.base in ("zeros", "ones", "full", "empty") else node.args[1]
    for dim, size in enumerate(sizes):
        if isinstance(size, int):
            run.create(node.name, dim)


@rule(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "mT",
    "swapaxes", "cat", "concat", "concatenate", "stack", "split", "split_with_sizes", "chunk",
    "tensor_split", "unbind", "slice", "select", "narrow", "expand", "repeat", "squeeze", "unsqueeze",
    "pad", "constant_pad_nd", "roll", "flip", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "view_as", "repeat_interleave", "unfold", "slice_scatter", "numpy_T", "adjoint", "reflection_pad1d",
    "reflection_pad2d", "replication_pad1d", "replication_pad2d", "reflection_pad3d", "replication_pad3d",
    "native_channel_shuffle", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "hsplit", "vsplit",
    "reshape_as", "tile", "swapdims", "moveaxis", "broadcast_to", "as_strided", "permute_copy", "atleast_1d",
)  # fmt: skip
def movement(run: Pass, node: Node) -> None:
    """Elements move and none is computed."""
    operands = run.operands(node)
    if node.base in ("view_as", "reshape_as"):
        operands = operands[:1]
    for ref in operands:
        source_all(run, node, ref)
    if not any(run.fields.get(r.name) for r in operands) and node.base not in ("expand", "broadcast_to"):
        return
    if node.base in ("repeat_interleave", "repeat", "tile", "as_strided") and len(run.operands(node)) > 1:
        return pin_operands(run, node, f"{node.op} names positions among them")
    if node.base in ("cat", "concat", "concatenate"):
        _tie_beside(run, node, list(node.args[0]), int(node.arg(1, "dim", 0)))
    if node.base == "slice_scatter":
        _tie_beside(run, node, [node.args[0], node.args[1]], int(node.arg(2, "dim", 0)))
        _tie_written(run, node)
    if node.base == "roll" and not node.arg(2, "dims") and len(run.size(node.args[0])) > 1:
        return pin_operands(run, node, f"{node.op} carries channels into the next row")
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
            if old == 1 and isinstance(size, int) and run.full[node.name].shape[dim] > 1:
                run.create(node.name, dim)


def enter(run: Pass, node: Node) -> None:
    """Give the parameters that a moving operator reads their labels, before its sizes are rewritten."""
    if find(node.base) is movement:
        for ref in run.operands(node):
            source_all(run, node, ref)


def _positional(run: Pass, node: Node) -> bool:
    """Whether an operator's arguments name positions that do not follow when channels go."""
    if node.base in ("pad", "constant_pad_nd"):
        negative = any(isinstance(a, int) and a < 0 for a in node.args[1])
        return negative or node.arg(2, "mode", "constant") not in ("constant", 0, 0.0, None)
    return node.base in ("unfold", "channel_shuffle", "native_channel_shuffle", "as_strided") or (
        node.base.startswith(("reflection_pad", "replication_pad"))
    )


def _touched(run: Pass, node: Node, dim: int) -> bool:
    """Whether a positional operator works on a dimension."""
    rank = len(run.size(node.args[0]))
    if node.base == "unfold":
        return dim == int(node.args[1]) % rank
    if node.base in ("channel_shuffle", "native_channel_shuffle", "as_strided"):
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


def _tie_written(run: Pass, node: Node) -> None:
    """What is written over goes with what is written in its place, so that equally many remain of both."""
    x, part = node.args[0], node.args[1]
    dim = int(node.arg(2, "dim", 0)) % len(run.size(x))
    old, new = run.along(x, dim, node), run.along(part, dim, node)
    if int(node.arg(5, "step", 1)) != 1:
        return  # refused where it is cut
    size = len(old) if old is not None else run.size(x)[dim]
    start = slice(node.arg(3, "start"), None).indices(size)[0]
    count = len(new) if new is not None else run.size(part)[dim]
    if old is not None and new is not None:
        run.equate(old[start : start + count], new, node)
    elif old is not None:
        run.pin(old[start : start + count], f"written over in {node.op}", node)
    elif new is not None:
        run.pin(new, f"written in {node.op}", node)


@rule("getitem")
def getitem(run: Pass, node: Node) -> None:
    """One of the results of an operator that has several."""
    source, index = node.args[0], node.args[1]
    if not isinstance(run.full[node.name], torch.Tensor):
        return
    for dim, found in run.fields.get(result_name(source.name, index), {}).items():
        run.put(node.name, dim, found.labels)
    if (labels := run.pointers.get(result_name(source.name, index))) is not None:
        run.pointers[node.name] = labels
