"""The screen: a line for each stage of a run and a bar for what takes long, in terminals and notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from prune.trials import Trial
    from prune.tune import EpochResult


class Screen:
    """Shows a run.

    Args:
        console: where to.
        notes: where notes go that must be seen even if the console is quiet.
        trials: plans that will be scored.
        verbose: tell every plan and every epoch.
    """

    def __init__(
        self, console: Console, notes: Console | None = None, *, trials: int = 0, verbose: bool = False
    ) -> None:
        self.console, self.notes = console, notes
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # In a notebook rich draws bars with ipywidgets (extra `notebook`); lines need nothing.
            disable=console.is_jupyter and find_spec("ipywidgets") is None,
        )
        self.trials, self.verbose = trials, verbose
        self.task: TaskID | None = None
        self.best: Trial | None = None
        self.last_epoch = ""

    def stage(self, title: str) -> None:
        """A stage begins."""
        self._finish()
        total = {"searching": self.trials, "training the policy": self.trials}.get(title)
        self.console.print(f"[bold]{title}[/bold]")
        self.task = self.progress.add_task(title, total=total, told="")

    def _finish(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None
        if self.best is not None:
            best = self.best
            self.console.print(f"  best plan: {best.accuracy:.2%} on the search split, by {best.method}")
            self.best = None

    def note(self, text: str) -> None:
        """Something the user should know."""
        out = self.notes if self.console.quiet and self.notes is not None else self.console
        out.print(f"  [yellow]note:[/yellow] {escape(text)}")

    def trial(self, trial: Trial) -> None:
        """A plan was scored."""
        better = self.best is None or trial.rank > self.best.rank
        self.best = trial if better or self.best is None else self.best
        if better or self.verbose:
            self.console.print(
                f"  {trial.method} {trial.index}: {trial.accuracy:.2%}, {2 * trial.macs / 1e6:.2f} MFLOPs"
            )
        if self.task is not None:
            told = f"{trial.method} {trial.accuracy:.2%}, best {self.best.accuracy:.2%}"
            self.progress.update(self.task, advance=1, told=told)

    def epoch(self, result: EpochResult) -> None:
        """An epoch of training ended."""
        found = result.found.told()
        self.last_epoch = f"loss {result.loss:.3f}, search {found}"
        if self.verbose or result.epochs <= 20 or result.epoch % (result.epochs // 10) == 0:
            self.console.print(
                f"  epoch {result.epoch}/{result.epochs}: loss {result.loss:.4f}, "
                f"search {found}, {result.seconds:.1f} s"
            )

    def step(self, done: int, total: int) -> None:
        """A step of training ended."""
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total, told=self.last_epoch)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Draw while the block runs."""
        with self.progress:
            yield
            self._finish()
