"""Roofline: how many FLOPs and bytes per second this machine gives, measured on the spot.

The model is that of Williams, Waterman and Patterson (doi:10.1145/1498765.1498785): a kernel that does F
FLOPs and moves M bytes cannot take less than max(F / peak, M / bandwidth) seconds. The peak is the best of
several square matrix products, the bandwidth the best of several triads ``a = b + s * c`` (McCalpin's STREAM)
over arrays that no cache holds; a second triad over small arrays gives the bandwidth of the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from profilers.device import CLOCKS, synchronizer, told

_SQUARES = (256, 512, 1024, 2048, 4096, 8192)
_ENOUGH_SECONDS = 0.01  # of one product: what it takes to start it no longer counts
_CACHED_BYTES = 1 << 19  # of each array of the small triad
_SLICE_BYTES = 1 << 23  # of a large array: what is timed at once
_LEAST_BYTES, _MOST_BYTES = 1 << 26, 1 << 28  # of each array of the large one


@dataclass(frozen=True, slots=True)
class Roofline:
    """The limits of one device for one type of numbers.

    Attributes:
        device: in words.
        dtype: of the matrix product, such as ``float32``.
        threads: that torch computes with on a CPU.
        flops_per_s: of a matrix product.
        bytes_per_s: from and to main memory.
        cached_bytes_per_s: from and to the cache.
        gemm: side of the square matrices.
        triad_bytes: size of each array of the large triad.
    """

    device: str
    dtype: str
    threads: int
    flops_per_s: float
    bytes_per_s: float
    cached_bytes_per_s: float
    gemm: int
    triad_bytes: int

    @property
    def ridge(self) -> float:
        """FLOPs per byte from which on the peak is the limit."""
        return self.flops_per_s / self.bytes_per_s

    def attainable(self, intensity: float) -> float:
        """FLOPs per second that a kernel of so many FLOPs per byte can reach."""
        return min(self.flops_per_s, intensity * self.bytes_per_s)

    def least_ms(self, flops: int, moved_bytes: int) -> float:
        """Milliseconds below which no kernel of these FLOPs and bytes can be, data in main memory."""
        return 1e3 * max(flops / self.flops_per_s, moved_bytes / self.bytes_per_s)

    def bound(self, flops: int, moved_bytes: int) -> str:
        """What limits such a kernel: ``compute`` or ``memory``."""
        return "compute" if flops > self.ridge * moved_bytes else "memory"

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def measure_roofline(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    clock: str = "wall",
    repeats: int = 5,
    most_side: int = 8192,
) -> Roofline:
    """Measure a device; takes about a second.

    Args:
        device: a CPU or a CUDA device.
        dtype: of the matrix product; the triads run in float32.
        clock: one of ``profilers.device.CLOCKS``.
        repeats: of each kernel; the best one counts.
        most_side: of the square matrices; the product is made larger until it takes 10 ms.
    """
    best = partial(_best, sync=synchronizer(device), clock=CLOCKS[clock])
    flops_per_s, side = 0.0, 0
    with torch.no_grad():
        for n in (s for s in _SQUARES if s <= most_side):
            a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            # Plain, and with the right one transposed, as a layer's weights are: some types like but one.
            seconds = min(best(partial(torch.mm, a, m), repeats=repeats) for m in (b, b.t()))
            if 2 * n**3 / seconds > flops_per_s:
                flops_per_s, side = 2 * n**3 / seconds, n
            if seconds > _ENOUGH_SECONDS:
                break
        large = min(max(_last_cache(), _LEAST_BYTES), _MOST_BYTES)
        bytes_per_s = _triad(large, device, best, repeats)
        cached = _triad(_CACHED_BYTES, device, best, 40 * repeats)
    return Roofline(
        device=told(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        flops_per_s=flops_per_s,
        bytes_per_s=bytes_per_s,
        cached_bytes_per_s=max(cached, bytes_per_s),
        gemm=side,
        triad_bytes=large,
    )


def _triad(size_bytes: int, device: torch.device, best: Callable[..., float], repeats: int) -> float:
    """Bytes per second of ``a = b + s * c``: two arrays are read, one is written, as STREAM counts.

    Large arrays are walked in slices and the quickest slice counts, so that a machine that is busy with other
    work is measured between its interruptions; each slice has left the caches when its turn comes again.
    """
    arrays = [torch.full((size_bytes // 4,), float(k), device=device) for k in range(3)]
    step = min(size_bytes, _SLICE_BYTES) // 4
    slices = [[a[i : i + step] for a in arrays] for i in range(0, size_bytes // 4, step)]
    calls = [partial(torch.add, b, c, alpha=3.0, out=a) for a, b, c in slices]
    seconds = min(best(call, repeats=1, warmup=len(calls) == 1) for _ in range(repeats) for call in calls)
    return 3 * step * 4 / seconds


def _best(
    call: Callable[[], object],
    *,
    repeats: int,
    sync: Callable[[], None] | None,
    clock: Callable[[], float],
    warmup: bool = True,
) -> float:
    """Seconds of the quickest call, after one that does not count."""
    times = []
    for _ in range(repeats + warmup):
        if sync is not None:
            sync()
        start = clock()
        call()
        if sync is not None:
            sync()
        times.append(clock() - start)
    return min(times[warmup:])


def _last_cache() -> int:
    """Bytes of the last-level cache as Linux tells it, else 0."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        digits = text.rstrip("KM")
        sizes.append(int(digits) * unit if digits.isdigit() else 0)
    return max(sizes)
