"""The commands ``prune zoo``: the networks of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from front.commands.options import (
    ArchArgsOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    architecture_arguments,
)
from front.commands.shown import bold
from front.commands.terminal import console, new_screen, print_json


def zoo_list(as_json: JsonOption = False) -> None:
    """List the networks with their published costs."""
    from models_zoo.registry import everything
    from prune.report import count

    if as_json:
        names = ("name", "input_shape", "macs", "params", "summary")
        return print_json([{n: getattr(e, n) for n in names} for e in everything().values()])
    table = Table("name", "input", "MACs", "parameters", "what it is")
    for entry in everything().values():
        shape = "x".join(map(str, entry.input_shape)) + " tokens" * entry.is_language_model
        table.add_row(entry.name, shape, count(entry.macs), count(entry.params), entry.summary)
    console.print(table)


def zoo_train(
    name: Annotated[str, typer.Argument(help="A network of `prune zoo list`.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(help="Data set, as for compress.", show_default="digits; pystdlib for language models"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="NAME.pt")
    ] = None,
    arch_args: ArchArgsOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images, or windows of text, per step.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")] = 0,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network from scratch and write it with its metadata."""
    from dataclasses import replace

    from models_zoo.registry import check_arguments, find
    from profilers.device import find_device
    from prune.data import load_data
    from prune.train import recipe, train

    entry, place, arguments = find(name), find_device(device), architecture_arguments(arch_args)
    check_arguments(name, arguments)
    spec = data or ("pystdlib" if entry.is_language_model else "shapes" if entry.masks else "digits")
    given: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed}
    config = replace(recipe(name), **{k: v for k, v in given.items() if v is not None})
    path = output or Path(f"{name}.pt")
    screen = new_screen(as_json=as_json)
    with screen.running():
        screen.stage(f"loading {spec}")
        loaded = load_data(spec)
        for note in loaded.notes:
            screen.note(note)
        screen.stage(f"training {name}")
        result = train(
            name,
            loaded,
            config,
            path,
            device=place,
            force=force,
            on_epoch=screen.epoch,
            on_step=screen.step,
            **arguments,
        )
    if as_json:
        return print_json({"file": str(path), "arch": name, "data": spec, **result.to_json()})
    console.print(
        f"{name}: {result.told()} on {result.records} test {result.unit} of {escape(spec)}; "
        f"written to {bold(path)}"
    )
