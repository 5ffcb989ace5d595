"""Placement: another device may compute scores, fits and training; all else stays on the CPU.

A program computes where its inputs and weights are (``graph.program.execute``): to place it is to move its
tensors. What is cut, proved, exported and timed lies on the CPU, whoever computed it. What scores and trains
takes images in the order of memory in which convolutions are fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from graph.channels import Axes
from graph.program import Program, ProgramModule

CPU = torch.device("cpu")
_BY_PLACE = ("as_strided", "view_as_complex", "view_as_real")


def placed(program: Program, device: torch.device) -> Program:
    """The program with its tensors on a device; with its own ones where they are there already."""
    return replace(program, tensors={name: t.to(device) for name, t in program.tensors.items()})


def placed_axes(axes: Axes, device: torch.device) -> Axes:
    """The axes of the program with its tensors on a device."""
    return axes if device == CPU else replace(axes, program=placed(axes.program, device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes with bfloat16."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are; the CPU where it has none."""
    return next((p.device for p in module.parameters()), CPU)


def pixelwise(inputs: Tensor) -> Tensor:
    """Images (B, C, H, W) with the channels of a pixel side by side in memory; other inputs as they are.

    Convolutions take over the order of their input, and compute faster so (docs/results.md, training speed).
    """
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def takes_any_order(program: Program) -> bool:
    """Whether no operator of a program tells elements by their place in memory; its views copy if need be."""
    return not any(n.base in _BY_PLACE or n.op == "aten.view.dtype" for n in program.nodes)


def ordered_for(*takers: Program | nn.Module | None) -> Callable[[Tensor], Tensor]:
    """The best order of inputs that all of these take: ``pixelwise``, or as they come.

    A module of a user may ask for views of what it computes, which not every order allows.
    """
    programs = [t.program if isinstance(t, ProgramModule) else t for t in takers if t is not None]
    known = all(
        takes_any_order(p) if isinstance(p, Program) else type(p).__module__.startswith("models_zoo.")
        for p in programs
    )
    return pixelwise if known else lambda inputs: inputs


@contextmanager
def on(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Have modules on a device for a while, in place; afterwards they are on the CPU."""
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module in modules:
            module.to(CPU)
