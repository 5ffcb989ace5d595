"""Reconstruction: the weights that remain, solved anew so that each layer makes what it made before.

Where channels are gone, the next layer misses what they carried. A least-squares fit on a few images lets the
channels that remain stand in for them, layer by layer in program order, so that each fit also makes up for
what the layers before it could not (He et al. 2017, arXiv:1707.06168; AMC, arXiv:1802.03494, does the same
before it scores). No label is used. Differences from the paper: all channels of a layer are fitted at once and
with an intercept; the solution is drawn to the old weights; where a layer's result is added to a value that is
there already, it is fitted to what the sum misses (the paper's section 3.3.1, for any sum of the program).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graph.channels import Axes, Keep
from graph.cost import costs
from graph.labels import Field
from graph.program import TENSOR, Node, Override, Program, Ref, execute
from graph.replay import replay
from models_zoo.data import Split
from prune.surgery import positions

IMAGES = 2048
_BYTES = 1 << 30  # activations of the whole program that may be alive at one time
_ROWS = (2048, 16384)  # positions that a layer is fitted on: at least and at most, 32 for each unknown
_WIDEST = 8192  # unknowns of an output that are still solved for
_RIDGE = 3e-3  # pull to the old weights, as a share of the inputs' mean square
_FLAT = 1e-3  # a batch norm that scales by less passes on nothing that could be fitted


def calibration(program: Program, split: Split, images: int = IMAGES) -> Tensor:
    """Images to fit on, (B, ...): as many as go through the whole program at once.

    Args:
        program: the whole one.
        split: they are drawn from, the same ones each time.
        images: at most how many.
    """
    most = max(32, _BYTES // max(1, costs(program).peak_activation_bytes))
    limit = min(images, len(split), most)
    return torch.cat([x for x, _ in split.batches(128, shuffle=True, limit=limit)])


def reconstructed(axes: Axes, keep: Keep, program: Program, images: Tensor) -> Program:
    """The smaller program with its convolutions and linear layers fitted to the whole program's.

    Batch norms keep the whole program's variances; their means take up the intercepts.

    Args:
        axes: of the whole program.
        keep: for each class of the axes whether it stays.
        program: the smaller one, as surgery left it for these classes.
        images: (B, ...), normalised.
    """
    fit = _Fit(axes, keep, program)
    whole, last = axes.program, axes.program.last_uses
    with torch.no_grad():
        before = execute(whole, whole.tensors, [images], env=fit.old)
        after = execute(program, fit.tensors, [images], env=fit.new, overrides=fit.overrides)
        for node, _ in zip(before, after, strict=True):
            for name in last.get(node.name, ()):
                del fit.old[name], fit.new[name]
    return replace(program, tensors=fit.tensors)


@dataclass(frozen=True)
class _Places:
    """Where a layer's result is looked at: index tensors (rows,) of the batch and each position."""

    index: tuple[Tensor, ...]

    def of(self, value: Tensor, dim: int) -> Tensor:
        """The channels there: (B, C, ...) or (B, ..., C) becomes (rows, C)."""
        return value.movedim(dim, -1)[self.index]


class _Fit:
    """Both programs as they run in step, and the weights as they are found."""

    def __init__(self, axes: Axes, keep: Keep, program: Program) -> None:
        self.whole = axes.program
        self.fields = axes.fields
        self.remaining = replay(axes, axes.closed(keep))[0].fields
        self.tensors = dict(program.tensors)
        self.table = {n.name: str(n.args[0]) for n in self.whole.nodes if n.op == TENSOR}
        self.old: dict[str, Any] = {}
        self.new: dict[str, Any] = {}
        self.users: dict[str, list[Node]] = {}
        for node in self.whole.nodes:
            for ref in node.refs:
                self.users.setdefault(ref, []).append(node)
        self.random = torch.Generator().manual_seed(0)
        self.overrides: dict[str, Override] = {n.name: self._solve for n in self.whole.nodes if self._fits(n)}

    def _fits(self, node: Node) -> bool:
        """Whether a layer can be solved for: a weight of its own, and nothing unusual about it."""
        if node.base not in ("conv1d", "conv2d", "conv3d", "linear"):
            return False
        if not all(isinstance(a, Ref) and a.name in self.table for a in (node.args[1], node.arg(2, "bias")) if a):
            return False
        if isinstance(node.arg(4, "padding"), str) or len(self.users[node.args[1].name]) > 1:
            return False
        weight = self.tensors[self.table[node.args[1].name]]
        plain = all(d == 1 for d in node.arg(5, "dilation", [1])) or node.base == "linear"
        return plain and weight[0].numel() <= _WIDEST and weight.is_floating_point()

    def _solve(self, function: Callable[..., Any], node: Node, args: Any, kwargs: dict[str, Any]) -> Any:
        x, weight, bias = args[0], args[1], node.arg(2, "bias")
        before = self.old[node.args[0].name]
        if x.shape == before.shape and torch.equal(x, before):
            return function(*args, **kwargs)  # nothing has changed so far
        groups = int(node.arg(6, "groups", 1)) if node.base != "linear" else 1
        dim = -1 if node.base == "linear" else 1
        places = self._places(self.old[node.name], dim, weight[0].numel())
        x_PGI = _windows(x, node, weight, places).unflatten(1, (groups, -1))
        y_PO = places.of(self.old[node.name], dim)[:, self._kept(node.name, dim)]
        norm = self._norm(node)
        y_PO = y_PO + self._missing(node, norm, places, dim)
        y_PGO = y_PO.unflatten(1, (groups, -1))
        free = norm is not None or bias is not None
        x_mean, y_mean = (v.mean(0) if free else torch.zeros_like(v[0]) for v in (x_PGI, y_PGO))
        old_GOI = weight.reshape(groups, weight.shape[0] // groups, -1)
        w_GOI = _ridge((x_PGI - x_mean).transpose(0, 1), (y_PGO - y_mean).transpose(0, 1), old_GOI)
        intercept = (y_mean - (w_GOI @ x_mean.unsqueeze(-1)).squeeze(-1)).reshape(-1)
        solved = self.tensors[self.table[node.args[1].name]] = w_GOI.reshape(weight.shape)
        if bias is not None:
            self.tensors[self.table[bias.name]] = intercept
            if len(args) > 2:
                return function(x, solved, intercept, *args[3:], **kwargs)
            return function(x, solved, **kwargs | {"bias": intercept})
        if norm is not None:
            mean = norm.args[3].name
            self.new[mean] = self.tensors[self.table[mean]] = self.new[mean] - intercept
        return function(x, solved, *args[2:], **kwargs)

    def _places(self, value: Tensor, dim: int, unknowns: int) -> _Places:
        shape = value.movedim(dim, -1).shape[:-1]
        least, most = _ROWS
        count = min(max(32 * unknowns, least), most)
        total = shape.numel()
        flat = torch.randint(total, (count,), generator=self.random) if count < total else torch.arange(total)
        return _Places(torch.unravel_index(flat, shape))

    def _kept(self, name: str, dim: int) -> Tensor | slice:
        """Which of the whole program's channels the smaller one has, in its order."""
        fields: Mapping[int, Field] = self.fields.get(name, {})
        dim %= self.old[name].dim()
        if dim not in fields:
            return slice(None)
        return torch.from_numpy(positions(fields[dim].labels.ravel(), self.remaining[name][dim].labels.ravel()))

    def _norm(self, node: Node) -> Node | None:
        """The batch norm that alone takes a layer's result."""
        norm = self._only_user(node)
        usual = norm is not None and norm.base == "batch_norm" and all(isinstance(a, Ref) for a in norm.args[1:5])
        return norm if usual else None

    def _only_user(self, node: Node) -> Node | None:
        users = self.users.get(node.name, [])
        return users[0] if len(users) == 1 else None

    def _missing(self, node: Node, norm: Node | None, places: _Places, dim: int) -> Tensor | float:
        """What a sum misses in its other operand, on the scale of the layer that can make up for it: (rows, O)."""
        end = norm or node
        total = self._only_user(end)
        if total is None or total.base != "add" or total.kwargs or len(total.refs) != 2:
            return 0.0
        (other,) = {*total.refs} - {end.name} or {""}
        if other not in self.new or self.new[other].dim() != self.old[node.name].dim():
            return 0.0
        if self.old[other].shape != self.old[node.name].shape:
            return 0.0  # broadcast
        gap = places.of(self.old[other], dim)[:, self._kept(other, dim)] - places.of(self.new[other], dim)
        if norm is None:
            return gap
        scale, var = (self.tensors[self.table[norm.args[i].name]] for i in (1, 4))
        scale = scale * (var + float(norm.args[7])).rsqrt()
        return torch.where(scale.abs() < _FLAT, 0.0, gap / scale)


def _windows(x: Tensor, node: Node, weight: Tensor, places: _Places) -> Tensor:
    """What a layer sees at some positions: (rows, channels x kernel)."""
    if node.base == "linear":
        return x[places.index]
    kernel = weight.shape[2:]
    stride, padding = (_each(node.arg(i, n, d), len(kernel)) for i, n, d in ((3, "stride", 1), (4, "padding", 0)))
    x = F.pad(x, [p for q in reversed(padding) for p in (q, q)])
    for d, (size, step) in enumerate(zip(kernel, stride, strict=True)):
        x = x.unfold(2 + d, size, step)  # a view: (B, C, positions ..., kernel ...)
    batch, *where = places.index
    return x.movedim(1, 1 + len(kernel))[(batch, *where)].flatten(1)  # (rows, C, kernel ...)


def _each(value: Any, dims: int) -> list[int]:
    given = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    return given * dims if len(given) == 1 else given


def _ridge(x_GPI: Tensor, y_GPO: Tensor, old_GOI: Tensor) -> Tensor:
    """The weights (G, O, I) nearest to ``y = x w`` in the mean square, drawn to the old ones."""
    gram = (x_GPI.mT @ x_GPI).double()
    left = (x_GPI.mT @ (y_GPO - x_GPI @ old_GOI.mT)).double()
    pull = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    gram.diagonal(dim1=1, dim2=2).add_(pull.unsqueeze(1))
    change: Tensor = torch.linalg.solve(gram, left)
    return (old_GOI.double() + change.mT).to(old_GOI.dtype)
