"""Costs of an ONNX file, counted from its graph: nothing of it is run, and no external data is opened.

The convention is that of ``graph.cost``: convolutions and matrix products count, one multiply-add is one
MAC, all for one record. Shapes are inferred anew, for those that a file says of itself may be wrong. What
cannot be counted is named, never taken for zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from graph.errors import ModelFileError, first_line
from profilers.confined import confined
from profilers.onnx_tensors import locations, tensors

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
_STANDARD = ("", "ai.onnx")
# Operators that came to the standard later have not been looked at: they have no rule, whatever they do.
_REVIEWED_OPSET = 28
_UNCOUNTED = frozenset(
    {"Attention", "LinearAttention", "CausalConvWithState", "DFT", "STFT", "MelWeightMatrix"}
)
_NO_PARAMETERS = (TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)  # shapes, indices, masks, words
_SMALL = 1024  # elements; sizes that shapes are computed from have fewer
_MAX_DIMS = 32
_MAX_SIZE = 1 << 40  # of one dimension


@dataclass(frozen=True)
class OnnxCosts:
    """What an ONNX file costs for one record of the batch.

    Attributes:
        macs: multiply-adds; None where not all of them can be counted.
        params: elements of all initializers and constants but integers of 64 bits, truth values and words.
            A batch norm that was folded into its convolution has left fewer than the model had.
        widths: output channels by the name of the weight, for convolutions and products with a weight.
        uncounted: why ``macs`` is None: operators without a rule, or sizes that the file leaves free.
        external: the files that it names for its weights, unchecked.
    """

    macs: int | None
    params: int
    widths: Mapping[str, int]
    uncounted: tuple[str, ...]
    external: tuple[str, ...]


def count_onnx(path: Path) -> OnnxCosts:
    """Count a file from its graph, in a process of its own.

    Args:
        path: an ONNX file, from anywhere.

    Raises:
        ModelFileError: it is malformed, or takes more memory or time than such a file needs.
    """
    found = confined("profilers.onnx_cost:count_here", path)
    return OnnxCosts(
        found["macs"], found["params"], found["widths"], tuple(found["uncounted"]), tuple(found["external"])
    )


def count_here(path: Path) -> dict[str, Any]:
    """``OnnxCosts`` as JSON data, counted in this process, which a hostile file may bring down.

    Raises:
        ModelFileError: the file is malformed.
    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)  # whatever its name
        newest = max((o.version for o in model.opset_import if o.domain in _STANDARD), default=0)
        if newest > (known := onnx.defs.onnx_opset_version()):
            raise ModelFileError(
                f"{path} is of opset {newest}, onnx {onnx.__version__} knows no more than {known}",
                hint="export it with an older opset, or use a newer onnx",
            )
        params = sum(_elements(path, t) for t in tensors(model) if t.data_type not in _NO_PARAMETERS)
        weights = {t.name for t in model.graph.initializer}
        external = locations(model)
        own = {(f.domain, f.name) for f in model.functions}
        records = _for_one_record(model)
        onnx.checker.check_model(model)
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except ModelFileError:
        raise
    except Exception as err:  # noqa: BLE001 - protobuf, the checker and the inference have no common base
        raise ModelFileError(
            f"{path} is not valid ONNX: {first_line(err)}", hint="check that it is whole"
        ) from err
    shapes = _shapes(graph)
    terms = [_macs(node, shapes, own) for node in graph.node]
    uncounted = list(dict.fromkeys(t for t in terms if isinstance(t, str)))
    total = sum(t for t in terms if isinstance(t, int))
    return {
        "macs": None if uncounted else total // records,
        "params": params,
        "widths": _widths(graph, shapes, weights),
        "uncounted": uncounted,
        "external": external,
    }


def _for_one_record(model: ModelProto) -> int:
    """Prepare a model for inference: one record where the batch is free, no weights, shapes of inputs alone.

    Returns:
        How many records its shapes hold: more than one where the batch is fixed.
    """
    graph = model.graph
    weights = {t.name for t in graph.initializer}
    inputs = [v.type.tensor_type.shape.dim for v in graph.input if v.name not in weights]
    free = {dims[0].dim_param for dims in inputs if dims and not dims[0].HasField("dim_value")}
    for dims in inputs:
        for index, dim in enumerate(dims):
            if not dim.HasField("dim_value") and (index == 0 or (dim.dim_param and dim.dim_param in free)):
                dim.dim_value = 1
    kept = []
    declared = {v.name for v in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SMALL and not tensor.external_data:
            kept.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    batches = {dims[0].dim_value for dims in inputs if dims}
    return int(batches.pop()) if len(batches) == 1 and min(batches) > 0 else 1


def _graphs(attribute: AttributeProto) -> list[GraphProto]:
    return [*([attribute.g] if attribute.type == AttributeProto.GRAPH else []), *attribute.graphs]


def _elements(path: Path, tensor: TensorProto) -> int:
    """The elements of a tensor; its bytes must be as many as its shape says."""
    if len(tensor.dims) > _MAX_DIMS or any(not 0 <= n < _MAX_SIZE for n in tensor.dims):
        raise ModelFileError(
            f"{path} has a tensor of shape {list(tensor.dims)[:8]}", hint="do not use this file"
        )
    count: int = math.prod(tensor.dims)
    given = len(tensor.raw_data)
    if given:
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        packed = "INT4" in TensorProto.DataType.Name(tensor.data_type) or size == 1
        if given != count * size and not (packed and given <= count):
            raise ModelFileError(
                f"{path} has a tensor of {count:,} elements with {given:,} bytes", hint="do not use this file"
            )
    return count


def _shapes(graph: GraphProto) -> dict[str, Shape]:
    """The shapes that are known in full."""
    found = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and len(dims) <= _MAX_DIMS and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def _macs(node: NodeProto, shapes: Shapes, own: set[tuple[str, str]]) -> int | str:
    """The multiply-adds of a node, or why they cannot be counted."""
    name = f"{node.domain}.{node.op_type}" if node.domain not in _STANDARD else node.op_type
    if (node.domain, node.op_type) in own:
        return f"{name} is a function of the file's own"
    inner = [g for a in node.attribute for g in _graphs(a)]
    if inner:
        free = all(_macs(n, {}, own) == 0 for g in inner for n in g.node)
        return 0 if free else f"{name} decides at run time what is computed"
    if node.domain not in _STANDARD or not _is_reviewed(node.op_type) or node.op_type in _UNCOUNTED:
        return f"{name} has no cost rule"
    rule = _RULES.get(node.op_type)
    if rule is None:
        return 0
    try:
        return rule(node, shapes)
    except (KeyError, IndexError, ValueError):
        return f"the file leaves sizes of {name} free"


def _is_reviewed(op: str) -> bool:
    """Whether an operator is of a version of the standard that the rules were written for."""
    try:
        onnx.defs.get_schema(op, _REVIEWED_OPSET)
    except onnx.defs.SchemaError:
        return False
    return True


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def _convolution(weight: int) -> Callable[[NodeProto, Shapes], int]:
    """Batch x out channels x positions x (in channels of a group x kernel)."""
    return lambda node, shapes: math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])


def _transposed(node: NodeProto, shapes: Shapes) -> int:
    """Each input element meets the filters of its channel."""
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    rows = 0 if _attribute(node, "transA", 0) else 1
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][rows]


def _product(node: NodeProto, shapes: Shapes) -> int:
    """Elements of the result x length of the rows of the left operand."""
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    """The sizes of all letters, once for each product."""
    terms = _attribute(node, "equation", b"").decode().replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str | int, int] = {}
    for name, term in zip(node.input, terms, strict=True):
        before, _, after = term.partition("...")
        spread = len(shapes[name]) - len(before) - len(after)
        letters: list[str | int] = [*before, *range(-spread, 0), *after]
        for letter, size in zip(letters, shapes[name], strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values()) * max(1, len(terms) - 1)


def _recurrent(node: NodeProto, shapes: Shapes) -> int:
    """At each step every weight matrix once."""
    steps = math.prod(shapes[node.input[0]][:2])
    return steps * sum(math.prod(shapes[name]) for name in node.input[1:3])


_RULES: dict[str, Callable[[NodeProto, Shapes], int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _product),
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}


def _widths(graph: GraphProto, shapes: Shapes, weights: set[str]) -> dict[str, int]:
    """Output channels of the operators that have a weight, by its name."""
    found = {}
    for node in graph.node:
        names = [n for n in node.input if n in weights and len(shapes.get(n, ())) > 1]
        shape = shapes.get(node.output[0], ()) if node.output else ()
        if node.op_type in _RULES and names and len(shape) > 1:
            found[names[0].removesuffix(".weight")] = shape[1 if "Conv" in node.op_type else -1]
    return found
