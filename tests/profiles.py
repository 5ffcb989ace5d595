"""Profiles made by hand, for what only reads them."""

from __future__ import annotations

from profilers.latency import Latency
from profilers.profile import Measurement, Part, Profile
from profilers.roofline import Roofline

ROOF = Roofline("a machine", "float32", 1, 100e9, 10e9, 40e9, 512, 1 << 26)


def latency(ms: float) -> Latency:
    return Latency(ms, 0.9 * ms, 1.2 * ms, 7)


def part(name: str, ms: float, flops: int, read: int, written: int, least: int | None = None) -> Part:
    moved = read + written
    return Part(name, 2, flops, read, written, moved if least is None else least, latency(ms), written)


def measurement(subject: str, mode: str, length: int | None, scale: float = 1.0) -> Measurement:
    n = length or 1
    parts = (
        part("in_proj", 2.0 * n * scale, 1_000_000 * n, 40_000 * n, 20_000 * n),
        part("scan $ [x]", 0.5 * n**2 * scale, 100_000 * n, 400_000 * n, 100_000 * n, 50_000 * n),
        part("rest", 1.0, 0, 10 * n, 0),
    )
    total = sum(p.latency.median_ms for p in parts)
    return Measurement(
        subject,
        mode,
        2,
        length,
        2 * n,
        latency(total),
        latency(1.1 * total),
        1000 * n,
        5000,
        {"component": parts},
    )


def profile(lengths: tuple[int, ...] = (64, 128, 256)) -> Profile:
    found = []
    for subject, scale in (("Mamba-1", 1.0), ("Mamba-2", 0.5)):
        found += [measurement(subject, "prefill", n, scale) for n in lengths]
        found.append(measurement(subject, "decode", 1, scale))
    return Profile("prune profile mamba", {"batch": 2}, {"cpu": "a machine"}, ROOF, tuple(found), ("a note",))
