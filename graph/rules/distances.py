"""Rules of distances, angles and vector products between two operands."""

from __future__ import annotations

from graph.groups import Site
from graph.labels import Pass
from graph.program import Node
from graph.rules.contractions import contraction
from graph.rules.pointwise import elementwise
from graph.rules.registry import rule
from graph.rules.statements import pin_dims


@rule("cdist", "_cdist_forward")
def distances(run: Pass, node: Node) -> None:
    """out[..., m, n] = the norm of x[..., m, :] - y[..., n, :]; removed channels are zero in both."""
    x, y = node.args[:2]
    rank = len(run.full[node.name].shape)
    letters = "abcdefghijkl"[: rank - 2]
    first = letters[rank - len(run.size(x)) :] + "MK"
    second = letters[rank - len(run.size(y)) :] + "NK"
    contraction(run, node, [(x, first), (y, second)], letters + "MN")
    for index, ref in enumerate((x, y)):
        last = len(run.size(ref)) - 1
        if run.field(ref, last) is not None:
            run.consume(Site(node.name, (index,), ref.name, last))


@rule("cosine_similarity")
def angles(run: Pass, node: Node) -> None:
    """Products and norms over one dimension; removed channels are zero in both operands."""
    x, y = node.args[:2]
    rank = max(len(run.size(x)), len(run.size(y)))
    dim = int(node.arg(2, "dim", 1)) % rank
    for d in range(rank):
        held = [(i, r, d - rank + len(run.size(r))) for i, r in enumerate((x, y))]
        held = [(i, r, own) for i, r, own in held if own >= 0 and run.size(r)[own] > 1]
        labelled = [(i, r, own) for i, r, own in held if run.field(r, own) is not None]
        if not labelled:
            continue
        labels = run.along(*labelled[0][1:], node)
        assert labels is not None
        for _, ref, own in held:
            run.bind(ref, own, labels, node)
        if d != dim:
            run.put(node.name, d - (d > dim), labels)
        elif len(held) < 2:
            run.pin(labels, f"compared with one number in {node.op}", node)
        else:
            for i, ref, own in held:
                run.consume(Site(node.name, (i,), ref.name, own))


@rule("cross", "linalg_cross")
def cross(run: Pass, node: Node) -> None:
    """Three coordinates along one dimension, which stays; the others pass."""
    rank = len(run.full[node.name].shape)
    given = node.arg(2, "dim", -1 if node.base == "linalg_cross" else None)
    for ref in run.operands(node):
        shift = rank - len(run.size(ref))
        others = [d for d in range(rank - shift) if given is not None and d + shift != given % rank]
        pin_dims(run, node, ref, "a coordinate", *others)
    elementwise(run, node)
