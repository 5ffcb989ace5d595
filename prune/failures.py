"""Failures of the machine that libraries tell in their own ways: no memory, no room, a dead process."""

from __future__ import annotations

from graph.errors import DataError, MemoryLimitError, OutputError, PruneError, first_line
from graph.shortage import is_out_of_memory
from prune.files import FULL


def named(err: BaseException) -> PruneError | None:
    """The named failure that an exception of a library stands for; None for what has no name."""
    if isinstance(err, PruneError):
        return err
    if is_out_of_memory(err):
        return MemoryLimitError(
            f"out of memory: {first_line(err)}",
            hint="give it more memory, or a smaller --batch-size, fewer --images or fewer --workers",
        )
    if isinstance(err, OSError) and err.errno in FULL:
        where = f": {err.filename}" if err.filename else ""
        return OutputError(f"{err.strerror}{where}", hint="free some space")
    if isinstance(err, RuntimeError) and "DataLoader worker" in str(err):
        return DataError(
            f"a worker of the data set's own loader died: {first_line(err)}",
            hint="mostly for want of memory, also in /dev/shm: fewer workers or smaller batches there",
        )
    return None
