"""The terminal: where commands print, and how much."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from front.screen import Screen

console = Console()
stderr = Console(stderr=True)
state = {"debug": False, "verbose": False}


def new_screen(*, trials: int = 0, as_json: bool = False) -> Screen:
    """A screen for a run. With --json, stdout is for the result alone."""
    out = Console(stderr=True, quiet=console.quiet) if as_json else console
    return Screen(out, stderr, trials=trials, verbose=state["verbose"])


@contextmanager
def waiting(text: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show what the block is at; it may tell anew."""
    if quiet:
        yield lambda _: None
        return
    with console.status(escape(text)) as status:
        yield lambda text: status.update(escape(text))


def print_json(data: Any) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps(data, indent=2))
