"""Importance: a score for each channel from all the weight slices that go with it.

Scores are kept per class of coupled labels, so a residual channel is judged by every layer that writes or
reads it, not by the one layer where it happens to start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graph.channels import Axes
from graph.labels import Field
from graph.program import ProgramModule
from models_zoo.data import DataSet
from models_zoo.text import LENGTH
from prune.contribution import contribution
from prune.placement import CPU
from prune.targets import labelled

Criterion = Literal[
    "magnitude", "bn-scale", "taylor", "magnitude-taylor", "contribution", "magnitude-contribution"
]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
FROM_DATA: tuple[Criterion, ...] = CRITERIA[2:]  # they look at records
Scores = NDArray[np.float64]
_TOKENS = 2048  # of text at once
_IMAGES, _WINDOWS = 512, 32  # records that gradients are taken of
_FLOOR = 1e-12  # what no gradient reaches is ranked by the other scores
_PIECE = 1 << 16  # elements of a weight that are squared at once: 768 KiB of squares


def _by_class(values: Tensor, field: Field, classes: int) -> Scores:
    """Sum the elements of a tensor by the class of their slice along one dimension."""
    free = [d for d, size in enumerate(field.labels.shape) if size == 1 < values.shape[d]]
    sums = values.sum(free, keepdim=True, dtype=torch.float64) if free else values.double()
    labels = np.broadcast_to(field.labels, sums.shape)
    weights = sums.cpu().numpy().ravel()
    return np.bincount(labels.ravel(), weights=weights, minlength=classes).astype(np.float64)


def _weight_fields(axes: Axes) -> Iterable[tuple[str, Field]]:
    """Every labelled dimension of every trainable tensor."""
    for name, fields in axes.weights.items():
        if name in axes.program.trainable:
            for field in fields.values():
                yield name, field


def magnitude(axes: Axes) -> Scores:
    """Squared L2 norm of all weight slices that go with a channel (Li et al. 2017, arXiv:1608.08710).

    Vectors (biases, normalisation scales) are left out: they live on another scale than the weights.
    """
    scores = np.zeros(axes.classes)
    for name, fields in axes.weights.items():
        weight = axes.program.tensors[name].detach()
        if name in axes.program.trainable and weight.dim() > 1 and fields:
            for field, sums in zip(fields.values(), _squared_norms(weight, fields.values()), strict=True):
                labels = np.broadcast_to(field.labels, sums.shape)
                scores += np.bincount(labels.ravel(), weights=sums.ravel(), minlength=axes.classes)
    return axes.spread(scores)


def _squared_norms(weight: Tensor, fields: Iterable[Field]) -> list[Scores]:
    """For each field the sums of squares over all dimensions that its labels do not depend on.

    The weight is read once, in pieces that stay in the processor's cache: rounded to float32 when squared,
    summed in float64.
    """
    free = [[d for d, s in enumerate(f.labels.shape) if s == 1 < weight.shape[d]] for f in fields]
    shapes = [[1 if d in dims else s for d, s in enumerate(weight.shape)] for dims in free]
    sums = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    rows = max(1, _PIECE * len(weight) // max(1, weight.numel()))
    for start in range(0, len(weight), rows):
        squares = weight[start : start + rows].float().square().double()
        for dims, total in zip(free, sums, strict=True):
            part = squares.sum(dims, keepdim=True) if dims else squares
            if 0 in dims:
                total += part
            else:
                total[start : start + rows] = part
    return [s.numpy() for s in sums]


def bn_scale(axes: Axes) -> Scores:
    """Absolute scale of the batch norms on a channel (Liu et al. 2017, arXiv:1708.06519).

    Channels without a batch norm fall back to their magnitude, scaled to the mean of the others.
    """
    node_of = {n.name: n for n in axes.program.nodes}
    scores, seen = np.zeros(axes.classes), np.zeros(axes.classes)
    for node in axes.program.nodes:
        if node.base == "batch_norm" and hasattr(node.args[1], "name"):
            name = str(node_of[node.args[1].name].args[0])
            field = axes.weights.get(name, {}).get(0)
            if field is not None:
                scores += _by_class(axes.program.tensors[name].detach().float().abs(), field, axes.classes)
                seen += np.bincount(field.labels.ravel(), minlength=axes.classes)
    scores = np.divide(scores, seen, out=np.zeros_like(scores), where=seen > 0)
    other = magnitude(axes)
    return _filled(scores, seen > 0, np.sqrt(other)) if (seen[1:] > 0).any() else other


def _filled(scores: Scores, seen: NDArray[np.bool_], other: Scores) -> Scores:
    """Scores, and of what has none others, scaled to the mean of those."""
    scale = scores[1:][seen[1:]].mean() / max(other[1:].mean(), 1e-12)
    filled: Scores = np.where(seen, scores, other * scale)
    return filled


def taylor(axes: Axes, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device = CPU) -> Scores:
    """First-order change of the loss when a channel goes (Molchanov et al. 2019, arXiv:1906.10771).

    score = sum over the slices of (sum over the slice of weight x gradient) squared, averaged over batches.
    One gradient serves all channels. The network is run in eval mode.

    Args:
        axes: of the whole program.
        batches: normalised inputs (B, ...) and labels (B,); of text tokens and those after them, (B, L); of
            masks the class of each pixel, (B, H, W).
        device: takes the gradients.

    Raises:
        DataError: the outputs do not fit the labels.
    """
    module = ProgramModule(axes.program).to(device)
    parameters: Mapping[str, torch.nn.Parameter] = dict(module.named_parameters())
    scores = np.zeros(axes.classes)
    for inputs, targets in batches:
        module.zero_grad()
        torch.autograd.backward(F.cross_entropy(*labelled(module, inputs.to(device), targets.to(device))))
        for name, field in _weight_fields(axes):
            parameter = parameters[name]
            if parameter.grad is not None:
                product = (parameter.detach() * parameter.grad).float()
                scores += _by_class(product, field, axes.classes) ** 2
    return axes.spread(scores)


def by_contribution(axes: Axes, batches: Iterable[Tensor], device: torch.device = CPU) -> Scores:
    """What the layers that read a channel would miss; of what none reads its magnitude, scaled to the others.

    See ``prune.contribution``.

    Args:
        axes: of the whole program.
        batches: normalised inputs (B, ...).
        device: computes.
    """
    scores, seen = contribution(axes, batches, device)
    read, other = axes.spread(seen.astype(np.float64)) > 0, magnitude(axes)
    return _filled(axes.spread(scores), read, other) if read[1:].any() else other


def sampled(data: DataSet, records: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the train split, drawn with a fixed seed.

    Args:
        data: images, or text.
        records: images, 128 at once; or windows of ``LENGTH`` tokens, of others as many as hold the same
            number of tokens, 2,048 at once, since a program may hold all states of a sequence in memory.
    """
    at_once = 128
    if data.is_text:
        length = data.input_shape[0]
        records, at_once = max(1, records * LENGTH // length), max(1, _TOKENS // length)
    yield from data.train.batches(at_once, shuffle=True, limit=min(records, len(data.train)))


def score(
    axes: Axes,
    criterion: Criterion,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    device: torch.device = CPU,
) -> Scores:
    """Importance of each class by the named criterion; ``batches`` are needed for those of ``FROM_DATA``."""
    if criterion == "magnitude":
        return magnitude(axes)
    if criterion == "bn-scale":
        return bn_scale(axes)
    if criterion.endswith("taylor"):
        found = taylor(axes, batches, device)
    else:
        found = by_contribution(axes, (x for x, _ in batches), device)
    return balanced(axes, magnitude(axes), found) if criterion.startswith("magnitude-") else found


def balanced(axes: Axes, *scores: Scores) -> Scores:
    """Geometric mean of several scores, each divided by the mean of its group.

    Weights tell what a channel carries, gradients what the loss would miss, activations what the next layers
    would; a channel that one of them calls dead goes.
    """
    parts = [np.maximum(normalised(axes, s), _FLOOR) for s in scores]
    result: Scores = np.prod(parts, axis=0) ** (1 / len(parts))
    return result


def scores_of(axes: Axes, criterion: Criterion, data: DataSet | None, device: torch.device = CPU) -> Scores:
    """Importance of each class by a criterion, by a few records of the train split where it needs some.

    Args:
        axes: of the whole program.
        criterion: one of ``CRITERIA``; without data none of ``FROM_DATA``.
        data: labelled records.
        device: computes.
    """
    if criterion not in FROM_DATA or data is None:
        return score(axes, criterion)
    return score(axes, criterion, sampled(data, _WINDOWS if data.is_text else _IMAGES), device)


def normalised(axes: Axes, scores: Scores) -> Scores:
    """Scores divided by the mean of their group, so that they can be compared across the network."""
    result = np.zeros_like(scores)
    for group in axes.groups:
        units = list(group.units)
        result[units] = scores[units] / max(float(scores[units].mean()), 1e-30)
    return result
