"""Every network of the zoo at half of its MACs: recounted, proved, and the same in onnxruntime."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import FIGURES, kept_counts, scrambled

from graph.axes import Axes, infer
from graph.capture import capture
from graph.cost import costs
from graph.cost_model import CostModel
from graph.program import ProgramModule
from models_zoo import registry
from prune.budget import Budget
from prune.export import export_onnx
from prune.importance import magnitude
from prune.plan import make_plan
from prune.surgery import prune_program
from prune.verify import verify
from prune.widths import WidthSpace


@functools.cache
def axes_of(name: str) -> Axes:
    torch.manual_seed(0)
    entry = registry.find(name)
    return infer(capture(scrambled(registry.build(name)), [torch.randn(2, *entry.input_shape)]))


@pytest.mark.parametrize("name", registry.names())
def test_half_of_the_macs(name: str, tmp_path: Path) -> None:
    axes = axes_of(name)
    space, base = WidthSpace(axes), costs(axes.program).macs
    assert base == CostModel(axes).macs(CostModel(axes).widths)
    assert abs(base - registry.find(name).macs) <= 0.01 * base
    assert not axes.unsupported
    wishes = [np.ones(space.bundles), np.random.default_rng(0).uniform(0.1, 1.0, space.bundles)]
    for wish in wishes:
        plan = make_plan(space, Budget.of(space, macs=base // 2).project(wish), magnitude(axes), "test")
        pruned = prune_program(axes, plan)
        recounted, kept = costs(pruned), kept_counts(axes, plan)
        for figure in FIGURES:
            assert getattr(space.cost, figure)(kept) == getattr(recounted, figure), figure
        assert 0.49 * base <= recounted.macs <= 0.5 * base
        assert verify(axes, plan.keep_mask(axes), pruned).max_error <= 1e-9
    if name != "resnet110":  # the same rules as resnet20, and slow to export
        checked = export_onnx(ProgramModule(pruned), pruned.random_inputs(2)[0], tmp_path / "model.onnx")
        assert checked.max_error <= 1e-4
