"""Watch: one run measured as a whole and part by part, in time, memory and traffic.

The run and the same run with a stopwatch at its parts take turns, so that what the stopwatch costs is known.
Memory and traffic are counted in one more run each, for counting takes time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from profilers.device import synchronizer
from profilers.latency import Latency, no_garbage_collection, summary
from profilers.memory import PeakByPart, memory_meter
from profilers.profile import Part
from profilers.stages import Scope, Stopwatch
from profilers.traffic import TrafficByPart

REST = "rest"
_WHOLE = "whole"

Execute = Callable[[Scope | None], object]
"""Runs the whole once; with a scope, each part within it."""


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        repeats: runs at the least.
        seconds: of runs at the least, plain and watched together.
        warmup: runs before the clock starts.
    """

    repeats: int = 5
    seconds: float = 1.0
    warmup: int = 1


@dataclass(frozen=True)
class Watched:
    """What was measured.

    Attributes:
        whole_s: seconds of each plain run.
        watched_s: seconds of each run with the stopwatch.
        parts_s: for each part, its seconds in each of these.
        calls: of each part in one run.
        peaks: for each part, bytes above what was alive when it began.
        read: bytes by part.
        written: bytes by part.
        peak_bytes: the most that was alive above what was there before the run.
    """

    whole_s: tuple[float, ...]
    watched_s: tuple[float, ...]
    parts_s: Mapping[str, tuple[float, ...]]
    calls: Mapping[str, int]
    peaks: Mapping[str, int]
    read: Mapping[str, int]
    written: Mapping[str, int]
    peak_bytes: int

    @property
    def whole(self) -> Latency:
        """Of the plain run."""
        return summary(self.whole_s)

    def part(self, name: str, members: Iterable[str], *, flops: int = 0, least_bytes: int = 0) -> Part:
        """Several parts as one.

        Args:
            name: of the result.
            members: names of the parts.
            flops: of all of them together.
            least_bytes: what must be moved at the least; what was moved when left out.
        """
        own = [m for m in members if m in self.parts_s]
        seconds = [sum(s) for s in zip(*(self.parts_s[m] for m in own), strict=True)]
        read = sum(self.read.get(m, 0) for m in own)
        written = sum(self.written.get(m, 0) for m in own)
        return Part(
            name=name,
            calls=sum(self.calls[m] for m in own),
            flops=flops,
            bytes_read=read,
            bytes_written=written,
            least_bytes=least_bytes or read + written,
            latency=summary(seconds or [0.0]),
            peak_bytes=max((self.peaks.get(m, 0) for m in own), default=0),
        )

    def rest(self) -> Part:
        """What no part accounts for: operators between them, and the interpreter."""
        spent = [
            max(0.0, total - sum(parts))
            for total, *parts in zip(self.watched_s, *self.parts_s.values(), strict=True)
        ]
        read, written = self.read.get("", 0), self.written.get("", 0)
        return Part(REST, 1, 0, read, written, read + written, summary(spent), 0)


def watch(execute: Execute, device: torch.device, budget: Budget) -> Watched:
    """Measure a run on a device, without gradients."""
    sync = synchronizer(device)

    def timed(scope: Scope | None) -> float:
        sync()
        start = time.perf_counter()
        execute(scope)
        sync()
        return time.perf_counter() - start

    with torch.no_grad():
        peaks, peak_bytes = _memory(execute, device)
        moved = TrafficByPart()
        with moved:
            execute(moved.scope)
        for _ in range(budget.warmup):
            execute(None)
        whole, watched, parts = [], [], []
        with no_garbage_collection():
            while len(whole) < budget.repeats or sum(whole) + sum(watched) < budget.seconds:
                whole.append(timed(None))
                stopwatch = Stopwatch(sync)
                watched.append(timed(stopwatch.scope))
                parts.append(stopwatch)
    names = parts[0].seconds
    return Watched(
        whole_s=tuple(whole),
        watched_s=tuple(watched),
        parts_s={name: tuple(p.seconds[name] for p in parts) for name in names},
        calls=dict(parts[0].calls),
        peaks=peaks,
        read=dict(moved.read),
        written=dict(moved.written),
        peak_bytes=peak_bytes,
    )


def _memory(execute: Execute, device: torch.device) -> tuple[dict[str, int], int]:
    """Peaks by part, and of the whole."""
    meter = memory_meter(device)
    peaks = PeakByPart(meter)
    with meter, peaks.scope(_WHOLE):
        execute(peaks.scope)
    return peaks.peaks, peaks.peaks.pop(_WHOLE)
