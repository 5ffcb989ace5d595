"""The rule of attention in one operator."""

from __future__ import annotations

import numpy as np

from graph.groups import Site
from graph.labels import Labels, Pass
from graph.program import Node, Ref
from graph.rules.registry import rule
from graph.rules.statements import pin_dims, project


@rule("scaled_dot_product_attention")
def attention(run: Pass, node: Node) -> None:
    """softmax(q k^T / sqrt(d)) v; with grouped queries each key head serves several query heads."""
    query, key, value = node.args[:3]
    mask = node.arg(3, "attn_mask")
    rank = len(run.size(query))
    pin_dims(run, node, key, "attended over", *(d for d in range(rank) if d != rank - 2))
    pin_dims(run, node, value, "attended over", *(d for d in range(rank) if d != rank - 2))
    tokens, last = rank - 2, rank - 1
    for dim in range(rank):
        holders = [query] if dim == tokens else [value] if dim == last else [query, key, value]
        holders = [h for h in holders if run.size(h)[dim] > 1]
        labels = next((run.field(h, dim) for h in holders if run.field(h, dim) is not None), None)
        if labels is None:
            continue
        full = _repeated(labels.labels, run.shape_now(query.name))
        for holder in holders:
            found = run.field(holder, dim)
            if found is None:
                run.pin(full, f"meets a value whose channels are fixed in {node.op}", node)
            else:
                run.equate(_repeated(found.labels, run.shape_now(query.name)), full, node)
        run.put(node.name, dim, full)
        if isinstance(mask, Ref) and dim < last:
            own = dim - rank + len(run.size(mask))
            if own >= 0 and run.size(mask)[own] > 1:
                run.bind(mask, own, project(run, full, run.size(mask), node), node)
    if isinstance(mask, Ref):
        behind = rank - len(run.size(mask))
        for own, found in list(run.fields.get(mask.name, {}).items()):
            if own + behind == last or run.fields.get(node.name, {}).get(own + behind) is None:
                run.pin(found.labels, f"attended over in {node.op}", node)
    lanes = [h for h in (query, key) if run.field(h, last) is not None]
    if lanes:
        found = run.field(lanes[0], last)
        assert found is not None
        full = _repeated(found.labels, run.shape_now(query.name))
        for holder in (query, key):
            theirs = run.field(holder, last)
            if theirs is None:
                run.pin(full, f"meets a value whose channels are fixed in {node.op}", node)
            else:
                run.equate(_repeated(theirs.labels, run.shape_now(query.name)), full, node)
        operand = 0 if lanes[0] == query else 1
        run.consume(Site(node.name, (operand,), lanes[0].name, last))


def _repeated(labels: Labels, size: tuple[int, ...]) -> Labels:
    """Labels of fewer heads, each repeated for the query heads that it serves."""
    if labels.ndim > 2:
        heads = labels.ndim - 3
        if 1 < labels.shape[heads] < size[heads] and size[heads] % labels.shape[heads] == 0:
            return np.repeat(labels, size[heads] // labels.shape[heads], axis=heads)
    return labels
