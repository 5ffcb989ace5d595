"""Tables of a profile for a terminal, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from graph.errors import UsageError
from graph.suggest import suggestion
from profilers.growth import Growth
from profilers.latency import Latency
from profilers.operators import VIEWS
from profilers.profile import Measurement, Part, Profile, largest
from profilers.roofline import Roofline

Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]
_ABREAST = 6  # lengths that fit beside each other into 80 columns
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
        raise UsageError(f"--by {name}: unknown", hint=suggestion(name, VIEWS))


def tables(profile: Profile, view: str, top: int | None = None) -> list[Table]:
    """The parts of each model, at its longest length and in decoding, and growth where there are lengths.

    Args:
        profile: what was measured.
        view: the parts to tell apart.
        top: how many of them, those that take longest; all, in the order of the run, when None.
    """
    found = []
    for subject in profile.subjects:
        series = profile.series(subject)
        own = [m for m in profile.measurements if m.subject == subject]
        found += [_parts(m, view, top, profile.roofline) for m in own if m in series[-1:] or m not in series]
        if len(series) > 1:
            found += _growth(profile, subject, view, top)
    return found


def _parts(m: Measurement, view: str, top: int | None, roofline: Roofline) -> Table:
    length = f", {m.length} tokens" if m.length and m.mode != "decode" else ""
    title = f"{m.subject}, {m.mode}, batch {m.batch}{length}"
    shares = m.shares(view)
    parts = m.views[view] if top is None else largest(m.views[view], top)
    rows = [_row(p, shares[p.name], roofline) for p in parts]
    if left := [p for p in m.views[view] if p not in parts]:
        spent, share = sum(p.latency.median_ms for p in left), sum(shares[p.name] for p in left)
        rows.append((f"{len(left)} more", "", "", "", _ms(spent), _percent(share), "", ""))
    counts = quantity(m.flops), quantity(m.moved_bytes), _ratio(m.flops, m.moved_bytes)
    whole = ("whole", *counts, _time(m.whole), "", quantity(m.peak_bytes), "")
    header = (view, "FLOPs", "bytes", "FLOP/B", "ms", "share", "peak B", "of roofline")
    return title, header, [*rows, whole]


def _row(part: Part, share: float, roofline: Roofline) -> tuple[str, ...]:
    position = ""
    if part.moved_bytes or part.flops:
        bound = roofline.bound(part.flops, part.moved_bytes)
        position = f"{part.roofline_share(roofline):.0%} {bound}"
    return (
        part.name,
        quantity(part.flops) if part.flops else "-",
        quantity(part.moved_bytes) if part.moved_bytes else "-",
        _ratio(part.flops, part.moved_bytes),
        _time(part.latency),
        _percent(share),
        quantity(part.peak_bytes) if part.peak_bytes else "-",
        position,
    )


def _growth(profile: Profile, subject: str, view: str, top: int | None) -> list[Table]:
    """Shares over length, a few lengths to a table, with the exponents of growth beside the last ones."""
    series = profile.series(subject)
    fits = profile.growth(subject, view)
    last = series[-1].views[view]
    names = [part.name for part in (last if top is None else largest(last, top))]
    parted = [series[i : i + _ABREAST] for i in range(0, len(series), _ABREAST)]
    return [_shares(subject, view, names, some, fits if some is parted[-1] else None) for some in parted]


def _shares(
    subject: str, view: str, names: list[str], series: list[Measurement], fits: dict[str, Growth] | None
) -> Table:
    shares = [m.shares(view) for m in series]
    rows = [(name, *(_percent(s[name]) if name in s else "-" for s in shares)) for name in names]
    rows.append(("whole, ms", *(_ms(m.whole.median_ms) for m in series)))
    rows.append(("peak, bytes", *(quantity(m.peak_bytes) for m in series)))
    rows.append(("tokens/s", *(quantity(m.tokens_per_s) for m in series)))
    header = (view, *(str(m.length) for m in series))
    title = f"{subject}: share of the time over length"
    if fits is None:
        return title, header, rows
    keys = [*names, "whole", "peak_bytes", None]
    rows = [(*row, *_exponents(fits.get(key) if key else None)) for row, key in zip(rows, keys, strict=True)]
    return f"{title}; growth", (*header, "exponent", "tail"), rows


def _exponents(fit: Growth | None) -> tuple[str, str]:
    return ("", "") if fit is None else (f"{fit.exponent:.2f} ±{fit.error:.2f}", f"{fit.tail:.2f}")


def lines(profile: Profile, view: str) -> list[str]:
    """What belongs under the tables."""
    roof = profile.roofline
    overheads = [m.overhead for m in profile.measurements]
    sums = [sum(p.latency.p10_ms for p in m.views[view]) / m.whole.p10_ms for m in profile.measurements]
    alone = [m for m in profile.measurements if m.mode == "decode" or len(profile.series(m.subject)) < 2]
    return [
        *(f"{m.subject}, {m.mode}: {_rate(m)}" for m in alone),
        f"machine: {roof.device}, {roof.threads} thread(s): {roof.flops_per_s / 1e9:.4g} GFLOP/s in "
        f"{roof.dtype} (product of {roof.gemm} x {roof.gemm}), {roof.bytes_per_s / 1e9:.4g} GB/s from "
        f"memory, {roof.cached_bytes_per_s / 1e9:.4g} GB/s from the cache (triads)",
        "ms: median and half of the spread from the 10th to the 90th percentile; of roofline: the shortest "
        "time that FLOPs and bytes allow, by the time taken, above 100% where caches spare main memory; "
        "rest: what lies between the parts; tail: the exponent over the upper half of the lengths",
        f"check, by the quick runs: the parts add up to {_range(sums)} of the plain run, with a stopwatch "
        f"that adds {_range(overheads)}",
        *(f"note: {note}" for note in profile.notes),
    ]


def _rate(m: Measurement) -> str:
    return f"{quantity(m.tokens_per_s)} {'tokens' if m.length else 'records'}/s"


def _range(values: Sequence[float]) -> str:
    low, high = (f"{v:.0%}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def quantity(value: float) -> str:
    """A count with a decimal prefix: 12.3M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _time(latency: Latency) -> str:
    spread = (latency.p90_ms - latency.p10_ms) / 2 / latency.median_ms if latency.median_ms else 0.0
    return f"{_ms(latency.median_ms)} ±{spread:.0%}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _ratio(flops: int, moved: int) -> str:
    return f"{flops / moved:.3g}" if flops and moved else "-"
