"""Memory: the most that is alive at one time, and by how much each part of a run raises it.

On a CPU torch keeps no such count, so every operator's results are watched: a storage counts from the
operator that made it until its last owner lets go of it. What an operator needs inside and frees before it
returns (packed matrices of a product) is not seen. On CUDA it is ``torch.cuda.max_memory_allocated``, which
sees that too.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryMeter(Protocol):
    """Counts bytes while it is entered; what was alive before does not count."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...

    @property
    def live_bytes(self) -> int:
        """Alive at this moment."""

    def take_peak_bytes(self) -> int:
        """The most that was alive since the last call, which starts anew."""


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A ``MemoryMeter`` for any device: follows the storages that operators make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self._peak = 0
        self._sizes: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operator and look at what it made."""
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in given and key not in self._sizes:
                self._sizes[key] = storage.nbytes(), weakref.ref(storage, partial(self._gone, key))
                self.live_bytes += storage.nbytes()
        self._peak = max(self._peak, self.live_bytes)
        return result

    def _gone(self, key: int, _: object) -> None:
        self.live_bytes -= self._sizes.pop(key)[0]

    def take_peak_bytes(self) -> int:
        """The most that was alive since the last call."""
        peak, self._peak = self._peak, self.live_bytes
        return peak


class CudaMemory:
    """A ``MemoryMeter`` that asks torch's allocator on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> CudaMemory:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *error: Any) -> None:
        torch.cuda.synchronize(self._device)

    @property
    def live_bytes(self) -> int:
        """Allocated since it was entered."""
        return torch.cuda.memory_allocated(self._device) - self._before

    def take_peak_bytes(self) -> int:
        """The most that was allocated since the last call."""
        peak = torch.cuda.max_memory_allocated(self._device) - self._before
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak


class PeakByPart:
    """By how much each part of a run raises what is alive: its results and what it needs on the way.

    Attributes:
        peaks: for each part, bytes above what was alive when it began; the most of all its calls.
    """

    def __init__(self, meter: MemoryMeter) -> None:
        self._meter = meter
        self._open: list[int] = []  # highest level seen in each part that is running
        self.peaks: dict[str, int] = {}

    @contextmanager
    def scope(self, part: str) -> Iterator[None]:
        """A part runs; parts may lie within each other."""
        self._level()
        before = self._meter.live_bytes
        self._open.append(before)
        try:
            yield
        finally:
            self._level()
            highest = self._open.pop()
            self.peaks[part] = max(self.peaks.get(part, 0), highest - before)
            if self._open:
                self._open[-1] = max(self._open[-1], highest)

    def _level(self) -> None:
        peak = self._meter.take_peak_bytes()
        if self._open:
            self._open[-1] = max(self._open[-1], peak)


def memory_meter(device: torch.device) -> MemoryMeter:
    """The meter for a device."""
    return CudaMemory(device) if device.type == "cuda" else LiveStorages()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
