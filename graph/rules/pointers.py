"""Pointers: integers that name positions along a labelled dimension, such as the experts that a router chose.

They follow of themselves when channels go, as long as nobody but a lookup reads them: what is chosen among
fewer channels is a position among fewer channels.
"""

from __future__ import annotations

from graph.labels import Labels, Pass
from graph.program import Node, Ref, refs_in

_UNCHANGED = frozenset({
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "movedim",
    "squeeze", "unsqueeze", "expand", "repeat", "repeat_interleave", "slice", "select", "split",
    "split_with_sizes", "chunk", "unbind", "flip", "roll", "clone", "contiguous", "detach", "alias", "to",
    "_to_copy",
})  # fmt: skip
_IDS = {
    "index": 1,
    "_unsafe_index": 1,
    "index_select": 2,
    "gather": 2,
    "scatter": 2,
    "one_hot": 0,
}  # the argument with positions


def pointed(run: Pass, node: Node, ids: Ref) -> Labels | None:
    """The labels of the dimension that a lookup's positions point into, or None where they are numbers."""
    if run.field(ids, 0) is not None and node.base == "index_select":
        return None
    return run.pointers.get(ids.name)


def follow(run: Pass, node: Node) -> None:
    """Hand on what the operands of a node point to; pin it where the positions themselves are read."""
    for ref in run.operands(node):
        labels = run.pointers.get(ref.name)
        if labels is None:
            continue
        place = _IDS.get(node.base)
        others = [a for i, a in enumerate(node.args) if i != place]
        if node.base in _UNCHANGED and run.operands(node) == [ref]:
            for name in run.results(node):
                run.pointers[name] = labels
        elif place is None or ref in refs_in((others, dict(node.kwargs))):
            run.pin(labels, f"their positions are read by {node.op}", node)
