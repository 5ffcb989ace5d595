"""Surgery: what comes out computes what the masked original computes, and the proof can fail."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import CASES, INPUT, Case, Net, conv, head, pool, prune_and_prove, random_plan, scrambled

from graph.axes import Axes, infer
from graph.capture import capture
from graph.cost import costs
from graph.errors import PlanError, VerificationError
from graph.program import Program, ProgramModule
from models_zoo import registry
from prune.plan import Plan, make_plan
from prune.surgery import positions, prune_program
from prune.verify import check, verify
from prune.widths import WidthSpace


@functools.cache
def axes_of(name: str) -> Axes:
    torch.manual_seed(0)
    return infer(capture(CASES[name].build(), [torch.randn(INPUT)]))


def narrowest(axes: Axes) -> Plan:
    space = WidthSpace(axes)
    return make_plan(space, np.zeros(space.bundles, dtype=np.int64), np.zeros(axes.classes), "narrowest")


def whole(axes: Axes) -> Plan:
    space = WidthSpace(axes)
    levels = np.array(space.level_counts, dtype=np.int64) - 1
    return make_plan(space, levels, np.zeros(axes.classes), "whole")


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_random_plans_verify(name: str) -> None:
    axes = axes_of(name)
    before = {k: t.clone() for k, t in axes.program.tensors.items()}
    for seed in range(4):
        prune_and_prove(axes, random_plan(axes, seed), batch=1 + seed)
    assert before.keys() == axes.program.tensors.keys()
    assert all(torch.equal(t, axes.program.tensors[k]) for k, t in before.items())


def test_what_stays_whole_is_not_copied() -> None:
    axes = axes_of("chain")
    pruned = prune_program(axes, whole(axes))
    assert axes.groups
    for name, tensor in axes.program.tensors.items():
        assert pruned.tensors[name].data_ptr() == tensor.data_ptr()
    cut = prune_program(axes, narrowest(axes))
    for name, tensor in axes.program.tensors.items():
        shared = cut.tensors[name].data_ptr() == tensor.data_ptr()
        assert shared == (cut.tensors[name].shape == tensor.shape)


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_the_narrowest_plan_verifies(name: str) -> None:
    axes = axes_of(name)
    pruned = prune_and_prove(axes, narrowest(axes))
    if axes.groups:
        assert costs(pruned).macs < costs(axes.program).macs


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_keeping_everything_changes_no_bit(name: str) -> None:
    axes = axes_of(name)
    pruned = prune_and_prove(axes, whole(axes))
    inputs = axes.program.random_inputs(3, seed=1)
    expected, actual = ProgramModule(axes.program)(*inputs), ProgramModule(pruned)(*inputs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_a_pruned_program_is_a_program_like_any_other() -> None:
    """It can be stored, trained, and pruned again."""
    axes = axes_of("shuffle between groups")
    pruned = prune_and_prove(axes, random_plan(axes, 1))
    assert Program.from_json(json.loads(json.dumps(pruned.to_json())), pruned.tensors) == pruned
    module = ProgramModule(pruned).train()
    module(*pruned.random_inputs(2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    again = infer(pruned)
    assert [len(g.units) for g in again.groups] == [len(k) for k in random_plan(axes, 1).kept.values()]
    prune_and_prove(again, narrowest(again))


@pytest.mark.parametrize("unit", [0, 2, 7])
def test_the_kept_slices_are_the_planned_ones(unit: int) -> None:
    axes = axes_of("residual")
    plan = replace(whole(axes), kept={"a": (unit,), "b": (1, 3)})
    pruned, full = prune_program(axes, plan).tensors, axes.program.tensors
    assert torch.equal(pruned["a.weight"], full["a.weight"][[unit]])
    assert torch.equal(pruned["b.weight"], full["b.weight"][[1, 3]][:, [unit]])
    assert torch.equal(pruned["c.weight"], full["c.weight"][[unit]][:, [1, 3]])
    assert torch.equal(pruned["h.weight"], full["h.weight"][:, [unit]])


# The proof can fail


def _perturb(pruned: Program) -> Program:
    weight = pruned.tensors["a.weight"].clone()
    weight.view(-1)[0] += 1e-3
    return replace(pruned, tensors={**pruned.tensors, "a.weight": weight})


def _reorder(pruned: Program) -> Program:
    return replace(pruned, tensors={**pruned.tensors, "b.weight": pruned.tensors["b.weight"].roll(1, 1)})


def _forget(pruned: Program) -> Program:
    tensors = {k: t[:-1] if k == "h.weight" or k == "h.bias" else t for k, t in pruned.tensors.items()}
    return replace(pruned, tensors=tensors)


def _poison(pruned: Program) -> Program:
    bias = torch.full_like(pruned.tensors["h.bias"], float("nan"))
    return replace(pruned, tensors={**pruned.tensors, "h.bias": bias})


@pytest.mark.smoke
@pytest.mark.parametrize("corrupt", [_perturb, _reorder, _forget, _poison])
def test_verify_fails_for_a_corrupted_program(corrupt: Callable[[Program], Program]) -> None:
    axes = axes_of("chain")
    plan = random_plan(axes, 3)
    pruned = prune_and_prove(axes, plan)
    result = verify(axes, plan.keep_mask(axes), corrupt(pruned))
    assert not result.passed
    with pytest.raises(VerificationError, match="differs from the masked original"):
        check(result)


def test_verify_compares_numbers() -> None:
    """A logarithm of negative numbers is NaN in any program: positive inputs are taken, or it is said."""
    case = Case(lambda: {"a": conv(3, 8), "h": head(8)}, lambda m, x: m.h(pool(m.a(x.log()))), {})
    axes = infer(capture(case.build(), [torch.rand(INPUT)]))
    plan = random_plan(axes, 0)
    pruned = prune_and_prove(axes, plan)
    assert not verify(axes, plan.keep_mask(axes), _scaled(pruned, 2.0)).passed
    undefined = replace(axes, program=_scaled(axes.program, math.nan))
    result = verify(undefined, plan.keep_mask(axes), _scaled(pruned, math.nan))
    assert not result.passed
    with pytest.raises(VerificationError, match="nothing can be compared"):
        check(result)


def _scaled(program: Program, factor: float) -> Program:
    return replace(program, tensors={k: t * factor for k, t in program.tensors.items()})


@pytest.mark.smoke
def test_verify_fails_for_another_choice_of_channels() -> None:
    axes = axes_of("chain")
    plan = random_plan(axes, 0)
    units = set(range(8))
    other = replace(plan, kept={**plan.kept, "a": tuple(sorted(units - {plan.kept["a"][0]}))})
    plan = replace(plan, kept={**plan.kept, "a": tuple(sorted(units - {plan.kept["a"][0] + 1}))})
    assert verify(axes, plan.keep_mask(axes), prune_program(axes, plan)).passed
    assert not verify(axes, plan.keep_mask(axes), prune_program(axes, other)).passed


@pytest.mark.smoke
def test_verify_fails_for_a_wrong_shuffle() -> None:
    """The rows of a shuffle exchanged: the shapes fit, the channels do not."""
    axes = axes_of("shuffle")
    plan = whole(axes)
    pruned = prune_program(axes, plan)
    nodes = list(pruned.nodes)
    (index,) = (i for i, n in enumerate(nodes) if n.base == "view")
    x, (batch, *_, height, width) = nodes[index].args
    nodes[index] = replace(nodes[index], args=(x, [batch, 4, 3, height, width]))
    assert verify(axes, plan.keep_mask(axes), pruned).passed
    assert not verify(axes, plan.keep_mask(axes), replace(pruned, nodes=tuple(nodes))).passed


# Plans that do not fit


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_a_plan_survives_json(name: str) -> None:
    plan = random_plan(axes_of(name), 2)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def good_plan() -> Plan:
    return random_plan(axes_of("residual"), 0)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {"a": (0, 0), "b": (1,)}}, "impossible units of group 'a'"),
        ({"kept": {"a": (1, 0), "b": (1,)}}, "impossible units of group 'a'"),
        ({"kept": {"a": (-1,), "b": (1,)}}, "impossible units of group 'a'"),
        ({"kept": {"a": (8,), "b": (1,)}}, "impossible units of group 'a'"),
        ({"kept": {"a": (1,)}}, "group 'b'"),
        ({"kept": {"a": (), "b": (1,)}}, "does not fit"),
        ({"widths": {"a": 9, "b": 6}}, "group 'a' has 8 units, the plan says 9"),
        ({"widths": {"a": 8}}, "its groups have other names"),
    ],
)
def test_a_plan_that_does_not_fit(change: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        prune_program(axes_of("residual"), replace(good_plan(), **change))


@pytest.mark.smoke
def test_a_plan_for_another_model() -> None:
    with pytest.raises(PlanError, match="another model"):
        prune_program(axes_of("concatenation"), good_plan())


@pytest.mark.smoke
def test_a_plan_that_leaves_uneven_rows() -> None:
    axes = axes_of("grouped")
    plan = whole(axes)
    kept = {**plan.kept, next(iter(plan.kept)): (0,)}
    with pytest.raises(PlanError, match="does not fit"):
        prune_program(axes, replace(plan, kept=kept))


@pytest.mark.smoke
@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"format": "prune-plan"}, {"format": "prune-plan", "version": 2},
     {**good_plan().to_json(), "groups": {"a": {"width": "x", "kept": []}}},
     {**good_plan().to_json(), "groups": {"a": {"width": 8, "kept": 3}}},
     {**good_plan().to_json(), "importance": "[red]luck"}, {**good_plan().to_json(), "importance": []},
     {**good_plan().to_json(), "groups": []}],
)  # fmt: skip
def test_a_malformed_plan(data: object) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(data)


@pytest.mark.smoke
def test_positions() -> None:
    labels, wanted = np.array([5, 3, 5, 0, 0, 9]), np.array([0, 5, 9, 5, 0])
    assert positions(labels, wanted).tolist() == [3, 0, 5, 2, 4]
    assert positions(labels, labels[:0]).tolist() == []
    for missing in ([4], [5, 5, 5], [10]):
        with pytest.raises(PlanError, match="no such channel|whole program has none"):
            positions(labels, np.array(missing))


def test_a_fixed_batch_size_is_pruned_alike() -> None:
    layers = {"a": conv(3, 8), "b": conv(8, 6), "h": head(6)}
    module = Net(lambda m, x: m.h(pool(m.b(m.a(x)).reshape(2, 6, 4, 4))), layers)
    program = capture(scrambled(module), [torch.randn(INPUT)])
    assert not program.dynamic_batch
    axes = infer(program)
    assert {g.name: len(g.units) for g in axes.groups} == {"a": 8, "b": 6}
    for seed in range(3):
        prune_and_prove(axes, random_plan(axes, seed))


def test_shufflenet_v1_with_uneven_random_channels() -> None:
    """Groups and shuffles across a whole network, at its smallest."""
    module = scrambled(registry.build("shufflenet_v1", num_classes=4, in_channels=1, small_input=True))
    axes = infer(capture(module, [torch.randn(2, 1, 8, 8)]))
    for seed in range(2):
        prune_and_prove(axes, random_plan(axes, seed))
