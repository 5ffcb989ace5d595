"""Mending: what a pruned network gets back before any fine-tuning, from images without their labels.

Two ways: batch norm is measured anew (``prune.recalibrate``), or the weights that remain are fitted to what
the whole network made (``prune.reconstruct``). Labels of the search split decide between them, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from graph.channels import Axes, Keep
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from prune.plan import Plan
from prune.recalibrate import recalibrated
from prune.reconstruct import Reference, calibration, reconstructed
from prune.slicing import Slicer
from prune.tune import evaluate

_IMAGES = 2048  # of the training split that batch norm is measured on

Way = Literal["recalibrated", "reconstructed"]


@dataclass(frozen=True)
class Mended:
    """A mended program.

    Attributes:
        program: with the tensors that are better on the search split.
        way: how they were found.
    """

    program: Program
    way: Way


def finalist(axes: Axes, plans: Sequence[Plan], data: DataSet) -> Plan:
    """The plan that is best once its weights are fitted, by its loss on the whole search split.

    Plans are searched for by a cheaper score; whose weights can be fitted well, it does not tell.

    Args:
        axes: of the whole program.
        plans: at least one, such as the best of each method; of equal ones the first is taken.
        data: as ``mended``'s.
    """
    reference, cut = Reference(axes, calibration(axes.program, data.train)), Slicer(axes)
    losses: dict[bytes, float] = {}
    best, least = plans[0], math.inf
    for plan in plans:
        keep = plan.keep_mask(axes)
        if keep.tobytes() not in losses:
            fitted = reference.fitted(cut(keep), cut.kept(keep))
            losses[keep.tobytes()] = evaluate(ProgramModule(fitted), data.search).loss
        if losses[keep.tobytes()] < least:
            best, least = plan, losses[keep.tobytes()]
    return best


def mended(axes: Axes, keep: Keep, program: Program, data: DataSet, *, reconstruct: bool = True) -> Mended:
    """The smaller program as good as it gets without training.

    Args:
        axes: of the whole program.
        keep: for each class of the axes whether it stays.
        program: the smaller one, as surgery left it.
        data: its training images are fitted to, its search split decides.
        reconstruct: whether weights may be fitted; those of text never are.
    """
    limit = min(_IMAGES, len(data.train))
    images = (x for x, _ in data.train.batches(128, shuffle=True, limit=limit))
    usual = replace(program, tensors=recalibrated(program, program.tensors, images))
    if not reconstruct or data.is_text:
        return Mended(usual, "recalibrated")
    fitted = reconstructed(axes, keep, program, calibration(axes.program, data.train))
    losses = [evaluate(ProgramModule(p), data.search).loss for p in (usual, fitted)]
    # A loss that is no number never wins.
    return Mended(fitted, "reconstructed") if losses[1] < losses[0] else Mended(usual, "recalibrated")
