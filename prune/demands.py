"""Demands: the limits that a user writes, such as ``--flops 0.5``, ``--params 1.2M`` or ``--latency 5ms``.

A demand is a share of the whole model or an absolute figure. It is read before any model is loaded, so that
a slip of the pen is told at once; what it means for a model, ``prune.budget`` says.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from graph.errors import TargetError

Name = Literal["macs", "params", "memory", "latency"]

COUNTS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BYTES = {
    "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "K": 1e3, "M": 1e6, "G": 1e9,
    "KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30,
}  # fmt: skip
_MILLISECONDS = {"US": 1e-3, "MS": 1.0, "S": 1e3}


@dataclass(frozen=True)
class _Kind:
    """What an option limits, in which units, and how often its unit counts one of ours."""

    name: Name
    units: Mapping[str, float]
    example: str
    per_unit: float = 1.0
    bare_figures: bool = True  # a number without a unit may be an absolute figure


OPTIONS: Mapping[str, _Kind] = {
    "--flops": _Kind("macs", COUNTS, "120M", per_unit=0.5),  # FLOPs = 2 x MACs
    "--macs": _Kind("macs", COUNTS, "60M"),
    "--params": _Kind("params", COUNTS, "1.2M"),
    "--memory": _Kind("memory", BYTES, "8MB"),
    "--latency": _Kind("latency", _MILLISECONDS, "5ms", bare_figures=False),
}


@dataclass(frozen=True)
class Demand:
    """One limit as a user asked for it.

    Attributes:
        option: such as ``--flops``.
        text: as it was given.
        share: of the whole model, in (0, 1); None where a figure is given.
        amount: an absolute figure in MACs, parameters, bytes or milliseconds; None where a share is given.
    """

    option: str
    text: str
    share: float | None
    amount: float | None

    @property
    def name(self) -> Name:
        """The quantity that is limited."""
        return OPTIONS[self.option].name

    def __str__(self) -> str:
        return f"{self.option} {self.text}"

    def in_units(self, amount: float) -> str:
        """An amount, counted as ``amount`` is, as the option takes it: rounded up to three digits."""
        kind = OPTIONS[self.option]
        amount /= kind.per_unit
        if kind.name == "latency":
            return f"{_rounded_up(amount):g}ms"
        decimal = {unit: size for unit, size in kind.units.items() if "I" not in unit}  # no MiB
        fitting = [unit for unit, size in decimal.items() if size <= amount]
        unit = max(fitting or [next(iter(kind.units))], key=lambda name: kind.units[name])
        return f"{_rounded_up(amount / kind.units[unit]):g}{unit}"


def parse_demand(option: str, value: str | float) -> Demand:
    """Read a share such as ``0.5`` or ``50%``, or a figure such as ``120M``, ``8MB`` or ``5ms``.

    Args:
        option: one of ``OPTIONS``.
        value: as the user gave it. A number below 1 is a share; one above 1000 is a figure, but for
            latencies, which need their unit.

    Raises:
        TargetError: malformed, not positive, or a share that is not below 1.
    """
    kind = OPTIONS[option]
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    hint = f"a ratio in (0, 1) such as {option} 0.5, or an absolute figure such as {option} {kind.example}"
    number, unit = number_and_unit(text)
    scale = {"": 1.0, "%": 1.0, **kind.units}.get(unit.upper())
    if number is None or scale is None:
        raise TargetError(f"{option} {text}: not a number", hint=hint)
    figure = number / 100 if unit == "%" else number * scale
    if not math.isfinite(figure) or figure <= 0:
        raise TargetError(f"{option} {text}: must be greater than 0", hint=hint)
    if unit in ("", "%") and not (unit == "" and kind.bare_figures and figure > 1000):
        if figure >= 1:
            raise TargetError(f"{option} {text}: a ratio must be below 1", hint=hint)
        return Demand(option, text, figure, None)
    return Demand(option, text, None, figure * kind.per_unit)


def parse_demands(given: Mapping[str, str | float | None]) -> tuple[Demand, ...]:
    """Read all limits of a run.

    Args:
        given: values by option; None where it is not given.

    Raises:
        TargetError: none is given, one is malformed, or two limit the same quantity.
    """
    demands = [parse_demand(option, value) for option, value in given.items() if value is not None]
    if not demands:
        raise TargetError(
            f"give a target: at least one of {', '.join(given or OPTIONS)}", hint="such as --flops 0.5"
        )
    seen: dict[str, Demand] = {}
    for demand in demands:
        if (other := seen.setdefault(demand.name, demand)) is not demand:
            raise TargetError(
                f"{other} and {demand} limit the same quantity",
                hint=f"give either {other.option} or {demand.option}",
            )
    return tuple(demands)


def _rounded_up(number: float) -> float:
    step = 10.0 ** (math.floor(math.log10(number)) - 2) if number > 0 else 1.0
    return round(math.ceil(round(number / step, 6)) * step, 9)


def number_and_unit(text: str) -> tuple[float | None, str]:
    """A number and the unit behind it; None where it is none."""
    for unit in (re.search(r"(%|[a-z]*)$", text, re.IGNORECASE), None):
        word = unit[0] if unit else ""
        with contextlib.suppress(ValueError):
            return float(text.removesuffix(word)), word
    return None, ""
