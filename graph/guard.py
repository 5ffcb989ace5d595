"""Guard: what a stored program may ask for, since anybody may have written it.

A program names ATen operators and sizes. Neither can reach a file or run code, but an operator that torch
keeps for itself may trust its arguments where a public one checks them, and a size may be any number. Every
value is therefore worked out on the meta device, where nothing is computed, before anything else is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from graph.errors import ProgramError
from graph.meta import on_shapes
from graph.program import INPUT, TENSOR, Node, Program, execute

# Operators of torch's own that captures bring along; the others with such names are kernels whose arguments
# somebody else has checked.
_OWN = frozenset({
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_assert_scalar", "_assert_tensor_metadata",
    "_cdist_forward", "_conj", "_conj_physical", "_convolution", "_embedding_bag",
    "_embedding_bag_forward_only", "_euclidean_dist", "_fft_c2c", "_fft_c2r", "_fft_r2c", "_fused_rms_norm",
    "_log_softmax", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_native_multi_head_attention", "_pad_circular", "_pad_enum", "_prelu_kernel", "_reshape_alias",
    "_safe_softmax", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_shape_as_tensor", "_softmax", "_to_copy",
    "_transformer_encoder_layer_fwd", "_trilinear", "_unsafe_index", "_unsafe_view",
    "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_weight_norm", "_weight_norm_interface",
    "__and__", "__lshift__", "__or__", "__rshift__", "__xor__",
})  # fmt: skip
# Families whose tensors hold what another operator packed: they take the bytes for what they claim to be.
_PACKED = (
    "cudnn",
    "fbgemm",
    "fake_quantize",
    "miopen",
    "mkldnn",
    "quantize",
    "resize",
    "sparse",
    "to_mkldnn",
)
_MAX_ELEMENTS = 1 << 26  # of a value of a program that is small
_PER_WEIGHT, _PER_INPUT = 32, 1024  # elements that a value may have for each of these
_MAX_INPUT = 1 << 27  # elements of an input
_MAX_NUMBER = 1 << 40
_MAX_PIECES = 1 << 16  # of a tensor that is split
_MAX_DIMS = 16
_MAX_DEPTH = 64  # of modules


def check_stored(program: Program) -> None:
    """Check a program that was read from a file.

    Raises:
        ProgramError: an operator that no captured model needs, sizes beyond all measure, or operators that do
            not fit each other's shapes; names the node.
    """
    if not program.outputs:
        raise ProgramError("the program returns nothing")
    if deep := [name for name in program.tensors if name.count(".") > _MAX_DEPTH]:
        raise ProgramError(f"tensor {deep[0][:200]!r} is nested too deeply")
    for spec in program.inputs:
        sizes = spec.shape
        if not 0 < len(sizes) <= _MAX_DIMS or min(sizes) < 1 or math.prod(sizes) > _MAX_INPUT:
            raise ProgramError(f"input {spec.name!r} cannot be of shape {sizes[:_MAX_DIMS]}")
        if max(abs(spec.low), abs(spec.high)) > _MAX_NUMBER:
            raise ProgramError(f"input {spec.name!r} cannot hold {spec.low} to {spec.high}")
    for node in program.nodes:
        if node.op not in (INPUT, TENSOR) and not _is_public(node):
            raise ProgramError(f"operator {node.op!r} is not allowed in a stored program")
    weights = sum(t.numel() for t in program.tensors.values())
    inputs = sum(math.prod(s.shape) for s in program.inputs)
    limit = _MAX_ELEMENTS + _PER_WEIGHT * weights + _PER_INPUT * inputs

    def bounded(
        function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        _check_pieces(node, args)
        found = on_shapes(function, args, _on_meta(function, args, kwargs))
        if (most := max((t.numel() for t in _tensors(found)), default=0)) > limit:
            raise ProgramError(f"node {node.name!r} ({node.op}) makes {most:,} numbers of {limit:,} at most")
        return found

    tensors = {name: torch.empty_like(t, device="meta") for name, t in program.tensors.items()}
    overrides = dict.fromkeys((n.name for n in program.nodes), bounded)
    for _ in execute(program, tensors, program.example(), env={}, overrides=overrides):
        pass


def _is_public(node: Node) -> bool:
    if node.op.startswith("builtin."):
        return True
    name = node.base
    return name in _OWN or not (name.startswith(("_", *_PACKED)) or name.endswith("backward"))


def _on_meta(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of an operator that makes a tensor from nothing: on no device but meta."""
    schema = getattr(function, "_schema", None)
    if schema is None or not any(a.name == "device" for a in schema.arguments):
        return kwargs
    if any(a.name == "device" for a in schema.arguments[: len(args)]):
        return kwargs  # by position, where it is replaced like any other
    return {**kwargs, "device": torch.device("meta")}


def _check_pieces(node: Node, args: tuple[Any, ...]) -> None:
    """Refuse to cut a long dimension into single elements: each piece is a tensor."""
    if node.base not in ("unbind", "split", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"):
        return
    longest = max((n for t in _tensors(args[:1]) for n in t.shape), default=0)
    by = args[1] if len(args) > 1 and isinstance(args[1], int) and "split" in node.base else 1
    if longest // max(1, by) > _MAX_PIECES and node.base != "chunk":
        raise ProgramError(f"node {node.name!r} ({node.op}) cuts {longest:,} into too many pieces")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
