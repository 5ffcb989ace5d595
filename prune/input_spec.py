"""Input specifications: a file that names every input of a model, or holds an example of each.

In JSON and TOML each input is a table under its name::

    {"input_ids": {"shape": [1, 128], "dtype": "int64", "high": 30522},
     "attention_mask": {"shape": [1, 128], "dtype": "int64", "low": 1, "high": 2}}

The first size is the batch. ``.safetensors`` and ``.npz`` files hold real values instead.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from graph.errors import ModelFileError, UsageError, first_line
from prune.archives import check_zip
from prune.checkpoint import check_readable
from prune.inputs import BATCH, DTYPES, ModelInput, ModelInputs
from prune.metadata import is_shape

_KEYS = ("shape", "dtype", "low", "high")
_EXAMPLE = 'such as {"input_ids": {"shape": [1, 128], "dtype": "int64", "high": 30522}}'
_MAX_BYTES = 1 << 20


def read_input_spec(path: Path) -> ModelInputs:
    """Read a specification: ``.json``, ``.toml``, ``.safetensors`` or ``.npz``.

    Raises:
        UsageError: the file is missing, of another kind, or malformed; names the input at fault.
    """
    if not path.is_file():
        raise UsageError(
            f"--input-spec {path}: no such file", hint="name a .json, .toml, .safetensors or .npz file"
        )
    if path.suffix in (".json", ".toml"):
        items = _described(path)
    elif path.suffix in (".safetensors", ".npz"):
        items = _examples(path)
    else:
        raise UsageError(
            f"--input-spec {path}: unknown kind of file",
            hint="name a .json, .toml, .safetensors or .npz file",
        )
    if not items:
        raise UsageError(f"--input-spec {path}: it names no input", hint=_EXAMPLE)
    if len(batches := {i.shape[0] for i in items}) > 1:
        raise UsageError(
            f"--input-spec {path}: the inputs have different batches: {', '.join(map(str, sorted(batches)))}",
            hint="the first size of every shape is the batch, the same for all",
        )
    return ModelInputs(tuple(_batched(i) for i in items), named=True)


def _batched(item: ModelInput) -> ModelInput:
    """The input with the batch that examples have."""
    value = item.value
    if value is not None:
        value = value[:BATCH] if len(value) >= BATCH else torch.cat([value] * BATCH)[:BATCH]
    return ModelInput(item.name, (BATCH, *item.record), item.dtype, item.low, item.high, value)


def _described(path: Path) -> list[ModelInput]:
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise UsageError(f"--input-spec {path}: {size:,} bytes are too many", hint=_EXAMPLE)
        blob = path.read_bytes()
        text = blob.decode("utf-8")
        found: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as err:
        kind = path.suffix[1:].upper()
        raise UsageError(f"--input-spec {path}: not {kind}: {first_line(err)}", hint=_EXAMPLE) from err
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise UsageError(f"--input-spec {path}: it must hold a table for each input", hint=_EXAMPLE)
    return [_one(path, name, entry) for name, entry in found.items()]


def _one(path: Path, name: str, entry: Mapping[str, Any]) -> ModelInput:
    def wrong(what: str, hint: str = _EXAMPLE) -> UsageError:
        return UsageError(f"--input-spec {path}: input {name!r}: {what}", hint=hint)

    for key in entry:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, 1)
            raise wrong(f"unknown key {key!r}", f"did you mean {near[0]!r}?" if near else _EXAMPLE)
    shape, dtype = entry.get("shape"), entry.get("dtype", "float32")
    if not isinstance(shape, list) or not is_shape(shape):
        raise wrong(f"{shape!r} is not a shape" if "shape" in entry else "the shape is missing")
    if dtype not in DTYPES:
        told = "models are loaded in float32" if str(dtype).startswith(("float", "bfloat")) else "unknown"
        raise wrong(f"dtype {dtype!r}: {told}", "one of " + ", ".join(DTYPES))
    low, high = entry.get("low"), entry.get("high")
    for key, value in (("low", low), ("high", high)):
        if value is not None and (type(value) is not int or abs(value) > 1 << 40):
            raise wrong(f"{key} is not a whole number")
        if value is not None and dtype in ("float32", "bool"):
            raise wrong(f"{key} is for integers, not for {dtype}")
    if high is not None and high <= (low or 0):
        raise wrong(f"high must be more than low: {high} <= {low or 0}", "high is one more than the greatest")
    return ModelInput(name, tuple(shape), dtype, low, high)


def _examples(path: Path) -> list[ModelInput]:
    try:
        size = check_readable(path)
        if path.suffix == ".npz":
            check_zip(path, size)
            with np.load(path, allow_pickle=False) as archive:
                found = {name: torch.from_numpy(archive[name]) for name in archive.files}
        else:
            found = load_file(path)
    except ModelFileError as err:
        raise UsageError(f"--input-spec {err}", hint=err.hint) from err
    except Exception as err:  # noqa: BLE001 - a broken file's errors have no common base
        raise UsageError(
            f"--input-spec {path}: it cannot be read: {first_line(err)}",
            hint="save plain arrays, one for each input",
        ) from err
    return [_example(path, name, value) for name, value in found.items()]


def _example(path: Path, name: str, value: Tensor) -> ModelInput:
    if not value.dim() or not value.numel():
        raise UsageError(
            f"--input-spec {path}: {name!r} has shape {tuple(value.shape)}",
            hint="the first dimension is the batch, with at least one record",
        )
    if value.is_floating_point():
        value = value.float()
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UsageError(f"--input-spec {path}: {name!r} is of {dtype}", hint="one of " + ", ".join(DTYPES))
    if value.is_floating_point() or value.dtype is torch.bool:
        return ModelInput(name, tuple(value.shape), dtype, value=value)
    low, high = int(value.min()), int(value.max()) + 1
    return ModelInput(name, tuple(value.shape), dtype, low, high, value)
