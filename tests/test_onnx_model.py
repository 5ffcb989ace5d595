"""ONNX models: a file from elsewhere cannot reach out, and what it refuses is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from graph.errors import ModelFileError
from prune.onnx_model import OnnxModel, run_onnx


def affine(folder: Path, location: str | None = None) -> Path:
    """An ONNX file that adds (1, 2, 3), which is in the file or at `location`."""
    weights = helper.make_tensor(
        "w", TensorProto.FLOAT, [3], np.array([1, 2, 3], np.float32).tobytes(), raw=True
    )
    if location is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
    shape = ["batch", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "w"], ["output"])],
        "affine",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with weights inside, links to weights outside, and a secret above."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    values = np.array([1, 2, 3], np.float32).tobytes()
    for path in (folder / "w.data", folder / "sub" / "w.data", tmp_path / "secret"):
        path.write_bytes(values)
    (folder / "symlink").symlink_to(tmp_path / "secret")
    (folder / "way").symlink_to(tmp_path)
    (folder / "hardlink").hardlink_to(tmp_path / "secret")
    return folder


@pytest.mark.parametrize("location", [None, "w.data", "sub/w.data"])
def test_weights_in_the_models_own_folder_are_fine(model_folder: Path, location: str | None) -> None:
    y = run_onnx(affine(model_folder, location), np.zeros((1, 3), np.float32))
    np.testing.assert_array_equal(y, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../secret", "outside"),
        ("sub/../../secret", "outside"),
        ("/etc/passwd", "outside"),
        ("", "outside"),
        ("symlink", "is a link"),
        ("way/secret", "is a link"),
        ("hardlink", "hard link"),
        ("missing.data", "missing"),
        ("sub", "missing or no file"),
        ("*/_ORT_MEM_ADDR_/*", "no file name"),
    ],
)
def test_external_data_cannot_reach_out(model_folder: Path, location: str, words: str) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        OnnxModel(affine(model_folder, location))
    assert repr(location) in str(caught.value) and caught.value.hint


def test_external_data_is_found_wherever_it_hides(model_folder: Path) -> None:
    path = affine(model_folder)
    for place in ("constant", "subgraph", "sparse", "function"):
        model = onnx.load(path)
        hidden = TensorProto(data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
        hidden.external_data.add(key="location", value="../secret")
        constant = helper.make_node("Constant", [], ["c"], value=hidden)
        if place == "constant":
            model.graph.node.append(constant)
        elif place == "subgraph":
            inner = helper.make_graph([constant], "inner", [], [])
            model.graph.node.append(helper.make_node("If", ["w"], ["d"], then_branch=inner))
        elif place == "sparse":
            model.graph.sparse_initializer.add().values.CopyFrom(hidden)
        else:
            model.functions.add().node.append(constant)
        (model_folder / "hidden.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ModelFileError, match="outside"):
            OnnxModel(model_folder / "hidden.onnx")


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x00" * 100, b"version https://git-lfs\n", None])
def test_malformed_onnx_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match="m.onnx") as caught:
        OnnxModel(path)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_truncated_onnx_file(tmp_path: Path) -> None:
    content = affine(tmp_path).read_bytes()
    for keep in (20, len(content) // 2, len(content) - 1):
        (tmp_path / "m.onnx").write_bytes(content[:keep])
        with pytest.raises(ModelFileError):
            OnnxModel(tmp_path / "m.onnx")


def test_wrong_input_is_named(tmp_path: Path) -> None:
    model = OnnxModel(affine(tmp_path))
    with pytest.raises(ModelFileError, match=r"cannot run on \(1, 4\) of torch.float32"):
        model(torch.zeros(1, 4))
    with pytest.raises(ModelFileError, match="torch.int64"):
        model(torch.zeros(1, 3, dtype=torch.int64))


def test_two_inputs_are_given_in_the_order_of_the_file(tmp_path: Path) -> None:
    model = onnx.load(affine(tmp_path))
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch"]))
    model.graph.node.append(helper.make_node("Identity", ["mask"], ["other"]))
    onnx.save(model, tmp_path / "m.onnx")
    found = OnnxModel(tmp_path / "m.onnx")
    assert found.inputs == ("input", "mask")
    assert found(torch.zeros(2, 3), torch.zeros(2)).tolist() == [[1, 2, 3]] * 2
    with pytest.raises(ModelFileError, match=r"takes 2 inputs \(input, mask\), got 1"):
        found(torch.zeros(2, 3))


def test_inputs_without_one_batch_are_refused(tmp_path: Path) -> None:
    model = onnx.load(affine(tmp_path))
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="no batch that is the same for all"):
        OnnxModel(tmp_path / "m.onnx")
