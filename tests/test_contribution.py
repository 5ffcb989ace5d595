"""Contribution: what the layers that read a channel would miss, and the search that ranks by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.axes import Axes, infer
from graph.capture import capture
from prune.contribution import contribution
from prune.importance import by_contribution, magnitude


def inferred(module: nn.Module, *shape: int) -> Axes:
    return infer(capture(module.eval(), [torch.randn(2, *shape)]))


def shares(values_NC: Tensor, norms_C: Tensor) -> Tensor:
    """The definition, for one layer."""
    parts = norms_C.double() * values_NC.double().var(0, unbiased=False)
    return parts / parts.sum()


def positions(images: Tensor) -> Tensor:
    return images.movedim(1, -1).flatten(0, -2)


class Read(nn.Module):
    """Six channels and the layer that reads them."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.first, self.reader = nn.Conv2d(3, 6, 3, padding=1), reader

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.reader(F.relu(self.first(x))))


@pytest.mark.parametrize(
    ("reader", "norms"),
    [
        (nn.Conv2d(6, 4, 3), lambda w: w.square().sum((0, 2, 3))),
        (nn.Conv2d(6, 4, 3, dilation=2, padding="same"), lambda w: w.square().sum((0, 2, 3))),
        (
            nn.Conv2d(6, 4, 3, groups=2),
            lambda w: torch.cat([w[:2].square().sum((0, 2, 3)), w[2:].square().sum((0, 2, 3))]),
        ),
        (nn.ConvTranspose2d(6, 4, 2), lambda w: w.square().sum((1, 2, 3))),
    ],
    ids=["convolution", "dilated", "grouped", "transposed"],
)
def test_scores_are_what_the_definition_says(reader: nn.Module, norms: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    module = Read(reader)
    axes, batches = inferred(module, 3, 8, 8), list(torch.randn(3, 4, 3, 8, 8))
    with torch.no_grad():
        values = positions(F.relu(module.first(torch.cat(batches))))
        wanted = shares(values, norms(module.reader.weight))
    scores, seen = contribution(axes, batches)
    units = [unit for group in axes.groups for unit in group.units]
    assert len(units) == 6 and seen[units].all()
    assert np.allclose(scores[units], wanted.numpy(), rtol=1e-5)


def test_shares_of_all_readers_add_up_and_depthwise_layers_read_none() -> None:
    torch.manual_seed(0)
    first, depthwise = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
    left, right = nn.Conv2d(6, 2, 1), nn.Linear(6, 3)

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.depthwise, self.left, self.right = first, depthwise, left, right

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.depthwise(F.relu(self.first(x)))
            return self.left(hidden), self.right(hidden.mean((2, 3)))

    axes, images = inferred(Fork(), 3, 8, 8), torch.randn(6, 3, 8, 8)
    with torch.no_grad():
        hidden = depthwise(F.relu(first(images)))
        wanted = shares(positions(hidden), left.weight.square().sum((0, 2, 3)))
        wanted += shares(hidden.mean((2, 3)), right.weight.square().sum(0))
    scores, _ = contribution(axes, [images])
    (group,) = axes.groups
    assert np.allclose(scores[list(group.units)], wanted.numpy(), rtol=1e-5)


def test_what_never_varies_contributes_nothing_however_large_its_weights() -> None:
    torch.manual_seed(0)
    module = Read(nn.Conv2d(6, 4, 3))
    with torch.no_grad():
        module.first.weight[0], module.first.bias[0] = 0.0, 3.0  # constant
        module.first.bias[1] = -1e3  # never lights up
        module.reader.weight[:, :2] *= 100
    axes = inferred(module, 3, 8, 8)
    (group,) = axes.groups
    units = list(group.units)
    assert set(np.argsort(magnitude(axes)[units])[-2:]) == {0, 1}
    found = by_contribution(axes, [torch.randn(8, 3, 8, 8)])[units]
    assert (found[:2] < 1e-9).all() and (found[2:] > 1e-3).all()


def test_channels_that_no_layer_reads_are_ranked_by_magnitude() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (
                nn.Linear(8, 6),
                nn.Linear(8, 6),
                nn.Linear(8, 5),
                nn.Linear(5, 8),
            )

        def forward(self, x: Tensor) -> Tensor:
            weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
            return self.out(weights @ self.v(x))

    torch.manual_seed(0)
    axes = inferred(Attention(), 4, 8)
    scores, seen = contribution(axes, [torch.randn(8, 4, 8)])
    found, sizes = by_contribution(axes, [torch.randn(8, 4, 8)]), magnitude(axes)
    kinds = {bool(seen[list(group.units)].all()) for group in axes.groups}
    assert kinds == {True, False}  # what the last layer reads of v, and what q and k share
    for group in axes.groups:
        units = list(group.units)
        if not seen[units].any():
            assert not scores[units].any()
            assert (np.argsort(found[units]) == np.argsort(sizes[units])).all() and (found[units] > 0).all()


class Product(nn.Module):
    """A hidden layer that is read by a product with weights (I, O)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first = kind, nn.Linear(5, 6)
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        if self.kind == "addmm":
            return torch.addmm(self.bias, hidden, self.weight)
        return hidden @ self.weight if self.kind == "matmul" else F.linear(hidden, self.weight.t())


@pytest.mark.parametrize("kind", ["addmm", "matmul", "computed"])
def test_products_and_computed_weights_read_channels(kind: str) -> None:
    torch.manual_seed(0)
    module, x = Product(kind), torch.randn(20, 5)
    axes = inferred(module, 5)
    with torch.no_grad():
        wanted = shares(F.relu(module.first(x)), module.weight.square().sum(1))
    scores, seen = contribution(axes, [x[:12], x[12:]])
    (group,) = axes.groups
    assert seen[list(group.units)].all()
    assert np.allclose(scores[list(group.units)], wanted.numpy(), rtol=1e-5)


def test_vectors_and_weights_of_one_output_do_not_stop_it() -> None:
    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.task, self.second = (
                nn.Linear(5, 6),
                nn.Parameter(torch.randn(7)),
                nn.Linear(7, 6),
            )
            self.last, self.one = nn.Linear(6, 3), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.relu(self.first(x) + self.second(self.task))
            return self.last(hidden) + F.linear(hidden, self.one).unsqueeze(1)

    torch.manual_seed(0)
    axes = inferred(Vectors(), 5)
    found = by_contribution(axes, [torch.randn(20, 5)])
    assert np.isfinite(found).all() and (found[1:] > 0).any()
