"""`pystdlib`: the source text of Python's own standard library, which is on every machine, as bytes."""

from __future__ import annotations

import os
import platform
import sysconfig
from pathlib import Path

from graph.errors import DataError
from models_zoo.data import DataSet
from models_zoo.text import LENGTH, byte_tokens, parted, text_data

_LIMITS = (3_000_000, 100_000, 200_000)  # bytes of train, search and test
# What is installed into it, built for the machine, or test material full of tables.
_SKIPPED = {"site-packages", "dist-packages", "lib-dynload", "test", "tests", "idle_test", "__pycache__"}


def load(*, seed: int = 0, length: int = LENGTH, root: Path | None = None) -> DataSet:
    """Return the text in windows: up to 3 MB to train, 100 kB to search, 200 kB to test, parted by file.

    Args:
        seed: not used: which file goes where follows from its name.
        length: bytes of a window.
        root: folder of the library; that of the running Python when left out.

    Raises:
        DataError: the library is not there as source text, or too small.
    """
    del seed
    folder = root or Path(sysconfig.get_paths()["stdlib"])
    names = []
    for path, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f not in _SKIPPED]
        names += [(Path(path) / f).relative_to(folder).as_posix() for f in files if f.endswith(".py")]
    if len(names) < 3:
        raise DataError(
            f"pystdlib: {len(names)} source files in Python's standard library",
            hint="this Python comes without its sources; give text:PATH",
        )
    parts = [
        byte_tokens(((folder / n).read_bytes() for n in part), limit)
        for part, limit in zip(parted(names), _LIMITS, strict=True)
    ]
    size = sum(map(len, parts)) / 1e6
    note = f"text of the standard library of Python {platform.python_version()}: {size:.1f} MB"
    return text_data("pystdlib", parts, length=length, notes=(note,))
