"""Metadata: what a model file of our own says about itself, checked, for a file may say anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph.errors import ModelFileError

FORMAT, VERSION = "prune-model", 1
HEADER_KEY = "prune"  # of a safetensors file's metadata
_MAX_ELEMENTS = 1 << 28  # of one record: a file must not decide how much memory we take
_MAX_DIMS = 6


@dataclass(frozen=True)
class Metadata:
    """What a file says about itself; everything is optional in foreign files."""

    arch: str | None = None
    arch_args: Mapping[str, Any] | None = None
    input_shape: tuple[int, ...] | None = None
    data: str | None = None
    metrics: Mapping[str, Any] | None = None


def parse(path: Path, found: Any) -> Metadata:
    """Check the types of our own metadata.

    Raises:
        ModelFileError: it is malformed, or of a newer version.
    """

    def wrong(what: str) -> ModelFileError:
        return ModelFileError(f"{path}: its metadata is malformed: {what}", hint="save it anew")

    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        raise wrong(f"it is not of the format {FORMAT}")
    version = found.get("version")
    if not isinstance(version, int):
        raise wrong("version is not a number")
    if version != VERSION:
        raise ModelFileError(
            f"{path} has version {version} of the format {FORMAT}, only {VERSION} is known",
            hint="use a newer prune",
        )
    arch, args, shape = found.get("arch"), found.get("arch_args"), found.get("input_shape")
    data, metrics = found.get("data"), found.get("metrics")
    if not isinstance(arch, str) or not arch:
        raise wrong("arch is not a text")
    if not isinstance(args, dict) or not is_plain(args):
        raise wrong("arch_args is not a dict of plain values")
    if not isinstance(shape, list | tuple) or not is_shape(shape):
        raise wrong("input_shape is not a shape")
    if data is not None and not isinstance(data, str):
        raise wrong("data is not a text")
    if not isinstance(metrics, dict) or not is_plain(metrics):
        raise wrong("metrics is not a dict of plain values")
    return Metadata(arch, args, tuple(shape), data, metrics)


def is_plain(value: Any, depth: int = 8) -> bool:
    """Whether it is made of what JSON knows, not nested too deep (a pickle may contain itself)."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and is_plain(v, depth - 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_plain(v, depth - 1) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def is_shape(shape: Sequence[Any]) -> bool:
    """Whether it can be the shape of one record: a few positive whole numbers of sensible size."""
    whole = all(type(n) is int and n > 0 for n in shape)
    return whole and 0 < len(shape) <= _MAX_DIMS and math.prod(shape) <= _MAX_ELEMENTS
