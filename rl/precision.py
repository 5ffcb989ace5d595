"""Precision: the numbers that plans are scored in: bfloat16 where the processor computes with them.

Convolutions in bfloat16 take half the time on processors that have instructions for it; their sums are
float32, and so are batch norm's statistics here (``prune.onepass``). The 8 bits that are kept of a number are
enough to rank plans (docs/results.md). Only scores are concerned: weights that are pruned, fitted and trained
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch

from graph.errors import PruneError, UsageError, first_line
from graph.suggest import suggestion
from prune.placement import CPU, has_bfloat16
from rl.scorer import Chunk, Scorer, alike

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
PRECISION: Precision = "auto"
# What torch calls instructions for bfloat16, on x86-64 and on ARM
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
# Raised by operators whose operands are of two types
_ODD = (RuntimeError, TypeError, ValueError, PruneError)


def check_precision(text: str) -> None:
    """Refuse what names no precision.

    Raises:
        UsageError: none of ``PRECISIONS``.
    """
    if text not in PRECISIONS:
        raise UsageError(f"--precision {text}: unknown", hint=suggestion(text, PRECISIONS))


def is_native(device: torch.device = CPU) -> bool:
    """Whether a device has instructions for bfloat16, and torch the kernels for them (on CPUs oneDNN's)."""
    if device.type != "cpu":
        return has_bfloat16(device)
    known = torch.cpu.get_capabilities()
    kernels = torch.backends.mkldnn
    return bool(
        kernels.is_available()  # type: ignore[no-untyped-call]
        and kernels.enabled
        and any(known.get(name, False) for name in _INSTRUCTIONS)
    )


def settled(precision: str, exact: Scorer, recall: Callable[[Callable[[], str]], str]) -> tuple[str, Scorer]:
    """What plans are to be scored in, ``float32`` or ``bfloat16``, and the scorer that does.

    ``auto`` takes bfloat16 on a processor that has it, for images, where the whole network scores as in
    float32; networks that mix in numbers of their own type do not run in it.

    Args:
        precision: one of ``PRECISIONS``.
        exact: the scorer on weights and images as they are.
        recall: returns what ``auto`` has become in a run that is resumed, else calls its argument.

    Raises:
        UsageError: unknown, or ``bfloat16`` for a network that does not run in it.
    """
    check_precision(precision)
    if precision == "float32" or (precision == "auto" and not _may_be_lower(exact)):
        return "float32", exact
    lower = cache(lambda: lowered(exact))  # a copy of all weights, made where it is needed
    if precision == "auto":
        precision = recall(
            lambda: "bfloat16" if is_native(exact.device) and _agree(exact, lower()) else "float32"
        )
        return precision, lower() if precision == "bfloat16" else exact
    try:
        lower()(_everything(exact))
    except _ODD as err:
        raise UsageError(
            f"--precision bfloat16: the model does not run in it: {first_line(err)}", hint="leave it out"
        ) from err
    return precision, lower()


def lowered(exact: Scorer) -> Scorer:
    """The scorer on weights and images that are rounded to bfloat16."""
    program = exact.axes.program
    tensors = {
        name: tensor.bfloat16() if tensor.dtype is torch.float32 else tensor
        for name, tensor in program.tensors.items()
    }
    axes = replace(exact.axes, program=replace(program, tensors=tensors))
    on = (
        Chunk(c.images.bfloat16() if c.images.is_floating_point() else c.images, c.labels)
        for c in exact.chunks
    )
    return Scorer(axes, tuple(on))


def _may_be_lower(exact: Scorer) -> bool:
    """Whether it is images in float32 that plans are scored on."""
    return all(c.images.dtype is torch.float32 for c in exact.chunks)


def _agree(exact: Scorer, lower: Scorer) -> bool:
    """Whether the whole network has the same score in both, as far as one can tell from it."""
    try:
        found = lower(_everything(lower))
    except _ODD:
        return False
    whole = exact(_everything(exact))
    return alike(whole, found, exact.images)


def _everything(scorer: Scorer) -> np.ndarray:
    return np.ones(scorer.axes.classes, dtype=np.bool_)
