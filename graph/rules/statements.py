"""Statements that many rules make: what is pinned, carried on, tied, counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.groups import Site
from graph.labels import Labels, Pass
from graph.program import Node, Ref


def pin_operands(run: Pass, node: Node, reason: str) -> None:
    """Pin every label that enters a node."""
    for ref in run.operands(node):
        for found in list(run.fields.get(ref.name, {}).values()):
            run.pin(found.labels, reason, node)


def pin_dims(run: Pass, node: Node, x: Ref, reason: str, *without: int) -> None:
    """Pin the labels of all dimensions of x but those named."""
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim not in without:
            run.pin(found.labels, f"{reason} in {node.op}", node)


def source_all(run: Pass, node: Node, ref: Ref) -> None:
    """Give every dimension of a parameter labels: an operator will carry them on."""
    if run.is_tensor(ref):
        for dim in range(len(run.size(ref))):
            run.along(ref, dim, node)


def carry(run: Pass, node: Node, x: Ref, *without: int) -> None:
    """Hand the labels of x on to a result of the same rank, but for the dimensions named."""
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim not in without:
            labels = found.labels
            for other in without:
                labels = flattened(run, node, labels, other)
            for name in run.results(node):
                run.put(name, dim, labels)


def flattened(run: Pass, node: Node, labels: Labels, axis: int) -> Labels:
    """Labels that no longer depend on an axis."""
    if labels.shape[axis] == 1:
        return labels
    first = np.take(labels, [0], axis=axis)
    run.equate(labels, first, node)
    return first


def statistic(run: Pass, node: Node, x: Ref, dim: int, fills: float | None = None) -> bool:
    """Computed over labelled channels: those that remain."""
    if run.field(x, dim) is None:
        return False
    position = next(p for p, a in flat(node) if a == x)
    run.consume(Site(node.name, position, x.name, dim, fills))
    return True


def flat(node: Node) -> list[tuple[tuple[int, ...], Any]]:
    """The arguments with their positions, lists unfolded."""
    result: list[tuple[tuple[int, ...], Any]] = []
    for i, arg in enumerate(node.args):
        if isinstance(arg, (list, tuple)):
            result += [((i, j), a) for j, a in enumerate(arg)]
        else:
            result.append(((i,), arg))
    return result


def meet(run: Pass, node: Node, dim: int, rank: int, present: list[tuple[Ref, int]]) -> None:
    """Tie what the operands carry along one dimension of the result."""
    labelled = [(r, d) for r, d in present if run.field(r, d) is not None]
    moving = [(r, d) for r, d in present if not run.is_tensor(r)]
    if not labelled and moving:
        return  # fixed activations: a parameter that meets them stays as it is
    if not labelled and present:
        run.along(*present[0], node)
        labelled = [p for p in present if run.field(*p) is not None]
    if not labelled:
        return
    lead, lead_dim = labelled[0]
    found = run.field(lead, lead_dim)
    assert found is not None
    labels = found.labels.reshape((1,) * (rank - found.labels.ndim) + found.labels.shape)
    for ref, d in present:
        if (ref, d) != (lead, lead_dim):
            run.bind(ref, d, project(run, labels, run.size(ref), node), node)
    run.put(node.name, dim, labels)


def meet_flat(run: Pass, node: Node, dim: int, rank: int, held: list[tuple[Ref, int]]) -> None:
    """As ``meet``, with labels that depend on no other dimension."""
    found = next((labels for r, d in held if (labels := run.along(r, d, node)) is not None), None)
    if found is None:
        return
    for ref, d in held:
        run.bind(ref, d, found, node)
    run.put(node.name, dim, found)


def project(run: Pass, labels: Labels, size: tuple[int, ...], node: Node) -> Labels:
    """Labels of the result's rank as labels of an operand of lower rank or of size 1 in some dimensions."""
    for dim in range(labels.ndim):
        d = dim - labels.ndim + len(size)
        if labels.shape[dim] > 1 and (d < 0 or size[d] == 1):
            first = np.take(labels, [0], axis=dim)
            run.equate(labels, first, node)
            labels = first
    return labels.reshape(labels.shape[labels.ndim - len(size) :])


def add_term(run: Pass, node: Node, term: Ref) -> None:
    """What is added to a result broadcasts over it."""
    rank = len(run.full[node.name].shape)
    for dim in range(rank):
        own = dim - rank + len(run.size(term))
        if own < 0 or run.size(term)[own] == 1:
            continue
        found = run.fields.get(node.name, {}).get(dim)
        if found is not None:
            run.bind(term, own, project(run, found.labels, run.size(term), node), node)
        elif run.field(term, own) is not None:
            run.pin(run.fields[term.name][own].labels, f"meets fixed channels in {node.op}", node)
