"""The journal of a run: every answer that was dear to find, on the disk before it is used.

A run is deterministic by its seed, so that one that was cut short is run again with the same questions; those
in the journal are answered at once. A line holds a key, its JSON value and a checksum. The process may die at
any moment: a last line that is torn is cut off, and a damaged one is as good as none.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prune.files import refused, sync
from prune.regular import regular_size


class Journal:
    """Answers by key.

    Args:
        path: the file, made when missing; without one, answers are remembered in memory alone.

    Attributes:
        folder: of the file; for what is too large for a line.
        name: put before every key of a part; empty for the whole.
        dear: whether something was put in that took long to find.
        damaged: how many lines did not hold what was written.

    Raises:
        OutputError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.folder = None if path is None else path.parent
        self.name = ""
        self.dear = False
        self.damaged = 0
        self._path, self._handle = path, -1
        self._answers: dict[str, Any] = {}
        self.root = self
        if path is not None:
            try:
                if path.exists():
                    regular_size(path)
                self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                self._read(path.read_bytes())
                sync(path.parent)
            except OSError as err:
                raise refused(path, err) from err

    def part(self, name: str) -> Journal:
        """The same journal for one part of the run, whose keys are its own."""
        found = Journal()
        found.folder, found.root = self.folder, self.root
        found.name = f"{self.name}{name}/"
        return found

    def get(self, key: str) -> Any:
        """The answer; None where there is none."""
        return self.root._answers.get(self.name + key)

    def put(self, answers: Mapping[str, Any]) -> None:
        """Write answers, all of them with one sync; later ones of the same key count.

        Raises:
            OutputError: the disk is full or fails; what was there before stays.
        """
        self.root.dear = True
        self._put(answers)

    def recall(self, key: str, find: Callable[[], Any]) -> Any:
        """The answer to a question: the one in the journal, else the one that ``find`` gives, as JSON."""
        if self.name + key not in self.root._answers:
            self._put({key: find()})
        return self.get(key)

    def _put(self, answers: Mapping[str, Any]) -> None:
        named = {self.name + key: value for key, value in answers.items()}
        self.root._append("".join(_line(key, value) for key, value in named.items()).encode())
        self.root._answers.update(named)

    def close(self) -> None:
        """Close the file; answers can still be asked for."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def _read(self, data: bytes) -> None:
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # torn: the process died while it wrote
            os.ftruncate(self._handle, whole)
        for line in data[:whole].splitlines():
            try:
                key, value, checksum = json.loads(line)
                assert checksum == _checksum(key, value)
                self._answers[key] = value
            except (ValueError, TypeError, AssertionError, RecursionError):
                self.damaged += 1

    def _append(self, data: bytes) -> None:
        if self._path is None:
            return
        size = os.fstat(self._handle).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except OSError as err:
            with suppress(OSError):
                os.ftruncate(self._handle, size)
            raise refused(self._path, err) from err


def _line(key: str, value: Any) -> str:
    return json.dumps([key, value, _checksum(key, value)], separators=(",", ":")) + "\n"


def _checksum(key: str, value: Any) -> str:
    return f"{zlib.crc32(json.dumps([key, value], separators=(',', ':')).encode()):08x}"
