"""Shortage: whether an exception says that there is no memory left, in the words of whoever raised it."""

from __future__ import annotations

import re

from graph.errors import PruneError

_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|bad[_ ]alloc|failed to allocate memory", re.I)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an exception says that there is no memory left: Python's, torch's, CUDA's or onnxruntime's."""
    foreign = isinstance(err, Exception) and not isinstance(err, PruneError)
    return isinstance(err, MemoryError) or (foreign and _NO_MEMORY.search(str(err)) is not None)
