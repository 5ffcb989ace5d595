"""Regular files: what can be read to its end, and has one."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from graph.errors import ModelFileError

_SMALL, _SPARSE_RATIO = 1 << 26, 20  # a disk that compresses gains less than this on weights


def regular_size(path: Path) -> int:
    """The size in bytes of a regular file; opening anything else may wait for ever.

    Raises:
        OSError: it is missing, or a folder.
        ModelFileError: it is a pipe or a device, or has far more bytes than the disk holds of it.
    """
    try:
        found = path.stat()
    except ValueError as err:  # a zero in the name
        raise OSError(errno.EINVAL, str(err), str(path)) from err
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise ModelFileError(f"{path} is no regular file", hint="name a file")
    if found.st_size > _SMALL and found.st_blocks * 512 * _SPARSE_RATIO < found.st_size:
        raise ModelFileError(
            f"{path} claims {found.st_size:,} bytes, of which the disk holds {found.st_blocks * 512:,}",
            hint="do not use this file",
        )
    return found.st_size
