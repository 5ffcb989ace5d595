"""Parity: whether an exported file gives the outputs of the model that it was made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from graph.errors import ExportError
from graph.program import ProgramModule
from prune.verify import run_program

_BATCHES = (1, 2, 5)


def compare(
    module: nn.Module,
    exported: Callable[..., Sequence[Tensor]],
    example: Sequence[Tensor],
    free: bool,
    draws: int,
    tolerance: float,
) -> tuple[float, float, int]:
    """Compare a model with its exported file on random records.

    Args:
        module: the model, in eval mode.
        exported: takes the same inputs, returns the file's outputs.
        example: one tensor for each input, records first; only shapes, types and ranges of integers count.
        free: compare batches of 1, 2 and 5 records, else of the example's size.
        draws: how many batches of each size.
        tolerance: relative to the model's largest output, or to 1 if that is more.

    Returns:
        Largest relative difference, what rounding explains of it, and how many batches were compared.

    Raises:
        ExportError: they differ by more than ``tolerance``, and by more than rounding explains.
    """
    worst: list[tuple[float, int]] = []  # of each output: the largest difference, and the batch size
    rounding: list[float] = []
    count = 0
    alike = [False] * len(example)
    if isinstance(module, ProgramModule):
        alike = [s.alike for s in module.program.inputs]
    for batch in _BATCHES if free else (len(example[0]),):
        for seed in range(draws):
            generator = torch.Generator().manual_seed(seed)
            given = [_random_like(x, batch, generator, a) for x, a in zip(example, alike, strict=True)]
            outputs = outputs_of(module, given)
            found = [_difference(wanted, got) for wanted, got in zip(outputs, exported(*given), strict=True)]
            errors = [math.inf if math.isnan(e) else e for e in found]
            worst = [
                max(w, (e, batch)) for w, e in zip(worst or [(0.0, 0)] * len(errors), errors, strict=True)
            ]
            if any(tolerance < e < math.inf for e in errors):
                own = _own_rounding(module, given, outputs)
                rounding = [max(pair) for pair in zip(rounding or [0.0] * len(own), own, strict=True)]
            count += 1
    for index, (error, batch) in enumerate(worst):
        if error > tolerance and error > 2 * (rounding[index] if rounding else 0.0):
            raise ExportError(
                f"the exported file differs from the model by {error:.2g} at batch size {batch}, "
                f"more than {tolerance:g}",
                hint="the fault is the exporter's, or the model's outputs are not finite",
            )
    largest = max((e for e, _ in worst), default=0.0)
    return largest, max(rounding, default=0.0) if largest > tolerance else 0.0, count


def outputs_of(module: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """All tensors that a module returns, in the order of its outputs."""
    with torch.no_grad():
        return [y for y in tree_leaves(module(*inputs)) if isinstance(y, Tensor)]


def _own_rounding(module: nn.Module, given: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[float]:
    """What each output differs from its own in float64; 0 of modules that are no program, and if infinite."""
    if not isinstance(module, ProgramModule):
        return [0.0] * len(outputs)
    exact = run_program(module.updated(), [x.double() if x.is_floating_point() else x for x in given])
    found = map(_difference, exact, outputs)
    return [own if math.isfinite(own) else 0.0 for own in found]


def _difference(wanted: Tensor, got: Tensor) -> float:
    if wanted.shape != got.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    a, b = wanted.double(), got.double()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1))


def _random_like(example: Tensor, batch: int, generator: torch.Generator, alike: bool) -> Tensor:
    """``alike``: each record holds one integer throughout, see ``InputSpec``."""
    shape = (batch, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator).to(example.dtype)
    low, high = int(example.min()), int(example.max())
    drawn = (batch, *(1 for _ in shape[1:])) if alike else shape
    return (
        torch.randint(low, high + 1, drawn, generator=generator).to(example.dtype).expand(shape).contiguous()
    )
