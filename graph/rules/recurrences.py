"""The rule of recurrent layers."""

from __future__ import annotations

import numpy as np

from graph.groups import Site
from graph.labels import Labels, Pass
from graph.program import Node, Ref
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
    projected = node.base == "lstm" and run.size(states[0])[-1] != run.size(states[1])[-1]
    each = (4 if bias else 2) + projected
    units = [weights[i : i + each] for i in range(0, len(weights), each)]
    if len(units) != layers * directions or any(len(u) != each for u in units):
        return pin_operands(run, node, f"weights of {node.op} in an order of their own")
    last = len(run.size(x)) - 1
    entering = run.along(x, last, node)
    for ref in (x, *states):
        pin_dims(run, node, ref, "runs over time", len(run.size(ref)) - 1)
    rows: list[Labels] = []
    cells: list[Labels] = []
    for layer in range(layers):
        made: list[Labels] = []
        for direction in range(directions):
            w_in, w_hidden, *biases = units[layer * directions + direction]
            projection = biases.pop() if projected else None
            own = run.along(w_hidden, 1, node) if projection is None else run.along(projection, 0, node)
            cell = own if projection is None else run.along(projection, 1, node)
            if own is None or cell is None:
                return pin_operands(run, node, f"hidden size of 1 in {node.op}")
            if projection is not None:  # the operator tells projections by outputs narrower than the state
                run.choose(cell, run.size(projection)[0] + 1, node)
            stacked = np.tile(cell, gates)
            for ref in (w_in, w_hidden, *biases):
                run.bind(ref, 0, stacked, node)
            site = (2, (layer * directions + direction) * each)
            run.consume(Site(node.name, (2, site[1] + 1), w_hidden.name, 1, 0.0))
            if entering is not None:
                run.bind(w_in, 1, entering, node)
                run.consume(Site(node.name, site, w_in.name, 1, 0.0))
            else:
                pin_dims(run, node, w_in, "shared with a fixed input", 0)
            if projection is not None:
                run.bind(w_hidden, 1, own, node)
                run.consume(Site(node.name, (2, site[1] + each - 1), projection.name, 1, 0.0))
            made.append(own)
            cells.append(cell)
        rows += made
        entering = np.concatenate(made)
    tables = [np.stack(rows), np.stack(cells)]
    names = run.results(node)
    for table, ref, name in zip(tables, states, names[1:], strict=False):
        run.balance(table, node)
        wide = table.reshape(len(rows), 1, -1)
        run.bind(ref, len(run.size(ref)) - 1, wide, node)
        run.put(name, 2, wide)
    if entering is not None:
        run.put(names[0], last, entering)


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(run: Pass, node: Node) -> None:
    """One step of gates."""
    x, hidden, w_in, w_hidden = node.args[:4]
    gates = {"lstm_cell": 4, "gru_cell": 3}.get(node.base, 1)
    states = list(hidden) if isinstance(hidden, (list, tuple)) else [hidden]
    weights = [w_in, w_hidden, *(b for b in node.args[4:6] if isinstance(b, Ref))]
    last = len(run.size(x)) - 1
    for ref in (x, *states):
        pin_dims(run, node, ref, "rows of a batch", last)
    entering = run.along(x, last, node)
    own = next((found for s in states if (found := run.along(s, last, node)) is not None), None)
    if own is None:
        return pin_operands(run, node, f"hidden state that is fixed in {node.op}")
    for ref in weights:
        run.bind(ref, 0, np.tile(own, gates), node)
    for ref in states:
        run.bind(ref, last, own, node)
    run.bind(w_hidden, 1, own, node)
    table = str(run.by_name[w_hidden.name].args[0]) if run.is_tensor(w_hidden) else None
    run.consume(Site(node.name, (1, 0) if gates == 4 else (1,), states[0].name, last, 0.0, table, 1))
    if entering is not None:
        run.bind(w_in, 1, entering, node)
        table = str(run.by_name[w_in.name].args[0]) if run.is_tensor(w_in) else None
        run.consume(Site(node.name, (0,), x.name, last, 0.0, table, 1))
    else:
        pin_dims(run, node, w_in, "shared with a fixed input", 0)
    for name in run.results(node):
        run.put(name, last, own)
