"""Targets, projection and costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graph.axes import Axes, infer
from graph.capture import capture
from graph.cost import CostModel, costs
from graph.errors import TargetError
from models_zoo import registry
from prune.plan import WidthSpace, parse_target


@pytest.fixture(scope="module")
def axes() -> Axes:
    return infer(capture(registry.build("resnet20"), [torch.randn(2, 3, 32, 32)]))


def test_projection_meets_any_target_from_any_wish(axes: Axes) -> None:
    space, random = WidthSpace(axes), np.random.default_rng(0)
    for _ in range(40):
        target = int(random.uniform(0.1, 0.95) * space.base_macs)
        macs = space.macs(space.project(random.uniform(0, 1, space.bundles), target))
        assert target - 0.01 * space.base_macs <= macs <= target


def test_unreachable_targets_name_the_lowest(axes: Axes) -> None:
    space = WidthSpace(axes)
    with pytest.raises(TargetError) as caught:
        space.project(np.ones(space.bundles), space.lowest_macs - 1)
    assert f"{space.lowest_macs:,}" in caught.value.hint
    assert space.macs(space.project(np.ones(space.bundles), space.lowest_macs)) == space.lowest_macs


def test_round_to(axes: Axes) -> None:
    space = WidthSpace(axes, round_to=8)
    levels = space.project(np.ones(space.bundles), space.base_macs // 2)
    assert (space.widths(levels) % 8 == 0).all()


@pytest.mark.parametrize(
    ("text", "unit", "macs"),
    [("0.5", "flops", 500_000), ("50%", "flops", 500_000), ("0.5", "macs", 500_000), ("1M", "flops", 500_000),
     ("400k", "macs", 400_000), ("0.0006G", "flops", 300_000), ("300000", "macs", 300_000)],
)  # fmt: skip
def test_targets(text: str, unit: str, macs: int) -> None:
    assert parse_target(text, 1_000_000, unit=unit) == macs


@pytest.mark.parametrize("text", ["0", "1", "1.5", "-0.5", "abc", "", "nan", "inf", "0%", "100%", "5G", "M"])
def test_bad_targets(text: str) -> None:
    with pytest.raises(TargetError):
        parse_target(text, 1_000_000, unit="flops")


def test_macs_agree_with_torchs_counter() -> None:
    for name in ("resnet20", "vgg11", "shufflenet_v2"):
        module, shape = registry.build(name).eval(), registry.find(name).input_shape
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.zeros(1, *shape))
        assert costs(capture(module, [torch.zeros(2, *shape)])).flops == counter.get_total_flops()


def test_costs_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    found = costs(capture(module, [torch.zeros(2, 3, 6, 6)]))
    assert found.macs == 4 * 36 * 27 + 144 * 5
    assert found.params == 4 * 27 + 4 + 144 * 5 + 5
    # image and convolution, or convolution and its activation, whichever is more
    assert found.peak_activation_bytes == 4 * (4 * 36 * 2)
    assert found.unknown == {}


def test_an_unknown_operator_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cdist(x, x)

    assert costs(capture(Odd(), [torch.zeros(2, 3, 4)])).unknown == {"aten.cdist.default": 1}


def test_predicted_costs_are_recounted_ones(axes: Axes) -> None:
    model = CostModel(axes)
    assert model.macs(model.widths) == costs(axes.program).macs
    assert model.params(model.widths) == costs(axes.program).params
