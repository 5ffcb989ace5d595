"""The user's own text: ``text:PATH`` and ``tokens:FILE``, with the checkpoint's tokenizer if it has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graph.errors import DataError, first_line
from models_zoo.data import DataSet
from models_zoo.text import BYTES, byte_tokens, parted, text_data

TOKENIZER = "tokenizer.json"
_MAX_BYTES = 1 << 30  # a text is held in memory
_PARTS = (0.9, 0.95)  # where a single file is cut into train, search and test
_TOKENS = 1 << 20  # of a vocabulary, which is listed by name
_BINARY = 8192  # bytes that are looked at for a zero, which no text has


@dataclass(frozen=True)
class TextOptions:
    """How a text is cut.

    Attributes:
        length: tokens of a window.
        tokenizer: a ``tokenizer.json``; the text is taken as bytes without one.
    """

    length: int
    tokenizer: Path | None = None


def load_text(path: Path, options: TextOptions) -> DataSet:
    """Load a text file, cut in 90 / 5 / 5 %, or a folder of them, parted by file.

    Raises:
        DataError: nothing is there, it is no text, too much or too little; or the tokenizer is missing or
            broken.
    """
    name = f"text:{path}"
    if path.is_dir():
        files = {n: p for p in sorted(path.rglob("*")) if (n := _text_name(p, path)) is not None}
        if len(files) < 3:
            raise DataError(
                f"{name} holds {len(files)} text files", hint="give at least three, or a single file"
            )
        _check_size(name, sum(p.stat().st_size for p in files.values()))
        parts = [[files[n].read_bytes() for n in part] for part in parted(files)]
    elif path.is_file():
        _check_size(name, path.stat().st_size)
        whole = path.read_bytes()
        if b"\0" in whole[:_BINARY]:
            raise DataError(f"{name} is no text", hint="token numbers are given as tokens:FILE")
        cuts = [0, *(int(len(whole) * p) for p in _PARTS), len(whole)]
        parts = [[whole[a:b]] for a, b in zip(cuts, cuts[1:], strict=False)]
    else:
        raise DataError(f"{name}: no such file or folder", hint="check the path")
    if options.tokenizer is None:
        return text_data(name, [byte_tokens(p) for p in parts], length=options.length)
    return _tokenized(name, parts, options.tokenizer, options.length)


def _text_name(path: Path, root: Path) -> str | None:
    """The name of a text within a folder; None for what is hidden, no plain file, or binary."""
    name = path.relative_to(root)
    if any(part.startswith(".") for part in name.parts) or path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return None if b"\0" in file.read(_BINARY) else name.as_posix()


def _check_size(name: str, size: int) -> None:
    if size > _MAX_BYTES:
        raise DataError(
            f"{name} has {size / 1e9:.1f} GB, more than {_MAX_BYTES / 1e9:.1f} GB", hint="give a part of it"
        )


def _tokenized(name: str, parts: list[list[bytes]], path: Path, length: int) -> DataSet:
    tokenizer = _tokenizer(path)
    rows, rates = [], []
    for part in parts:
        texts = [document.decode("utf-8", errors="replace") for document in part]
        with _named(f"{path} cannot split the text"):
            found = tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = [token for each in found for token in each.ids]
        rows.append(torch.tensor(ids, dtype=torch.int32))
        rates.append(sum(len(d) for d in part) / max(1, len(ids)))
    names = tuple(map(str, range(tokenizer.get_vocab_size())))
    return text_data(name, rows, length=length, classes=names, unit="tokens", bytes_per_token=rates)


@contextmanager
def _named(told: str) -> Iterator[None]:
    """Name what tokenizers raises."""
    try:
        yield
    except BaseException as err:
        # A panic of the library, as of an expression that backtracks too often, is no Exception.
        broken = isinstance(err, Exception) or type(err).__name__ == "PanicException"
        if isinstance(err, MemoryError) or not broken:
            raise
        raise DataError(f"{told}: {first_line(err)}", hint="download it again") from err


def _tokenizer(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError as err:
        raise DataError(
            f"{path} needs the package tokenizers", hint="python -m pip install 'tokenizers>=0.22'"
        ) from err
    with _named(f"{path} is no tokenizer"):
        return tokenizers.Tokenizer.from_file(str(path))


def load_tokens(path: Path, options: TextOptions) -> DataSet:
    """Load token numbers: a ``.npy`` array (T,) of integers, or a ``.bin`` file of uint16, low byte first.

    Raises:
        DataError: the file is missing, of another kind, or holds no token numbers.
    """
    name = f"tokens:{path}"
    if path.suffix not in (".npy", ".bin"):
        raise DataError(
            f"{name} is neither .npy nor .bin",
            hint="numpy.save(FILE, ids), or ids.astype('<u2').tofile(FILE)",
        )
    if not path.is_file():
        raise DataError(f"{name}: no such file", hint="check the path")
    _check_size(name, path.stat().st_size)
    try:
        ids = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.fromfile(path, "<u2")
    except Exception as err:  # noqa: BLE001 - a header can ask numpy for any type and all memory
        raise DataError(f"{name} cannot be read: {first_line(err)}", hint="write it anew") from err
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise DataError(
            f"{name} holds {ids.dtype} of shape {ids.shape}, not a row of token numbers",
            hint="save the numbers of the tokens as integers, in one dimension",
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= _TOKENS:
        raise DataError(f"{name} holds the numbers {low} to {high}", hint="tokens are counted from 0")
    names = BYTES if high < len(BYTES) else tuple(map(str, range(high + 1)))
    return text_data(
        name,
        list(_cut(torch.from_numpy(ids.astype(np.int32)))),
        length=options.length,
        classes=names,
        unit="tokens",
        bytes_per_token=(None, None, None),
    )


def _cut(tokens: Tensor) -> Iterator[Tensor]:
    cuts = [0, *(int(len(tokens) * p) for p in _PARTS), len(tokens)]
    for begin, end in zip(cuts, cuts[1:], strict=False):
        yield tokens[begin:end]
