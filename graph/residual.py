"""Residual branches: what is added to a stream, and can go whole, since without it the stream runs on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graph.labels import static_values
from graph.program import INPUT, TENSOR, Node, Override, Program, Ref

# Operators of one operand behind which a stream is still the same one.
_CARRIERS = ("to", "_to_copy", "float", "clone", "contiguous", "detach", "alias", "dropout", "view",
            "reshape", "flatten", "permute", "transpose")  # fmt: skip


@dataclass(frozen=True)
class Branch:
    """A residual step: the stream after it is the stream before it plus what the branch makes of that.

    Attributes:
        name: the module that it is, where it is one.
        add: the node of the sum.
        stream: the value that the sum adds to.
        value: what is added.
        tensors: names of the weights that nothing else reads.
    """

    name: str
    add: str
    stream: str
    value: str
    tensors: frozenset[str]


def residual_branches(program: Program) -> tuple[Branch, ...]:
    """The residual branches of a program that have weights of their own, in the order of their sums.

    Of a sum of two values of the shape and type of the result, the stream is the one that the other is
    computed from. Where branches lie within others, all of them are listed.
    """
    shapes, static, reach = program.shapes(), static_values(program), ancestors(program)
    nodes = {n.name: n for n in program.nodes}
    position = {name: i for i, name in enumerate(nodes)}
    found = []
    for node in program.nodes:
        if node.base != "add" or node.kwargs.get("alpha", 1) != 1 or len(node.args) != 2:
            continue
        pair = [a.name for a in node.args if isinstance(a, Ref) and a.name not in static]
        if len(pair) < 2 or any(_type(shapes[p]) != _type(shapes[node.name]) for p in pair):
            continue
        for stream, value in (pair, pair[::-1]):
            if reach[position[value]] >> position[origin(nodes, static, stream)] & 1:
                unread = _unread(program, {node.name: stream})
                tensors = frozenset(str(n.args[0]) for n in unread if n.op == TENSOR)
                if tensors & program.trainable:
                    found.append(Branch("", node.name, stream, value, tensors))
                break
    names = _names(program, [b.tensors for b in found])
    return tuple(replace(b, name=name) for b, name in zip(found, names, strict=True))


def without_branches(program: Program, branches: Iterable[Branch]) -> Program:
    """The program without some of its residual branches, and without what only they read."""
    streams = {b.add: b.stream for b in branches}
    for add, stream in streams.items():  # of sums in a row that all go, the first one's
        while stream in streams:
            stream = streams[stream]
        streams[add] = stream
    lost = {n.name for n in _unread(program, streams)}
    nodes = tuple(
        replace(n, args=_rewired(n.args, streams), kwargs=_rewired(dict(n.kwargs), streams))
        for n in program.nodes
        if n.name not in lost
    )
    gone = {str(n.args[0]) for n in program.nodes if n.op == TENSOR and n.name in lost}
    gone -= {str(n.args[0]) for n in nodes if n.op == TENSOR}
    return replace(
        program,
        nodes=nodes,
        output=_rewired(program.output, streams),
        tensors={k: t for k, t in program.tensors.items() if k not in gone},
        trainable=program.trainable - gone,
    )


def zeroing(branches: Iterable[Branch]) -> Mapping[str, Override]:
    """Overrides with which the whole program computes as if these branches yielded zero."""

    def add(function: Any, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stays = streams[node.name]
        values = [
            a if ref.name == stays else torch.zeros_like(a) for ref, a in zip(node.args, args, strict=True)
        ]
        return function(*values, **kwargs)

    streams = {b.add: b.stream for b in branches}
    return dict.fromkeys(streams, add)


def ancestors(program: Program) -> list[int]:
    """For each node the set of those that it is computed from, itself among them, as bits by position."""
    position = {n.name: i for i, n in enumerate(program.nodes)}
    reach: list[int] = []
    for node in program.nodes:
        bits = 1 << position[node.name]
        for name in node.refs:
            bits |= reach[position[name]]
        reach.append(bits)
    return reach


def origin(nodes: Mapping[str, Node], static: frozenset[str], value: str) -> str:
    """Where a value comes from that operators of one operand have only converted, viewed or dropped out."""
    while True:
        node = nodes[value]
        operands = [name for name in node.refs if name not in static]
        if node.base not in _CARRIERS or len(operands) != 1:
            return value
        value = operands[0]


def _type(value: Any) -> tuple[Any, ...] | None:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None


def _unread(program: Program, streams: Mapping[str, str]) -> list[Node]:
    """The nodes that nobody reads any more once these sums are their streams, but for the inputs."""
    read = {name for n in program.nodes for name in n.refs} | set(program.outputs)
    alive = {streams.get(name, name) for name in program.outputs}
    lost = []
    for node in reversed(program.nodes):
        if node.name in alive or node.op == INPUT or node.name not in read:
            alive.update(streams.get(name, name) for name in node.refs)
        else:
            lost.append(node)
    return lost


def _rewired(arg: Any, streams: Mapping[str, str]) -> Any:
    """Nested arguments with streams in place of sums."""
    if isinstance(arg, Ref):
        return Ref(streams.get(arg.name, arg.name))
    if isinstance(arg, (tuple, list)):
        return type(arg)(_rewired(a, streams) for a in arg)
    return {k: _rewired(v, streams) for k, v in arg.items()} if isinstance(arg, dict) else arg


def _names(program: Program, owned: Sequence[frozenset[str]]) -> list[str]:
    """A name for each branch from the weights that go with it.

    It is that of the module around them; where this is also another branch's, of the part of it with most of
    the weights; where that does not tell them apart either, with a number.
    """
    names = []
    paths = [[name.split(".")[:-1] for name in sorted(found & program.trainable)] for found in owned]
    around = [_common(found) for found in paths]
    for path, found in zip(around, owned, strict=True):
        if around.count(path) > 1:
            parts: Counter[str] = Counter()
            for name in sorted(found & program.trainable):
                parts[".".join(name.split(".")[:-1][: len(path) + 1])] += program.tensors[name].numel()
            path = parts.most_common(1)[0][0].split(".")
        names.append(".".join(path) or min(found))
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        result.append(f"{name}#{seen[name]}" if names.count(name) > 1 else name)
        seen[name] += 1
    return result


def _common(paths: Sequence[list[str]]) -> list[str]:
    """The longest path that all begin with."""
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared
