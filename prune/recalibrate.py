"""Recalibration: batch-norm statistics measured again after channels are gone.

A plan is only as good as its statistics: EagleEye (Li et al. 2020, arXiv:2007.02491) found that ranking
plans by accuracy makes sense only after re-estimating them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from graph.program import Node, Override, Program, Ref, run

_TRAINING, _MOMENTUM = 5, 6  # positions among the arguments of batch_norm


def batch_norm_statistics(program: Program) -> list[str]:
    """Names of the running means and variances that a program reads."""
    tensor_of = {n.name: str(n.args[0]) for n in program.nodes if n.op == "tensor"}
    names = []
    for node in program.nodes:
        if node.base == "batch_norm":
            names += [tensor_of[a.name] for a in node.args[3:5] if isinstance(a, Ref)]
    return list(dict.fromkeys(names))


def recalibrated(
    program: Program,
    tensors: Mapping[str, Tensor],
    batches: Iterable[Tensor],
    *,
    overrides: Mapping[str, Override] | None = None,
) -> dict[str, Tensor]:
    """The tensor table with batch-norm statistics averaged over the given batches.

    Args:
        program: what to run; dropout stays off.
        tensors: its weights; left as they are.
        batches: normalised inputs (B, ...), B at least 2.
        overrides: of operators, see ``graph.program.execute``.
    """
    table = dict(tensors)
    statistics = batch_norm_statistics(program)
    if not statistics:
        return table
    for name in statistics:
        table[name] = tensors[name].detach().clone()
    seen = 0

    def intercept(node: Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if node.base != "batch_norm":
            return args
        # Momentum 1/n makes the running value the plain average of n batches.
        return (*args[:_TRAINING], True, 1.0 / seen, *args[_MOMENTUM + 1 :])

    with torch.no_grad():
        for inputs in batches:
            if inputs.shape[0] > 1:
                seen += 1
                run(program, table, [inputs], intercept=intercept, overrides=overrides)
    return table
