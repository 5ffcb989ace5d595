"""The command ``prune doctor``."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from front.commands.options import JsonOption
from front.commands.terminal import console, print_json, waiting


def doctor(as_json: JsonOption = False) -> None:
    """Look whether this machine has what prune needs: packages, threads, GPU, the exporters.

    Exit code 1 if something that prune needs is broken.
    """
    from prune.doctor import examine

    with waiting("importing every package, exporting a small network", quiet=as_json):
        found = examine()
    if as_json:
        print_json(found.to_json())
    else:
        for name, value in found.machine.items():
            console.print(f"{name}: {escape(value)}", soft_wrap=True)
        colours = {"ok": "green", "missing": "yellow", "broken": "red"}
        table = Table("", "", "found", "what to do")
        for f in found.findings:
            table.add_row(
                escape(f.name), f"[{colours[f.state]}]{f.state}[/]", escape(f.found), escape(f.hint)
            )
        console.print(table)
    raise typer.Exit(0 if found.healthy else 1)
