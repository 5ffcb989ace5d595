"""Watch: one run measured as a whole and part by part, in time, memory and traffic.

The run and the same run with a stopwatch at its parts take turns, so that what the stopwatch costs is known.
Memory and traffic are counted in one more run each, for counting takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from profilers.device import CLOCKS, synchronizer
from profilers.latency import Latency, no_garbage_collection, summary
from profilers.memory import PeakByPart, memory_meter
from profilers.profile import Part
from profilers.stages import Scope, Stopwatch
from profilers.traffic import TrafficByPart

REST = "rest"
_WHOLE = "whole"

Prepare = Callable[[Scope | None], AbstractContextManager[Callable[[], object]]]
"""Gives a call that runs the whole once; with a scope, each part within it."""


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        repeats: runs at the least.
        seconds: of runs at the least, plain and watched together.
        warmup: runs before the clock starts.
        clock: one of ``profilers.device.CLOCKS``.
    """

    repeats: int = 5
    seconds: float = 1.0
    warmup: int = 1
    clock: str = "wall"


DEFAULT = Budget()


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


def watch(prepare: Prepare, device: torch.device, budget: Budget) -> Watched:
    """Measure a run on a device, without gradients."""
    sync, clock = synchronizer(device), CLOCKS[budget.clock]

    def timed(scope: Scope | None) -> float:
        with prepare(scope) as run:
            if sync is not None:
                sync()
            start = clock()
            run()
            if sync is not None:
                sync()
            return clock() - start

    with torch.no_grad():
        peaks, peak_bytes = _memory(prepare, device)
        moved = TrafficByPart()
        with prepare(moved.scope) as run, moved:
            run()
        for _ in range(budget.warmup):
            timed(None)
        whole: list[float] = []
        watched: list[float] = []
        parts: list[Stopwatch] = []
        with no_garbage_collection():
            while len(whole) < budget.repeats or sum(whole) + sum(watched) < budget.seconds:
                whole.append(timed(None))
                stopwatch = Stopwatch(sync, clock)
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


def _memory(prepare: Prepare, device: torch.device) -> tuple[dict[str, int], int]:
    """Peaks by part, and of the whole."""
    meter = memory_meter(device)
    peaks = PeakByPart(meter)
    with prepare(peaks.scope) as run, meter, peaks.scope(_WHOLE):
        run()
    return peaks.peaks, peaks.peaks.pop(_WHOLE)
