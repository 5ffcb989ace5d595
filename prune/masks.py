"""Masks: the whole program, run as if the removed channels were not there.

A removed channel is masked where it is consumed, not where it is made: what a batch norm or a bias makes of
a zero is no longer zero. A sum takes a zero in its place, a maximum minus infinity; means and normalisations
are computed over the channels that remain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.channels import Axes
from graph.groups import Site
from graph.program import Node, Override


class Masks:
    """The masks of one choice of channels, or of several, each for copies of the records of its own.

    Args:
        axes: of the whole program.
        keeps: for each class of the axes whether it stays; of several choices the copies of a record follow
            each other in this order.
        rows: of several choices, how many rows of a value's first dimension belong to one record.

    Attributes:
        overrides: how to compute the operators that consume removed channels, by node.
    """

    def __init__(self, axes: Axes, *keeps: NDArray[np.bool_], rows: Mapping[str, int] | None = None) -> None:
        keeps = tuple(axes.closed(keep) for keep in keeps)
        place = next((t.device for t in axes.program.tensors.values()), None)
        sites: dict[str, list[tuple[Site, Tensor]]] = {}
        for site in axes.sites:
            labels = axes.fields[site.value][site.dim].labels
            masks = [keep[labels] for keep in keeps]
            if rows is not None:
                times = [rows[site.value] // len(labels)] + [1] * (labels.ndim - 1)
                masks = [np.tile(mask, times) for mask in masks]
            mask = np.concatenate(masks)
            if not mask.all():
                sites.setdefault(site.node, []).append((site, torch.from_numpy(mask).to(place)))
        self.overrides: Mapping[str, Override] = {name: _override(found) for name, found in sites.items()}


def _override(sites: list[tuple[Site, Tensor]]) -> Override:
    filled = [(s, m) for s, m in sites if s.fills is not None]
    counted = [(s, m) for s, m in sites if s.fills is None]

    def run(function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for site, mask in filled:
            assert site.fills is not None
            args = _replaced(args, site.operand, mask, site.fills)
        if not counted:
            return function(*args, **kwargs)
        mask = counted[0][1]
        for _, more in counted[1:]:
            mask = mask & more
        return _STATISTICS[node.base](args, kwargs, _fitting(mask, args[0]), node)

    return run


def _replaced(args: tuple[Any, ...], path: tuple[int, ...], mask: Tensor, fills: float) -> tuple[Any, ...]:
    """The arguments with one operand's removed channels filled."""
    position, *rest = path
    value = args[position]
    if rest:
        value = list(value)
        value[rest[0]] = _filled(value[rest[0]], mask, fills)
    else:
        value = _filled(value, mask, fills)
    return (*args[:position], value, *args[position + 1 :])


def _fitting(mask: Tensor, value: Tensor) -> Tensor:
    """The mask for a batch of more than one, where the batch is merged with a labelled dimension."""
    times = [v // m if m > 1 else 1 for m, v in zip(mask.shape, value.shape, strict=True)]
    return mask.to(value.device).repeat(times)


def _filled(value: Tensor, mask: Tensor, fills: float) -> Tensor:
    mask = _fitting(mask, value)
    if not value.is_floating_point() and not value.is_complex():
        if math.isinf(fills):
            limits = torch.iinfo(value.dtype)
            fills = limits.max if fills > 0 else limits.min
        return torch.where(mask, value, torch.full_like(value, int(fills)))
    return torch.where(mask, value, fills)


# Statistics over the channels that remain


def _moments(x: Tensor, mask: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """How many elements remain along the dimensions, their mean, and the sum of their squared deviations."""
    weight = mask.to(x.dtype).expand(x.shape)
    count = weight.sum(dims, keepdim=True)
    mean = torch.where(mask, x, 0.0).sum(dims, keepdim=True) / count
    squares = torch.where(mask, (x - mean).square(), 0.0).sum(dims, keepdim=True)
    return count, mean, squares


def _dims(x: Tensor, given: Any) -> list[int]:
    if given is None or isinstance(given, bool) or given == []:
        return list(range(x.dim()))
    return [given] if isinstance(given, int) else list(given)


def _squeezed(value: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    if keepdim:
        return value
    gone = {d % value.dim() for d in dims}
    return value.reshape([s for d, s in enumerate(value.shape) if d not in gone])


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if position < len(args) else kwargs.get(name, default)


def _mean(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor, node: Node) -> Tensor:
    x: Tensor = args[0]
    dims = _dims(x, _given(args, kwargs, 1, "dim", None))
    _, mean, _ = _moments(x, mask, dims)
    return _squeezed(mean, dims, bool(_given(args, kwargs, 2, "keepdim", False)))


def _spread(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor, node: Node) -> Any:
    """var(x, unbiased), var(x, dims, unbiased, keepdim), var(x, dims, correction=, keepdim=), and std."""
    x: Tensor = args[0]
    given = _given(args, kwargs, 1, "dim", None)
    correction = kwargs.get("correction", 1)
    unbiased = kwargs.get("unbiased", args[1] if isinstance(given, bool) else _given(args, {}, 2, "", True))
    correction = 1 if correction is None else correction
    if unbiased is False:
        correction = 0
    dims = _dims(x, given)
    count, mean, squares = _moments(x, mask, dims)
    keepdim = bool(_given(args, kwargs, 3, "keepdim", False))
    result = squares / (count - correction)
    if node.base.startswith("std"):
        result = result.sqrt()
    result = _squeezed(result, dims, keepdim)
    return (result, _squeezed(mean, dims, keepdim)) if node.base.endswith("_mean") else result


def _layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor, node: Node) -> Tensor:
    x: Tensor = args[0]
    dims = list(range(x.dim() - len(args[1]), x.dim()))
    count, mean, squares = _moments(x, mask, dims)
    result = (x - mean) / (squares / count + float(_given(args, kwargs, 4, "eps", 1e-5))).sqrt()
    weight, bias = _given(args, kwargs, 2, "weight", None), _given(args, kwargs, 3, "bias", None)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _rms_norm(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor, node: Node) -> Tensor:
    x: Tensor = args[0]
    dims = list(range(x.dim() - len(args[1]), x.dim()))
    _, mean, _ = _moments(x.square(), mask, dims)
    eps, weight = _given(args, kwargs, 3, "eps", None), _given(args, kwargs, 2, "weight", None)
    result = x * (mean + (torch.finfo(x.dtype).eps if eps is None else float(eps))).rsqrt()
    return result if weight is None else result * weight


def _group_norm(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor, node: Node) -> Tensor:
    x, groups = args[0], int(args[1])
    rows = x.reshape(x.shape[0], groups, -1)
    wide = mask.expand(x.shape).reshape(rows.shape)
    count, mean, squares = _moments(rows, wide, [2])
    eps = float(_given(args, kwargs, 4, "eps", 1e-5))
    result = ((rows - mean) / (squares / count + eps).sqrt()).reshape(x.shape)
    shape = [1, -1] + [1] * (x.dim() - 2)
    weight, bias = _given(args, kwargs, 2, "weight", None), _given(args, kwargs, 3, "bias", None)
    result = result if weight is None else result * weight.reshape(shape)
    shifted: Tensor = result if bias is None else result + bias.reshape(shape)
    return shifted


def _batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor, node: Node) -> Tensor:
    x, weight, bias = args[:3]
    own = (0, 1) if node.base == "instance_norm" else (1,)
    count, mean, squares = _moments(x, mask, [d for d in range(x.dim()) if d not in own])
    result = (x - mean) / (squares / count + float(_given(args, kwargs, 7, "eps", 1e-5))).sqrt()
    shape = [1, -1] + [1] * (x.dim() - 2)
    result = result if weight is None else result * weight.reshape(shape)
    shifted: Tensor = result if bias is None else result + bias.reshape(shape)
    return shifted


_STATISTICS: dict[str, Callable[[tuple[Any, ...], dict[str, Any], Tensor, Node], Any]] = {
    "mean": _mean,
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), _spread),
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
}
