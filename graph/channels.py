"""Channels: what inference yields about a program, and what remains of it under a choice of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.groups import Bundle, Group, Pinned, Site
from graph.labels import FIXED, Field, Labels
from graph.movement import Movement
from graph.program import Program

Keep = NDArray[np.bool_]


@dataclass(frozen=True)
class Axes:
    """What inference found out about a program.

    Attributes:
        program: the program it speaks of.
        shapes: every value on the meta device.
        fields: for each value the labelled dimensions; the labels are classes, 0 for what is fixed.
        weights: the same for each tensor of the table, by its name there.
        moves: for each moving node the steps that its labels take.
        made: for each (value, dim) the mask of positions that the operator itself made (padding).
        classes: how many classes there are; class 0 is what is fixed.
        derived: rows (class, outer, inner): the class stays where both of the others stay.
        groups: prunable groups, in the order of the program.
        bundles: groups tied together; a group alone is a bundle of one.
        rows: for each balanced dimension a matrix (rows, groups) of counts.
        sites: where channels are consumed.
        pinned: what cannot go, and why.
        unsupported: operators without a rule, with the number of channels each costs.
    """

    program: Program
    shapes: Mapping[str, Any]
    fields: Mapping[str, Mapping[int, Field]]
    weights: Mapping[str, Mapping[int, Field]]
    moves: Mapping[str, tuple[Movement, ...]]
    made: Mapping[tuple[str, int], NDArray[np.bool_]]
    classes: int
    derived: Labels
    groups: tuple[Group, ...]
    bundles: tuple[Bundle, ...]
    rows: tuple[NDArray[np.int64], ...]
    sites: tuple[Site, ...]
    pinned: tuple[Pinned, ...]
    unsupported: Mapping[str, int]

    def group_of_class(self) -> NDArray[np.int64]:
        """For each class the index of its group, -1 for what is fixed or derived."""
        result = np.full(self.classes, -1, dtype=np.int64)
        for index, group in enumerate(self.groups):
            result[list(group.units)] = index
        return result

    def closed(self, keep: Keep) -> Keep:
        """A choice of units, completed: a derived class stays where both of its parts do."""
        keep = keep.copy()
        keep[FIXED] = True
        child, outer, inner = self.derived.T
        keep[child] = keep[outer] & keep[inner]
        return keep

    def spread(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of classes, those of derived classes added to both of their parts."""
        result = scores.copy()
        for column in (1, 2):
            np.add.at(result, self.derived[:, column], scores[self.derived[:, 0]])
        return result

    def remaining(self, value: str, dim: int, keep: Keep) -> Labels:
        """The labels of a dimension that remain, in the shape that they then have.

        Args:
            value: name of a node or of one of its results.
            dim: one of its labelled dimensions.
            keep: for each class whether it stays, completed by ``closed``.

        Raises:
            ValueError: the rows would keep different numbers.
        """
        labels = self.fields[value][dim].labels
        if labels.size == labels.shape[dim]:
            return np.compress(keep[labels.ravel()], labels, axis=dim)
        mask = keep[labels]
        for other, found in self.fields[value].items():
            if other != dim and labels.shape[other] > 1:
                rows = keep[found.labels]
                beyond = tuple(d for d, s in enumerate(labels.shape) if s == 1)
                mask = mask & rows.any(axis=beyond, keepdims=True)
        for axis in range(labels.ndim):  # whole rows that go
            if axis != dim and labels.shape[axis] > 1:
                present = mask.any(axis=tuple(a for a in range(labels.ndim) if a != axis))
                labels, mask = np.compress(present, labels, axis=axis), np.compress(present, mask, axis=axis)
        counts = mask.sum(axis=dim, keepdims=True)
        if counts.size and (counts != counts.flat[0]).any():
            raise ValueError(f"rows of {value} would keep {sorted(set(counts.ravel().tolist()))} channels")
        moved, moved_mask = np.moveaxis(labels, dim, -1), np.moveaxis(mask, dim, -1)
        kept = moved[moved_mask].reshape(*moved.shape[:-1], -1)
        result: Labels = np.moveaxis(kept, -1, dim)
        return result

    @cached_property
    def coupled(self) -> Mapping[int, tuple[str, ...]]:
        """For each group, the names of the tensors it shortens."""
        return {i: tuple(dict.fromkeys(name for name, _ in g.tensors)) for i, g in enumerate(self.groups)}
