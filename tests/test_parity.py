"""Parity: what is no agreement, and what rounding explains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graph.capture import capture
from graph.errors import ExportError
from graph.program import ProgramModule
from prune.export import ONNX_TOLERANCE, check_onnx, export_onnx
from prune.parity import compare


def test_outputs_that_are_not_finite_are_no_agreement(tmp_path: Path) -> None:
    net = nn.Linear(4, 2).eval()
    with torch.no_grad():
        net.bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="by inf") as caught:
        export_onnx(net, torch.zeros(2, 4), tmp_path / "m.onnx")
    assert "finite" in caught.value.hint
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("free", "count"), [(True, 9), (False, 3)])
def test_each_size_of_a_batch_is_compared_and_the_largest_difference_told(free: bool, count: int) -> None:
    net, sizes = nn.Linear(4, 2).eval(), set()

    def exported(x: Tensor) -> list[Tensor]:
        sizes.add(len(x))
        return [net(x) + 1e-3]

    with torch.no_grad():
        found = compare(net, exported, [torch.zeros(2, 4)], free, 3, 1e-2)
        assert found == (pytest.approx(1e-3, rel=0.6), 0.0, count) and sizes == ({1, 2, 5} if free else {2})
        with pytest.raises(ExportError, match="differs from the model by"):
            compare(net, exported, [torch.zeros(2, 4)], free, 3, 1e-5)


class Ranked(nn.Module):
    """The best three of eight values by scores that float32 cannot tell apart."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.scores, self.values, self.base = nn.Linear(16, 8), nn.Linear(16, 8), base

    def forward(self, x: Tensor) -> Tensor:
        scores = (self.base + 1e-7 * self.scores(x)) + (1 - self.base)
        return self.values(x).gather(1, scores.topk(3).indices)


def test_what_float32_does_not_determine_is_told_as_rounding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ranked, same = Ranked(0.5), Ranked(0.0)
    same.load_state_dict(ranked.state_dict())
    example = [torch.randn(2, 16)]
    export_onnx(ProgramModule(capture(same, example)), example, tmp_path / "m.onnx")
    found = check_onnx(tmp_path / "m.onnx", ProgramModule(capture(ranked, example)), example)
    assert found.max_error > ONNX_TOLERANCE and found.rounding >= found.max_error / 2
    assert "own rounding" in found.told
    with torch.no_grad():
        ranked.values.weight.add_(10)
    with pytest.raises(ExportError, match="differs from the model"):
        check_onnx(tmp_path / "m.onnx", ProgramModule(capture(ranked, example)), example)
