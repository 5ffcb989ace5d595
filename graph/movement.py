"""Movement: where an operator that only moves elements takes each label, found by running it on labels.

A dimension may be split into several (C into heads and lanes), several may be merged into one, or both. An
element that lies along several labelled dimensions belongs to all of their labels at once: it stays if each
of them stays. Such a conjunction has a label of its own, see ``Algebra``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graph.labels import FIXED, NOTHING, Labels, Pass
from graph.program import Node, resolve, substitute

_VIEWS = frozenset({"view", "reshape", "_unsafe_view", "flatten", "unflatten"})


@dataclass(frozen=True)
class Movement:
    """One step of labels through a moving operator.

    Attributes:
        result: under which name the result stands.
        sources: the operand dimensions, from outer to inner.
        targets: the result dimensions that these turned into, likewise.
        entering: for each source its labels as they lie in the result.
        tied: result dimensions whose elements stand for one channel, because the operator mixes their
            positions; empty where the targets count through the sources' elements in order.
    """

    result: str
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    entering: tuple[Labels, ...]
    tied: tuple[int, ...] = ()


Moved = dict[tuple[str, int], Labels]


def moved_labels(run: Pass, node: Node, whole: Mapping[str, frozenset[int]] | None = None) -> Moved:
    """Where the labels of each operand dimension lie in each result.

    Args:
        run: the pass that asks.
        node: a moving operator.
        whole: for results, dimensions that are not narrowed even if nothing changes along them.

    Returns:
        For each (result, operand dimension) an array, of size 1 in dimensions along which nothing changes.

    Raises:
        RuntimeError, ValueError, IndexError, TypeError: the operator does not run on these shapes.
    """
    result: Moved = {}
    for dim in _labelled(run, node):
        labels: dict[str, Tensor] = {}
        for ref in run.operands(node):
            found = run.field(ref, dim)
            values = torch.zeros(1, dtype=torch.int64) if found is None else _tensor(found.labels)
            labels[ref.name] = values.expand(run.shape_now(ref.name))
        for name, out in zip(run.results(node), _run(node, run.now, labels), strict=True):
            result[name, dim] = _compressed(out, (whole or {}).get(name, frozenset()))
    return result


def _moved_positions(run: Pass, node: Node) -> Moved:
    """For each (result, operand dimension), where in that dimension each element stood before."""
    result: Moved = {}
    for dim in _labelled(run, node):
        lines: dict[str, Tensor] = {}
        for ref in run.operands(node):
            shape = run.shape_now(ref.name)
            narrow = [size if d == dim else 1 for d, size in enumerate(shape)]
            lines[ref.name] = torch.arange(math.prod(narrow)).reshape(narrow).expand(shape)
        for name, line in zip(run.results(node), _run(node, run.now, lines), strict=True):
            result[name, dim] = _compressed(line)
    return result


def _labelled(run: Pass, node: Node) -> list[int]:
    """The dimensions along which some operand carries labels."""
    return sorted({d for r in run.operands(node) for d in run.fields.get(r.name, {})})


def _tensor(labels: Labels) -> Tensor:
    return torch.from_numpy(labels if labels.flags.writeable else labels.copy())


def movements(run: Pass, node: Node) -> list[Movement]:
    """Follow the labels of all operands of a node into its results.

    Raises:
        RuntimeError, ValueError, IndexError, TypeError: the operator does not run on these shapes.
    """
    moved, before = moved_labels(run, node), _moved_positions(run, node)
    depends: dict[int, set[int]] = {}  # lanes depend on heads, wherever both stand
    for ref in run.operands(node):
        for dim, field in run.fields.get(ref.name, {}).items():
            others = {d for d, size in enumerate(field.labels.shape) if size > 1 and d != dim}
            depends.setdefault(dim, set()).update(others)
    result: list[Movement] = []
    for name in run.results(node):
        found = {dim: (labels, before[of, dim]) for (of, dim), labels in moved.items() if of == name}
        result += _steps(name, found, depends)
    return result


def _steps(
    name: str, moved: Mapping[int, tuple[Labels, Labels]], depends: Mapping[int, set[int]]
) -> list[Movement]:
    """Sort the operand dimensions of one result by the result dimensions that they share."""
    labels: dict[int, Labels] = {}
    lines: dict[int, Labels] = {}
    targets: dict[int, set[int]] = {}
    for dim, (out, line) in moved.items():
        labels[dim], lines[dim] = out, line
        known = labels[dim][labels[dim] != NOTHING]
        if known.size == 0 or (known == FIXED).all():
            continue
        varies = {d for d, size in enumerate(labels[dim].shape) if size > 1}
        targets[dim] = varies & {d for d, size in enumerate(lines[dim].shape) if size > 1}
    steps = []
    left = sorted(targets)
    while left:
        sources, reach = {left[0]}, set(targets[left[0]])
        while more := {d for d in left if d not in sources and targets[d] & reach}:
            sources |= more
            reach |= set().union(*(targets[d] for d in more))
        left = [d for d in left if d not in sources]
        ordered, goal = tuple(sorted(sources)), tuple(sorted(reach))
        tied: tuple[int, ...] = ()
        if len(goal) > 1 and not _clean([lines[d] for d in ordered], goal):
            outer = max(
                goal, key=lambda d: _step(lines[ordered[0]], d)
            )  # where neighbours lay farthest apart
            goal, tied = (outer,), tuple(d for d in goal if d != outer)
        ordered = tuple(sorted(sources, key=lambda d: (len(depends.get(d, set()) & sources), d)))
        steps.append(Movement(name, ordered, goal, tuple(labels[d] for d in ordered), tied))
    return steps


def _compressed(array: Labels, keep: frozenset[int] = frozenset()) -> Labels:
    """Size 1 in each dimension along which nothing changes (but for elements that were made)."""
    for d in range(array.ndim):  # expanded dimensions cost nothing to tell
        if array.strides[d] == 0 and array.shape[d] > 1 and d not in keep:
            array = array.take([0], axis=d)
    for d in sorted(range(array.ndim), key=lambda d: -array.shape[d]):
        if array.shape[d] > 1 and d not in keep:
            flat = array.max(axis=d, keepdims=True)
            if ((array == flat) | (array == NOTHING)).all():
                array = flat
    return array


def _clean(lines: list[Labels], targets: tuple[int, ...]) -> bool:
    """Whether the targets, read in their order, count through the sources' positions one by one."""
    position: Labels = np.zeros(1, dtype=np.int64)
    for line in lines:
        if (line == NOTHING).any():
            return False
        position = position * (int(line.max()) + 1) + line
    keep = tuple(slice(None) if d in targets else slice(0, 1) for d in range(position.ndim))
    others = [d for d in range(position.ndim) if d not in targets and position.shape[d] > 1]
    if others:
        return False
    flat = position[keep].ravel()
    return bool((np.diff(flat) == 1).all())


def _step(line: Labels, dim: int) -> float:
    """How far neighbours along a dimension lay from each other before."""
    moved = np.moveaxis(line, dim, 0)
    head, tail = moved[:-1], moved[1:]
    known = (head != NOTHING) & (tail != NOTHING)
    return float(np.median(np.abs(head - tail)[known])) if known.any() else 0.0


def _run(node: Node, values: Mapping[str, Any], labels: Mapping[str, Tensor]) -> list[Labels]:
    """Run a moving operator on tensors of labels, one result or several."""
    env = {name: labels.get(name, values[name]) for name in node.refs}
    args = list(substitute(node.args, env))
    kwargs = substitute(dict(node.kwargs), env)
    if node.base in _VIEWS:
        return [_view(args[0], _view_shape(node, args))]
    if node.base in ("cat", "concat", "concatenate"):
        return [_cat(args[0], node.arg(1, "dim", 0))]
    if node.base in ("pad", "constant_pad_nd"):
        args = args[:2]
        kwargs = {"mode": "constant", "value": NOTHING} if node.base == "pad" else {"value": NOTHING}
    function: Callable[..., Any] = resolve(node.op)
    result = function(*args, **kwargs)
    return [r.numpy() for r in (result if isinstance(result, (list, tuple)) else [result])]


def _view_shape(node: Node, args: list[Any]) -> list[int]:
    """The sizes that a view makes, with -1 worked out."""
    x: Tensor = args[0]
    shape = list(x.shape)
    if node.base == "flatten":
        first = int(node.arg(1, "start_dim", 0)) % max(1, len(shape))
        last = int(node.arg(2, "end_dim", -1)) % max(1, len(shape))
        return [*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]]
    if node.base == "unflatten":
        dim = int(args[1]) % len(shape)
        return [*shape[:dim], *_known(list(args[2]), shape[dim]), *shape[dim + 1 :]]
    return _known([int(s) for s in args[1]], x.numel())


def _known(sizes: list[int], total: int) -> list[int]:
    if -1 in sizes:
        rest = math.prod(s for s in sizes if s != -1)
        if rest == 0 or total % rest:
            raise ValueError(f"{total} elements do not fit the sizes {sizes}")
        sizes = [total // rest if s == -1 else s for s in sizes]
    return sizes


def _view(x: Tensor, sizes: list[int]) -> Labels:
    """A view of labels; dimensions that are only expanded stay at size 1."""
    old, new = list(x.shape), sizes
    if math.prod(old) != math.prod(new):
        raise ValueError(f"shape {old} cannot be viewed as {new}")
    array, small_old, small_new = x.numpy(), list(old), list(new)
    i = j = 0
    while i < len(old) or j < len(new):  # the smallest runs of equal products
        first_i, first_j = i, j
        a = old[i] if i < len(old) else 1
        b = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        if all(array.strides[k] == 0 or old[k] == 1 for k in range(first_i, i)):
            small_old[first_i:i] = [1] * (i - first_i)
            small_new[first_j:j] = [1] * (j - first_j)
    index = tuple(slice(0, s) for s in small_old)
    return np.broadcast_to(array[index].reshape(small_new), new)


def _cat(parts: list[Tensor], dim: int) -> Labels:
    """Joined labels; the other dimensions stay at size 1 where all parts are only expanded."""
    arrays = [p.numpy() for p in parts if p.dim() > 1 or p.numel()]  # torch skips old empty tensors
    rank = arrays[0].ndim
    dim %= rank
    shape = [sum(a.shape[dim] for a in arrays) if d == dim else arrays[0].shape[d] for d in range(rank)]
    for a in arrays:
        if any(a.shape[d] != shape[d] for d in range(rank) if d != dim):
            raise ValueError("joined values have different sizes")
    same = [d for d in range(rank) if d != dim and all(a.strides[d] == 0 for a in arrays)]
    small = [a[tuple(slice(0, 1) if d in same else slice(None) for d in range(rank))] for a in arrays]
    return np.broadcast_to(np.concatenate(small, axis=dim), shape)


def translated(whole_in: tuple[Labels, ...], whole_out: Labels, now: tuple[Labels, ...]) -> NDArray[np.int64]:
    """Labels now where the same combination of entering labels gave ``whole_out`` in the whole program.

    Raises:
        ValueError: a combination that the whole program does not have.
    """
    wide = np.broadcast_arrays(*whole_in, whole_out)
    keys = np.stack([w.ravel() for w in wide[:-1]], axis=1)
    unique, first = np.unique(keys, axis=0, return_index=True)
    values = wide[-1].ravel()[first]
    wide_now = np.broadcast_arrays(*now)
    wanted = np.stack([w.ravel() for w in wide_now], axis=1)
    order, index = np.unique(np.concatenate([unique, wanted]), axis=0, return_inverse=True)
    place = np.full(len(order), -1, dtype=np.int64)
    index = index.ravel()
    place[index[: len(unique)]] = np.arange(len(unique))
    found = place[index[len(unique) :]]
    if (found < 0).any():
        raise ValueError("channels meet that do not meet in the whole program")
    result: NDArray[np.int64] = values[found].reshape(wide_now[0].shape)
    return result
