"""Alignment: channels of convolutions stay in blocks, all others as the search likes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reports import figures, made
from torch import nn

import prune
from graph.axes import Axes, infer
from graph.capture import capture
from models_zoo import registry
from prune.alignment import DEPTHWISE, blocks
from prune.widths import WidthSpace

SMALL = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.25, "shufflenet_v2": 0.5}


def axes_of(module: nn.Module, *shape: int) -> Axes:
    torch.manual_seed(0)
    return infer(capture(module.eval(), [torch.randn(2, *shape)]))


def small(name: str) -> nn.Module:
    return registry.build(name, num_classes=10, width_mult=SMALL[name], small_input=True)


def depthwise_groups(axes: Axes) -> dict[int, int]:
    """Of a network so small that only these are in blocks."""
    return blocks(axes, 1_000_000)


def named(axes: Axes) -> set[str]:
    return {axes.groups[i].name for i in depthwise_groups(axes)}


class Convolutions(nn.Module):
    """One of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 24, 3)
        self.grouped = nn.Conv2d(24, 32, 3, groups=4)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.single = nn.Conv2d(16, 1, 1)  # of one channel: whole or none
        self.after = nn.Conv2d(1, 12, 1)
        self.last = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.narrow(self.grouped(self.plain(x))))
        return self.last(self.after(self.single(x)).mean((2, 3)))


class Causal(nn.Module):
    """A depthwise convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.over = nn.Linear(8, 32), nn.Conv1d(32, 32, 3, groups=32)
        self.last = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.over(self.first(x).transpose(1, 2)).transpose(1, 2))


def test_which_groups_are_depthwise() -> None:
    assert named(axes_of(Convolutions(), 3, 12, 12)) == {"narrow"}
    assert named(axes_of(Causal(), 10, 8)) == set()
    assert named(axes_of(registry.build("resnet20"), 3, 32, 32)) == set()
    found = named(axes_of(small("mobilenet_v2"), 3, 32, 32))
    assert len(found) == 17 and "features.0.0" in found and "features.18.0" not in found


def test_blocks_leave_eight_widths_where_they_can() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 15, 3), nn.Conv2d(15, 16, 3), nn.Conv2d(16, 33, 3), nn.Conv2d(33, 63, 3),
        nn.Conv2d(63, 64, 3), nn.Conv2d(64, 127, 3), nn.Conv2d(127, 512, 3), nn.Flatten(),
        nn.Linear(512 * 4, 64), nn.ReLU(), nn.Linear(64, 5),
    )  # fmt: skip
    axes = axes_of(module, 3, 16, 16)
    sizes = {len(axes.groups[i].units): n for i, n in blocks(axes, 5_000_000).items()}
    assert sizes == {16: 4, 33: 4, 63: 4, 64: 8, 127: 8, 512: 16}  # neither 15 channels nor linear layers
    assert blocks(axes, 4_999_999) == {}
    found = blocks(axes_of(small("mobilenet_v1"), 3, 32, 32), 10**7)
    assert sorted(set(found.values())) == [8, 16]  # even the narrowest depthwise ones


def test_a_network_that_takes_time_has_widths_in_blocks() -> None:
    torch.manual_seed(0)
    model = {"input_shape": (3, 32, 32), "planner": "uniform", "verify": False, "progress": False}
    for round_to in (None, 1):
        module = registry.build("resnet20")
        found = prune.compress(module, flops=0.5, round_to=round_to, **model).report.to_json()
        assert 0.49 <= found["ratios"]["macs"] <= 0.5
        kept = found["plan"]["groups"].values()
        in_blocks = [now % (8 if whole == 64 else 4) == 0 or now < 4 for now, whole in kept]
        assert all(in_blocks) is (round_to is None)


@pytest.mark.parametrize("name", SMALL)
def test_depthwise_widths_come_in_blocks(name: str) -> None:
    axes = axes_of(small(name), 3, 32, 32)
    depthwise = sorted(depthwise_groups(axes))
    others = [i for i in range(len(axes.groups)) if i not in depthwise]
    space = WidthSpace(axes, multiples=dict.fromkeys(depthwise, DEPTHWISE))
    whole = np.array([len(g.units) for g in axes.groups])
    random = np.random.default_rng(0)
    seen = [space.widths([random.integers(n) for n in space.level_counts]) for _ in range(200)]
    for widths in [space.widths(space.narrowest), *seen]:
        kept = widths[depthwise]
        assert ((kept % DEPTHWISE == 0) | (kept < DEPTHWISE) | (kept == whole[depthwise])).all()
    assert any((w[depthwise] != whole[depthwise]).any() for w in seen)
    if others:
        assert any((w[others] % DEPTHWISE != 0).any() for w in seen)
    assert space.lowest_macs == WidthSpace(axes).lowest_macs  # nothing has got out of reach


def test_least_numbers_and_blocks_go_together() -> None:
    axes = axes_of(small("mobilenet_v1"), 3, 32, 32)
    depthwise = sorted(depthwise_groups(axes))
    last = axes.groups[depthwise[-1]]
    assert len(last.units) == 256
    space = WidthSpace(axes, multiples=dict.fromkeys(depthwise, DEPTHWISE), minimum={last.name: 100})
    assert space.widths(space.narrowest)[depthwise[-1]] == 104
    space = WidthSpace(axes, round_to=12, multiples=dict.fromkeys(depthwise, DEPTHWISE))
    assert space.widths(space.narrowest)[depthwise[-1]] == 24  # of both


class Joined(nn.Module):
    """A depthwise convolution over what two others made."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 20, 1), nn.Conv2d(3, 12, 1)
        self.depthwise, self.last = nn.Conv2d(32, 32, 3, groups=32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.depthwise(torch.cat([self.one(x), self.other(x)], 1)).mean((2, 3)))


def test_each_of_several_groups_is_aligned() -> None:
    axes = axes_of(Joined(), 3, 8, 8)
    assert named(axes) == {"one", "other"}
    space = WidthSpace(axes, multiples=depthwise_groups(axes))
    assert space.level_counts == [10, 9]  # 1 to 7, 8, 16 and 20; 1 to 7, 8 and 12


@pytest.mark.parametrize(("round_to", "aligned"), [(None, True), (1, False), (4, False)])
def test_compress_aligns_unless_told_otherwise(round_to: int | None, aligned: bool) -> None:
    torch.manual_seed(0)
    module = small("mobilenet_v2")
    found = prune.compress(
        module, flops=0.5, planner="uniform", input_shape=(3, 32, 32), round_to=round_to, verify=False,
        progress=False,
    ).report.to_json()  # fmt: skip
    assert 0.49 <= found["ratios"]["macs"] <= 0.5
    names = named(axes_of(module, 3, 32, 32))
    kept = [now for name, (now, _) in found["plan"]["groups"].items() if name in names]
    assert len(kept) == len(names)
    assert all(n % DEPTHWISE == 0 or n < DEPTHWISE for n in kept) is aligned


def test_a_slower_network_is_told() -> None:
    slow = figures(onnx_ms={"median": 1.5, "p10": 1.2, "p90": 1.8})
    told = made(figures(), slow).slower(free=True)
    assert told is not None and "takes 1.50 times as long in onnxruntime" in told and "--round-to 16" in told
    told = made(figures(), slow).slower(free=False)
    assert told is not None and "--round-to" not in told  # it was given
    noisy = figures(onnx_ms={"median": 1.5, "p10": 1.05, "p90": 1.8})
    for pair in ((figures(), noisy), (slow, figures())):
        assert made(*pair).slower(free=True) is None
