"""Fitting: where evidence leaves a choice between sizes, running decides."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from prune.attributes import Change, join, put, set_attributes
from prune.evidence import Slot, within
from prune.witness import Trial, Witness, own_module

# How often a module may run for one submodule that fails.
_TRIALS_AT_ONE = 200


@dataclass
class Budget:
    """What a search may cost.

    Attributes:
        trials: forward passes that are left.
        deadline: of ``time.monotonic``, in seconds; a forward pass that has begun is finished.
    """

    trials: int
    deadline: float

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.trials <= 0 or time.monotonic() > self.deadline


class Search:
    """Finds the values with which a module runs as its program does.

    Args:
        witness: runs it.
        module: in float64, with the weights of the pruned program; changed in place.
        slots: its attributes that may be sizes.
        budget: counted down.
    """

    def __init__(self, witness: Witness, module: nn.Module, slots: list[Slot], budget: Budget) -> None:
        self.witness = witness
        self.module = module
        self.root = own_module(module)
        self.slots = slots
        self.budget = budget
        # For a class of modules, the attributes whose other values helped: deep networks repeat themselves.
        self.learned: dict[type, dict[str, int]] = {}
        # All of them, so that each module has its own copy of a shared configuration from here on.
        set_attributes(self.root, [Change(join(s.path, s.name), s.old, s.now) for s in slots])

    def changes(self) -> list[Change]:
        """What the attributes are now, as far as they are not what they were."""
        return [Change(join(s.path, s.name), s.old, s.now) for s in self.slots if s.now != s.old]

    def run(self) -> Trial:
        """Go on from failure to failure until there is none left or nothing helps; the last trial."""
        trial = self._trial()
        while not trial.passed:
            better = self._improved(trial)
            if better is None:
                return trial
            trial = better
        return trial

    def _trial(self) -> Trial:
        self.budget.trials -= 1
        return self.witness.trial(self.module)

    def _improved(self, start: Trial) -> Trial | None:
        """Change attributes near the submodule that failed, so that the module comes further."""
        group: list[Slot] = []
        path = start.module
        while True:
            found = [s for s in self.slots if path == s.path or path in s.readers]
            group += [s for s in found if s not in group]
            if found and (better := self._best(group, path, start)) is not None:
                return better
            if not path:
                return None
            path = path.rpartition(".")[0]

    def _best(self, group: list[Slot], path: str, start: Trial) -> Trial | None:
        best, best_values = start, [s.now for s in group]
        for values in itertools.islice(self._choices(group, path), _TRIALS_AT_ONE):
            if self.budget.spent:
                break
            self._set(group, values)
            trial = self._trial()
            if trial.passed or trial.position > best.position:
                best, best_values = trial, values
                if trial.passed or not within(trial.module, path):
                    break
        self._set(group, best_values)
        if best is start:
            return None
        changed = {s.name: s.options.index(s.now) for s in group if s.path == path}
        self.learned[type(self.root.get_submodule(path))] = changed
        return best

    def _set(self, group: Sequence[Slot], values: Sequence[Any]) -> None:
        for slot, value in zip(group, values, strict=True):
            if slot.now != value:
                slot.now = value
                *path, leaf = join(slot.path, slot.name).split(".")
                thing: Any = self.root
                for part in path:
                    thing = getattr(thing, part)
                put(thing, leaf, value)

    def _choices(self, group: list[Slot], path: str) -> Iterator[list[Any]]:
        """Values for the attributes of a group: what helped before, then one change, two, and so on."""
        now = [s.now for s in group]
        learned = self.learned.get(type(self.root.get_submodule(path)), {})
        places = [learned.get(s.name, len(s.options)) if s.path == path else len(s.options) for s in group]
        wanted = [s.options[p] if p < len(s.options) else s.now for s, p in zip(group, places, strict=True)]
        if wanted != now:
            yield wanted
        for count in range(1, len(group) + 1):
            for chosen in itertools.combinations(range(len(group)), count):
                others = [[o for o in group[i].options if o != now[i]] for i in chosen]
                for values in itertools.product(*others):
                    changed = dict(zip(chosen, values, strict=True))
                    yield [changed.get(i, n) for i, n in enumerate(now)]
