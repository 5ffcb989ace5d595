"""The result of ``prune.compress``: the pruned module, its program, its plan and its report."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path

from torch import nn

from front import notebook
from graph.program import Program, ProgramModule
from prune.files import OutputFolder
from prune.given import own_copy
from prune.load import ModelSource, load
from prune.native import with_changes
from prune.plan import Plan
from prune.pruned import load_plan, load_program
from prune.report import Report


class Result:
    """A pruned model.

    Attributes:
        module: the model to go on with, in eval mode: of the user's own class where that runs with the pruned
            weights, on the device of the model that was given, else the program as a module.
        program: the pruned model as a graph that needs no class; on the CPU.
        plan: how many and which channels each group keeps.
        report: everything that was measured; ``report.to_json()`` is ``report.json``.
        folder: where all files of the run are. It is temporary, and goes away with this object, unless an
            output was named.

    Args:
        source: the whole model.
        report: of the run.
        folder: of the run.
        temporary: a folder that goes away with this object.
    """

    def __init__(
        self, source: ModelSource, report: Report, folder: Path, temporary: Path | None = None
    ) -> None:
        self.report, self.folder = report, folder
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        self.program: Program = load_program(folder)
        self.plan: Plan = load_plan(folder)
        self.module: nn.Module = _module(source, report, self.program)

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Copy all files of the run: what ``prune eval``, ``prune.load_pruned`` and the others read.

        Args:
            folder: appears with all files, or not at all.
            force: replace files that are there.

        Returns:
            The folder.

        Raises:
            OutputError: it holds files already, or cannot be written.
        """
        path = Path(folder)
        with OutputFolder(path, force) as out:
            shutil.copytree(self.folder, out.staging, dirs_exist_ok=True)
        return path

    def __repr__(self) -> str:
        ratios, accuracy = self.report.ratios(), self.report.pruned.accuracy
        parts = [f"MACs {ratios['macs']:.3f} x", f"parameters {ratios['params']:.3f} x"]
        parts += [f"accuracy {accuracy:.2%}"] if accuracy is not None else []
        return f"Result({self.report.model['arch']}: {', '.join(parts)}; {type(self.module).__name__})"

    def _repr_html_(self) -> str:
        found = self.report
        told = notebook.table(found.model["arch"], ("", "original", "pruned", "change"), found.rows())
        return told + notebook.lines((*found.limit_lines(), found.verdict(), found.own_class()))


def _module(source: ModelSource, report: Report, program: Program) -> nn.Module:
    """The user's own class where the run found that it works, else the program."""
    if not report.native["runs"]:
        return ProgramModule(program)
    given = source.module
    own = own_copy(given) if given is not None else load(source).module
    found = with_changes(own.float().eval(), program, report.native["attributes"])
    place = next((p.device for p in given.parameters()), None) if given is not None else None
    return found if place is None else found.to(place)
