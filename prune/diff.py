"""The difference of two runs or two models: figures side by side, and the widths that are not the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prune.escaping import code, markdown, plain
from prune.figures import FIGURES, REPORT, Figures, read_figures

FORMATS = ("table", "json", "markdown")
Row = tuple[str, ...]
Table = tuple[str, Row, list[Row]]
_FIGURES_HEADER = ("", "A", "B", "B / A")
_WIDTHS_HEADER = ("channels of", "A", "B", "B / A")


@dataclass(frozen=True)
class Difference:
    """Two files, side by side.

    Attributes:
        a: the figures of the first.
        b: those of the second.
    """

    a: Figures
    b: Figures

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """The widths of layers, or of a report's groups, that both have and that differ."""
        both = [n for n in self.a.widths if n in self.b.widths] if self.same_parts else []
        return {n: (self.a.widths[n], self.b.widths[n]) for n in both if self.a.widths[n] != self.b.widths[n]}

    @property
    def same_parts(self) -> bool:
        """Whether the widths are of the same: a report has those of groups, a model those of layers."""
        return (self.a.kind == REPORT) == (self.b.kind == REPORT)

    @property
    def alone(self) -> tuple[list[str], list[str]]:
        """The layers that only the first has, and those that only the second has."""
        a, b = (self.a.widths, self.b.widths) if self.same_parts else ({}, {})
        return [n for n in a if n not in b], [n for n in b if n not in a]

    def figure_rows(self) -> list[Row]:
        """A row for each figure that at least one of them has."""
        rows = []
        for name, kind in FIGURES.items():
            a, b = self.a.values.get(name), self.b.values.get(name)
            if a is not None or b is not None:
                told = ("-" if v is None else kind.told(v) for v in (a, b))
                points = kind.unit == "share" and a is not None and b is not None
                change = f"{100 * (b - a):+.2f} points" if points and a is not None and b is not None else ""
                rows.append((kind.label, *told, change or _quotient(a, b)))
        return rows

    def width_rows(self) -> list[Row]:
        """A row for each width that differs."""
        return [(plain(n), str(a), str(b), _quotient(a, b)) for n, (a, b) in self.widths.items()]

    def tables(self) -> list[Table]:
        """Title, header and rows of each table."""
        found: list[Table] = [("figures", _FIGURES_HEADER, self.figure_rows())]
        return [*found, ("widths that differ", _WIDTHS_HEADER, self.width_rows())] if self.widths else found

    def lines(self) -> list[str]:
        """What belongs under the tables."""
        kinds = f"A is the {self.a.kind} {plain(self.a.path)}, B the {self.b.kind} {plain(self.b.path)}"
        lines = [kinds]
        if not self.same_parts:
            return [
                *lines,
                "widths are not compared: a report has those of groups, a model those of layers",
            ]
        both = self.a.widths.keys() & self.b.widths.keys()
        if both and not self.widths:
            lines.append(f"all {len(both)} widths that both have are the same")
        for letter, names in zip("AB", self.alone, strict=True):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"only {letter} has " + ", ".join(plain(n) for n in names[:5]) + more)
        return lines

    def to_json(self) -> dict[str, Any]:
        """As JSON data; a figure that is not known is null."""
        only_a, only_b = self.alone
        return {
            "format": "prune-diff",
            "schema": 1,
            "a": {"file": self.a.path, "kind": self.a.kind},
            "b": {"file": self.b.path, "kind": self.b.kind},
            "figures": {n: [self.a.values.get(n), self.b.values.get(n)] for n in FIGURES},
            "widths": {n: list(pair) for n, pair in self.widths.items()},
            "only_a": only_a,
            "only_b": only_b,
        }


def compare(a: str, b: str, *, trust_code: bool = False) -> Difference:
    """Read two files and put them side by side.

    Args:
        a: a report, the folder of a run, or a model.
        b: another.
        trust_code: a ``.pt2`` may run code.

    Raises:
        PruneError: one of them cannot be read.
    """
    return Difference(read_figures(a, trust_code=trust_code), read_figures(b, trust_code=trust_code))


def written(found: Difference, form: str) -> str:
    """The difference in one of ``FORMATS`` but the table, which is drawn elsewhere."""
    return as_json(found) if form == "json" else as_markdown(found)


def as_json(found: Difference) -> str:
    """As JSON."""
    return json.dumps(found.to_json(), indent=2)


def as_markdown(found: Difference) -> str:
    """As tables of Markdown."""
    lines = [f"A: {code(found.a.path)} ({found.a.kind})", "", f"B: {code(found.b.path)} ({found.b.kind})", ""]
    for _, header, rows in found.tables():
        lines += _markdown_table(header, rows)
    return "\n".join([*lines, *(f"{markdown(line)}\n" for line in found.lines()[1:])])


def _markdown_table(header: Row, rows: Sequence[Row]) -> list[str]:
    body = ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in rows]
    return [f"| {' | '.join(header)} |", "|---" + "|---:" * (len(header) - 1) + "|", *body, ""]


def _quotient(a: float | None, b: float | None) -> str:
    return f"{b / a:.3f} x" if a and b is not None else ""
