"""The commands ``prune policy``: policies of the search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from front.commands.options import DataOption, DeviceOption, ForceOption, JsonOption, SeedOption
from front.commands.shown import bold, show_rows
from front.commands.terminal import console, new_screen, print_json
from graph.errors import UsageError


def policy_train(
    on: Annotated[
        str,
        typer.Option(
            help="Networks, separated by commas: files of `prune zoo train`, or names of `prune zoo list`, "
            "which are trained on --data first.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write (.safetensors).", show_default=False)
    ],
    data: DataOption = None,
    method: Annotated[str, typer.Option("--agent", help="gnn-rl, agmc or amc.")] = "gnn-rl",
    episodes: Annotated[int, typer.Option(min=1, help="Plans to score, over all tasks.")] = 600,
    targets: Annotated[str, typer.Option(help="Shares of the MACs to train for.")] = "0.5,0.3",
    epochs: Annotated[int, typer.Option(min=1, help="Of training networks given by name.")] = 10,
    images: Annotated[int, typer.Option(min=2, help="Search images that score each plan.")] = 256,
    workers: Annotated[
        str,
        typer.Option(
            help="Processes that score plans: a number; of one network also ray: or ray://HOST:PORT."
        ),
    ] = "1",
    device: DeviceOption = "cpu",
    reward: Annotated[str, typer.Option(help="What makes a plan good: error or loss.")] = "error",
    start: Annotated[Path | None, typer.Option(help="Policy to go on from.", show_default="none")] = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a policy on several networks; it then starts the search on any other."""
    from profilers.device import find_device
    from rl.training import Events, TrainingConfig, train_policy

    config = TrainingConfig(
        on=tuple(n.strip() for n in on.split(",") if n.strip()),
        data=data,
        output=output,
        agent=method,
        episodes=episodes,
        targets=_shares(targets),
        epochs=epochs,
        images=images,
        workers=workers,
        device=find_device(device),
        reward=reward,  # type: ignore[arg-type]
        start=start,
        seed=seed,
        force=force,
    )
    screen = new_screen(trials=config.trials, as_json=as_json)
    with screen.running():
        found = train_policy(
            config, Events(screen.stage, screen.note, screen.trial, screen.epoch, screen.step)
        )
    if as_json:
        return print_json(found.to_json())
    _show_policy(found.rows())
    console.print(f"written to {bold(output)}")


def policy_show(
    file: Annotated[
        str,
        typer.Argument(
            help="File of `prune policy train`, or default: the one that comes along.", show_default=False
        ),
    ],
    agent: Annotated[
        str | None,
        typer.Option(help="Whose it has to be.", show_default="that of the file; of default gnn-rl"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a policy is and what it was trained on."""
    from rl.policy import find

    found = find(file, agent)
    if found is None:
        raise UsageError(f"{file} stands for no policy", hint="a file of `prune policy train`, or default")
    if as_json:
        return print_json(found.to_json())
    _show_policy(found.rows())


def _show_policy(rows: list[tuple[str, str]]) -> None:
    show_rows(Table("", "policy", show_header=False), rows)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(t) for t in text.split(","))
    except ValueError:
        raise UsageError(f"--targets {text}: not numbers", hint="such as --targets 0.5,0.3") from None
