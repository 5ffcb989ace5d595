"""Attributes: tensors and plain values of a module's submodules, by name: copied, read and set."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_NONE: Mapping[str, Tensor] = MappingProxyType({})


class Change(NamedTuple):
    """One attribute that was set.

    Attributes:
        name: path from the module: ``layers.0.attn.num_heads``. Where a configuration object is on the path,
            the module before it has its own copy of it.
        old: what it was: a whole number, or a tuple or list of them.
        new: what it is.
    """

    name: str
    old: Any
    new: Any


def copied(module: nn.Module, tensors: Mapping[str, Tensor] = _NONE, *, double: bool = False) -> nn.Module:
    """A deep copy with other tensors in place of some; one tensor under several names stays one.

    What a hook computes anew, such as the weight of weight_norm, comes along as a value.

    Args:
        module: left as it was.
        tensors: by the names of the module's parameters and buffers; others are left out.
        double: all real numbers in float64 and on the CPU, for a comparison.
    """
    names = {id(t): n for n, t in tensors_of(module).items() if n in tensors}
    memo: dict[int, Any] = {}
    for old in tensors_within(module):
        new = tensors[names[id(old)]] if id(old) in names else old
        if new is old and old.is_leaf and not double:
            continue
        kind = torch.float64 if double and new.is_floating_point() else new.dtype
        value = new.detach().to(torch.device("cpu") if double else old.device, kind, copy=True)
        memo[id(old)] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
    return copy.deepcopy(module, memo)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, buffers and plain tensors of all submodules, each under all of its names."""
    found: dict[str, Tensor] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        tensors = {**vars(part), **part._buffers, **part._parameters}
        found |= {join(path, k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    return found


def tensors_within(module: nn.Module) -> list[Tensor]:
    """The same, each once, and those in lists, tuples and dicts."""
    leaves = (v for part in module.modules() for v in tree_leaves(dict(vars(part))))
    return list({id(v): v for v in leaves if isinstance(v, Tensor)}.values())


def set_attributes(module: nn.Module, changes: Sequence[Change]) -> None:
    """Set attributes in place; an object between module and attribute is copied first, as others may hold it.

    Raises:
        AttributeError: the module has no such attribute, or it cannot be set.
    """
    own: set[str] = set()
    for change in changes:
        path, _, leaf = change.name.rpartition(".")
        thing: Any = module
        for depth, part in enumerate(path.split(".") if path else [], start=1):
            found = getattr(thing, part)
            key = ".".join(path.split(".")[:depth])
            if not isinstance(found, nn.Module) and key not in own:
                own.add(key)
                found = copy.copy(found)
                setattr(thing, part, found)
            thing = found
        getattr(thing, leaf)  # only what is there is changed
        put(thing, leaf, change.new)


def put(thing: Any, name: str, value: object) -> None:
    """Set an attribute of a module, or of a configuration that is its own copy, frozen or not.

    Raises:
        AttributeError: the class does not allow it.
    """
    try:
        setattr(thing, name, value)
    except FrozenInstanceError:
        object.__setattr__(thing, name, value)


@contextmanager
def restoring(module: nn.Module) -> Iterator[None]:
    """What a forward sets, such as a table that the first one makes, is as before afterwards."""
    before = [
        (held, dict(held))
        for part in module.modules()
        for held in (vars(part), part._parameters, part._buffers)
    ]
    values = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for held, attributes in before:
            held.clear()
            held.update(attributes)
        for buffer, value in values:
            buffer.copy_(value)


def join(path: str, name: str) -> str:
    """A name below a path, which is empty at the top."""
    return f"{path}.{name}" if path else name
