"""Axes: which channels of a program belong together, found by inference as in a type checker.

Each rule that runs says which labels are equal; a union-find over all labels closes these statements. The
classes that come out are the *channels* of the network: every weight slice and every activation slice that
must stay or go together. Channels whose slices lie in exactly the same places form a *group* and are
interchangeable; groups that divide a dimension into rows of equal length are tied in a *bundle*.

What was inferred is rehearsed: if a random choice of channels cannot be cut out (an operator names positions
that do not follow), the channels that meet there are pinned, and inference starts again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from graph.bundles import find_bundles, uneven_rows
from graph.channels import Axes
from graph.groups import Group, Pinned
from graph.inference import Inference, Solution, run_rules, solve
from graph.kinds import kinds
from graph.labels import FIXED, Labels
from graph.movement import Movement
from graph.program import TENSOR, Program
from graph.replay import replay
from graph.resize import SizeError

__all__ = ["Axes", "infer"]

_REHEARSALS = 2  # random choices that must succeed
_ROUNDS = 40  # how often a failed rehearsal may pin something


def infer(program: Program, *, exclude: Mapping[str, str] | None = None) -> Axes:
    """Find the groups of coupled channels of a program.

    Args:
        program: any captured program.
        exclude: names of tensors whose channels must stay, with the reason.

    Raises:
        ProgramError: the program does not run on its own shapes.
    """
    shapes = program.shapes(1 if program.dynamic_batch else None)
    refused: dict[str, str] = {}
    while True:
        axes = _inferred(program, shapes, exclude or {}, refused)
        failed = _rehearsed(axes) if len(refused) < _ROUNDS else None
        if failed is None or failed[0] in refused:
            return axes
        refused[failed[0]] = failed[1]


def _inferred(
    program: Program, shapes: Mapping[str, Any], exclude: Mapping[str, str], refused: Mapping[str, str]
) -> Axes:
    """One run of inference.

    The channels must stay at the nodes in ``refused``, for the reason there.
    """
    run = Inference(program, shapes)
    run_rules(run, program)
    for node in program.nodes:
        if node.name in refused:
            for name in {*node.refs, *run.results(node)}:
                for found in run.fields.get(name, {}).values():
                    run.pins.append((np.unique(found.labels), refused[node.name]))
        if node.op == TENSOR and node.args[0] in exclude:
            found_0 = run.fields.get(node.name, {}).get(0)
            if found_0 is not None:
                run.pins.append((np.unique(found_0.labels), exclude[str(node.args[0])]))
    for name in program.outputs:
        held = [f.labels for f in run.fields.get(name, {}).values()]
        for labels in [*held, *([run.pointers[name]] if name in run.pointers else [])]:
            run.pins.append((np.unique(labels), "output of the model"))
    solution = solve(run)
    if split := _chosen_parts(run, solution):
        run.pins += split
        solution = solve(run)
    groups = _groups(run, solution)
    if bare := [u for g in groups if not g.tensors for u in g.units]:
        first = _first_label(solution.classes, solution.count)
        run.pins.append((first[bare], "no parameter goes with it"))
        solution = solve(run)
        groups = _groups(run, solution)
    rows = uneven_rows(solution, groups)
    bundles = find_bundles(program, run, solution, groups, rows)
    tensors = {n.name: str(n.args[0]) for n in program.nodes if n.op == TENSOR}
    classes = solution.classes
    moves = {
        name: tuple(
            Movement(s.result, s.sources, s.targets, tuple(_classes(classes, e) for e in s.entering), s.tied)
            for s in steps
        )
        for name, steps in run.moves.items()
    }
    return Axes(
        program,
        shapes,
        solution.fields,
        {tensors[name]: found for name, found in solution.fields.items() if name in tensors},
        moves,
        run.made,
        solution.count,
        solution.derived,
        groups,
        bundles,
        rows,
        tuple(run.sites),
        _pinned(run, classes, set(tensors.values())),
        dict(run.missing),
    )


def _chosen_parts(run: Inference, solution: Solution) -> list[tuple[Labels, str]]:
    """What an operator chooses among must be single channels: the labels of those that have parts."""
    parts = np.unique(solution.derived[:, 0])
    return [
        (np.unique(labels), "chosen among in parts")
        for labels, _ in run.chosen
        if np.isin(solution.classes[labels], parts).any()
    ]


def _classes(classes: Labels, labels: Labels) -> Labels:
    """Labels as classes; what an operator made itself stays marked."""
    result: Labels = np.where(labels < 0, labels, classes[labels])
    return result


def _first_label(classes: Labels, count: int) -> Labels:
    first: Labels = np.zeros(count, dtype=np.int64)
    first[classes[::-1]] = np.arange(len(classes))[::-1]
    return first


def _rehearsed(axes: Axes) -> tuple[str, str] | None:
    """Cut random channels out; the node where that fails and a reason, or None."""
    for seed in range(_REHEARSALS):
        random = np.random.default_rng(seed)
        keep = np.zeros(axes.classes, dtype=bool)
        for bundle in axes.bundles:
            layout = bundle.layouts[(len(bundle.layouts) - 1) * (seed + 1) // (_REHEARSALS + 1)]
            for group, count in zip(bundle.groups, layout, strict=True):
                units = np.array(axes.groups[group].units)
                keep[random.permutation(units)[:count]] = True
        try:
            replay(axes, keep)
        except SizeError as err:
            return err.node.name, f"cannot be cut at {err.node.op}: {err.reason}"
    return None


def _groups(run: Inference, solution: Solution) -> tuple[Group, ...]:
    """Sort the atoms by their footprints; groups stand in the order of their first class."""
    derived = np.zeros(solution.count, dtype=bool)
    derived[solution.derived[:, 0]] = True
    members: dict[int, list[int]] = {}
    for index in range(1, solution.count):
        if not derived[index]:
            members.setdefault(int(solution.prints[index]), []).append(index)
    group_of = np.full((solution.count, 2), -1, dtype=np.int64)
    for index, units in enumerate(members.values()):
        group_of[units, 0] = index
    own = group_of[:, 0].copy()
    group_of[solution.derived[:, 0], 0] = own[solution.derived[:, 1]]
    group_of[solution.derived[:, 0], 1] = own[solution.derived[:, 2]]
    tensors: list[list[tuple[str, int]]] = [[] for _ in members]
    for node in run.program.nodes:
        if node.op == TENSOR:
            for dim, f in solution.fields.get(node.name, {}).items():
                for index in np.unique(group_of[f.labels]):
                    if index >= 0:
                        tensors[index].append((str(node.args[0]), dim))
    told = kinds(run, solution, own, len(members))
    names: Counter[str] = Counter()
    result = []
    for index, units in enumerate(members.values()):
        origin = solution.origins[units[0]]
        if origin not in run.program.tensors and tensors[index]:
            origin = tensors[index][0][0]
        name = origin.rpartition(".")[0] if origin.endswith((".weight", ".bias")) else origin
        names[name] += 1
        name = name if names[name] == 1 else f"{name}#{names[name]}"
        result.append(Group(name, told[index], tuple(units), tuple(tensors[index])))
    return tuple(result)


def _pinned(run: Inference, classes: Labels, names: set[str]) -> tuple[Pinned, ...]:
    """Which dimensions of tensors are fixed: the pin that names a label's class directly gives the reason."""
    reason_of: dict[int, str] = {}
    for labels, reason in run.pins:
        for label in labels.tolist():
            reason_of.setdefault(label, reason)
    result = []
    for start, name, _, end in run.ranges():
        fixed = start + np.flatnonzero(classes[start:end] == FIXED)
        if len(fixed) and name in names:
            named = Counter(reason_of[label] for label in fixed.tolist() if label in reason_of)
            reason = named.most_common(1)[0][0] if named else "coupled with channels that must stay"
            result.append(Pinned(name, len(fixed), reason))
    return tuple(result)
