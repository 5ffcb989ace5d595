"""Reading a pruned model back: as a program, which needs no class, or into the class of its user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from graph.adapter import adapt
from graph.capture import capture
from graph.errors import ArchitectureError, ModelFileError
from graph.guard import check_stored
from graph.program import Program, ProgramModule
from prune.attributes import copied
from prune.configured import is_configured
from prune.files import read_json, write_json
from prune.inputs import inputs_of, with_inputs
from prune.manifest import check_file, check_folder
from prune.native import native_module
from prune.plan import Plan
from prune.report import REPORT_FILE
from prune.tensor_files import load_weights, save_weights

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "model.safetensors"
PLAN_FILE = "plan.json"
NATIVE_FILE = "native.safetensors"


def save_program(program: Program, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write a program as ``load_program`` reads it: its graph as JSON, its weights as safetensors.

    Args:
        program: the program.
        folder: which is there.
        metadata: of the file of weights.

    Raises:
        OutputError: a file cannot be written.
    """
    write_json(folder / GRAPH_FILE, program.to_json())
    save_weights(program, folder / WEIGHTS_FILE, metadata)


def load_program(folder: str | Path) -> Program:
    """The pruned program of a run; nothing is compared with the manifest.

    Args:
        folder: written by ``prune compress``.

    Raises:
        ModelFileError: a file is missing or broken.
        ProgramError: graph and weights do not fit each other, or the graph asks for what no model needs.
    """
    path = Path(folder)
    if not (path / GRAPH_FILE).is_file():
        raise ModelFileError(
            f"{path} holds no {GRAPH_FILE}", hint="give the folder that `prune compress` wrote"
        )
    data = read_json(path / GRAPH_FILE, "the graph of a pruned model")
    program = Program.from_json(data, load_weights(path / WEIGHTS_FILE))
    check_stored(program)
    return program


def load_pruned(folder: str | Path) -> ProgramModule:
    """The pruned model of a run as a module that evaluates, fine-tunes and exports.

    Nothing in the folder can run code: the graph names ATen operators from an allowed set, the weights are
    safetensors.

    Args:
        folder: written by ``prune compress``.

    Raises:
        ModelFileError: a file is missing, broken or not the one that was written.
        ProgramError: graph and weights do not fit each other.
    """
    check_folder(Path(folder))
    return ProgramModule(load_program(folder))


def load_native(folder: str | Path, module: nn.Module) -> nn.Module:
    """The pruned model of a run as the user's own class, where its forward runs with the pruned weights.

    Args:
        folder: written by ``prune compress``.
        module: the unpruned model of that run, with any weights; left as it was.

    Returns:
        A copy of the module, in its mode, on the CPU and in float32: weights and sizes are those of the run.

    Raises:
        ModelFileError: a file is missing, broken or not the one that was written.
        CaptureError: the module cannot be captured.
        ArchitectureError: it is not the model of this run, or its forward does not run with the pruned
            weights; says which submodule fails.
    """
    check_folder(Path(folder))
    pruned = load_program(folder)
    named, first = (_says(Path(folder), name) for name in ("by_keyword", "prediction_first"))
    inputs = replace(inputs_of(pruned), named=named)
    own = copied(module).float().cpu()
    if named or first or is_configured(own):
        own = adapt(own, inputs.names if named else None, every=first)
    program = with_inputs(capture(own, inputs.example()), inputs)
    if mismatch := _mismatch(program, pruned):
        raise ArchitectureError(
            f"{type(module).__name__} is not the model that was pruned in {folder}: {mismatch}",
            hint="give the unpruned model, built as for that run; prune.load_pruned needs no model at all",
        )
    result = native_module(own, program, pruned)
    if result.module is None:
        raise ArchitectureError(
            f"{type(module).__name__} does not run with the pruned weights: {result.reason}",
            hint="prune.load_pruned gives the pruned model as a module that needs no class of its own",
        )
    return result.module


def _says(folder: Path, name: str) -> bool:
    """What the report of a run says of how its model was called."""
    report = read_json(folder / REPORT_FILE, "a report") if (folder / REPORT_FILE).is_file() else {}
    model = report.get("model")
    return isinstance(model, dict) and model.get(name) is True


def _mismatch(program: Program, pruned: Program) -> str:
    """Why a program cannot be the one that another was pruned from; empty if it can."""
    for name, tensor in pruned.tensors.items():
        whole = program.tensors.get(name)
        if whole is None:
            return f"it has no tensor {name}"
        if whole.dim() != tensor.dim() or any(n < m for n, m in zip(whole.shape, tensor.shape, strict=True)):
            return (
                f"its tensor {name} is of shape {tuple(whole.shape)}, that of the run {tuple(tensor.shape)}"
            )
    known = {n.name for n in pruned.nodes}
    unknown = [n for n in program.nodes if n.name not in known]
    return f"it computes {unknown[0].name} in {unknown[0].module or 'its forward'}" if unknown else ""


def load_plan(folder: str | Path) -> Plan:
    """The plan of a run.

    Raises:
        ModelFileError: the file is missing, broken or not the one that was written.
        PlanError: it holds no plan.
    """
    check_file(Path(folder) / PLAN_FILE)
    return Plan.from_json(read_json(Path(folder) / PLAN_FILE, "a plan"))
