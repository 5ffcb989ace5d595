"""Tables of a profile for a terminal, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from graph.errors import UsageError
from profilers.operators import VIEWS
from profilers.profile import Measurement, Part, Profile, largest
from profilers.roofline import Roofline

Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]
_LONGEST = 1 << 20  # tokens; beyond, a slip of the key is likelier than a wish


def parse_lengths(text: str) -> tuple[int, ...]:
    """Read ``64,256,1024`` or ``64..2048``, which doubles; ascending, each once.

    Raises:
        UsageError: it is neither, or a length is out of range.
    """
    hint = "such as --lengths 64,256,1024 or --lengths 64..2048"
    first, dots, last = text.partition("..")
    try:
        if dots:
            low, high = int(first), int(last)
            found = [low << k for k in range(_LONGEST.bit_length()) if low << k <= high] if low > 0 else []
        else:
            found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"--lengths {text}: no lengths", hint=hint)
    for length in found:
        if not 1 <= length <= _LONGEST:
            raise UsageError(f"--lengths {text}: {length} is not between 1 and {_LONGEST}", hint=hint)
    return tuple(sorted(set(found)))


def check_view(name: str) -> None:
    """Refuse a way to divide a model that there is not.

    Raises:
        UsageError: it is none of ``VIEWS``.
    """
    if name not in VIEWS:
        raise UsageError(f"--by {name}: unknown", hint="one of " + ", ".join(VIEWS))


def tables(profile: Profile, view: str, top: int | None = None) -> list[Table]:
    """A table for each measurement, and one of growth where there are several lengths.

    Args:
        profile: what was measured.
        view: the parts to tell apart.
        top: how many of them, those that take longest; all, in the order of the run, when None.
    """
    found = [_parts_table(m, view, top, profile.roofline) for m in profile.measurements]
    return found + [_length_table(profile, s, view, top) for s in profile.subjects if len(profile.series(s)) > 1]


def _parts_table(m: Measurement, view: str, top: int | None, roofline: Roofline) -> Table:
    length = f", {m.length} tokens" if m.length else ""
    title = f"{m.subject}, {m.mode}, batch {m.batch}{length}, by {view}"
    shares = m.shares(view)
    parts = m.views[view] if top is None else largest(m.views[view], top)
    rows = [_row(p, shares[p.name], roofline) for p in parts]
    if left := [p for p in m.views[view] if p not in parts]:
        share = sum(shares[p.name] for p in left)
        rows.append((f"{len(left)} more", *[""] * 4, f"{share:.1%}", *[""] * 4))
    unit = "tokens/s" if m.length else "records/s"
    whole = (
        "whole", quantity(m.flops), quantity(m.moved_bytes), _ratio(m.flops, m.moved_bytes), f"{m.whole.median_ms:.3g}",
        "", quantity(m.peak_bytes), "", "", f"{quantity(m.tokens_per_s)} {unit}",
    )  # fmt: skip
    header = (
        view, "FLOPs", "bytes", "FLOP/B", "ms (p10-p90)", "share", "peak bytes", "GFLOP/s", "GB/s", "of roofline",
    )  # fmt: skip
    return title, header, [*rows, whole]


def _row(part: Part, share: float, roofline: Roofline) -> tuple[str, ...]:
    latency = part.latency
    position = ""
    if part.moved_bytes or part.flops:
        bound = roofline.bound(part.flops, part.moved_bytes)
        position = f"{part.roofline_share(roofline):.0%} {bound}"
    return (
        part.name,
        quantity(part.flops) if part.flops else "-",
        quantity(part.moved_bytes) if part.moved_bytes else "-",
        _ratio(part.flops, part.moved_bytes),
        f"{latency.median_ms:.3g} ({latency.p10_ms:.3g}-{latency.p90_ms:.3g})",
        f"{share:.1%}",
        quantity(part.peak_bytes) if part.peak_bytes else "-",
        f"{part.flops_per_s / 1e9:.3g}" if part.flops else "-",
        f"{part.bytes_per_s / 1e9:.3g}" if part.moved_bytes else "-",
        position,
    )


def _length_table(profile: Profile, subject: str, view: str, top: int | None) -> Table:
    """Shares over length with the exponents of growth."""
    series = profile.series(subject)
    fits = profile.growth(subject, view)
    names = [p.name for p in (largest(series[-1].views[view], top) if top else series[-1].views[view])]
    shares = [m.shares(view) for m in series]
    rows = []
    for name in names:
        cells = [f"{s[name]:.1%}" if name in s else "-" for s in shares]
        rows.append((name, *cells, *_exponents(fits.get(name))))
    rows.append(("whole, ms", *(f"{m.whole.median_ms:.3g}" for m in series), *_exponents(fits.get("whole"))))
    peaks = (quantity(m.peak_bytes) for m in series)
    rows.append(("peak, bytes", *peaks, *_exponents(fits.get("peak_bytes"))))
    rows.append(("tokens/s", *(quantity(m.tokens_per_s) for m in series), "", ""))
    header = (view, *(str(m.length) for m in series), "exponent", "upper half")
    return f"{subject}: share of the time over length, and growth", header, rows


def _exponents(fit: object) -> tuple[str, str]:
    from profilers.growth import Growth

    return (f"{fit.exponent:.2f} ± {fit.error:.2f}", f"{fit.tail:.2f}") if isinstance(fit, Growth) else ("", "")


def lines(profile: Profile, view: str) -> list[str]:
    """What belongs under the tables."""
    roof = profile.roofline
    overheads = [m.overhead for m in profile.measurements]
    sums = [sum(p.latency.median_ms for p in m.views[view]) / m.whole.median_ms for m in profile.measurements]
    return [
        f"machine: {roof.device}, {roof.threads} threads; {roof.flops_per_s / 1e9:.4g} GFLOP/s in {roof.dtype} "
        f"(product of {roof.gemm} x {roof.gemm}), {roof.bytes_per_s / 1e9:.4g} GB/s from memory, "
        f"{roof.cached_bytes_per_s / 1e9:.4g} GB/s from the cache (triads)",
        "of roofline: the shortest time that FLOPs and bytes allow, by the time taken; above 100 % where caches "
        "spare main memory",
        f"check: the parts add up to {min(sums):.0%}-{max(sums):.0%} of the plain run; the stopwatch adds "
        f"{min(overheads):+.0%} to {max(overheads):+.0%}",
        *(f"note: {note}" for note in profile.notes),
    ]


def quantity(value: float) -> str:
    """A count with a decimal prefix: 12.3M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _ratio(flops: int, moved: int) -> str:
    return f"{flops / moved:.2f}" if flops and moved else "-"
