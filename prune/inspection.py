"""Inspection: what a model costs, which channels go together, and how accurate a file is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graph.errors import DataError, UsageError
from graph.program import ProgramModule
from models_zoo.data import DataSet, Split
from prune.data import load_data
from prune.export import OnnxModel, export_onnx, export_pt2
from prune.files import check_output_file, read_json
from prune.load import load_model
from prune.pipeline import Subject, load_matching_data
from prune.plan import WidthSpace
from prune.pruned import load_pruned
from prune.report import count, size
from prune.tune import Evaluation, evaluate

Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]


@dataclass(frozen=True)
class Inspection:
    """What there is to know about a model before it is pruned."""

    subject: Subject
    lowest_macs: int

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        axes, cost = self.subject.axes, self.subject.costs
        return {
            "arch": self.subject.loaded.arch,
            "input_shape": list(self.subject.loaded.input_shape),
            "macs": cost.macs,
            "flops": cost.flops,
            "params": cost.params,
            "peak_activation_bytes": cost.peak_activation_bytes,
            "lowest_macs": self.lowest_macs,
            "operators": [
                {
                    "name": o.node,
                    "op": o.op,
                    "module": o.module,
                    "macs": o.macs,
                    "params": o.params,
                    "activation_bytes": o.activation_bytes,
                }
                for o in cost.ops
            ],
            "groups": [
                {
                    "name": g.name,
                    "kind": g.kind,
                    "units": len(g.units),
                    "tensors": [list(t) for t in g.tensors],
                }
                for g in axes.groups
            ],
            "bundles": [
                {"name": b.name, "groups": [axes.groups[g].name for g in b.groups], "widths": len(b.layouts)}
                for b in axes.bundles
            ],
            "pinned": [{"tensor": p.tensor, "channels": p.channels, "reason": p.reason} for p in axes.pinned],
            "without_rule": dict(axes.unsupported),
            "without_cost": dict(cost.unknown),
            "notes": list(self.subject.program.notes),
        }

    def tables(self, *, ops: bool) -> list[Table]:
        """Tables for a terminal: title, header, rows."""
        axes, cost = self.subject.axes, self.subject.costs
        result: list[Table] = []
        if ops:
            rows = [
                (
                    o.module or "-",
                    o.op.removeprefix("aten."),
                    f"{o.macs:,}",
                    f"{o.params:,}",
                    size(o.activation_bytes),
                )
                for o in cost.ops
            ]
            result.append(("operators", ("module", "operator", "MACs", "parameters", "activation"), rows))
        bundles = []
        for bundle in axes.bundles:
            units = sum(len(axes.groups[g].units) for g in bundle.groups)
            tensors = sorted({name for g in bundle.groups for name, _ in axes.groups[g].tensors})
            layers = sorted({name.rpartition(".")[0] for name in tensors if name.endswith("weight")})
            told = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
            bundles.append((bundle.name, str(units), str(len(bundle.layouts)), told))
        result.append(
            ("prunable groups", ("made by", "channels", "widths", "layers that shrink with it"), bundles)
        )
        pinned = [(p.tensor, str(p.channels), p.reason) for p in axes.pinned]
        result.append(("pinned", ("parameter", "channels", "why"), pinned))
        return result

    def lines(self) -> list[str]:
        """The figures that belong under the tables."""
        axes, cost = self.subject.axes, self.subject.costs
        lines = [
            f"{count(cost.macs)} MACs = {count(cost.flops)} FLOPs (2 x MACs), {count(cost.params)} "
            f"parameters, {size(cost.peak_activation_bytes)} of activations at the peak, for one record",
            f"lowest reachable: {count(self.lowest_macs)} MACs ({self.lowest_macs / max(1, cost.macs):.4f})",
        ]
        lines += [f"note: {note}" for note in self.subject.program.notes]
        lines += [f"no rule for {op}: {n} channels that enter it stay" for op, n in axes.unsupported.items()]
        lines += [
            f"no cost rule for {op} ({n} times): its MACs are not counted" for op, n in cost.unknown.items()
        ]
        return lines


def inspect(subject: Subject) -> Inspection:
    """Look at a loaded model."""
    space = WidthSpace(subject.axes)
    return Inspection(subject, space.lowest_macs if space.bundles else space.base_macs)


class _OnnxModule(nn.Module):
    """An ONNX file as a module that can be evaluated."""

    def __init__(self, model: OnnxModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def measure(
    path: Path,
    data: str | None,
    split: str,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    trust_code: bool = False,
) -> tuple[Evaluation, str]:
    """Accuracy of a model file, of the folder of a run or of an ONNX file.

    Returns:
        The evaluation and the name of the data.

    Raises:
        PruneError: any of the named failures of loading.
    """
    if split not in ("test", "search"):
        raise UsageError(f"--split {split}: unknown", hint="test or search")
    module, found = _open(path, data, arch, arch_args, input_shape, trust_code)
    part: Split = found.test if split == "test" else found.search
    return evaluate(module, part), found.name


def _open(
    path: Path,
    data: str | None,
    arch: str | None,
    arch_args: Mapping[str, Any] | None,
    input_shape: tuple[int, ...] | None,
    trust_code: bool,
) -> tuple[nn.Module, DataSet]:
    if path.suffix == ".onnx":
        if data is None:
            raise DataError(
                "an ONNX file does not say which data it was trained on", hint="name it: --data ..."
            )
        return _OnnxModule(OnnxModel(path)), load_data(data)
    if path.is_dir():
        module = load_pruned(path)
        name = data or str(read_json(path / "report.json", "a report")["data"]["name"])
        return module, load_data(name)
    loaded = load_model(path, arch=arch, arch_args=arch_args, input_shape=input_shape, trust_code=trust_code)
    return loaded.module, load_matching_data(data, loaded)


def export_model(
    path: Path,
    output: Path,
    *,
    opset: int | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    force: bool = False,
    trust_code: bool = False,
) -> str:
    """Export the folder of a run or a model file; the suffix of the output says to what.

    Returns:
        A line that says what was written.

    Raises:
        UsageError: another suffix.
        PruneError: any of the named failures of loading and exporting.
    """
    if output.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{output}: unknown kind of file", hint="name a .onnx or .pt2 file")
    check_output_file(output, force)
    module: nn.Module
    if path.is_dir():
        pruned: ProgramModule = load_pruned(path)
        module, example, dynamic = pruned, pruned.program.random_inputs(2)[0], pruned.program.dynamic_batch
    else:
        loaded = load_model(
            path, arch=arch, arch_args=arch_args, input_shape=input_shape, trust_code=trust_code
        )
        module, example, dynamic = loaded.module, torch.randn(2, *loaded.input_shape), True
    if output.suffix == ".pt2":
        export_pt2(module, example, output, dynamic_batch=dynamic)
        return f"wrote {output} ({size(output.stat().st_size)})"
    checked = export_onnx(module, example, output, opset=opset, dynamic_batch=dynamic)
    return (
        f"wrote {output} ({size(checked.size_bytes)}, opset {checked.opset}); "
        f"agrees with torch to {checked.max_error:.1e} in {checked.comparisons} comparisons"
    )
