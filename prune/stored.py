"""Stored results: the report of a run or the folder of a curve, which anybody may have written.

What is absent or null is None and shown as missing; NaN and infinity, which are no JSON but which other
programs write, stay what they are. Anything of the wrong type is an error with the place where it stands.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph.errors import ModelFileError
from prune.escaping import plain
from prune.files import read_json
from prune.manifest import check_file, check_folder
from prune.report import REPORT_FILE, SCHEMA, size

CURVE_FILE = "pareto.json"
LARGEST_FILE = 16 << 20  # bytes; a run with a thousand plans has less than a tenth
_LARGEST_NUMBER = 10**18
_MOST_POINTS = 100


@dataclass(frozen=True)
class Part:
    """A JSON object within a file.

    Attributes:
        file: its name, for messages.
        data: the object.
        where: the path of keys to it.
    """

    file: str
    data: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    def number(self, name: str) -> float | None:
        """A number; whole ones stay whole.

        Raises:
            ModelFileError: there is something else, or a whole number beyond 10^18.
        """
        value = self._of(name, (int, float), "number")
        if isinstance(value, bool) or (isinstance(value, int) and abs(value) > _LARGEST_NUMBER):
            raise self._malformed(name, "no number that can be", value)
        found: float | None = value
        return found

    def text(self, name: str) -> str | None:
        """A text.

        Raises:
            ModelFileError: there is something else.
        """
        found: str | None = self._of(name, (str,), "text")
        return found

    def flag(self, name: str) -> bool | None:
        """True or false.

        Raises:
            ModelFileError: there is something else.
        """
        found: bool | None = self._of(name, (bool,), "true or false")
        return found

    def part(self, name: str) -> Part:
        """An object; empty where there is none.

        Raises:
            ModelFileError: there is something else.
        """
        return Part(self.file, self._of(name, (dict,), "object") or {}, self._path(name))

    def parts(self, name: str) -> list[Part]:
        """The objects of a list.

        Raises:
            ModelFileError: there is something else.
        """
        found = self._of(name, (list,), "list") or []
        inner = {f"{name}[{i}]": value for i, value in enumerate(found)}
        return [Part(self.file, inner, self.where).part(key) for key in inner]

    def texts(self, name: str) -> list[str]:
        """The texts of a list.

        Raises:
            ModelFileError: there is something else.
        """
        found = self._of(name, (list,), "list") or []
        inner = Part(self.file, {f"{name}[{i}]": value for i, value in enumerate(found)}, self.where)
        return [inner.text(key) or "" for key in inner.data]

    def pair(self, name: str) -> tuple[int, int] | None:
        """Two counts: what is kept, and of how many.

        Raises:
            ModelFileError: there is something else.
        """
        found = self._of(name, (list,), "list")
        if found is None:
            return None
        if len(found) != 2 or not all(type(n) is int and 0 <= n <= _LARGEST_NUMBER for n in found):
            raise self._malformed(name, "no pair of counts", found)
        return found[0], found[1]

    def told(self, name: str) -> str | None:
        """Whatever there is, as JSON; a text as it is."""
        value = self.data.get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value)

    def _of(self, name: str, kinds: tuple[type, ...], told: str) -> Any:
        value = self.data.get(name)
        if value is not None and not isinstance(value, kinds):
            raise self._malformed(name, f"no {told}", value)
        return value

    def _path(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def _malformed(self, name: str, what: str, value: Any) -> ModelFileError:
        where, is_this = plain(self._path(name)), plain(repr(value)[:300])
        return ModelFileError(
            f"{plain(self.file)} is malformed: {where} is {is_this}, {what}", hint="write it anew"
        )


@dataclass(frozen=True)
class Stored:
    """What is shown: one run, or the points of a curve.

    Attributes:
        run: the report of the one run; of a curve that of its first point that has one, else empty.
        curve: the points of a curve, the original first; empty for one run.
        runs: for each point by name its report, where there is one.
        command: of the whole curve.
    """

    run: Part
    curve: tuple[Part, ...] = ()
    runs: Mapping[str, Part] = field(default_factory=dict)
    command: tuple[str, ...] = ()


def read_stored(path: Path) -> Stored:
    """Read ``report.json``, ``pareto.json`` or the folder of either.

    Raises:
        ModelFileError: missing, too large, not JSON, of another kind or another schema, or malformed.
    """
    if os.path.isdir(path):  # not Path's own: it fails for names that are too long
        check_folder(path)
        path = path / (CURVE_FILE if (path / CURVE_FILE).exists() else REPORT_FILE)
    found = _object(path)
    check_file(path)
    if found.data.get("format") == "prune-pareto":
        return _curve(path, found)
    return Stored(checked(found))


def of_report(data: Mapping[str, Any]) -> Stored:
    """The same of a report that was just made."""
    return Stored(Part(REPORT_FILE, data))


def _curve(path: Path, found: Part) -> Stored:
    if found.data.get("schema") != 1:
        raise _other_schema(found, 1)
    points = found.parts("points")
    if not 2 <= len(points) <= _MOST_POINTS:
        raise ModelFileError(f"{plain(path)} has {len(points)} points", hint="write it anew")
    runs = {}
    for point in points[1:]:
        name = point.text("name") or ""
        # A name becomes the path of a folder: one step down, never elsewhere.
        if name in ("", ".", "..") or not name.replace(".", "").isalnum():
            raise ModelFileError(
                f"{plain(path)} is malformed: a point is called {plain(repr(name))}", hint="write it anew"
            )
        file = path.parent / name / REPORT_FILE
        if os.path.isfile(file):
            runs[name] = checked(_object(file))
    first = next(iter(runs.values()), Part(str(path)))
    return Stored(first, tuple(points), runs, tuple(found.texts("command")))


def _object(path: Path) -> Part:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelFileError(f"{plain(path)} is no regular file", hint="name the report.json of a run")
        if found.st_size > LARGEST_FILE:
            raise ModelFileError(
                f"{plain(path)} has more than {size(LARGEST_FILE)}", hint="do not use this file"
            )
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise ModelFileError(f"{plain(path)} cannot be read: {reason}", hint="check the path") from err
    return Part(str(path), read_json(path, "report", constants=True))


def checked(found: Part) -> Part:
    """A report, once it is known to be one that can be read.

    Raises:
        ModelFileError: it is of another kind, or of another schema.
    """
    if found.data.get("format") != "prune-report":
        raise ModelFileError(
            f"{plain(found.file)} is JSON, but no report", hint="give the report.json of a run"
        )
    if found.data.get("schema") != SCHEMA:
        raise _other_schema(found, SCHEMA)
    return found


def _other_schema(found: Part, known: int) -> ModelFileError:
    return ModelFileError(
        f"{plain(found.file)} is of schema {plain(found.data.get('schema'))}, only {known} is known",
        hint="write it anew with this version of prune",
    )
