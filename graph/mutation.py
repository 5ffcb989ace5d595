"""Mutation: in-place changes become new values, also where several views share one memory.

A program has no memory, only values. Where a model writes into a tensor, the twin of the operator that
returns a new value is used instead; the value is then written back through the views that lead to the tensor
that owns the memory, and every other view of it is taken again when somebody reads it next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graph.program import Node, Ref, refs_in, resolve, substitute

# Writes a node and returns its name: (operator, arguments, keyword arguments, stem of the name) -> name
Emit = Callable[[str, tuple[Any, ...], dict[str, Any], str], str]

_END = 2**62  # a slice up to there goes to the end
_RESHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
_SWAPS = {"transpose", "t", "swapaxes", "swapdims", "mT", "numpy_T"}
_SAME = {
    "alias",
    "detach",
    "contiguous",
    "to",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "type_as",
    "clone",
}


class CannotTrack(Exception):
    """A change that cannot be written back; the exporter's own functional form is used instead."""


@dataclass
class _Alias:
    """A value that shares memory with another one: what makes it from its parent."""

    node: Node
    parent: str


class Memory:
    """Which values share memory, and which node holds the present value of each.

    A value is known by the name of the node that first made it. Nodes that are written later to bring it up
    to date have names of their own, which no one but this class needs.

    Args:
        emit: adds a node to the program and calls ``note`` with it.
        sizes: the symbolic sizes of a value where they are known, by its name.
    """

    def __init__(self, emit: Emit, sizes: Mapping[str, Any]) -> None:
        self._emit = emit
        self._sizes = sizes
        self._meta: dict[str, Any] = {}
        self._owner: dict[int, str] = {}  # storage -> the value that made it
        self._group: dict[str, str] = {}  # value -> owner
        self._alias: dict[str, _Alias] = {}
        self._present: dict[str, str] = {}
        self._stamp: dict[str, int] = {}
        self._version: dict[str, int] = {}
        self.written: set[str] = set()
        self.through_views = False

    def note(self, node: Node) -> None:
        """Note the shape of a node that was written to bring a value up to date."""
        self._meta[node.name] = self._run(node)

    def define(self, node: Node, value: Tensor | None = None) -> None:
        """Note a new value and whose memory it shares.

        Args:
            node: what makes it; its arguments are values, not the nodes that hold them now.
            value: an example of it for inputs and tensors of the table.
        """
        if value is not None:
            meta: Any = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        else:
            meta = self._run(node)
        self._meta[node.name] = meta
        storages = [t.untyped_storage()._cdata for t in _tensors(meta)]
        shared = [self._owner[s] for s in storages if s in self._owner]
        if isinstance(meta, Tensor):  # each of several results owns its memory, not the node that made them
            self._owner.setdefault(storages[0], node.name)
        if not shared:
            self._group[node.name] = node.name
            return
        owner = shared[0]
        self._group[node.name] = owner
        parent = next((r for r in node.refs if self._group.get(r) == owner), owner)
        self._alias[node.name] = _Alias(node, parent)
        self._present[node.name] = node.name
        self._stamp[node.name] = self._version.get(owner, 0)

    def read(self, name: str) -> str:
        """The node that holds the value of ``name`` now."""
        owner = self._group.get(name, name)
        version = self._version.get(owner, 0)
        if version == 0:
            return name
        if self._stamp.get(name, 0) != version:
            alias = self._alias[name]
            node = alias.node
            fresh = self._emit(node.op, self._now(node.args), self._now(dict(node.kwargs)), node.name)
            self._present[name], self._stamp[name] = fresh, version
        return self._present.get(name, name)

    def write(self, name: str, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Change the value of ``name`` as the in-place operator ``op`` does; the arguments are read already.

        Raises:
            CannotTrack: the operator or a view has no form without memory.
        """
        target = self._meta.get(name)
        if not isinstance(target, Tensor):
            raise CannotTrack(f"{name} is no tensor of a known shape")
        chain = self._path(name)
        owner = self._group[name]
        before = {n: self.read(n) for n in chain}
        value = self._changed(name, target, op, args, kwargs)
        values = {name: value}
        for child, parent in zip(chain, chain[1:], strict=False):
            values[parent] = self._written_back(self._maker(child), parent, before[parent], values[child])
            self.through_views = True
        version = self._version[owner] = self._version.get(owner, 0) + 1
        for link in chain:
            self._present[link], self._stamp[link] = values[link], version
        if len(chain) == 1 and any(g == owner and n != owner for n, g in self._group.items()):
            self.through_views = True
        self.written.add(owner)

    def _path(self, name: str) -> list[str]:
        """A value, the tensor that it is a view of, and so on up to the one that owns the memory."""
        path, link = [name], name
        while link in self._alias:
            link = self._alias[link].parent
            if isinstance(self._meta[link], Tensor):  # not the list that split or unbind returned
                path.append(link)
        return path

    def _maker(self, child: str) -> tuple[Node, int | None]:
        """The view that made a value from its parent tensor, and which part of it."""
        node = self._alias[child].node
        if node.op == "builtin.getitem":
            return self._alias[self._alias[child].parent].node, int(node.args[1])
        return node, None

    def _changed(
        self, name: str, target: Tensor, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """The node that holds what the operator would have left in ``name``."""
        base = op.split(".")[1].rstrip("_")
        if base in ("copy", "fill", "zero"):
            return self._filled(name, target, base, args)
        twin = functional(op)
        made = self._emit(twin, args, kwargs, f"{name}_{base}")
        after = self._meta[made]
        if after is None:  # where it writes depends on data; what it writes to does not
            after = self._meta[made] = torch.empty_like(target)
        if not isinstance(after, Tensor) or after.shape != target.shape:
            raise CannotTrack(f"{op} has no form without memory")
        return made if after.dtype == target.dtype else self._cast(made, target.dtype)

    def _filled(self, name: str, target: Tensor, base: str, args: tuple[Any, ...]) -> str:
        source = args[1] if len(args) > 1 else 0
        if not isinstance(source, Ref):
            present = Ref(self.read(name))
            return self._emit("aten.full_like.default", (present, source), {}, f"{name}_filled")
        made, value = source.name, self._meta.get(source.name)
        if not isinstance(value, Tensor):
            raise CannotTrack(f"the shape of {made} is not known")
        if value.dtype != target.dtype:
            made = self._cast(made, target.dtype)
        if value.shape != target.shape:
            made = self._emit("aten.expand.default", (Ref(made), self._shape(name)), {}, f"{name}_filled")
        return made

    def _cast(self, name: str, dtype: torch.dtype) -> str:
        return self._emit("aten.to.dtype", (Ref(name), dtype), {}, f"{name}_cast")

    def _written_back(self, maker: tuple[Node, int | None], parent: str, old: str, new: str) -> str:
        """The parent's value after one of its views took a new value."""
        node, part = maker
        base, stem = node.base, f"{parent}_written"
        whole = self._meta[parent]
        args = node.args[1:]
        if base == "slice":
            return self._sliced(node, parent, old, new)
        if base in ("select", "diagonal"):
            scatter = f"aten.{base}_scatter.default"
            return self._emit(scatter, (Ref(old), Ref(new), *args), dict(node.kwargs), stem)
        if base == "narrow":
            dim, start, length = args
            place = (Ref(old), Ref(new), dim, start, start + length)
            return self._emit("aten.slice_scatter.default", place, {}, stem)
        if part is not None:
            return self._part_replaced(node, part, parent, old, new)
        if base in _SWAPS:
            return self._emit(node.op, (Ref(new), *args), dict(node.kwargs), stem)
        if base == "permute":
            order = [d % whole.dim() for d in args[0]]
            back = [order.index(d) for d in range(whole.dim())]
            return self._emit(node.op, (Ref(new), back), {}, stem)
        if base in _RESHAPES and self._meta[node.name].numel() == whole.numel():
            return self._emit("aten.reshape.default", (Ref(new), self._shape(parent)), {}, stem)
        if base in _SAME and self._meta[node.name].shape == whole.shape:
            return new
        if base in ("expand", "expand_as") and self._meta[node.name].shape == whole.shape:
            return new
        raise CannotTrack(f"a change of what {node.op} returns cannot be written back")

    def _sliced(self, node: Node, parent: str, old: str, new: str) -> str:
        dim = int(node.arg(1, "dim", 0))
        start, end = node.arg(2, "start"), node.arg(3, "end")
        step = node.arg(4, "step", 1)
        if start in (None, 0) and step == 1 and (end is None or (isinstance(end, int) and end >= _END)):
            return new
        args = (Ref(old), Ref(new), dim, start, end, step)
        return self._emit("aten.slice_scatter.default", args, {}, f"{parent}_written")

    def _part_replaced(self, node: Node, part: int, parent: str, old: str, new: str) -> str:
        """One result of split, chunk or unbind was changed."""
        parts = list(_tensors(self._meta[node.name]))
        position = 1 if node.base == "unbind" else 2
        dim = int(node.arg(position, "dim", 0)) % self._meta[parent].dim()
        if not isinstance(self._known_size(parent, dim), int):
            raise CannotTrack("a part of the batch is changed")
        if node.base == "unbind":
            args = (Ref(old), Ref(new), dim, part)
            return self._emit("aten.select_scatter.default", args, {}, f"{parent}_written")
        start = sum(t.shape[dim] for t in parts[:part])
        place = (Ref(old), Ref(new), dim, start, start + parts[part].shape[dim])
        return self._emit("aten.slice_scatter.default", place, {}, f"{parent}_written")

    def _known_size(self, name: str, dim: int) -> Any:
        shape = getattr(self._sizes.get(name), "shape", None)
        return shape[dim] if shape is not None else None

    def _shape(self, name: str) -> list[Any]:
        """The sizes of a value as arguments: numbers, or nodes where the batch decides."""
        sizes: list[Any] = []
        for dim in range(self._meta[name].dim()):
            size = self._known_size(name, dim)
            if isinstance(size, int):
                sizes.append(size)
            else:
                present = Ref(self.read(name))
                sizes.append(Ref(self._emit("aten.sym_size.int", (present, dim), {}, f"{name}_size")))
        return sizes

    def _now(self, arg: Any) -> Any:
        if isinstance(arg, Ref):
            return Ref(self.read(arg.name))
        if isinstance(arg, (tuple, list)):
            return type(arg)(self._now(a) for a in arg)
        if isinstance(arg, dict):
            return {k: self._now(v) for k, v in arg.items()}
        return arg

    def _run(self, node: Node) -> Any:
        """The value on the meta device, or None where it depends on data."""
        if any(self._meta.get(r.name) is None for r in refs_in((node.args, dict(node.kwargs)))):
            return None
        meta = torch.device("meta")
        try:
            with torch.no_grad():
                return resolve(node.op)(
                    *substitute(node.args, self._meta, meta),
                    **substitute(dict(node.kwargs), self._meta, meta),
                )
        except Exception:  # noqa: BLE001 - operators raise many kinds of errors without data
            return None


def functional(op: str) -> str:
    """The name of the out-of-place twin of an in-place operator.

    Raises:
        CannotTrack: there is none.
    """
    namespace, name, overload = op.split(".")
    plain = f"__{name[3:]}" if name.startswith("__i") else name.rstrip("_")
    for twin in (plain, f"{plain}_functional"):
        packet = getattr(getattr(torch.ops, namespace), twin, None)
        if packet is not None and overload in packet.overloads():
            return f"{namespace}.{twin}.{overload}"
    raise CannotTrack(f"{op} has no form without memory")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _tensors(v)]
    return []
