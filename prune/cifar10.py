"""CIFAR-10 from its two published forms, binary and Python pickle, without running what a pickle asks for."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graph.errors import DataError
from models_zoo.data import Augment, DataSet, TensorSplit, carve_search
from prune.escaping import plain
from prune.opcodes import names_in

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_PIXELS = 3 * 32 * 32
_FULL = 10_000  # records of a whole batch
_MAX_BYTES = 64 << 20  # twice a whole batch
# ImageNet's statistics rather than CIFAR's own: the published CIFAR ResNets were trained with these.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_Reader = Callable[[Path], tuple[np.ndarray, np.ndarray]]


def load(path: Path, *, seed: int = 0) -> DataSet:
    """Read CIFAR-10 as (3, 32, 32) images in 10 classes.

    Args:
        path: `cifar-10-batches-bin` or `cifar-10-batches-py`, its parent, or any folder that holds the files.
            Batches may be shorter than 10,000 records; `notes` then says so.
        seed: chooses which training images become the search split. The test batch is never among them.

    Raises:
        DataError: no such folder, a batch is missing, or one is not what its name says.
        OSError: a file cannot be read.
    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    folder, suffix, read = _find(path)
    if missing := [name + suffix for name in _BATCHES if not (folder / (name + suffix)).is_file()]:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}", hint="unpack the whole CIFAR-10 archive there"
        )
    batches = {name: read(folder / (name + suffix)) for name in _BATCHES}
    short = [f"{name} has {len(y):,}" for name, (_, y) in batches.items() if len(y) < _FULL]
    test = batches.pop("test_batch")
    images, labels = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*batches.values(), strict=True)
    )
    train_idx, search_idx = carve_search(labels, seed)

    def split(x: Tensor, y: Tensor, augment: Augment | None = None) -> TensorSplit:
        return TensorSplit(x.view(-1, 3, 32, 32), y, mean=_MEAN, std=_STD, augment=augment)

    return DataSet(
        name="cifar10",
        train=split(images[train_idx], labels[train_idx], Augment(pad=4, flip=True)),
        search=split(images[search_idx], labels[search_idx]),
        test=split(torch.tensor(test[0]), torch.tensor(test[1])),
        classes=_CLASSES,
        input_shape=(3, 32, 32),
        notes=(f"cifar10 is not whole: of {_FULL:,} images {', '.join(short)}",) if short else (),
    )


def _find(path: Path) -> tuple[Path, str, _Reader]:
    """Return the folder that holds the batches, the ending of their names, and the reader for them."""
    for folder in (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"):
        for suffix, read in ((".bin", _read_binary), ("", _read_pickle)):
            if any((folder / (name + suffix)).is_file() for name in _BATCHES):
                return folder, suffix, read
    raise DataError(
        f"{path} holds no CIFAR-10 batches" if path.is_dir() else f"{path} is not a folder",
        hint="cifar10:PATH takes the folder with data_batch_1..5 and test_batch, with or without .bin",
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read records of one label byte and 3,072 pixel bytes: uint8 (n, 3072) and int64 (n,)."""
    raw = np.frombuffer(_bytes(path), np.uint8)
    if len(raw) == 0 or len(raw) % (1 + _PIXELS):
        raise DataError(
            f"{path}: {len(raw)} bytes are not whole records of {1 + _PIXELS}", hint="download it again"
        )
    records = raw.reshape(-1, 1 + _PIXELS)
    return records[:, 1:], _labels(records[:, 0], path)


def _read_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a pickled dict with `data` uint8 (n, 3072) and `labels`, a list of n ints."""
    raw = _bytes(path)
    try:
        names_in(io.BytesIO(raw))  # a pickle can keep its reader busy for ever
        batch = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except DataError as err:
        raise DataError(f"{path}: {err}", hint=err.hint) from err
    except Exception as err:  # broken pickles raise nearly every built-in exception
        raise DataError(f"{path} is not a readable pickle: {plain(err)}", hint="download it again") from err
    found = batch if isinstance(batch, dict) else {}
    data, labels = (found.get(name.encode(), found.get(name)) for name in ("data", "labels"))
    match data, labels:
        case _Array(value=np.ndarray(shape=(n, 3072)) as pixels), list() if n == len(labels) > 0:
            if all(type(label) is int and abs(label) < 1 << 31 for label in labels):
                return pixels, _labels(np.array(labels, np.int64), path)
    raise DataError(
        f"{path} is not a CIFAR-10 batch: needs `data` (n, 3072) and n `labels`", hint="download it again"
    )


def _bytes(path: Path) -> bytes:
    if (n_bytes := path.stat().st_size) > _MAX_BYTES:
        raise DataError(f"{path}: {n_bytes:,} bytes, more than a CIFAR-10 batch has", hint="check the path")
    return path.read_bytes()


def _labels(labels: np.ndarray, path: Path) -> np.ndarray:
    if bad := {int(label) for label in labels if not 0 <= label < len(_CLASSES)}:
        raise DataError(
            f"{path}: label {min(bad)} is not one of 0..9", hint="this is not CIFAR-10, or it is damaged"
        )
    return labels.astype(np.int64)


class _Dtype:
    """Stands in for `numpy.dtype`; only bytes are allowed."""

    def __init__(self, code: object, *_flags: object) -> None:
        if code not in ("u1", b"u1"):
            raise ValueError(f"pixels of type {code!r}")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which a byte has not."""


class _Array:
    """Stands in for an array that numpy's `_reconstruct` begins and the pickle's state completes."""

    def __init__(self, *_begun_empty: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[int, tuple[int, int], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, by_columns, raw = state
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without a type")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, with which Python 3 writes bytes into old pickle protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


# Not even numpy's own functions run: each name a CIFAR-10 pickle needs gets a stand-in that stores bytes.
_GLOBALS: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise DataError(
                f"the pickle asks for {plain(f'{module}.{name}')}, "
                "which no CIFAR-10 batch needs; nothing was run",
                hint="do not trust this file; download CIFAR-10 again",
            ) from None
