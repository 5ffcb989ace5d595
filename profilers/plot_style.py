"""How plots look in print, and how they become files: the same figure gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "prune",
}


def write_figure(figure: Figure, folder: Path, name: str, **options: Any) -> list[str]:
    """Write a figure as PNG (150 dots per inch) and SVG, within the style it was drawn in.

    Args:
        figure: what to write.
        folder: to write to; it exists.
        name: of the files, without their endings.
        options: of ``savefig``.

    Returns:
        The names of the files.
    """
    for ending, metadata in (("png", None), ("svg", {"Date": None})):
        figure.savefig(folder / f"{name}.{ending}", dpi=150, metadata=metadata, **options)
    return [f"{name}.png", f"{name}.svg"]
