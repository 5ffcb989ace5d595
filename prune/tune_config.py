"""How to train: the settings of a run, what suits which kind of network, and whether to mix images."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from torch import nn

from graph.errors import UsageError
from models_zoo.data import Split
from prune.distillation import Mixture
from prune.evaluation import evaluate

_ASKED = 2048  # training images that a teacher is asked about
_BY_HEART = 0.95  # what it must be right on to know them


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """How to train.

    Attributes:
        epochs: passes over the training split; 0 only evaluates.
        lr: the peak learning rate, for the batch size given.
        batch_size: records per step, at least 2 (batch norm needs two).
        momentum: of Nesterov's method; 0 is plain gradient descent.
        weight_decay: on weights; biases and normalisation parameters are left out (Goyal et al. 2017).
        distill: share of the distillation loss where there is a teacher, 0 to 1; the labels get the rest.
        temperature: softens both outputs before they are compared.
        mixup: whether a teacher is asked about mixtures of two images (``prune.distillation``).
        patience: stop after so many epochs without a better one; never when None.
        warmup: share of all steps in which the learning rate rises to its peak.
        seed: fixes order, augmentation and dropout.
        optimizer: ``sgd``, or ``adamw`` (Loshchilov and Hutter 2019), which has no use for `momentum`.

    Raises:
        UsageError: a value out of range.
    """

    epochs: int = 10
    lr: float = 0.02
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    distill: float = 0.5
    temperature: float = 4.0
    mixup: bool = False
    patience: int | None = None
    warmup: float = 0.05
    seed: int = 0
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        """Check every value."""
        allowed: dict[str, tuple[bool, str]] = {
            "epochs": (self.epochs >= 0, "at least 0"),
            "lr": (0 < self.lr < math.inf, "a positive number"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "distill": (0 <= self.distill <= 1, "in [0, 1]"),
            "temperature": (0 < self.temperature < math.inf, "a positive number"),
            "mixup": (self.mixup in (True, False), "true or false"),
            "patience": (self.patience is None or self.patience >= 1, "at least 1"),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "seed": (0 <= self.seed < 2**32, "in [0, 2**32)"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
        }
        for field in fields(self):
            good, wanted = allowed[field.name]
            if not good:
                raise UsageError(
                    f"{field.name.replace('_', ' ')} must be {wanted}, not {getattr(self, field.name)}",
                    hint=f"the default is {field.default}",
                )


SCRATCH = TuneConfig(epochs=20, lr=0.1)
SCRATCH_PLAIN = TuneConfig(epochs=20, lr=0.03)  # deep, no shortcuts: at 0.1 these hardly start to learn
SCRATCH_TRANSFORMER = TuneConfig(epochs=20, lr=1e-3, batch_size=64, weight_decay=0.05, optimizer="adamw")
SCRATCH_TEXT = TuneConfig(epochs=1, lr=4e-3, batch_size=16, weight_decay=0.1, optimizer="adamw")
FINE_TUNE = TuneConfig(mixup=True)
FINE_TUNE_TEXT = replace(SCRATCH_TEXT, lr=1e-3)


def knows_by_heart(teacher: nn.Module, split: Split) -> bool:
    """Whether a teacher is right on nearly all images of a split, the first 2,048 at most, as they are.

    Then what it says of them is little more than their labels, and it pays to ask it about mixtures; of
    images that it is unsure of it tells more, and mixtures only make them harder (docs/results.md).

    Args:
        teacher: as for `evaluate`.
        split: what it may have been trained on.
    """
    return evaluate(teacher, split, limit=min(_ASKED, len(split))).accuracy >= _BY_HEART


def settled(config: TuneConfig, teacher: nn.Module | None, split: Split) -> TuneConfig:
    """The configuration with mixtures only of images, and where a teacher that counts knows them by heart."""
    if not config.mixup or not config.distill or teacher is None:
        return replace(config, mixup=False)
    record, _ = next(iter(split.batches(1, limit=1)))
    return replace(config, mixup=Mixture.suits(record) and knows_by_heart(teacher, split))
