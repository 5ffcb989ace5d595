"""The proof: the pruned program computes what the original computes with the removed channels masked.

The mask lies where a channel is consumed, not where it is made: what a batch norm or a bias makes of a
zero is no longer zero. Both programs run in float64 on the same inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.axes import Axes
from graph.errors import VerificationError
from graph.groups import Site
from graph.program import Node, Program, run

LIMIT = 1e-9


@dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    Attributes:
        max_error: largest difference of the outputs, relative to the largest output (at least 1).
        records: how many inputs were compared.
        limit: what the difference must not exceed.
    """

    max_error: float
    records: int
    limit: float = LIMIT

    @property
    def passed(self) -> bool:
        """Whether the programs agree."""
        return self.max_error <= self.limit


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _doubled(arg: Any) -> Any:
    """An operator's arguments with float64 in place of every type of real numbers that they name."""
    if isinstance(arg, torch.dtype) and arg.is_floating_point:
        return torch.float64
    if isinstance(arg, (tuple, list)):
        return type(arg)(_doubled(a) for a in arg)
    return {k: _doubled(v) for k, v in arg.items()} if isinstance(arg, dict) else arg


def run_program(
    program: Program, inputs: list[Tensor], *, sites: tuple[Site, ...] = (), masks: Any = None
) -> Tensor:
    """Run a program in float64, with the operands at the sites multiplied by their masks."""
    at: dict[str, list[Site]] = {}
    for site in sites:
        at.setdefault(site.node, []).append(site)

    def intercept(node: Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
        for site in at.get(node.name, ()):
            masked = args[site.operand] * masks[site.value, site.dim]
            args = (*args[: site.operand], masked, *args[site.operand + 1 :])
        return args

    tensors = {k: _double(t.detach()) for k, t in program.tensors.items()}
    nodes = (replace(n, args=_doubled(n.args), kwargs=_doubled(dict(n.kwargs))) for n in program.nodes)
    program = replace(program, nodes=tuple(nodes))
    with torch.no_grad():
        result = run(program, tensors, inputs, intercept=intercept)
    return result if isinstance(result, Tensor) else torch.cat([r.flatten() for r in result])


def verify(
    axes: Axes, keep: NDArray[np.bool_], pruned: Program, *, batch: int = 2, seed: int = 0
) -> Verification:
    """Compare the pruned program with the masked original on random inputs.

    Args:
        axes: of the original program.
        keep: for each class of the axes whether it stays.
        pruned: what surgery made.
        batch: how many records.
        seed: of the inputs.
    """
    inputs = axes.program.random_inputs(batch, seed=seed, dtype=torch.float64)
    masks = {}
    for site in axes.sites:
        found = axes.fields[site.value][site.dim]
        masks[site.value, site.dim] = torch.from_numpy(keep[found.labels].astype(np.float64))
    expected = run_program(axes.program, inputs, sites=axes.sites, masks=masks)
    actual = run_program(pruned, inputs)
    if expected.shape != actual.shape:
        return Verification(float("inf"), batch)
    scale = max(1.0, float(expected.abs().max()))
    error = float((expected - actual).abs().max()) / scale
    return Verification(error if error == error else float("inf"), batch)


def check(result: Verification) -> None:
    """Refuse a pruned program that differs.

    Raises:
        VerificationError: the difference is above the limit.
    """
    if not result.passed:
        raise VerificationError(
            f"the pruned program differs from the masked original by {result.max_error:.2e} "
            f"(limit {result.limit:.0e})",
            hint="this is a bug in prune: please report it with the model (--no-verify skips the check)",
        )
