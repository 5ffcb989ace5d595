"""Files: written whole or not at all.

Whatever is written goes to a hidden folder ``.NAME.partial-PID`` first, is synced to the disk, and is then
renamed to where it belongs. A process that is killed leaves at most such a folder; the next one that writes
to the same place removes it. A lock on the folder, which ends with its process, tells the dead from the
living also where process numbers mean nothing: between containers that share a disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from graph.errors import ModelFileError, OutputError, first_line
from prune.regular import regular_size

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LARGEST_JSON = 16 << 20  # bytes; Python's objects take up to twelve times as much
_MOST_PARTS = 1 << 20  # objects and lists of a JSON file: an empty one takes 64 bytes


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write one file so that nobody ever sees half of it.

    Args:
        path: where the file is to be; an older one is replaced, missing folders are made.
        write: called with a temporary path of the same name in a folder of its own. Companions that it
            puts beside the file (external data of ONNX) come along.

    Raises:
        OutputError: the disk is full or the place cannot be written; nothing has changed then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        list(_others(path.parent, path.name))  # removes what dead processes left
        staging, lock = _stage(path.parent, path.name)
        try:
            write(staging / path.name)
            # Companions first: where the file is, they are.
            names = sorted(
                (p.relative_to(staging) for p in synced(staging)), key=lambda n: str(n) == path.name
            )
            for name in names:
                os.replace(staging / name, path.parent / name)
            sync(path.parent)
        finally:
            _drop(staging, lock)
    except OSError as err:
        raise refused(path, err) from err


def write_json(path: Path, data: Any) -> None:
    """Write JSON, indented by two, with keys in the order they were put in.

    Raises:
        OutputError: as ``write_file``.
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path, what: str, *, constants: bool = False) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        what: what it should be, for the message: ``plan``, ``report``.
        constants: accept ``Infinity`` and ``NaN``, which are no JSON, but which Python writes.

    Raises:
        ModelFileError: it is missing, unreadable, not JSON, or JSON but no object.
    """
    try:
        if (size := regular_size(path)) > LARGEST_JSON:
            raise ModelFileError(
                f"the {what} {path} has {size:,} bytes, more than {LARGEST_JSON:,}",
                hint="give the right file",
            )
        text = path.read_text(encoding="utf-8")
        if text.count("{") + text.count("[") > _MOST_PARTS:
            raise ModelFileError(
                f"the {what} {path} has more than {_MOST_PARTS:,} parts", hint="give the right file"
            )
        data = json.loads(text, parse_constant=float if constants else _no_constant)
    except OSError as err:
        raise ModelFileError(
            f"the {what} {path} cannot be read: {err.strerror}", hint="check the path"
        ) from err
    except (ValueError, RecursionError) as err:
        raise ModelFileError(
            f"the {what} {path} is not JSON: {first_line(err)}", hint="write it anew"
        ) from err
    if not isinstance(data, dict):
        raise ModelFileError(
            f"the {what} {path} holds a {type(data).__name__}, not an object", hint="give the right file"
        )
    return data


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        ModelFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise ModelFileError(f"{path} cannot be read: {err.strerror}", hint="check the path") from err


def check_output_file(path: Path, force: bool) -> None:
    """Check, before hours of work, that a file can be written; missing folders are made.

    Raises:
        OutputError: it exists and ``force`` is not given, it is no regular file, or its folder cannot be
            written.
    """
    if path.is_dir():
        raise OutputError(
            f"{path} is a folder, not a file", hint=f"name a file, such as {path / 'model.onnx'}"
        )
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file", hint="name another file")
    if path.exists() and not force:
        raise OutputError(f"{path} exists", hint="--force replaces it")
    check_folder(path.parent, path)


class OutputFolder:
    """A folder that appears with all its files, or not at all.

    ::

        with OutputFolder(Path("runs/one"), force=False) as out:
            write_json(out.staging / "report.json", report)

    The files go to ``staging``. If the block ends well they move into place: by one rename where the folder
    is new or empty, else one by one, leaving the user's other files alone. If it fails, ``staging`` is
    deleted and the folder stays as it was. The path is checked at construction, before hours of work.

    Args:
        path: the folder; missing parents are made.
        force: replace files in a folder that is not empty.

    Raises:
        OutputError: at construction: the path is a file, cannot be written, holds files and ``force`` is
            not given, or another run is writing to it. At the end: it cannot be put in place; the files are
            kept where the message says.
    """

    staging: Path

    def __init__(self, path: Path, force: bool) -> None:
        self.path = path
        self.force = force
        self._target = path.resolve()  # a link stays a link; the folder behind it is written
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file, not a folder", hint="name another folder")
        # A rename cannot replace a mount point (a container's volume), nor leave a parent that is locked.
        inside = self._target.is_dir() and (
            os.path.ismount(self._target) or not os.access(self._target.parent, os.W_OK | os.X_OK)
        )
        self._home = self._target if inside else self._target.parent
        check_folder(self._home, path)
        if self._target.is_dir():
            check_folder(self._target, path)
        try:
            live = list(_others(self._home, self._target.name))
            others = set(self._target.iterdir()) - set(live) if self._target.is_dir() else set()
        except OSError as err:
            raise refused(path, err) from err
        if live:
            raise OutputError(
                f"another run is writing to {path}", hint=f"if there is none, remove {live[0]} and try again"
            )
        if others and not force:
            raise OutputError(f"{path} is not empty", hint="--force replaces files of the same names")

    def __enter__(self) -> Self:
        try:
            self.staging, self._lock = _stage(self._home, self._target.name)
        except OSError as err:
            raise refused(self.path, err) from err
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._publish()
            except OSError as failure:
                os.close(self._lock)
                raise OutputError(
                    f"{self.path} cannot be put in place: {failure.strerror} ({failure.filename})",
                    hint=f"the finished files are in {self.staging}: move them before the next run",
                ) from failure
        _drop(self.staging, self._lock)

    def _publish(self) -> None:
        files = synced(self.staging)
        if self._home != self._target:
            try:
                os.replace(self.staging, self._target)
                return sync(self._home)
            except OSError as err:
                if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        self._merge([p.relative_to(self.staging) for p in files])

    def _merge(self, names: list[Path]) -> None:
        taken = [n for n in names if (self._target / n).exists()]
        if taken and not self.force:  # they came while the run was going on
            raise FileExistsError(errno.EEXIST, "File exists", str(self._target / taken[0]))
        for name in names:
            (self._target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.staging / name, self._target / name)
        for folder in {(self._target / n).parent for n in names}:
            sync(folder)


def _stage(home: Path, name: str) -> tuple[Path, int]:
    """A new staging folder in ``home`` and the descriptor that holds its lock."""
    staging = home / f".{name}.partial-{os.getpid()}"
    while True:
        staging.mkdir()
        with suppress(FileNotFoundError):
            lock = os.open(staging, os.O_RDONLY)
            with suppress(OSError):  # a disk without locks: the folder counts as alive then
                # Shared, as network disks grant no other to a folder; it keeps `_others` out.
                fcntl.flock(lock, fcntl.LOCK_SH)
            if staging.exists():  # else `_others` took it for dead before it was locked
                return staging, lock
            os.close(lock)


def _drop(staging: Path, lock: int) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    os.close(lock)


def _others(home: Path, name: str) -> Iterator[Path]:
    """The staging folders of runs that are alive; those of the dead are removed on the way."""
    prefix = f".{name}.partial-"
    for found in sorted(p for p in home.iterdir() if p.name.startswith(prefix) and p.is_dir()):
        try:
            lock = os.open(found, os.O_RDONLY)
        except FileNotFoundError:  # finished just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(found, ignore_errors=True)
        except OSError:
            yield found
        finally:
            os.close(lock)


def synced(folder: Path) -> list[Path]:
    """All files below a folder, each of them on the disk for good."""
    found = sorted(folder.rglob("*"))
    for path in [*found, folder]:
        sync(path)
    return [p for p in found if not p.is_dir()]


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk for good."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # whatever it is, it does not wait
    try:
        os.fsync(handle)
    except OSError as err:
        if err.errno != errno.EINVAL:  # some network disks cannot sync a folder
            raise
    finally:
        os.close(handle)


def check_folder(folder: Path, path: Path) -> None:
    """Make a folder and check, before hours of work, that ``path`` in it can be written.

    Raises:
        OutputError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # trying is surer than asking
    except OSError as err:
        raise refused(path, err) from err


def refused(path: Path, err: OSError) -> OutputError:
    """The named failure of a path that the system did not let us write."""
    reason = err.strerror or str(err)
    hint = "free some space" if err.errno in FULL else "choose a place that you may write to"
    return OutputError(f"{path} cannot be written: {reason}", hint=hint)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
