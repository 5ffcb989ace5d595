"""Evidence: which attributes of a module are sizes, and what they are after surgery.

Torch's layers declare their sizes, and those follow from the weights. Any other attribute may be a size if its
value was one in the same module of the original program and is none any more.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graph.program import TENSOR, Program
from prune.attributes import Change, address, join, tensors_of
from prune.declared import declared
from prune.witness import Witness

# Attributes that name a place and not a size.
_PLACES = ("_idx", "_id", "_index")


def declared_changes(root: nn.Module, program: Program, pruned: Program) -> Iterator[Change]:
    """Sizes of torch's layers that follow from their weights."""
    names = tensors_of(root)
    aliases = {address(t): n for n, t in names.items() if n in program.tensors}
    groups, fewer = _groups(program), _groups(pruned)
    for path, part in root.named_modules():
        sizes = []
        for table, counts in ((program, groups), (pruned, fewer)):

            def weights(name: str, table: Program = table, path: str = path) -> Tensor | None:
                own = names.get(join(path, name))
                return None if own is None else table.tensors.get(aliases.get(address(own), ""), own)

            sizes.append(declared(part, weights, counts.get(path)))
        for name, old in sizes[0].items():
            new = sizes[1].get(name, old)
            if new != old and getattr(part, name) == old:
                yield Change(join(path, name), old, new)


def _groups(program: Program) -> dict[str, int]:
    """The groups of the convolutions and group norms by the path of their module."""
    found = {}
    for node in program.nodes:
        if node.base.startswith("conv"):
            found[node.module] = int(node.arg(6, "groups", 1))
        elif node.base == "group_norm":
            found[node.module] = int(node.arg(1, "num_groups"))
    return found


@dataclass
class Slot:
    """An attribute that may be a size.

    Attributes:
        path: of the module.
        name: of the attribute, with a dot where a configuration holds it.
        readers: paths of the modules whose forward reads it.
        old: its value.
        options: the values it may have now, the likeliest first; the old one is among them.
        now: the one that it has.
        tensor: where the attribute is one; the options are then positions of its last dimension that stay.
    """

    path: str
    name: str
    readers: frozenset[str]
    old: Any
    options: list[Any]
    now: Any = field(init=False)
    tensor: Tensor | None = None

    def __post_init__(self) -> None:
        self.now = self.options[0]


class Evidence:
    """Which old size became which new one, for each module.

    Args:
        root: the module as it was.
        program: the original.
        pruned: the smaller one.
        witness: has run both.
    """

    def __init__(self, root: nn.Module, program: Program, pruned: Program, witness: Witness) -> None:
        self.root = root
        self.reads = witness.reads
        self.modules = dict(root.named_modules())
        self.weights: dict[str, Counter[tuple[int, int]]] = {p: Counter() for p in self.modules}
        self.nodes: dict[str, Counter[tuple[int, int]]] = {p: Counter() for p in self.modules}
        names = tensors_of(root)
        self.held = {address(t): n for n, t in names.items() if n in program.tensors}
        computed = [n for n in program.tensors if n not in names]
        self.kept = list(
            _distinct([k for n in computed for k in _kept(program.tensors[n], pruned.tensors[n])])
        )
        for name, tensor in names.items():
            path = name.rpartition(".")[0]
            if (known := self.held.get(address(tensor))) is not None and path in self.weights:
                self.weights[path].update(zip(tensor.shape, pruned.tensors[known].shape, strict=True))
        after = {n.name: n for n in pruned.nodes}
        for node in program.nodes:
            if node.op != TENSOR and node.module in self.nodes:
                pairs = self.nodes[node.module]
                small = after[node.name]
                for old, new in zip(
                    witness.whole.shapes[node.name], witness.small.shapes[node.name], strict=False
                ):
                    pairs.update(zip(old, new, strict=False))
                if small.op == node.op:
                    pairs.update(_pairs(node.args, small.args))
                    pairs.update(_pairs(dict(node.kwargs), dict(small.kwargs)))

    def slots(self, fixed: set[str]) -> list[Slot]:
        """The attributes that a forward reads and that may have another value now.

        Args:
            fixed: names of attributes that are settled.
        """
        found = []
        for (path, name), readers in self.reads.readers.items():
            if join(path, name) in fixed or not self._open(path):
                continue
            old = self.reads.values[path, name]
            near = [self.weights[path], *(self.nodes[p] for p in sorted({path, *readers}))]
            options = _options(old, near)
            wider = _options(old, [t[p] for t in (self.weights, self.nodes) for p in self._below(path)])
            if len(options) == 1 and options[0] != old:
                options = [*options, *wider, old]
            else:  # unknown or ambiguous: as it was, until forward fails
                options = [old, *options, *wider]
            options = list(_distinct(options))
            if len(options) > 1:
                found.append(Slot(path, name, frozenset(readers), old, options))
        return found

    def tables(self) -> list[Slot]:
        """Tensors that no checkpoint holds, from which the program's tables may have been computed."""
        found = []
        for name, tensor in tensors_of(self.root).items():
            path, _, leaf = name.rpartition(".")
            if address(tensor) in self.held or tensor.dim() == 0 or path not in self.modules:
                continue
            size = tensor.shape[-1]
            options = [None, *(k for k in self._kept_of(size) if len(k) < size and max(k) < size)]
            if len(options) > 1:
                found.append(Slot(path, leaf, frozenset({path}), size, list(_distinct(options)), tensor))
        return found

    def _kept_of(self, size: int) -> Iterator[list[int]]:
        """Positions of a dimension of this size that stay, if a table was computed from it."""
        for kept, whole in self.kept:
            pairs = [k // 2 for k in kept[::2]]  # of tables that hold each entry twice, side by side
            if whole == size:
                yield kept
                yield [*pairs, *(p + size // 2 for p in pairs)]
            elif whole == 2 * size:
                yield [k for k in kept if k < size]
                yield pairs

    def unread(self, fixed: set[str]) -> list[Change]:
        """Attributes that no forward reads, where the module's weights leave no doubt about them."""
        found = []
        for path, part in self.modules.items():
            near = [self.weights[path], *(self.weights[join(path, n)] for n, _ in part.named_children()
                                          if join(path, n) in self.weights)]  # fmt: skip
            for name, old in vars(part).items():
                full = join(path, name)
                known = (path, name) in self.reads.readers or full in fixed or name.endswith(_PLACES)
                if known or name.startswith("_") or not self._open(path):
                    continue
                options = _options(old, near)
                if len(options) == 1 and options[0] != old:
                    found.append(Change(full, old, options[0]))
        return found

    def _open(self, path: str) -> bool:
        """Whether a module may have attributes that are sizes, beyond what it declares."""
        part = self.modules[path]
        return isinstance(part, nn.MultiheadAttention) or not declared(part, _own(part), 1)

    def _below(self, path: str) -> list[str]:
        return [p for p in self.modules if not path or p == path or p.startswith(f"{path}.")]


def _kept(old: Tensor, new: Tensor) -> Iterator[tuple[list[int], int]]:
    """Which positions of the last dimension stay where that alone became smaller, and how many there were."""
    if old.shape[:-1] != new.shape[:-1] or old.shape == new.shape:
        return
    before, after = old.flatten(0, -2).unbind(-1), new.flatten(0, -2).unbind(-1)
    kept: list[int] = []
    for column in after:
        start = kept[-1] + 1 if kept else 0
        place = next((i for i in range(start, len(before)) if torch.equal(before[i], column)), None)
        if place is None:
            return
        kept.append(place)
    if kept:
        yield kept, len(before)


def _own(module: nn.Module) -> Callable[[str], Tensor | None]:
    table = dict(module.named_parameters()) | dict(module.named_buffers())
    return table.get


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


def _options(value: Any, tables: Sequence[Counter[tuple[int, int]]]) -> list[Any]:
    """What a value has become according to the tables, the most frequent first; empty if it is no size."""
    if type(value) is int:
        news: Counter[int] = Counter()
        for table in tables:
            for (old, new), count in table.items():
                if old == value:
                    news[new] += count
        return [n for n, _ in news.most_common()]
    if isinstance(value, (tuple, list)) and 0 < len(value) <= 8 and all(type(v) is int for v in value):
        parts = [_options(v, tables) or [v] for v in value]
        return [type(value)(p) for p in itertools.islice(itertools.product(*parts), 16)]
    return []


def _distinct(values: Sequence[Any]) -> Iterator[Any]:
    for i, value in enumerate(values):
        if value not in values[:i]:
            yield value
