"""Tables of a stored result: rows of names and of numbers with their units, for the page and for CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prune.escaping import plain
from prune.report import count, size
from prune.stored import Part, Stored

MISSING = "–"


class Number(NamedTuple):
    """A number and what it counts."""

    value: float | None
    unit: str = "count"

    def __str__(self) -> str:
        """As a person reads it: 1.26 M, 438.44 kB, 93.61%; what is missing or no number says so."""
        if self.value is None:
            return MISSING
        if not math.isfinite(self.value):
            return "NaN" if math.isnan(self.value) else f"{'-' * (self.value < 0)}infinite"
        if abs(self.value) > 1e15:
            return f"{self.value:.3g}"
        return _TOLD[self.unit](self.value)


_TOLD: Mapping[str, Callable[[float], str]] = {
    "count": count,
    "whole": "{:,.0f}".format,
    "bytes": size,
    "ms": lambda v: f"{v:.3f} ms" if abs(v) < 10 else f"{v:.1f} ms",
    "share": "{:.2%}".format,
    "points": lambda v: f"{100 * v:+.2f} points",
    "x": "{:.3f} x".format,
    "speed-up": "{:.2f} x as fast".format,
    "plain": "{:.4g}".format,
    "seconds": lambda v: f"{v:.1f} s" if v < 120 else f"{v / 60:.1f} min",
}
Cell = str | Number


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        name: of its CSV file.
        title: in words.
        header: of each column.
        rows: names and numbers.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """As CSV: numbers in full, in the unit of their table; what is missing is empty.

        Texts that a spreadsheet would take for a formula get an apostrophe in front.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([_csv(cell) for cell in row] for row in self.rows)
        return out.getvalue()


def _csv(cell: Cell) -> object:
    if isinstance(cell, Number):
        return "" if cell.value is None else cell.value
    text = plain(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def quotient(a: float | None, b: float | None) -> float | None:
    """The first over the second, where that is a number."""
    return a / b if a is not None and b and math.isfinite(a) and math.isfinite(b) else None


def figures(run: Part) -> Table:
    """What both models cost and are worth."""
    models = [run.part("original"), run.part("pruned")]
    rows: list[tuple[Cell, ...]] = []
    for key, label, unit in (
        ("macs", "MACs", "count"),
        ("params", "parameters", "count"),
        ("onnx_bytes", "ONNX file", "bytes"),
        ("memory_bytes", "memory: weights and activations", "bytes"),
        ("peak_activation_bytes", "activations at the worst moment", "bytes"),
    ):
        a, b = (m.number(key) for m in models)
        rows.append((label, Number(a, unit), Number(b, unit), Number(quotient(b, a), "x")))
    for key, label in (("onnx_ms", "latency, onnxruntime"), ("torch_ms", "latency, torch")):
        for part in ("median", "p10", "p90"):
            a, b = (m.part(key).number(part) for m in models)
            change: Cell = Number(quotient(a, b), "speed-up") if part == "median" else ""
            rows.append((f"{label}, {part}", Number(a, "ms"), Number(b, "ms"), change))
    tuned = bool(run.part("tune").number("epochs"))
    for key, label in (
        ("accuracy_before_tuning", "accuracy before fine-tuning"),
        ("accuracy", "accuracy after fine-tuning" if tuned else "accuracy, not fine-tuned"),
    ):
        a, b = (m.number(key) for m in models)
        points = Number(b - a if a is not None and b is not None else None, "points")
        rows.append((label, Number(a, "share"), Number(b, "share"), points))
    accuracy = run.part("accuracy")
    bits, each = accuracy.part("bits"), accuracy.text("each") or "label"
    original = bits.number("original")
    for key, label in (("before_tuning", "before fine-tuning"), ("after_tuning", "of the result")):
        if original is not None and (found := bits.number(key)) is not None:
            change = Number(quotient(found, original), "x")
            rows.append(
                (f"bits per {each}, {label}", Number(original, "plain"), Number(found, "plain"), change)
            )
    return Table("figures", "Original against pruned", ("", "original", "pruned", "change"), tuple(rows))


def groups(run: Part) -> Table:
    """What each group of channels keeps."""
    plan = run.part("plan")
    found, kinds = plan.part("groups"), plan.part("kinds")
    rows = [_widths(name, kinds.text(name), found.pair(name)) for name in found.data]
    return Table("groups", "Groups of channels", ("group", "kind", "kept", "of", "share"), tuple(rows))


def layers(run: Part) -> Table:
    """What each layer keeps of its output channels; empty in reports from before this was written."""
    parts = run.part("plan").parts("layers")
    rows = [_widths(p.text("name") or "", p.text("kind"), p.pair("channels")) for p in parts]
    return Table("layers", "Layers", ("layer", "kind", "kept", "of", "share"), tuple(rows))


def blocks(run: Part) -> Table:
    """Which blocks went, in turn, and what each was worth then; empty where none were judged."""
    found = run.part("blocks")
    rows = [
        (part.text("name") or "", Number(part.number("score"), "plain")) for part in found.parts("dropped")
    ]
    score = "1 - cos of the stream" if found.text("criterion") == "similarity" else "loss without it"
    return Table("blocks", "Blocks that went, in this order", ("block", score), tuple(rows))


def states(run: Part) -> Table:
    """What each layer keeps of its states; empty where none were judged."""
    rows = []
    for part in run.part("states").parts("layers"):
        kept: Any = part.data.get("kept")
        first = kept[0] if isinstance(kept, list) and kept else None
        count = len(first) if isinstance(first, list) else None
        whole = part.number("states")
        share = Number(quotient(count, whole), "share")
        rows.append((part.text("name") or "", Number(count, "whole"), Number(whole, "whole"), share))
    return Table("states", "States of each layer", ("layer", "kept", "of", "share"), tuple(rows))


def _widths(name: str, kind: str | None, pair: tuple[int, int] | None) -> tuple[Cell, ...]:
    kept, whole = pair if pair is not None else (None, None)
    share = Number(quotient(kept, whole), "share")
    return (name, kind or MISSING, Number(kept, "whole"), Number(whole, "whole"), share)


def plans(run: Part) -> Table:
    """The best plan of each method, before fine-tuning."""
    search = run.part("search")
    best, winner = search.part("best"), search.text("winner")
    rows: list[tuple[Cell, ...]] = []
    for name in best.data:
        found = best.part(name)
        rows.append(
            (
                f"{name} (taken)" if name == winner else name,
                Number(found.number("accuracy"), "share"),
                Number(found.number("loss"), "plain"),
                Number(found.number("macs")),
                Number(found.number("plans"), "whole"),
            )
        )
    header = ("method", "accuracy", "loss", "MACs", "plans")
    return Table("plans", "Best plan of each method", header, tuple(rows))


def trials(run: Part) -> Table:
    """Every scored plan, in order."""
    units = {"macs": "whole", "accuracy": "share", "loss": "plain", "worth": "plain", "seconds": "seconds"}
    rows: list[tuple[Cell, ...]] = [
        (t.text("method") or "", *(Number(t.number(n), u) for n, u in units.items()))
        for t in run.part("search").parts("trials")
    ]
    header = ("method", "MACs", "accuracy", "loss", "reward", "seconds")
    return Table("trials", "Every scored plan", header, tuple(rows))


def sensitivity(run: Part) -> Table:
    """What each group costs that is cut alone; empty where that was not scored."""
    found = run.part("sensitivity")
    whole = found.part("whole")
    rows: list[tuple[Cell, ...]] = []
    for group in found.parts("groups"):
        units = group.number("units")
        for cut in group.parts("cuts"):
            values = {n: cut.number(n) for n in ("accuracy", "loss")}
            lost = [_difference(values[n], whole.number(n)) for n in values]
            rows.append(
                (
                    group.text("name") or "",
                    group.text("kind") or MISSING,
                    Number(units, "whole"),
                    Number(cut.number("ratio"), "share"),
                    Number(cut.number("macs"), "whole"),
                    Number(values["accuracy"], "share"),
                    Number(lost[0], "points"),
                    Number(values["loss"], "plain"),
                    Number(lost[1], "plain"),
                )
            )
    header = ("group", "kind", "units", "kept", "MACs", "accuracy", "change", "loss", "change of the loss")
    return Table("sensitivity", "Each group cut alone", header, tuple(rows))


def _difference(a: float | None, b: float | None) -> float | None:
    return a - b if a is not None and b is not None else None


def limits(run: Part) -> Table:
    """What was asked for, and what came out."""
    rows: list[tuple[Cell, ...]] = []
    for found in run.parts("limits"):
        unit = {"memory": "bytes", "latency": "ms"}.get(found.text("quantity") or "", "count")
        names = ("original", "limit", "predicted", "pruned")
        values = {n: found.number(n) for n in names}
        asked = " ".join(w for w in (found.text("option"), found.text("asked")) if w)
        used = Number(quotient(values["pruned"], values["limit"]), "share")
        rows.append((asked or MISSING, *(Number(values[n], unit) for n in names), used))
    header = ("limit", "original", "at most", "predicted", "result", "used")
    return Table("limits", "Limits", header, tuple(rows))


def epochs(run: Part) -> Table:
    """How the fine-tuning went."""
    units = {
        "epoch": "whole", "loss": "plain", "search_loss": "plain", "accuracy": "share", "lr": "plain",
        "seconds": "seconds",
    }  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        tuple(Number(e.number(n), u) for n, u in units.items()) for e in run.part("tune").parts("history")
    ]
    header = ("epoch", "training loss", "search loss", "search accuracy", "learning rate", "seconds")
    return Table("epochs", "Epochs of fine-tuning", header, tuple(rows))


def points(stored: Stored) -> Table:
    """The points of a curve."""
    units = {
        "macs_ratio": "x", "macs": "count", "params": "count", "memory_bytes": "bytes",
        "accuracy_before_tuning": "share", "accuracy": "share", "latency_ms": "ms",
    }  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            p.text("name") or "",
            *(Number(p.number(n), u) for n, u in units.items()),
            "dominated" if p.flag("dominated") else "",
        )
        for p in stored.curve
    ]
    header = (
        "point",
        "of the MACs",
        "MACs",
        "parameters",
        "memory",
        "before tuning",
        "accuracy",
        "latency",
        "",
    )
    return Table("pareto", "Points of the curve", header, tuple(rows))


def attributes(run: Part) -> Table:
    """What changed in the model's own class."""
    rows: list[tuple[Cell, ...]] = [
        (a.text("name") or "", a.told("old") or MISSING, a.told("new") or MISSING)
        for a in run.part("native").parts("attributes")
    ]
    return Table("attributes", "Attributes that change", ("attribute", "was", "is"), tuple(rows))


def texts(
    name: str, title: str, values: Mapping[str, str | None] | Iterable[tuple[str, str | None]]
) -> Table:
    """Names and what they stand for."""
    items = values.items() if isinstance(values, Mapping) else values
    return Table(name, title, ("", ""), tuple((k, v or MISSING) for k, v in items))
