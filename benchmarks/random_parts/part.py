"""What a part is, and the ways in which any part may end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward.case import Net

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu,
    lambda x: F.silu(x, inplace=True),
    F.gelu,
    lambda x: x.tanh(),
    lambda x: x,
)


class Part(NamedTuple):
    """A module with what it yields: the number of channels, and of pixels of a side or of tokens."""

    module: nn.Module
    channels: int
    size: int


# (channels, size, width, way) -> part; width and way are its two random numbers.
Recipe = Callable[[int, int, int, int], Part]


def made(forward: Callable[[Any, Tensor], Any], channels: int, size: int, **layers: Any) -> Part:
    """A part from its layers and a function of (part, x)."""
    return Part(Net(forward, layers), channels, size)


def divisor(number: int, wish: int) -> int:
    """The greatest divisor of a number that is no more than a wish."""
    return next(d for d in range(max(1, min(wish, number)), 0, -1) if number % d == 0)
