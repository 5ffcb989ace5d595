"""Architectures: what a name stands for, and whether weights fit it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from graph.errors import ArchitectureError, first_line
from models_zoo import registry
from models_zoo.mamba_lm import MambaLM
from models_zoo.text import LENGTH
from models_zoo.transformers import CausalLM
from prune.bounded import no_larger_than
from prune.checkpoint import search_working_directory
from prune.configured import inputs_from_config, is_configured
from prune.inputs import BATCH, ModelInput, ModelInputs, one_input
from prune.libraries import create, is_library, record_shape
from prune.metadata import Metadata

# What wrappers put before the names of a state dict.
_PREFIXES = ("module.", "_orig_mod.", "model.")


def architecture(path: Path, arch: str | None, meta: Metadata) -> str:
    """The architecture that the caller names, else the file's own if it is of the zoo.

    Raises:
        ArchitectureError: nobody names one, or it is unknown.
    """
    if arch is not None:
        return arch if ":" in arch else registry.find(arch).name
    if meta.arch is None:
        raise ArchitectureError(
            f"{path} holds weights but not the architecture they belong to",
            hint=f"give --arch NAME or --arch package.module:factory; names: {', '.join(registry.names())}",
        )
    if meta.arch not in registry.everything() and not is_library(meta.arch):
        raise ArchitectureError(
            f"{path} names the architecture {meta.arch!r}, which the zoo does not have; it is not imported "
            "because a file says so",
            hint="if you trust that code, name it yourself: --arch package.module:factory",
        )
    return meta.arch


def build(arch: str, args: dict[str, Any], state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """The architecture with these weights, and all the arguments it took.

    Raises:
        ArchitectureError: it cannot be built, or the weights do not fit it.
    """
    if ":" in arch:
        if is_library(arch):
            with no_larger_than(state, arch):
                module = create(arch, args)
        else:
            module = call_factory(arch, args)
        state = fitted(arch, module, state)
    else:
        # On the meta device first: arguments that a file brings must not decide how much memory we take.
        with torch.device("meta"), no_larger_than(state, arch):
            args = _inferred(arch, args, state)
        with torch.device("meta"), no_larger_than(state, arch):
            state = fitted(arch, registry.build(arch, **args), state)
        module = registry.build(arch, **args)
    module.load_state_dict(state)
    return module, args


def call_factory(arch: str, args: Mapping[str, Any]) -> nn.Module:
    """What ``package.module:factory`` returns; the user names the code and so trusts it.

    Raises:
        ArchitectureError: it cannot be imported, fails, or returns no module.
    """
    module_name, _, factory = arch.partition(":")
    search_working_directory()
    try:
        built = getattr(importlib.import_module(module_name), factory)(**args)
    except Exception as err:  # noqa: BLE001 - the user's code raises what it likes
        raise ArchitectureError(
            f"the architecture {arch} cannot be built: {type(err).__name__}: {first_line(err)}",
            hint="package.module:factory is imported from the working directory or the environment "
            "and called with the architecture's arguments (--arch-args)",
        ) from err
    if not isinstance(built, nn.Module):
        raise ArchitectureError(
            f"{arch} returns a {type(built).__name__}, not an nn.Module", hint="name a function or class"
        )
    return built


def default_inputs(arch: str, args: Mapping[str, Any], module: nn.Module) -> ModelInputs | None:
    """What the architecture is made for, as far as it tells."""
    if isinstance(module, (MambaLM, CausalLM)):
        return tokens_input(module)
    if (entry := (registry.ZOO | registry.VISION_TRANSFORMERS).get(arch)) is not None:
        channels, height, width = entry.input_shape
        height = width = cast(int, args.get("image_size", height))
        return one_input((cast(int, args.get("in_channels", channels)), height, width))
    if is_library(arch):
        return one_input(record_shape(arch, module))
    return inputs_from_config(module) if is_configured(module) else None


def tokens_input(module: MambaLM | CausalLM, length: int = LENGTH) -> ModelInputs:
    """The input of a language model of our own: a window of tokens."""
    high = module.vocab_size if isinstance(module, CausalLM) else module.sizes.vocab_size
    return ModelInputs((ModelInput("input_ids", (BATCH, length), "int64", 0, high),))


def _inferred(arch: str, args: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments; what the weights tell of classes, tokens and channels is read off where not given."""
    entry = registry.find(arch)
    accepted = inspect.signature(entry.build).parameters
    prototype = registry.build(arch, **args)
    state = _stripped(state, prototype.state_dict())
    result = dict(args)
    linears = [k for k, m in prototype.named_modules() if isinstance(m, nn.Linear)]
    convs = [k for k, m in prototype.named_modules() if isinstance(m, nn.Conv2d)]
    tokens = [k for k, m in prototype.named_modules() if isinstance(m, nn.Embedding)]
    for argument, layers, dim in (
        ("num_classes", linears[-1:], 0),
        ("vocab_size", tokens[:1], 0),
        ("in_channels", convs[:1], 1),
    ):
        weight = state.get(f"{layers[0]}.weight") if layers else None
        if argument in accepted and argument not in args and weight is not None and weight.dim() > dim:
            result[argument] = weight.shape[dim]
    return result


def _stripped(state: Mapping[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict without the prefixes that DataParallel, compile and Lightning put before each name."""
    result = dict(state)
    for prefix in _PREFIXES:
        if all(k.startswith(prefix) for k in result) and not any(k.startswith(prefix) for k in expected):
            result = {k.removeprefix(prefix): t for k, t in result.items()}
    return result


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def fitted(arch: str, module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names of the module.

    Raises:
        ArchitectureError: names or shapes differ, or one has whole numbers where the other has real ones; it
            tells the first of each kind.
    """
    expected = module.state_dict()
    state = _stripped(state, expected)
    # Files from before torch 0.4.1 do not count batches; load_state_dict fills that in.
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in expected]
    kinds = [k for k in state if k in expected and _is_real(state[k]) != _is_real(expected[k])]
    shapes = [k for k in state if k in expected and state[k].shape != expected[k].shape]
    complaints = [
        f"{len(names)} {what} (first: {names[0]})"
        for what, names in (("missing", missing), ("unexpected", extra))
        if names
    ]
    if shapes:
        first = shapes[0]
        complaints.append(
            f"{len(shapes)} of another shape (first: {first} is {tuple(state[first].shape)} in the file and "
            f"{tuple(expected[first].shape)} in the architecture)"
        )
    if kinds:
        first = kinds[0]
        complaints.append(
            f"{len(kinds)} of another type (first: {first} is {state[first].dtype} in the file and "
            f"{expected[first].dtype} in the architecture)"
        )
    if complaints:
        raise ArchitectureError(
            f"the weights do not fit {arch}: {'; '.join(complaints)}",
            hint="check --arch and its arguments (num_classes, in_channels, width, ...)",
        )
    return state
