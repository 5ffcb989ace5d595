"""Pickles of torch's files: what they would import is known before anything reads them."""

from __future__ import annotations

import io
import mmap
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from graph.errors import ModelFileError, UntrustedCodeError
from prune.escaping import plain
from prune.opcodes import PickleError, names_in

_LEGACY_PICKLES = 5  # magic number, version, sizes of types, the content, the names of the storages
# What the pickle of a state dict imports; torch lets pass more, which can be led astray.
_PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|_codecs\.encode|torch\.(Size|device|serialization"
    r"\._get_layout|nn\.parameter\.Parameter|(storage\.)?(cuda\.)?\w+Storage|(b?float|u?int|complex|bits|qu?int)[0-9]\w*|bool|_utils\._rebuild_"
    r"(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|meta_tensor_no_storage))"
)
_TENSORS = re.compile(
    r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_\w+|(cuda\.)?(sparse\.)?\w*Tensor|per_\w+|q\w+)|builtins\.bytearray"
)
_NAMES = 20  # that are told of a pickle


def check_pickles(path: Path) -> None:
    """Look through the pickles of a file of ``torch.save`` for what weights do not need.

    Raises:
        UntrustedCodeError: one would import or call something; all of it is named.
        ModelFileError: one is broken, holds tensors of another kind, or would keep its reader busy for ever.
    """
    names: set[str] = set()
    try:
        for file, pickles in _pickles(path):
            for _ in range(pickles):
                names |= names_in(file)
    except PickleError as err:
        raise ModelFileError(
            f"{path} cannot be read by torch.load: its pickle is broken or hostile: {plain(err)}",
            hint="copy it again, or save model.state_dict() anew",
        ) from err
    odd = sorted(n for n in names if not _PLAIN.fullmatch(n))
    told = ", ".join(plain(n) for n in odd[:_NAMES]) + f" and {len(odd) - _NAMES} more" * (len(odd) > _NAMES)
    if any(not _TENSORS.fullmatch(n) for n in odd):
        raise UntrustedCodeError(
            f"{path} would run code when loaded: it is a pickle that calls {told}",
            hint="save model.state_dict() and give --arch; or, if you trust the file, --trust-code",
        )
    if odd:
        raise ModelFileError(
            f"{path} holds tensors that are not plain ones (sparse, nested or quantized): {told}",
            hint="save ordinary weights",
        )


def _pickles(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """The pickles of a file, and how many follow each other."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # how torch tells
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".pkl"):
                    yield io.BytesIO(archive.read(member)), 1
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            yield cast(IO[bytes], whole), _LEGACY_PICKLES
