"""Every network of the zoo at half of its MACs, uniformly pruned, beside Torch-Pruning in the same run.

    python benchmarks/zoo.py [NAME ...] [-o benchmarks/results/zoo.json]

For each network: seconds to capture it, to find its groups and to cut it; MACs recounted on the pruned
program; the float64 proof; ONNX parity; latency in onnxruntime of the original over the pruned network,
measured in turn. For Torch-Pruning (MagnitudePruner at ratio 0.3, no hints): seconds, whether it ends, the
MACs that are left and whether the result runs forward.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Not benchmarks/ itself, where graph.py would hide the package of its name.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import nn  # noqa: E402

from graph.axes import infer  # noqa: E402
from graph.capture import capture  # noqa: E402
from graph.cost import costs  # noqa: E402
from graph.errors import first_line  # noqa: E402
from graph.program import ProgramModule  # noqa: E402
from models_zoo import registry  # noqa: E402
from profilers.latency import compare, environment, onnx_call  # noqa: E402
from prune.budget import Budget  # noqa: E402
from prune.export import export_onnx  # noqa: E402
from prune.importance import magnitude  # noqa: E402
from prune.plan import make_plan  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.verify import verify  # noqa: E402
from prune.widths import WidthSpace  # noqa: E402


def randomised(name: str) -> nn.Module:
    """A network whose batch-norm scales and statistics are not all ones and zeros, so that errors show."""
    torch.manual_seed(0)
    module = registry.build(name).eval()
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return module


def ours(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Prune a network uniformly to half of its MACs with this project."""
    start = time.perf_counter()
    program = capture(module, [torch.randn(2, *shape)])
    captured = time.perf_counter()
    axes = infer(program)
    inferred = time.perf_counter()
    space = WidthSpace(axes)
    levels = Budget.of(space, macs=space.base_macs // 2).project([1.0] * space.bundles)
    plan = make_plan(space, levels, magnitude(axes), "uniform")
    planned = time.perf_counter()
    pruned = prune_program(axes, plan)
    cut = time.perf_counter()
    proof = verify(axes, plan.keep_mask(axes), pruned)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("original", "pruned")}
        example = program.random_inputs(2)[0]
        checks = {
            name: export_onnx(ProgramModule(p), example, paths[name])
            for name, p in (("original", program), ("pruned", pruned))
        }
        one = example[:1].numpy()
        latency = compare({name: onnx_call(path, one) for name, path in paths.items()})
    return {
        "macs": space.base_macs,
        "params": costs(program).params,
        "groups": len(axes.groups),
        "bundles": len(axes.bundles),
        "kept_macs": costs(pruned).macs / space.base_macs,
        "kept_params": costs(pruned).params / costs(program).params,
        "verify_error": proof.max_error,
        "onnx_error": checks["pruned"].max_error,
        "onnx_ms": {name: found.median_ms for name, found in latency.items()},
        "speedup_onnx": latency["original"].median_ms / latency["pruned"].median_ms,
        "capture_s": captured - start,
        "infer_s": inferred - captured,
        "surgery_s": cut - planned,
    }


def torch_pruning(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Prune the same network with Torch-Pruning's defaults; the classifier is excluded, as its guide says."""
    import torch_pruning as tp

    subject = copy.deepcopy(module)
    example = torch.randn(1, *shape)
    last = [m for m in subject.modules() if isinstance(m, nn.Linear)][-1:]
    start = time.perf_counter()
    try:
        before = tp.utils.count_ops_and_params(subject, example)[0]
        pruner = tp.pruner.MagnitudePruner(
            subject,
            example,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.3,
            ignored_layers=last,
        )
        pruner.step()
        seconds = time.perf_counter() - start
        subject(example)
        after = tp.utils.count_ops_and_params(subject, example)[0]
    except Exception as err:  # noqa: BLE001 - whatever the peer raises is the finding
        return {"result": f"{type(err).__name__}: {first_line(err)[:60]}"}
    return {"result": "runs", "seconds": seconds, "kept_macs": after / before}


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=registry.names())
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/zoo.json"))
    options = parser.parse_args()
    table = Table(
        "network", "MACs", "kept", "groups", "verify", "ONNX", "speed-up", "capture s", "infer s", "cut s",
        "Torch-Pruning",
    )  # fmt: skip
    results = {}
    for name in options.names:
        entry = registry.find(name)
        module = randomised(entry.name)
        mine, theirs = ours(module, entry.input_shape), torch_pruning(module, entry.input_shape)
        results[entry.name] = {"prune": mine, "torch_pruning": theirs}
        told = (
            f"{theirs['kept_macs']:.3f} in {theirs['seconds']:.1f} s"
            if "seconds" in theirs
            else theirs["result"]
        )
        table.add_row(
            entry.name, f"{mine['macs'] / 1e6:.1f} M", f"{mine['kept_macs']:.4f}", str(mine["groups"]),
            f"{mine['verify_error']:.0e}", f"{mine['onnx_error']:.0e}", f"{mine['speedup_onnx']:.2f} x",
            f"{mine['capture_s']:.1f}", f"{mine['infer_s']:.2f}", f"{mine['surgery_s']:.2f}", told,
        )  # fmt: skip
    Console(width=150).print(table)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    data = {"command": "python benchmarks/zoo.py", "environment": environment(), "results": results}
    options.output.write_text(json.dumps(data, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
