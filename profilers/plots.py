"""Plots of a profile, as PNG and SVG: shares over length, latency and memory over length, the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from profilers.plot_style import STYLE, write_figure
from profilers.profile import Measurement, Part, Profile, largest
from profilers.roofline import Roofline
from profilers.watch import REST

OTHERS = "all others"
# Okabe and Ito's colours, which the colour-blind tell apart as well, but for their pale yellow; black is for
# lines, grey for the rest.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#882255")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++")
_GREYS = {OTHERS: "#8A8A8A", REST: "#D0D0D0"}
_SHOWN = 7  # parts with a colour of their own; what is left is summed up
_STYLE: Any = {**STYLE, "axes.labelsize": 9, "hatch.linewidth": 0.5}


def write_plots(profile: Profile, view: str, folder: Path) -> list[str]:
    """Draw all plots that a profile has data for.

    Args:
        profile: what was measured.
        view: the parts to tell apart.
        folder: to write to; it exists.

    Returns:
        Names of the files: ``share``, ``scaling`` (of two lengths or more) and ``roofline``, each as ``.png``
        (150 dots per inch) and ``.svg``.
    """
    drawn = {"share": draw_shares, "roofline": draw_roofline}
    if any(len(profile.series(s)) > 1 for s in profile.subjects):
        drawn["scaling"] = draw_scaling
    names: list[str] = []
    for name, draw in drawn.items():
        with matplotlib.rc_context(_STYLE):
            names += write_figure(draw(profile, view), folder, name, bbox_inches="tight")
    return sorted(names)


def draw_shares(profile: Profile, view: str) -> Figure:
    """Share of the time of each part: stacked over length, or bars where there is one length only."""
    if all(len(profile.series(s)) < 2 for s in profile.subjects):
        return _bars(profile, view)
    subjects = [s for s in profile.subjects if profile.series(s)]
    names = _names(profile, view)
    figure, axes = _panels(len(subjects), sharey=True)
    for ax, subject in zip(axes, subjects, strict=True):
        series = profile.series(subject)
        shares = [_folded(m, view, names) for m in series]
        ticks = np.arange(len(series))
        bottom = np.zeros(len(series))
        for index, name in enumerate(names):
            height = np.array([100 * s.get(name, 0.0) for s in shares])
            ax.bar(
                ticks, height, 0.86, bottom, label=name, edgecolor="white", linewidth=0.6,
                color=_colour(name, index), hatch=_hatch(name, index),
            )  # fmt: skip
            bottom += height
        ax.set_xticks(ticks, [_length(m.length or 0) for m in series])
        ax.set(title=_title(series[0]), xlabel="sequence length (tokens)", ylim=(0, 100))
        ax.grid(False, axis="x")
    axes[0].set_ylabel("share of the time (%)")
    _legend(figure, axes[0])
    return figure


def _bars(profile: Profile, view: str) -> Figure:
    """The parts that take longest, one panel for each measurement."""
    chosen = list(profile.measurements)
    figure, axes = _panels(len(chosen), width=6.2, height=3.6)
    for ax, m in zip(axes, chosen, strict=True):
        parts = largest(m.views[view], 12)[::-1]
        shares = m.shares(view)
        colours = [_GREYS.get(p.name, _COLOURS[0]) for p in parts]
        ax.barh([_short(p.name) for p in parts], [100 * shares[p.name] for p in parts], color=colours)
        for row, part in enumerate(parts):
            told = f" {100 * shares[part.name]:.1f} %, {part.latency.median_ms:.3g} ms"
            ax.text(100 * shares[part.name], row, told, va="center", fontsize=7.5)
        ax.set(title=_title(m), xlabel="share of the time (%)")
        ax.set_xlim(0, 135 * max(shares.values()))
        ax.grid(False, axis="y")
    return figure


def draw_scaling(profile: Profile, view: str) -> Figure:
    """Latency by part, and peak memory, over length on logarithmic axes, with the fitted exponents."""
    subjects = [s for s in profile.subjects if len(profile.series(s)) > 1]
    names = [n for n in _names(profile, view) if n not in _GREYS]
    figure, axes = _panels(len(subjects) + 1, sharey=False)
    highest = max(m.whole.median_ms for s in subjects for m in profile.series(s))
    lowest = highest
    for ax, subject in zip(axes, subjects, strict=False):
        series = profile.series(subject)
        lengths = [m.length or 0 for m in series]
        fits = profile.growth(subject, view)
        _line(ax, lengths, [m.whole.median_ms for m in series], _fitted("whole", fits), "black", "o", 2.0)
        low, high = [m.whole.p10_ms for m in series], [m.whole.p90_ms for m in series]
        ax.fill_between(lengths, low, high, color="black", alpha=0.12, linewidth=0)
        for index, name in enumerate(names):
            found = [next((p.latency.median_ms for p in m.views[view] if p.name == name), 0) for m in series]
            if min(found) > 0:
                lowest = min(lowest, *found)
                _line(ax, lengths, found, _fitted(name, fits), _COLOURS[index], _MARKERS[index], 1.2)
        ax.set(title=_title(series[0]))
        _length_axis(ax, lengths)
        ax.legend(frameon=False, loc="upper left", fontsize=7, labelspacing=0.25, handlelength=1.6)
    for ax in axes[: len(subjects)]:
        ax.set_ylim(lowest / 1.5, highest * 60)  # room for the legend
    axes[0].set_ylabel("latency (ms)")
    memory = axes[-1]
    for index, subject in enumerate(subjects):
        series = profile.series(subject)
        lengths = [m.length or 0 for m in series]
        label = _fitted(subject, {subject: profile.growth(subject, view)["peak_bytes"]})
        peaks = [m.peak_bytes / 1e6 for m in series]
        _line(memory, lengths, peaks, label, _COLOURS[index], _MARKERS[index], 1.6)
    _length_axis(memory, lengths)
    memory.set(title="peak memory of activations", ylabel="MB")
    memory.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    memory.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    memory.yaxis.set_minor_locator(NullLocator())
    memory.legend(frameon=False, loc="upper left")
    return figure


def draw_roofline(profile: Profile, view: str) -> Figure:
    """Where the parts lie under the roofline, at the longest length of each model.

    A hollow mark stands where the part would lie if nothing within it went through memory.
    """
    chosen = [profile.series(s)[-1] if profile.series(s) else _last(profile, s) for s in profile.subjects]
    names = _names(profile, view)
    figure, axes = _panels(len(chosen), width=4.6, height=3.6, sharey=True)
    roof = profile.roofline
    shown = [[p for p in m.views[view] if p.name in names and p.flops and p.moved_bytes] for m in chosen]
    x = _intensities(roof, [p for parts in shown for p in parts])
    for ax, m, parts in zip(axes, chosen, shown, strict=True):
        for slope, style in ((roof.bytes_per_s, "-"), (roof.cached_bytes_per_s, "--")):
            ax.loglog(x, np.minimum(roof.flops_per_s, x * slope) / 1e9, color="black", linestyle=style)
        for part in parts:
            index = names.index(part.name)
            look: dict[str, Any] = {
                "marker": _MARKERS[index % len(_MARKERS)], "linestyle": "none", "markersize": 7, "zorder": 3,
            }  # fmt: skip
            reached, colour = part.flops_per_s / 1e9, _colour(part.name, index)
            if part.least_bytes < part.moved_bytes / 1.05:
                fused = part.flops / part.least_bytes
                ax.plot([part.intensity, fused], [reached, reached], ":", color=colour, linewidth=0.9)
                ax.plot(fused, reached, **look, markerfacecolor="white", color=colour)
            ax.plot(part.intensity, reached, **look, color=colour, markeredgecolor="black",
                    markeredgewidth=0.5, label=part.name)  # fmt: skip
        ax.set_xlim(x[0], x[-1])
        ax.set(title=_title(m) + _at(m), xlabel="arithmetic intensity (FLOPs per byte moved)")
    rates = [p.flops_per_s for parts in shown for p in parts]
    axes[0].set_ylim(min([*rates, x[0] * roof.bytes_per_s]) / 2e9, roof.flops_per_s * 4 / 1e9)
    axes[0].set_ylabel("reached (GFLOP/s)")
    _legend(figure, *axes)
    figure.draw_without_rendering()  # labels along the roof need the final proportions
    for ax in axes:
        _label_roof(ax, roof)
    return figure


def _intensities(roof: Roofline, parts: Sequence[Part]) -> NDArray[np.float64]:
    """From left of all marks and of the cache's slope to right of all marks and of the ridge."""
    known = [p.intensity for p in parts] + [p.flops / max(1, p.least_bytes) for p in parts]
    known += [roof.flops_per_s / roof.cached_bytes_per_s / 8, roof.ridge / 8, roof.ridge * 4]
    left, right = min(known), max(known)
    found: NDArray[np.float64] = np.geomspace(left / 1.6, right * 1.6, 200)
    return found


def _label_roof(ax: Axes, roof: Roofline) -> None:
    """Names of the limits, along them; bandwidths on the upper part of their slopes, where no mark can be."""
    halo = [withStroke(linewidth=2.5, foreground="white")]
    peak = roof.flops_per_s / 1e9
    told = f"{roof.dtype} {peak:.3g} GFLOP/s"
    place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "path_effects": halo}
    ax.annotate(told, (ax.get_xlim()[1], peak), (0, 10), ha="right", **place)
    for name, slope in (("memory", roof.bytes_per_s), ("cache", roof.cached_bytes_per_s)):
        x, y = peak * 1e9 / slope / 1.3, peak / 1.3
        run, rise = np.diff(ax.transData.transform([(x / 2, y / 2), (x, y)]), axis=0)[0]
        angle = float(np.degrees(np.arctan2(rise, run)))
        ax.annotate(
            f"{name} {slope / 1e9:.3g} GB/s", (x, y), (-3, 3), rotation=angle, rotation_mode="anchor",
            ha="right", va="bottom", **place,
        )  # fmt: skip


def _last(profile: Profile, subject: str) -> Measurement:
    return [m for m in profile.measurements if m.subject == subject][-1]


def _panels(
    count: int, *, width: float = 3.7, height: float = 3.3, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, sharey=sharey, squeeze=False)[0]
    return figure, list(axes)


def _names(profile: Profile, view: str) -> list[str]:
    """The parts with a colour: all if they are few, else those that take longest; then what is left."""
    worth: dict[str, float] = {}
    for m in profile.measurements:
        for name, share in m.shares(view).items():
            worth[name] = max(worth.get(name, 0.0), share)
    own = [n for n in worth if n != REST]
    if len(own) > _SHOWN:
        kept = set(sorted(own, key=lambda n: -worth[n])[: _SHOWN - 1])
        own = [n for n in own if n in kept] + [OTHERS]
    return own + [REST] * (REST in worth)


def _folded(m: Measurement, view: str, names: Sequence[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for name, share in m.shares(view).items():
        key = name if name in names else OTHERS
        shares[key] = shares.get(key, 0.0) + share
    return shares


def _colour(name: str, index: int) -> str:
    return _GREYS.get(name, _COLOURS[index % len(_COLOURS)])


def _hatch(name: str, index: int) -> str:
    return "" if name in _GREYS else _HATCHES[index % len(_HATCHES)]


def _line(
    ax: Axes, x: Sequence[float], y: Sequence[float], label: str, colour: str, marker: str, width: float
) -> None:
    ax.loglog(x, y, marker=marker, markersize=4, color=colour, linewidth=width, label=label)


def _fitted(name: str, fits: Any) -> str:
    plain = _short(name).replace("$", r"\$")
    return f"{plain}  $\\propto L^{{{fits[name].tail:.2f}}}$" if name in fits else plain


def _length_axis(ax: Axes, lengths: Sequence[int]) -> None:
    ax.xaxis.set_major_locator(FixedLocator([float(n) for n in lengths]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _length(round(value))))
    ax.set_xlabel("sequence length (tokens)")


def _legend(figure: Figure, *axes: Axes) -> None:
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(_short(label), handle)
    columns = min(len(found), 4 * len(figure.axes)) or 1
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False)


def _title(m: Measurement) -> str:
    return f"{m.subject}, {m.mode}, batch {m.batch}"


def _at(m: Measurement) -> str:
    return f", {m.length} tokens" if m.length and m.mode != "decode" else ""


def _length(length: int) -> str:
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else str(length)


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]
