"""Rewards: how good plans are, before any fine-tuning, remembered so that no plan is scored twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from graph.channels import Axes
from graph.errors import PlanError
from models_zoo.data import DataSet
from rl.scorer import Keep, Score, Scorer, chunks
from rl.workers import Note, Workers, find_workers

__all__ = ["IMAGES", "Evaluator", "Score"]

IMAGES = 256  # docs/results.md shows how well fewer and more of them rank plans


class Evaluator:
    """Scores plans on one program and one data set.

    Args:
        axes: of the whole program.
        data: its search split is scored on.
        images: how many images of it are used; always the same ones.
        workers: how many processes score plans that come together, or the address of a Ray cluster.
        note: is told of lost workers.

    Attributes:
        evaluations: how many plans were run, remembered ones not counted.
        seconds: the time spent on them.
    """

    def __init__(
        self,
        axes: Axes,
        data: DataSet,
        *,
        images: int = IMAGES,
        workers: str = "1",
        note: Note = lambda text: None,
    ) -> None:
        self.axes = axes
        self.data = data
        self.evaluations = 0
        self.seconds = 0.0
        self._scorer = Scorer(axes, chunks(axes, data, images))
        self._workers: Workers = find_workers(workers, self._scorer, note)
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
            start = time.perf_counter()
            self._memo.update(zip(new, self._workers.map(list(new.values())), strict=True))
            self.seconds += time.perf_counter() - start
            self.evaluations += len(new)
        return [self._memo[key] for key in keys]

    def remembered(self) -> dict[str, Any]:
        """All scores so far as JSON data."""
        return {
            "format": "prune-scores",
            "version": 1,
            "of": self._identity(),
            "plans": {key.hex(): [score.accuracy, score.loss] for key, score in self._memo.items()},
        }

    def remember(self, data: Any) -> None:
        """Take over scores that ``remembered`` gave.

        Raises:
            PlanError: malformed data, or scores of another program or on other images.
        """
        try:
            if (data["format"], data["version"]) != ("prune-scores", 1):
                raise PlanError("not scores of version 1")
            if data["of"] != self._identity():
                raise PlanError(
                    "the scores were made for another model or on other images",
                    hint="search anew, or give the model, the data and --images of that search",
                )
            plans = {bytes.fromhex(k): Score(float(a), float(b)) for k, (a, b) in data["plans"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise PlanError(f"malformed scores: {type(err).__name__}: {err}") from err
        self._memo.update(plans)

    def _identity(self) -> str:
        """What a score depends on besides the plan: program, channels, images."""
        program = self.axes.program
        found = hashlib.sha256(repr((program.nodes, self.axes.classes)).encode())
        tensors: Mapping[str, Tensor] = program.tensors
        for tensor in (*tensors.values(), *(t for c in self._scorer.chunks for t in (c.images, c.labels))):
            found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def close(self) -> None:
        """End the workers; scores that are remembered can still be asked for."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
