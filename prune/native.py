"""Native: the user's own module with the pruned weights, where its forward runs with them.

The program of a pruned model is always complete. A module is more: the user's own code, which may have
written its sizes down. Torch's layers declare theirs, and those follow from the weights. Any other attribute
counts as a size only on evidence: forward reads it, and its value is a size that the same module had in the
original program and has no longer in the pruned one. Where one old size became several new ones, running
decides. The result counts only when it computes what the pruned program computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from graph.program import Program, ProgramModule
from prune.attributes import Change, assign, copied, in_double, set_attributes
from prune.evidence import Evidence, declared_changes
from prune.fitting import Search
from prune.witness import Trial, Witness, own_module

# How often a module may run.
TRIALS = 1000


@dataclass(frozen=True)
class NativeResult:
    """The outcome of ``native_module``.

    Attributes:
        module: a copy of the user's module with the pruned sizes, or None where its forward cannot run with
            them.
        changes: the attributes that were set.
        reason: one sentence on what does not run; empty where there is a module.
    """

    module: nn.Module | None
    changes: tuple[Change, ...] = ()
    reason: str = ""


def native_module(
    module: nn.Module, program: Program, pruned: Program, *, trials: int = TRIALS
) -> NativeResult:
    """The user's own module with the weights of a pruned program, and the attributes that go with them.

    Args:
        module: what the program was captured from; left as it was. Of an adapter, the module within.
        program: captured from it.
        pruned: made from that program by surgery, fine-tuned or not.
        trials: how many forward passes the search for the attributes may take.
    """
    if isinstance(module, ProgramModule):
        return NativeResult(None, reason="the model was given as a program, which is no module of its own")
    try:
        witness = Witness(in_double(copied(module)), program, pruned)
        tried = copied(module)
    except Exception as err:  # noqa: BLE001 - a module is copied by code of its own
        return NativeResult(None, reason=f"{_kind(module)} cannot be copied: {_line(err)}")
    if not witness.first.passed:
        return NativeResult(None, reason=f"the original itself: {_told(module, witness.first)}")
    root = own_module(tried)
    evidence = Evidence(own_module(copied(module)), program, pruned, witness)
    fixed = list(declared_changes(root, program, pruned))
    set_attributes(root, fixed)
    assign(root, pruned.tensors)
    in_double(tried)
    slots = [*evidence.slots({c.name for c in fixed}), *evidence.tables()]
    search = Search(witness, tried, slots, trials)
    last = search.run()
    if not last.passed:
        return NativeResult(None, reason=_told(module, last))
    fixed += evidence.unread({c.name for c in fixed})
    changes = tuple(sorted({c.name: c for c in (*fixed, *search.changes())}.values()))
    result = copied(module)
    set_attributes(own_module(result), changes)
    assign(own_module(result), pruned.tensors)
    if reason := _training_fails(module, result, program):
        return NativeResult(None, reason=reason)
    return NativeResult(own_module(result), changes)


def _training_fails(module: nn.Module, result: nn.Module, program: Program) -> str:
    """Why the result does not run in train mode, where the original does; empty if it does."""
    failure = _training_failure(result, program)
    if not failure or _training_failure(module, program):
        return ""
    return f"{_kind(module)} does not run in train mode: {failure}"


def _training_failure(module: nn.Module, program: Program) -> str:
    tried = copied(module).train()
    with torch.random.fork_rng(devices=[]):
        try:
            tried(*program.random_inputs(2))
        except Exception as err:  # noqa: BLE001 - the user's own code
            return _line(err)
    return ""


def _told(module: nn.Module, trial: Trial) -> str:
    place = own_module(module).get_submodule(trial.module)
    at = f" at {trial.module}" if trial.module else ""
    return f"{_kind(place)}.forward{at} fails: {trial.message}"


def _kind(module: nn.Module) -> str:
    return type(own_module(module)).__name__


def _line(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0]
