"""Side by side: several plans in one run have the scores that each has alone, or are scored alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from networks import random_plan
from torch import Tensor, nn

from graph.axes import Axes, infer
from graph.capture import capture
from models_zoo import registry
from models_zoo.data import DataSet, load_embedded
from prune.data import load_data
from rl import side_by_side
from rl.scorer import Keep, Scorer, chunks
from rl.side_by_side import SideBySide

DIGITS = load_embedded("digits")


class Mixed(nn.Module):
    """A network in which each record sees the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(x.flatten(1)).relu())
        return self.last(hidden - hidden.mean(0))


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
    arguments = {"width": 8} if name.startswith("resnet") else {"width_mult": 0.25}
    return scorer(registry.build(name, in_channels=1, num_classes=10, **arguments))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "shufflenet_v2", "gpt_tiny"])
def test_scores_are_those_of_each_plan_alone(name: str) -> None:
    one = network(name)
    keeps = plans(one.axes, 7)
    alone = [one(keep) for keep in keeps]
    assert len({score.loss for score in alone}) > 3  # else nothing could be mixed up
    beside = SideBySide(one, most=3)
    found = beside.map(keeps)
    assert found[:3] == alone[:3]  # both ways, once
    for score, expected in zip(beside.map(keeps), alone, strict=True):
        assert score.loss == pytest.approx(expected.loss, rel=1e-4)
        assert score.accuracy == pytest.approx(expected.accuracy, abs=1.5 / one.images)


def test_they_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, sizes = network("resnet20"), []
    inner = side_by_side.run

    def run(program: object, tensors: object, inputs: list[Tensor], **options: object) -> object:
        sizes.append(len(inputs[0]))
        return inner(program, tensors, inputs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(side_by_side, "run", run)
    beside = SideBySide(one, most=4)
    beside.map(plans(one.axes, 10))
    assert sizes == [4 * 24, 4 * 24, 2 * 24]
    beside.map(plans(one.axes, 1))  # alone
    assert len(sizes) == 3


def test_a_network_that_mixes_records_scores_one_by_one() -> None:
    torch.manual_seed(0)
    one = scorer(Mixed())
    keeps = plans(one.axes, 6)
    with torch.no_grad():
        for tensor in one.axes.program.tensors.values():
            tensor *= 5  # plans lie far apart
    beside = SideBySide(one, most=3)
    alone = [one(keep) for keep in keeps]
    assert beside.map(keeps) == alone and beside.map(keeps) == alone
    together = [score.loss for score in beside._together(keeps[:3])]
    assert not np.allclose(together, [score.loss for score in alone[:3]], rtol=0.02)


def test_on_a_cpu_plans_are_scored_one_by_one() -> None:
    assert SideBySide(network("resnet20")).most == 1
