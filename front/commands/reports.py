"""The commands that read finished runs: gate, report, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from front.commands.failures import print_error
from front.commands.options import ConfigOption, ForceOption, JsonOption, TrustOption
from front.commands.shown import bold, listing, show_tables
from front.commands.terminal import console, print_json
from graph.errors import UsageError

if TYPE_CHECKING:
    from prune.gate import Judged


FilesArgument = Annotated[
    list[str],
    typer.Argument(
        help="report.json, folders of runs, .onnx or .pt2 files.", metavar="FILE...", show_default=False
    ),
]


def gate(
    files: FilesArgument,
    max_macs: Annotated[str | None, typer.Option(help="Most MACs: 60M.")] = None,
    max_macs_ratio: Annotated[str | None, typer.Option(help="Of the original's: 0.5 or 50%.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Most parameters: 1.2M.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Largest file: 1.5MB.")] = None,
    max_latency_ratio: Annotated[
        str | None, typer.Option(help="Latency in onnxruntime, of the original's: 0.8.")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Weights and activations: 8MB.")] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="Least accuracy: 0.9 or 90%.")] = None,
    max_accuracy_drop: Annotated[
        str | None, typer.Option(help="Points lost against the original: 0.01 or 1%.")
    ] = None,
    min_speedup: Annotated[str | None, typer.Option(help="Least speed-up in onnxruntime: 1.5.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="FILE that nothing may be worse than: a report or a model.")
    ] = None,
    max_regression: Annotated[
        str | None, typer.Option(help="How much worse than the baseline: 2%.", show_default="0")
    ] = None,
    config_file: ConfigOption = None,
    form: Annotated[str, typer.Option("--format", help="table, json, markdown, junit or github.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    trust_code: TrustOption = False,
) -> None:
    """Judge reports or models by budgets: exit code 0 kept, 1 one is broken, 2 could not be judged.

    Budgets are options, or stand under the same names in the table gate of prune.toml, or tool.prune.gate
    of pyproject.toml; options win. A figure that is missing never passes. A broken budget decides, whatever
    else is missing.
    """
    from prune.gate import EXIT_CODES, judge
    from prune.gate_budgets import read_budgets
    from prune.gate_formats import FORMATS, append_summary, verdict, written

    given = {
        "max-macs": max_macs,
        "max-macs-ratio": max_macs_ratio,
        "max-params": max_params,
        "max-size": max_size,
        "max-latency-ratio": max_latency_ratio,
        "max-memory": max_memory,
        "min-accuracy": min_accuracy,
        "max-accuracy-drop": max_accuracy_drop,
        "min-speedup": min_speedup,
        "baseline": baseline,
        "max-regression": max_regression,
    }
    form = _format("json" if as_json else form, FORMATS)
    budgets = read_budgets(given, config_file)
    judged = [judge(name, budgets, trust_code=trust_code) for name in files]
    if form == "github":
        append_summary(judged)
    if form == "table":
        _show_judged(judged)
    else:
        typer.echo(written(judged, form))
    raise typer.Exit(EXIT_CODES[verdict(judged)])


def _show_judged(judged: list[Judged]) -> None:
    from prune.escaping import plain

    colours = {"pass": "green", "broken": "red", "unjudged": "yellow"}
    words = {"pass": "kept", "broken": "broken", "unjudged": "not judged"}
    for found in judged:
        if found.error:
            print_error(found.error, found.hint)
            continue
        table = Table(
            "budget", "limit", "found", "", title=f"{escape(plain(found.path))}", title_justify="left"
        )
        for c in found.checks:
            mark = f"[{colours[c.status]}]{words[c.status]}[/]"
            table.add_row(*(escape(plain(t)) for t in (c.budget, c.limit, c.value or c.told)), mark)
        console.print(table)
        mark = f"[{colours[found.status]}]{words[found.status]}[/]"
        console.print(f"{escape(plain(found.path))}: {mark}", soft_wrap=True)


def report(
    path: Annotated[
        Path,
        typer.Argument(
            help="report.json or pareto.json, or the folder of a run or curve.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write.", show_default="report.html beside it"),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for the plots as PNG and SVG and the tables as CSV.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a stored report as a page: one HTML file that needs no network and no script."""
    from prune.files import OutputFolder, check_output_file
    from prune.page import PAGE_FILE, write_page
    from prune.stored import read_stored

    stored = read_stored(path)
    file = output or (path if path.is_dir() else path.parent) / PAGE_FILE
    check_output_file(file, force)
    folder = OutputFolder(plots, force) if plots is not None else None
    write_page(stored, file)
    if folder is not None:
        from prune.plot_files import write_plots

        with folder:
            write_plots(stored, folder.staging)
    if as_json:
        return print_json({"file": str(file), "plots": str(plots) if plots is not None else None})
    console.print(f"written to {bold(file)}", soft_wrap=True)
    if plots is not None:
        console.print(f"plots and tables in {bold(plots)}: {listing(plots)}")


def diff(
    a: Annotated[str, typer.Argument(help="Report, folder of a run, .onnx or .pt2.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    form: Annotated[str, typer.Option("--format", help="table, json or markdown.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    trust_code: TrustOption = False,
) -> None:
    """Compare two runs or two models: figures side by side, and the widths that differ."""
    from prune.diff import FORMATS, compare, written

    form = _format("json" if as_json else form, FORMATS)
    found = compare(a, b, trust_code=trust_code)
    if form != "table":
        typer.echo(written(found, form))
        return
    show_tables(found)


def _format(name: str, known: tuple[str, ...]) -> str:
    from graph.suggest import suggestion

    if name not in known:
        raise UsageError(f"--format {name}: unknown", hint=suggestion(name, known))
    return name
