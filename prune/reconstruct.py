"""Reconstruction: the weights that remain, solved anew so that each layer makes what it made before.

Where channels are gone, the next layer misses what they carried. A least-squares fit on a few images lets the
channels that remain stand in for them, layer by layer in program order, so that each fit also makes up for
what the layers before it could not (He et al. 2017, arXiv:1707.06168; AMC, arXiv:1802.03494, does the same
before it scores). No label is used. Unlike the paper, all channels of a layer are fitted at once and with an
intercept, and the solution is drawn to the old weights. Where a layer's result is added to a value that is
there already, it is fitted to what the sum misses, as the paper does for the end of a residual branch.
Batch norms keep the whole program's variances, and their means take up the intercepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graph.channels import Axes, Keep
from graph.cost import costs
from graph.program import TENSOR, Node, Program, Ref, execute
from models_zoo.data import Split
from prune.slicing import Kept, Slicer

IMAGES = 1024
ROWS = 16384  # positions that a layer is fitted on at most; 32 for each unknown are enough
_FEWEST = 2048
_BYTES = 1 << 30  # that activations may take at one time, and that what is fitted to may take
_WIDEST = 8192  # unknowns of an output that are still solved for
_RIDGE = 3e-3  # pull to the old weights, as a share of the inputs' mean square
_FLAT = 1e-3  # a batch norm that scales by less passes on nothing that could be fitted


def calibration(program: Program, split: Split, images: int = IMAGES) -> Tensor:
    """Images to fit on, (B, ...): as many as go through the whole program at once.

    Args:
        program: the whole one.
        split: they are drawn from it, the same ones each time.
        images: at most how many.
    """
    most = max(32, _BYTES // max(1, costs(program).peak_activation_bytes))
    limit = min(images, len(split), most)
    return torch.cat([x for x, _ in split.batches(128, shuffle=True, limit=limit)])


def reconstructed(axes: Axes, keep: Keep, program: Program, images: Tensor) -> Program:
    """The smaller program with its convolutions and linear layers fitted to the whole program's.

    Args:
        axes: of the whole program.
        keep: for each class of the axes whether it stays.
        program: the smaller one, as surgery left it for these classes.
        images: (B, ...), normalised.
    """
    return Reference(axes, images).fitted(program, Slicer(axes).kept(keep))


@dataclass(frozen=True)
class _Layer:
    """What a convolution or linear layer is fitted to.

    Attributes:
        dim: of its channels.
        groups: that it works in.
        at: index tensors (rows,) of the places of its result: the batch and each position.
        result: what the whole program has there, (rows, O).
        norm: the batch norm that alone takes the result.
        other: the value that the result is added to, if that is there before it.
        added: what the whole program has of that value, (rows, O).
    """

    dim: int
    groups: int
    at: tuple[Tensor, ...]
    result: Tensor
    norm: Node | None
    other: str | None
    added: Tensor | None


class Reference:
    """The whole program's results on some images, for as many smaller programs as one likes.

    Args:
        axes: of the whole program.
        images: (B, ...), normalised.
        rows: how many positions each layer is fitted on at most.
    """

    def __init__(self, axes: Axes, images: Tensor, rows: int = ROWS) -> None:
        self.program, self.images = axes.program, images
        self._table = {n.name: str(n.args[0]) for n in self.program.nodes if n.op == TENSOR}
        self._layers = self._looked_at(rows)

    def _looked_at(self, rows: int) -> Mapping[str, _Layer]:
        """Run the whole program once and remember what layers will be fitted to."""
        wanted = [n for n in self.program.nodes if self._fits(n)]
        weights = {n.name: self.program.tensors[self._table[n.args[1].name]] for n in wanted}
        rows = min(rows, max(_FEWEST, _BYTES // max(1, 8 * sum(len(w) for w in weights.values()))))
        random = torch.Generator().manual_seed(0)
        layers: dict[str, _Layer] = {}
        env: dict[str, Any] = {}
        with torch.no_grad():
            for node in execute(self.program, self.program.tensors, [self.images], env=env):
                if node.name in weights and env[node.args[0].name].dim() > 1:
                    dim = -1 if node.base == "linear" else 1
                    result, weight = env[node.name], weights[node.name]
                    shape = result.movedim(dim, -1).shape[:-1]
                    count, total = max(_FEWEST, min(rows, 32 * weight[0].numel())), shape.numel()
                    few = torch.arange(total)
                    if count < total:
                        few = torch.randint(total, (count,), generator=random)
                    at = torch.unravel_index(few.to(result.device), shape)
                    norm = self._norm(node)
                    other = self._other(norm or node, env)
                    if other is not None and env[other].shape != result.shape:
                        other = None  # broadcast
                    layers[node.name] = _Layer(
                        dim % result.dim(), int(node.arg(6, "groups", 1)) if dim == 1 else 1, at,
                        _there(result, dim, at), norm, other,
                        _there(env[other], dim, at) if other is not None else None,
                    )  # fmt: skip
                for name in self.program.last_uses.get(node.name, ()):
                    del env[name]
        return layers

    def _fits(self, node: Node) -> bool:
        """Whether a layer can be solved for: a weight of its own, and nothing unusual about it."""
        if node.base not in ("conv1d", "conv2d", "conv3d", "linear"):
            return False
        given = [a for a in (node.args[1], node.arg(2, "bias")) if a is not None]
        if not all(isinstance(a, Ref) and a.name in self._table for a in given):
            return False
        if any(len(self.program.readers[a.name]) > 1 for a in given):
            return False
        if node.base != "linear":
            dilation = _each(node.arg(5, "dilation", 1), 1)
            if isinstance(node.arg(4, "padding"), str) or any(d != 1 for d in dilation):
                return False
        weight = self.program.tensors[self._table[node.args[1].name]]
        return weight.dim() > 1 and weight[0].numel() <= _WIDEST and weight.dtype == torch.float32

    def _only_user(self, name: str) -> Node | None:
        users = self.program.readers.get(name, ())
        return users[0] if len(users) == 1 else None

    def _norm(self, node: Node) -> Node | None:
        norm = self._only_user(node.name)
        if norm is None or norm.base != "batch_norm":
            return None
        return norm if all(isinstance(a, Ref) for a in norm.args[1:5]) else None

    def _other(self, end: Node, env: Mapping[str, Any]) -> str | None:
        """What a layer's result, or its batch norm's, is added to, if that is computed already."""
        total = self._only_user(end.name)
        if total is None or total.base != "add" or total.kwargs or len(total.refs) != 2:
            return None
        others = [name for name in total.refs if name != end.name]
        return others[0] if len(others) == 1 and isinstance(env.get(others[0]), Tensor) else None

    def fitted(self, program: Program, kept: Kept) -> Program:
        """A smaller program with its layers fitted.

        Args:
            program: cut out of the whole one, with the same names of nodes.
            kept: which channels it kept.
        """
        fit = _Fit(self._layers, self._table, program, kept, self._touched(program))
        with torch.no_grad():
            solved = dict.fromkeys(fit.touched, fit.solve)
            for node in execute(program, fit.tensors, [self.images], env=fit.env, overrides=solved):
                for name in program.last_uses.get(node.name, ()):
                    del fit.env[name]
        return replace(program, tensors=fit.tensors)

    def _touched(self, program: Program) -> set[str]:
        """Layers whose input, or what their result is added to, is not what it was."""
        changed: set[str] = set()
        found: set[str] = set()
        whole = self.program.tensors
        for node in self.program.nodes:
            if node.op == TENSOR:
                if program.tensors[self._table[node.name]].shape != whole[self._table[node.name]].shape:
                    changed.add(node.name)
            elif any(ref in changed for ref in node.refs):
                changed.add(node.name)
            if (layer := self._layers.get(node.name)) and {node.args[0].name, layer.other} & changed:
                found.add(node.name)
        return found


class _Fit:
    """One smaller program as it runs, and the weights as they are found."""

    def __init__(
        self,
        layers: Mapping[str, _Layer],
        table: Mapping[str, str],
        program: Program,
        kept: Kept,
        touched: set[str],
    ) -> None:
        self.layers, self.table, self.kept, self.touched = layers, table, kept, touched
        self.tensors = dict(program.tensors)
        self.env: dict[str, Any] = {}

    def solve(self, function: Callable[..., Any], node: Node, args: Any, kwargs: dict[str, Any]) -> Any:
        """Fit a layer, then compute its result: an override of ``graph.program.execute``."""
        layer, (x, weight), bias = self.layers[node.name], args[:2], node.arg(2, "bias")
        groups = x.shape[1] // weight.shape[1] if layer.groups > 1 else 1  # whole ones may have gone
        seen, wanted = _windows(x, node, weight, layer.at), self._wanted(node, layer)
        x_PGI, y_PGO = (v.reshape(len(v), groups, -1) for v in (seen, wanted))  # (rows, C) -> groups of C
        free = layer.norm is not None or bias is not None
        x_GI, y_GO = (v.mean(0) if free else torch.zeros_like(v[0]) for v in (x_PGI, y_PGO))
        old_GOI = weight.reshape(groups, len(weight) // groups, -1)
        w_GOI = _ridge((x_PGI - x_GI).transpose(0, 1), (y_PGO - y_GO).transpose(0, 1), old_GOI)
        intercept = (y_GO - (w_GOI @ x_GI.unsqueeze(-1)).squeeze(-1)).reshape(-1)
        solved = w_GOI.reshape(weight.shape)
        self._set(node.args[1], solved)
        if bias is not None:
            self._set(bias, intercept)
            if len(args) > 2:
                return function(x, solved, intercept, *args[3:], **kwargs)
            return function(x, solved, **kwargs | {"bias": intercept})
        if layer.norm is not None:
            mean = layer.norm.args[3]
            self._set(mean, self.env[mean.name] - intercept)
        return function(x, solved, *args[2:], **kwargs)

    def _set(self, ref: Ref, value: Tensor) -> None:
        self.tensors[self.table[ref.name]] = self.env[ref.name] = value

    def _wanted(self, node: Node, layer: _Layer) -> Tensor:
        """What the layer should make: (rows, O)."""
        wanted = _chosen(layer.result, self.kept(node.name, layer.dim))
        if layer.other is None or layer.added is None:
            return wanted
        gap = _chosen(layer.added, self.kept(layer.other, layer.dim)) - _there(
            self.env[layer.other], layer.dim, layer.at
        )
        if layer.norm is None:
            return wanted + gap
        scale, var = (self.env[layer.norm.args[i].name] for i in (1, 4))
        scale = scale * (var + float(layer.norm.args[7])).rsqrt()
        return wanted + torch.where(scale.abs() < _FLAT, 0.0, gap / scale)


def _there(value: Tensor, dim: int, at: tuple[Tensor, ...]) -> Tensor:
    """The channels at some places: (B, C, ...) or (B, ..., C) becomes (rows, C)."""
    return value.movedim(dim, -1)[at]


def _chosen(value: Tensor, kept: NDArray[np.int64] | None) -> Tensor:
    return value if kept is None else value[:, torch.from_numpy(kept).to(value.device)]


def _windows(x: Tensor, node: Node, weight: Tensor, at: tuple[Tensor, ...]) -> Tensor:
    """What a layer sees at some places: (rows, channels x kernel)."""
    if node.base == "linear":
        return x[at]
    kernel = weight.shape[2:]
    stride = _each(node.arg(3, "stride", 1), len(kernel))
    padding = _each(node.arg(4, "padding", 0), len(kernel))
    x = F.pad(x, [p for q in reversed(padding) for p in (q, q)])
    for d, (size, step) in enumerate(zip(kernel, stride, strict=True)):
        x = x.unfold(2 + d, size, step)  # a view: (B, C, positions ..., kernel ...)
    return x.movedim(1, 1 + len(kernel))[at].flatten(1)  # (rows, C, kernel ...)


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
