"""Devices: which one measures, with how many threads and which clock, and what it is called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from graph.errors import UsageError
from graph.suggest import suggestion
from profilers.latency import cpu_model

DTYPES = ("float32", "bfloat16", "float16", "float64")
# ``cpu`` is the processor time of one thread: other programs on the machine do not count as much.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}


def find_device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UsageError: another name, or a device that this machine does not have.
    """
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"--device {name}: unknown", hint="cpu, cuda or cuda:1")
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else int(kind == "cpu")
    if int(index or 0) >= count:
        has = f"{count} CUDA devices" if count else "no CUDA device"
        raise UsageError(f"--device {name}: torch sees {has} here", hint="leave it out to compute on the CPU")
    return torch.device(name if kind == "cuda" else kind)


def find_dtype(name: str) -> torch.dtype:
    """The type of numbers of a name.

    Raises:
        UsageError: none of ``DTYPES``.
    """
    if name not in DTYPES:
        raise UsageError(f"--dtype {name}: unknown", hint=suggestion(name, DTYPES))
    found: torch.dtype = getattr(torch, name)
    return found


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """A call that waits until the device has done all it was told to; None for the CPU, which has."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else None


def told(device: torch.device) -> str:
    """The device in words, such as the name of its processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


@contextmanager
def threads(count: int | None, clock: str, device: torch.device) -> Iterator[None]:
    """Let torch compute with so many threads: its own number when None, one under the clock ``cpu``.

    Raises:
        UsageError: an unknown clock, or ``cpu`` where it would not see all that is done.
    """
    if clock not in CLOCKS:
        raise UsageError(f"--clock {clock}: unknown", hint=suggestion(clock, CLOCKS))
    if clock == "cpu" and (device.type != "cpu" or count not in (None, 1)):
        raise UsageError(
            "--clock cpu sees the work of one thread only", hint="go without --threads and --device"
        )
    before = torch.get_num_threads()
    torch.set_num_threads(1 if clock == "cpu" else count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
