"""The table of operator latencies: what is measured, once, and what follows. No figure is asserted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import CASES, random_plan
from torch import nn

from graph.axes import infer
from graph.capture import capture
from graph.channels import Axes
from profilers.latency import paired_ratio
from profilers.latency_model import LatencyModel
from profilers.onnx_runtime import onnxruntime
from profilers.op_latency import OpTable
from profilers.single_ops import Kernel
from profilers.timed_ops import timed_ops
from prune.plan import kept_widths

CONV = Kernel("conv", (4, 4), (("kernel_shape", (3, 3)), ("strides", (1, 1)), ("pads", (1, 1, 1, 1))))
OTHERS = [
    CONV, Kernel("depthwise", (4, 4), (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)))),
    Kernel("matmul", (5,)), Kernel("product", (2, 5)), Kernel("Relu", (6,)), Kernel("Sigmoid", (6,)),
    Kernel("Add", (6,)), Kernel("Mul", (6,)), Kernel("Softmax", (6,)), Kernel("LayerNormalization", (6,)),
    Kernel("ReduceMean", (6,)), Kernel("Concat", (6,)), Kernel("Transpose", (6,)),
    Kernel("MaxPool", (4, 4), (("kernel_shape", (2, 2)), ("strides", (2, 2)), ("pads", (0, 0, 0, 0)))),
    Kernel("AveragePool", (4, 4), (("kernel_shape", (2, 2)), ("strides", (2, 2)), ("pads", (0, 0, 0, 0)))),
]  # fmt: skip


@pytest.mark.parametrize("kernel", OTHERS, ids=lambda k: k.kind)
def test_every_kernel_runs_at_any_width(kernel: Kernel) -> None:
    for a, b in ((1, 1), (3, 5), (8, 8)):
        model, feeds = kernel.model(a, b)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, feeds)
        assert np.isfinite(result).all() and result.size > 0


def test_operators_are_measured_once_and_remembered(tmp_path: Path) -> None:
    points = [(CONV, 4, 8), (CONV, 8, 8), (CONV, 4, 8), (Kernel("Relu", (16,)), 4, 1)]
    told: list[tuple[int, int]] = []
    table = OpTable(tmp_path)
    first = table.milliseconds(points, lambda done, total: told.append((done, total)))
    assert first[0] == first[2] and all(ms > 0 for ms in first)
    assert table.measured == 3 and told[-1] == (3, 3)
    assert table.milliseconds(points) == first and table.measured == 3
    again = OpTable(tmp_path)
    assert again.milliseconds(points) == first and again.measured == 0
    data = json.loads(table.path.read_text())
    assert len(data["ms"]) == 3 and data["machine"]["onnxruntime"] == onnxruntime.__version__


def test_a_broken_or_foreign_cache_is_measured_anew(tmp_path: Path) -> None:
    points = [(CONV, 2, 2)]
    path = OpTable(tmp_path).path
    for text in ("", "{", "[]", '{"machine": {}, "ms": {}}', '{"ms": {"x": "y"}}'):
        path.write_text(text)
        table = OpTable(tmp_path)
        table.milliseconds(points)
        assert table.measured == 1


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    table = OpTable(tmp_path / "file" / "below")
    assert table.milliseconds([(CONV, 2, 2)])[0] > 0


def axes_of(name: str) -> Axes:
    return infer(capture(CASES[name].build(), [torch.randn(2, 3, 4, 4)]))


def test_what_takes_time() -> None:
    ops, guessed = timed_ops(axes_of("chain"))  # conv, batch norm and relu in one, conv, mean, linear
    assert [op.kernel.kind for op in ops] == ["conv", "conv", "ReduceMean", "matmul"]
    assert guessed == {}
    ops, _ = timed_ops(axes_of("depthwise"))
    assert Counter(op.kernel.kind for op in ops)["depthwise"] == 1
    ops, _ = timed_ops(axes_of("grouped queries"))
    assert Counter(op.kernel.kind for op in ops)["product"] == 2
    ops, guessed = timed_ops(axes_of("cumsum"))
    assert guessed == {"aten.cumsum.default": 1}


@pytest.mark.parametrize("name", ["chain", "grouped queries", "grouped", "flatten"])
def test_predictions_are_monotone_and_the_same_one_by_one(name: str, tmp_path: Path) -> None:
    axes = axes_of(name)
    table = OpTable(tmp_path)
    model = LatencyModel(axes, table, any_width=False)
    kept = np.array([kept_widths(axes, random_plan(axes, seed)) for seed in range(20)])
    found = model.milliseconds(kept)
    assert found.shape == (20,) and (found > 0).all()
    assert np.allclose([float(model.milliseconds(one)) for one in kept], found)
    whole = np.array([len(g.units) for g in axes.groups])
    assert (found <= float(model.milliseconds(whole)) * (1 + 1e-9)).all()
    wider = np.minimum(kept + 1, whole)
    assert (model.milliseconds(wider) >= found - 1e-12).all()
    before = table.measured
    LatencyModel(axes, table, any_width=False)
    assert table.measured == before


def test_widths_beside_the_lanes_are_measured_apart(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 2))
    axes = infer(capture(module, [torch.randn(2, 3, 6, 6)]))
    even, both = OpTable(tmp_path / "even"), OpTable(tmp_path / "both")
    LatencyModel(axes, even, any_width=False)
    LatencyModel(axes, both, any_width=True)
    assert both.measured > even.measured


def test_paired_ratios() -> None:
    found = paired_ratio(lambda: sum(range(2000)), lambda: sum(range(2000)), rounds=3, min_seconds=0.01)
    assert found.ratio > 0 and found.noise >= 0 and found.base_ms > 0 and found.ms > 0
