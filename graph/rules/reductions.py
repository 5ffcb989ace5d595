"""Rules of what is computed over a dimension: sums, statistics, softmax, order."""

from __future__ import annotations

import math
from typing import Any

from graph.labels import Pass
from graph.program import Node, Ref
from graph.rules.registry import rule
from graph.rules.statements import carry, flattened, pin_operands, source_all, statistic


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod",
      "logcumsumexp", "cummax", "cummin")  # fmt: skip
def along_one(run: Pass, node: Node) -> None:
    """Computed along one dimension, which keeps its size."""
    x = node.args[0]
    source_all(run, node, x)
    dim = int(node.args[1]) % max(1, len(run.size(x))) if len(node.args) > 1 else -1
    if dim >= 0 and run.field(x, dim) is not None:
        fills = {"cumsum": 0.0, "cumprod": 1.0, "cummin": math.inf}.get(node.base, -math.inf)
        if node.base in ("cummax", "cummin"):
            chosen(run, node, x, dim, 1, fills, run.results(node)[1])
        else:
            statistic(run, node, x, dim, fills)
    carry(run, node, x)


_FILLS = {"sum": 0.0, "nansum": 0.0, "prod": 1.0, "amax": -math.inf, "amin": math.inf, "any": 0.0, "all": 1.0,
          "logsumexp": -math.inf, "count_nonzero": 0.0}  # fmt: skip
_NORMS = {"norm": "p", "linalg_norm": "ord", "linalg_vector_norm": "ord", "linalg_matrix_norm": "ord"}


@rule("mean", "sum", "amax", "amin", "var", "std", "prod", "nansum", "logsumexp", "any", "all", "var_mean",
      "std_mean", "count_nonzero", *_NORMS)  # fmt: skip
def reduction(run: Pass, node: Node) -> None:
    """Reduced dimensions go; over channels, those that remain are reduced."""
    x = node.args[0]
    given: Any = node.arg(2 if node.base in _NORMS else 1, "dim")
    if isinstance(given, bool):  # var(x, unbiased)
        given = None
    fills = _FILLS.get(node.base)
    if node.base in _NORMS:
        order = node.arg(1, _NORMS[node.base])
        if node.base == "linalg_matrix_norm" and given is None:
            given = (-2, -1)
        if _of_matrices(node, x, run, given) and order not in (None, "fro"):
            return pin_operands(run, node, f"the norm of a matrix of order {order}")
        fills = math.inf if isinstance(order, (int, float)) and order < 0 else 0.0
    _reduce(run, node, x, given, fills)
    if node.base.startswith(("var", "std")):
        _leave_several(run, node, x, given)


def _of_matrices(node: Node, x: Ref, run: Pass, given: Any) -> bool:
    """Whether a norm is one of matrices, which is another one than that of all their elements in a row."""
    count = len(run.size(x)) if given is None else 1 if isinstance(given, int) else len(given)
    return node.base.startswith(("linalg_norm", "linalg_matrix")) and count == 2


def _leave_several(run: Pass, node: Node, x: Ref, given: Any) -> None:
    """A variance divides by the number of elements less a correction, which must leave more than zero."""
    unbiased = (
        node.args[1] if len(node.args) > 1 and isinstance(node.args[1], bool) else node.arg(2, "unbiased")
    )
    correction = node.kwargs.get("correction")
    least = 1 + (int(unbiased is not False) if correction is None else math.floor(correction))
    rank = len(run.size(x))
    dims = {d % rank for d in ([given] if isinstance(given, int) else given or range(rank))}
    labelled = {d: f for d, f in run.fields.get(x.name, {}).items() if d in dims}
    if labelled and math.prod(run.size(x)[d] for d in dims.difference(labelled)) < least:
        run.leave(next(iter(labelled.values())).rows[0], least, node)


def _reduce(
    run: Pass, node: Node, x: Ref, given: Any, fills: float | None, *, consumed: bool = False
) -> None:
    source_all(run, node, x)
    rank = len(run.size(x))
    dims = range(rank) if given is None else [given] if isinstance(given, int) else given
    reduced = {d % max(1, rank) for d in dims} or set(range(rank))
    names = run.results(node)
    keeps_dim = len(run.full[names[0]].shape) == rank
    for dim, found in list(run.fields.get(x.name, {}).items()):
        if dim in reduced:
            if consumed:
                continue
            if fills is not None and math.isnan(fills):
                run.pin(found.labels, f"compared over in {node.op}", node)
            else:
                statistic(run, node, x, dim, fills)
            continue
        labels = found.labels
        for other in reduced:
            labels = flattened(run, node, labels, other)
        if not keeps_dim:
            labels = labels.reshape([s for d, s in enumerate(labels.shape) if d not in reduced])
        for name in names:
            run.put(name, dim if keeps_dim else dim - sum(r < dim for r in reduced), labels)


def chosen(run: Pass, node: Node, x: Ref, dim: int, count: int, fills: float, result: str) -> bool:
    """Some channels are picked among the labelled ones: positions among those that remain."""
    labels = run.along(x, dim, node)
    if labels is None or not statistic(run, node, x, dim, fills):
        return False
    run.choose(labels, count, node)
    run.pointers[result] = labels
    return True


@rule("argmax", "argmin")
def position(run: Pass, node: Node) -> None:
    """Where the largest or smallest element along a dimension stands."""
    if isinstance(node.arg(1, "dim"), int):
        return largest(run, node)
    _reduce(run, node, node.args[0], None, math.nan)


def largest(run: Pass, node: Node) -> None:
    """The largest or smallest element along a dimension, its position, or both."""
    x, dim = node.args[0], node.arg(1, "dim")
    fills = math.inf if node.base in ("min", "argmin") else -math.inf
    source_all(run, node, x)
    found = isinstance(dim, int) and chosen(
        run, node, x, dim % max(1, len(run.size(x))), 1, fills, run.results(node)[-1]
    )
    _reduce(run, node, x, dim, fills, consumed=found)


@rule("median", "nanmedian", "mode", "kthvalue", "aminmax", "quantile", "nanquantile")
def extremum(run: Pass, node: Node) -> None:
    """Told by the order along a dimension: that dimension stays."""
    given = node.arg(2 if node.base in ("kthvalue", "quantile", "nanquantile") else 1, "dim")
    if "quantile" in node.base and isinstance(node.args[1], Ref) and len(run.size(node.args[1])):
        return pin_operands(run, node, f"compared over in {node.op}")
    _reduce(run, node, node.args[0], given, math.nan)


@rule("diff")
def differences(run: Pass, node: Node) -> None:
    """Neighbours along one dimension, which stays; the others pass."""
    dim = int(node.arg(2, "dim", -1)) % max(1, len(run.size(node.args[0])))
    for ref in run.operands(node):
        source_all(run, node, ref)
        if (found := run.field(ref, dim)) is not None:
            run.pin(found.labels, f"compared over in {node.op}", node)
    carry(run, node, node.args[0], dim)
    for ref in run.operands(node)[1:]:
        _add_beside(run, node, ref, dim)


def _add_beside(run: Pass, node: Node, ref: Ref, dim: int) -> None:
    """What is put before or behind agrees in every other dimension."""
    for d in range(len(run.size(ref))):
        found = run.fields.get(node.name, {}).get(d)
        if d != dim and found is not None:
            run.bind(ref, d, found.labels, node)
        elif d != dim and run.field(ref, d) is not None:
            run.pin(run.fields[ref.name][d].labels, f"meets fixed channels in {node.op}", node)


@rule("topk", "sort", "argsort")
def ordering(run: Pass, node: Node) -> None:
    """Sorted along one dimension, which stays; the largest few are those among the channels that remain."""
    x = node.args[0]
    position = 2 if node.base == "topk" else 1
    dim = node.arg(position, "dim", -1)
    dim = (dim if isinstance(dim, int) and not isinstance(dim, bool) else -1) % max(1, len(run.size(x)))
    if node.base == "topk" and isinstance(node.args[1], int):
        fills = -math.inf if node.arg(3, "largest", True) else math.inf
        if chosen(run, node, x, dim, node.args[1], fills, run.results(node)[1]):
            return carry(run, node, x, dim)
    if run.field(x, dim) is not None:
        run.pin(run.fields[x.name][dim].labels, f"sorted over in {node.op}", node)
    carry(run, node, x, dim)
