"""The table of operator latencies: single operators timed on this machine in onnxruntime, once each.

Times are kept on disk, in the user's cache ($XDG_CACHE_HOME or ~/.cache, folder ``prune``), in one file for
each machine: processor, cores, platform and version of onnxruntime. The cache is only an accelerator. Threads
are onnxruntime's own choice, one per core.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from profilers.latency import compare, environment, onnx_session
from profilers.single_ops import NOTHING, Kernel

Point = tuple[Kernel, int, int]  # a kernel and its two widths
_VERSION = 1  # of the way of measuring; a change makes a new file
_BATCH_BYTES = 256 * 2**20  # weights that are in memory at the same time
_BATCH_POINTS = 16
_WARMUP, _REPEATS, _MIN_SECONDS = 2, 5, 0.02


class OpTable:
    """Milliseconds of single operators on this machine.

    Args:
        folder: where the times are kept; the user's cache when left out.

    Attributes:
        path: the file of this machine.
        measured: how many operators were timed, rather than remembered, so far.
    """

    def __init__(self, folder: Path | None = None) -> None:
        machine = {k: environment()[k] for k in ("onnxruntime", "cpu", "cores", "platform")}
        self._machine: Mapping[str, Any] = machine | {"version": _VERSION}
        named = hashlib.sha256(json.dumps(self._machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = (folder or _cache_folder()) / f"op-latency-{named}.json"
        self._ms = self._read()
        self.measured = 0

    def milliseconds(
        self, points: Sequence[Point], on_progress: Callable[[int, int], None] | None = None
    ) -> list[float]:
        """The time of each operator, without what any call costs.

        The figure is the 10th percentile: what disturbs a measurement only adds to it. Operators are timed in
        turns, as they run in a network: none finds its weights in the nearest cache.

        Args:
            points: kernels with their widths.
            on_progress: is told how many of the operators that are not known yet are done, and of how many.
        """
        missing = list({k.key(a, b): (k, a, b) for k, a, b in points if k.key(a, b) not in self._ms}.values())
        done = 0
        for batch in _batches(missing):
            self._ms |= self._measure(batch)
            done += len(batch)
            self.measured += len(batch)
            self._write()
            if on_progress is not None:
                on_progress(done, len(missing))
        return [self._ms[k.key(a, b)] for k, a, b in points]

    def _measure(self, batch: Sequence[Point]) -> dict[str, float]:
        calls = {k.key(a, b): _call(k, a, b) for k, a, b in batch}
        found = compare(
            {"": _call(NOTHING, 1, 1), **calls}, warmup=_WARMUP, repeats=_REPEATS, min_seconds=_MIN_SECONDS
        )
        overhead = found.pop("").p10_ms
        return {key: max(1e-4, time.p10_ms - overhead) for key, time in found.items()}

    def _read(self) -> dict[str, float]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            ms = {str(k): float(v) for k, v in data["ms"].items()}
            return ms if data["machine"] == self._machine else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # missing or broken: measured anew

    def _write(self) -> None:
        self._ms = self._read() | self._ms  # another run may have written in the meantime
        with contextlib.suppress(OSError):  # a read-only home costs time, not the result
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".json")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"machine": self._machine, "ms": self._ms}, file, indent=1)
            os.replace(name, self.path)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune"


def _call(kernel: Kernel, a: int, b: int) -> Callable[[], object]:
    model, feeds = kernel.model(a, b)
    session = onnx_session(model)
    return lambda: session.run(None, feeds)


def _batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Operators that are timed together: as many as memory takes."""
    batch: list[Point] = []
    size = 0
    for kernel, a, b in points:
        weight = kernel.weight_bytes(a, b)
        if batch and (size + weight > _BATCH_BYTES or len(batch) == _BATCH_POINTS):
            yield batch
            batch, size = [], 0
        batch.append((kernel, a, b))
        size += weight
    if batch:
        yield batch
