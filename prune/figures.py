"""Figures: what is known of a model or of a run, read from a file that anybody may have written.

| file | figures |
|---|---|
| ``report.json``, or the folder of a run | all of both models, as they were measured |
| ``.onnx`` | MACs, parameters and size, counted; nothing is run |
| ``.pt2`` and other model files | MACs, parameters, size and memory, counted |
"""

from __future__ import annotations

import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph.errors import ModelFileError
from prune.escaping import plain
from prune.external_data import plain_file
from prune.files import read_json
from prune.manifest import check_file, check_folder
from prune.report import REPORT_FILE, count, size
from prune.stored import LARGEST_FILE, Part, checked

REPORT = "report"
_LARGEST = 10**18
_ONNX_START = b"\x08"  # the field of the version, which comes first


@dataclass(frozen=True)
class Kind:
    """A figure: how it is called, how it is written, and which way is better."""

    label: str
    unit: str = "count"
    more_is_better: bool = False

    def told(self, value: float) -> str:
        """The value with its unit."""
        units = {"count": count, "bytes": size, "ms": "{:.3f} ms".format, "share": "{:.2%}".format}
        return units[self.unit](value)


FIGURES: Mapping[str, Kind] = {
    "macs": Kind("MACs"),
    "params": Kind("parameters"),
    "size": Kind("size of the file", "bytes"),
    "memory": Kind("memory", "bytes"),
    "latency": Kind("latency, onnxruntime", "ms"),
    "accuracy": Kind("accuracy", "share", more_is_better=True),
}


@dataclass(frozen=True)
class Figures:
    """What is known of one model.

    Attributes:
        path: the file, as it was named.
        kind: what it is: ``report``, ``ONNX file`` or ``model file``.
        values: by the names of ``FIGURES``, finite and not negative.
        original: the same of the model before pruning; empty where the file is no report.
        missing: why a figure is not among the values.
        widths: channels by layer, or by group of a report.
    """

    path: str
    kind: str
    values: Mapping[str, float]
    original: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)

    def why_missing(self, name: str) -> str:
        """Why there is no such figure."""
        return self.missing.get(name, f"{self.kind} without {FIGURES[name].label}")


def read_figures(name: str | Path, *, trust_code: bool = False) -> Figures:
    """Read a report, or count a model.

    Args:
        name: a file, recognised by its content, or the folder of a run.
        trust_code: a ``.pt2`` may run code, for its author is trusted.

    Raises:
        ModelFileError: missing, malformed, or neither a report nor a model.
        UntrustedCodeError: a file that runs code when it is loaded, without ``trust_code``.
        PruneError: the other failures of loading a model.
    """
    path = Path(name)
    try:
        if path.is_dir():
            check_folder(path)
            path = path / REPORT_FILE
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{plain(path)} is no regular file", hint="name a file")
        with path.open("rb") as file:
            head = file.read(64)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise ModelFileError(f"{plain(path)} cannot be read: {reason}", hint="check the path") from err
    check_file(path)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return _of_report(path)
    if head.startswith(_ONNX_START):
        return _of_onnx(path)
    return _of_model(path, trust_code)


def _of_report(path: Path) -> Figures:
    if path.stat().st_size > LARGEST_FILE:
        raise ModelFileError(
            f"the report {plain(path)} has more than {size(LARGEST_FILE)}", hint="do not use this file"
        )
    data = checked(Part(str(path), read_json(path, "report"))).data
    values, original = (_values(path, data, name) for name in ("pruned", "original"))
    missing = {"accuracy": "nothing was measured on data"} if "accuracy" not in values else {}
    return Figures(str(path), REPORT, values, original, missing, _groups(path, data))


def _values(path: Path, data: Mapping[str, Any], name: str) -> dict[str, float]:
    section = _section(path, data, name)
    latency = _section(path, section, "onnx_ms", f"{name}.onnx_ms")
    found = {
        "macs": _number(path, section, name, "macs", whole=True),
        "params": _number(path, section, name, "params", whole=True),
        "size": _number(path, section, name, "onnx_bytes", whole=True),
        "memory": _number(path, section, name, "memory_bytes", whole=True),
        "latency": _number(path, latency, f"{name}.onnx_ms", "median"),
        "accuracy": _number(path, section, name, "accuracy"),
    }
    if (found["accuracy"] or 0) > 1:
        raise _malformed(path, f"{name}.accuracy is more than 1")
    return {key: value for key, value in found.items() if value is not None}


def _groups(path: Path, data: Mapping[str, Any]) -> dict[str, int]:
    """What the plan keeps of each group."""
    groups = _section(path, _section(path, data, "plan"), "groups", "plan.groups")
    found = {}
    for name, pair in groups.items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int for n in pair):
            raise _malformed(path, f"the widths of {plain(name)} are no pair of whole numbers")
        found[name] = min(max(pair[0], 0), _LARGEST)
    return found


def _section(path: Path, data: Mapping[str, Any], name: str, told: str = "") -> Mapping[str, Any]:
    found = data.get(name)
    if not isinstance(found, Mapping):
        raise _malformed(path, f"it has no section {told or name}")
    return found


def _number(
    path: Path, section: Mapping[str, Any], where: str, name: str, *, whole: bool = False
) -> float | None:
    value = section.get(name)
    if value is None:
        return None
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _malformed(path, f"{where}.{name} is {plain(repr(value))}, no {'whole ' * whole}number")
    if not 0 <= value <= _LARGEST or not math.isfinite(value):
        raise _malformed(path, f"{where}.{name} cannot be {plain(repr(value))}")
    return value


def _malformed(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"the report {plain(path)} is malformed: {what}", hint="write it anew")


def _of_onnx(path: Path) -> Figures:
    from profilers.onnx_cost import count_onnx

    found = count_onnx(path)
    files = [path, *(plain_file(path.parent, location) for location in found.external)]
    values: dict[str, float] = {"params": found.params, "size": sum(f.stat().st_size for f in files)}
    missing = {n: "not counted from an ONNX file" for n in ("memory", "latency", "accuracy")}
    if found.macs is not None:
        values["macs"] = found.macs
    else:
        missing["macs"] = plain("; ".join(found.uncounted))
    return Figures(str(path), "ONNX file", values, {}, missing, found.widths)


def _of_model(path: Path, trust_code: bool) -> Figures:
    from graph.cost import costs
    from prune.load import ModelSource, load
    from prune.subject import program_of

    loaded = load(ModelSource(model=str(path), trust_code=trust_code))
    program = program_of(loaded)
    cost = costs(program)
    values: dict[str, float] = {
        "params": cost.params,
        "size": loaded.size_bytes,
        "memory": cost.memory_bytes,
    }
    missing = {n: "not measured from a model file" for n in ("latency", "accuracy")}
    if cost.unknown:
        missing["macs"] = plain(f"{', '.join(cost.unknown)} has no cost rule")
    else:
        values["macs"] = cost.macs
    widths = {name.removesuffix(".weight"): t.shape[0] for name, t in program.tensors.items() if t.dim() > 1}
    return Figures(str(path), "model file", values, {}, missing, widths)
