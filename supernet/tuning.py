"""Tuning: one subnetwork is trained alone; its teacher is the network that the supernet was made of.

A subnetwork already makes what the trained supernet makes, and learns little more from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graph.errors import ResumeError
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from prune.evaluation import Evaluation, evaluate
from prune.identity import digest
from prune.journal import Journal
from prune.tune import EpochResult, fit
from prune.tune_config import TuneConfig
from prune.tune_state import Checkpoints
from supernet.net import Supernet

TUNING = ".tuning"  # folder of unfinished trainings, in that of the subnetworks


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

    def to_json(self) -> dict[str, Any]:
        """As JSON data, without the program."""
        found = {"before": self.before.to_json(), "after": self.after.to_json()}
        return {**found, "best_epoch": self.best_epoch}


def tune_subnet(
    net: Supernet,
    program: Program,
    data: DataSet,
    config: TuneConfig,
    journal: Journal,
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
        journal: keeps how far it came.
        on_epoch: called after each epoch.
        on_step: called after each step.
        note: is told what the user should know.

    Raises:
        TrainingError: the loss is no longer a finite number.
        ResumeError: the journal is of another subnetwork.
        OutputError: a checkpoint cannot be written.
    """
    module = ProgramModule(program)
    before = evaluate(module, data.test)
    identity = digest(program.tensors.values())
    if journal.recall("subnetwork", lambda: identity) != identity:
        raise ResumeError("the unfinished training is that of another subnetwork", hint="--force starts over")
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
