"""Traffic: bytes that operators read and write, as they are executed.

Each operator that torch really runs reads its operands and writes its results once; a view moves nothing, a
broadcast dimension is read once, a look-up reads the rows that it takes. Caches may spare a part of it, so
this is an upper bound of what main memory moves, and the right figure for operators that run one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MAKES_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
# They read as many elements of their first operand as they return, not all of them.
_LOOKS_UP = {"embedding", "index", "index_select", "gather", "take", "_embedding_bag"}
# Of what they write to, they read nothing.
_OVERWRITES = {"copy_", "fill_", "zero_", "normal_", "uniform_"}


def traffic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> tuple[int, int]:
    """Bytes that one call of an ATen operator reads and writes.

    Args:
        func: the ``OpOverload``.
        args: of the call.
        kwargs: of the call.
        result: what it returned.
    """
    schema = func._schema
    base = schema.name.rpartition("::")[2]
    if base in _MAKES_NOTHING:
        return 0, 0
    changed: list[Tensor] = []
    operands: list[Tensor] = []
    for index, argument in enumerate(schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        tensors = _tensors(value)
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed += tensors
            if base not in _OVERWRITES and not argument.is_out:
                operands += tensors
        else:
            operands += tensors
    homes = {t.untyped_storage()._cdata for t in (*operands, *changed)}
    made = [t for t in _tensors(result) if t.untyped_storage()._cdata not in homes]
    if not made and not changed:
        return 0, 0  # views, and what is returned as it came
    distinct = list({id(t): t for t in operands}.values())
    written = sum(map(touched_bytes, (*made, *changed)))
    if base in _LOOKS_UP and distinct:
        table, *indices = distinct
        return min(touched_bytes(table), written) + sum(map(touched_bytes, indices)), written
    return sum(map(touched_bytes, distinct)), written


def touched_bytes(tensor: Tensor) -> int:
    """Bytes of the elements that a tensor covers; a broadcast dimension counts once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or not size else 1
    return count * tensor.element_size()


class TrafficByPart(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up traffic while it is entered.

    Attributes:
        read: bytes by part; what belongs to no part is under the empty name.
        written: the same.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self._open = [""]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operator and count."""
        result = func(*args, **(kwargs or {}))
        read, written = traffic(func, args, kwargs or {}, result)
        self.read[self._open[-1]] += read
        self.written[self._open[-1]] += written
        return result

    @contextmanager
    def scope(self, part: str) -> Iterator[None]:
        """A part runs; the innermost one is charged."""
        self._open.append(part)
        try:
            yield
        finally:
            self._open.pop()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
