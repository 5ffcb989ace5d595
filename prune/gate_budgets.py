"""Budgets of the gate: which there are, what their limits mean, and how they are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graph.errors import UsageError
from graph.suggest import suggestion
from prune.demands import BYTES, COUNTS, number_and_unit
from prune.escaping import plain
from prune.figures import FIGURES
from prune.settings import read_settings

BASELINE, MAX_REGRESSION = "baseline", "max-regression"


@dataclass(frozen=True)
class Budget:
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
        """A value of what is limited, with its unit."""
        return (self.show or FIGURES[self.figure].told)(value)


def _ratio(value: float, original: float) -> float:
    return value / original


def _times(value: float) -> str:
    return f"{value:.4f} x"


_SHARE = {"": 1.0, "%": 0.01}
BUDGETS: Mapping[str, Budget] = {
    "max-macs": Budget("macs", "MACs", {"": 1.0, **COUNTS}, "60M"),
    "max-macs-ratio": Budget("macs", "MACs of the original's", _SHARE, "0.5", _ratio, show=_times),
    "max-params": Budget("params", "parameters", {"": 1.0, **COUNTS}, "1.2M"),
    "max-size": Budget("size", "size of the file", {"": 1.0, **BYTES}, "1.5MB"),
    "max-latency-ratio": Budget("latency", "latency of the original's", _SHARE, "0.8", _ratio, show=_times),
    "max-memory": Budget("memory", "memory", {"": 1.0, **BYTES}, "8MB"),
    "min-accuracy": Budget("accuracy", "accuracy", _SHARE, "0.9", at_least=True, highest=1.0),
    "max-accuracy-drop": Budget(
        "accuracy", "drop of the accuracy", _SHARE, "0.01", lambda value, original: original - value,
        highest=0.999, zero=True,
    ),
    "min-speedup": Budget(
        "latency", "speed-up in onnxruntime", {"": 1.0, "X": 1.0}, "1.5",
        lambda value, original: original / value, at_least=True, show=lambda value: f"{value:.3f} x",
    ),
}  # fmt: skip
KEYS = (*BUDGETS, BASELINE, MAX_REGRESSION)


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
    share = Budget("accuracy", "", _SHARE, "0.02", zero=True)
    allowed = _limit(told[MAX_REGRESSION], given.get(MAX_REGRESSION, 0), share)
    return Budgets(limits, None if baseline is None else Path(baseline), allowed)


def _limit(told: str, value: Any, budget: Budget) -> float:
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
