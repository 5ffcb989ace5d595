"""Mending: what a pruned network gets back before any fine-tuning, from images without their labels.

Two ways: batch norm is measured anew (``prune.recalibrate``), or the weights that remain are fitted to what
the whole network made (``prune.reconstruct``). Labels of the search split decide between them, nothing else.
Fine-tuning begins from the former: fitted weights are better before it and no better after it
(docs/results.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import torch

from graph.channels import Axes, Keep
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from prune.evaluation import evaluate
from prune.identity import digest
from prune.journal import Journal
from prune.placement import CPU, placed, placed_axes
from prune.plan import Plan
from prune.recalibrate import recalibrated
from prune.reconstruct import Reference, calibration
from prune.slicing import Slicer

_IMAGES = 2048  # of the training split that batch norm is measured on

Way = Literal["recalibrated", "reconstructed"]


@dataclass(frozen=True)
class Mended:
    """A mended program.

    Attributes:
        program: with the tensors that are better on the search split.
        way: how they were found.
        usual: recalibrated, with the weights that the whole network had.
    """

    program: Program
    way: Way
    usual: Program


class Mender:
    """Mends programs that are cut out of one; what the whole makes of the images is computed once for all.

    Args:
        axes: of the whole program.
        data: its training images are fitted to, its search split decides.
        reconstruct: whether weights may be fitted; those of text never are.
        device: computes; programs that come and go are on the CPU.
    """

    def __init__(
        self, axes: Axes, data: DataSet, *, reconstruct: bool = True, device: torch.device = CPU
    ) -> None:
        self.axes, self.data, self.device = axes, data, device
        self.fits = reconstruct and not data.is_text

    @cached_property
    def _reference(self) -> Reference:
        images = calibration(self.axes.program, self.data.train).to(self.device)
        return Reference(placed_axes(self.axes, self.device), images)

    @cached_property
    def _slicer(self) -> Slicer:
        return Slicer(self.axes)

    def _loss(self, program: Program) -> float:
        return evaluate(ProgramModule(program).to(self.device), self.data.search).loss

    def finalist(
        self,
        plans: Sequence[Plan],
        on_step: Callable[[int, int], None] = lambda *_: None,
        journal: Journal | None = None,
    ) -> tuple[Plan, float]:
        """The plan that is best once it is mended, and its loss on the whole search split.

        Plans are searched for by a cheaper score: on fewer records, and it does not tell whose weights can be
        fitted well.

        Args:
            plans: at least one, such as the best of each method; of equal ones the first is taken.
            on_step: told after each plan how many of them are done, and of how many.
            journal: losses found so far, also before the run was cut short, and where new ones go.
        """
        losses = journal or Journal()
        best, least = plans[0], math.inf
        for done, plan in enumerate(plans, start=1):
            name = f"mended {digest([plan.keep_mask(self.axes).tobytes()])[:32]}"
            loss = losses.recall(name, partial(self._mended_loss, plan))
            if loss < least:
                best, least = plan, loss
            on_step(done, len(plans))
        return best, least

    def _mended_loss(self, plan: Plan) -> float:
        keep = plan.keep_mask(self.axes)
        found, loss = self._better(keep, self._slicer(keep))
        return self._loss(found.program) if loss is None else loss

    def mended(self, keep: Keep, program: Program) -> Mended:
        """A smaller program as good as it gets without training.

        Args:
            keep: for each class of the axes whether it stays.
            program: the smaller one, as surgery left it.
        """
        found, _ = self._better(keep, program)
        return replace(found, program=placed(found.program, CPU), usual=placed(found.usual, CPU))

    def _better(self, keep: Keep, program: Program) -> tuple[Mended, float | None]:
        """A smaller program mended the better way, still on the device.

        And its loss on the search split, where that had to decide.
        """
        program = placed(program, self.device)
        train = self.data.train
        images = (
            x.to(self.device) for x, _ in train.batches(128, shuffle=True, limit=min(_IMAGES, len(train)))
        )
        usual = replace(program, tensors=recalibrated(program, program.tensors, images))
        if not self.fits:
            return Mended(usual, "recalibrated", usual), None
        fitted = self._reference.fitted(program, self._slicer.kept(keep))
        loss, usual_loss = self._loss(fitted), self._loss(usual)
        # A loss that is no number never wins.
        if loss < (usual_loss if math.isfinite(usual_loss) else math.inf):
            return Mended(fitted, "reconstructed", usual), loss
        return Mended(usual, "recalibrated", usual), usual_loss
