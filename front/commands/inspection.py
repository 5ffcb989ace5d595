"""The commands that look at one model: inspect, eval, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from front.commands.options import (
    MODEL,
    ArchArgsOption,
    ArchOption,
    DataOption,
    DtypeOption,
    ExcludeOption,
    ForceOption,
    JsonOption,
    KindsOption,
    LimitOption,
    ModelArgument,
    OnlyOption,
    PretrainedOption,
    ShapeOption,
    SpecOption,
    TrustOption,
    WeightsOption,
    model_source,
)
from front.commands.shown import show_rows
from front.commands.terminal import console, print_json, waiting


def inspect(
    model: ModelArgument,
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    exclude: ExcludeOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    kinds: KindsOption = None,
    ops: Annotated[bool, typer.Option("--ops", help="List the cost of every operator.")] = False,
    as_json: JsonOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Show what a model costs, which channels can go together, and what is pinned and why."""
    from prune.inspection import inspect as run
    from prune.selection import parse_selection
    from prune.subject import open_model

    with waiting("capturing the model", quiet=as_json):
        source = model_source(
            model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
        )
        found = run(open_model(source, parse_selection(exclude, only, limit, kinds)))
    if as_json:
        return print_json(found.to_json())
    for title, header, rows in found.tables(ops=ops):
        table = Table(*header, title=title, title_justify="left")
        for column, cell in zip(table.columns, rows[0] if rows else header, strict=True):
            column.justify = "right" if cell[:1].isdigit() else "left"
        show_rows(table, rows)
    for line in found.lines():
        console.print(escape(line))


def evaluate(
    model: Annotated[str, typer.Argument(help=f"{MODEL}, or .onnx file.", show_default=False)],
    data: DataOption = None,
    split: Annotated[str, typer.Option(help="test or search.")] = "test",
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the accuracy of a model, of a pruned run, or of an ONNX file; of text, bits and perplexity."""
    from prune.inspection import measure

    with waiting(f"evaluating {model}", quiet=as_json):
        source = model_source(
            model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
        )
        found, name = measure(source, data, split)
    if as_json:
        return print_json({"model": model, "data": name, "split": split, **found.to_json()})
    console.print(
        f"{found.told()}, loss {found.loss:.4f} on {found.records} {split} {found.unit} of {escape(name)}"
    )


def export(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="model.onnx or model.pt2.", show_default=False)
    ],
    opset: Annotated[int | None, typer.Option(help="ONNX opset; the exporter's own when left out.")] = None,
    form: Annotated[
        str,
        typer.Option(
            help="Of a Mamba: graph (tokens of one length), any-length, or step (one token and the states)."
        ),
    ] = "graph",
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    force: ForceOption = False,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a pruned run or a model file to ONNX or .pt2, checked against the model."""
    from prune.inspection import export_model

    with waiting(f"exporting {model}", quiet=as_json):
        source = model_source(
            model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
        )
        found = export_model(source, output, opset=opset, force=force, form=form)
    if as_json:
        return print_json(found.to_json())
    console.print(escape(found.told()))
