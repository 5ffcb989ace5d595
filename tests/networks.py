"""Small networks whose groups can be derived by hand, and what the derivation yields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graph.axes import Axes
from graph.cost import costs
from graph.cost_model import CostModel
from graph.program import Program
from prune.budget import Budget
from prune.importance import score
from prune.plan import Plan, make_plan
from prune.surgery import prune_program
from prune.verify import LIMIT, verify
from prune.widths import WidthSpace

INPUT = (2, 3, 4, 4)

FIGURES = ("macs", "params", "weight_bytes", "peak_activation_bytes", "memory_bytes")  # that are predicted


class Net(nn.Module):
    """A forward function of (net, x) and its layers."""

    def __init__(self, function: Callable[[Any, Tensor], Any], layers: Mapping[str, Any]) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@dataclass(frozen=True)
class Case:
    """A network and the expected answers.

    Attributes:
        layers: makes its layers anew.
        forward: what it computes.
        groups: units by the layer that makes them, summed over the groups with that name.
        pinned: for tensors, a part of the reason.
        unsupported: channels by operator.
        bundles: how many, where that is not the number of groups.
    """

    layers: Callable[[], dict[str, Any]]
    forward: Callable[[Any, Tensor], Any]
    groups: Mapping[str, int]
    pinned: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[str, int] = field(default_factory=dict)
    bundles: int | None = None

    def build(self) -> Net:
        torch.manual_seed(0)
        return scrambled(Net(self.forward, self.layers()))


def scrambled(module: nn.Module) -> nn.Module:
    """Weights and statistics that hide no mistake: no zeros, no ones, no two alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point() and tensor.dim() < 2:
                tensor.uniform_(0.5, 1.5, generator=generator)
    return module


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def head(inputs: int) -> nn.Linear:
    return nn.Linear(inputs, 3)


def pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def heads(x: Tensor, count: int) -> Tensor:
    """(B, T, C) -> (B, heads, T, lanes)."""
    return x.view(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, count: int) -> Tensor:
    """Written out; q and k may have fewer lanes than v."""
    q, k, v = heads(q, count), heads(k, count), heads(v, count)
    weights = (q @ k.transpose(-1, -2) * 0.3).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def grouped(q: Tensor, k: Tensor, v: Tensor, queries: int, keys: int) -> Tensor:
    """Each head of k and v serves several of q."""
    q, k, v = heads(q, queries), heads(k, keys), heads(v, keys)
    k, v = (x.repeat_interleave(queries // keys, dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotary(x: Tensor, angle: Tensor) -> Tensor:
    """Lanes i and i + 2 of each head of four turn together; angle is (lanes / 2,)."""
    y = heads(x, 2)
    first, second = y.chunk(2, -1)
    turned = torch.cat([first * angle.cos() - second * angle.sin(),
                        second * angle.cos() + first * angle.sin()], -1)  # fmt: skip
    return turned.transpose(1, 2).flatten(2)


def _parameters() -> dict[str, Any]:
    return {"a": conv(3, 8), "scale": nn.Parameter(torch.rand(1, 8, 1, 1)),
            "shift": nn.Parameter(torch.rand(8, 1, 1)), "h": head(8)}  # fmt: skip


CASES: dict[str, Case] = {
    "chain": Case(
        lambda: {"a": conv(3, 8), "n": nn.BatchNorm2d(8), "b": conv(8, 6), "h": head(6)},
        lambda m, x: m.h(pool(m.b(F.relu(m.n(m.a(x)))))), {"a": 8, "b": 6}),
    "residual": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "c": conv(6, 8), "h": head(8)},
        lambda m, x: m.h(pool((y := m.a(x)) + m.c(m.b(y).relu()))), {"a": 8, "b": 6}),
    "concatenation": Case(
        lambda: {"a": conv(3, 8), "b": conv(3, 6), "c": conv(14, 5), "h": head(5)},
        lambda m, x: m.h(pool(m.c(torch.cat([m.a(x), m.b(x)], 1)))), {"a": 8, "b": 6, "c": 5}),
    "concatenation with its own input": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "n": nn.BatchNorm2d(14), "h": head(14)},
        lambda m, x: m.h(pool(m.n(torch.cat([y := m.a(x), m.b(y)], 1)))), {"a": 8, "b": 6}),
    "concatenation with the image": Case(
        lambda: {"a": conv(3, 8), "c": conv(11, 6), "h": head(6)},
        lambda m, x: m.h(pool(m.c(torch.cat([x, m.a(x)], 1)))), {"a": 8, "c": 6}),
    "depthwise": Case(
        lambda: {"a": conv(3, 8), "d": conv(8, 8, groups=8), "h": head(8)},
        lambda m, x: m.h(pool(m.d(m.a(x)))), {"a": 8}),
    "depthwise with a multiplier": Case(
        lambda: {"a": conv(3, 8), "d": conv(8, 16, groups=8), "h": head(16)},
        lambda m, x: m.h(pool(m.d(m.a(x)).relu())), {"a": 8}),
    "grouped": Case(
        lambda: {"a": conv(3, 8), "g": conv(8, 12, groups=4), "h": head(12)},
        lambda m, x: m.h(pool(m.g(m.a(x)))), {"a": 8, "g": 12}, bundles=2),
    "split": Case(
        lambda: {"a": conv(3, 12), "b": conv(4, 5), "c": conv(8, 5), "h": head(5)},
        lambda m, x: m.h(pool(m.b((p := m.a(x).split([4, 8], 1))[0]) + m.c(p[1]))), {"a": 12, "b": 5}),
    "chunk and add": Case(
        lambda: {"a": conv(3, 12), "h": head(6)},
        lambda m, x: m.h(pool(torch.add(*m.a(x).chunk(2, 1)))), {"a": 6}),
    "slices that overlap": Case(
        lambda: {"a": conv(3, 12), "h": head(8)},
        lambda m, x: m.h(pool((y := m.a(x))[:, :8] + y[:, 4:])), {"a": 4}),
    "shuffle": Case(
        lambda: {"a": conv(3, 12), "b": conv(12, 5), "h": head(5)},
        lambda m, x: m.h(pool(m.b(shuffle(m.a(x), 3)))), {"a": 15, "b": 5}, bundles=3),
    "shuffle between groups": Case(
        lambda: {"a": conv(3, 12), "g": conv(12, 12, groups=3), "k": conv(12, 12, groups=3), "h": head(12)},
        lambda m, x: m.h(pool(m.k(shuffle(m.g(m.a(x)), 3)))), {"a": 12, "g": 12, "k": 12}, bundles=3),
    "flatten": Case(
        lambda: {"a": conv(3, 8), "h": head(128)}, lambda m, x: m.h(m.a(x).flatten(1)), {"a": 8}),
    "padded shortcut": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 12), "h": head(12)},
        lambda m, x: m.h(pool(F.pad(y := m.a(x), (0, 0, 0, 0, 2, 2)) + m.b(y))), {"a": 8, "b": 4}),
    "gate of one channel": Case(
        lambda: {"a": conv(3, 8), "g": conv(3, 1), "h": head(8)},
        lambda m, x: m.h(pool(m.a(x) * m.g(x).sigmoid())), {"a": 8}),
    "squeeze-excite": Case(
        lambda: {"a": conv(3, 8), "f": nn.Linear(8, 4), "k": nn.Linear(4, 8), "h": head(8)},
        lambda m, x: m.h(pool((y := m.a(x)) * m.k(m.f(pool(y)).relu()).sigmoid()[:, :, None, None])),
        {"a": 8, "f": 4}),
    "bare parameters": Case(
        _parameters, lambda m, x: m.h(pool(m.a(x) * m.scale + m.shift)), {"a": 8}),
    "weight used twice": Case(
        lambda: {"a": conv(3, 8), "s": conv(8, 8), "h": head(8)},
        lambda m, x: m.h(pool(m.s(m.s(m.a(x)).relu()))), {"a": 8}),
    "weight that is computed": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "h": head(6)},
        lambda m, x: m.h(pool(F.conv2d(m.a(x), m.b.weight * 2, padding=1))), {"a": 8, "b": 6}),
    "channels last": Case(
        lambda: {"a": conv(3, 8), "h": head(128)},
        lambda m, x: m.h(m.a(x).permute(0, 2, 3, 1).flatten(1)), {"a": 8}),
    "view of constants": Case(
        lambda: {"a": conv(3, 8), "f": nn.Linear(16, 5), "h": head(5)},
        lambda m, x: m.h(m.f(m.a(x).view(-1, 8, 16)).mean(1)), {"a": 8, "f": 5}),
    "view of constants and back": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "h": head(6)},
        lambda m, x: m.h(m.b(m.a(x).view(-1, 8, 16).relu().view(-1, 8, 4, 4)).view(-1, 6, 16).sum(2)),
        {"a": 8, "b": 6}),
    "interleaved pair": Case(
        lambda: {"a": conv(3, 8), "b": conv(3, 8), "h": head(16)},
        lambda m, x: m.h(pool(torch.stack([m.a(x), m.b(x)], 2).flatten(1, 2))), {"a": 8, "b": 8}, bundles=1),
    "no running statistics": Case(
        lambda: {"a": conv(3, 8), "n": nn.BatchNorm2d(8, track_running_stats=False), "h": head(8)},
        lambda m, x: m.h(pool(m.n(m.a(x)) ** 2)), {"a": 8}),
    "instance norm and prelu": Case(
        lambda: {"a": conv(3, 8), "n": nn.InstanceNorm2d(8, affine=True), "r": nn.PReLU(8), "h": head(8)},
        lambda m, x: m.h(pool(m.r(m.n(m.a(x))))), {"a": 8}),
    "conversions": Case(
        lambda: {"a": conv(3, 8), "b": conv(3, 6), "h": head(8)},
        lambda m, x: m.h(pool(m.a(x).type_as(m.b(x)).float()).to(x)), {"a": 8, "b": 6}),
    "squeeze": Case(
        lambda: {"a": conv(3, 8), "h": head(8)},
        lambda m, x: m.h(F.adaptive_max_pool2d(m.a(x), 1).squeeze(-1).squeeze(-1)), {"a": 8}),
    "attention": Case(
        lambda: {"a": conv(3, 8), "q": nn.Linear(8, 12), "k": nn.Linear(8, 12), "v": nn.Linear(8, 8),
                 "o": nn.Linear(8, 8), "h": head(8)},
        lambda m, x: m.h(m.o(attention(m.q(y := tokens(m.a(x))), m.k(y), m.v(y), 2)).mean(1)),
        {"a": 8, "q": 12, "v": 10, "o": 8}, bundles=5),
    "grouped queries": Case(
        lambda: {"a": conv(3, 8), "q": nn.Linear(8, 16), "k": nn.Linear(8, 8), "v": nn.Linear(8, 8),
                 "h": head(16)},
        lambda m, x: m.h(grouped(m.q(y := tokens(m.a(x))), m.k(y), m.v(y), 4, 2).mean(1)),
        {"a": 8, "q": 8, "v": 10}, bundles=4),
    "rotary pairs": Case(
        lambda: {"a": conv(3, 8), "q": nn.Linear(8, 8), "k": nn.Linear(8, 8), "v": nn.Linear(8, 8),
                 "h": head(8), "angle": nn.Parameter(torch.rand(2))},
        lambda m, x: m.h(attention(rotary(m.q(y := tokens(m.a(x))), m.angle), rotary(m.k(y), m.angle),
                                   m.v(y), 2).mean(1)),
        {"a": 8, "angle": 2, "v": 10}, bundles=4),
    # A dimension may come to be of size 1: it is not squeezed away, nor is a batch of 1
    "squeeze of whatever is 1": Case(
        lambda: {"a": conv(3, 8), "h": head(8)},
        lambda m, x: m.h(F.adaptive_max_pool2d(m.a(x), 1).squeeze()), {"a": 8}),
    "squeeze in place": Case(
        lambda: {"a": conv(3, 8), "h": head(8)},
        lambda m, x: m.h(F.adaptive_max_pool2d(m.a(x), 1).squeeze_(1).squeeze_()), {"a": 8}),
    # What must stay, and why
    "pixel shuffle": Case(
        lambda: {"a": conv(3, 8), "h": head(2)},
        lambda m, x: m.h(pool(F.pixel_shuffle(m.a(x), 2))), {"a": 2}),
    "flip": Case(
        lambda: {"a": conv(3, 8), "h": head(8)}, lambda m, x: m.h(pool(m.a(x).flip(1))), {"a": 8}),
    "roll": Case(
        lambda: {"a": conv(3, 8), "h": head(8)}, lambda m, x: m.h(pool(m.a(x).roll(3, 1))), {"a": 8}),
    "flip of the image": Case(
        lambda: {"a": conv(3, 8), "h": head(8)}, lambda m, x: m.h(pool(m.a(x).flip(3).roll(1, 2))), {"a": 8}),
    "cumsum": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "h": head(6)},
        lambda m, x: m.h(pool(m.b(m.a(x).cumsum(1)))), {"a": 8, "b": 6}),
    "softmax": Case(
        lambda: {"a": conv(3, 8), "h": head(8)}, lambda m, x: m.h(pool(m.a(x).softmax(1))), {"a": 8}),
    "layer norm": Case(
        lambda: {"a": conv(3, 8), "n": nn.LayerNorm(8), "h": head(8)},
        lambda m, x: m.h(m.n(pool(m.a(x)))), {"a": 8}),
    "mean over channels": Case(
        lambda: {"a": conv(3, 8), "h": head(8)},
        lambda m, x: m.h(pool((y := m.a(x)) * y.mean(1, keepdim=True))), {"a": 8}),
    "variance of everything": Case(
        lambda: {"a": conv(3, 8), "h": head(8)},
        lambda m, x: m.h(pool(y := m.a(x))) * y.var(unbiased=False), {"a": 8}),
    "differences": Case(
        lambda: {"a": conv(3, 8), "b": conv(7, 6), "h": head(6)},
        lambda m, x: m.h(pool(m.b(m.a(x).diff(dim=1)))), {"b": 6},
        {"a.weight": "compared over in aten.diff.default"}),
    "renormalised": Case(
        lambda: {"a": conv(3, 8), "h": head(8)}, lambda m, x: m.h(pool(m.a(x).renorm(2, 1, 1.0))), {},
        {"a.weight": "no rule for aten.renorm.default"}, {"aten.renorm.default": 8}),
    "added to the image": Case(
        lambda: {"a": conv(3, 3), "b": conv(3, 8), "h": head(8)},
        lambda m, x: m.h(pool(m.b(m.a(x) + x))), {"b": 8}, {"a.weight": "channels are fixed"}),
    "several outputs": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "h": head(6)},
        lambda m, x: (m.h(pool(m.b(y := m.a(x)))), y), {"b": 6}, {"a.weight": "output of the model"}),
    # Labels must not get lost where an operator mixes the dimension along which they lie
    "convolved over channels": Case(
        lambda: {"a": conv(3, 6), "b": conv(4, 5), "h": head(5)},
        lambda m, x: m.h(pool(m.b(m.a(x).transpose(1, 2)))), {"b": 5},
        {"a.weight": "convolved over in aten.conv2d"}),
    "normalised across channels": Case(
        lambda: {"a": conv(3, 8), "n": nn.BatchNorm2d(4), "h": head(8)},
        lambda m, x: m.h(pool(m.n(m.a(x).transpose(1, 2)).transpose(1, 2))), {},
        {"a.weight": "normalised over in aten.batch_norm"}),
    "pooled over channels": Case(
        lambda: {"a": conv(3, 8), "h": head(4)},
        lambda m, x: m.h(F.avg_pool1d(pool(m.a(x)).unsqueeze(1), 2).flatten(1)), {},
        {"a.weight": "pooled over in aten.avg_pool1d"}),
    "channels merged with the batch": Case(
        lambda: {"a": conv(3, 8), "b": conv(1, 1), "h": head(8)},
        lambda m, x: m.h(m.b(m.a(x).reshape(-1, 1, 4, 4)).mean((1, 2, 3)).reshape(-1, 8)), {},
        {"a.weight": "convolved over in aten.conv2d"}),
    "two prunable dimensions merged": Case(
        lambda: {"a": conv(3, 8), "f": nn.Linear(16, 5), "h": head(40)},
        lambda m, x: m.h(m.f(m.a(x).flatten(2)).flatten(1)), {"a": 8, "f": 5}),
    # A parameter that someone reads whole stays whole
    "weight shared with a fixed input, first": Case(
        lambda: {"s": conv(3, 3), "h": head(3)}, lambda m, x: m.h(pool(m.s(m.s(x)))), {},
        {"s.weight": "taken whole by aten.conv2d"}),
    "weight shared with a fixed input, then": Case(
        lambda: {"a": conv(3, 3), "s": conv(3, 8), "h": head(8)},
        lambda m, x: m.h(pool(m.s(m.a(x)) + m.s(x))), {"s": 8},
        {"a.weight": "shared with a fixed input in aten.conv2d"}),
    "weight standardisation": Case(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "h": head(6)},
        lambda m, x: m.h(pool(F.conv2d(m.a(x), m.b.weight - m.b.weight.mean((1, 2, 3), keepdim=True)))),
        {"a": 8, "b": 6}),
}  # fmt: skip


def random_plan(axes: Axes, seed: int) -> Plan:
    """Random widths and random channels."""
    space = WidthSpace(axes)
    random = np.random.default_rng(seed)
    levels = np.array([random.integers(0, count) for count in space.level_counts], dtype=np.int64)
    return make_plan(space, levels, random.random(axes.classes), "random")


def uniform_plan(axes: Axes, target: float) -> Plan:
    space = WidthSpace(axes)
    levels = Budget.of(space, macs=int(target * space.base_macs)).project(np.ones(space.bundles))
    return make_plan(space, levels, score(axes, "magnitude"), "uniform")


def prune_and_prove(axes: Axes, plan: Plan, *, batch: int = 2) -> Program:
    """Prune; the result must compute what the masked original computes, at the costs that were predicted."""
    pruned = prune_program(axes, plan)
    assert verify(axes, plan.keep_mask(axes), pruned, batch=batch).max_error <= LIMIT
    recounted, model, kept = costs(pruned), CostModel(axes), kept_counts(axes, plan)
    assert recounted.macs == plan.macs
    for figure in FIGURES:
        assert getattr(model, figure)(kept) == getattr(recounted, figure), figure
    return pruned


def kept_counts(axes: Axes, plan: Plan) -> list[int]:
    """How many units each group keeps."""
    return [len(plan.kept[group.name]) for group in axes.groups]
