"""The student: the module that is measured and tuned in place of a pruned program.

For most networks it is the program itself. A Mamba's program writes its scan out, with all states in memory;
its own class runs it in blocks, forward and backward, and is the student where it runs with the pruned
weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from graph.errors import ArchitectureError
from graph.program import Program, ProgramModule
from models_zoo.mamba_lm import MambaLM
from prune.native import native_module
from prune.smaller_mamba import smaller_mamba
from prune.subject import Subject

_SECONDS = 60.0  # for finding the attributes of the class


def reference_of(subject: Subject) -> nn.Module:
    """What is evaluated, and teaches, for a whole program: its own class where that is much faster."""
    own = subject.loaded.module
    return own if isinstance(own, MambaLM) else ProgramModule(subject.program)


@dataclass(frozen=True)
class Student:
    """A module that computes what a program computes.

    Attributes:
        module: in eval mode.
        program: with the weights that the module began with.
    """

    module: nn.Module
    program: Program

    def updated(self) -> Program:
        """The program with the module's present weights."""
        if isinstance(self.module, ProgramModule):
            return self.module.updated()
        state = self.module.state_dict()
        tensors = {k: state[k].detach().clone() if k in state else t for k, t in self.program.tensors.items()}
        return replace(self.program, tensors=tensors)


def student_of(subject: Subject, program: Program) -> Student:
    """The student for a program that was cut out of a subject."""
    own = subject.loaded.module
    if isinstance(own, MambaLM):
        try:  # states alone are sizes of the class: nothing has to be searched for
            return Student(smaller_mamba(own.sizes, program.tensors), program)
        except ArchitectureError:
            pass
        found = native_module(own, subject.program, program, seconds=_SECONDS)
        if found.module is not None:
            return Student(found.module.eval(), program)
    return Student(ProgramModule(program), program)
