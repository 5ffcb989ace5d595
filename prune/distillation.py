"""Distillation: the loss of a student that learns from a teacher, on mixtures of images.

A teacher that was trained on the same images is sure of all of them, and so tells a student little more than
their labels do. What it says of a mixture of two it was never told, and there are as many mixtures as one
likes (mixup: Zhang et al. 2018, arXiv:1710.09412; with a teacher: Beyer et al. 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graph.errors import TrainingError


@dataclass(frozen=True)
class Mixture:
    """How the images of a batch are mixed in pairs.

    Attributes:
        share_B: what each has of itself, 0 to 1; the rest comes from its other.
        other_B: which image that is; by chance the same one.
    """

    share_B: Tensor
    other_B: Tensor

    @staticmethod
    def suits(x: Tensor) -> bool:
        """Whether records are images that can be mixed: real numbers, (B, C, H, W).

        What a value of another record means is not known: between two tokens or categories lies nothing.
        """
        return x.is_floating_point() and x.dim() == 4

    @staticmethod
    def drawn(x: Tensor) -> Mixture | None:
        """One from torch's global generator; None for records that it does not suit."""
        if not Mixture.suits(x):
            return None
        # On the CPU, so that a seed draws the same for every device.
        share_B, other_B = torch.rand(len(x)), torch.randperm(len(x))
        return Mixture(share_B.to(x.device), other_B.to(x.device))

    def images(self, x: Tensor) -> Tensor:
        """The mixed images, of the shape and dtype of `x`."""
        share = self.share_B.to(x.dtype).view(-1, 1, 1, 1)
        return share * x + (1 - share) * x[self.other_B]

    def cross_entropy(self, logits_NK: Tensor, y: Tensor) -> Tensor:
        """Mean cross entropy with the labels mixed as the images are.

        Args:
            logits_NK: outputs for all labels of the first image, then of the second and so on.
            y: the labels, (B,), or of pixels (B, H, W).
        """
        share_N = self.share_B.repeat_interleave(y[0].numel())
        own = F.cross_entropy(logits_NK, y.flatten(), reduction="none")
        other = F.cross_entropy(logits_NK, y[self.other_B].flatten(), reduction="none")
        return (share_N * own + (1 - share_N) * other).mean()


def distilled(
    cross_entropy: Tensor, logits_BK: Tensor, wanted_BK: Tensor, *, share: float, temperature: float
) -> Tensor:
    """``(1 - share) * CE + share * T^2 * KL(teacher, student)`` (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        cross_entropy: of the student's outputs and the labels.
        logits_BK: the student's outputs.
        wanted_BK: the teacher's outputs.
        share: of the teacher, 0 to 1.
        temperature: T, by which both outputs are divided before they are compared.

    Raises:
        TrainingError: the teacher's outputs have another shape.
    """
    if wanted_BK.shape != logits_BK.shape:
        raise TrainingError(
            f"the teacher's outputs are {tuple(wanted_BK.shape)}, the student's {tuple(logits_BK.shape)}",
            hint="both need the same classes",
        )
    soft_loss = F.kl_div(
        F.log_softmax(logits_BK / temperature, 1),
        F.log_softmax(wanted_BK.float() / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    # T^2 keeps the gradients of the two terms at the same scale whatever T is.
    return (1 - share) * cross_entropy + share * temperature**2 * soft_loss
