"""The gate: budgets that a model must keep, judged on the figures of its report or on what its file shows.

A budget is kept, broken, or cannot be judged, for its figure is missing; what is missing never passes. One
broken budget decides, whatever else is missing: nothing that could still be found would make it a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from graph.errors import PruneError
from prune.figures import FIGURES, Figures, read_figures
from prune.gate_budgets import BASELINE, BUDGETS, MAX_REGRESSION, Budget, Budgets

Status = Literal["pass", "broken", "unjudged"]
EXIT_CODES: Mapping[Status, int] = {"pass": 0, "broken": 1, "unjudged": 2}
# A latency of another day says more about the machine than about the model: `max-latency-ratio` compares
# with the original, which was measured in turn.
_COMPARED = ("macs", "params", "size", "memory", "accuracy")
_ROUNDING = 1e-13  # what subtraction and division leave of doubles


@dataclass(frozen=True)
class Check:
    """One budget, judged.

    Attributes:
        budget: its name; with a baseline, also the figure's.
        limit: as it was asked for, with its direction; empty where it is not known.
        value: what was found; empty where nothing was.
        status: whether it is kept.
        told: one sentence.
        bound: the limit as a number, in the unit of the figure.
        found: the figure as a number; None where it is not known.
    """

    budget: str
    limit: str
    value: str
    status: Status
    told: str
    bound: float | None = None
    found: float | None = None


@dataclass(frozen=True)
class Judged:
    """One file, judged.

    Attributes:
        path: the file, as it was named.
        kind: what it is; ``unreadable`` where that could not be told.
        checks: the budgets in their order; one that cannot be judged where the file cannot be read.
        error: why the file cannot be read; empty where it can.
        hint: what to do about that.
    """

    path: str
    kind: str
    checks: tuple[Check, ...]
    error: str = ""
    hint: str = ""

    @property
    def status(self) -> Status:
        """Of all budgets together."""
        return worst([c.status for c in self.checks])


def worst(found: Sequence[Status]) -> Status:
    """The verdict on several: broken goes before unjudged, which is also that of none at all."""
    if "broken" in found:
        return "broken"
    return "unjudged" if "unjudged" in found or not found else "pass"


def judge(name: str, budgets: Budgets, *, trust_code: bool = False) -> Judged:
    """Judge one file; one that cannot be read cannot be judged.

    Args:
        name: a report, the folder of a run, or a model.
        budgets: what it must keep.
        trust_code: a ``.pt2`` may run code.
    """
    try:
        figures = read_figures(name, trust_code=trust_code)
    except PruneError as err:
        return Judged(
            name, "unreadable", (Check("readable", "", "", "unjudged", str(err)),), str(err), err.hint
        )
    checks = [_judged(n, BUDGETS[n], limit, figures) for n, limit in budgets.limits.items()]
    if budgets.baseline is not None:
        try:
            trusted = trust_code and budgets.baseline_is_named
            base = read_figures(budgets.baseline, trust_code=trusted)
        except PruneError as err:
            checks.append(Check(BASELINE, "", "", "unjudged", f"the baseline: {err}"))
        else:
            checks += _regressions(figures, base, budgets.max_regression)
    return Judged(name, figures.kind, tuple(checks))


def _judged(name: str, budget: Budget, limit: float, figures: Figures) -> Check:
    sign = "at least" if budget.at_least else "at most"
    asked = f"{sign} {budget.shown(limit)}"
    value = figures.values.get(budget.figure)
    if value is None:
        return Check(name, asked, "", "unjudged", f"not known: {figures.why_missing(budget.figure)}", limit)
    if budget.of_original is not None:
        original = figures.original.get(budget.figure)
        if original is None:
            told = "that of the original is not known; only the report of a run has it"
            return Check(name, asked, "", "unjudged", told, limit)
        try:
            value = budget.of_original(value, original)
        except ZeroDivisionError:
            return Check(name, asked, "", "unjudged", "not known: a figure is zero", limit)
    shown = budget.shown(value)
    kept = _within(limit, value) if budget.at_least else _within(value, limit)
    off = f", {abs(value - limit) / limit:.2%} {'less' if budget.at_least else 'more'}" if limit else ""
    told = f"{budget.told}: {shown}, {asked}" + ("" if kept else off)
    return Check(name, asked, shown, "pass" if kept else "broken", told, limit, value)


def _within(value: float, limit: float) -> bool:
    """Whether a value is at most its limit, but for what arithmetic on doubles leaves; NaN is not."""
    return value - limit <= _ROUNDING * max(1.0, abs(limit))


def _regressions(figures: Figures, base: Figures, allowed: float) -> list[Check]:
    """Whether each figure that the baseline has is no worse than there."""
    checks = []
    for name in (n for n in _COMPARED if n in base.values):
        kind, before, value = FIGURES[name], base.values[name], figures.values.get(name)
        budget = f"{MAX_REGRESSION} {name}"
        limit = before * (1 - allowed if kind.more_is_better else 1 + allowed)
        asked = f"{'at least' if kind.more_is_better else 'at most'} {kind.told(limit)}"
        if value is None:
            told = f"the baseline has it, but it is not known: {figures.why_missing(name)}"
            checks.append(Check(budget, asked, "", "unjudged", told, limit))
            continue
        kept = _within(limit, value) if kind.more_is_better else _within(value, limit)
        change = f", {value / before - 1:+.2%}" if before else ""
        told = f"{kind.label}: {kind.told(value)}, the baseline has {kind.told(before)}{change}"
        status: Status = "pass" if kept else "broken"
        checks.append(Check(budget, asked, kind.told(value), status, told, limit, value))
    if not checks:
        checks.append(Check(BASELINE, "", "", "unjudged", "the baseline has no figure to compare"))
    return checks
