"""The latency limit: predicted from a table of operators, then measured on the real pruned model.

The table says how plans compare; by how much, real pruned models say: one of them, timed in turn with the
original in onnxruntime, sets the slope of the prediction. After planning the plan itself is exported and
timed. Where it misses the limit by more than the noise, the slope is set anew and the plan projected again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.errors import TargetError
from graph.program import Program, ProgramModule
from profilers.latency import PairedRatio, measure, onnx_call, paired_ratio
from profilers.latency_model import LatencyModel
from profilers.op_latency import OpTable, Point
from prune.budget import Budget, Quantity
from prune.demands import Demand
from prune.export import export_onnx
from prune.identity import digest
from prune.importance import Scores
from prune.journal import Journal
from prune.plan import Plan, kept_ratios, kept_widths, make_plan
from prune.surgery import prune_program
from prune.widths import Widths, WidthSpace

_ROUNDS = 4  # plans that are exported and timed at the most
_CLOSE = 0.03  # how far below the limit, as a share of the original, a plan may end up
_SLOPES = (0.2, 3.0)


@dataclass(frozen=True)
class Check:
    """One plan, exported and timed.

    Attributes:
        predicted_ms: before it was timed.
        measured_ms: its share of the original's latency, times that.
        noise_ms: half the distance between the largest and the smallest of several such figures.
        slope: of the prediction at the time.
    """

    predicted_ms: float
    measured_ms: float
    noise_ms: float
    slope: float


@dataclass(frozen=True)
class Checked:
    """A plan that was timed, and how that came about.

    Attributes:
        plan: the widest that keeps the limit as far as could be measured, or the quickest.
        checks: all plans that were timed, in turn.
        chosen: the place of ``plan`` among them.
        held: whether it keeps the limit, to within the noise.
    """

    plan: Plan
    checks: tuple[Check, ...]
    chosen: int
    held: bool

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"held": self.held, "chosen": self.chosen, "checks": [asdict(c) for c in self.checks]}


class Clock:
    """Predicts and measures the latency of plans of one program.

    Args:
        axes: of the whole program.
        space: the widths that it can have.
        original: the ONNX file of the whole program; others are put beside it for as long as they are timed.
        journal: whatever was timed once in a run is not timed again, or it would decide otherwise.
        on_progress: is told how many operators are timed, and of how many.

    Attributes:
        base_ms: latency of the original for one record.
        slope: how much of the change that the table predicts really happens.
        guessed: operators priced without a kernel of their own.
    """

    def __init__(
        self,
        axes: Axes,
        space: WidthSpace,
        original: Path,
        journal: Journal,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.axes, self.space, self.folder = axes, space, original.parent
        self.slope = 1.0
        self._journal = journal
        self._model = LatencyModel(
            axes, _Table(journal), any_width=space.round_to % 4 != 0, on_progress=on_progress
        )
        self.guessed = self._model.guessed
        self._whole = float(self._model.milliseconds(space.cost.widths))
        self._inputs = [x.numpy() for x in axes.program.random_inputs(1)]
        self._original = onnx_call(original, *self._inputs)
        self.base_ms = float(journal.recall("latency", lambda: measure(self._original).median_ms))

    def quantity(self) -> Quantity:
        """The latency as something that a budget can limit, with the slope that is known by now."""
        model, whole, base_ms, slope = self._model, self._whole, self.base_ms, self.slope

        def value(widths: Widths) -> NDArray[np.float64]:
            result: NDArray[np.float64] = base_ms * (1 - slope * (1 - model.milliseconds(widths) / whole))
            return result

        return Quantity("latency", "ms", base_ms, value)

    def budget(self, demands: Sequence[Demand], scores: Scores) -> Budget:
        """What the demands mean, after a uniform plan near the limit has set the slope.

        Where the limit then seems out of reach, the narrowest plan is timed before that is said.
        """
        budget = Budget.from_demands(self.space, demands, self.quantity())
        if self.space.bundles == 0:
            return budget
        limit = _limit(budget)
        reachable = Budget.of(self.space, {"latency": self.quantity()}, latency=max(limit, self._lowest()))
        near = reachable.project(np.ones(self.space.bundles))
        for levels in (near, self.space.narrowest):
            self.measure(make_plan(self.space, levels, scores, "uniform"))
            if self._lowest() <= limit:
                break
        return budget.with_quantity(self.quantity())

    def _lowest(self) -> float:
        """Milliseconds that the narrowest plan is thought to take."""
        return float(self.quantity().value(self.space.widths(self.space.narrowest)))

    def measure(self, plan: Plan) -> Check:
        """Export a plan, time it in turn with the original, and learn the slope from it."""
        predicted, slope = self.predicted(plan), self.slope
        key = f"timed {digest([plan.keep_mask(self.axes).tobytes()])}"
        found = PairedRatio(**self._journal.recall(key, lambda: asdict(self._timed(plan))))
        share = float(self._model.milliseconds(kept_widths(self.axes, plan))) / self._whole
        if share < 1:
            self.slope = float(np.clip((1 - found.ratio) / (1 - share), *_SLOPES))
        return Check(predicted, found.ratio * self.base_ms, found.noise * self.base_ms, slope)

    def _timed(self, plan: Plan) -> PairedRatio:
        path = self.folder / "candidate.onnx"
        _export(prune_program(self.axes, plan), path)
        found = paired_ratio(self._original, onnx_call(path, *self._inputs))
        for file in self.folder.glob("candidate.onnx*"):
            file.unlink()
        return found

    def predicted(self, plan: Plan) -> float:
        """Milliseconds that a plan is thought to take."""
        return float(self.quantity().value(kept_widths(self.axes, plan)))

    def checked(self, plan: Plan, budget: Budget, scores: Scores) -> Checked:
        """Time a plan; where it misses the limit, or falls far below it, project it again.

        Args:
            plan: keeps the budget, as far as predicted.
            budget: limits the latency.
            scores: importance of each class of the axes, by the criterion that ranked the plan's channels.
        """
        limit = _limit(budget)
        plans, checks = [plan], [self.measure(plan)]
        while len(checks) < _ROUNDS and not self._settled(checks[-1], limit, budget, plans[-1]):
            budget = budget.with_quantity(self.quantity())
            try:
                levels = budget.project(kept_ratios(self.space, plan))
            except TargetError:
                break
            trial = make_plan(self.space, levels, scores, plan.method, plan.importance)
            if trial in plans:
                break
            plans.append(trial)
            checks.append(self.measure(trial))
        good = [i for i, c in enumerate(checks) if c.measured_ms <= limit + c.noise_ms]
        widest = max(good, key=lambda i: checks[i].measured_ms) if good else None
        quickest = min(range(len(checks)), key=lambda i: checks[i].measured_ms)
        chosen = quickest if widest is None else widest
        return Checked(plans[chosen], tuple(checks), chosen, widest is not None)

    def _settled(self, check: Check, limit: float, budget: Budget, plan: Plan) -> bool:
        """Whether a plan keeps the limit and has no more to gain from it."""
        if check.measured_ms > limit + check.noise_ms:
            return False
        levels = self.space.levels(kept_ratios(self.space, plan))
        others = [share for name, share in budget.used(levels).items() if name != "latency"]
        close = check.measured_ms >= limit - max(_CLOSE * self.base_ms, check.noise_ms)
        return close or max(others, default=0.0) > 1 - _CLOSE


class _Table(OpTable):
    """The table of this machine, as it was when the run first asked."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def milliseconds(
        self, points: Sequence[Point], on_progress: Callable[[int, int], None] | None = None
    ) -> list[float]:
        """The time of each operator; see ``OpTable``."""
        find = super().milliseconds
        return list(self._journal.recall("operators", lambda: find(points, on_progress)))


def _export(program: Program, path: Path) -> None:
    export_onnx(ProgramModule(program), program.random_inputs(2), path, dynamic_batch=program.dynamic_batch)


def _limit(budget: Budget) -> float:
    return next(b.limit for b in budget.bounds if b.quantity.name == "latency")
