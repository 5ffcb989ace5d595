"""Costs: counted by hand, by torch's own counter, and predicted for any widths without building anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import CASES, FIGURES, kept_counts, random_plan
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graph.axes import infer
from graph.capture import capture
from graph.cost import costs
from graph.cost_model import CostModel
from models_zoo import registry
from prune.surgery import prune_program


def test_macs_agree_with_torchs_counter() -> None:
    for name in ("resnet20", "vgg11", "shufflenet_v2"):
        module, shape = registry.build(name).eval(), registry.find(name).input_shape
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.zeros(1, *shape))
        assert costs(capture(module, [torch.zeros(2, *shape)])).flops == counter.get_total_flops()


def test_costs_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )
    found = costs(capture(module, [torch.zeros(2, 3, 6, 6)]))
    assert found.macs == 4 * 36 * 27 + 144 * 5
    assert found.params == 4 * 27 + 4 + 4 + 4 + 144 * 5 + 5
    # image and convolution, or convolution and its activation, whichever is more
    assert found.peak_activation_bytes == 4 * (4 * 36 * 2)
    # and the two running statistics, and the counter of batches, which is an int64
    assert found.weight_bytes == 4 * (found.params + 2 * 4) + 8
    assert found.memory_bytes == found.weight_bytes + found.peak_activation_bytes
    assert found.unknown == {}


def test_what_is_alive_at_one_time() -> None:
    class Skip(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.relu()  # x and y
            z = torch.cat([y, y], 1)  # x, y and z, for x is needed once more
            return z.sum(1, keepdim=True) + x

    found = costs(capture(Skip(), [torch.zeros(2, 3, 4)]))
    assert found.peak_activation_bytes == 4 * (12 + 12 + 24)


def test_an_unknown_operator_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.logdet(x)

    assert costs(capture(Odd(), [torch.zeros(2, 3, 3)])).unknown == {"aten.logdet.default": 1}


@pytest.mark.parametrize("name", ["chain", "attention", "grouped queries", "shuffle between groups"])
def test_many_plans_are_priced_at_once(name: str) -> None:
    axes = infer(capture(CASES[name].build(), [torch.randn(2, 3, 4, 4)]))
    model, plans = CostModel(axes), [random_plan(axes, seed) for seed in range(4)]
    kept = np.array([model.widths, *(kept_counts(axes, plan) for plan in plans)])
    recounts = [costs(axes.program), *(costs(prune_program(axes, plan)) for plan in plans)]
    for figure in FIGURES:
        assert getattr(model, figure)(kept).tolist() == [getattr(c, figure) for c in recounts], figure
        assert getattr(model, figure)(kept[-1]) == getattr(recounts[-1], figure)


def test_a_fixed_batch_is_divided() -> None:
    program = capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)), [torch.zeros(2, 3, 5, 5)])
    fixed = replace(program, dynamic_batch=False)
    assert costs(fixed).macs == costs(program).macs
    assert costs(fixed).peak_activation_bytes == costs(program).peak_activation_bytes
    model = CostModel(infer(fixed))
    assert model.memory_bytes(model.widths) == costs(fixed).memory_bytes
