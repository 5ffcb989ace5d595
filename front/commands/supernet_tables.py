"""Tables of the commands of supernets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from front.commands.shown import bold
from front.commands.terminal import console

if TYPE_CHECKING:
    from supernet.extraction import Extracted
    from supernet.net import Supernet
    from supernet.scoring import Found


def show_built(net: Supernet, folder: Path) -> None:
    """What a new supernet offers."""
    told = net.told()
    table = Table("axis", "widths", "from", "to")
    if told["layers"]:
        table.add_row("layers", str(len(told["layers"]) - told["least_layers"] + 1),
                      str(told["least_layers"]), str(len(told["layers"])))  # fmt: skip
    for kind in net.elastic.config.kinds:
        axes = [c for c in net.elastic.choices if c.kind == kind]
        for layouts in dict.fromkeys(c.layouts for c in axes):
            same = [c for c in axes if c.layouts == layouts]
            groups = len(same[0].groups)
            table.add_row(
                f"{kind} ({_many(len(same) * groups, 'group')}, {_many(len(same), 'axis', 'axes')})",
                str(len(layouts)), str(layouts[0][0]), str(layouts[-1][0]),
            )  # fmt: skip
    console.print(table)
    small, large = told["smallest"], told["largest"]
    console.print(
        f"the smallest subnetwork has {small['macs'] / large['macs']:.1%} of the MACs and "
        f"{small['params'] / large['params']:.1%} of the parameters; the whole, put in order, computes what "
        f"the model computes to {net.max_error:.1e}; written to {bold(folder)}"
    )


def show_found(found: Found, net: Supernet, unit: str, path: Path, *, pareto: bool) -> None:
    """The best subnetwork of a search, or its front, beside the whole."""
    table = Table("subnetwork", "MACs", "parameters", "layers", f"on search {unit}", "found by")
    layers = len(net.elastic.layers)
    table.add_row("whole", "100.0%", "100.0%", str(layers), found.whole.told(), "")
    for trial in found.front if pareto else [found.best]:
        kept = layers - len(trial.subnet.dropped)
        table.add_row(
            "front" if pareto else "best", f"{trial.macs_ratio:.1%}", f"{trial.params_ratio:.1%}", str(kept),
            trial.found.told(), trial.method,
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{len(found.trials)} subnetworks scored in {found.seconds:.1f} s on the search split; "
        f"written to {bold(path)}"
    )


def show_extracted(results: Iterable[Extracted]) -> None:
    """What was written."""
    results = list(results)
    table = Table("folder", "MACs", "parameters", "cut out in", "proof", "loads with")
    for result in results:
        proof = "not run" if result.max_error is None else f"{result.max_error:.1e}"
        loads = "transformers" if result.stock else "prune"
        table.add_row(
            escape(result.folder), f"{result.macs_ratio:.1%}", f"{result.params_ratio:.1%}",
            f"{result.seconds * 1000:.1f} ms", proof, loads,
        )  # fmt: skip
    console.print(table)
    for result in results:
        if result.tuned is not None:
            told = f"{result.tuned.before.told()}; tuned: {result.tuned.after.told()}"
            console.print(f"{escape(result.folder)} on the test split: {told}")
        if result.reason:
            console.print(f"{escape(result.folder)} is no stock checkpoint: {escape(result.reason)}")


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"
