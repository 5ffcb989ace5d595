"""TensorBoard: a run's plans and epochs as event files, written while it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graph.errors import OutputError, UsageError
from prune.config import Listener
from prune.files import refused

if TYPE_CHECKING:
    from prune.trials import Trial
    from prune.tune import EpochResult


class Board:
    """Writes what a run tells, and passes it on.

    Over the plans that were scored: ``search/accuracy``, ``search/loss``, ``search/reward``,
    ``search/best_reward`` and ``search/macs``; over the epochs: ``tune/loss``, ``tune/search_loss``,
    ``tune/search_accuracy`` and ``tune/lr``. Each point of a curve has its name in front.

    Args:
        start: makes the writer, once there is something to write: the folder may be that of the results,
            where a run that fails at once leaves nothing.
        listener: sees the run as well.
    """

    def __init__(self, start: Callable[[], Any], listener: Listener) -> None:
        self.start, self.listener = start, listener
        self.writer: Any = None
        self.prefix = ""
        self.plans, self.best = 0, float("-inf")

    def stage(self, title: str) -> None:
        """A stage begins; each point of a curve starts to count anew."""
        if title.startswith("point "):
            self.prefix = f"{title.removeprefix('point ')}/"
            self.plans, self.best = 0, float("-inf")
        self.listener.stage(title)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self.listener.note(text)

    def trial(self, trial: Trial) -> None:
        """A plan was scored."""
        self.plans += 1
        self.best = max(self.best, trial.worth)
        values = {
            "accuracy": trial.accuracy,
            "loss": trial.loss,
            "reward": trial.worth,
            "best_reward": self.best,
            "macs": trial.macs,
        }
        self._write("search", values, self.plans)
        self.listener.trial(trial)

    def epoch(self, result: EpochResult) -> None:
        """An epoch of fine-tuning ended."""
        values = {
            "loss": result.loss,
            "search_loss": result.found.loss,
            "search_accuracy": result.accuracy,
            "lr": result.lr,
        }
        self._write("tune", values, result.epoch)
        self.listener.epoch(result)

    def step(self, done: int, total: int) -> None:
        """A step of something long ended."""
        self.listener.step(done, total)

    def _write(self, group: str, values: dict[str, float], step: int) -> None:
        self.writer = self.writer or self.start()
        for name, value in values.items():
            self.writer.add_scalar(f"{self.prefix}{group}/{name}", value, step)
        self.writer.flush()  # a run that is killed has told what it did


@contextmanager
def board(folder: Path | None, listener: Listener, *, resume: bool = False) -> Iterator[Listener]:
    """The listener, and where there is a folder event files of what it is told; they end with the block.

    Args:
        folder: for the event files of this run.
        listener: sees the run as well.
        resume: what was written there is of the same run; else TensorBoard is told to hide it.

    Raises:
        UsageError: tensorboard is not installed.
        OutputError: the folder cannot be written.
    """
    if folder is None:
        yield listener
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise UsageError(
            "--tensorboard: the package tensorboard is not installed",
            hint="python -m pip install -c constraints.txt '.[tensorboard]'",
        ) from err

    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir():
        raise OutputError(f"--tensorboard {folder}: {above} is a file", hint="name another folder")
    if not os.access(above, os.W_OK):  # nothing is made before the run has begun: its folder may be the same
        raise OutputError(f"--tensorboard {folder} cannot be written", hint="name another folder")

    def start() -> Any:
        try:
            return SummaryWriter(str(folder), purge_step=None if resume else 0)
        except OSError as err:
            raise refused(folder, err) from err

    seen = Board(start, listener)
    try:
        yield seen
    finally:
        if seen.writer is not None:
            seen.writer.close()
