"""Bundles: groups that divide a dimension into rows of equal length, and the widths they can have together.

A grouped convolution or a channel shuffle needs rows of equal length, and where rows of one kind cross rows
of another, few choices of kept channels fit both. The possible ones are read off narrower copies of the
program: inference over such a copy says how many channels lie in each set of places.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from typing_extensions import override

from graph.groups import Bundle, Group
from graph.inference import Inference, Solution, solve
from graph.labels import FIXED, Labels
from graph.program import Node, Program
from graph.resize import Proportional, SizeError, run_resized


def uneven_rows(solution: Solution, groups: tuple[Group, ...]) -> tuple[NDArray[np.int64], ...]:
    """Counts (rows, groups) of the balanced dimensions that not every choice of units keeps even."""
    group_of = np.full(solution.count, -1, dtype=np.int64)
    for index, group in enumerate(groups):
        group_of[list(group.units)] = index
    group_of[solution.derived[:, 0]] = group_of[solution.derived[:, 2]]  # each head counts its lanes
    result: dict[bytes, NDArray[np.int64]] = {}
    for _, rows in solution.balanced:
        counts = np.zeros((len(rows), len(groups)), dtype=np.int64)
        for index, row in enumerate(rows):
            inside = group_of[row]
            np.add.at(counts[index], inside[inside >= 0], 1)
        if (counts != counts[0]).any():
            result.setdefault(counts.tobytes(), counts)
    return tuple(result.values())


_LEVELS = 24  # how many widths of a bundle with rows are tried


def find_bundles(
    program: Program,
    run: Inference,
    solution: Solution,
    groups: tuple[Group, ...],
    rows: tuple[NDArray[np.int64], ...],
) -> tuple[Bundle, ...]:
    """Tie the groups that share uneven rows, and find the kept counts that keep the rows even."""
    adjacency = np.eye(len(groups), dtype=bool)
    for counts in rows:
        inside = np.flatnonzero(counts.any(axis=0))
        adjacency[np.ix_(inside[:1], inside)] = True
    _, component = connected_components(coo_array(adjacency), directed=False)
    parts = [tuple(int(g) for g in np.flatnonzero(component == c)) for c in dict.fromkeys(component)]
    layouts: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}
    crossing = []
    for part in parts:
        if len(part) > 1:
            sizes = np.array([len(groups[g].units) for g in part], dtype=np.int64)
            matrices = [r[:, list(part)] for r in rows if r[:, list(part)].any()]
            found = _counted(sizes, matrices)
            if _cross(matrices):
                crossing.append(part)
            layouts[part] = found
    if crossing:
        for part, more in _layouts(program, run, solution, groups, rows, crossing).items():
            layouts[part] = tuple(sorted({*layouts[part], *more}, key=sum))
    for part in parts:
        every = layouts.get(part) or tuple((k,) for k in range(1, len(groups[part[0]].units) + 1))
        layouts[part] = tuple(kept for kept in every if _enough(run, solution, groups, part, kept))
    return tuple(Bundle(groups[p[0]].name, p, layouts[p]) for p in parts)


def _enough(
    run: Inference,
    solution: Solution,
    groups: tuple[Group, ...],
    part: tuple[int, ...],
    kept: tuple[int, ...],
) -> bool:
    """Whether every operator finds as many channels as it chooses, or as it needs to make a number.

    What else lies beside a bundle's channels may be gone, but for what is fixed.
    """
    for labels, count in (*run.chosen, *run.least):
        classes = solution.classes[labels]
        sizes = [len(groups[g].units) for g in part]
        lying = [int(np.isin(classes, groups[g].units).sum()) for g in part]
        remain = sum(n * k // s for n, k, s in zip(lying, kept, sizes, strict=True))
        if any(lying) and list(kept) != sizes and remain + int((classes == FIXED).sum()) < count:
            return False
    return True


def _cross(matrices: list[NDArray[np.int64]]) -> bool:
    """Whether rows of one kind overlap rows of another without one containing the other."""
    rows = np.unique(np.concatenate(matrices) > 0, axis=0).astype(np.int64)
    shared, sizes = rows @ rows.T, rows.sum(axis=1)
    apart = shared == 0
    inside = (shared == sizes[:, None]) | (shared == sizes[None, :])
    return bool((~apart & ~inside).any())


def _counted(sizes: NDArray[np.int64], matrices: list[NDArray[np.int64]]) -> tuple[tuple[int, ...], ...]:
    """Kept counts that keep the rows even whatever units are chosen.

    All groups in proportion, where that gives whole numbers; else each row of the finest kind shares its
    length out among its groups by largest remainders, if the coarser kinds of rows agree.

    Args:
        sizes: units of each group.
        matrices: for each kind of rows the counts (rows, groups).
    """
    common = int(np.gcd.reduce(sizes))
    weights = [m / sizes for m in matrices]

    def even(kept: NDArray[np.int64]) -> bool:  # what is fixed counts, too: all rows are equally long
        return all(np.ptp(w @ kept - m.sum(axis=1)) < 1e-9 for w, m in zip(weights, matrices, strict=True))

    proportional = [sizes * k // common for k in range(1, common + 1)]
    found = {tuple(int(k) for k in kept) for kept in proportional if even(kept)}
    finest = max(matrices, key=len)
    single = (finest > 0).sum(axis=0) <= 1
    shortest = int(finest.sum(axis=1).min())
    if single.all() and not _cross(matrices) and common < shortest:
        for total in range(1, shortest):
            kept = np.maximum(1, np.round(sizes * total / shortest)).astype(np.int64)
            for row in finest:
                inside = np.flatnonzero(row)
                if (row[inside] == sizes[inside]).all():
                    kept[inside] = _shared(sizes[inside], total)
            if even(kept) and (kept >= 0).all() and (kept <= sizes).all() and kept.any():
                found.add(tuple(int(k) for k in kept))
    return tuple(sorted(found, key=sum))


def _shared(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """``total`` shared out in proportion to sizes, by largest remainders."""
    exact = sizes * total / sizes.sum()
    kept: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    order = np.argsort(kept - exact, kind="stable")
    kept[order[: total - int(kept.sum())]] += 1
    return kept


class _Scaled(Inference):
    """Inference over the same program with some of its sources made narrower."""

    def __init__(self, program: Program, full: Mapping[str, Any], widths: Mapping[str, int]) -> None:
        super().__init__(program, full)
        self.widths = widths

    @override
    def source(self, tensor: Node, dim: int) -> Labels:
        name = str(tensor.args[0])
        full = int(self.full[tensor.name].shape[dim])
        return self.invent(name, dim, self.widths.get(name, full) if dim == 0 else full)

    def meeting(self, node: Node, sources: Mapping[str, tuple[tuple[int, ...], int]]) -> set[tuple[int, ...]]:
        """The bundles whose channels enter a node."""
        entering = [
            f.labels.ravel() for r in self.operands(node) for f in self.fields.get(r.name, {}).values()
        ]
        labels = np.concatenate(entering) if entering else np.zeros(0, dtype=np.int64)
        return {
            sources[name][0]
            for start, name, _, end in self.ranges()
            if name in sources and ((labels >= start) & (labels < end)).any()
        }


def _layouts(
    program: Program,
    run: Inference,
    solution: Solution,
    groups: tuple[Group, ...],
    rows: tuple[NDArray[np.int64], ...],
    tied: list[tuple[int, ...]],
) -> dict[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The possible kept counts of tied groups, found by inference over narrower programs.

    A narrower program is a valid layout if each of its channels lies in a set of places in which the
    whole program has channels, too, and has at least as many of them there.
    """
    by_print = {int(solution.prints[g.units[0]]): i for i, g in enumerate(groups)}
    group_of = np.full(solution.count, -1, dtype=np.int64)
    for index, group in enumerate(groups):
        group_of[list(group.units)] = index
    sources: dict[str, tuple[tuple[int, ...], int]] = {}
    for part in tied:
        height = math.lcm(*(len(r) for r in rows if r[:, list(part)].any()))
        for start, name, dim, end in run.ranges():
            if dim == 0 and np.isin(group_of[solution.classes[start:end]], part).any():
                sources[name] = (part, height)
    inside = np.isin(group_of, [g for part in tied for g in part])
    labelled = {
        name: {dim: f for dim, f in found.items() if inside[solution.fields[name][dim].labels].any()}
        for name, found in run.fields.items()
    }
    sizes = {name: len(program.tensors[name]) for name in sources if name in program.tensors}
    found: dict[tuple[int, ...], set[tuple[int, ...]]] = {
        part: {tuple(len(groups[g].units) for g in part)} for part in tied
    }
    for level in range(1, _LEVELS):
        widths = {}
        for name, size in sizes.items():
            step = sources[name][1] if size % sources[name][1] == 0 else 1
            widths[name] = max(step, round(size * level / _LEVELS / step) * step)
        active = set(tied)
        while active:
            chosen = {name: width for name, width in widths.items() if sources[name][0] in active}
            scaled = _Scaled(program, run.full, chosen)
            try:
                run_resized(scaled, Proportional(scaled, labelled))
            except SizeError as err:  # this level does not divide: leave out whoever meets here
                active -= scaled.meeting(err.node, sources) or active
                continue
            _collect(solve(scaled), groups, by_print, sources, active, found)
            break
    return {part: tuple(sorted(options, key=sum)) for part, options in found.items()}


def _collect(
    narrow: Solution,
    groups: tuple[Group, ...],
    by_print: Mapping[int, int],
    sources: Mapping[str, tuple[tuple[int, ...], int]],
    active: set[tuple[int, ...]],
    found: dict[tuple[int, ...], set[tuple[int, ...]]],
) -> None:
    """Add the layouts of a narrower program to those found, where the whole program can fill them."""
    counts: Counter[int] = Counter()
    broken: set[tuple[int, ...]] = set()
    for index in range(1, narrow.count):
        group = by_print.get(int(narrow.prints[index]))
        if group is not None:
            counts[group] += 1
        elif narrow.origins[index] in sources:
            broken.add(sources[narrow.origins[index]][0])
    for part in active - broken:
        layout = tuple(counts[g] for g in part)
        if any(layout) and all(k <= len(groups[g].units) for g, k in zip(part, layout, strict=True)):
            found[part].add(layout)
