"""One pass: batch-norm statistics and outputs of a smaller program from a single run.

Every batch norm normalises with the statistics of the very records that are run, as in training. So a layer
sees inputs that are recalibrated already, where a running average mixes in what the layers before it made of
the old statistics. That plans are ranked rightly only with statistics of their own is EagleEye's finding (Li
et al. 2020, arXiv:2007.02491); to measure them on the scored records themselves is ours.

On CPUs torch's batch norm takes as long as the convolution before it where channels are few: its loop over
the channels of a pixel is too short for vectors. Here several pixels make one row, sums are matrix products,
and one multiply-add normalises, in place where nobody else needs the operand. Other devices have their own
kernels for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graph.program import Node, Override, Program, Ref

_INPLACE = {"relu", "hardtanh", "silu", "hardswish", "add"}
_FRESH = _INPLACE | {"batch_norm", "conv1d", "conv2d", "conv3d", "linear", "mul"}
_ROW = 512  # numbers in a row at least, so that loops over it are vectorised
_BLOCK = 1 << 18  # numbers that are squared and summed while they are in the processor's cache
_CANCELS = 1e-2  # below this share of the squared mean, the variance is computed from deviations


def overrides(program: Program) -> Mapping[str, Override]:
    """How ``graph.program.run`` is to compute batch norms and what follows them.

    Batch norms that have no running statistics are left as they are.

    Args:
        program: the whole program; the nodes of programs that are cut out of it have the same names.
    """
    owned = _owned(program)
    result: dict[str, Override] = {}
    for node in program.nodes:
        if node.base == "batch_norm" and isinstance(node.args[3], Ref):
            result[node.name] = _batch_norm(node.name in owned)
        elif node.base in _INPLACE and node.name in owned:
            result[node.name] = _inplace(getattr(torch.ops.aten, f"{node.base}_"))
    return result


def _owned(program: Program) -> set[str]:
    """Nodes whose first operand is a new tensor that no other node takes."""
    by_name = {n.name: n for n in program.nodes}
    uses = Counter(ref for node in program.nodes for ref in node.refs)
    uses.update(program.outputs)
    return {
        node.name
        for node in program.nodes
        if node.args
        and isinstance(node.args[0], Ref)
        and uses[node.args[0].name] == 1
        and by_name[node.args[0].name].base in _FRESH
    }


def _inplace(changing: Callable[..., Any]) -> Override:
    def run(function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, *rest = args
        others = [a for a in rest if isinstance(a, Tensor)]
        fits = all(o.dtype == x.dtype and o.shape == x.shape for o in others)
        return (changing if fits else function)(*args, **kwargs)

    return run


def _batch_norm(owned: bool) -> Override:
    def run(function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, weight, bias, eps = args[0], args[1], args[2], float(args[7])
        if x.device.type != "cpu":
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
        pixels = x.movedim(1, -1)
        writable = owned or not pixels.is_contiguous()  # else contiguous() makes no copy
        pixels = pixels.contiguous()
        wide = pixels.view(-1, x.shape[1] * _pixels(x.numel() // x.shape[1], x.shape[1]))
        mean, var = _moments(wide, x.shape[1])
        scale = (var + eps).rsqrt() if weight is None else (var + eps).rsqrt() * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        times = wide.shape[1] // x.shape[1]
        target = wide if writable else torch.empty_like(wide)
        scale, shift = (t.to(wide.dtype).repeat(times) for t in (scale, shift))
        torch.addcmul(shift, wide, scale, out=target)
        return target.view(pixels.shape).movedim(-1, 1)

    return run


def _pixels(positions: int, channels: int) -> int:
    """How many pixels make a row of at least ``_ROW`` numbers: a power of two that divides their number."""
    pixels = 1
    while pixels * channels < _ROW and positions % (2 * pixels) == 0:
        pixels *= 2
    return pixels


def _moments(wide: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, of a matrix (rows, pixels of a row x C); of bfloat16 in float32."""
    blocks = torch.split(wide, max(1, _BLOCK // wide.shape[1]))
    dtype = torch.promote_types(wide.dtype, torch.float32)
    ones = wide.new_ones(1, len(blocks[0]), dtype=dtype)
    sums, squares = wide.new_zeros(2, 1, wide.shape[1], dtype=dtype)
    for block in blocks:
        block = block.to(dtype)
        sums += ones[:, : len(block)] @ block
        squares += ones[:, : len(block)] @ block.square()
    positions = wide.numel() // channels
    mean, square = (total.view(-1, channels).sum(0) / positions for total in (sums, squares))
    var = square - mean.square()
    if bool((cancels := var <= _CANCELS * mean.square()).any()):
        var[cancels] = wide.view(-1, channels)[:, cancels].to(dtype).var(0, correction=0)
    return mean, var
