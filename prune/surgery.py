"""Surgery: a plan becomes a smaller program, each tensor gathered as the replay of the rules says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.channels import Axes
from graph.errors import PlanError
from graph.labels import Field, Labels
from graph.program import TENSOR, Program
from graph.replay import replay
from prune.plan import Plan


def prune_program(axes: Axes, plan: Plan) -> Program:
    """Remove the channels that a plan does not keep.

    Args:
        axes: of the whole program, which is left as it was.
        plan: made for these axes.

    Raises:
        PlanError: the plan belongs to another program, or keeps channels that leave uneven rows.
    """
    return cut(axes, plan.keep_mask(axes))


def cut(axes: Axes, keep: NDArray[np.bool_]) -> Program:
    """Remove the classes that ``keep`` (shape: classes) leaves out.

    Raises:
        PlanError: the channels that remain do not fit each other.
    """
    run, nodes = replay(axes, keep)
    tensors = dict(axes.program.tensors)
    for node in axes.program.nodes:
        if node.op == TENSOR and node.name in run.fields:
            name = str(node.args[0])
            tensors[name] = gather(tensors[name], axes.weights[name], run.fields[node.name]).detach()
    return replace(axes.program, nodes=nodes, tensors=tensors)


def gather(tensor: Tensor, whole: Mapping[int, Field], kept: Mapping[int, Field]) -> Tensor:
    """Slice a tensor, or reorder it: each kept label takes the slice that carried it; gradients pass.

    Args:
        tensor: of the whole program.
        whole: its labels, by dimension.
        kept: those of the result, in its order.
    """
    rows: dict[int, Labels] = {}
    # Dimensions with one row first; the others are looked up row by row of those.
    for dim in sorted(kept, key=lambda d: kept[d].labels.size):
        old, new = whole[dim], kept[dim]
        if old.labels.size == old.labels.shape[dim]:
            index = positions(old.labels.ravel(), new.rows[0])
            if not np.array_equal(index, np.arange(tensor.shape[dim])):  # else there is nothing to copy
                tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
            rows[dim] = index
        else:
            tensor = _gather_rows(tensor, dim, old, new, rows)
    return tensor


def _gather_rows(tensor: Tensor, dim: int, old: Field, new: Field, rows: Mapping[int, Labels]) -> Tensor:
    """Slice one dimension where the labels depend on another one (weights of grouped convolutions)."""
    (other,) = (d for d in range(old.labels.ndim) if d != dim and old.labels.shape[d] > 1)
    before, after = old.rows, new.rows
    picked = rows[other] if other in rows else np.arange(len(before))
    index = np.stack([positions(before[p], row) for p, row in zip(picked, after, strict=True)])
    shape = [1] * tensor.dim()
    shape[other], shape[dim] = index.shape
    target = list(tensor.shape)
    target[dim] = index.shape[1]
    if other > dim:
        index = index.T
    places = torch.from_numpy(index.copy()).to(tensor.device)
    return tensor.gather(dim, places.reshape(shape).expand(target))


def positions(labels: Labels, wanted: Labels) -> NDArray[np.int64]:
    """Where each wanted label stands among the labels; the k-th occurrence is the k-th occurrence.

    Raises:
        PlanError: a wanted label is not there.
    """
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    wanted_order = np.argsort(wanted, kind="stable")
    sorted_wanted = wanted[wanted_order]
    first = np.searchsorted(sorted_wanted, sorted_wanted, side="left")
    occurrence = np.arange(len(wanted)) - first
    place = np.searchsorted(ordered, sorted_wanted, side="left") + occurrence
    if len(wanted) and (place.max() >= len(ordered) or (ordered[place] != sorted_wanted).any()):
        raise PlanError("a channel is wanted where the whole program has none")
    result = np.empty(len(wanted), dtype=np.int64)
    result[wanted_order] = order[place]
    return result
