"""Kinds: what the units of a group are, read off how the network uses them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graph.groups import Kind
from graph.inference import Inference, Solution
from graph.labels import Labels, Pass
from graph.program import Node
from graph.residual import ancestors, origin

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", "mul")
_LOOKUPS = ("index", "index_select", "gather", "take_along_dim")
_MASKS = ("tril", "where", "masked_fill", "unsqueeze", "view", "reshape", "flatten", "permute", "transpose",
          "expand", "clone", "contiguous")  # fmt: skip
_ATTENTION = "scaled_dot_product_attention"

Groups = frozenset[int]


def kinds(run: Inference, solution: Solution, group_of: NDArray[np.int64], count: int) -> list[Kind]:
    """The kind of each group.

    - An *expert* is a slice of stacked weights: both factors and the result of a product with them have it,
      or positions that were chosen look it up.
    - A *head* is what both factors and the result of a product of two activations have.
    - A *state* is summed over in a product of two activations, one of which has it beside the channels that
      come out: the memory of a state-space model, or of linear attention. Or the product makes weights of
      pairs of steps that are multiplied by an activation, the decay, before they weigh anything.
    - A *lane* is any other part of a head.
    - A *residual* channel is read by a layer whose result is added to it.
    - Any other is a *channel* if convolutions make it, and *mlp* else.

    Args:
        run: the inference.
        solution: what it came to.
        group_of: for each class its group, -1 for those that are no unit.
        count: how many groups there are.
    """
    lying = _lying(solution, group_of)
    experts, heads, lanes, states, decayed = _products(run, lying)
    experts |= {int(g) for labels in _looked_up(run) for g in group_of[solution.classes[labels]] if g >= 0}
    inner = set(group_of[solution.derived[:, 2]].tolist())
    parts = set(zip(*group_of[solution.derived[:, 1:]].T.tolist(), strict=True))
    compared = {g for s in run.sites if s.fills not in (0.0, None) for g in lying[s.value].get(s.dim, ())}
    memory = {
        g
        for g, beside in states.items()
        if g not in compared and any((g, o) not in parts and (o, g) not in parts for o in beside - heads)
    } | (decayed - compared)
    lanes |= {g for g in inner if g >= 0 and g in states}
    residual = _residual(run, lying)
    convolved = {
        g for n in run.program.nodes if n.base in _CONVOLUTIONS for g in _of(lying, n.name)
    }  # fmt: skip
    told: tuple[tuple[Kind, set[int]], ...] = (
        ("expert", experts - heads), ("head", heads), ("state", memory), ("lane", lanes),
        ("residual", residual), ("channel", convolved))  # fmt: skip
    return [next((kind for kind, found in told if g in found), "mlp") for g in range(count)]


Lying = Mapping[str, Mapping[int, Groups]]


def _lying(solution: Solution, group_of: NDArray[np.int64]) -> Lying:
    """For each value and labelled dimension the groups that lie there."""
    return {
        name: {dim: frozenset(g for g in np.unique(group_of[f.labels]).tolist() if g >= 0)
               for dim, f in found.items()}
        for name, found in solution.fields.items()
    }  # fmt: skip


def _of(lying: Lying, value: str) -> Groups:
    return frozenset().union(*lying.get(value, {}).values())


def _products(run: Pass, lying: Lying) -> tuple[set[int], set[int], set[int], dict[int, set[int]], set[int]]:
    """Experts, heads and lanes by their places in products; what is summed over, and what is beside it.

    The last is what is summed over in weights of pairs of steps that decay.
    """
    decayed: set[int] = set()
    experts: set[int] = set()
    heads: set[int] = set()
    lanes: set[int] = set()
    states: dict[int, set[int]] = {}
    summed, weights = _sums(run), _weights(run)
    for node in run.program.nodes:
        if node.base == _ATTENTION:
            last = len(run.size(node.args[0])) - 1
            for ref in run.operands(node)[:3]:
                for dim, found in lying.get(ref.name, {}).items():
                    (lanes if dim == last else heads).update(found)
        if node.base not in _PRODUCTS or len(operands := run.operands(node)) < 2:
            continue
        left, right = operands[-2:]  # of baddbmm the term stands first
        result = summed.get(node.name, node).name
        if node.base == "mul" and result == node.name:
            continue
        a, b, out = _of(lying, left.name), _of(lying, right.name), _of(lying, result)
        both = {g for g in a & b & out if sum(g in held for held in lying[result].values()) == 1}
        if left.name in weights or right.name in weights:
            experts |= both if node.base != "mul" else set()
            continue
        if node.base != "mul":
            heads |= both
            if both:
                lanes |= (a | b) - both
        for group in (a & b) - out:
            states.setdefault(group, set()).update((a ^ b) & out)
            if not (a | b) & out - heads and _decays(run, result):
                decayed.add(group)
    return experts, heads, lanes, states, decayed


def _decays(run: Pass, value: str) -> bool:
    """Whether a product is at most masked and moved before it is multiplied by an activation."""
    left, seen = [value], {value}
    while left:
        for node in run.program.readers.get(left.pop(), ()):
            if node.base == "mul":
                if all(name not in run.static for name in node.refs) and len(set(node.refs)) == 2:
                    return True
            elif node.base not in _MASKS:
                continue
            if node.name not in seen:
                seen.add(node.name)
                left.append(node.name)
    return False


def _looked_up(run: Pass) -> list[Labels]:
    """The labels that chosen positions look up."""
    return [
        run.pointers[r.name]
        for n in run.program.nodes
        if n.base in (*_LOOKUPS, "one_hot", "scatter")
        for r in run.operands(n)
        if r.name in run.pointers
    ]


def _sums(run: Pass) -> dict[str, Node]:
    """Products written as a multiplication with a sum behind it: the sum of each multiplication."""
    makers = run.by_name
    return {
        n.args[0].name: n
        for n in run.program.nodes
        if n.base == "sum" and makers[n.args[0].name].base == "mul"
    }


def _weights(run: Pass) -> set[str]:
    """Values that hold parameters and nothing else: computed from them, or looked up among them."""
    found = set(run.static)
    for node in run.program.nodes:
        operands = [r.name for r in run.operands(node)] if node.name not in found else []
        if node.base in _LOOKUPS:
            operands = operands[:1]
        if operands and found.issuperset(operands):
            found.add(node.name)
    return found


def _residual(run: Inference, lying: Lying) -> set[int]:
    """Groups of which a layer's result is added to what the layer reads."""
    position = {n.name: i for i, n in enumerate(run.program.nodes)}
    before = ancestors(run.program)
    readers: dict[int, set[int]] = {}
    for site in run.sites:
        if site.fills == 0.0:
            for group in lying[site.value].get(site.dim, ()):
                readers.setdefault(group, set()).add(position[site.node])
    found: set[int] = set()
    for node in run.program.nodes:
        operands = [r.name for r in run.operands(node) if r.name not in run.static]
        if node.base != "add" or len(operands) < 2:
            continue
        for skip, branch in (operands[:2], operands[1::-1]):
            skip = origin(run.by_name, run.static, skip)
            start, reach = position[skip], before[position[branch]]
            if reach >> start & 1:
                found |= {
                    g for g in (_of(lying, skip) & _of(lying, branch)) - found
                    if any(reach >> r & 1 and before[r] >> start & 1 for r in readers.get(g, ()))
                }  # fmt: skip
    return found
