"""The rule of recurrent layers."""

from __future__ import annotations

import numpy as np

from graph.groups import Site
from graph.labels import Labels, Pass
from graph.program import Node
from graph.rules.registry import rule
from graph.rules.statements import pin_dims, pin_operands


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(run: Pass, node: Node) -> None:
    """Layers of gates over time; every layer and direction keeps equally many hidden channels."""
    if node.op.endswith(".data"):
        return pin_operands(run, node, "packed sequences")
    x, hidden, weights = node.args[:3]
    gates = {"lstm": 4, "gru": 3}.get(node.base, 1)
    states = list(hidden) if isinstance(hidden, (list, tuple)) else [hidden]
    bias, layers, directions = bool(node.args[3]), int(node.args[4]), 2 if node.args[7] else 1
    each = 4 if bias else 2
    units = [weights[i : i + each] for i in range(0, len(weights), each)]
    if len(units) != layers * directions or any(len(u) != each for u in units):
        return pin_operands(run, node, f"projections of {node.op}")
    last = len(run.size(x)) - 1
    entering = run.along(x, last, node)
    for ref in (x, *states):
        pin_dims(run, node, ref, "runs over time", len(run.size(ref)) - 1)
    rows: list[Labels] = []
    for layer in range(layers):
        made: list[Labels] = []
        for direction in range(directions):
            w_in, w_hidden, *biases = units[layer * directions + direction]
            own = run.along(w_hidden, 1, node)
            if own is None:
                return pin_operands(run, node, f"hidden size of 1 in {node.op}")
            stacked = np.tile(own, gates)
            for ref in (w_in, w_hidden, *biases):
                run.bind(ref, 0, stacked, node)
            site = (2, (layer * directions + direction) * each)
            run.consume(Site(node.name, (2, site[1] + 1), w_hidden.name, 1, 0.0))
            if entering is not None:
                run.bind(w_in, 1, entering, node)
                run.consume(Site(node.name, site, w_in.name, 1, 0.0))
            else:
                pin_dims(run, node, w_in, "shared with a fixed input", 0)
            made.append(own)
        rows += made
        entering = np.concatenate(made)
    table = np.stack(rows)
    run.balance(table, node)
    for ref in states:
        run.bind(ref, len(run.size(ref)) - 1, table.reshape(len(rows), 1, -1), node)
    names = run.results(node)
    if entering is not None:
        run.put(names[0], last, entering)
    for name in names[1:]:
        run.put(name, 2, table.reshape(len(rows), 1, -1))
