"""Rules of normalisations: statistics are those of the channels that remain."""

from __future__ import annotations

from graph.labels import Pass
from graph.program import Node, Ref
from graph.rules.registry import rule
from graph.rules.statements import flattened, pin_dims, project, source_all, statistic


@rule("batch_norm", "instance_norm")
def batch_norm(run: Pass, node: Node) -> None:
    """Each channel is normalised on its own; scale, shift and statistics follow it.

    Without running statistics, those of whatever remains along the other dimensions are computed.
    """
    x = node.args[0]
    own = (0, 1) if node.base == "instance_norm" else (1,)
    if isinstance(node.args[3], Ref) or (node.base == "instance_norm" and not node.args[5]):
        pin_dims(run, node, x, "normalised over", *own)
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim not in own:
            statistic(run, node, x, dim)
        if dim != 1:
            run.put(node.name, dim, flattened(run, node, found.labels, 1))
    labels = run.along(x, 1, node)
    if labels is not None:
        for operand in node.args[1:5]:
            if isinstance(operand, Ref):
                run.bind(operand, 0, labels, node)
        run.put(node.name, 1, labels)


@rule("layer_norm", "rms_norm")
def layer_norm(run: Pass, node: Node) -> None:
    """Statistics over the last dimensions; scale and shift follow the channels."""
    x, count = node.args[0], len(node.args[1])
    first = len(run.size(x)) - count
    names = (2,) if node.base == "rms_norm" else (2, 3)
    scales = [
        a for i, n in zip(names, ("weight", "bias"), strict=False) if isinstance(a := node.arg(i, n), Ref)
    ]
    for dim, found in list(run.fields.get(x.name, {}).items()):
        labels = found.labels
        if dim >= first:
            if not statistic(run, node, x, dim):
                continue
            for scale in scales:
                run.bind(scale, dim - first, project(run, labels, run.size(scale), node), node)
        elif any(labels.shape[d] > 1 for d in range(first, labels.ndim)):
            for other in range(first, labels.ndim):
                labels = flattened(run, node, labels, other)
        run.put(node.name, dim, labels)
    for scale in scales:  # fixed channels: their scales stay, too
        for dim in range(count):
            if run.field(x, first + dim) is None:
                pin_dims(
                    run, node, scale, "normalises fixed channels", *(d for d in range(count) if d != dim)
                )


@rule("_weight_norm", "_weight_norm_interface", "norm_except_dim")
def weight_norm(run: Pass, node: Node) -> None:
    """A weight over its norm along all dimensions but one, times a scale; removed channels are zero."""
    v = node.args[0]
    dim = int(node.args[2]) if len(node.args) > 2 else 0
    source_all(run, node, v)
    names = run.results(node)
    for d, found in list(run.fields.get(v.name, {}).items()):
        own = d == dim % len(run.size(v)) and dim != -1
        if not own:
            statistic(run, node, v, d, 0.0)
        elif node.base != "norm_except_dim":
            run.bind(node.args[1], d, found.labels, node)
        if node.base != "norm_except_dim":
            run.put(names[0], d, found.labels)
        if own and (node.base == "norm_except_dim" or len(names) > 1):
            run.put(names[-1], d, found.labels)


@rule("group_norm")
def group_norm(run: Pass, node: Node) -> None:
    """Statistics over rows of channels of equal length."""
    x, groups = node.args[0], int(node.args[1])
    pin_dims(run, node, x, "normalised over", 0, 1)
    labels = run.along(x, 1, node)
    if labels is None or not statistic(run, node, x, 1):
        return
    run.balance(labels.reshape(groups, -1), node)
    for position, name in ((2, "weight"), (3, "bias")):
        scale = node.arg(position, name)
        if isinstance(scale, Ref):
            run.bind(scale, 0, labels, node)
    run.put(node.name, 1, labels)
