"""Reports for tests of what is made of them: a small one with every section, and those of a curve."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

LATENCY = {"median": 2.5, "p10": 2.25, "p90": 2.75}
REPORT: dict[str, Any] = {
    "format": "prune-report",
    "schema": 2,
    "command": ["prune", "compress", "net.pt", "--flops", "0.5", "--only", "*.mlp.*", "-o", "out dir"],
    "environment": {"prune": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "cpu": "some processor"},
    "model": {"path": "net.pt", "sha256": "ab" * 32, "arch": "resnet20", "arch_args": {"num_classes": 10},
              "inputs": [{"name": "input", "shape": [2, 1, 8, 8], "dtype": "float32"}]},
    "data": {"name": "digits", "notes": ["a note"], "train": 1078, "search": 359, "test": 360},
    "limits": [{"quantity": "macs", "unit": "MACs", "option": "--flops", "asked": "0.5", "limit": 1_258_304,
                "original": 2_516_608, "predicted": 1_256_530.0, "pruned": 1_256_530}],
    "latency_check": None,
    "original": {"macs": 2_516_608, "params": 269_434, "peak_activation_bytes": 12_288, "flops": 5_033_216,
                 "memory_bytes": 1_095_680, "onnx_bytes": 1_096_784, "torch_ms": LATENCY,
                 "onnx_ms": {"median": 4.0, "p10": 3.5, "p90": 4.5}, "accuracy": 0.875,
                 "accuracy_before_tuning": 0.875},
    "pruned": {"macs": 1_256_530, "params": 104_634, "peak_activation_bytes": 12_288, "flops": 2_513_060,
               "memory_bytes": 434_736, "onnx_bytes": 438_442, "torch_ms": LATENCY,
               "onnx_ms": LATENCY, "accuracy": 0.9375, "accuracy_before_tuning": 0.703125},
    "accuracy": {"split": "test", "records": 360, "original": 0.875, "after_tuning": 0.9375},
    "search": {
        "winner": "refinement", "gain_over_uniform": 0.25, "images": 256, "evaluations": 8, "seconds": 3.5,
        "best": {"uniform": {"accuracy": 0.5, "loss": 1.5, "macs": 1_256_310, "plans": 1},
                 "refinement": {"accuracy": 0.75, "loss": 0.75, "macs": 1_256_530, "plans": 7}},
        "trials": [
            {"method": "uniform" if i == 0 else "refinement", "index": max(i, 1), "macs": 1_256_310 + i,
             "accuracy": 0.5 + i / 32, "loss": 1.5 - i / 16, "seconds": i / 2, "ratios": [0.5],
             "worth": -0.5 + (i if i != 5 else 0) / 32}
            for i in range(8)
        ],
    },
    "plan": {
        "method": "refinement", "importance": "magnitude-taylor", "ratio": 0.4993, "minimum": {},
        "groups": {"conv1": [16, 16], "layer1.0.conv1": [5, 16], "fc": [20, 64]},
        "kinds": {"conv1": "residual", "layer1.0.conv1": "channel", "fc": "mlp"},
        "layers": [{"name": "conv1", "channels": [16, 16], "kind": "residual"},
                   {"name": "layer1.0.conv1", "channels": [5, 16], "kind": "channel"},
                   {"name": "fc", "channels": [20, 64], "kind": "mlp"},
                   {"name": "linear", "channels": [1000, 1000], "kind": None}],
    },
    "tune": {"epochs": 3, "lr": 0.02, "batch_size": 128, "distill": 0.5, "best_epoch": 2, "seconds": 6.5,
             "history": [{"epoch": i, "loss": 1.5 / i, "accuracy": [0.25, 0.9375, 0.875][i - 1],
                          "search_loss": 1.25 / i, "lr": 0.01, "seconds": 1.0} for i in (1, 2, 3)]},
    "verification": {"ran": True, "max_error": 1.9e-16, "limit": 1e-9, "records": 2},
    "onnx": {"opset": 20, "max_error": 1.0e-6, "rounding": 0.0, "comparisons": 15},
    "blocks": None,
    "states": None,
    "native": {"runs": True, "reason": "", "file": "native.safetensors",
               "attributes": [{"name": "conv1.out_channels", "old": 16, "new": 9}]},
    "sensitivity": {
        "records": 256, "unit": "images", "whole": {"accuracy": 0.875, "loss": 0.5},
        "groups": [
            {"name": n, "kind": "channel", "units": 16, "layers": [n],
             "cuts": [{"share": r, "ratio": r, "macs": 2_000_000 + i, "accuracy": 0.5 + r / (4 + 2 * i),
                       "loss": 1.5 + i - r} for r in (0.75, 0.5, 0.25)]}
            for i, n in enumerate(("conv1", "layer1.0.conv1"))
        ],
    },
    "seed": 0,
    "seconds": 54.25,
    "point": None,
}  # fmt: skip


def report(**changes: Any) -> dict[str, Any]:
    """A copy of ``REPORT`` with other sections."""
    return copy.deepcopy(REPORT) | changes


def write_report(folder: Path, data: Any) -> Path:
    """Write ``report.json``; NaN is written as Python writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.json"
    path.write_text(json.dumps(data))
    return path


def write_curve(folder: Path, names: tuple[str, ...] = ("0.60", "0.40"), **changes: Any) -> Path:
    """Write the folder of a curve, each point with a report."""
    points = [
        {"name": n, "macs": 100 - 20 * i, "macs_ratio": 1 - i / 5, "params": 50 - i, "memory_bytes": 4000,
         "accuracy_before_tuning": 0.75 - i / 8, "accuracy": 0.875 - i / 16, "latency_ms": 2.0 - i / 4,
         "dominated": i == 0}
        for i, n in enumerate(("original", *names))
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    words = ["prune", "compress", "net.pt", "--pareto", "0.6,0.4", "-o", "curve"]
    data = {"format": "prune-pareto", "schema": 1, "command": words, "points": points} | changes
    (folder / "pareto.json").write_text(json.dumps(data))
    for name in names:
        if name.replace(".", "").isalnum():
            write_report(folder / name, report())
    return folder
