"""Folding: what depends on no input is computed once, so that index tables and masks are plain tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graph.program import INPUT, TENSOR, Node, Program, Ref, refs_in, resolve, substitute

# A folded tensor may not hold more elements: larger ones are cheaper to compute again than to keep.
LARGEST = 4_000_000
# Fills keep their sizes in their arguments, where surgery can change them.
_FILLS = {"zeros", "ones", "full", "empty", "scalar_tensor"}
# Dropout and batch norm differ between training and evaluation.
_MODAL = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "batch_norm"}


def fold(program: Program, fixed: frozenset[str], kept: frozenset[str]) -> Program:
    """Replace each value that depends on no input by a tensor of the program's table.

    Args:
        program: as converted from the exported graph.
        fixed: names of the tensors that values may be computed from: never a parameter, nor a buffer that
            stands in the user's checkpoint as numbers of a layer.
        kept: names of the tensors that stay even if nobody reads them: they are in the user's checkpoint.
    """
    values = _constants(program, fixed - _statistics(program))
    by_name = {n.name: n for n in program.nodes}
    needed = _read_elsewhere(program, values)
    numbers = {k: v for k, v in values.items() if k in needed and not isinstance(v, (Tensor, list, tuple))}
    tensors = dict(program.tensors)
    nodes: list[Node] = []
    for node in program.nodes:
        value = values.get(node.name)
        if node.name in numbers:
            continue
        if node.name in needed and isinstance(value, Tensor) and _folds(by_name[node.name]):
            name = _free_name(node.name, tensors)
            tensors[name] = value.contiguous().clone()
            nodes.append(Node(node.name, TENSOR, (name,)))
        else:
            args, kwargs = _inline(node.args, numbers), _inline(dict(node.kwargs), numbers)
            nodes.append(replace(node, args=args, kwargs=kwargs))
    nodes = without_dead(nodes, program.output, kept)
    used = {str(n.args[0]) for n in nodes if n.op == TENSOR}
    first = [n for n in nodes if n.op == INPUT] + [n for n in nodes if n.op == TENSOR]
    return replace(
        program,
        nodes=(*first, *(n for n in nodes if n.op not in (INPUT, TENSOR))),
        tensors={k: t for k, t in tensors.items() if k in used},
        trainable=program.trainable & used,
    )


def without_dead(nodes: list[Node], output: Any, kept: frozenset[str]) -> list[Node]:
    """Drop what nobody reads; the inputs and the tensors in ``kept`` stay."""
    alive = {r.name for r in refs_in(output)}
    found: list[Node] = []
    for node in reversed(nodes):
        stays = node.op == INPUT or (node.op == TENSOR and str(node.args[0]) in kept)
        if stays or node.name in alive:
            found.append(node)
            alive.update(node.refs)
    return found[::-1]


def _constants(program: Program, fixed: frozenset[str]) -> dict[str, Any]:
    """The values of the operators that depend on nothing but ``fixed`` tensors."""
    values: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for node in program.nodes:
        if node.op == INPUT or (node.op == TENSOR and str(node.args[0]) not in fixed):
            continue
        if node.op == TENSOR:
            known[node.name] = program.tensors[str(node.args[0])]
            continue
        if node.base in _MODAL or any(r not in known for r in node.refs) or _random(node):
            continue
        with torch.no_grad():
            value = resolve(node.op)(*substitute(node.args, known), **substitute(dict(node.kwargs), known))
        if not _too_large(value):
            known[node.name] = values[node.name] = value
    return values


def _statistics(program: Program) -> frozenset[str]:
    """Tensors that batch norm updates while training."""
    by_name = {n.name: n for n in program.nodes}
    found: set[str] = set()
    for node in program.nodes:
        if node.base == "batch_norm":
            sources = [by_name[r.name] for r in refs_in(node.args[3:5])]
            found |= {str(s.args[0]) for s in sources if s.op == TENSOR}
    return frozenset(found)


def _read_elsewhere(program: Program, values: dict[str, Any]) -> frozenset[str]:
    """The constants that something reads which is computed at run time."""
    needed: set[str] = {r.name for r in refs_in(program.output)}
    for node in reversed(program.nodes):
        value = values.get(node.name)
        stays = node.name not in values
        # A fill and a list of tensors stay operators, so what they read is needed too.
        if node.name in needed and (isinstance(value, (list, tuple)) or not _folds(node)):
            stays = True
        if stays:
            needed.update(node.refs)
    return frozenset(needed & set(values))


def _folds(node: Node) -> bool:
    return node.base not in _FILLS


def _random(node: Node) -> bool:
    target = resolve(node.op)
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _too_large(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_too_large(v) for v in value)
    return isinstance(value, Tensor) and value.numel() > LARGEST


def _inline(arg: Any, numbers: dict[str, Any]) -> Any:
    if isinstance(arg, Ref):
        return numbers.get(arg.name, arg)
    if isinstance(arg, tuple):
        return tuple(_inline(a, numbers) for a in arg)
    if isinstance(arg, list):
        return [_inline(a, numbers) for a in arg]
    if isinstance(arg, dict):
        return {k: _inline(v, numbers) for k, v in arg.items()}
    return arg


def _free_name(node: str, taken: dict[str, Tensor]) -> str:
    # A buffer may not be called like an attribute that every module has, such as "to" or "float".
    name = f"constant.{node}_value" if hasattr(nn.Module, node) or node == "training" else f"constant.{node}"
    while name in taken or name.split(".")[0] in taken:
        name = f"_{name}"
    return name
