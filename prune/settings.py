"""Settings: ``prune.toml``, or the table ``[tool.prune]`` of ``pyproject.toml``, for commands that read them.

A file that is merely found in the working directory runs no code: a checkout of somebody else's must not
decide that. What would do so is accepted from a file that the user names with ``--config``, or as a flag.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph.errors import UsageError
from graph.suggest import suggestion
from prune.escaping import plain

OWN, SHARED = "prune.toml", "pyproject.toml"
SECTIONS = ("compress", "gate")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Settings:
    """One table of a file.

    Attributes:
        path: the file; None where there is none.
        values: by name, as TOML has them.
        named: the user named the file; it was not just found.
        allowed_by: words that allow what runs code, where it is another option than ``--config``.
    """

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    named: bool = False
    allowed_by: str = ""

    @property
    def folder(self) -> Path | None:
        """What paths in the file are relative to."""
        return None if self.path is None else self.path.parent


def read_settings(section: str, named: Path | None) -> Settings:
    """Read the table of a command.

    Args:
        section: one of ``SECTIONS``.
        named: the file; when left out, ``prune.toml`` of the working directory, else its ``pyproject.toml``,
            else nothing.

    Raises:
        UsageError: the file cannot be read, is no TOML, or has tables that no command knows; or it was named
            and has no such table.
    """
    if named is not None:
        values = _tables(named).get(section)
        if values is None:
            raise UsageError(f"{named} has no table [{_prefix(named)}{section}]", hint="add it")
        return Settings(named, values, named=True)
    for path in (Path(OWN), Path(SHARED)):
        if path.is_file():
            values = _tables(path).get(section)
            if values is not None:
                return Settings(path, values)
    return Settings()


def _prefix(path: Path) -> str:
    return "tool.prune." if path.name == SHARED else ""


def _tables(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The tables of a file by the names of commands."""
    try:
        if not path.is_file():
            raise UsageError(f"{path}: no such file", hint="check the path given to --config")
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is larger than {_LARGEST:,} bytes", hint="give the right file")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror}", hint="check the path") from err
    except (ValueError, RecursionError) as err:
        raise UsageError(f"{path} is not TOML: {plain(err)}", hint="correct it") from err
    if path.name == SHARED:
        tool = data.get("tool", {})
        data = tool.get("prune", {}) if isinstance(tool, dict) else {}
    for name, table in data.items() if isinstance(data, dict) else ():
        if name not in SECTIONS or not isinstance(table, dict):
            raise UsageError(
                f"{path}: unknown {'table' if isinstance(table, dict) else 'key'} "
                f"{_prefix(path)}{plain(name)}",
                hint=suggestion(name, [f"[{_prefix(path)}{s}]" for s in SECTIONS]),
            )
    return data if isinstance(data, dict) else {}
