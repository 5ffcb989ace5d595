"""Fitting: where evidence leaves a choice between sizes, running decides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from prune.attributes import Change, join, set_attributes
from prune.evidence import Slot
from prune.witness import Trial, Witness, own_module

# How often a module may run for one submodule that fails.
_TRIALS_AT_ONE = 200


class Search:
    """Finds the values with which a module runs as its program does.

    Args:
        witness: runs it.
        module: in float64, with the weights of the pruned program.
        slots: its attributes that may be sizes.
        trials: how often it may run.
    """

    def __init__(self, witness: Witness, module: nn.Module, slots: list[Slot], trials: int) -> None:
        self.witness = witness
        self.module = module
        self.root = own_module(module)
        self.slots = slots
        self.left = trials
        # For a class of modules, the attributes that took another value than the likeliest.
        self.learned: dict[type, dict[str, int]] = {}
        plain = [s for s in slots if s.tensor is None]
        set_attributes(self.root, [Change(join(s.path, s.name), s.old, s.now) for s in plain])

    def changes(self) -> list[Change]:
        """What the attributes are now, as far as they are not what they were."""
        return [Change(join(s.path, s.name), s.old, s.now) for s in self.slots if s.now not in (s.old, None)]

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
        self.left -= 1
        return self.witness.trial(self.module)

    def _improved(self, start: Trial) -> Trial | None:
        """Change attributes near the submodule that failed, so that the module comes further."""
        group: list[Slot] = []
        path = start.module
        while True:
            found = [
                s
                for s in self.slots
                if path == s.path or path in s.readers or (s.tensor is not None and _within(s.path, path))
            ]
            group += [s for s in found if s not in group]
            if found and (better := self._best(group, path, start)) is not None:
                return better
            if not path:
                return None
            path = path.rpartition(".")[0]

    def _best(self, group: list[Slot], path: str, start: Trial) -> Trial | None:
        before = [s.now for s in group]
        best: tuple[Trial, list[Any]] = (start, before)
        for values in itertools.islice(self._choices(group, path), _TRIALS_AT_ONE):
            if self.left <= 0:
                break
            self._set(group, values)
            trial = self._trial()
            if trial.passed or trial.position > best[0].position:
                best = (trial, values)
                if trial.passed or not _within(trial.module, path):
                    break
        self._set(group, best[1])
        if best[0] is start:
            return None
        changed = {s.name: s.options.index(s.now) for s in group if s.path == path}
        self.learned[type(self.root.get_submodule(path))] = changed
        return best[0]

    def _set(self, group: Sequence[Slot], values: Sequence[Any]) -> None:
        for slot, value in zip(group, values, strict=True):
            if slot.now != value:
                slot.now = value
                *path, leaf = join(slot.path, slot.name).split(".")
                thing: Any = self.root
                for part in path:
                    thing = getattr(thing, part)
                if slot.tensor is not None:
                    value = slot.tensor if value is None else slot.tensor[..., value]
                setattr(thing, leaf, value)

    def _choices(self, group: list[Slot], path: str) -> Iterator[list[Any]]:
        """Values for the attributes of a group: what helped before, then one change, two changes, and so on."""
        now = [s.now for s in group]
        learned = self.learned.get(type(self.root.get_submodule(path)))
        if learned is not None:
            wanted = [
                s.options[learned[s.name]]
                if s.path == path and learned.get(s.name, len(s.options)) < len(s.options)
                else s.now
                for s in group
            ]
            if wanted != now:
                yield wanted
        for count in range(1, len(group) + 1):
            for places in itertools.combinations(range(len(group)), count):
                others = [[o for o in group[i].options if o != now[i]] for i in places]
                for values in itertools.product(*others):
                    result = list(now)
                    for place, value in zip(places, values, strict=True):
                        result[place] = value
                    yield result


def _within(path: str, outer: str) -> bool:
    """Whether a submodule is another one or lies in it."""
    return not outer or path == outer or path.startswith(f"{outer}.")
