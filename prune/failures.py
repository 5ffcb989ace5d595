"""Failures of the machine that libraries tell in their own ways: no memory, no room, a dead process."""

from __future__ import annotations

import re

from graph.errors import DataError, MemoryLimitError, OutputError, PruneError
from prune.files import FULL

_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|bad[_ ]alloc|failed to allocate memory", re.I)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an exception says that there is no memory left: Python's, torch's, CUDA's or onnxruntime's."""
    foreign = isinstance(err, Exception) and not isinstance(err, PruneError)
    return isinstance(err, MemoryError) or (foreign and _NO_MEMORY.search(str(err)) is not None)


def named(err: BaseException) -> PruneError | None:
    """The named failure that an exception of a library stands for; None for what has no name."""
    if isinstance(err, PruneError):
        return err
    if is_out_of_memory(err):
        return MemoryLimitError(
            f"out of memory: {_first_line(err)}",
            hint="give it more memory, or a smaller --batch-size, fewer --images or fewer --workers",
        )
    if isinstance(err, OSError) and err.errno in FULL:
        where = f": {err.filename}" if err.filename else ""
        return OutputError(f"{err.strerror}{where}", hint="free some space")
    if isinstance(err, RuntimeError) and "DataLoader worker" in str(err):
        return DataError(
            f"a worker of the data set's own loader died: {_first_line(err)}",
            hint="mostly for want of memory, also in /dev/shm: fewer workers or smaller batches there",
        )
    return None


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
