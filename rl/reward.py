"""Rewards: how good plans are, before any fine-tuning, remembered so that no plan is scored twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Self

import numpy as np
import torch

from graph.channels import Axes
from models_zoo.data import DataSet
from prune.identity import digest, of_model
from prune.journal import Journal
from prune.placement import CPU, placed_axes
from rl.precision import settled
from rl.processes import Note
from rl.scorer import Keep, Score, Scorer, chunks
from rl.side_by_side import SideBySide
from rl.workers import Workers, find_workers

__all__ = ["IMAGES", "Evaluator", "Score"]

IMAGES = 256  # docs/results.md shows how well fewer and more of them rank plans


class Evaluator:
    """Scores plans on one program and one data set.

    Args:
        axes: of the whole program.
        data: its search split is scored on.
        images: how many images of it are used; always the same ones.
        workers: how many processes score plans that come together, or the address of a Ray cluster.
        device: computes, in this process alone unless it is the CPU.
        precision: one of ``rl.precision.PRECISIONS``; the same one in a run that is resumed elsewhere.
        journal: of the run, which may have been cut short; in memory alone when left out.
        note: is told of lost workers.

    Attributes:
        precision: the numbers that plans are scored in, ``float32`` or ``bfloat16``.
        journal: of the part of the run that asks at present.
        evaluations: how many plans were run, remembered ones not counted.
    """

    def __init__(
        self,
        axes: Axes,
        data: DataSet,
        *,
        images: int = IMAGES,
        workers: str = "1",
        device: torch.device = CPU,
        precision: str = "float32",
        journal: Journal | None = None,
        note: Note = lambda text: None,
    ) -> None:
        self.axes = axes
        self.data = data
        self.journal = journal or Journal()
        self.evaluations = 0
        self._device = device
        records = tuple(c.to(device) for c in chunks(axes, data, images))
        exact = Scorer(placed_axes(axes, device), records)
        self.precision, self._scorer = settled(precision, exact, self._recalled)
        self._workers: Workers = (
            find_workers(workers, self._scorer, note, self.journal.folder)
            if device == CPU
            else SideBySide(self._scorer)
        )
        self._memo: dict[bytes, Score] = {}

    @property
    def images(self) -> int:
        """How many images a score is taken on."""
        return self._scorer.images

    def __call__(self, keep: Keep) -> Score:
        """Score the program without the classes that ``keep`` leaves out (shape: classes)."""
        return self.many([keep])[0]

    def many(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order; those that are not remembered go to the workers.

        Raises:
            PlanError: the channels that a plan keeps do not fit each other.
            WorkerError: workers are lost again and again.
        """
        keys = [np.packbits(keep).tobytes() for keep in keeps]
        new = {key: keep for key, keep in zip(keys, keeps, strict=True) if key not in self._memo}
        if new:
            self._memo |= self._found(new)
        return [self._memo[key] for key in keys]

    def _found(self, new: Mapping[bytes, Keep]) -> dict[bytes, Score]:
        """Scores of plans from the journal; of those that are not in it, from the workers."""
        keys = {key: f"score {self._identity} {digest([key])[:32]}" for key in new}
        known = {key: self.journal.root.get(name) for key, name in keys.items()}
        missing = [key for key, entry in known.items() if entry is None]
        if missing:
            scores = self._workers.map([new[key] for key in missing])
            told = {
                key: [score.accuracy, score.loss, self.journal.name]
                for key, score in zip(missing, scores, strict=True)
            }
            self.journal.root.put({keys[key]: entry for key, entry in told.items()})
            known |= told
        # Those of another part of the run were remembered there, too, before it was cut short.
        self.evaluations += sum(entry[2] == self.journal.name for entry in known.values())
        return {key: Score(float(entry[0]), float(entry[1])) for key, entry in known.items()}

    def _recalled(self, find: Callable[[], str]) -> str:
        """What ``auto`` is in this run: resumed on a processor of another kind, it stays what it was."""
        return str(self.journal.root.recall(f"precision {self._model[:32]}", find))

    @cached_property
    def _model(self) -> str:
        return of_model(self.axes)

    @cached_property
    def _identity(self) -> str:
        """What a score depends on besides the plan: program, channels, precision, images."""
        tensors = (t.cpu() for c in self._scorer.chunks for t in (c.images, c.labels))
        numbers = self.precision if self._device == CPU else f"{self.precision} {self._device.type}"
        return digest([self._model, numbers, *tensors])[:32]

    def close(self) -> None:
        """End the workers; scores that are remembered can still be asked for."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
