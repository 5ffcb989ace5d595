"""The curve of a Pareto run: what each point costs and is worth, as JSON, CSV and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from prune.files import write_file, write_json
from prune.stored import CURVE_FILE

CURVE_FILES = (CURVE_FILE, "pareto.csv", "pareto.svg")


@dataclass(frozen=True)
class Point:
    """One model of the curve; the original is the first.

    Attributes:
        name: of its folder, ``original`` for the original.
        macs: multiply-adds for one record.
        params: trainable elements.
        memory_bytes: weights and activations at the worst moment.
        accuracy_before_tuning: on the test split, 0 to 1; None without data.
        accuracy: the same after fine-tuning.
        latency_ms: in onnxruntime, all points timed in turn.
        method: what made the plan.
        evaluations: plans that were run for it; what other points had run is not counted again.
        seconds: wall time.
    """

    name: str
    macs: int
    params: int
    memory_bytes: int
    accuracy_before_tuning: float | None
    accuracy: float | None
    latency_ms: float
    method: str
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class Curve:
    """All points of a Pareto run, widest first."""

    points: tuple[Point, ...]

    def dominated(self, point: Point) -> bool:
        """Whether another point has no more MACs and no less accuracy, and is better in one of them."""
        if point.accuracy is None:
            return False
        return any(
            other.accuracy is not None
            and (other.macs, -other.accuracy) != (point.macs, -point.accuracy)
            and other.macs <= point.macs
            and other.accuracy >= point.accuracy
            for other in self.points
        )

    def rows(self) -> list[dict[str, Any]]:
        """Each point as JSON data, with its share of the MACs and whether it is dominated."""
        whole = self.points[0].macs
        return [
            asdict(p) | {"macs_ratio": p.macs / whole, "dominated": self.dominated(p)} for p in self.points
        ]

    def write(self, folder: Path, command: Sequence[str] = ()) -> None:
        """Write the files named in ``CURVE_FILES``.

        Args:
            folder: to write to.
            command: the words that make this curve again.

        Raises:
            OutputError: they cannot be written.
        """
        rows = self.rows()
        data = {"format": "prune-pareto", "schema": 1, "command": list(command), "points": rows}
        write_json(folder / CURVE_FILE, data)
        text = io.StringIO()
        names = [f.name for f in fields(Point)] + ["macs_ratio", "dominated"]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(folder / "pareto.csv", lambda path: path.write_text(text.getvalue(), encoding="utf-8"))
        figure = self._drawn(rows)
        write_file(folder / "pareto.svg", lambda path: figure.savefig(path, format="svg"))

    def _drawn(self, rows: Sequence[dict[str, Any]]) -> Figure:
        """Accuracy over MACs, before and after fine-tuning; the latency alone without data."""
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        x = [row["macs_ratio"] for row in rows]
        measured = all(row["accuracy"] is not None for row in rows)
        if measured:
            for key, label in (("accuracy_before_tuning", "before fine-tuning"), ("accuracy", "result")):
                axes.plot(x, [100 * row[key] for row in rows], marker="o", label=label)
            axes.set_ylabel("test accuracy, %")
        else:
            axes.plot(x, [row["latency_ms"] for row in rows], marker="o", label="onnxruntime")
            axes.set_ylabel("latency, ms")
        for row in rows:
            y = 100 * row["accuracy"] if measured else row["latency_ms"]
            axes.annotate(row["name"], (row["macs_ratio"], y), xytext=(4, -12), textcoords="offset points")
        axes.set_xlabel("share of the MACs")
        axes.grid(alpha=0.3)
        axes.legend()
        return figure
