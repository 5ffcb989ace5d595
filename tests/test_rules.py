"""One operator at a time: the groups that are worked out by hand, and the proof on random plans."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import INPUT, Net, conv, head, pool, prune_and_prove, random_plan
from operators import OPERATORS
from torch import Tensor

from graph.axes import infer
from graph.canonical import _SEVERAL
from graph.capture import capture
from graph.rules import known_operators
from graph.rules.pointwise import elementwise
from graph.rules.registry import find
from prune.plan import make_plan
from prune.widths import WidthSpace


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    case = OPERATORS[name]
    axes = infer(capture(case.build(), [torch.randn(INPUT)]))
    units: Counter[str] = Counter()
    for group in axes.groups:
        units[group.name.partition("#")[0]] += len(group.units)
    assert dict(units) == case.groups, axes.pinned
    assert axes.unsupported == case.unsupported
    assert len(axes.bundles) == (len(axes.groups) if case.bundles is None else case.bundles)
    for tensor, part in case.pinned.items():
        assert any(p.tensor == tensor and part in p.reason for p in axes.pinned), axes.pinned
    for seed in range(3):
        prune_and_prove(axes, random_plan(axes, seed), batch=1 + seed)
    space = WidthSpace(axes)
    narrowest = np.zeros(space.bundles, dtype=np.int64)
    prune_and_prove(axes, make_plan(space, narrowest, np.zeros(axes.classes), "narrowest"))


@pytest.mark.parametrize(
    ("spread", "least"),
    [
        (lambda y: y.var(1, keepdim=True), 2),
        (lambda y: y.std(1, unbiased=False, keepdim=True), 1),
        (lambda y: torch.std_mean(y, dim=1, keepdim=True, correction=2)[0], 3),
        (lambda y: y.var((1, 2), keepdim=True), 1),
    ],
)
def test_an_unbiased_variance_needs_two_channels(spread: Callable[[Tensor], Tensor], least: int) -> None:
    net = Net(lambda m, x: m.h(pool((y := m.a(x)) / (1 + spread(y)))), {"a": conv(3, 8), "h": head(8)})
    axes = infer(capture(net, [torch.randn(INPUT)]))
    assert [b.layouts[0] for b in axes.bundles] == [(least,)]


# The core set of ATen without a rule, knowingly.
NONE = {
    "_native_batch_norm_legit": "has running statistics that change",
    "_pdist_forward": "distances between records",
    "empty_strided": "no values",
    "sym_is_contiguous": "a fact of the memory layout",
    "sym_numel": "a number that counts channels",
    "sym_storage_offset": "a number of the memory layout",
    "sym_stride": "a number of the memory layout",
}


def functional(base: str) -> list[torch._ops.OpOverload]:
    """The overloads of an operator that change nothing in place."""
    packet = getattr(torch.ops.aten, base, None)
    found = [getattr(packet, o) for o in packet.overloads()] if hasattr(packet, "overloads") else []
    return [o for o in found if not o._schema.is_mutable]


def test_every_core_operator_has_a_rule_or_knowingly_none() -> None:
    # Not dir(torch.ops.aten), which knows only what this process has asked for so far.
    every = {n.partition("::")[2].partition(".")[0] for n in torch._C._dispatch_get_all_op_names()
             if n.startswith("aten::")}  # fmt: skip
    core = {n for n in every if any(torch.Tag.core in o.tags for o in functional(n))}
    rewritten = {"convolution", *_SEVERAL}
    assert len(core) > 150
    missing = {n for n in core if "backward" not in n} - set(known_operators()) - rewritten
    assert missing == set(NONE)


def test_elementwise_operators_are_elementwise() -> None:
    """Exchanging columns of all operands exchanges those of the result, whatever overload takes them."""
    generator = torch.Generator().manual_seed(0)
    real = [torch.rand(3, 5, generator=generator) * 0.8 + 0.1 for _ in range(3)]
    whole = [torch.randint(1, 5, (3, 5), generator=generator) for _ in range(3)]
    mixed = [[real[0] > 0.5, *real[1:]], [real[0], real[1] > 0.5, real[2]], [torch.complex(*real[:2])]]
    numbers = [(), (0.5,), (1,), (0.5, 0.7), (0.1, False)]
    unseen = set()
    for base in (b for b in known_operators() if find(b) is elementwise):
        tries = [
            given
            for overload in functional(base)
            for pool, count, rest in itertools.product((real, whole, *mixed), (2, 1, 3), numbers)
            for given in ((overload, *pool[:count], *rest), (overload, *rest, *pool[:count]))
        ]
        checked = any(_commutes(overload, given) for overload, *given in tries)
        if not checked:
            unseen.add(base)
    # Modes of the module and aliases that the dispatcher does not know; each is another operator's name.
    assert unseen <= {"bool", "float", "logsigmoid", "softsign", "tanhshrink", "sigmoid_", "detach_", "prelu"}


def _commutes(overload: torch._ops.OpOverload, given: list[object]) -> bool:
    """Whether the overload takes these arguments; fails where it is not elementwise in them."""
    order = torch.tensor([3, 0, 4, 1, 2])
    other = tuple(g[:, order] if isinstance(g, torch.Tensor) else g for g in given)
    try:
        torch.manual_seed(0)
        first, second = overload(*given), overload(*other)
    except (RuntimeError, TypeError, IndexError, NotImplementedError):
        return False
    if not isinstance(first, torch.Tensor) or first.dim() == 0:  # maxima of everything have their own rule
        return False
    if any(word in overload._schema.name for word in ("empty_like", "rrelu", "dropout")):
        return True  # no values, or random ones while training
    if overload._schema.name in ("aten::max", "aten::min") and first.shape != (3, 5):
        return False
    assert first.shape == (3, 5), overload
    torch.testing.assert_close(first[:, order], second, equal_nan=True, msg=str(overload))
    return True
