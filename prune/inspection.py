"""Inspection: what a model costs, which channels go together, and how accurate a file is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graph.errors import DataError, UsageError
from graph.program import ProgramModule
from graph.suggest import suggestion
from models_zoo.data import DataSet, Split
from models_zoo.mamba_lm import MambaAnyLength, MambaLM, MambaStep
from profilers.onnx_cost import count_onnx
from profilers.onnx_trial import try_onnx
from prune.checkpoint import check_readable
from prune.data import load_data
from prune.evaluation import Evaluation, evaluate
from prune.export import OnnxCheck, export_onnx, export_pt2
from prune.external_data import plain_file
from prune.files import check_output_file
from prune.inputs import inputs_of
from prune.load import ModelSource, load
from prune.mamba import is_mamba
from prune.manifest import check_file, check_folder, renew
from prune.onnx_model import OnnxModel
from prune.report import count, size
from prune.smaller_mamba import CHECKPOINT
from prune.subject import NO_DATA, Subject, measured_on, must_find_data, program_of
from prune.widths import WidthSpace

_FORMS = ("graph", "any-length", "step")
Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]


@dataclass(frozen=True)
class Inspection:
    """What there is to know about a model before it is pruned."""

    subject: Subject
    space: WidthSpace

    @property
    def lowest_macs(self) -> int:
        """The fewest MACs that any widths reach."""
        return self.space.lowest_macs if self.space.bundles else self.space.base_macs

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        axes, cost = self.subject.axes, self.subject.costs
        return {
            "arch": self.subject.loaded.arch,
            "input_shape": list(self.subject.loaded.input_shape),
            "inputs": [i.to_json() for i in inputs_of(self.subject.program).items],
            "dynamic_batch": self.subject.program.dynamic_batch,
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
                {"name": b.name, "groups": [axes.groups[g].name for g in b.groups], "widths": widths}
                for b, widths in zip(axes.bundles, self.space.level_counts, strict=True)
            ],
            "minimum": dict(self.subject.minimum),
            "pinned": [{"tensor": p.tensor, "channels": p.channels, "reason": p.reason} for p in axes.pinned],
            "without_rule": dict(axes.unsupported),
            "without_cost": dict(cost.unknown),
            "notes": [*self.subject.loaded.notes, *self.subject.program.notes],
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
        for bundle, widths in zip(axes.bundles, self.space.level_counts, strict=True):
            units = sum(len(axes.groups[g].units) for g in bundle.groups)
            tensors = sorted({name for g in bundle.groups for name, _ in axes.groups[g].tensors})
            layers = sorted({name.rpartition(".")[0] for name in tensors if name.endswith("weight")})
            told = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
            kind = axes.groups[bundle.groups[0]].kind
            bundles.append((bundle.name, kind, str(units), str(widths), told))
        header = ("made by", "kind", "units", "widths", "layers that shrink with it")
        result.append(("prunable groups", header, bundles))
        pinned = [(p.tensor, str(p.channels), p.reason) for p in axes.pinned]
        result.append(("pinned", ("parameter", "channels", "why"), pinned))
        return result

    def lines(self) -> list[str]:
        """The figures that belong under the tables."""
        cost = self.subject.costs
        lines = [
            f"inputs: {inputs_of(self.subject.program).told()}",
            f"{count(cost.macs)} MACs = {count(cost.flops)} FLOPs (2 x MACs), {count(cost.params)} "
            f"parameters, {size(cost.peak_activation_bytes)} of activations at the peak, for one record",
            f"lowest reachable: {count(self.lowest_macs)} MACs ({self.lowest_macs / max(1, cost.macs):.4f})",
        ]
        lines += [f"note: {note}" for note in self.subject.notes]
        return lines


def inspect(subject: Subject) -> Inspection:
    """Look at a loaded model."""
    return Inspection(subject, subject.space())


class _OnnxModule(nn.Module):
    """An ONNX file as a module that can be evaluated."""

    def __init__(self, model: OnnxModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def measure(source: ModelSource, data: str | None, split: str) -> tuple[Evaluation, str]:
    """Accuracy of a model, of the folder of a run or of an ONNX file.

    Returns:
        The evaluation and the name of the data.

    Raises:
        PruneError: any of the named failures of loading.
    """
    if split not in ("test", "search"):
        raise UsageError(f"--split {split}: unknown", hint="test or search")
    if data == NO_DATA:
        raise DataError("--data none: accuracy is measured on data", hint="name a data set")
    module, found = _open(source, data)
    part: Split = found.test if split == "test" else found.search
    return evaluate(module, part), found.name


def _open(source: ModelSource, data: str | None) -> tuple[nn.Module, DataSet]:
    if not source.is_named and source.path.suffix == ".onnx":
        if data is None:
            raise DataError(
                "an ONNX file does not say which data it was trained on", hint="name it: --data ..."
            )
        found = load_data(data)
        check_readable(source.path)
        check_file(source.path)
        for location in count_onnx(source.path).external:
            plain_file(source.path.parent, location)
        try_onnx(source.path, found.input_shape)
        model = OnnxModel(source.path)
        if len(model.inputs) > 1:
            raise DataError(
                f"data {data} gives one input for each label, {source.path} takes {', '.join(model.inputs)}",
                hint="only models of one image can be measured",
            )
        return _OnnxModule(model), found
    loaded = load(replace(measured_on(source, data), predicts=True))
    return loaded.module, must_find_data(data, loaded)


@dataclass(frozen=True)
class Exported:
    """A file that was exported.

    Attributes:
        path: the file.
        bytes: its size, with external data.
        check: what was found out about an ONNX file.
        form: what a special form takes, in words.
        batch: the records that it takes at once; None for any number.
    """

    path: Path
    bytes: int
    check: OnnxCheck | None = None
    form: str = ""
    batch: int | None = None

    def told(self) -> str:
        """One line."""
        opset = f", opset {self.check.opset}" if self.check else ""
        parts = [f"wrote {self.path} ({size(self.bytes)}{opset})"]
        parts += [f"it {self.form}"] * bool(self.form) + ([self.check.told] if self.check else [])
        return "; ".join([*parts, f"its batch is fixed to {self.batch}"] if self.batch else parts)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        onnx = self.check
        checked = {"opset": onnx.opset, "max_error": onnx.max_error} if onnx else {}
        return {"file": str(self.path), "bytes": self.bytes, "batch": self.batch, **checked}


def export_model(
    source: ModelSource, output: Path, *, opset: int | None = None, force: bool = False, form: str = "graph"
) -> Exported:
    """Export the folder of a run or any model; the suffix of the output says to what.

    Args:
        source: the model.
        output: the file.
        opset: of ONNX.
        force: replace the file.
        form: ``graph``; or of a Mamba in ONNX ``any-length`` or ``step``.

    Returns:
        What was written.

    Raises:
        UsageError: another suffix, or a form that the model does not have.
        PruneError: any of the named failures of loading and exporting.
    """
    if output.suffix not in (".onnx", ".pt2"):
        raise UsageError(f"{output}: unknown kind of file", hint="name a .onnx or .pt2 file")
    if form not in _FORMS:
        raise UsageError(f"--form {form}: unknown", hint=suggestion(form, _FORMS))
    check_output_file(output, force)
    if form != "graph" and is_mamba(source.path / CHECKPOINT):  # a run has the model in its own class there
        check_folder(source.path)
        source = replace(source, model=f"hf:{source.path / CHECKPOINT}")
    loaded = load(source)
    if form != "graph":
        return _export_mamba(loaded.module, source.model, output, opset, form)
    program = program_of(loaded)
    module, example, free = ProgramModule(program), program.random_inputs(2), program.dynamic_batch
    batch = None if free else int(program.inputs[0].shape[0])
    if output.suffix == ".pt2":
        export_pt2(module, example, output, dynamic_batch=free)
        renew(output)
        return Exported(output, output.stat().st_size, batch=batch)
    checked = export_onnx(module, example, output, opset=opset, dynamic_batch=free)
    renew(output)
    return Exported(output, checked.size_bytes, checked, batch=batch)


def _export_mamba(module: nn.Module, name: str, output: Path, opset: int | None, form: str) -> Exported:
    """A form of a Mamba that is no plain graph of its forward."""
    if not isinstance(module, MambaLM) or output.suffix != ".onnx":
        raise UsageError(
            f"--form {form} is for ONNX files of Mamba language models, not for {output} from {name}",
            hint="leave out --form",
        )
    if form == "step":
        step = MambaStep(module)
        checked = export_onnx(step, step.example(2), output, opset=opset)
        told = f"takes {len(step.input_names)} inputs: {step.input_names[0]} and the states of each layer"
    else:
        example = torch.arange(18).reshape(2, 9) % module.sizes.vocab_size
        checked = export_onnx(MambaAnyLength(module), example, output, opset=opset, dynamic_length=True)
        told = "takes tokens of any length"
    renew(output)
    return Exported(output, checked.size_bytes, checked, form=told)
