"""Tuning: one subnetwork is trained alone; its teacher is the network that the supernet was made of.

A subnetwork already makes what the trained supernet makes, and learns little more from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from prune.identity import digest, must_be_the_same
from prune.tune import EpochResult, Evaluation, TuneConfig, evaluate, fit
from prune.tune_state import Checkpoints
from supernet.net import Supernet
from supernet.training import kept

TUNING = ".tuning"  # folder of unfinished trainings of subnetworks, in that of the supernet


@dataclass(frozen=True)
class Tuned:
    """A subnetwork after its training.

    Attributes:
        program: with the new weights.
        before: on the test split.
        after: likewise.
        best_epoch: whose weights these are; 0 where no epoch helped.
    """

    program: Program
    before: Evaluation
    after: Evaluation
    best_epoch: int


def tune_subnet(
    net: Supernet,
    program: Program,
    data: DataSet,
    config: TuneConfig,
    folder: Path | None,
    *,
    on_epoch: Callable[[EpochResult], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Train a subnetwork; a training that was cut short goes on where it was.

    Args:
        net: the supernet; the network as it came teaches, else the whole as it is.
        program: a subnetwork of it; left as it was.
        data: trained on ``train``, judged on ``search``, told of on ``test``.
        config: how.
        folder: keeps how far it came; the caller removes it once the result is safe. None keeps nothing.
        on_epoch: called after each epoch.
        on_step: called after each step.
        note: is told what the user should know.

    Raises:
        TrainingError: the loss is no longer a finite number.
        ResumeError: an unfinished training of another subnetwork, or on other data, is in the folder.
        OutputError: another process is at it.
    """
    module = ProgramModule(program)
    before = evaluate(module, data.test)
    with kept(folder, net, data) as journal:
        must_be_the_same(journal, "subnet", "the subnetwork", digest(program.tensors.values()))
        found = fit(
            module,
            data,
            config,
            teacher=net.teacher,
            on_epoch=on_epoch,
            on_step=on_step,
            note=note,
            checkpoints=Checkpoints(journal, note),
        )
    return Tuned(module.updated(), before, evaluate(module, data.test), found.best_epoch)
