"""Devices: budgets of classes of devices, read from a file (resource-aware dispatch, RaFFM)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from graph.errors import TargetError, UsageError, first_line
from prune.demands import OPTIONS, Demand, parse_demands
from prune.regular import regular_size

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST = 1 << 20  # bytes of the file
_LIMITS = tuple(o.removeprefix("--") for o, kind in OPTIONS.items() if kind.name != "memory")


@dataclass(frozen=True)
class Device:
    """A class of devices.

    Attributes:
        name: of its table, and of the folder that its subnetwork goes to.
        demands: what the subnetwork may use.
    """

    name: str
    demands: tuple[Demand, ...]


def read_devices(path: Path) -> tuple[Device, ...]:
    """Read a file of budgets: a table for each class of devices, with limits as the options have them.

    ::

        [phone]
        flops = 0.3

        [tablet]
        flops = "50%"
        params = "1.2M"

    Raises:
        UsageError: the file is missing, no TOML, or holds something else.
        TargetError: a limit is malformed.
    """
    hint = "a table for each device: [phone] and below it flops = 0.3"
    try:
        if regular_size(path) > _MOST:
            raise UsageError(f"{path} is too large for a file of budgets", hint=hint)
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror}", hint="check the path") from err
    except (ValueError, RecursionError) as err:
        raise UsageError(f"{path} is no TOML: {first_line(err)}", hint=hint) from err
    devices = []
    for name, limits in found.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"{path}: {name!r} is no name of a folder", hint="letters, digits, -, _ and .")
        if not isinstance(limits, dict) or not limits:
            raise UsageError(f"{path}: {name} is no table of limits", hint=hint)
        for key, value in limits.items():
            if key not in _LIMITS:
                raise UsageError(
                    f"{path}: {name} has a limit {key!r}, which supernets do not know",
                    hint=f"one of {', '.join(_LIMITS)}",
                )
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise UsageError(f"{path}: {name}.{key} is {value!r}", hint=hint)
        given = {f"--{k}": v if isinstance(v, (str, float)) else str(v) for k, v in limits.items()}
        try:
            devices.append(Device(name, parse_demands(given)))
        except TargetError as err:
            raise TargetError(f"{path}: {name}: {err}", hint=err.hint) from err
    if not devices:
        raise UsageError(f"{path} names no devices", hint=hint)
    return tuple(devices)
