"""Workers: who scores the plans of a search: this process, others beside it, or a cluster.

All of them give the same scores, since each plan is scored by one thread on the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from graph.errors import UsageError
from rl.processes import Note, Processes
from rl.scorer import Keep, Score, Scorer


class Workers(Protocol):
    """Whoever scores plans."""

    def map(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order.

        Raises:
            PlanError: the channels that a plan keeps do not fit each other.
            WorkerError: workers are lost again and again.
        """

    def close(self) -> None:
        """End what was started; called again, it does nothing."""


def check_workers(text: str) -> None:
    """Refuse what names no workers.

    Raises:
        UsageError: neither a positive number nor ``ray:`` nor an address of Ray.
    """
    known = text == "ray:" or (text.startswith("ray://") and len(text) > len("ray://"))
    if not known and not (text.isdecimal() and int(text) > 0):
        raise UsageError(f"--workers {text}: unknown", hint="a number such as 2, or ray://HOST:PORT")


def check_alone(text: str, device: torch.device) -> None:
    """Refuse several workers beside a device that is not the CPU.

    Raises:
        UsageError: another number than one, or a cluster.
    """
    if device.type != "cpu" and text != "1":
        raise UsageError(
            f"--workers {text} and --device {device} do not go together",
            hint="one process scores all plans there",
        )


def find_workers(text: str, scorer: Scorer, note: Note, folder: Path | None = None) -> Workers:
    """The workers that the user asks for.

    Args:
        text: how many processes, ``ray:`` for Ray on this machine, or ``ray://HOST:PORT``.
        scorer: what they are to do.
        note: is told of lost workers.
        folder: for what processes of this machine share; the system's for temporary files when left out.

    Raises:
        UsageError: none of these.
        WorkerError: Ray is not installed, or there is no cluster.
    """
    check_workers(text)
    if text.startswith("ray:"):
        from rl.ray_workers import RayWorkers

        return RayWorkers(scorer, text if text != "ray:" else None, note)
    return Processes(scorer, int(text), note, folder) if int(text) > 1 else Here(scorer)


def cores() -> int:
    """How many processes can compute at one time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Here:
    """No worker but this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def map(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order."""
        return [self.scorer(keep) for keep in keeps]

    def close(self) -> None:
        """Nothing to end."""
