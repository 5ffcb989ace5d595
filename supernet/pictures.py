"""Pictures of a search: every subnetwork that was scored, and the front."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from graph.errors import UsageError
from prune.files import check_folder, write_file
from supernet.scoring import Found, Trial


def check_picture(path: Path) -> None:
    """Refuse a file that cannot be drawn, before what it shows is found.

    Raises:
        UsageError: it ends in neither .png nor .svg.
        OutputError: its folder cannot be written.
    """
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: ends in neither .png nor .svg", hint="choose one of the two")
    check_folder(path.parent, path)


def plot_search(found: Found, path: Path) -> None:
    """Draw accuracy, of text bits, against multiply-adds.

    Raises:
        OutputError: the file cannot be written.
    """
    first = found.trials[0].found
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    methods = dict.fromkeys(t.method for t in found.trials)
    for method in methods:
        mine = [t for t in found.trials if t.method == method]
        axes.scatter([100 * t.macs_ratio for t in mine], [_height(t) for t in mine], s=18, label=method)
    front = found.front
    axes.plot([100 * t.macs_ratio for t in front], [_height(t) for t in front], color="0.4", lw=1, zorder=0)
    text = first.is_text
    axes.set_xlabel("MACs, % of the whole")
    what = "accuracy" if first.mean_iou is None else "mean IoU"
    axes.set_ylabel(f"bits per {first.each}" if text else f"{what} on the search split, %")
    axes.grid(alpha=0.3)
    axes.legend(title=f"{found.scored} in {found.seconds:.0f} s")
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=120))


def _height(trial: Trial) -> float:
    return trial.found.bits if trial.found.is_text else 100 * trial.rank[0]
