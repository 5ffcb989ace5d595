"""Channel groups of small networks, against answers derived by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from networks import CASES, INPUT, Net, conv, head, pool

from graph.axes import Axes, infer
from graph.capture import capture
from graph.groups import Bundle

pytestmark = pytest.mark.smoke


def axes_of(name: str, **options: dict[str, str]) -> Axes:
    return infer(capture(CASES[name].build(), [torch.randn(INPUT)]), **options)


def units(axes: Axes) -> dict[str, int]:
    """Units by the layer that makes them."""
    found: Counter[str] = Counter()
    for group in axes.groups:
        found[group.name.partition("#")[0]] += len(group.units)
    return dict(found)


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    case, axes = CASES[name], axes_of(name)
    assert units(axes) == case.groups
    assert axes.unsupported == case.unsupported
    assert len(axes.bundles) == (len(axes.groups) if case.bundles is None else case.bundles)
    reasons = {tensor: [p.reason for p in axes.pinned if p.tensor == tensor] for tensor in case.pinned}
    for tensor, part in case.pinned.items():
        assert any(part in reason for reason in reasons[tensor]), reasons
    assert ("h.weight", 3, "output of the model") in [(p.tensor, p.channels, p.reason) for p in axes.pinned]


@pytest.mark.parametrize("name", CASES)
def test_every_class_lies_in_one_group_and_every_group_in_one_bundle(name: str) -> None:
    axes = axes_of(name)
    derived = axes.derived[:, 0].tolist()
    assert sorted([u for g in axes.groups for u in g.units] + derived) == list(range(1, axes.classes))
    assert sorted(g for b in axes.bundles for g in b.groups) == list(range(len(axes.groups)))
    assert len({g.name for g in axes.groups}) == len(axes.groups)
    for bundle in axes.bundles:
        assert bundle.layouts[-1] == tuple(len(axes.groups[g].units) for g in bundle.groups)
        assert sorted(bundle.layouts, key=sum) == list(bundle.layouts)
        assert any(bundle.layouts[0])


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("residual", {("a.weight", 0), ("a.bias", 0), ("b.weight", 1), ("c.weight", 0), ("c.bias", 0),
                      ("h.weight", 1)}),
        ("depthwise", {("a.weight", 0), ("a.bias", 0), ("d.weight", 0), ("d.bias", 0), ("h.weight", 1)}),
        ("flatten", {("a.weight", 0), ("a.bias", 0), ("h.weight", 1)}),
        ("bare parameters", {("a.weight", 0), ("a.bias", 0), ("scale", 1), ("shift", 0), ("h.weight", 1)}),
        ("weight used twice", {("a.weight", 0), ("a.bias", 0), ("s.weight", 0), ("s.weight", 1),
                               ("s.bias", 0), ("h.weight", 1)}),
    ],
)  # fmt: skip
def test_tensors_of_the_first_group(name: str, tensors: set[tuple[str, int]]) -> None:
    assert set(axes_of(name).groups[0].tensors) == tensors


def test_units_of_a_flatten_hold_all_positions_of_a_channel() -> None:
    axes = axes_of("flatten")
    labels = axes.weights["h.weight"][1].labels.reshape(8, 16)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0].tolist())) == 8
    last = axes_of("channels last").weights["h.weight"][1].labels.reshape(16, 8)
    assert (last == last[:1]).all()


def layouts(axes: Axes, name: str) -> Bundle:
    return next(b for b in axes.bundles if b.name == name)


def test_rows_of_a_grouped_convolution_stay_equally_long() -> None:
    axes = axes_of("grouped")
    assert layouts(axes, "a").layouts == ((1, 1, 1, 1), (2, 2, 2, 2))
    assert layouts(axes, "g").layouts == ((1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3))


def test_a_pad_adds_the_missing_channels_on_both_sides() -> None:
    axes = axes_of("padded shortcut")
    labels = axes.weights["b.weight"][0].labels.ravel().tolist()
    a, b = axes.groups
    assert labels[2:10] == list(a.units)
    assert sorted(labels[:2] + labels[10:]) == list(b.units)


@pytest.mark.parametrize("function", ["renormalised"])
def test_an_unknown_operator_names_itself_and_what_it_costs(function: str) -> None:
    axes = axes_of(function)
    ((op, channels),) = axes.unsupported.items()
    assert channels == 8
    assert (f"no rule for {op}", 8) in [(p.reason, p.channels) for p in axes.pinned]


def test_exclude_keeps_a_layer_and_what_is_coupled_with_it() -> None:
    axes = axes_of("residual", exclude={"c.weight": "asked for"})
    assert units(axes) == {"b": 6}
    pinned = {p.tensor: p.reason for p in axes.pinned}
    assert pinned["c.weight"] == "asked for"
    assert pinned["a.weight"] == "coupled with channels that must stay"


def test_a_network_with_nothing_to_prune() -> None:
    axes = infer(capture(Net(lambda m, x: m.h(pool(x)), {"h": head(3)}), [torch.randn(INPUT)]))
    assert axes.groups == axes.bundles == ()
    assert [p.reason for p in axes.pinned] == ["output of the model"]


def test_a_convolution_without_a_batch_is_left_alone() -> None:
    module = Net(lambda m, x: m.h(m.a(x).mean((1, 2))), {"a": conv(3, 8), "h": head(8)})
    axes = infer(capture(module, [torch.randn(INPUT[1:])]))
    assert axes.groups == ()


def kinds(axes: Axes) -> dict[str, int]:
    found: Counter[str] = Counter()
    for group in axes.groups:
        found[group.kind] += len(group.units)
    return dict(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("attention", {"channel": 8, "head": 2, "lane": 20, "mlp": 8}),
        ("grouped queries", {"channel": 8, "head": 2, "lane": 16}),
        ("rotary pairs", {"channel": 8, "head": 2, "lane": 10}),
        ("chain", {"channel": 14}),
    ],
)
def test_kinds(name: str, expected: dict[str, int]) -> None:
    assert kinds(axes_of(name)) == expected


def test_heads_and_lanes_price_a_dimension_together() -> None:
    axes = axes_of("attention")
    head = next(g for g in axes.groups if g.kind == "head")
    keep = np.ones(axes.classes, dtype=bool)
    keep[head.units[0]] = False
    closed = axes.closed(keep)
    labels = axes.weights["o.weight"][1].labels.ravel()
    assert closed[labels].tolist() == [False] * 4 + [True] * 4
