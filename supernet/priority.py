"""Priority: channels and heads in the order of their salience, so that each smaller width is a prefix.

RaFFM (arXiv:2310.00247) ranks the rows of queries and keys and permutes them together. Here the groups say
what goes together: every slice of every tensor that carries a unit moves with it, so that the network
computes what it computed before. That is checked in float64, not believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graph.channels import Axes
from graph.errors import VerificationError
from graph.groups import Kind
from graph.labels import Field
from graph.program import Program
from prune.importance import Scores
from prune.surgery import gather
from prune.verify import LIMIT, compared

Order = NDArray[np.int64]  # for each class the one whose slices come to its place


@dataclass(frozen=True)
class Prioritized:
    """A program with its units in order.

    Attributes:
        axes: of the program, with the labels of the original: they tell places.
        kinds: of the groups that were put in order.
        max_error: largest difference from the original in float64, relative to the largest output.
        notes: what was left in its old order, and why.
    """

    axes: Axes
    kinds: tuple[Kind, ...]
    max_error: float
    notes: tuple[str, ...] = ()


def prioritize(axes: Axes, scores: Scores, kinds: Sequence[Kind]) -> Prioritized:
    """Put the units of some groups in the order of their salience, the greatest first.

    Groups of a kind whose reordering would change the function keep their order.

    Args:
        axes: of the program, which is left as it was.
        scores: salience of each class.
        kinds: of these groups.

    Raises:
        VerificationError: the program does not even agree with itself.
    """
    good = [k for k in kinds if any(g.kind == k for g in axes.groups)]
    error = _error(axes, _order(axes, scores, good))
    notes: tuple[str, ...] = ()
    if error > LIMIT:
        tried = {k: _error(axes, _order(axes, scores, [k])) for k in good}
        good = [k for k in good if tried[k] <= LIMIT]
        notes = tuple(f"groups of kind {k} keep their order: another one would change what is computed"
                      for k in tried if k not in good)  # fmt: skip
        error = _error(axes, _order(axes, scores, good))
    if not error <= LIMIT:
        raise VerificationError(
            f"reordered, the program differs from itself by {error:.2e} (limit {LIMIT:.0e})",
            hint="this is a bug in prune: please report it with the model",
        )
    return Prioritized(_reordered(axes, _order(axes, scores, good)), tuple(good), error, notes)


def _error(axes: Axes, order: Order) -> float:
    return compared(axes.program, {}, _reordered(axes, order).program).max_error


def _reordered(axes: Axes, order: Order) -> Axes:
    return replace(axes, program=reordered(axes, order))


def reordered(axes: Axes, order: Order) -> Program:
    """The program with the slices of each class from where those of another one stood."""
    moved = order != np.arange(len(order))
    tensors = dict(axes.program.tensors)
    for name, fields in axes.weights.items():
        if any(moved[f.labels].any() for f in fields.values()):
            wanted = {dim: Field(dim, order[f.labels]) for dim, f in fields.items()}
            tensors[name] = gather(tensors[name], fields, wanted).detach().contiguous()
    return replace(axes.program, tensors=tensors)


def _order(axes: Axes, scores: Scores, kinds: Sequence[Kind]) -> Order:
    """The order of all classes: a unit brings along the classes that it makes with others."""
    order = np.arange(axes.classes)
    parts: dict[int, list[int]] = {}
    for child, outer, _ in axes.derived.tolist():
        parts.setdefault(outer, []).append(child)
    for group in axes.groups:
        if group.kind in kinds:
            units = np.array(group.units)
            order[units] = units[np.argsort(-scores[units], kind="stable")]
            for unit in group.units:
                here, there = sorted(parts.get(unit, ())), sorted(parts.get(int(order[unit]), ()))
                if len(here) == len(there):
                    order[here] = there
    return order
