"""Budgets: every wish ends within all limits, near the tightest; what cannot be met is told."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CASES

from graph.axes import infer
from graph.capture import capture
from graph.channels import Axes
from graph.cost import costs
from graph.errors import TargetError
from models_zoo import registry
from prune.budget import Budget, exact_quantities
from prune.demands import parse_demands
from prune.plan import make_plan
from prune.surgery import prune_program
from prune.widths import WidthSpace


@functools.cache
def axes_of(name: str) -> Axes:
    torch.manual_seed(0)
    if name in CASES:
        return infer(capture(CASES[name].build(), [torch.randn(2, 3, 4, 4)]))
    return infer(capture(registry.build(name), [torch.randn(2, *registry.find(name).input_shape)]))


@functools.cache
def space_of(name: str, round_to: int = 1) -> WidthSpace:
    return WidthSpace(axes_of(name), round_to=round_to)


def asked(space: WidthSpace, **given: str | float | None) -> Budget:
    """A budget as the command line writes it."""
    return Budget.from_demands(space, parse_demands({f"--{name}": value for name, value in given.items()}))


def lowest(space: WidthSpace, name: str) -> float:
    return float(exact_quantities(space)[name].value(space.widths(space.narrowest)))


def test_projection_meets_any_target_from_any_wish() -> None:
    space, random = space_of("resnet20"), np.random.default_rng(0)
    for _ in range(40):
        target = int(random.uniform(0.1, 0.95) * space.base_macs)
        macs = space.macs(Budget.of(space, macs=target).project(random.uniform(0, 1, space.bundles)))
        assert target - 0.01 * space.base_macs <= macs <= target


NAMES = ("macs", "params", "memory")
seeds = st.integers(0, 2**32 - 1)
# For each quantity where its limit lies between the least and the whole; None for no limit.
places = st.tuples(*[st.none() | st.floats(0.0, 0.99)] * 3).filter(any)


@given(places=places, seed=seeds, network=st.sampled_from(["resnet20", "attention", "shuffle", "split"]),
       round_to=st.sampled_from([1, 4]))  # fmt: skip
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_all_limits_hold_and_no_single_step_more_would(
    places: tuple[float | None, ...], seed: int, network: str, round_to: int
) -> None:
    space = space_of(network, round_to)
    known = exact_quantities(space)
    limits = {
        name: lowest(space, name) + place * (known[name].whole - lowest(space, name))
        for name, place in zip(NAMES, places, strict=True)
        if place is not None
    }
    budget = Budget.of(space, **limits)
    levels = budget.project(np.random.default_rng(seed).uniform(0, 1, space.bundles))
    assert budget.holds(levels)
    assert max(budget.used(levels).values()) == budget.load(levels) <= 1
    recounted = costs(prune_program(space.axes, make_plan(space, levels, np.zeros(space.axes.classes), "t")))
    actual = {"macs": recounted.macs, "params": recounted.params, "memory": recounted.memory_bytes}
    assert all(actual[name] <= limit for name, limit in limits.items())
    if budget.slack(levels) > 0.01:  # coarse widths: there is no wider neighbour
        raised = levels + np.eye(space.bundles, dtype=np.int64)
        raised = raised[(raised < space.level_counts).all(axis=1)]
        assert not budget.holds(raised).any()


def test_combined_limits_are_used_up() -> None:
    space, random = space_of("resnet20"), np.random.default_rng(1)
    for _ in range(10):
        budget = asked(space, flops="50%", params=0.45, memory="0.7")
        levels = budget.project(random.uniform(0.3, 1, space.bundles))
        assert budget.holds(levels) and budget.slack(levels) <= 0.01


def test_many_plans_are_judged_at_once() -> None:
    space = space_of("resnet20")
    budget = asked(space, macs=0.5, memory=0.8)
    random = np.random.default_rng(2)
    levels = np.stack([random.integers(0, n, 20) for n in space.level_counts], axis=1)
    assert budget.holds(levels).tolist() == [bool(budget.holds(one)) for one in levels]
    assert space.widths(levels).tolist() == [space.widths(one).tolist() for one in levels]
    ratios = random.uniform(0, 1, (20, space.bundles))
    assert space.levels(ratios).tolist() == [space.levels(one).tolist() for one in ratios]


def test_round_to() -> None:
    space = space_of("resnet20", 8)
    budget = asked(space, macs=0.5, params=0.4)
    levels = budget.project(np.ones(space.bundles))
    assert (space.widths(levels) % 8 == 0).all() and budget.holds(levels)


@pytest.mark.parametrize("name", NAMES)
def test_unreachable_limits_name_the_lowest(name: str) -> None:
    space = space_of("resnet20")
    least = lowest(space, name)
    reachable = Budget.of(space, macs=space.base_macs - 1, **{name: least} if name != "macs" else {})
    if name == "macs":
        reachable = Budget.of(space, macs=least)
    assert reachable.holds(reachable.project(np.ones(space.bundles)))
    beyond = Budget.of(space, **{name: least - 1})
    with pytest.raises(TargetError) as caught:
        beyond.project(np.ones(space.bundles))
    assert f"{int(least):,}" in caught.value.hint
    assert f"--{name}" in caught.value.hint


def test_a_combination_names_the_limit_that_fails() -> None:
    space = space_of("resnet20", 8)
    with pytest.raises(TargetError, match="--params 0.0001") as caught:
        asked(space, flops=0.5, params="0.0001", memory=0.9).check_reachable()
    assert "lowest reachable" in caught.value.hint and "--round-to" in caught.value.hint


def test_figures_above_the_whole_model() -> None:
    space = space_of("resnet20")
    for option, text, unit in (("flops", "900G", "FLOPs"), ("params", "900M", "parameters"),
                               ("memory", "9GB", "bytes")):  # fmt: skip
        with pytest.raises(TargetError, match=f"has only .* {unit}"):
            asked(space, **{option: text})


def test_nothing_to_prune() -> None:
    space = WidthSpace(infer(capture(torch.nn.Linear(3, 4), [torch.zeros(2, 3)])))
    with pytest.raises(TargetError, match="no prunable channels"):
        asked(space, params=0.5).check_reachable()
