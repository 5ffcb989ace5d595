"""Plots and tables of a stored result as files: PNG and SVG of the plots, CSV of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from profilers.plot_style import STYLE, write_figure
from prune import tables
from prune.escaping import plain
from prune.pictures import Chart, Series, Skyline, colour_of, pictures
from prune.stored import Stored
from prune.tables import Number, Table

# Okabe and Ito's colours, in the order of the page's.
_COLOURS = ("#0072B2", "#D98200", "#009E73", "#D55E00", "#B8569A", "#3F9FD8", "#882255")
_GREY = "#5A6472"
_LONGEST = 40  # letters of a name in a picture
_STYLE: Any = {**STYLE, "text.parse_math": False}  # a name is no formula


def write_plots(stored: Stored, folder: Path) -> list[str]:
    """Write every plot (150 dots per inch) and every table that has rows.

    Args:
        stored: from ``read_stored``.
        folder: to write to; it exists.

    Returns:
        The names of the files.

    Raises:
        ModelFileError: the result is malformed.
    """
    names: list[str] = []
    for picture in pictures(stored):
        with matplotlib.rc_context(_STYLE):
            figure = _chart(picture) if isinstance(picture, Chart) else _skyline(picture)
            names += write_figure(figure, folder, picture.name)
    for table in _tables(stored):
        names.append(f"{table.name}.csv")
        (folder / names[-1]).write_text(table.csv(), encoding="utf-8")
    return sorted(names)


def _tables(stored: Stored) -> list[Table]:
    if stored.curve:
        return [tables.points(stored)]
    of = (
        tables.figures, tables.groups, tables.layers, tables.states, tables.plans, tables.trials,
        tables.sensitivity, tables.limits, tables.epochs, tables.attributes,
    )  # fmt: skip
    return [table for table in (make(stored.run) for make in of) if table.rows]


def _chart(chart: Chart) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for series in chart.series:
        x, y = zip(*series.points, strict=True)
        colour = _COLOURS[series.colour % len(_COLOURS)] if series.colour >= 0 else _GREY
        label = _short(f"{series.label} {series.told}")
        match series.shape:
            case "level":
                axes.axhline(y[0], color=colour, linestyle="--", label=label)
            case "steps":
                axes.step(x, y, where="post", color=colour, label=label)
            case "line":
                axes.plot(x, y, color=colour, marker="o", markersize=4, label=label)
                _annotate(axes, series)
            case "ring":
                axes.plot(x, y, "o", color=colour, markersize=11, alpha=0.4, label=label)
            case _:
                axes.plot(x, y, "o", color=colour, markersize=4, alpha=0.8, label=label)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: str(Number(v, chart.unit))))
    if chart.whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def _annotate(axes: Any, series: Series) -> None:
    for point, name in zip(series.points, series.names, strict=False):
        axes.annotate(_short(name), point, xytext=(4, -12), textcoords="offset points")


def _skyline(skyline: Skyline) -> Figure:
    figure = Figure(figsize=(min(6.4 + 0.05 * len(skyline.bars), 24.0), 3.6), layout="constrained")
    axes = figure.subplots()
    colours = [_COLOURS[colour_of(b.kind)] if colour_of(b.kind) >= 0 else _GREY for b in skyline.bars]
    x = range(1, len(skyline.bars) + 1)
    axes.bar(x, [min(b.whole, skyline.top) for b in skyline.bars], color=colours, alpha=0.25)
    axes.bar(x, [min(b.kept, skyline.top) for b in skyline.bars], color=colours)
    first, last = (_short(skyline.bars[i].name) for i in (0, -1))
    axes.set(title=skyline.title, xlabel=f"{first} … {last}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    keys = [(k, _COLOURS[colour_of(k)] if colour_of(k) >= 0 else _GREY) for k in skyline.kinds]
    axes.legend(handles=[Patch(color=c, label=_short(k)) for k, c in keys] + [
        Patch(color=_GREY, alpha=0.25, label="removed")])  # fmt: skip
    return figure


def _short(text: str) -> str:
    told = plain(text, _LONGEST)
    return f" {told}" if told.startswith("_") else told  # matplotlib leaves such labels out
