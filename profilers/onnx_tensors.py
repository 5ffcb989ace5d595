"""The tensors of an ONNX model, wherever they are, and the files that it names for their data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import TensorProto


def tensors(message: Any) -> Iterator[TensorProto]:
    """Every tensor anywhere in a model: initializers, attributes, subgraphs, functions, sparse ones."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if isinstance(part, TensorProto):
                yield part
            else:
                yield from tensors(part)


def locations(message: Any) -> list[str]:
    """The files with external data, as the model names them: not checked, not opened."""
    entries = (entry for tensor in tensors(message) for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})
