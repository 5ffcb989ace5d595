"""Layers: the parts of a residual stream that can be bypassed, found in the graph.

Where a network normalises before its branches (ViT, GPT, LLaMA), a layer is a few branches in a row, and the
stream runs on without them. Where it normalises behind them (BERT), the norm belongs to the layer: bypassed,
the stream goes from the end of the layer before to the beginning of the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

from torch import Tensor

from graph.labels import static_values
from graph.program import Node, Override, Program
from graph.residual import Branch, ancestors, residual_branches, without_branches

_STEPS = 4  # operators at most between a layer's last sum and its end: a norm, a conversion, dropout


def find_layers(program: Program) -> tuple[Branch, ...]:
    """The layers of a program that can be bypassed one by one, in the order in which they run.

    Branches whose weights lie below one numbered module (``encoder.layer.3``) are one layer. Where there are
    several of one stack, such layers alone count; else each branch is one. ``add`` of a layer is its end and
    ``stream`` its beginning.
    """
    branches = [replace(b, tensors=b.tensors & program.trainable) for b in residual_branches(program)]
    runs = [list(run) for _, run in groupby(_outer(branches), _home)]
    found = _Finder(program).layers(runs)
    stacks = Counter(_stack(layer) for layer in found)
    return tuple(b for b in found if (stack := _stack(b)) is not None and stacks[stack] > 1) or found


def _stack(layer: Branch) -> str | None:
    """The module that numbers a layer; None where none does."""
    stack, _, number = layer.name.rpartition(".")
    return stack if number.isdigit() else None


def bypassing(layers: Iterable[Branch], others: Mapping[str, Override]) -> Mapping[str, Override]:
    """Overrides with which the whole program computes as if these layers were not there.

    Args:
        layers: that are bypassed.
        others: further overrides.
    """
    held: dict[str, Any] = {}
    ends = {layer.add: layer.stream for layer in layers}

    def run(function: Any, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.name in ends:
            held[node.name] = held[ends[node.name]]
        elif node.name in others:
            held[node.name] = others[node.name](function, node, args, kwargs)
        else:
            held[node.name] = function(*args, **kwargs)
        return held[node.name]

    return {**others, **dict.fromkeys({*ends, *ends.values()}, run)}


def _outer(branches: Sequence[Branch]) -> list[Branch]:
    """Without branches that lie within others, nor branches around half of the network."""
    weights = frozenset[str]().union(*(b.tensors for b in branches))
    found = [b for b in branches if len(branches) == 1 or 2 * len(b.tensors) <= len(weights)] or branches
    return [b for b in found if not any(b.tensors < other.tensors for other in found)]


def _home(branch: Branch) -> str:
    """The numbered module around all weights of a branch; its own name where there is none."""
    shared: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in branch.tensors), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    while shared and not shared[-1].isdigit():
        shared.pop()
    return ".".join(shared) or branch.name


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program, self.static = program, static_values(program)
        self.nodes = {n.name: n for n in program.nodes}
        self.shapes, self.reach = program.shapes(), ancestors(program)
        self.place = {name: i for i, name in enumerate(self.nodes)}

    def layers(self, runs: list[list[Branch]]) -> tuple[Branch, ...]:
        tails = [self._between(a[-1].add, b[0].stream) for a, b in pairwise(runs)]
        found = []
        for index, run in enumerate(runs):
            tail = tails[index] if index < len(tails) else None
            if tail is None and index:  # the last of its stack ends as the one before does
                tail = self._followed(run[-1].add, tails[index - 1] or [])
            end = tail[-1].name if tail else run[-1].add
            start = run[0].stream
            if self._type(start) == self._type(end) and self.reach[self.place[end]] >> self.place[start] & 1:
                layer = Branch(_home(run[0]), end, start, end, frozenset())
                lost = self.program.trainable - set(without_branches(self.program, [layer]).tensors)
                if lost:
                    found.append(Branch(layer.name, end, start, end, frozenset(lost)))
        return tuple(found)

    def _between(self, start: str, end: str) -> list[Node] | None:
        """The nodes from a value to one that is computed from it alone; None where it is not."""
        path: list[Node] = []
        while end != start:
            node = self.nodes[end]
            operands = [name for name in node.refs if name not in self.static]
            if len(operands) != 1 or len(path) == _STEPS:
                return None
            path.append(node)
            end = operands[0]
        return path[::-1]

    def _followed(self, start: str, like: list[Node]) -> list[Node]:
        """The nodes behind a value that do what others do; none where they do not."""
        path: list[Node] = []
        for wanted in like:
            found = {n.name: n for n in self.program.readers.get(start, ()) if n.base == wanted.base}
            if len(found) != 1:
                return []
            start, node = next(iter(found.items()))
            path.append(node)
        return path

    def _type(self, name: str) -> tuple[Any, ...] | None:
        value = self.shapes[name]
        return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None
