"""Given: a model and example inputs that a Python caller has at hand, as what files and names stand for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from graph.errors import UsageError, first_line
from graph.program import ProgramModule
from prune.attributes import copied
from prune.inputs import BATCH, DTYPES, ModelInput, ModelInputs

Examples = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(module: nn.Module) -> nn.Module:
    """The model within ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``."""
    inner = getattr(module, "_orig_mod", module.module if isinstance(module, _WRAPPERS) else None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def own_copy(module: nn.Module) -> nn.Module:
    """A copy of a model on the CPU, without the wrappers of torch; the model stays as it is.

    Raises:
        UsageError: it cannot be copied.
    """
    inner = unwrapped(module)
    try:
        return copied(inner).cpu()
    except Exception as err:  # noqa: BLE001 - the user's own code
        raise UsageError(
            f"{type(inner).__name__} cannot be copied: {first_line(err)}",
            hint="let copy.deepcopy work on it, or give a file or package.module:factory",
        ) from err


def returns_several(module: nn.Module, inputs: ModelInputs) -> bool:
    """Whether a model returns something else than one tensor; False where it does not run at all."""
    if isinstance(module, ProgramModule):
        return False  # whoever made it a program chose its outputs
    try:
        with torch.no_grad():
            return not isinstance(module(*inputs.example()), Tensor)
    except Exception:  # noqa: BLE001 - the user's own code; capturing it tells the reason
        return False


def example_inputs(given: Examples, module: nn.Module | None) -> ModelInputs:
    """Example inputs as what a model takes.

    Args:
        given: one tensor, several by position, or several by the names of ``forward``'s arguments. The first
            dimension is the batch.
        module: the model, where it is at hand.

    Raises:
        UsageError: no tensors, or of a type that models do not take.
    """
    if isinstance(given, Mapping):
        return ModelInputs(tuple(_input(str(k), v) for k, v in given.items()), named=True)
    tensors = [given] if isinstance(given, Tensor) else list(given)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    arguments = inspect.signature(module.forward).parameters if module is not None else {}
    names = [n for n, p in arguments.items() if p.kind in kinds] if len(tensors) > 1 else ["input"]
    names += [f"input_{i}" for i in range(len(names), len(tensors))]
    return ModelInputs(tuple(_input(n, t) for n, t in zip(names, tensors, strict=False)))


def _input(name: str, value: object) -> ModelInput:
    hint = "inputs=torch.randn(1, 3, 224, 224), a tuple of tensors, or a dict of them by name"
    if not isinstance(value, Tensor):
        raise UsageError(f"inputs: {name} is {type(value).__name__}, not a tensor", hint=hint)
    if not value.dim() or not value.numel():
        raise UsageError(
            f"inputs: {name} has shape {tuple(value.shape)}",
            hint="the first dimension is the batch, with at least one record",
        )
    value = value.detach().cpu()
    value = value.float() if value.is_floating_point() else value
    value = value[:BATCH] if len(value) >= BATCH else torch.cat([value] * BATCH)[:BATCH]
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UsageError(f"inputs: {name} is of {dtype}", hint="one of " + ", ".join(DTYPES))
    if value.is_floating_point() or value.dtype is torch.bool:
        return ModelInput(name, tuple(value.shape), dtype, value=value)
    # How far integers go, the table tells that they are indices of, else the example.
    return ModelInput(name, tuple(value.shape), dtype, low=int(value.min()), value=value)
