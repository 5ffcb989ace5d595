"""Rewards: how good a plan is, measured with masks on the whole program.

No surgery happens here. Where a removed channel is consumed, the consumer's weights for it are zero, or its
value is masked (see ``prune.masks``), which is the same function as the pruned program. Batch-norm
statistics are measured again on training images, the accuracy on a fixed part of the search split. Plans
are memoised.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graph.channels import Axes
from graph.program import Override, run
from models_zoo.data import DataSet
from prune.masks import Masks
from prune.recalibrate import recalibrated


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


class Evaluator:
    """Scores plans on one program and one data set.

    Args:
        axes: of the whole program.
        data: its search split is scored on, its train split gives the statistics.
        images: how many images of the search split are used; always the same ones.
        calibration: how many training images the statistics are measured on.
        batch_size: images per forward pass.

    Attributes:
        evaluations: how many plans were run, memoised ones not counted.
        seconds: the time spent on them.
    """

    def __init__(
        self,
        axes: Axes,
        data: DataSet,
        *,
        images: int = 512,
        calibration: int = 256,
        batch_size: int = 128,
    ) -> None:
        self.axes = axes
        self.data = data
        self.evaluations = 0
        self.seconds = 0.0
        self._search = [
            (_fast(x), y) for x, y in data.search.batches(batch_size, limit=min(images, len(data.search)))
        ]
        self._calibration = [
            _fast(x)
            for x, _ in data.train.batches(batch_size, shuffle=True, limit=min(calibration, len(data.train)))
        ]
        self._tensors = {
            k: _fast(t.detach()) if t.is_floating_point() else t for k, t in axes.program.tensors.items()
        }
        self._memo: dict[bytes, Score] = {}

    @property
    def images(self) -> int:
        """How many images a score is taken on."""
        return sum(len(y) for _, y in self._search)

    def __call__(self, keep: NDArray[np.bool_]) -> Score:
        """Score the program without the classes that ``keep`` leaves out (shape: classes)."""
        key = np.packbits(keep).tobytes()
        if key not in self._memo:
            start = time.perf_counter()
            if weighted(self.axes):
                self._memo[key] = self._measure(masked_tensors(self.axes, self._tensors, keep), {})
            else:
                self._memo[key] = self._measure(self._tensors, Masks(self.axes, keep).overrides)
            self.seconds += time.perf_counter() - start
            self.evaluations += 1
        return self._memo[key]

    def _measure(self, tensors: dict[str, Tensor], overrides: Mapping[str, Override]) -> Score:
        program = self.axes.program
        table = recalibrated(program, tensors, self._calibration, overrides=overrides)
        correct, loss, total = 0, 0.0, 0
        with torch.no_grad():
            for inputs, targets in self._search:
                logits = run(program, table, [inputs], overrides=overrides)
                correct += int((logits.argmax(1) == targets).sum())
                loss += float(F.cross_entropy(logits, targets, reduction="sum"))
                total += len(targets)
        return Score(correct / total, loss / total)


def weighted(axes: Axes) -> bool:
    """Whether all channels are consumed by weights, so that masking those is enough."""
    return all(s.weight is not None and s.fills == 0.0 for s in axes.sites)


def masked_tensors(axes: Axes, tensors: dict[str, Tensor], keep: NDArray[np.bool_]) -> dict[str, Tensor]:
    """The tensor table in which every weight that consumes a removed channel is zero there."""
    table = dict(tensors)
    for site in axes.sites:
        if keep[axes.fields[site.value][site.dim].labels].all():
            continue
        assert site.weight is not None
        field = axes.weights[site.weight][site.weight_dim]
        if not keep[field.labels].all():
            mask = torch.from_numpy(keep[field.labels]).to(table[site.weight].dtype)
            table[site.weight] = table[site.weight] * mask
    return table


def _fast(tensor: Tensor) -> Tensor:
    """Images and convolution weights in the memory order that CPU convolutions like best."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
