"""The commands ``prune profile``: where time, memory and traffic go."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from front.commands.options import (
    ArchArgsOption,
    ArchOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    ModelArgument,
    PretrainedOption,
    ShapeOption,
    SpecOption,
    TrustOption,
    WeightsOption,
    model_source,
)
from front.commands.shown import bold, show_rows
from front.commands.terminal import console, print_json, waiting
from graph.errors import UsageError

if TYPE_CHECKING:
    from profilers.profile import Profile

ProfileOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder for profile.json, profile.csv and the plots."),
]
LengthsOption = Annotated[
    str | None,
    typer.Option(help="Lengths of the sequence: 64,256,1024, or 64..2048 (doubling).", show_default=False),
]
BatchOption = Annotated[int, typer.Option(min=1, help="Records at once.")]
RunDtypeOption = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16 or float64.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Of the CPU.", show_default="torch's own number")
]
ClockOption = Annotated[
    str, typer.Option(help="wall, or cpu: processor time of one thread, for a machine that is busy.")
]
RepeatsOption = Annotated[int, typer.Option(min=1, help="Runs of each measurement at the least.")]
SecondsOption = Annotated[float, typer.Option(min=0.0, help="Seconds of each measurement at the least.")]


def profile_model(
    model: ModelArgument,
    by: Annotated[str, typer.Option(help="Parts to tell apart: op, module or node.")] = "op",
    top: Annotated[int, typer.Option(min=1, help="Rows to show: those that take longest.")] = 20,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Names of a module's path to tell apart.", show_default="all")
    ] = None,
    lengths: LengthsOption = None,
    batch: BatchOption = 1,
    dtype: RunDtypeOption = "float32",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    clock: ClockOption = "wall",
    repeats: RepeatsOption = 5,
    seconds: SecondsOption = 2.0,
    output: ProfileOutput = None,
    as_json: JsonOption = False,
    arch: ArchOption = None,
    arch_args: ArchArgsOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    input_shape: ShapeOption = None,
    input_dtype: DtypeOption = None,
    input_spec: SpecOption = None,
    force: ForceOption = False,
    trust_code: TrustOption = False,
) -> None:
    """Measure any model, operator by operator."""
    from profilers.tables import check_view, parse_lengths
    from profilers.watch import Budget
    from prune.profiling import ModelProfileConfig
    from prune.profiling import profile_model as run

    check_view(by)
    source = model_source(
        model, arch, arch_args, weights, pretrained, input_shape, input_dtype, input_spec, trust_code
    )
    config = ModelProfileConfig(
        source=source,
        lengths=parse_lengths(lengths) if lengths is not None else (),
        batch=batch,
        dtype=dtype,
        device=device,
        threads=threads,
        depth=depth,
        budget=Budget(repeats=repeats, seconds=seconds, clock=clock),
    )
    with _measuring(output, force, quiet=as_json) as tell:
        found = run(config, _words(), tell)
    _show_profile(found, by, top, output, force, as_json=as_json)


def profile_mamba(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A Mamba of yours: DIR of a checkpoint, or a file of `prune zoo train`; else the "
            "weights are random.",
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, max=2, help="Of the block.", show_default="both")
    ] = None,
    d_model: Annotated[
        int | None, typer.Option(min=1, help="Width of the model.", show_default="256")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks.", show_default="2")] = None,
    d_state: Annotated[
        int | None, typer.Option(min=1, help="States.", show_default="16 for Mamba-1, 128 for Mamba-2")
    ] = None,
    headdim: Annotated[
        int | None, typer.Option(min=1, help="Channels of a head of Mamba-2.", show_default="64")
    ] = None,
    lengths: LengthsOption = None,
    full: Annotated[bool, typer.Option("--full", help="Lengths from 64 to 16384, not 2048.")] = False,
    mode: Annotated[str, typer.Option(help="prefill, decode or both.")] = "both",
    batch: BatchOption = 1,
    dtype: RunDtypeOption = "float32",
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    clock: ClockOption = "wall",
    repeats: RepeatsOption = 5,
    seconds: SecondsOption = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and tokens.")] = 0,
    output: ProfileOutput = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Measure Mamba-1 and Mamba-2 component by component over length."""
    from profilers.mamba import FULL_LENGTHS, LENGTHS, MODES, VIEW, MambaProfileConfig, MambaSizes
    from profilers.mamba import profile_mamba as run
    from profilers.tables import parse_lengths
    from profilers.watch import Budget
    from prune.profiling import open_mamba

    given = {"d_model": d_model, "layers": layers, "d_state": d_state, "headdim": headdim}
    sizes = {name: value for name, value in given.items() if value is not None}
    if model is not None and (sizes or version):
        raise UsageError(
            f"--model {model} has its own version and sizes",
            hint="leave out --version, --d-model, --layers, --d-state and --headdim",
        )
    if lengths is not None and full:
        raise UsageError("--full names the lengths already", hint="leave out --lengths or --full")
    config = MambaProfileConfig(
        lengths=parse_lengths(lengths) if lengths is not None else FULL_LENGTHS if full else LENGTHS,
        modes=MODES if mode == "both" else (mode,),
        batch=batch,
        dtype=dtype,
        device=device,
        threads=threads,
        budget=Budget(repeats=repeats, seconds=seconds, clock=clock),
        seed=seed,
    )
    with _measuring(output, force, quiet=as_json) as tell:
        if model is not None:
            models = {Path(model).resolve().stem: open_mamba(model)}
        else:
            versions = (1, 2) if version is None else (version,)
            models = {f"Mamba-{v}": MambaSizes(version=v, **sizes).build(seed) for v in versions}
        found = run(models, config, shlex.join(_words()), tell)
    _show_profile(found, VIEW, None, output, force, as_json=as_json)


def _measuring(
    output: Path | None, force: bool, *, quiet: bool
) -> AbstractContextManager[Callable[[str], None]]:
    """Refuse a folder that cannot be written before anything is measured; tell what happens."""
    if output is not None:
        from prune.files import OutputFolder

        OutputFolder(output, force)
    return waiting("starting", quiet=quiet)


def _words() -> list[str]:
    return ["prune", *sys.argv[1:]]


def _show_profile(
    found: Profile, view: str, top: int | None, output: Path | None, force: bool, *, as_json: bool
) -> None:
    from profilers.tables import lines, tables

    if output is not None:
        from prune.profiling import write_profile

        names = write_profile(found, view, output, force=force)
    if as_json:
        return print_json(found.to_json())
    for title, header, rows in tables(found, view, top):
        table = Table(*header, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.collapse_padding = True  # leaves a name the room for a word of it in 80 columns
        for column in table.columns[1:]:
            column.justify, column.no_wrap = "right", True
        table.columns[0].overflow = "fold"
        show_rows(table, rows)
    for line in lines(found, view):
        console.print(escape(line), soft_wrap=True)
    if output is not None:
        console.print(f"written to {bold(output)}: " + ", ".join(names))
