"""Reading a pruned model back: graph and weights of a run, without pickle and without the original class."""

from __future__ import annotations

from pathlib import Path

from graph.errors import ModelFileError
from graph.program import Program, ProgramModule
from prune.export import load_weights
from prune.files import read_json
from prune.plan import Plan

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "model.safetensors"
PLAN_FILE = "plan.json"


def load_program(folder: str | Path) -> Program:
    """The pruned program of a run.

    Args:
        folder: written by ``prune compress``.

    Raises:
        ModelFileError: a file is missing or broken.
        ProgramError: graph and weights do not fit each other.
    """
    path = Path(folder)
    if not (path / GRAPH_FILE).is_file():
        raise ModelFileError(
            f"{path} holds no {GRAPH_FILE}", hint="give the folder that `prune compress` wrote"
        )
    data = read_json(path / GRAPH_FILE, "the graph of a pruned model")
    return Program.from_json(data, load_weights(path / WEIGHTS_FILE))


def load_pruned(folder: str | Path) -> ProgramModule:
    """The pruned model of a run as a module that evaluates, fine-tunes and exports.

    Nothing in the folder can run code: the graph names ATen operators from an allowed set, the weights are
    safetensors.

    Args:
        folder: written by ``prune compress``.

    Raises:
        ModelFileError: a file is missing or broken.
        ProgramError: graph and weights do not fit each other.
    """
    return ProgramModule(load_program(folder))


def load_plan(folder: str | Path) -> Plan:
    """The plan of a run.

    Raises:
        ModelFileError: the file is missing or broken.
        PlanError: it holds no plan.
    """
    return Plan.from_json(read_json(Path(folder) / PLAN_FILE, "a plan"))
