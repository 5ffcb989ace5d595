"""Locks: one process at a time, and a dead one holds nothing.

The lock is one of the kernel on an open file, so that it ends with its process, however that ends. Disks that
have no such locks are told apart by the process number in the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path

from graph.errors import OutputError
from prune.files import refused

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class Lock:
    """Held from construction until ``close``, or until the process ends.

    Args:
        path: the file of the lock; it holds the number of the process.
        subject: what is locked, for the message.

    Raises:
        OutputError: another process holds it, or the file cannot be written.
    """

    def __init__(self, path: Path, subject: Path) -> None:
        try:
            self._handle = _locked(path, subject)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps(_me()).encode(), 0)
        except OSError as err:
            raise refused(path, err) from err

    def close(self) -> None:
        """Let others have it."""
        os.close(self._handle)


def _locked(path: Path, subject: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = False
        except OSError as err:
            taken = err.errno not in _NO_LOCKS or _lives(path)
        if taken:
            holder = _holder(path)
            os.close(handle)
            process = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
            raise OutputError(
                f"another run, {process}, is writing to {subject}",
                hint="wait for it, end it, or name another folder",
            )
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # its holder removed it at the end, just before we had it


def _me() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": _since(os.getpid())}


def _holder(path: Path) -> dict[str, str | int] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"pid": int(found["pid"]), "host": str(found["host"]), "since": str(found["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lives(path: Path) -> bool:
    """Whether the process that is named in the file still runs; of another machine's that is not known."""
    holder = _holder(path)
    if holder is None or holder["pid"] == os.getpid():
        return False
    return holder["host"] != socket.gethostname() or (
        bool(holder["since"]) and holder["since"] == _since(int(holder["pid"]))
    )


def _since(pid: int) -> str:
    """When a process began, so that its number given to another one does not deceive; empty for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
