"""Side by side: several plans in one run have the scores that each has alone, or are scored alone."""

from __future__ import annotations

import functools

import pytest
import torch
from networks import random_plan
from torch import Tensor, nn
from torch.nn import functional as F

from graph.axes import Axes, infer
from graph.capture import capture
from graph.errors import ProgramError
from models_zoo import registry
from models_zoo.data import DataSet, load_embedded
from prune.data import load_data
from rl import side_by_side
from rl.precision import lowered
from rl.scorer import Keep, Scorer, chunks
from rl.side_by_side import SideBySide

DIGITS = load_embedded("digits")


class Mixed(nn.Module):
    """Each record sees the others of its batch: unseen by shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(x.flatten(1)).relu())
        return self.last(hidden.cumsum(0))


class Averaged(Mixed):
    """The same, and the mean has no records."""

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(x.flatten(1)).relu())
        return self.last(hidden - hidden.mean(0))


class Windows(nn.Module):
    """Rows of an image are records of their own for a while, with a batch norm over them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 24), nn.BatchNorm1d(24), nn.Linear(24, 16)
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.first(x.reshape(-1, 8))).relu()  # (B x 8, 24)
        back: Tensor = self.second(rows).relu().reshape(-1, 8, 16)
        return self.last(back.mean(1))


class Sequence(nn.Module):
    """The sequence comes first, the batch after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.first(x[:, 0].transpose(0, 1)).relu()  # (8, B, 24)
        return self.last(rows.mean(0))


class Standardised(nn.Module):
    """A convolution whose weight is computed, so that channels go from it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 16, 3)
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        hidden = F.conv2d(self.first(x).relu(), weight, self.second.bias).relu()
        return self.last(hidden.mean((2, 3)))


def scorer(module: nn.Module, data: DataSet = DIGITS, records: int = 24) -> Scorer:
    x = torch.randn(2, *data.input_shape)
    if data.is_text:
        x = torch.randint(0, len(data.classes), (2, *data.input_shape))
    return Scorer(axes := infer(capture(module.eval(), [x])), chunks(axes, data, records))


def plans(axes: Axes, count: int) -> list[Keep]:
    return [random_plan(axes, seed).keep_mask(axes) for seed in range(count)]


@functools.cache
def network(name: str) -> Scorer:
    torch.manual_seed(0)
    if name == "gpt_tiny":
        text = load_data("pystdlib?length=16")
        return scorer(registry.build(name, vocab_size=len(text.classes), length=16), text, 4)
    if name == "windows":
        return scorer(Windows())
    arguments = {"width": 8} if name.startswith("resnet") else {"width_mult": 0.25}
    return scorer(registry.build(name, in_channels=1, num_classes=10, **arguments))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "shufflenet_v2", "gpt_tiny", "windows"])
def test_scores_are_those_of_each_plan_alone(name: str) -> None:
    one = network(name)
    keeps = plans(one.axes, 7)
    alone = [one(keep) for keep in keeps]
    assert len({score.loss for score in alone}) > 3  # else nothing could be mixed up
    beside = SideBySide(one, most=3, timed=False)
    found = beside.map(keeps)
    assert found[:3] == alone[:3]  # both ways, once
    assert beside._pays
    for score, expected in zip(beside.map(keeps), alone, strict=True):
        assert score.loss == pytest.approx(expected.loss, rel=1e-4)
        assert score.accuracy == pytest.approx(expected.accuracy, abs=1.5 / one.images)


def test_in_bfloat16_they_are_as_near_as_its_numbers_are() -> None:
    one = lowered(network("resnet20"))
    keeps = plans(one.axes, 6)
    beside = SideBySide(one, most=3, timed=False)
    beside.map(keeps[:3])
    assert beside._pays
    for score, keep in zip(beside.map(keeps), keeps, strict=True):
        assert score.loss == pytest.approx(one(keep).loss, rel=0.02)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records of each run side by side; more than 90 find no memory."""
    seen: list[int] = []
    inner = side_by_side.run

    def run(program: object, tensors: object, inputs: list[Tensor], **options: object) -> object:
        seen.append(len(inputs[0]))
        if len(inputs[0]) > 90:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(program, tensors, inputs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(side_by_side, "run", run)
    return seen


def test_they_run_together(sizes: list[int]) -> None:
    one = network("resnet20")
    beside = SideBySide(one, most=3, timed=False)
    beside.map(plans(one.axes, 8))
    assert sizes == [3 * 24, 3 * 24, 3 * 24, 2 * 24]
    beside.map(plans(one.axes, 1))  # alone
    assert len(sizes) == 4


def test_fewer_run_together_where_there_is_no_memory(sizes: list[int]) -> None:
    one = network("resnet20")
    keeps = plans(one.axes, 9)
    beside = SideBySide(one, most=6, timed=False)
    found = beside.map(keeps)
    assert sizes == [6 * 24, 3 * 24, 3 * 24]  # too many; then both ways, and once more for the time
    assert [s.loss for s in found] == pytest.approx([one(keep).loss for keep in keeps], rel=1e-4)
    assert beside.map(keeps) and sizes[3:] == [3 * 24] * 3


def test_a_run_that_fails_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = network("resnet20")
    keeps = plans(one.axes, 3)
    beside = SideBySide(one, most=3, timed=False)
    alone = beside.map(keeps)

    def fails(*_: object, **__: object) -> object:
        raise ProgramError("node failed")

    monkeypatch.setattr(side_by_side, "run", fails)
    assert beside._pays and beside.map(keeps) == alone and not beside._pays


@pytest.mark.parametrize("kind", [Averaged, Sequence, Standardised])
def test_what_the_shapes_tell_is_not_tried(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    one = scorer(kind())
    keeps = plans(one.axes, 3)
    beside = SideBySide(one, most=3, timed=False)
    assert beside._pays is False
    assert beside.map(keeps) == [one(keep) for keep in keeps]


def test_a_network_that_mixes_records_scores_one_by_one() -> None:
    torch.manual_seed(0)
    one = scorer(Mixed())
    keeps = plans(one.axes, 6)
    alone = [one(keep) for keep in keeps]
    beside = SideBySide(one, most=3, timed=False)
    assert beside.map(keeps) == alone and beside.map(keeps) == alone


def test_on_a_cpu_plans_are_scored_one_by_one() -> None:
    assert SideBySide(network("resnet20")).most == 1
