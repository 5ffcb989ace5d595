"""The terminal: where commands print, and how much."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from front.screen import Screen

console = Console()
stderr = Console(stderr=True)
state = {"debug": False, "verbose": False}
resumable: list[Path] = []  # folders of trainings under way, which the same command goes on with


def screen(*, trials: int = 0, as_json: bool = False) -> Screen:
    """A screen for a run. With --json, stdout is for the result alone."""
    out = Console(stderr=True, quiet=console.quiet) if as_json else console
    return Screen(out, stderr, trials=trials, verbose=state["verbose"])
