"""Registry: which rule an operator has."""

from __future__ import annotations

from collections.abc import Callable

from graph.labels import Pass
from graph.program import Node
from graph.rules.pointers import follow
from graph.rules.statements import pin_operands

Rule = Callable[[Pass, Node], None]
_RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators by their base names; a second rule for one operator is an error."""

    def add(function: Rule) -> Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"{op} already has the rule {_RULES[op].__name__}")
            _RULES[op] = function
        return function

    return add


# Operators whose work is multiply-adds; all others with a rule move, scale, compare or average.
CONTRACTIONS = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "mm",
    "mv", "dot", "vdot", "inner", "addmm", "addmv", "addbmm", "addr", "outer", "ger", "bmm", "baddbmm",
    "matmul", "tensordot", "einsum", "bilinear", "scaled_dot_product_attention", "cdist", "lstm", "gru",
    "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
})  # fmt: skip


def find(base: str) -> Rule | None:
    """The rule of an operator, by its base name."""
    return _RULES.get(base)


def known_operators() -> tuple[str, ...]:
    """Base names of all operators with a rule, sorted."""
    return tuple(sorted(_RULES))


def apply(run: Pass, node: Node) -> None:
    """Run the rule of a node's operator."""
    follow(run, node)
    found = _RULES.get(node.base)
    if found is not None:
        found(run, node)
    elif any(run.fields.get(r.name) or run.is_tensor(r) for r in run.operands(node)):
        pin_operands(run, node, f"no rule for {node.op}")
        run.unsupported(node)
