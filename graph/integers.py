"""Integers: whether numbers drawn evenly from the ranges of a program's inputs are ones that it can take.

Tokens may be any; the corners of a box or the ends of a span may not, since a model looks up their
differences. Only the operators on integers are run to find that out, so it costs next to nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graph.program import INPUT, TENSOR, Node, Program, resolve, substitute

_RECORDS = 8


def with_sound_integers(program: Program) -> Program:
    """The program, whose integer inputs hold one number per record where numbers drawn freely do not fit."""
    if not any(_whole(spec.dtype) for spec in program.inputs) or _fits(program):
        return program
    alike = tuple(replace(s, alike=True) if _whole(s.dtype) else s for s in program.inputs)
    changed = replace(program, inputs=alike)
    return changed if _fits(changed) else program


def _whole(dtype: str) -> bool:
    kind: torch.dtype = getattr(torch, dtype)
    return not kind.is_floating_point and not kind.is_complex and kind is not torch.bool


def _fits(program: Program) -> bool:
    """Whether every lookup of an integer that follows from the inputs lies within its table."""
    known: dict[str, Any] = {}
    rows: dict[str, int] = {}
    inputs = iter(program.random_inputs(_RECORDS))
    for node in program.nodes:
        if node.op == INPUT:
            _keep(known, node, next(inputs))
        elif node.op == TENSOR:
            tensor = program.tensors[str(node.args[0])]
            _keep(known, node, tensor)
            rows[node.name] = len(tensor) if tensor.dim() else 0
        elif node.base == "embedding" and node.args[1].name in known and node.args[0].name in rows:
            ids = known[node.args[1].name]
            if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= rows[node.args[0].name]):
                return False
        elif all(r in known for r in node.refs):
            try:
                value = resolve(node.op)(
                    *substitute(node.args, known), **substitute(dict(node.kwargs), known)
                )
            except IndexError:
                return False
            except (RuntimeError, TypeError, ValueError):
                continue  # it may need another batch; what follows from it is not known
            _keep(known, node, value)
    return True


def _keep(known: dict[str, Any], node: Node, value: Any) -> None:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        known[node.name] = value
