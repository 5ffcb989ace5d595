"""Predicted against measured latency: random plans, run in onnxruntime in turn with the original.

    python benchmarks/latency_model.py [--networks resnet20,vgg16] [--plans 5] [--output FILE.json]

The prediction is the table's, and the same with a slope that one uniform plan of half of the MACs has set, as
`prune compress --latency` does. Every measured ratio is the median of several paired measurements; the noise
is half the distance between the largest and the smallest of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Not benchmarks/ itself, where this file would hide a module of its name.
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from graph.axes import infer  # noqa: E402
from graph.capture import capture  # noqa: E402
from graph.program import Program, ProgramModule  # noqa: E402
from models_zoo import registry  # noqa: E402
from profilers.latency import environment, onnx_call, paired_ratio  # noqa: E402
from profilers.latency_model import LatencyModel  # noqa: E402
from profilers.op_latency import OpTable  # noqa: E402
from prune.budget import Budget  # noqa: E402
from prune.export import export_onnx  # noqa: E402
from prune.importance import magnitude  # noqa: E402
from prune.plan import make_plan  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.widths import WidthSpace  # noqa: E402

NETWORKS = ("resnet20", "resnet56", "mobilenet_v2", "vgg16")


def exported(program: Program, path: Path) -> Path:
    """The ONNX file of a program."""
    export_onnx(ProgramModule(program), program.random_inputs(2), path)
    return path


def rows(name: str, plans: int, round_to: int, folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each random plan: shares of the MACs and of the latency, predicted and measured."""
    torch.manual_seed(0)
    axes = infer(capture(registry.build(name), [torch.randn(2, *registry.find(name).input_shape)]))
    space = WidthSpace(axes, round_to=round_to)
    model = LatencyModel(axes, OpTable(), any_width=round_to % 4 != 0)
    whole = float(model.milliseconds(space.cost.widths))
    one = axes.program.random_inputs(1)
    original = onnx_call(exported(axes.program, folder / f"{name}.onnx"), *map(Tensor.numpy, one))
    random = np.random.default_rng(0)
    slope = 1.0
    for index in range(plans + 1):
        share = float(random.uniform(0.25, 0.85)) if index else 0.5
        wish = random.uniform(0.2, 1.0, space.bundles) if index else np.ones(space.bundles)
        levels = Budget.of(space, macs=share * space.base_macs).project(wish)
        plan = make_plan(space, levels, magnitude(axes), "random")
        file = exported(prune_program(axes, plan), folder / f"{name}-{index}.onnx")
        found = paired_ratio(original, onnx_call(file, *map(Tensor.numpy, one)))
        table = float(model.milliseconds(space.widths(levels))) / whole
        if index == 0:  # sets the slope and is no part of the comparison
            slope = (1 - found.ratio) / (1 - table)
            continue
        yield {
            "network": name,
            "round_to": round_to,
            "macs": plan.ratio,
            "table": table,
            "predicted": 1 - slope * (1 - table),
            "measured": found.ratio,
            "noise": found.noise,
            "original_ms": found.base_ms,
            "table_ms": whole,
            "slope": slope,
        }


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    """Mean absolute errors of the prediction and of the share of MACs, and the correlations."""
    measured = np.array([row["measured"] for row in found])
    result = {}
    for key in ("predicted", "table", "macs"):
        values = np.array([row[key] for row in found])
        result[f"{key}_error"] = float(np.abs(values - measured).mean())
        result[f"{key}_correlation"] = float(np.corrcoef(values, measured)[0, 1])
    return result


def main() -> None:
    """Print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--plans", type=int, default=5)
    parser.add_argument("--round-to", type=int, default=4)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    results = []
    columns = ("macs", "table", "predicted", "measured", "noise")
    head = "network".ljust(14) + "".join(c.rjust(11) for c in columns)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.networks.split(","):
            print(head, flush=True)
            found = []
            for row in rows(name, given.plans, given.round_to, Path(folder)):
                found.append(row)
                print(name.ljust(14) + "".join(f"{row[c]:11.3f}" for c in columns), flush=True)
            totals = summary(found)
            for key in ("predicted", "table", "macs"):
                error, correlation = totals[f"{key}_error"], totals[f"{key}_correlation"]
                print(f"  {key}: mean absolute error {error:.3f}, correlation {correlation:.3f}", flush=True)
            results.append({"network": name, "plans": found, **totals})
    if given.output:
        given.output.write_text(
            json.dumps({"environment": environment(), "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
