"""Rules of lookups: positions given by integers."""

from __future__ import annotations

import numpy as np
import torch

from graph.labels import Pass
from graph.program import Node, Ref
from graph.rules.pointers import pointed
from graph.rules.registry import rule
from graph.rules.statements import flattened, meet, meet_flat, pin_dims, pin_operands, source_all


@rule("embedding")
def embedding(run: Pass, node: Node) -> None:
    """Rows of a table: the rows stay, their channels may go."""
    weight, indices = node.args[0], node.args[1]
    pin_dims(run, node, weight, "looked up", 1)
    labels = run.along(weight, 1, node)
    shift = len(run.full[node.name].shape) - len(run.size(indices))
    for dim in list(run.fields.get(indices.name, {})):
        if (carried := run.along(indices, dim, node)) is not None:
            run.put(node.name, dim, carried)
    if labels is not None and shift == 1:
        run.put(node.name, len(run.size(indices)), labels)


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def bags(run: Pass, node: Node) -> None:
    """Sums, means or maxima of rows of a table, and bookkeeping that nobody may cut."""
    pin_dims(run, node, node.args[0], "looked up", 1)
    for ref in run.operands(node)[1:]:
        pin_dims(run, node, ref, "positions")
    labels = run.along(node.args[0], 1, node)
    if labels is not None:
        names = run.results(node)
        run.put(names[0], 1, labels)
        if node.arg(4, "mode", 0) == 2:  # of each maximum the row that it comes from
            run.put(names[3], 1, labels)


@rule("one_hot")
def one_hot(run: Pass, node: Node) -> None:
    """A dimension with a one where the position points to."""
    ids = node.args[0]
    pin_operands(run, node, f"becomes positions in {node.op}")
    if (labels := pointed(run, node, ids)) is not None:
        if len(labels) == node.arg(1, "num_classes", -1):
            run.put(node.name, len(run.size(ids)), labels)
        else:
            run.pin(labels, f"counted by {node.op}", node)


@rule("bucketize", "searchsorted", "arange", "linspace", "eye", "scalar_tensor", "tensor", "rand",
      "randn", "tril_indices", "triu_indices", "meshgrid", "nonzero", "hann_window", "histc",
      "bincount", "argwhere", "multinomial")  # fmt: skip
def positions(run: Pass, node: Node) -> None:
    """Numbers that name positions: what enters stays as it is."""
    pin_operands(run, node, f"becomes positions in {node.op}")


@rule("rand_like", "randn_like", "randint_like", "bernoulli", "normal", "poisson", "randperm", "randint")
def chance(run: Pass, node: Node) -> None:
    """Fewer channels would draw other numbers."""
    pin_operands(run, node, f"drawn at random in {node.op}")


@rule(
    "index", "_unsafe_index", "index_select", "gather", "take_along_dim", "index_put", "index_add",
    "index_copy", "scatter", "scatter_add", "scatter_reduce", "index_fill", "masked_scatter",
    "masked_select", "select_scatter", "index_reduce", "take",
)  # fmt: skip
def lookup(run: Pass, node: Node) -> None:
    """Dimensions that integers point into stay; the others pass."""
    handler = {"index": _index, "_unsafe_index": _index, "index_put": _index_put}.get(node.base)
    if handler is not None:
        return handler(run, node)
    if node.base in ("index_select", "gather", "take_along_dim"):
        x, dim, ids = node.args[0], node.args[1], node.args[2]
        if node.base == "take_along_dim":
            dim, ids = node.arg(2, "dim"), node.args[1]
        if not isinstance(dim, int) or not isinstance(ids, Ref):
            return pin_operands(run, node, f"{node.op} names positions among them")
        dim %= max(1, len(run.size(x)))
        return _look_up(run, node, x, dim, ids)
    if node.base in ("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "select_scatter"):
        return _scatter(run, node)
    pin_operands(run, node, f"{node.op} names positions among them")


def _look_up(run: Pass, node: Node, x: Ref, dim: int, ids: Ref) -> None:
    """index_select(x, dim, ids), gather(x, dim, ids)."""
    source_all(run, node, x)
    _point(run, node, x, dim, ids)
    for d, f in list(run.fields.get(x.name, {}).items()):
        if d == dim:
            continue
        labels = f.labels
        labels = flattened(run, node, labels, dim)
        if node.base == "gather" and run.size(ids)[d] != run.size(x)[d]:
            run.pin(labels, f"part of them named by {node.op}", node)
            continue
        if node.base != "index_select" and run.size(ids)[d] > 1:
            run.bind(ids, d, labels, node)
        run.put(node.name, d, labels)
    own = run.field(ids, dim if node.base != "index_select" else 0)
    if own is not None:
        run.pin(own.labels, f"positions in {node.op}", node)
    if node.base != "index_select":
        for d, f in list(run.fields.get(ids.name, {}).items()):
            if d != dim and run.field(x, d) is None and run.size(x)[d] > 1:
                run.pin(f.labels, f"positions in {node.op}", node)


def _point(run: Pass, node: Node, x: Ref, dim: int, ids: Ref) -> None:
    """Positions along a dimension: it stays, unless they were chosen among the channels that lie there."""
    labels = pointed(run, node, ids)
    if labels is not None:
        run.bind(x, dim, labels, node)
    elif (found := run.field(x, dim)) is not None:
        run.pin(found.labels, f"{node.op} names positions among them", node)


def _scatter(run: Pass, node: Node) -> None:
    """scatter(x, dim, ids, source): all of them agree in the other dimensions."""
    x, dim = node.args[0], node.args[1]
    if node.base == "select_scatter":
        dim = node.args[2]
    if not isinstance(dim, int):
        return pin_operands(run, node, f"{node.op} names positions among them")
    rank = len(run.size(x))
    dim %= max(1, rank)
    if node.base == "scatter" and (labels := pointed(run, node, node.args[2])) is not None:
        run.bind(x, dim, labels, node)
        run.put(node.name, dim, labels)
        beyond = [r for r in run.operands(node) if r != x]
        return _agree(run, node, x, dim, beyond, pinned=beyond)
    others = [r for r in run.operands(node) if r != x]
    _agree(run, node, x, dim, others, pinned=[x, *others])


def _agree(run: Pass, node: Node, x: Ref, dim: int, others: list[Ref], *, pinned: list[Ref]) -> None:
    """Tie the operands in every dimension but the one with positions, in which ``pinned`` stay."""
    rank = len(run.size(x))
    for ref in pinned:
        for d, f in list(run.fields.get(ref.name, {}).items()):
            if len(run.size(ref)) != rank or d == dim:
                run.pin(f.labels, f"{node.op} names positions among them", node)
    present = [r for r in (x, *others) if len(run.size(r)) == rank]
    for d in range(rank):
        if d == dim:
            continue
        held = [(r, d) for r in present if run.size(r)[d] > 1]
        if any(run.size(r)[d] != run.size(x)[d] for r in present):
            for r, _ in held:
                if (part := run.field(r, d)) is not None:
                    run.pin(part.labels, f"part of them named by {node.op}", node)
            continue
        meet(run, node, d, rank, held)


def _index(run: Pass, node: Node) -> None:
    """x[ids_0, :, ids_2]: where an index is given, positions; else the channels pass."""
    x, indices = node.args[0], list(node.args[1])
    source_all(run, node, x)
    rank = len(run.size(x))
    indices += [None] * (rank - len(indices))
    given = [i for i in indices if isinstance(i, Ref)]
    used: list[int] = []
    dim = 0
    for i in indices[:rank]:
        width = 1
        if isinstance(i, Ref):
            if run.full[i.name].dtype in (torch.bool, torch.uint8):
                width = len(run.size(i))
            for d in range(dim, dim + width):
                _point(run, node, x, d, i)
            used += range(dim, dim + width)
        dim += width
        if dim >= rank:
            break
    for ref in given:
        for f in run.fields.get(ref.name, {}).values():
            run.pin(f.labels, f"positions in {node.op}", node)
    shape = np.broadcast_shapes(*(run.size(i) for i in given)) if len(used) == len(given) else (0,)
    together = used == list(range(used[0], used[-1] + 1)) if used else True
    first = used[0] if together and used else 0
    for d, f in list(run.fields.get(x.name, {}).items()):
        if d in used:
            continue
        labels = f.labels
        for other in used:
            labels = flattened(run, node, labels, other)
        rest = [k for k in range(rank) if k not in used]
        shape_rest = [labels.shape[k] for k in rest]
        at = sum(k < first for k in rest)
        array = labels.reshape(shape_rest[:at] + [1] * len(shape) + shape_rest[at:])
        place = rest.index(d) + (len(shape) if rest.index(d) >= at else 0)
        run.put(node.name, place, array)


def _index_put(run: Pass, node: Node) -> None:
    """Values at positions: the indexed dimensions stay, the others agree."""
    x, indices, values = node.args[0], list(node.args[1]), node.args[2]
    rank, count = len(run.size(x)), len(indices)
    for ref in indices:
        if isinstance(ref, Ref):
            for f in run.fields.get(ref.name, {}).values():
                run.pin(f.labels, f"positions in {node.op}", node)
            if run.full[ref.name].dtype == torch.bool:
                count = max(count, len(run.size(ref)))
    if any(i is None for i in indices):
        return pin_operands(run, node, f"{node.op} names positions among them")
    for d, f in list(run.fields.get(x.name, {}).items()):
        if d < count:
            run.pin(f.labels, f"{node.op} names positions among them", node)
    for d in range(count, rank):
        own = d - rank + len(run.size(values)) if isinstance(values, Ref) else -1
        held = [(x, d)] if run.size(x)[d] > 1 else []
        if own >= 0 and run.size(values)[own] > 1:
            held.append((values, own))
        meet_flat(run, node, d, rank, held)
    if isinstance(values, Ref):
        for d, f in list(run.fields.get(values.name, {}).items()):
            if d < len(run.size(values)) - (rank - count):
                run.pin(f.labels, f"{node.op} names positions among them", node)
