"""ONNX files that reach out of their folder, lie about sizes, or would never end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.hostile.case import Case, Payload
from tests.hostile.honest import onnx_model

GATE = ("gate", "m.onnx", "--max-macs", "1G")
EVAL = ("eval", "m.onnx", "--data", "digits")


def _written(model: Callable[[], ModelProto]) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / "m.onnx").write_bytes(model().SerializeToString())


def _external(
    location: str, prepare: Callable[[Path], object] | None = None
) -> Callable[[Path, Payload], object]:
    """Weights that are said to be in another file."""

    def make(folder: Path, payload: Payload) -> None:
        model = onnx_model()
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", location
        if prepare is not None:
            prepare(folder)
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    return make


def _nodes(
    *nodes: onnx.NodeProto, shape: object = ("n", 1, 8, 8), tensors: list[TensorProto] | None = None
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes), "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],  # type: ignore[call-overload]
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors or [],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _huge_constant() -> ModelProto:
    shape = numpy_helper.from_array(np.array([1 << 17, 1 << 17]), "s")
    return _nodes(
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
        tensors=[shape],
    )


def _endless() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Sin", ["v"], ["v2"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("v2", TensorProto.FLOAT, None)],
    )  # fmt: skip
    tensors = [numpy_helper.from_array(np.array(1 << 60), "m"), numpy_helper.from_array(np.array(True), "t")]
    return _nodes(helper.make_node("Loop", ["m", "t", "x"], ["y"], body=body), tensors=tensors)


def _deep(levels: int) -> ModelProto:
    graph = onnx_model().graph
    for _ in range(levels):
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=onnx_model().graph)
        graph = helper.make_graph([node], "g", [], [])
    return helper.make_model(graph)


def _dims(*dims: int, data: bytes = b"\0" * 8, kind: int = TensorProto.FLOAT) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = onnx_model()
        weight = model.graph.initializer[0]
        del weight.dims[:]
        weight.dims.extend(dims)
        weight.data_type, weight.raw_data = kind, data
        return model

    return make


def _changed(change: Callable[[ModelProto], object]) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = onnx_model()
        change(model)
        return model

    return make


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: (folder / "m.onnx").write_bytes(change(onnx_model().SerializeToString()))


def _hard_link(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"\0" * 2560)
    os.link(folder.parent / "secret", folder / "w.data")


def cases() -> Iterator[Case]:
    """Hostile ONNX files; most take a process of their own."""
    out = "external data"
    made: dict[str, tuple[str, Callable[[Path, Payload], object], tuple[str, ...], str]] = {
        "data in the parent folder": ("reads another file", _external("../secret"), GATE, out),
        "data of an absolute path": ("reads another file", _external("/etc/passwd"), GATE, out),
        "data of a link": ("reads another file", _external("w.data", lambda f: (f / "w.data").symlink_to("/etc/passwd")), GATE, "is a link"),
        "data of a hard link": ("onnxruntime follows it", _external("w.data", _hard_link), GATE, "hard link"),
        "data behind a linked folder": ("reads another file", _external("d/passwd", lambda f: (f / "d").symlink_to("/etc")), GATE, "is a link"),
        "data that is missing": ("nothing", _external("absent.data"), GATE, "missing"),
        "data of a pipe": ("waits for ever", _external("w.data", lambda f: os.mkfifo(f / "w.data")), GATE, out),
        "data of a folder": ("no file", _external("d", lambda f: (f / "d").mkdir()), GATE, out),
        "data of memory": ("an address of the process", _external("*/_ORT_MEM_ADDR_/*"), GATE, out),
        "data of no name": ("an empty path", _external(""), GATE, ""),
        "data of a zero": ("no file name", _external("a\0b"), GATE, out),
        "data of backslashes": ("a path of Windows", _external("..\\secret"), GATE, out),
        "data of a long name": ("no disk has it", _external("a" * 5000), GATE, out),
        "data, run": ("reads another file", _external("../secret"), EVAL, out),
        "data of a hard link, run": ("onnxruntime follows it", _external("w.data", _hard_link), EVAL, "hard link"),
        "constant of 64 GB": ("memory when it is opened", _written(_huge_constant), EVAL, ""),
        "endless loop": ("2^60 rounds", _written(_endless), EVAL, ""),
        "pad of terabytes": ("memory when it runs", _written(lambda: _nodes(
            helper.make_node("Pad", ["x", "p"], ["y"]),
            tensors=[numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1 << 20, 1 << 20]), "p")])), EVAL, ""),
        "tile of terabytes": ("memory when it runs", _written(lambda: _nodes(
            helper.make_node("Tile", ["x", "p"], ["y"]),
            tensors=[numpy_helper.from_array(np.array([1, 1, 1 << 18, 1 << 18]), "p")])), EVAL, ""),
        "weight of 2^60": ("lies about its shape", _written(_dims(1 << 30, 1 << 30)), GATE, "tensor of"),
        "weight of 2^39": ("lies about its shape", _written(_dims(1 << 39)), GATE, "tensor of"),
        "weight below zero": ("no shape", _written(_dims(-64, 10)), GATE, "tensor of"),
        "weight of zero": ("no elements, but bytes", _written(_dims(0, 10)), GATE, "tensor of"),
        "weight of forty dimensions": ("more than any has", _written(_dims(*([1] * 40))), GATE, "tensor of"),
        "weight of no type": ("type 99", _written(_dims(64, 10, kind=99)), GATE, ""),
        "deep subgraphs": ("15 levels", _written(lambda: _deep(15)), GATE, ""),
        "cycle": ("takes its own result", _written(lambda: _nodes(helper.make_node("Add", ["x", "y"], ["y"]))), GATE, ""),
        "unknown operator": ("of another library", _written(lambda: _nodes(helper.make_node("Evil", ["x"], ["y"], domain="evil"))), EVAL, ""),
        "no graph": ("an empty model", _written(lambda: helper.make_model(helper.make_graph([], "", [], []))), GATE, ""),
        "no opset": ("it is missing", _written(_changed(lambda m: m.ClearField("opset_import"))), GATE, "not valid ONNX"),
        "opset 9,999": ("of the future", _written(_changed(lambda m: setattr(m.opset_import[0], "version", 9999))), GATE, "is of opset 9999"),
        "opset 0": ("there is none", _written(_changed(lambda m: setattr(m.opset_import[0], "version", 0))), GATE, ""),
        "IR version 99": ("of the future", _written(_changed(lambda m: setattr(m, "ir_version", 99))), GATE, ""),
        "input of terabytes": ("a shape beyond measure", _written(_changed(
            lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 50))), GATE, ""),
        "cut": ("truncated", _bytes(lambda b: b[: len(b) // 2]), GATE, "not valid ONNX"),
        "length of a field": ("longer than the file", _bytes(lambda b: b[:2] + b"\x3a\xff\xff\xff\xff\x07" + b[2:]), GATE, "not valid ONNX"),
        "nested messages": ("10,000 levels", _bytes(lambda b: b"\x08\x09" + b"\x3b" * 10_000), GATE, "not valid ONNX"),
        "nothing but a version": ("no graph", _bytes(lambda b: b"\x08\x09"), GATE, "not valid ONNX"),
        "name with escapes": ("clears the terminal", _written(_changed(lambda m: setattr(m.graph.node[1], "op_type", "\x1b[2J"))), GATE, ""),
        "empty": ("no content", _bytes(lambda b: b""), GATE, ""),
        "text": ("no ONNX", _bytes(lambda b: b"hello"), EVAL, ""),
        "pointer of Git-LFS": ("no ONNX", _bytes(lambda b: b"version https://git-lfs.github.com/spec/v1\n"), EVAL, ""),
        "page": ("no ONNX", _bytes(lambda b: b"<html>404</html>"), EVAL, ""),
    }  # fmt: skip
    for i, (name, (why, make, command, says)) in enumerate(made.items()):
        missing = name in ("unknown operator", "data of no name", "weight of no type", "IR version 99", "opset 0",
                           "input of terabytes", "deep subgraphs", "name with escapes", "no graph")  # fmt: skip
        yield Case(f"onnx: {name}", why, make, command, says=says, slow=i > 3, harmless=missing)
