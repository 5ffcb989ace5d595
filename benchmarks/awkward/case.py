"""What an awkward module is, and the parts that most of them need."""

# ruff: noqa: D102 - the class says what its forward is about

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Example = tuple[Tensor, ...]


@dataclass(frozen=True)
class Awkward:
    """A small network with something in it that pruners get wrong.

    Attributes:
        name: as on the command line.
        caption: what is awkward; with the number in Torch-Pruning's issue tracker where it recurs there.
        make: the module.
        example: its inputs, batch of 2.
        must_prune: whether a pruner that understands the network can halve its MACs.
        note: why not, or what is to be minded.
    """

    name: str
    caption: str
    make: Callable[[], nn.Module]
    example: Callable[[], Example]
    must_prune: bool = True
    note: str = ""

    def build(self, seed: int = 0) -> tuple[nn.Module, Example]:
        """The module in eval mode, with weights and statistics that hide no mistake, and its inputs."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, example = self.make().eval(), self.example()
            scramble(module)
        return module, example


def scramble(module: nn.Module) -> None:
    """Vectors get values that differ: no zeros, no ones, no two alike."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)


class Net(nn.Module):
    """Layers, and a forward function of (net, x)."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], layers: Mapping[str, Any]) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def net(forward: Callable[[Any, Tensor], Any], **layers: Any) -> Net:
    """A network of one input."""
    return Net(forward, layers)


def image() -> Example:
    """3 x 8 x 8."""
    return (torch.randn(2, 3, 8, 8),)


def tokens() -> Example:
    """6 tokens of 12 numbers."""
    return (torch.randn(2, 6, 12),)


def words() -> Example:
    """6 integers below 20."""
    return (torch.randint(0, 20, (2, 6)),)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size of the image."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def parameter(*shape: int) -> nn.Parameter:
    """A bare parameter."""
    return nn.Parameter(torch.randn(shape) * 0.3 + 0.5)


def pool(x: Tensor) -> Tensor:
    """Mean over the image."""
    return x.mean((2, 3))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention."""
    return F.scaled_dot_product_attention(q, k, v)


def heads(x: Tensor, count: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    b, t, c = x.shape
    return x.view(b, t, count, c // count).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D)."""
    return x.transpose(1, 2).flatten(2)


def index(entries: list[Awkward]) -> dict[str, Awkward]:
    """Entries by name."""
    found = {e.name: e for e in entries}
    assert len(found) == len(entries), "two awkward modules share a name"
    return found
