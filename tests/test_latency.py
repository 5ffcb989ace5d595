"""Latency: what is timed, in which order, and what is told of the machine. No figure is asserted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from graph.errors import ModelFileError
from profilers.latency import (
    Latency,
    compare,
    environment,
    measure,
    onnx_call,
    torch_call,
)

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """An ONNX file that adds its input to itself."""
    shape = ["batch", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "input"], ["output"])],
        "doubling",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "doubling.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def plausible(found: Latency) -> bool:
    return 0 < found.p10_ms <= found.median_ms <= found.p90_ms and found.runs >= 30


def test_onnxruntime_reports_to_nobody_and_leaves_nothing_behind(doubling: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for place in places.values():
        place.mkdir()
    code = (
        f"import profilers.latency, pathlib; profilers.latency.onnx_session(pathlib.Path({str(doubling)!r}))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {name: str(place) for name, place in places.items()} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not [found for place in places.values() for found in place.rglob("*") if found.is_file()]


def test_candidates_take_turns() -> None:
    order: list[str] = []
    found = compare(
        {name: lambda name=name: order.append(name) for name in "AB"}, warmup=2, repeats=3, min_seconds=0
    )
    assert order == ["A", "B"] * 5
    assert found["A"].runs == found["B"].runs == 3


def test_quick_calls_get_more_runs() -> None:
    assert measure(lambda: sum(range(1000)), repeats=1, min_seconds=0.01).runs > 10


def test_nothing_to_compare_and_nothing_to_repeat() -> None:
    assert compare({}) == {}
    with pytest.raises(ValueError, match="at least 1"):
        measure(lambda: None, repeats=0)


def test_a_failing_candidate_is_heard() -> None:
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 // 0)


def test_torch_runs_in_eval_mode_without_gradients_and_leaves_the_module_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    x = torch.randn(4, 3)
    call = torch_call(module, x)
    first, second = call(), call()
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    assert torch.equal(first, second) and not first.requires_grad
    assert all(m.training for m in module.modules())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_onnx(doubling: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    call = onnx_call(doubling, x, threads=1)
    np.testing.assert_array_equal(call(), [2 * x])
    assert plausible(measure(call))


def test_a_broken_onnx_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("<html>")
    for name in ("m.onnx", "missing.onnx"):
        with pytest.raises(ModelFileError, match=name) as caught:
            onnx_call(tmp_path / name, np.zeros((1, 3), np.float32))
        assert "\n" not in str(caught.value) and caught.value.hint


def test_the_environment_is_told_in_words() -> None:
    found = environment()
    assert set(found) == {"python", "torch", "onnxruntime", "cpu", "cores", "threads", "platform"}
    assert all(isinstance(v, str) and v for v in found.values())
    assert int(found["cores"]) >= 1 and found["threads"] == str(torch.get_num_threads())
