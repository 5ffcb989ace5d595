"""What commands show of their results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from front.commands.terminal import console


def show_tables(found: Any) -> None:
    """Whatever has tables and lines under them."""
    for title, header, rows in found.tables():
        table = Table(*header, title=title, title_justify="left", show_header=any(header))
        for column in table.columns[1 if any(header) else 2 :]:
            column.justify = "right"
        show_rows(table, rows)
    for line in found.lines():
        console.print(escape(line), soft_wrap=True)


def show_rows(table: Table, rows: Iterable[Iterable[str]]) -> None:
    """A table whose cells hold text as it is."""
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def show_report(report: Any) -> None:
    """What a run found."""
    data = f" on {report.data['name']}" if report.data["name"] else ""
    table = Table("", "original", "pruned", "change", title=f"{report.model['arch']}{data}")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows():
        table.add_row(*row)
    console.print(table)
    if report.search["best"]:
        _show_search(report)
    for line in (*report.limit_lines(), *report.block_lines(), *report.state_lines()):
        console.print(escape(line), soft_wrap=True)
    console.print(escape(report.verdict()))
    proof = report.verification
    if proof["ran"]:
        from prune.report import agreement

        console.print(
            f"verified: equal to the masked original in float64 to {proof['max_error']:.1e}; "
            f"ONNX {agreement(report.onnx['max_error'], report.onnx.get('rounding'))}"
        )
    else:
        console.print("[yellow]not verified[/yellow] (--no-verify)")
    console.print(escape(report.own_class()))


def _show_search(report: Any) -> None:
    title = f"search by {report.search['agent']}"
    best = Table("plans before fine-tuning", "accuracy", "loss", "plans scored", title=title)
    for column in best.columns[1:]:
        column.justify = "right"
    for name, entry in report.search["best"].items():
        mark = " *" if name == report.search["winner"] else ""
        best.add_row(name + mark, f"{entry['accuracy']:.2%}", f"{entry['loss']:.4f}", str(entry["plans"]))
    console.print(best)


def show_curve(curve: Any) -> None:
    """What the runs of a curve found."""
    from prune.report import count

    table = Table("", "MACs", "params", "before tuning", "accuracy", "latency", "", title="curve")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in curve.rows():
        accuracies = [row["accuracy_before_tuning"], row["accuracy"]]
        table.add_row(
            row["name"],
            f"{row['macs_ratio']:.3f} x",
            count(row["params"]),
            *("-" if a is None else f"{a:.2%}" for a in accuracies),
            f"{row['latency_ms']:.3f} ms",
            "dominated" if row["dominated"] else "",
        )
    console.print(table)


def show_finished(folder: Path, as_json: bool) -> None:
    """What there is of a run that needs no resuming."""
    if as_json:
        found = next(p for p in (folder / "pareto.json", folder / "report.json") if p.exists())
        typer.echo(found.read_text(encoding="utf-8").rstrip())
        return
    console.print(f"the run in {bold(folder)} is finished: " + listing(folder))


def listing(folder: Path) -> str:
    """The files of a folder."""
    return ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file()))


def bold(path: Path) -> str:
    """A path in bold letters."""
    return f"[bold]{escape(str(path))}[/bold]"
