"""Single operators: small ONNX models that do the work of one operator, to be timed alone.

A ``Kernel`` is an operator with everything that its time depends on but its widths; with widths it becomes an
ONNX model with random weights. Convolutions carry a Relu, for onnxruntime fuses what follows them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR = 18, 10


@dataclass(frozen=True)
class Kernel:
    """An operator, apart from how wide it is.

    Attributes:
        kind: ``conv`` (``a`` to ``b`` channels), ``depthwise`` (``a`` channels), ``matmul`` (rows of ``a``
            numbers times weights, to ``b``), ``product`` (the same, times an activation), or the name of an
            ONNX operator on ``a`` x rest elements.
        rest: the sizes that do not vary: positions of a convolution, rows of a matrix, elements per channel.
        options: kernel, strides, pads and dilations of a convolution or pooling.
    """

    kind: str
    rest: tuple[int, ...]
    options: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def key(self, a: int, b: int) -> str:
        """Names the kernel with its widths; the same work has the same name."""
        words = [f"{name}={'x'.join(map(str, value))}" for name, value in self.options]
        return " ".join([self.kind, "x".join(map(str, self.rest)), *words, f"{a}->{b}"])

    def weight_bytes(self, a: int, b: int) -> int:
        """How large the weights are."""
        taps = math.prod(dict(self.options).get("kernel_shape", (1,)))
        return {"conv": 4 * a * b * taps, "matmul": 4 * a * b}.get(self.kind, 0)

    def model(self, a: int, b: int) -> tuple[bytes, dict[str, NDArray[Any]]]:
        """The ONNX model at these widths, and random inputs for it."""
        random = np.random.default_rng(0)

        def some(*shape: int) -> NDArray[np.float32]:
            return random.standard_normal(shape, dtype=np.float32)

        options: dict[str, Any] = {k: list(v) for k, v in self.options}
        feeds: dict[str, NDArray[Any]]
        weights: dict[str, NDArray[Any]] = {}
        if self.kind in ("conv", "depthwise"):
            made, per_group, group = (b, a, 1) if self.kind == "conv" else (a, 1, a)
            weights = {"w": some(made, per_group, *options["kernel_shape"]) / 8, "bias": some(made)}
            feeds = {"x": some(1, a, *self.rest)}
            nodes = [
                helper.make_node("Conv", ["x", "w", "bias"], ["c"], group=group, **options),
                helper.make_node("Relu", ["c"], ["y"]),
            ]
        elif self.kind == "matmul":
            weights, feeds = {"w": some(a, b) / 8}, {"x": some(*self.rest, a)}
            nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        elif self.kind == "product":
            feeds = {"x": some(*self.rest, a), "z": some(*self.rest[:-1], a, b)}
            nodes = [helper.make_node("MatMul", ["x", "z"], ["y"])]
        else:
            nodes, feeds, weights = self._moving(a, some, options)
        graph = helper.make_graph(
            nodes,
            "single",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in feeds.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, n) for n, v in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        return model.SerializeToString(), feeds

    def _moving(
        self, a: int, some: Any, options: dict[str, Any]
    ) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Operators whose time is that of moving elements."""
        feeds: dict[str, NDArray[Any]] = {"x": some(1, a, *self.rest)}
        weights: dict[str, NDArray[Any]] = {}
        names = ["x"]
        if self.kind in ("Add", "Mul"):
            feeds["z"] = some(1, a, *self.rest)
            names.append("z")
        elif self.kind == "Concat":
            half = max(1, a // 2)
            feeds = {"x": some(1, half, *self.rest), "z": some(1, max(1, a - half), *self.rest)}
            names, options = ["x", "z"], {"axis": 1}
        elif self.kind == "LayerNormalization":
            feeds = {"x": some(*self.rest, a)}
            weights, names = {"w": some(a), "bias": some(a)}, ["x", "w", "bias"]
        elif self.kind == "Softmax":
            options = {"axis": -1}
        elif self.kind == "ReduceMean":
            weights = {"axes": np.arange(2, 2 + len(self.rest), dtype=np.int64)}
            names = ["x", "axes"]
        elif self.kind == "Transpose":
            feeds = {"x": some(a, math.prod(self.rest))}
            options = {"perm": [1, 0]}
        return [helper.make_node(self.kind, names, ["y"], **options)], feeds, weights


NOTHING = Kernel("Identity", ())  # what a call costs that computes nothing
