"""Parcels: a scorer on its way to another process, its tensors in one file that all workers map.

The axes go as Python objects through the channel that starts the worker; nothing but numbers is written to a
file. Each tensor begins at a multiple of 64 bytes, as in torch's own memory: where it begins could otherwise
change the order of a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graph.channels import Axes
from rl.scorer import Chunk, Scorer

_ALIGNED = 64


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file: first byte, type, sizes and strides."""

    start: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its length."""
        return self.dtype.itemsize * torch.Size(self.size).numel()


@dataclass(frozen=True)
class Parcel:
    """A scorer without its tensors.

    Attributes:
        axes: of the whole program, whose tensor table is empty here.
        weights: where each tensor of the table lies.
        chunks: where images and labels of each chunk lie.
        length: of the file in bytes.
    """

    axes: Axes
    weights: Mapping[str, Place]
    chunks: tuple[tuple[Place, Place], ...]
    length: int

    def open(self, flat: Tensor) -> Scorer:
        """The scorer, on the file's bytes as a tensor (uint8, shape: length)."""
        tensors = {name: _read(flat, place) for name, place in self.weights.items()}
        program = replace(self.axes.program, tensors=tensors)
        on = tuple(Chunk(_read(flat, images), _read(flat, labels)) for images, labels in self.chunks)
        return Scorer(replace(self.axes, program=program), on)


def pack(scorer: Scorer) -> tuple[Parcel, Tensor]:
    """A scorer as a parcel and the bytes of its tensors (uint8, shape: length)."""
    parts: list[Tensor] = []
    end = 0

    def put(tensor: Tensor) -> Place:
        nonlocal end
        tensor = _dense(tensor.detach())
        place = Place(end, tensor.dtype, tuple(tensor.shape), tensor.stride())
        flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8) if tensor.numel() else _gap(0)
        parts.extend((flat, _gap(-len(flat) % _ALIGNED)))
        end += len(flat) + len(parts[-1])
        return place

    program = scorer.axes.program
    weights = {name: put(tensor) for name, tensor in program.tensors.items()}
    on = tuple((put(c.images), put(c.labels)) for c in scorer.chunks)
    axes = replace(scorer.axes, program=replace(program, tensors={}))
    return Parcel(axes, weights, on, end), torch.cat([*parts, _gap(0)])


def mapped(path: Path, length: int) -> Tensor:
    """The bytes of a file (uint8, shape: length), shared between all processes that map it."""
    return torch.from_file(str(path), shared=False, size=length, dtype=torch.uint8)


def _dense(tensor: Tensor) -> Tensor:
    """The tensor, copied if its elements do not lie side by side."""
    dense = tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return tensor if dense else tensor.contiguous()


def _gap(length: int) -> Tensor:
    return torch.zeros(length, dtype=torch.uint8)


def _read(flat: Tensor, place: Place) -> Tensor:
    part = flat[place.start : place.start + place.bytes].view(place.dtype)
    return part.as_strided(place.size, place.stride, part.storage_offset())
