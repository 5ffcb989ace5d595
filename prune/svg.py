"""Pictures as SVG for a page: small, without a font or a colour of their own, which are the page's."""

from __future__ import annotations

import math
from html import escape

from prune.escaping import plain
from prune.pictures import XY, Chart, Series, Skyline, colour_of

# In units of the drawing, which the page scales: wide enough for a screen, legible on a telephone.
_WIDTH, _HEIGHT = 400, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 10, 10, 40
_TICKS = 5
_LONGEST = 20  # letters of a name in a picture


def draw_chart(chart: Chart) -> str:
    """A chart as one ``svg`` element."""
    axes = _Axes(chart)
    lines = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for y, text in ((axes.y(v), t) for v, t in labelled(*axes.y_range, chart.unit))
    ]
    x_unit = "whole" if chart.whole_x else "plain"
    lines += [
        f'<text class="tick" x="{axes.x(v):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
        f"{escape(text)}</text>"
        for v, text in labelled(*axes.x_range, x_unit)
    ]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    lines += [
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>",
        f'<text class="axis" transform="translate(10 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y_label)}</text>",
        *(axes.drawn(s) for s in chart.series),
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(plain(chart.title))}">{"".join(lines)}</svg>'
    )


def draw_skyline(skyline: Skyline) -> str:
    """The layers as bars about a middle line: what stays is filled, what went is pale."""
    top, bars = skyline.top, []
    for i, bar in enumerate(skyline.bars):
        colour = f"c{colour_of(bar.kind) % 7}" if bar.kind else "c-"
        told = f"{plain(bar.name)}: {bar.kept:,} of {bar.whole:,}, {plain(bar.kind or 'cannot be pruned')}"
        whole, kept = (200 * min(v / top, 1.0) for v in (bar.whole, bar.kept))
        rects = (
            f'<rect class="{name}" x="{10 * i + 1}" width="8" y="{100 - high / 2:.1f}" height="{high:.1f}"/>'
            for name, high in (("gone", whole), ("kept", kept))
        )
        bars.append(f'<g class="bar {colour}"><title>{escape(told)}</title>{"".join(rects)}</g>')
    return (
        f'<svg class="skyline" viewBox="0 0 {10 * len(skyline.bars)} 200" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(plain(skyline.title))}">{"".join(bars)}</svg>'
    )


def labelled(low: float, high: float, unit: str) -> list[tuple[float, str]]:
    """Round values between two bounds, with as many digits as they need.

    Args:
        low: the lower bound.
        high: the upper one, greater.
        unit: as ``Number`` has it; shares are told in percent.
    """
    scale, sign = (100.0, "%") if unit == "share" else (1.0, "")
    a, b = low * scale, high * scale
    rough = (b - a) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    if unit == "whole":
        step = max(1.0, math.ceil(step))
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (0 if unit == "whole" else step / power == 2.5)
    first = math.ceil(a / step - 1e-9)
    values = [(first + i) * step for i in range(2 * _TICKS + 2)]
    return [(v / scale, _short(v, int(digits)) + sign) for v in values if v <= b + 1e-9 * step]


def _short(value: float, digits: int) -> str:
    if abs(value) >= 1e6 or digits > 6:
        return f"{value:.3g}"
    return f"{value + 0.0:.{digits}f}"


class _Axes:
    """Where values lie in the drawing."""

    def __init__(self, chart: Chart) -> None:
        xs = [x for s in chart.series for x, _ in s.points if s.shape != "level"]
        ys = [y for s in chart.series for _, y in s.points]
        self.x_range = _bounds(xs or [0.0, 1.0], 0.03)
        self.y_range = _bounds(ys or [0.0, 1.0], 0.08)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def drawn(self, series: Series) -> str:
        colour = f"c{series.colour % 7}" if series.colour >= 0 else "c-"
        points = [(self.x(x), self.y(y)) for x, y in series.points]
        names = "".join(
            f'<text class="name" x="{x:.1f}" y="{y + 15:.1f}" text-anchor="{_anchor(x)}">'
            f"{escape(plain(name, _LONGEST))}</text>"
            for (x, y), name in zip(points, series.names, strict=False)
        )
        match series.shape:
            case "level":
                path = f"M{_LEFT} {points[0][1]:.1f}H{_WIDTH - _RIGHT}"
            case "steps":
                path = f"M{_pair(points[0])}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])
            case "line":
                path = "M" + "L".join(map(_pair, points))
                dots = f'<path class="dots {colour}" d="{_dots(points)}"/>'
                return f'<path class="line {colour}" d="{path}"/>{dots}{names}'
            case _:
                path = _dots(points)
        return f'<path class="{series.shape} {colour}" d="{path}"/>'


def _dots(points: list[XY]) -> str:
    """Lines of no length, whose round ends are the dots: a few bytes each."""
    return "".join(f"M{_pair(p)}h0" for p in points)


def _anchor(x: float) -> str:
    """Which end of a text stands at x, so that it stays within the drawing."""
    return "end" if x > 0.9 * _WIDTH else "middle"


def _pair(point: XY) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _bounds(values: list[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-12):
        half = max(0.05 * largest, 1e-3)
        return low - half, high + half
    return low - margin * (high - low), high + margin * (high - low)
