"""Tensor files: safetensors, whose bytes are the same each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from graph.errors import ModelFileError, first_line
from graph.program import Program
from prune.files import write_file
from prune.regular import regular_size


def save_weights(program: Program, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a program's tensors and some words about them as safetensors.

    Raises:
        OutputError: the file cannot be written.
    """
    save_tensors(program.tensors, path, metadata)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors by name, and some words about them, as safetensors.

    Raises:
        OutputError: the file cannot be written.
    """
    # Clones, because the format takes neither views nor tensors that share memory.
    clones = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    data = _ordered(save(clones, dict(metadata)))
    write_file(path, lambda temporary: temporary.write_bytes(data))


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its words in order; the library's own changes with every process."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU.

    Raises:
        ModelFileError: the file is missing, unreadable or not safetensors.
    """
    try:
        regular_size(path)  # a pipe would be waited for
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as err:
        raise ModelFileError(
            f"{path} is not a safetensors file: {first_line(err)}",
            hint="check the path and that the file is whole",
        ) from err
