"""Importance: the sums over weight slices, against the plain formula."""

from __future__ import annotations

import numpy as np
import torch
from networks import scrambled
from torch import nn

from graph.axes import Axes, infer
from graph.capture import capture
from prune.importance import balanced, magnitude


def expected(axes: Axes) -> np.ndarray:
    """Each squared element, added one by one to the class of its slice."""
    scores = np.zeros(axes.classes)
    for name, fields in axes.weights.items():
        weight = axes.program.tensors[name].detach()
        for field in fields.values():
            if weight.dim() > 1:
                labels = np.broadcast_to(field.labels, tuple(weight.shape))
                np.add.at(scores, labels, weight.square().double().numpy())
    return axes.spread(scores)


def test_magnitude_of_weights_that_are_read_in_pieces() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 700), nn.ReLU(), nn.Linear(700, 301), nn.ReLU(), nn.Linear(301, 5))
    axes = infer(capture(net, [torch.randn(2, 20)]))
    assert max(t.numel() for t in axes.program.tensors.values()) > 3 * 65_536
    np.testing.assert_allclose(magnitude(axes), expected(axes), rtol=1e-12)


def test_magnitude_of_one_row_larger_than_a_piece() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 300, padding=150), nn.ReLU(), nn.Conv2d(3, 2, 3))
    axes = infer(capture(net, [torch.randn(2, 1, 8, 8)]))
    np.testing.assert_allclose(magnitude(axes), expected(axes), rtol=1e-12)


def test_magnitude_of_grouped_and_transposed_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6),
        nn.Flatten(), nn.Linear(216, 2),
    )  # fmt: skip
    axes = infer(capture(scrambled(net), [torch.randn(2, 3, 10, 10)]))
    assert axes.groups
    np.testing.assert_allclose(magnitude(axes), expected(axes), rtol=1e-12)


def test_scores_are_balanced_within_each_group() -> None:
    torch.manual_seed(0)
    axes = infer(capture(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), [torch.randn(2, 5)]))
    units = list(axes.groups[0].units)
    one, other = np.zeros(axes.classes), np.zeros(axes.classes)
    one[units], other[units] = [1.0, 2.0, 3.0, 2.0], [8.0, 0.0, 16.0, 8.0]
    wanted = np.sqrt(np.array([1 / 2, 1, 3 / 2, 1]) * np.array([1, 0, 2, 1]))
    np.testing.assert_allclose(balanced(axes, one, other)[units], wanted, atol=1e-5)
    np.testing.assert_allclose(balanced(axes, 1e6 * one, other), balanced(axes, one, other))
    unseen = balanced(axes, one, np.zeros(axes.classes))[units]  # what no gradient reaches
    np.testing.assert_array_equal(np.argsort(unseen, kind="stable"), [0, 1, 3, 2])
