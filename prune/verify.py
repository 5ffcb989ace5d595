"""The proof: the pruned program computes what the original computes with the removed channels masked.

Both programs run in float64 on the same inputs; ``prune.masks`` says what masking means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.channels import Axes
from graph.errors import VerificationError
from graph.program import Override, Program, run
from prune.masks import Masks

LIMIT = 1e-9


@dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    Attributes:
        max_error: largest difference of the outputs, relative to the largest output; NaN where the masked
            original computes no numbers to compare with.
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


def in_double(arg: Any) -> Any:
    """An operator's arguments with float64 in place of every type of real numbers that they name."""
    if isinstance(arg, torch.dtype) and arg.is_floating_point:
        return torch.float64
    if isinstance(arg, (tuple, list)):
        return type(arg)(in_double(a) for a in arg)
    return {k: in_double(v) for k, v in arg.items()} if isinstance(arg, dict) else arg


def doubled(program: Program) -> Program:
    """A program that computes in float64 what the given one computes in fewer digits."""
    tensors = {k: _double(t.detach()) for k, t in program.tensors.items()}
    nodes = (replace(n, args=in_double(n.args), kwargs=in_double(dict(n.kwargs))) for n in program.nodes)
    return replace(program, nodes=tuple(nodes), tensors=tensors)


def run_program(
    program: Program, inputs: list[Tensor], *, overrides: Mapping[str, Override] | None = None
) -> list[Tensor]:
    """Run a program in float64, with some of its nodes computed otherwise; its outputs, flattened."""
    program = doubled(program)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of what a program makes without naming a type
    try:
        with torch.no_grad():
            result = run(program, program.tensors, inputs, overrides=overrides)
    finally:
        torch.set_default_dtype(default)
    return list(tensors_in(result))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a result, in order, however they are nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from tensors_in(v)
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from tensors_in(v)


def verify(
    axes: Axes, keep: NDArray[np.bool_], pruned: Program, *, batch: int = 2, seed: int = 0
) -> Verification:
    """Compare the pruned program with the masked original on random inputs, on positive ones if need be.

    Args:
        axes: of the original program.
        keep: for each class of the axes whether it stays.
        pruned: what surgery made.
        batch: how many records.
        seed: of the inputs.
    """
    return compared(axes.program, Masks(axes, keep).overrides, pruned, batch=batch, seed=seed)


def compared(
    whole: Program, overrides: Mapping[str, Override], smaller: Program, *, batch: int = 2, seed: int = 0
) -> Verification:
    """Compare a program, with some of its nodes computed otherwise, with a smaller one; as ``verify``."""
    inputs = whole.random_inputs(batch, seed=seed, dtype=torch.float64)
    expected = _seeded_run(whole, inputs, seed, overrides)
    if not comparable(expected):
        inputs = magnitudes(inputs)
        expected = _seeded_run(whole, inputs, seed, overrides)
    if not comparable(expected):
        return Verification(math.nan, batch)
    actual = _seeded_run(smaller, inputs, seed)
    if [e.shape for e in expected] != [a.shape for a in actual]:
        return Verification(math.inf, batch)
    return Verification(max(map(difference, expected, actual), default=0.0), batch)


def _seeded_run(
    program: Program, inputs: list[Tensor], seed: int, overrides: Mapping[str, Override] | None = None
) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):  # models that draw random numbers draw the same ones
        torch.manual_seed(seed)
        return run_program(program, inputs, overrides=overrides)


def comparable(outputs: Sequence[Tensor]) -> bool:
    """Whether outputs tell anything: none is NaN all over, and somewhere there is a finite number."""
    filled = [o for o in outputs if o.numel()]
    undefined = any(bool(torch.isnan(o).all()) for o in filled)
    return not undefined and (not filled or any(bool(torch.isfinite(o).any()) for o in filled))


def magnitudes(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Inputs without their signs, for models that take a logarithm or a root of them."""
    return [x.abs() if x.is_floating_point() else x for x in inputs]


def difference(expected: Tensor, actual: Tensor) -> float:
    """Largest difference, relative to the largest element; infinite where only one of them is a number."""
    if expected.numel() == 0:
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, actual) else math.inf
    strange = ~torch.isfinite(expected)
    if not torch.equal(strange, ~torch.isfinite(actual)):
        return math.inf
    scale = float(expected[~strange].abs().max()) if bool((~strange).any()) else 0.0
    error = torch.where(strange, torch.zeros_like(expected), expected - actual).abs().max()
    return float(error) / (scale or 1.0)


def check(result: Verification) -> None:
    """Refuse a pruned program that differs.

    Raises:
        VerificationError: the difference is above the limit.
    """
    if math.isnan(result.max_error):
        raise VerificationError(
            "nothing can be compared: without the removed channels, the original makes no numbers (NaN)",
            hint="keep more channels, or see what the model makes of random inputs (--no-verify skips this)",
        )
    if not result.passed:
        raise VerificationError(
            f"the pruned program differs from the masked original by {result.max_error:.2e} "
            f"(limit {result.limit:.0e})",
            hint="this is a bug in prune: please report it with the model (--no-verify skips the check)",
        )
