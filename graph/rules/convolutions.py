"""Rules of convolutions: plain, grouped, depthwise, transposed."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.groups import Site
from graph.labels import Labels, Pass
from graph.program import Node, Ref
from graph.rules.registry import rule
from graph.rules.statements import pin_dims, pin_operands


@rule("conv1d", "conv2d", "conv3d")
def convolution(run: Pass, node: Node) -> None:
    """out[:, o] = sum over i of weight[o, i] * x[:, i], within each of ``groups`` groups."""
    x, weight, bias = node.args[0], node.args[1], node.arg(2, "bias")
    groups = int(run.by_name[node.name].arg(6, "groups", 1))
    outs, ins = run.size(weight)[:2]
    if len(run.size(x)) < len(run.size(weight)):
        return pin_operands(run, node, f"{node.op} without a batch dimension")
    pin_dims(run, node, x, "convolved over", 1)
    pin_dims(run, node, weight, "kernel", 0, 1)
    labels = run.along(x, 1, node)
    if labels is None:
        pin_dims(run, node, weight, "shared with a fixed input", 0, *range(2, len(run.size(weight))))
    if ins == 1 and groups > 1:  # depthwise: a filter of its own for each channel
        if labels is None:
            return
        repeated: Labels = np.repeat(labels, outs // groups)
        run.bind(weight, 0, repeated, node)
        result: Labels | None = repeated
    else:
        result = run.along(weight, 0, node)
        if labels is not None:
            if groups == 1:
                run.bind(weight, 1, labels, node)
            else:
                per_group = labels.reshape(groups, -1)
                run.balance(per_group, node)
                made = outs
                if result is not None:
                    run.balance(result.reshape(groups, -1), node)
                    made = len(result)
                rank = len(run.size(weight))
                rows = np.repeat(per_group, made // groups, axis=0)
                run.bind(weight, 1, rows.reshape(*rows.shape, *[1] * (rank - 2)), node)
            run.consume(Site(node.name, (0,), x.name, 1, 0.0, _table_name(run, weight), 1))
        elif groups > 1 and result is not None:
            run.pin(result, "output of a grouped convolution whose input is fixed", node)
    _channels_out(run, node, result, bias)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(run: Pass, node: Node) -> None:
    """As a convolution with weight[i, o]; each group has its own rows of inputs."""
    x, weight, bias = node.args[0], node.args[1], node.arg(2, "bias")
    groups = int(run.by_name[node.name].arg(6, "groups", 1))
    ins, outs = run.size(weight)[:2]
    if len(run.size(x)) < len(run.size(weight)):
        return pin_operands(run, node, f"{node.op} without a batch dimension")
    pin_dims(run, node, x, "convolved over", 1)
    pin_dims(run, node, weight, "kernel", 0, 1)
    labels = run.along(x, 1, node)
    if labels is None:
        pin_dims(run, node, weight, "shared with a fixed input", *range(1, len(run.size(weight))))
    elif groups == 1 or groups == ins:
        run.bind(weight, 0, labels, node)
        if groups == 1:
            run.consume(Site(node.name, (0,), x.name, 1, 0.0, _table_name(run, weight), 0))
    result: Labels | None = None
    if groups == 1:
        result = run.along(weight, 1, node)
    elif labels is not None:
        if groups == ins:  # depthwise: what a channel makes goes with it
            result = np.repeat(labels, outs)
            pin_dims(run, node, weight, "depthwise", 0)
        else:
            result = _grouped(run, node, weight, labels, groups)
            run.consume(Site(node.name, (0,), x.name, 1, 0.0, _table_name(run, weight), 0))
    _channels_out(run, node, result, bias)


def _grouped(run: Pass, node: Node, weight: Ref, labels: Labels, groups: int) -> Labels | None:
    """The channels that a grouped transposed convolution makes: weight[i, o] makes channel o of i's group."""
    run.balance(labels.reshape(groups, -1), node)
    run.bind(weight, 0, labels, node)
    run.create(node.name, 1)
    made = run.along(Ref(node.name), 1, node)
    if made is None:  # of each group a single channel: all of them stay
        return None
    rows = made.reshape(groups, -1)
    run.balance(rows, node)
    rows = np.repeat(rows, len(labels) // groups, axis=0)
    run.bind(weight, 1, rows.reshape(*rows.shape, *[1] * (len(run.size(weight)) - 2)), node)
    return made


def _table_name(run: Pass, ref: Ref) -> str | None:
    return str(run.by_name[ref.name].args[0]) if run.is_tensor(ref) else None


def _channels_out(run: Pass, node: Node, result: Labels | None, bias: Any) -> None:
    if result is not None:
        if isinstance(bias, Ref):
            run.bind(bias, 0, result, node)
        run.put(node.name, 1, result)
