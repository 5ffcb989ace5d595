"""Evidence: which attributes of a module may be sizes, and what they may be after surgery.

Any attribute that a forward reads may be a size if its value was one in the same module of the original
program and is none any more.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graph.program import TENSOR, Program
from prune.attributes import join
from prune.declared import declared
from prune.witness import Witness

# Old and new sizes, and how often each pair occurs.
Pairs = Counter[tuple[int, int]]
_MOST_OPTIONS = 16


@dataclass
class Slot:
    """An attribute that may be a size.

    Attributes:
        path: of the module.
        name: of the attribute, with a dot where a configuration holds it.
        readers: paths of the modules whose forward reads it.
        old: its value.
        options: the values it may have now, the likeliest first; the old one is among them.
        now: the option that it has.
    """

    path: str
    name: str
    readers: frozenset[str]
    old: Any
    options: list[Any]
    now: Any = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.options[0]


def find_slots(root: nn.Module, program: Program, pruned: Program, witness: Witness) -> list[Slot]:
    """The attributes of a module that a forward reads and that may have another value now.

    Args:
        root: the module as it was.
        program: the original.
        pruned: the smaller one.
        witness: has run both.
    """
    modules = dict(root.named_modules())
    pairs = _pairs_by_module(modules, program, pruned, witness)
    found = []
    for (path, name), readers in witness.reads.readers.items():
        part = modules[path]
        if declared(part) and not isinstance(part, nn.MultiheadAttention):
            continue  # its sizes follow from its weights
        *held, leaf = name.split(".")
        owner = type(getattr(part, held[0]) if held else part)
        if isinstance(getattr(owner, leaf, None), property):
            continue  # what it is computed from was read, too
        old = witness.reads.values[path, name]
        near = _options(old, [pairs[p] for p in sorted({path, *readers})])
        if not near and not isinstance(old, int):
            continue
        wider = _options(old, [p for at, p in pairs.items() if within(at, path)])
        # Where nothing is sure, as it was until forward fails.
        likely = [*near, *wider, old] if len(near) == 1 else [old, *near, *wider]
        options = _distinct(likely)
        if len(options) > 1:
            found.append(Slot(path, name, frozenset(readers), old, options))
    return found


def within(path: str, outer: str) -> bool:
    """Whether a submodule is another one or lies in it."""
    return not outer or path == outer or path.startswith(f"{outer}.")


def _pairs_by_module(
    modules: dict[str, nn.Module], program: Program, pruned: Program, witness: Witness
) -> dict[str, Pairs]:
    """Which old size became which new one, by the path of the module: in weights, values and arguments."""
    found: dict[str, Pairs] = {p: Counter() for p in modules}
    for path, part in modules.items():
        for name in (*part._parameters, *part._buffers):
            if (old := program.tensors.get(join(path, name))) is not None:
                found[path].update(zip(old.shape, pruned.tensors[join(path, name)].shape, strict=True))
    after = {n.name: n for n in pruned.nodes}
    for node in program.nodes:
        if node.op == TENSOR or node.module not in found:
            continue
        small = after[node.name]
        shapes = zip(witness.whole.shapes[node.name], witness.small.shapes[node.name], strict=False)
        for before, now in shapes:
            found[node.module].update(zip(before, now, strict=False))
        if small.op == node.op:
            found[node.module].update(_pairs(node.args, small.args))
            found[node.module].update(_pairs(dict(node.kwargs), dict(small.kwargs)))
    return found


def _pairs(old: Any, new: Any) -> Iterator[tuple[int, int]]:
    """The whole numbers that stand at the same places in two nested arguments."""
    if type(old) is int and type(new) is int:
        yield old, new
    elif isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)) and len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            yield from _pairs(a, b)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() & new.keys():
            yield from _pairs(old[key], new[key])


def _options(value: Any, tables: Sequence[Pairs]) -> list[Any]:
    """What a value has become according to the tables, the most frequent first; empty if it is no size."""
    if type(value) is int:
        news: Counter[int] = Counter()
        for (old, new), count in itertools.chain.from_iterable(t.items() for t in tables):
            news.update({new: count} if old == value else {})
        return [n for n, _ in news.most_common()]
    if type(value) in (tuple, list) and 0 < len(value) <= 8 and all(type(v) is int for v in value):
        parts = [_options(v, tables) or [v] for v in value]
        return [type(value)(p) for p in itertools.islice(itertools.product(*parts), _MOST_OPTIONS)]
    return []


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
