"""Axes: which channels of a program belong together, found by inference as in a type checker.

Each rule that runs says which labels are equal; a union-find over all labels closes these statements. The
classes that come out are the *channels* of the network: every weight slice and every activation slice that
must stay or go together. Channels whose slices lie in exactly the same places form a *group* and are
interchangeable; groups that divide a dimension into rows of equal length are tied in a *bundle*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.bundles import find_bundles, uneven_rows
from graph.groups import Bundle, Group, Pinned, Site
from graph.inference import Inference, Solution, run_rules, solve
from graph.labels import FIXED, Field, Labels
from graph.program import TENSOR, Program


@dataclass(frozen=True)
class Axes:
    """What inference found out about a program.

    Attributes:
        program: the program it speaks of.
        shapes: every value on the meta device.
        fields: for each value the labelled dimensions; the labels are classes, 0 for what is fixed.
        weights: the same for each tensor of the table, by its name there.
        moves: for each moving node (result, result dim) the operand dim that its labels came from.
        made: for each (value, dim) the mask of positions that the operator itself made (padding).
        classes: how many classes there are; class 0 is what is fixed.
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
    moves: Mapping[tuple[str, int], int]
    made: Mapping[tuple[str, int], NDArray[np.bool_]]
    classes: int
    groups: tuple[Group, ...]
    bundles: tuple[Bundle, ...]
    rows: tuple[NDArray[np.int64], ...]
    sites: tuple[Site, ...]
    pinned: tuple[Pinned, ...]
    unsupported: Mapping[str, int]

    def group_of_class(self) -> NDArray[np.int64]:
        """For each class the index of its group, -1 for what is fixed."""
        result = np.full(self.classes, -1, dtype=np.int64)
        for index, group in enumerate(self.groups):
            result[list(group.units)] = index
        return result


def infer(program: Program, *, exclude: Mapping[str, str] | None = None) -> Axes:
    """Find the groups of coupled channels of a program.

    Args:
        program: any captured program.
        exclude: names of tensors whose channels must stay, with the reason.

    Raises:
        ProgramError: the program does not run on its own shapes.
    """
    shapes = program.shapes(1 if program.dynamic_batch else None)
    run = Inference(program, shapes)
    run_rules(run, program)
    for name in program.outputs:
        for found in run.fields.get(name, {}).values():
            run.pins.append((np.unique(found.labels), "output of the model"))
    for tensor, reason in (exclude or {}).items():
        for node in program.nodes:
            if node.op == TENSOR and node.args[0] == tensor and 0 in run.fields.get(node.name, {}):
                run.pins.append((np.unique(run.fields[node.name][0].labels), reason))
    solution = solve(run)
    weights = {
        str(n.args[0]): solution.fields[n.name]
        for n in program.nodes
        if n.op == TENSOR and n.name in solution.fields
    }
    groups = _groups(run, solution, weights)
    rows = uneven_rows(solution, groups)
    bundles = find_bundles(program, run, solution, groups, rows)
    return Axes(
        program,
        shapes,
        solution.fields,
        weights,
        run.moves,
        run.made,
        solution.count,
        groups,
        bundles,
        rows,
        tuple(run.sites),
        _pinned(run, solution.classes),
        dict(run.missing),
    )


def _groups(
    run: Inference, solution: Solution, weights: Mapping[str, Mapping[int, Field]]
) -> tuple[Group, ...]:
    """Sort the classes by their footprints; groups stand in the order of their first class."""
    members: dict[int, list[int]] = {}
    for index in range(1, solution.count):
        members.setdefault(int(solution.prints[index]), []).append(index)
    group_of = np.full(solution.count, -1, dtype=np.int64)
    for index, units in enumerate(members.values()):
        group_of[units] = index
    tensors: list[list[tuple[str, int]]] = [[] for _ in members]
    for name, found in weights.items():
        for dim, f in found.items():
            for index in np.unique(group_of[f.labels]):
                if index >= 0:
                    tensors[index].append((name, dim))
    names: Counter[str] = Counter()
    result = []
    for index, units in enumerate(members.values()):
        origin = solution.origins[units[0]]
        name = origin.rpartition(".")[0] if origin.endswith((".weight", ".bias")) else origin
        names[name] += 1
        name = name if names[name] == 1 else f"{name}#{names[name]}"
        result.append(Group(name, "channel", tuple(units), tuple(tensors[index])))
    return tuple(result)


def _pinned(run: Inference, classes: Labels) -> tuple[Pinned, ...]:
    """Which sources are fixed: the pin that names a label's class directly gives the reason."""
    reason_of: dict[int, str] = {}
    for labels, reason in run.pins:
        for label in labels:
            reason_of.setdefault(int(label), reason)
    result = []
    for start, name, _, end in run.ranges():
        fixed = [label for label in range(start, end) if classes[label] == FIXED]
        if fixed:
            named = Counter(reason_of[label] for label in fixed if label in reason_of)
            reason = named.most_common(1)[0][0] if named else "coupled with channels that must stay"
            result.append(Pinned(name, len(fixed), reason))
    return tuple(result)
