"""Reconstruction: the channels that stay stand in for those that go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graph.axes import infer
from graph.capture import capture
from graph.channels import Axes, Keep
from graph.program import Program, ProgramModule
from models_zoo import registry
from models_zoo.data import DataSet, TensorSplit
from prune.evaluation import evaluate
from prune.mend import Mender
from prune.plan import make_plan
from prune.reconstruct import calibration, reconstructed
from prune.slicing import Slicer
from prune.surgery import cut
from prune.widths import WidthSpace


class Chain(nn.Module):
    """Two convolutions; with or without a batch norm behind the second."""

    def __init__(self, norm: bool, bias: bool) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 5, 3, stride=2, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.two(torch.relu(self.one(x))))  # type: ignore[no-any-return]


class Sum(nn.Module):
    """A branch that can make up for what its shortcut lost."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False))
        self.branch, self.norm = nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(3, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        short = self.shortcut(x)
        return self.norm(self.branch(torch.relu(self.wide(x)))) + short  # type: ignore[no-any-return]


def axes_of(module: nn.Module, shape: tuple[int, ...] = (3, 8, 8)) -> Axes:
    """A module whose scales and statistics are not zeros and ones, captured."""
    torch.manual_seed(0)
    with torch.no_grad():
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return infer(capture(module.eval(), [torch.randn(2, *shape)]))


def images(count: int = 64, shape: tuple[int, ...] = (3, 8, 8)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def half(axes: Axes) -> Keep:
    """Every second channel of each group."""
    space = WidthSpace(axes)
    levels = space.levels(np.full(space.bundles, 0.5))
    plan = make_plan(space, levels, np.arange(axes.classes, dtype=float) % 7, "test")
    return plan.keep_mask(axes)


def error(axes: Axes, program: Program, x: Tensor) -> float:
    """Mean square of what the smaller program makes differently."""
    with torch.no_grad():
        gap = ProgramModule(program)(x) - ProgramModule(axes.program)(x)
    return float(gap.square().mean())


@pytest.mark.parametrize(("norm", "bias"), [(True, False), (False, True), (False, False), (True, True)])
def test_copies_of_a_channel_can_go_without_loss(norm: bool, bias: bool) -> None:
    module = Chain(norm, bias)
    with torch.no_grad():
        module.one.weight[4:] = module.one.weight[:4]
        module.one.bias[4:] = 2 * module.one.bias[:4]  # type: ignore[index]
        module.one.weight[4:] *= 2
    axes = axes_of(module)
    keep = np.ones(axes.classes, dtype=bool)
    (group,) = axes.groups
    keep[list(group.units)[4:]] = False
    program = cut(axes, keep)
    x = images(256)
    found = reconstructed(axes, keep, program, x)
    assert error(axes, program, x) > 1e-2
    assert error(axes, found, images(16)) < 1e-3 * error(axes, program, images(16))


def test_a_branch_makes_up_for_its_shortcut() -> None:
    axes = axes_of(Sum())
    keep = np.ones(axes.classes, dtype=bool)
    (group,) = (g for g in axes.groups if len(g.units) == 6)
    keep[list(group.units)[1:]] = False
    program, x = cut(axes, keep), images(256)
    found = reconstructed(axes, keep, program, x)
    changed = {n for n, t in found.tensors.items() if not torch.equal(t, program.tensors[n])}
    assert changed == {"shortcut.2.weight", "branch.weight", "norm.running_mean"}
    assert error(axes, found, x) < 0.5 * error(axes, program, x)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet20", (3, 32, 32)), ("mobilenet_v2", (3, 64, 64)), ("shufflenet_v1", (3, 64, 64)),
     ("shufflenet_v2", (3, 64, 64))],
)  # fmt: skip
def test_networks_come_nearer_to_what_they_made(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    axes = axes_of(registry.build(name), shape)
    keep, x = half(axes), images(32, shape)
    program = Slicer(axes)(keep)
    found = reconstructed(axes, keep, program, x)
    assert {n: t.shape for n, t in found.tensors.items()} == {n: t.shape for n, t in program.tensors.items()}
    assert error(axes, found, images(8, shape)) < 0.5 * error(axes, program, images(8, shape))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("wide", [16, 32])
def test_groups_that_are_left_one_channel_are_fitted(share: float, wide: int) -> None:
    """A grouped convolution whose groups keep one input each is no depthwise one."""
    axes = axes_of(
        nn.Sequential(
            nn.Conv2d(3, 16, 1),
            nn.ReLU(),
            nn.Conv2d(16, wide, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.Conv2d(wide, 4, 1),
        )
    )
    space = WidthSpace(axes)
    levels = space.levels(np.full(space.bundles, share))
    keep = make_plan(space, levels, np.arange(axes.classes, dtype=float) % 7, "test").keep_mask(axes)
    program, x = Slicer(axes)(keep), images(64)
    found = reconstructed(axes, keep, program, x)
    assert error(axes, found, x) < 0.9 * error(axes, program, x)


def test_what_keeps_all_channels_stays_as_it_is() -> None:
    axes = axes_of(registry.build("resnet20"), (3, 32, 32))
    keep = np.ones(axes.classes, dtype=bool)
    found = reconstructed(axes, keep, cut(axes, keep), images(8, (3, 32, 32)))
    assert all(torch.equal(t, axes.program.tensors[n]) for n, t in found.tensors.items())


def test_inputs_are_left_alone_and_results_are_the_same_again() -> None:
    axes = axes_of(Sum())
    keep, x = half(axes), images()
    program = cut(axes, keep)
    before = {n: t.clone() for n, t in program.tensors.items()}
    first, again = (reconstructed(axes, keep, program, x) for _ in range(2))
    assert all(torch.equal(t, before[n]) for n, t in program.tensors.items())
    assert all(torch.equal(t, again.tensors[n]) for n, t in first.tensors.items())


def data_of(axes: Axes, labels: Any = None) -> DataSet:
    """Noise; the labels are what the whole network says, or others."""
    x = torch.randint(0, 256, (96, 3, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    split = TensorSplit(x, torch.zeros(96, dtype=torch.long), mean=(0.5,) * 3, std=(0.25,) * 3)
    batch = next(iter(split.batches(96)))[0]
    with torch.no_grad():
        y = ProgramModule(axes.program)(batch).argmax(1) if labels is None else labels
    split = TensorSplit(x, y, mean=(0.5,) * 3, std=(0.25,) * 3)
    return DataSet("noise", split, split, split, ("0", "1", "2", "3", "4"), (3, 8, 8))


class Classifier(nn.Module):
    """Narrow enough to lose much, with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.two, self.last = nn.Conv2d(12, 12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.one(x)))
        return self.last(torch.relu(self.two(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_mending_takes_what_is_better_on_the_search_split() -> None:
    torch.manual_seed(0)  # of some weights the labels of one way are learned better by the other
    axes = axes_of(Classifier())
    axes.program.tensors["last.weight"].mul_(20)  # so that classes differ
    keep, data = half(axes), data_of(axes)
    program = cut(axes, keep)
    usual = Mender(axes, data, reconstruct=False).mended(keep, program)
    fitted = reconstructed(axes, keep, program, calibration(axes.program, data.train))
    images = next(iter(data.search.batches(96)))[0]
    for way, source in (("recalibrated", usual.program), ("reconstructed", fitted)):
        with torch.no_grad():
            liked = data_of(axes, ProgramModule(source)(images).argmax(1))
        best = Mender(axes, liked).mended(keep, program)
        losses = [evaluate(ProgramModule(p), liked.search).loss for p in (usual.program, fitted)]
        assert (best.way, evaluate(ProgramModule(best.program), liked.search).loss) == (way, min(losses))
        assert all(torch.equal(t, best.usual.tensors[n]) for n, t in usual.program.tensors.items())
    assert usual.way == "recalibrated"


@pytest.mark.parametrize("reconstruct", [True, False])
def test_the_finalist_is_the_plan_that_loses_least_once_it_is_mended(reconstruct: bool) -> None:
    axes = axes_of(Classifier())
    axes.program.tensors["last.weight"].mul_(20)
    space, data = WidthSpace(axes), data_of(axes)
    scores = np.arange(axes.classes, dtype=float) % 7
    wishes = ([0.2] * space.bundles, [0.9] * space.bundles, [0.5] * space.bundles)
    plans = [make_plan(space, space.levels(np.array(w)), scores, str(i)) for i, w in enumerate(wishes)]
    losses = []
    for plan in plans:
        keep = plan.keep_mask(axes)
        mended = Mender(axes, data, reconstruct=reconstruct).mended(keep, cut(axes, keep)).program
        losses.append(evaluate(ProgramModule(mended), data.search).loss)
    assert len(set(losses)) == 3
    best = plans[int(np.argmin(losses))]
    for order in (plans, plans[::-1]):
        found, loss = Mender(axes, data, reconstruct=reconstruct).finalist(order)
        assert found is best and loss == pytest.approx(min(losses))


def test_images_to_fit_on_are_as_many_as_there_are() -> None:
    axes = axes_of(Classifier())
    data = data_of(axes)
    assert len(calibration(axes.program, data.train)) == 96
    assert len(calibration(axes.program, data.train, 40)) == 40
