"""The gate: budgets that a model must keep, judged on the figures of its report or on what its file shows.

A budget is kept, broken, or cannot be judged, for its figure is missing; what is missing never passes. One
broken budget decides, whatever else is missing: nothing that could still be found would make it a pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from graph.errors import PruneError, UsageError
from graph.suggest import suggestion
from prune.demands import BYTES, COUNTS, number_and_unit
from prune.escaping import plain
from prune.figures import FIGURES, Figures, read_figures
from prune.settings import read_settings

Status = Literal["pass", "broken", "unjudged"]
EXIT_CODES: Mapping[Status, int] = {"pass": 0, "broken": 1, "unjudged": 2}
BASELINE, MAX_REGRESSION = "baseline", "max-regression"
# A latency of another day says more about the machine than about the model: `max-latency-ratio` compares
# with the original, which was measured in turn.
_COMPARED = ("macs", "params", "size", "memory", "accuracy")
_ROUNDING = 1e-13  # what subtraction and division leave of doubles


@dataclass(frozen=True)
class _Budget:
    """What an option limits.

    Attributes:
        figure: one of ``FIGURES``.
        told: what is limited, in words.
        units: of the limit, with what they count.
        example: of a limit.
        of_original: how the figure is compared with the original's; None where it stands alone.
        at_least: the limit is a lower one.
        highest: the limit may not be above it; it is probably meant as a percentage.
        zero: the limit may be zero.
        show: writes values; as the figure itself when left out.
    """

    figure: str
    told: str
    units: Mapping[str, float]
    example: str
    of_original: Callable[[float, float], float] | None = None
    at_least: bool = False
    highest: float = math.inf
    zero: bool = False
    show: Callable[[float], str] | None = None

    def shown(self, value: float) -> str:
        return (self.show or FIGURES[self.figure].told)(value)


def _ratio(value: float, original: float) -> float:
    return value / original


def _times(value: float) -> str:
    return f"{value:.4f} x"


_SHARE = {"": 1.0, "%": 0.01}
BUDGETS: Mapping[str, _Budget] = {
    "max-macs": _Budget("macs", "MACs", {"": 1.0, **COUNTS}, "60M"),
    "max-macs-ratio": _Budget("macs", "MACs of the original's", _SHARE, "0.5", _ratio, show=_times),
    "max-params": _Budget("params", "parameters", {"": 1.0, **COUNTS}, "1.2M"),
    "max-size": _Budget("size", "size of the file", {"": 1.0, **BYTES}, "1.5MB"),
    "max-latency-ratio": _Budget("latency", "latency of the original's", _SHARE, "0.8", _ratio, show=_times),
    "max-memory": _Budget("memory", "memory", {"": 1.0, **BYTES}, "8MB"),
    "min-accuracy": _Budget("accuracy", "accuracy", _SHARE, "0.9", at_least=True, highest=1.0),
    "max-accuracy-drop": _Budget(
        "accuracy", "drop of the accuracy", _SHARE, "0.01", lambda value, original: original - value,
        highest=0.999, zero=True,
    ),
    "min-speedup": _Budget(
        "latency", "speed-up in onnxruntime", {"": 1.0, "X": 1.0}, "1.5",
        lambda value, original: original / value, at_least=True, show=lambda value: f"{value:.3f} x",
    ),
}  # fmt: skip
KEYS = (*BUDGETS, BASELINE, MAX_REGRESSION)


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


@dataclass(frozen=True)
class Budgets:
    """The budgets of a run of the gate.

    Attributes:
        limits: by name, in the unit of the figure, in the order of ``BUDGETS``.
        baseline: a report or a model that nothing may be worse than.
        max_regression: by which share it may be worse after all.
        baseline_is_named: by the user, rather than by a file that was only found: it may be trusted, too.
    """

    limits: Mapping[str, float]
    baseline: Path | None = None
    max_regression: float = 0.0
    baseline_is_named: bool = True


def read_budgets(given: Mapping[str, Any], config: Path | None) -> Budgets:
    """The budgets of the command line and of a file; the command line wins.

    Args:
        given: values by name; None where an option is not given.
        config: the file; ``prune.toml`` or ``pyproject.toml`` of the working directory when left out.

    Raises:
        UsageError: as ``read_settings`` and ``parse_budgets``.
    """
    typed = {name: value for name, value in given.items() if value is not None}
    settings = read_settings("gate", config)
    values = dict(settings.values)
    if isinstance(values.get(BASELINE), str) and settings.folder is not None:
        values[BASELINE] = str(settings.folder / values[BASELINE])
    if not typed and not values and settings.path is not None:
        raise UsageError(
            f"{settings.path}: there is no budget in its table", hint="such as max-macs-ratio = 0.5"
        )
    origins = {name: f"--{name}" for name in typed}
    origins = {name: f"{settings.path}: {name}" for name in values} | origins
    found = parse_budgets(values | typed, origins)
    return replace(found, baseline_is_named=settings.named or BASELINE in typed)


def parse_budgets(given: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Budgets:
    """Read budgets.

    Args:
        given: by name, texts or numbers.
        origins: how to call each in messages; the names alone when left out.

    Raises:
        UsageError: an unknown name, a value that is no limit, no budget at all, or ``max-regression`` alone.
    """
    told = {name: (origins or {}).get(name, name) for name in (*given, *KEYS)}
    for name in given:
        if name not in KEYS:
            raise UsageError(f"{plain(told[name])}: unknown budget", hint=suggestion(name, KEYS))
    limits = {n: _limit(told[n], given[n], budget) for n, budget in BUDGETS.items() if n in given}
    baseline = given.get(BASELINE)
    if baseline is not None and not (isinstance(baseline, str) and baseline):
        raise UsageError(f"{told[BASELINE]} {plain(baseline)}: no file", hint="name a report or a model")
    if baseline is None and MAX_REGRESSION in given:
        raise UsageError(
            f"{told[MAX_REGRESSION]}: needs a baseline", hint="name a report or a model: baseline"
        )
    if not limits and baseline is None:
        raise UsageError(
            "there is no budget to judge by",
            hint="such as --max-macs-ratio 0.5; or [gate] in prune.toml, [tool.prune.gate] in pyproject.toml",
        )
    share = _Budget("accuracy", "", _SHARE, "0.02", zero=True)
    allowed = _limit(told[MAX_REGRESSION], given.get(MAX_REGRESSION, 0), share)
    return Budgets(limits, None if baseline is None else Path(baseline), allowed)


def _limit(told: str, value: Any, budget: _Budget) -> float:
    text = str(value).strip()
    hint = f"such as {budget.example}"
    number, unit = number_and_unit(text)
    scale = budget.units.get(unit.upper())
    if isinstance(value, bool) or number is None or scale is None or not re.match(r"[-+.\d]", text):
        units = ", ".join(u for u in budget.units if u)
        raise UsageError(f"{told} {plain(text)}: no limit", hint=f"{hint}; units: {units}")
    found = number * scale
    if not math.isfinite(found) or found < 0 or (found == 0 and not budget.zero):
        raise UsageError(f"{told} {plain(text)}: must be greater than 0", hint=hint)
    if found > budget.highest:
        raise UsageError(f"{told} {plain(text)}: is a share", hint=f"{hint} or {float(budget.example):.0%}")
    return found


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


def _judged(name: str, budget: _Budget, limit: float, figures: Figures) -> Check:
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
