"""Reports for tests, made by the class that writes them, without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prune.report import ModelFigures, Report


def figures(**changed: Any) -> ModelFigures:
    found: dict[str, Any] = {
        "macs": 2_000_000,
        "params": 100_000,
        "peak_activation_bytes": 1_000,
        "memory_bytes": 401_000,
        "onnx_bytes": 402_000,
        "torch_ms": {"median": 2.0, "p10": 1.9, "p90": 2.1},
        "onnx_ms": {"median": 1.0, "p10": 0.9, "p90": 1.1},
        "accuracy": 0.92,
        "accuracy_before_tuning": 0.92,
    }
    return ModelFigures(**found | changed)


def report(original: ModelFigures, pruned: ModelFigures, **changed: Any) -> dict[str, Any]:
    """A report as JSON data; whole sections may be given."""
    return made(original, pruned, **changed).to_json()


def made(original: ModelFigures, pruned: ModelFigures, **changed: Any) -> Report:
    """A report; whole sections may be given."""
    sections: dict[str, Any] = {
        "command": ["prune", "compress", "net.pt", "--flops", "0.5"],
        "environment": {},
        "model": {"arch": "net"},
        "data": {"name": "digits"},
        "limits": [],
        "latency_check": None,
        "accuracy": {},
        "search": {"best": {}, "winner": "uniform", "gain_over_uniform": None},
        "plan": {"method": "uniform", "groups": {"conv1": [8, 16], "conv2": [16, 32]}},
        "states": None,
        "tune": {"epochs": 0},
        "verification": {"ran": False},
        "onnx": {},
        "native": {},
        "seed": 0,
        "seconds": 1.0,
    }
    return Report(original=original, pruned=pruned, **sections | changed)


HALF: dict[str, Any] = {
    "macs": 1_000_000,
    "params": 50_000,
    "memory_bytes": 201_000,
    "onnx_bytes": 202_000,
    "onnx_ms": {"median": 0.8, "p10": 0.7, "p90": 0.9},
    "accuracy": 0.91,
}


def write_report(path: Path, **changed: Any) -> Path:
    """A report of half the MACs, 1.25 times as fast, with 91 of 92 % accuracy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report(figures(), figures(**HALF | changed))))
    return path
