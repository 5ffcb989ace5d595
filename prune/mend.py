"""Mending: what a pruned network gets back before any fine-tuning, from images without their labels.

Two ways: batch norm is measured anew (``prune.recalibrate``), or the weights that remain are fitted to what
the whole network made (``prune.reconstruct``). Labels of the search split decide between them, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from graph.channels import Axes, Keep
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from prune.recalibrate import recalibrated
from prune.reconstruct import calibration, reconstructed
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
