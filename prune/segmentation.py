"""Segmentation: how well masks are met, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskScores:
    """Of all pixels of a split together; means over the classes that occur in either mask.

    Attributes:
        mean_iou: intersection over union, 0 to 1.
        mean_dice: twice the intersection over the sum of both, 0 to 1.
        iou: for each class; NaN where it does not occur.
    """

    mean_iou: float
    mean_dice: float
    iou: tuple[float, ...]


def confusion(found: Tensor, wanted: Tensor, classes: int) -> Tensor:
    """How many pixels of each class (rows) were given to each (columns): int64 (K, K)."""
    pairs = torch.bincount((wanted * classes + found).flatten(), minlength=classes**2)
    return pairs.view(classes, classes)


def scores_of(pairs: Tensor) -> MaskScores:
    """The scores that follow from a confusion matrix (K, K)."""
    both, wanted, found = pairs.diagonal().double(), pairs.sum(1), pairs.sum(0)
    iou = both / (wanted + found - both)
    dice = 2 * both / (wanted + found)
    occurs = wanted + found > 0
    return MaskScores(float(iou[occurs].mean()), float(dice[occurs].mean()), tuple(iou.tolist()))
