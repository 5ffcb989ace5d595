"""Bounded building: a configuration says how large a network is, its weights say how large it can be.

A file of a hundred bytes may ask for a million layers. Building stops as soon as the network has more than
the weights could fill; the margins leave room for weights that are shared, for buffers that no file holds,
and for messages that say which weights are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from graph.errors import ArchitectureError

_TIMES = 4
_PARAMETERS, _ELEMENTS = 1000, 1 << 24
_MODULES_PER_PARAMETER = 50
_BUFFER_BYTES = 1 << 28


@contextmanager
def no_larger_than(state: Mapping[str, Tensor], what: str) -> Iterator[None]:
    """Stop the building of a network, within the block, that has far more parameters than there are weights.

    Args:
        state: the weights that it is built for.
        what: names the network in the message.

    Raises:
        ArchitectureError: it is too large.
    """
    parameters = _TIMES * len(state) + _PARAMETERS
    limits = {
        "parameters": parameters,
        "elements of parameters": _TIMES * sum(t.numel() for t in state.values()) + _ELEMENTS,
        "modules": _MODULES_PER_PARAMETER * parameters,
        "bytes of buffers": _TIMES * sum(t.nbytes for t in state.values()) + _BUFFER_BYTES,
    }
    used = dict.fromkeys(limits, 0)
    # By module, not by id: that of a module that building drops again is soon another's.
    seen: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()

    def add(kind: str, amount: int) -> None:
        used[kind] += amount
        if used[kind] > limits[kind]:
            raise ArchitectureError(
                f"{what} would have more than {limits[kind]:,} {kind}, far more than the weights are for",
                hint="check the architecture and its sizes",
            )

    def is_new(owner: nn.Module, name: str) -> bool:  # weights are put in place more than once
        names = seen.setdefault(owner, set())
        new = name not in names
        names.add(name)
        return new

    def on_parameter(owner: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None and is_new(owner, name):
            add("parameters", 1)
            add("elements of parameters", value.numel())

    def on_buffer(owner: nn.Module, name: str, value: Tensor | None) -> None:
        if value is not None and is_new(owner, name):
            add("bytes of buffers", value.nbytes)

    def on_module(owner: nn.Module, name: str, value: nn.Module | None) -> None:
        add("modules", 1)

    handles = [
        hooks.register_module_parameter_registration_hook(on_parameter),
        hooks.register_module_buffer_registration_hook(on_buffer),
        hooks.register_module_module_registration_hook(on_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
