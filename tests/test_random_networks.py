"""Random networks: whatever is built from the usual parts prunes, verifies and costs what was predicted."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import conv, prune_and_prove, random_plan, scrambled, shuffle
from torch import Tensor, nn

from graph.axes import infer
from graph.capture import capture
from prune.plan import WidthSpace, make_plan

EXAMPLES = int(os.environ.get("PRUNE_EXAMPLES", "25"))
KINDS = (
    "conv",
    "residual",
    "branches",
    "sum",
    "depthwise",
    "grouped",
    "shuffle",
    "split",
    "chunk",
    "excite",
    "pool",
    "shared",
    "padded",
    "gate",
    "scale",
    "dense",
    "rotate",
    "linear",
    "stack",
    "flip",
)
HEADS = ("mean", "max", "flatten", "channels last")
Spec = tuple[str, int, int]


class Block(nn.Module):
    """One part of a random network; ``width`` and ``way`` are its two random numbers.

    Attributes:
        outputs: channels that it yields.
        size: pixels of a side that it yields.
    """

    def __init__(self, spec: Spec, channels: int, size: int) -> None:
        super().__init__()
        self.kind, width, self.way = spec
        self.channels, self.outputs, self.size = channels, channels, size
        if self.kind in ("grouped", "shuffle", "chunk"):  # the channels must divide
            groups = 2 + self.way % 2
            self.way = groups
            self.outputs = groups * width
            self.a = conv(channels, self.outputs, 1)
            if self.kind == "grouped":
                self.b = conv(self.outputs, 2 * self.outputs, groups=groups)
                self.outputs *= 2
            elif self.kind == "chunk":
                self.outputs = width
        elif self.kind == "conv":
            self.a, self.outputs = conv(channels, width, bias=False), width
        elif self.kind in ("branches", "sum"):
            self.a, self.b = conv(channels, width), conv(channels, width, 1)
            self.outputs = 2 * width + channels if self.kind == "branches" else width
        elif self.kind == "stack":
            self.a, self.b, self.outputs = conv(channels, width), conv(channels, width, 1), 2 * width
        elif self.kind in ("residual", "excite"):
            self.a, self.b = conv(channels, width, 1), conv(width, channels, 1)
        elif self.kind == "depthwise":
            self.outputs = channels * (1 + self.way % 2)
            self.a = conv(channels, self.outputs, groups=channels)
        elif self.kind == "split":
            self.cut = 1 + width % (channels - 1)
            self.a, self.outputs = conv(self.cut, width), width + channels - self.cut
        elif self.kind == "shared":
            self.a = conv(channels, channels)
        elif self.kind == "padded":
            self.outputs = channels + width
            self.a = conv(channels, self.outputs, stride=1 + size // 8)
        elif self.kind == "gate":
            self.a = conv(channels, 1, 1)
        elif self.kind == "scale":
            self.factor = nn.Parameter(torch.rand(channels, 1, 1))
        elif self.kind == "dense":
            self.a, self.outputs = conv(channels, width), width + channels
        elif self.kind == "linear":
            self.a, self.outputs = nn.Linear(channels, width), width
        if (self.kind == "pool" and size > 2) or (self.kind == "padded" and size >= 8):
            self.size = size // 2
        self.norm = nn.BatchNorm2d(self.outputs) if self.way % 3 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = getattr(self, f"_{self.kind}")(x)
        result: Tensor = F.relu(self.norm(y)) if self.way % 2 else F.silu(self.norm(y), inplace=True)
        return result

    def _conv(self, x: Tensor) -> Tensor:
        return self.a(x)

    def _residual(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))

    def _branches(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), x, self.b(x)], 1)

    def _sum(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)

    def _stack(self, x: Tensor) -> Tensor:
        return torch.stack([self.a(x), self.b(x)], 1 + self.way % 2).flatten(1, 2)

    def _depthwise(self, x: Tensor) -> Tensor:
        return self.a(x)

    def _grouped(self, x: Tensor) -> Tensor:
        return shuffle(self.b(self.a(x)), self.way)

    def _shuffle(self, x: Tensor) -> Tensor:
        return shuffle(self.a(x), self.way)

    def _chunk(self, x: Tensor) -> Tensor:
        parts = self.a(x).chunk(self.way, 1)
        return parts[0] * parts[1].sigmoid() if self.way == 2 else parts[2] - parts[0] * parts[1]

    def _split(self, x: Tensor) -> Tensor:
        left, right = x.split([self.cut, self.channels - self.cut], 1)
        return torch.cat([right, self.a(left)], 1)

    def _excite(self, x: Tensor) -> Tensor:
        return x * self.b(F.relu(self.a(F.adaptive_avg_pool2d(x, 1)))).sigmoid()

    def _pool(self, x: Tensor) -> Tensor:
        if x.shape[-1] <= 2:
            return x
        return F.max_pool2d(x, 2) if self.way % 2 else F.avg_pool2d(x, 3, 2, 1)

    def _shared(self, x: Tensor) -> Tensor:
        return self.a(F.relu(self.a(x)))

    def _padded(self, x: Tensor) -> Tensor:
        before = (self.outputs - self.channels) // 2
        step = self.a.stride[0]
        short = F.pad(x[:, :, ::step, ::step], (0, 0, 0, 0, before, self.outputs - self.channels - before))
        return short + self.a(x)

    def _gate(self, x: Tensor) -> Tensor:
        return x * self.a(x).sigmoid()

    def _scale(self, x: Tensor) -> Tensor:
        return x * self.factor

    def _dense(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.a(x)], 1)

    def _rotate(self, x: Tensor) -> Tensor:
        cut = 1 + self.way % (self.channels - 1)
        return torch.cat([x[:, cut:], x[:, :cut]], 1)

    def _linear(self, x: Tensor) -> Tensor:
        return self.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _flip(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.way == 5 else x.flip(2)


class RandomNet(nn.Module):
    """A stem, random parts, a head."""

    def __init__(self, specs: list[Spec], head: str, stem: int) -> None:
        super().__init__()
        self.stem = conv(3, stem)
        self.blocks = nn.ModuleList()
        channels, size = stem, 8
        for spec in specs:
            block = Block(spec, channels, size)
            self.blocks.append(block)
            channels, size = block.outputs, block.size
        self.kind = head
        self.head = nn.Linear(channels if head in ("mean", "max") else channels * size * size, 4)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        if self.kind == "mean":
            return self.head(x.mean((2, 3)))
        if self.kind == "max":
            return self.head(F.adaptive_max_pool2d(x, 1).flatten(1))
        return self.head((x if self.kind == "flatten" else x.permute(0, 2, 3, 1)).flatten(1))


specs = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(2, 7), st.integers(0, 5)), max_size=6)


def prune_all_ways(module: RandomNet, seed: int) -> None:
    torch.manual_seed(seed)
    axes = infer(capture(scrambled(module), [torch.randn(2, 3, 8, 8)]))
    assert axes.unsupported == {}
    for plan_seed in (seed, seed + 1):
        prune_and_prove(axes, random_plan(axes, plan_seed))
    space = WidthSpace(axes)
    if space.bundles:
        prune_and_prove(axes, make_plan(space, np.zeros(space.bundles, int), np.zeros(axes.classes), "none"))
        target = (space.lowest_macs + space.base_macs) // 2
        ratios = np.random.default_rng(seed).uniform(0.05, 1.0, space.bundles)
        plan = make_plan(space, space.project(ratios, target), np.zeros(axes.classes), "projected")
        prune_and_prove(axes, plan)
        assert plan.macs <= target


@given(specs=specs, head=st.sampled_from(HEADS), stem=st.integers(2, 7), seed=st.integers(0, 1000))
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 25, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
def test_random_networks_verify(specs: list[Spec], head: str, stem: int, seed: int) -> None:
    torch.manual_seed(0)
    prune_all_ways(RandomNet(specs, head, stem), seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_alone(kind: str) -> None:
    torch.manual_seed(0)
    for way in range(2, 4):
        prune_all_ways(RandomNet([(kind, 4, way), ("residual", 3, 1)], "flatten", 5), way)
