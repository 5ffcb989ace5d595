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
    timed = found.whole_ms is not None
    table = Table("subnetwork", "MACs", "parameters", "layers", f"on search {unit}", *["latency"] * timed,
                  "found by")  # fmt: skip
    layers = len(net.elastic.layers)
    whole = "not scored" if found.whole is None else found.whole.told()
    table.add_row("whole", "100.0%", "100.0%", str(layers), whole, *[_ms(found.whole_ms)] * timed, "")
    shown = [*found.front[:-1], found.best] if pareto else [found.best]  # the best is the one that is timed
    for trial in shown:
        kept = layers - len(trial.subnet.dropped)
        table.add_row(
            "front" if pareto else "best", f"{trial.macs_ratio:.1%}", f"{trial.params_ratio:.1%}", str(kept),
            trial.told(), *[_ms(trial.latency_ms)] * timed, trial.method,
        )  # fmt: skip
    console.print(table)
    if found.too_slow:
        console.print(f"{found.too_slow} proved slower than foretold when timed, and gave way to this one")
    if found.scored:
        told = f"{found.scored} subnetworks scored in {found.seconds:.1f} s on the search split"
    else:
        told = "no data: the plain choice, not scored"
    console.print(f"{told}; written to {bold(path)}")


def _ms(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.3f} ms"


def show_extracted(results: Iterable[Extracted]) -> None:
    """What was written."""
    results = list(results)
    searched = [r.search or {} for r in results]
    timed = any(s.get("latency_ms") for s in searched)
    table = Table("folder", "MACs", "parameters", "on the search split", *["latency, whole"] * timed,
                  "cut out in", "proof", "loads with")  # fmt: skip
    for result, search in zip(results, searched, strict=True):
        proof = "not run" if result.max_error is None else f"{result.max_error:.1e}"
        loads = "transformers" if result.stock else "prune"
        took = f"{_ms(search.get('latency_ms'))}, {_ms(search.get('whole_latency_ms'))}".strip(", ")
        table.add_row(
            escape(result.folder), f"{result.macs_ratio:.1%}", f"{result.params_ratio:.1%}",
            str(search.get("told", "not scored")), *[took] * timed, f"{result.seconds * 1000:.1f} ms", proof,
            loads,
        )  # fmt: skip
    console.print(table)
    for result, search in zip(results, searched, strict=True):
        if search.get("scored"):
            console.print(
                f"{escape(result.folder)}: the best of {search['scored']} that were scored in "
                f"{search['seconds']:.1f} s, found by {escape(str(search['method']))}"
            )
        if result.tuned is not None:
            told = f"{result.tuned.before.told()}; tuned: {result.tuned.after.told()}"
            console.print(f"{escape(result.folder)} on the test split: {told}")
        if result.reason:
            console.print(f"{escape(result.folder)} is no stock checkpoint: {escape(result.reason)}")


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"
