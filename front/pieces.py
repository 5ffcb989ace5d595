"""Pieces of the work: what a run does several times, done once and timed.

All of it is done on a plan of equal shares; how often a run does it follows from the options. What is written
goes to a temporary folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from torch import Tensor, nn

from front.request import Request
from graph.errors import TargetError
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet, Split
from prune.budget import Budget
from prune.config import CompressConfig
from prune.decision import compares_rankings
from prune.evaluation import evaluate
from prune.export import export_onnx
from prune.importance import score
from prune.mend import Mender
from prune.placement import on
from prune.plan import Plan, make_plan
from prune.preparation import SEARCH
from prune.student import reference_of, student_of
from prune.subject import Subject
from prune.surgery import prune_program
from prune.tune import fit
from prune.verify import verify
from rl.baselines import BASELINES
from rl.ranking import CONTEST
from rl.reward import Evaluator
from rl.search import FINALISTS, RERANKED
from rl.sensitivity import SHARES

_RECORDS = 512  # that an evaluation is timed on
_STEPS = 3  # of training that are timed; the first one warms up
_T = TypeVar("_T")


@dataclass(frozen=True)
class Piece:
    """Work that a run does several times.

    Attributes:
        name: in words.
        times: how often.
        seconds: once, as it was timed.
        at_once: how many processes share it.
    """

    name: str
    times: float
    seconds: float
    at_once: int = 1

    @property
    def total(self) -> float:
        """Seconds of all of it."""
        return self.times * self.seconds / self.at_once


def timed(call: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def pieces_of(
    request: Request, subject: Subject, budget: Budget, data: DataSet | None, method: str, starts: int
) -> Iterator[Piece]:
    """Time each piece of the work once.

    Args:
        request: the run.
        subject: its model.
        budget: the limits that can be counted; those of the narrowest point of a curve.
        data: what it is measured and tuned on, if anything.
        method: who makes the plan.
        starts: plans that each search begins with beside the baselines.
    """
    config, axes, space = request.config, subject.axes, budget.space
    points = len(request.points) or 1
    scores = score(axes, "magnitude", ())
    levels = space.widest if not space.bundles else space.levels([0.5] * space.bundles)
    if budget.bounds:
        with suppress(TargetError):  # some limits alone leave no plan of equal shares
            levels = budget.project([1.0] * space.bundles)
    plan = make_plan(space, levels, scores, "uniform")
    pruned = prune_program(axes, plan)
    searches = method == SEARCH and bool(request.points or config.demands)
    if data is not None:
        yield from _on_data(request, subject, plan, pruned, data, space.bundles if searches else 0, starts)
    if config.verify:
        seconds, _ = timed(lambda: verify(axes, plan.keep_mask(axes), pruned))
        yield Piece("prove", points, seconds)
    with TemporaryDirectory(prefix="prune-") as folder:
        path = Path(folder) / "model.onnx"
        example, free = pruned.random_inputs(2), pruned.dynamic_batch
        seconds, _ = timed(lambda: export_onnx(ProgramModule(pruned), example, path, dynamic_batch=free))
    yield Piece("export and compare", points + 1, seconds)


def _on_data(
    request: Request,
    subject: Subject,
    plan: Plan,
    pruned: Program,
    data: DataSet,
    searched: int,
    starts: int,
) -> Iterator[Piece]:
    """Those that need data; ``searched`` bundles are searched for, none where the plan is made otherwise."""
    config, axes = request.config, subject.axes
    points = len(request.points) or 1
    student = student_of(subject, pruned).module
    few = min(_RECORDS, len(data.test))
    with on(config.device, student):
        evaluate(student, data.test, limit=2)  # a GPU takes long to begin
        seconds, _ = timed(lambda: evaluate(student, data.test, limit=few))
    per_record = seconds / few
    yield Piece("measure on the test split", 1 + 3 * points, per_record * len(data.test))
    reranks = compares_rankings(config, data, states=bool(starts) or config.states.is_given)
    if searched:
        keep = plan.keep_mask(axes)
        with Evaluator(
            axes,
            data,
            images=request.images,
            precision=request.search.precision,
            device=config.device,
        ) as evaluator:
            seconds, _ = timed(lambda: evaluator(keep))
        workers = int(request.workers) if request.workers.isdecimal() else 1
        neighbours = points - 1
        trials = points * (request.search.trials + starts + CONTEST * reranks) + neighbours
        yield Piece("score a plan", trials, seconds, workers)
        cuts, wanted = len(SHARES) * searched, request.search.sensitivity
        if wanted or (wanted is None and cuts <= request.search.trials // 2):
            yield Piece("score a group cut alone", cuts, seconds, workers)
    mender = Mender(axes, data, reconstruct=config.reconstruct, device=config.device)
    finalists = points * (len(BASELINES) + 2 + FINALISTS + RERANKED * reranks) if searched else 0
    mending, _ = timed(lambda: mender.mended(plan.keep_mask(axes), pruned))
    if mender.fits:  # the first time it also computes what serves all further ones
        again, _ = timed(lambda: mender.mended(plan.keep_mask(axes), pruned))
        yield Piece("look at the whole network", points, max(0.0, mending - again))
        yield Piece("mend what remains", 2 * points + finalists, again)
    else:
        yield Piece("mend what remains", 2 * points, mending)
        if finalists:
            seconds = mending + per_record * len(data.search)
            yield Piece("measure one of the best plans", finalists, seconds)
    tuning = config.tuning(data)
    if tuning.epochs:
        steps = -(-len(data.train) // tuning.batch_size)
        yield Piece(
            "step of fine-tuning", points * tuning.epochs * steps, _step(subject, student, data, config)
        )
        yield Piece("measure an epoch", points * (tuning.epochs + 1), per_record * len(data.search))


def _step(subject: Subject, student: nn.Module, data: DataSet, config: CompressConfig) -> float:
    """Seconds of one step of fine-tuning."""
    tuning = replace(config.tuning(data), epochs=1)
    ends: list[float] = []
    few = replace(
        data,
        train=_First(data.train, _STEPS * tuning.batch_size),
        search=_First(data.search, tuning.batch_size),
    )
    start = time.perf_counter()
    teacher = reference_of(subject)
    with on(config.device, student, teacher):
        fit(student, few, tuning, teacher=teacher, on_step=lambda *_: ends.append(time.perf_counter()))
    gaps = [b - a for a, b in zip(ends, ends[1:], strict=False)] or [ends[0] - start]
    return min(gaps)


class _First:
    """The first records of a split."""

    def __init__(self, split: Split, count: int) -> None:
        self.split, self.count = split, min(count, len(split))

    def __len__(self) -> int:
        return self.count

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        most = self.count if limit is None else min(limit, self.count)
        return self.split.batches(batch_size, shuffle=shuffle, augment=augment, seed=seed, limit=most)
