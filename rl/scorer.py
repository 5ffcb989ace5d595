"""The scorer: one plan on one core, from the channels that stay to accuracy and loss.

The plan is cut out of the program (``prune.slicing``) and run once on images of the search split, which
give the batch-norm statistics, too (``prune.onepass``). Nothing random happens and one thread computes, so a
plan's score is the same number in whichever process it is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graph.adapter import prediction
from graph.channels import Axes
from graph.cost import costs
from graph.program import run
from models_zoo.data import DataSet
from prune.onepass import overrides
from prune.placement import ordered_for
from prune.slicing import Slicer

Keep = NDArray[np.bool_]
_CHUNK_BYTES = 1 << 30  # activations that may be alive at one time
_FEWEST = 32  # images of a chunk, however large they are: statistics need some
_ACCURACY, _LOSS = 0.01, 0.02  # how far scores of one plan may lie apart; the loss by so much of 1 + itself
_TOKENS = 8192  # of text that a plan is scored on at most


@dataclass(frozen=True)
class Score:
    """What a plan is worth.

    Attributes:
        accuracy: share of the search images classified correctly, before any fine-tuning.
        loss: mean cross entropy on them.
        reward: accuracy - 1, that is, minus the error.
    """

    accuracy: float
    loss: float

    @property
    def reward(self) -> float:
        """Minus the error (AMC, He et al. 2018, section 3.3: error only where the budget is enforced)."""
        return self.accuracy - 1.0


@dataclass(frozen=True)
class Chunk:
    """Images that go through the network together.

    Attributes:
        images: (B, C, H, W), normalised; of text tokens (B, L).
        labels: int64 (B,), or (B, L).
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Chunk:
        """The same ones on a device."""
        return Chunk(self.images.to(device), self.labels.to(device))


def chunks(axes: Axes, data: DataSet, images: int) -> tuple[Chunk, ...]:
    """The images that every plan is scored on: the first ones of the search split, no others are read.

    They go through the network together, or in parts of equal size where they would take too much memory.

    Args:
        axes: of the whole program.
        data: where they come from.
        images: at most how many; windows of text, of 8,192 tokens together at most.
    """
    count = min(images, len(data.search))
    if data.is_text:
        count = min(count, max(1, _TOKENS // data.input_shape[0]))
    batches = list(data.search.batches(count, limit=count))
    scored, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    fewest = 1 if data.is_text else _FEWEST
    most = max(fewest, _CHUNK_BYTES // max(1, costs(axes.program).peak_activation_bytes))
    parts = -(-count // most)
    scored = ordered_for(axes.program)(scored)
    return tuple(
        Chunk(x, y) for x, y in zip(scored.tensor_split(parts), labels.tensor_split(parts), strict=True)
    )


class PlanScorer(Protocol):
    """What a search asks for the worth of plans: ``rl.reward.Evaluator``, or whatever else knows it.

    Attributes:
        precision: the numbers that plans are scored in.
    """

    precision: str

    @property
    def images(self) -> int:
        """How many records a score is taken on."""

    @property
    def evaluations(self) -> int:
        """How many plans were run."""

    def many(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order."""


class Scorer:
    """Scores plans on one program and the same images each time.

    Args:
        axes: of the whole program.
        on: the images, see ``chunks``.
    """

    def __init__(self, axes: Axes, on: tuple[Chunk, ...]) -> None:
        self.axes, self.chunks = axes, on
        self._slice = Slicer(axes)
        self._overrides = overrides(axes.program)

    @property
    def device(self) -> torch.device:
        """Where scores are computed."""
        return self.chunks[0].images.device

    @property
    def images(self) -> int:
        """How many images, or tokens, a score is taken on."""
        return sum(c.labels.numel() for c in self.chunks)

    def __call__(self, keep: Keep) -> Score:
        """Score the program without the classes that ``keep`` leaves out (shape: classes).

        Raises:
            PlanError: the channels that remain do not fit each other.
        """
        program = self._slice(keep)
        correct, loss = 0, 0.0
        with _one_thread(), torch.inference_mode():
            for chunk in self.chunks:
                out = run(program, program.tensors, [chunk.images], overrides=self._overrides)
                logits = prediction(out).flatten(0, -2)  # every token is a record
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                labels = chunk.labels.flatten()
                correct += int((logits.argmax(1) == labels).sum())
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        return Score(correct / self.images, loss / self.images)


def alike(one: Score, other: Score, images: int) -> bool:
    """Whether two scores of one plan are the same, as far as one can tell from so many images.

    Args:
        one: the exact one.
        other: computed in another way.
        images: that each was taken on.
    """
    same_accuracy = abs(one.accuracy - other.accuracy) <= _ACCURACY + 1 / images
    return same_accuracy and abs(one.loss - other.loss) <= _LOSS * (1 + one.loss)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are taken in another order by more threads, and a worker has one core to itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
