"""Awkward modules are captured, cut by random plans and to half, and proved; the original stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import prune_and_prove, random_plan

from benchmarks.awkward import MODULES
from graph.axes import infer
from graph.capture import capture
from prune.budget import Budget
from prune.importance import magnitude
from prune.plan import make_plan
from prune.widths import WidthSpace


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_awkward_module(name: str) -> None:
    module, example = MODULES[name].build()
    before = copy.deepcopy(module.state_dict())
    axes = infer(capture(module, list(example)))
    for seed in range(2):
        prune_and_prove(axes, random_plan(axes, seed), batch=2 + seed)
    space = WidthSpace(axes)
    if MODULES[name].must_prune:
        assert space.lowest_macs <= 0.5 * space.base_macs
    if space.bundles:
        target = max(space.base_macs // 2, space.lowest_macs)
        levels = Budget.of(space, macs=target).project([1.0] * space.bundles)
        plan = make_plan(space, levels, magnitude(axes), "uniform")
        prune_and_prove(axes, plan)
        assert plan.macs <= target
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_every_class_of_failure_is_there() -> None:
    assert len(MODULES) >= 40
