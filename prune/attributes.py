"""Attributes: tensors and plain values of a module's submodules, by name, read and set."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn


class Change(NamedTuple):
    """One attribute that was set.

    Attributes:
        name: path from the module: ``layers.0.attn.num_heads``. Where a configuration object is on the path,
            the module before it has its own copy of it.
        old: what it was; of a tensor that no checkpoint holds (a table of frequencies), its last size.
        new: what it is; of such a tensor, the positions that stay.
    """

    name: str
    old: Any
    new: Any


def assign(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of a module's own; what was one tensor under several names stays one.

    Args:
        module: changed in place.
        tensors: by the names of the module's parameters and buffers; others are left out.
    """
    places = tensors_of(module)
    shared: dict[object, list[str]] = {}
    for name, tensor in places.items():
        shared.setdefault(address(tensor), []).append(name)
    for name, tensor in tensors.items():
        old = places.get(name)
        if old is None:
            continue
        new = tensor.detach().clone().to(old.device)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for alias in shared[address(old)]:
            path, _, leaf = alias.rpartition(".")
            setattr(module.get_submodule(path), leaf, new)


def set_attributes(module: nn.Module, changes: Sequence[Change]) -> None:
    """Set attributes in place; an object between module and attribute is copied first, as others may hold it.

    Raises:
        AttributeError: the module has no such attribute.
    """
    own: dict[str, object] = {}
    for change in changes:
        *path, leaf = change.name.split(".")
        thing: Any = module
        for depth, part in enumerate(path):
            found = getattr(thing, part)
            key = ".".join(path[: depth + 1])
            if not isinstance(found, nn.Module) and key not in own:
                found = own[key] = copy.copy(found)
                setattr(thing, part, found)
            thing = found
        before = getattr(thing, leaf)
        setattr(thing, leaf, before[..., change.new] if isinstance(before, Tensor) else change.new)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, buffers and plain tensors of all submodules, each under all of its names."""
    found: dict[str, Tensor] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        tensors = {**vars(part), **part._buffers, **part._parameters}
        found |= {join(path, k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    return found


def address(tensor: Tensor) -> object:
    """The same for two names of one tensor."""
    return (tensor.data_ptr(), tensor.shape) if tensor.numel() else id(tensor)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy; what a hook computes anew, such as the weight of weight_norm, comes along as a value."""
    memo = {id(t): t.detach().clone() for t in tensors_of(module).values() if not t.is_leaf}
    return copy.deepcopy(module, memo)


def in_double(module: nn.Module) -> nn.Module:
    """The module itself with all of its tensors in float64."""
    module.double()
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(part, name, value.double())
    return module


def join(path: str, name: str) -> str:
    """A name below a path, which is empty at the top."""
    return f"{path}.{name}" if path else name
