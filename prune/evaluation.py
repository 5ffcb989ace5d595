"""Evaluation: how good a network is on a split, in the figures that its kind of data has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.errors import DataError
from graph.shortage import is_out_of_memory
from models_zoo.data import TEXT_UNITS, Split
from models_zoo.text import TokenSplit
from prune.placement import device_of, ordered_for
from prune.segmentation import confusion, scores_of
from prune.targets import labelled

_TOKENS = 4096  # of text that are evaluated at once


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is on a split.

    Attributes:
        accuracy: share of the labels that have the largest output, 0 to 1; of text the tokens foreseen.
        loss: mean cross entropy in nats; not finite where the outputs are not.
        records: how many labels were looked at: images, bytes or tokens.
        unit: which of these.
        bytes_per_token: of text, where it is known.
        mean_iou: of masks the mean intersection over union of the classes.
        mean_dice: of masks the mean Dice coefficient.
    """

    accuracy: float
    loss: float
    records: int
    unit: str = "images"
    bytes_per_token: float | None = None
    mean_iou: float | None = None
    mean_dice: float | None = None

    @property
    def is_text(self) -> bool:
        """Whether it is of a language model."""
        return self.unit in TEXT_UNITS

    @property
    def bits(self) -> float:
        """The loss in bits: for each byte of a text where that is known, else for each label."""
        return self.loss / math.log(2) / (self.bytes_per_token or 1.0)

    @property
    def perplexity(self) -> float:
        """Of each label: e to the loss."""
        return math.exp(min(self.loss, 700.0))

    @property
    def rank(self) -> tuple[float, float]:
        """The greater, the better: by accuracy or mean IoU, of equal ones by loss; text by loss alone."""
        if self.is_text:
            return (-self.loss, 0.0)
        return (self.accuracy if self.mean_iou is None else self.mean_iou, -self.loss)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; a loss that is not finite is null."""
        finite = math.isfinite(self.loss)
        found: dict[str, Any] = {
            "accuracy": self.accuracy,
            "loss": self.loss if finite else None,
            "records": self.records,
            "unit": self.unit,
        }
        if self.is_text and finite:
            found |= {"bits": self.bits, "perplexity": self.perplexity}
        if self.mean_iou is not None:
            found |= {"mean_iou": self.mean_iou, "mean_dice": self.mean_dice}
        return found

    def told(self) -> str:
        """The figures that count, in words."""
        if self.mean_iou is not None:
            return f"mIoU {self.mean_iou:.2%}, Dice {self.mean_dice:.2%}, accuracy {self.accuracy:.2%}"
        if not self.is_text:
            return f"accuracy {self.accuracy:.2%}"
        label = "byte" if self.unit == "bytes" else "token"
        return f"{self.bits:.4f} bits per {self.each}, perplexity {self.perplexity:.3f} per {label}"

    @property
    def each(self) -> str:
        """What ``bits`` are counted for: byte, token or image."""
        return "byte" if self.bytes_per_token else self.unit.removesuffix("s")


def evaluate(
    module: nn.Module,
    split: Split,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Measure accuracy and loss in eval mode, without gradients; the module's mode is restored.

    Args:
        module: takes (B, C, H, W), returns logits (B, K); or takes (B, L), returns (B, L, K).
        split: what to look at, in its stored order.
        batch_size: records at once; the result does not depend on it, but for rounding. 256 images, or the
            windows that hold 4,096 tokens, when left out.
        limit: only the first records, so many.
        device: where the module is; found from its weights when left out.

    Raises:
        DataError: no records, or labels that the model has no output for.
    """
    place = torch.device(device) if device is not None else device_of(module)
    ordered = ordered_for(module)
    correct, loss, records, unit, rate = 0, 0.0, 0, "images", None
    pairs: Tensor | None = None  # of masks: how many pixels of each class were given to each
    at_once = 256
    if isinstance(split, TokenSplit):
        rate, at_once = split.bytes_per_token, max(1, _TOKENS // split.length)
        unit = "bytes" if rate == 1 else "tokens"
    size = batch_size or at_once
    try:
        with torch.no_grad(), eval_mode(module):
            for x, y in split.batches(size, limit=limit):
                masks = y.dim() == 3
                logits, y = labelled(module, ordered(x.to(place)), y.to(place))  # (B, K), (B,)
                if masks:
                    more = confusion(logits.argmax(1), y, logits.shape[1])
                    unit, pairs = "pixels", more if pairs is None else pairs + more
                loss += F.cross_entropy(logits, y, reduction="sum").item()
                correct += int((logits.argmax(1) == y).sum())
                records += len(y)
    except (MemoryError, RuntimeError) as err:
        if size == 1 or not is_out_of_memory(err):
            raise
        records = -1
    if records < 0:  # out of the handler, which holds what the failed batch made
        return evaluate(module, split, batch_size=size // 2, limit=limit, device=device)
    if not records:
        raise DataError("there are no records to evaluate on", hint="give a larger limit or more data")
    masks_met = None if pairs is None else scores_of(pairs)
    return Evaluation(
        correct / records,
        loss / records,
        records,
        unit,
        rate,
        None if masks_met is None else masks_met.mean_iou,
        None if masks_met is None else masks_met.mean_dice,
    )


def even(a: Evaluation, b: Evaluation) -> bool:
    """Whether two accuracies on the same images lie within two standard errors of their difference."""
    if a.is_text or a.mean_iou is not None:  # these go by other figures
        return False
    variance = (a.accuracy * (1 - a.accuracy) + b.accuracy * (1 - b.accuracy)) / a.records
    return abs(a.accuracy - b.accuracy) <= 2 * math.sqrt(variance)


@contextmanager
def eval_mode(module: nn.Module | None) -> Iterator[None]:
    """Put a module into eval mode for a while."""
    was_training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        yield
    finally:
        if module is not None:
            module.train(was_training)
