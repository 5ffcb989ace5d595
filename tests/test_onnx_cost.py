"""Costs of ONNX files: equal to what is counted in torch, and never a guess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from graph.capture import capture
from graph.cost import costs
from graph.errors import ModelFileError
from graph.program import ProgramModule
from profilers.onnx_cost import OnnxCosts, count_here, count_onnx
from prune.export import export_onnx


def value(name: str, shape: Sequence[Any] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int, kind: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, kind), name)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    shape: Sequence[Any] = ("n", 3, 8, 8),
    out: Sequence[Any] | None = ("n", "k"),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    graph = helper.make_graph(nodes, "g", [value("x", shape)], [value("y", out)], list(weights))
    opsets = [
        helper.make_opsetid("", 20),
        helper.make_opsetid("own", 1),
        helper.make_opsetid("com.microsoft", 1),
    ]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def counted(path: Path) -> OnnxCosts:
    found = count_here(path)
    return OnnxCosts(
        found["macs"], found["params"], found["widths"], tuple(found["uncounted"]), tuple(found["external"])
    )


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4),
        nn.ConvTranspose2d(8, 4, 2, 2), nn.Flatten(), nn.Linear(4 * 12 * 12, 10), nn.LayerNorm(10),
        nn.Linear(10, 5),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("free", [True, False])
def test_an_exported_model_has_the_macs_of_its_program(net: nn.Module, free: bool, tmp_path: Path) -> None:
    example = torch.randn(4, 3, 8, 8)
    program = capture(net, [example])
    export_onnx(ProgramModule(program), example, tmp_path / "m.onnx", dynamic_batch=free)
    expected = costs(program)
    found = count_onnx(tmp_path / "m.onnx")
    assert found.macs == expected.macs
    assert found.params == expected.params
    assert found.uncounted == () and found.external == ()
    assert sorted(found.widths.values()) == [4, 5, 8, 8, 10]


@pytest.mark.parametrize(
    ("node", "weights", "shape", "macs"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), [weight("w", 5, 3, 3, 3)], ("n", 3, 8, 8), 5 * 36 * 27),
        (helper.make_node("Conv", ["x", "w"], ["y"]), [weight("w", 5, 3, 3, 3)], (4, 3, 8, 8), 5 * 36 * 27),
        (helper.make_node("Conv", ["x", "w"], ["y"]), [weight("w", 5, 3, 3)], ("n", 3, 8), 5 * 6 * 9),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], group=3),
            [weight("w", 6, 1, 3, 3)], ("n", 3, 8, 8), 6 * 36 * 9,
        ),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
            [weight("w", 3, 5, 2, 2)], ("n", 3, 8, 8), 3 * 64 * 5 * 4,
        ),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), [weight("w", 7, 2)], ("n", 7), 14),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), [weight("w", 2, 7)], ("n", 7), 14),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [weight("w", 7, 2)], ("n", 5, 7), 70),
        (helper.make_node("MatMul", ["x", "x"], ["y"]), [], ("n", 6, 6), 216),
        (
            helper.make_node("Einsum", ["x", "w"], ["y"], equation="n...i,ij->n...j"),
            [weight("w", 7, 2)], ("n", 5, 7), 70,
        ),
        (
            helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4),
            [weight("w", 1, 16, 3), weight("r", 1, 16, 4)], (5, 1, 3), 5 * (48 + 64),
        ),
        (helper.make_node("Relu", ["x"], ["y"]), [], ("n", 3), 0),
    ],
)  # fmt: skip
def test_rules(
    node: onnx.NodeProto, weights: list[onnx.TensorProto], shape: Sequence[Any], macs: int, tmp_path: Path
) -> None:
    found = counted(save(tmp_path / "m.onnx", [node], weights, shape=shape))
    batch = 5 if node.op_type == "LSTM" else 1  # (steps, batch, ...): the first dimension counts as the batch
    assert (found.macs, found.uncounted) == (macs // batch, ())
    assert found.params == sum(int(np.prod(w.dims)) for w in weights)


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "b", [], [value("z", None)])


def if_node(inner: onnx.NodeProto) -> onnx.NodeProto:
    other = helper.make_node("Identity", ["x"], ["z"])
    return helper.make_node("If", ["c"], ["y"], then_branch=branch(inner), else_branch=branch(other))


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft"), "com.microsoft.FusedConv"),
        (helper.make_node("DFT", ["x"], ["y"]), "DFT has no cost rule"),
        (if_node(helper.make_node("Conv", ["x", "w"], ["z"])), "If decides at run time"),
    ],
)
def test_what_has_no_rule_is_named(node: onnx.NodeProto, why: str, tmp_path: Path) -> None:
    weights = [weight("w", 5, 3, 3, 3), weight("c", kind=np.bool_)]
    found = counted(save(tmp_path / "m.onnx", [node], weights))
    assert found.macs is None
    assert any(why in told for told in found.uncounted)


def test_a_branch_that_costs_nothing_is_free(tmp_path: Path) -> None:
    node = if_node(helper.make_node("Relu", ["x"], ["z"]))
    assert counted(save(tmp_path / "m.onnx", [node], [weight("c", kind=np.bool_)])).macs == 0


def test_functions_of_the_file_are_named(tmp_path: Path) -> None:
    inner = [helper.make_node("MatMul", ["a", "a"], ["b"])]
    function = helper.make_function("own", "Square", ["a"], ["b"], inner, [helper.make_opsetid("", 20)])
    node = helper.make_node("Square", ["x"], ["y"], domain="own")
    found = counted(save(tmp_path / "m.onnx", [node], functions=[function]))
    assert found.macs is None and "own.Square is a function" in found.uncounted[0]


def test_sizes_that_stay_free_are_named(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    found = counted(save(tmp_path / "m.onnx", [node], [weight("w", 7, 2)], shape=("n", "length", 7)))
    assert found.macs is None and "free" in found.uncounted[0]
    assert found.params == 14


def test_shapes_that_a_file_says_of_itself_are_not_believed(tmp_path: Path) -> None:
    node = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    path = save(tmp_path / "m.onnx", node, [weight("w", 5, 3, 3, 3)], out=("n", 1, 1, 1))
    model = onnx.load(path)
    model.graph.value_info.append(value("h", ("n", 1, 1, 1)))
    path.write_bytes(model.SerializeToString())
    assert counted(path).macs == 5 * 36 * 27


def test_all_operators_of_this_onnx_were_looked_at() -> None:
    from profilers import onnx_cost

    assert onnx.defs.onnx_opset_version() <= onnx_cost._REVIEWED_OPSET, "look at the new operators"


def bomb(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.dims[:] = [1 << 30, 1 << 30]
    return tensor


def test_a_tensor_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [bomb(weight("w", 7, 2))], shape=("n", 7))
    with pytest.raises(ModelFileError, match="elements with 56 bytes"):
        count_onnx(path)


def test_a_file_that_would_take_all_memory_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s0"])]
    nodes += [helper.make_node("Concat", [f"s{i}"] * 2, [f"s{i + 1}"], axis=0) for i in range(45)]
    nodes += [helper.make_node("Identity", ["s45"], ["y"])]
    with pytest.raises(ModelFileError, match="bad_alloc|cannot be read with"):
        count_onnx(save(tmp_path / "m.onnx", nodes))


@pytest.mark.parametrize(
    "text", [b"", b"\x08", b"\x08\x0a" * 50, b"\xff" * 100], ids=["empty", "one byte", "nested", "no field"]
)
def test_what_is_no_onnx_is_told_in_one_line(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(text)
    with pytest.raises(ModelFileError) as caught:
        count_onnx(path)
    assert "m.onnx" in str(caught.value) and "\n" not in str(caught.value)
