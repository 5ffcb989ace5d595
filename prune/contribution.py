"""Contribution: what the layers that read a channel would miss.

A layer makes the sum of its input channels, each times the weights that read it. What is constant of a
channel's part the batch norm or bias behind the layer can take up; what varies is gone when the channel goes.
Weights alone do not tell that: a channel may be read with large weights and hardly ever light up. Neither
labels nor gradients are used (weights times activations: Sun et al. 2023, arXiv:2306.11695; channels judged
by the next layer: Luo et al. 2017, arXiv:1707.06342).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.channels import Axes
from graph.labels import static_values
from graph.program import Node, Ref, execute
from prune.placement import CPU, ordered_for, placed

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PRODUCTS = ("mm", "matmul")  # value times weights (I, O)


@dataclass
class _Reading:
    """A layer that reads labelled channels, and what it has met so far.

    Attributes:
        dim: of the channels in what it reads.
        labels: the classes of the channels, (C,).
        norms: squared norm of the weights that read each of them, (C,).
        count: places looked at.
        mean: of the values there, (C,).
        squares: sums of the squared distances to it, (C,).
    """

    dim: int
    labels: NDArray[np.int64]
    norms: Tensor
    count: int
    mean: Tensor
    squares: Tensor

    def add(self, x: Tensor) -> None:
        """Look at the places of one more batch (Chan et al. 1979)."""
        x_NC = x.movedim(self.dim, -1).reshape(-1, x.shape[self.dim])
        more = len(x_NC)
        variance, mean = torch.var_mean(x_NC.float(), dim=0, correction=0)
        gap = mean.double() - self.mean
        self.squares += more * variance.double() + gap.square() * (self.count * more / (self.count + more))
        self.mean += gap * (more / (self.count + more))
        self.count += more


def contribution(
    axes: Axes, batches: Iterable[Tensor], device: torch.device = CPU
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Share of each channel in what varies of the results of the layers that read it.

    score = sum over these layers of |W_c|^2 Var(x_c), divided by the sum of the same over all channels of
    the layer, with W_c the weights that read channel c and x_c its values at all records and places. The
    network is run in eval mode. Depthwise layers pass a channel on and read none.

    Args:
        axes: of the whole program.
        batches: normalised inputs (B, ...).
        device: computes.

    Returns:
        The scores of the classes, and which of them any layer reads; derived classes are not spread.
    """
    program = placed(axes.program, device)
    constant, ordered = static_values(program), ordered_for(program)
    readings: dict[str, _Reading | None] = {}
    with torch.no_grad():
        for inputs in batches:
            env: dict[str, Any] = {}
            for node in execute(program, program.tensors, [ordered(inputs.to(device))], env=env):
                if (read := _read(node, constant)) is not None:
                    if node.name not in readings:
                        readings[node.name] = _reading(axes, node, read, env)
                    if (reading := readings[node.name]) is not None:
                        reading.add(env[read[0]])
                for name in program.last_uses.get(node.name, ()):
                    del env[name]
    scores, seen = np.zeros(axes.classes), np.zeros(axes.classes, dtype=bool)
    for reading in filter(None, readings.values()):
        parts = (reading.norms * reading.squares / reading.count).cpu().numpy()
        shares = parts / max(float(parts.sum()), 1e-30)
        scores += np.bincount(reading.labels, weights=shares, minlength=axes.classes)
        seen[reading.labels] = True
    return scores, seen


def _read(node: Node, constant: Set[str]) -> tuple[str, str] | None:
    """The value and the weights of a layer that mixes channels; weights may be computed from tensors."""
    if node.base not in (*_CONVOLUTIONS, *_TRANSPOSED, *_PRODUCTS, "linear", "addmm"):
        return None
    value, weight = node.args[1:3] if node.base == "addmm" else node.args[:2]
    if not isinstance(value, Ref) or not isinstance(weight, Ref) or weight.name not in constant:
        return None
    return value.name, weight.name


def _reading(axes: Axes, node: Node, read: tuple[str, str], env: Mapping[str, Any]) -> _Reading | None:
    """That of a layer before it met anything; None where it reads no labelled channels, or passes them on."""
    x, weight = (env[name] for name in read)
    dim = x.dim() - (weight.dim() - 1 if node.base in (*_CONVOLUTIONS, *_TRANSPOSED) else 1)
    field = axes.fields.get(read[0], {}).get(dim)
    norms_C = _norms(node, weight.float().square())
    if field is None or norms_C is None or field.labels.size != x.shape[dim]:
        return None
    zeros = torch.zeros_like(norms_C, dtype=torch.float64)
    return _Reading(dim, field.labels.ravel(), norms_C.double(), 0, zeros, zeros.clone())


def _norms(node: Node, squares: Tensor) -> Tensor | None:
    """Squared norm of the weights that read each channel; None of a depthwise layer."""
    if node.base == "linear":
        return squares.sum(0) if squares.dim() == 2 else None  # (O, I)
    if node.base in (*_PRODUCTS, "addmm"):
        return squares.sum(1) if squares.dim() == 2 else None  # (I, O)
    groups = int(node.arg(6, "groups", 1))
    if node.base in _TRANSPOSED:  # (I, O / groups, ...)
        return None if 1 < groups == len(squares) else squares.flatten(1).sum(1)
    each = squares.shape[1]  # (O, I / groups, ...)
    if groups > 1 and each == 1:
        return None
    return squares.reshape(groups, -1, each, squares[0, 0].numel()).sum((1, 3)).flatten()
