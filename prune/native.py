"""Native: the user's own module with the pruned weights, where its forward runs with them.

The program of a pruned model is always complete. A module is more: the user's own code, which may have
written its sizes down. Torch's layers declare theirs, and those follow from the weights. Any other attribute
counts as a size only on evidence: forward reads it, and its value is a size that the same module had in the
original program and has no longer in the pruned one. Where one old size became several new ones, running
decides. The result counts only when it computes what the pruned program computes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from graph.adapter import INNER
from graph.errors import first_line
from graph.program import Program, ProgramModule
from prune.attributes import Change, copied, set_attributes
from prune.declared import declared_changes
from prune.evidence import find_slots
from prune.fitting import Budget, Search
from prune.placement import device_of
from prune.witness import Trial, Witness, own_module

TRIALS = 1000
SECONDS = 60.0


@dataclass(frozen=True)
class NativeResult:
    """The outcome of ``native_module``.

    Attributes:
        module: a copy of the user's module with the pruned sizes, in the mode and on the device of the
            original; None where its forward cannot run with them.
        changes: the attributes that were set, by name.
        reason: one sentence on what does not run; empty where there is a module.
    """

    module: nn.Module | None
    changes: tuple[Change, ...] = ()
    reason: str = ""


def native_module(
    module: nn.Module, program: Program, pruned: Program, *, trials: int = TRIALS, seconds: float = SECONDS
) -> NativeResult:
    """The user's own module with the weights of a pruned program, and the attributes that go with them.

    The result has the module's own class. In float64 it computes what the pruned program computes, to 1e-9 of
    the largest output or, where the original differs from its own program by more (tables in float32), to ten
    times as much; and it runs in train mode if the original does.

    Args:
        module: what the program was captured from; left as it was, and run only as a copy. Of an adapter, the
            module within.
        program: captured from it.
        pruned: made from that program by surgery, fine-tuned or not.
        trials: how many forward passes the search for the attributes may take.
        seconds: how long all of it may take; a forward pass that has begun is finished.
    """
    if isinstance(module, (ProgramModule, fx.GraphModule)):
        return NativeResult(None, reason="the model was given as a program, which has no class of its own")
    budget = Budget(trials, time.monotonic() + seconds)
    try:
        changes = _changes(module, program, pruned, budget)
        result = _with(module, pruned, changes)
        _check_training(module, result, program)
    except _Refused as err:
        late = " (the search for another way was given up: it took too long)" if budget.spent else ""
        return NativeResult(None, reason=f"{err}{late}")
    except Exception as err:  # noqa: BLE001 - the user's own code, which is copied, read and set here
        return NativeResult(None, reason=f"{_kind(module)} cannot be copied and changed: {first_line(err)}")
    return NativeResult(own_module(result), tuple(changes))


def with_changes(module: nn.Module, pruned: Program, changes: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The user's own module with the weights of a pruned program and attributes that were found before.

    Args:
        module: what the program was captured from, or an adapter of it; left as it was.
        pruned: the pruned program.
        changes: ``native.attributes`` of a report.
    """
    inner = own_module(module)

    def typed(change: Mapping[str, Any]) -> Change:
        """With a tuple where the attribute is one: JSON has lists for both."""
        old: Any = inner
        for part in change["name"].split("."):
            old = getattr(old, part)
        new = tuple(change["new"]) if isinstance(old, tuple) else change["new"]
        return Change(change["name"], old, new)

    return own_module(_with(module, pruned, [typed(c) for c in changes]))


class _Refused(Exception):
    """The module does not run with the pruned weights."""


def _changes(module: nn.Module, program: Program, pruned: Program, budget: Budget) -> list[Change]:
    """The attributes with which a copy of the module does what the pruned program does.

    Raises:
        _Refused: there are none.
    """
    root = own_module(module)
    witness = Witness(copied(module, double=True), program, pruned)
    if not witness.first.passed:
        raise _Refused(f"the original does not do what its program does: {_told(root, witness.first)}")
    tried = _with(module, pruned, (), double=True)
    fixed = declared_changes(root, own_module(tried), _groups(program), _groups(pruned))
    set_attributes(own_module(tried), fixed)
    search = Search(witness, tried, find_slots(root, program, pruned, witness), budget)
    last = search.run()
    if last.passed:
        changes = sorted((*fixed, *search.changes()))
        # Once more from the start: nothing that the trials left behind counts.
        last = witness.trial(_with(module, pruned, changes, double=True))
    if not last.passed:
        raise _Refused(_told(root, last))
    return changes


def _with(
    module: nn.Module, pruned: Program, changes: Sequence[Change], *, double: bool = False
) -> nn.Module:
    """A copy of the module with the tensors of a program and other attributes."""
    prefix = f"{INNER}." if own_module(module) is not module else ""
    result = copied(module, {f"{prefix}{k}": t for k, t in pruned.tensors.items()}, double=double)
    set_attributes(own_module(result), changes)
    return result


def _groups(program: Program) -> dict[str, int]:
    """The groups of the convolutions and group norms by the path of their module."""
    found = {}
    for node in program.nodes:
        if node.base.startswith("conv"):
            found[node.module] = int(node.arg(6, "groups", 1))
        elif node.base == "group_norm":
            found[node.module] = int(node.arg(1, "num_groups"))
    return found


def _check_training(module: nn.Module, result: nn.Module, program: Program) -> None:
    """Run the result in train mode.

    Raises:
        _Refused: it does not run, but the original does.
    """
    failure = _training_failure(result, program)
    if failure and not _training_failure(module, program):
        raise _Refused(f"{_kind(module)} does not run in train mode: {failure}")


def _training_failure(module: nn.Module, program: Program) -> str:
    tried = copied(module).train()
    device = device_of(tried)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tried(*(x.to(device) for x in program.random_inputs(2)))
        except Exception as err:  # noqa: BLE001 - the user's own code
            return first_line(err)
    return ""


def _told(root: nn.Module, trial: Trial) -> str:
    at = f" at {trial.module}" if trial.module else ""
    return f"{_kind(root.get_submodule(trial.module))}.forward{at} fails: {trial.message}"


def _kind(module: nn.Module) -> str:
    return type(own_module(module)).__name__
