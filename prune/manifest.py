"""Manifests: size and SHA-256 of every file of a run, so that whatever has changed since is found.

A manifest tells damage, not malice: whoever changes a file on purpose can change ``manifest.json`` as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from graph.errors import ManifestError, ModelFileError
from prune.escaping import plain
from prune.files import read_json, sha256, write_file
from prune.regular import regular_size

MANIFEST_FILE = "manifest.json"
_FORMAT, _VERSION = "prune-manifest", 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEVELS = 2  # a point's file is listed by the point's folder and by the curve's

Files = dict[str, dict[str, Any]]  # by path within the folder: size in bytes, and sha256 in hexadecimal


def write_manifest(folder: Path) -> None:
    """List every file below a folder; the last thing that is written to it.

    Raises:
        OutputError: it cannot be written.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    _write(
        folder, {p.relative_to(folder).as_posix(): _entry(p) for p in files if p != folder / MANIFEST_FILE}
    )


def check_folder(folder: Path) -> bool:
    """Compare every listed file of a folder with the manifest.

    Returns:
        Whether there is a manifest; without one there is nothing to compare with.

    Raises:
        ManifestError: the manifest is malformed, or a file is missing or has changed.
    """
    if not (folder / MANIFEST_FILE).exists():
        return False
    _compare(folder, _read(folder))
    return True


def check_file(path: Path) -> None:
    """Compare one file with the manifest beside it, if there is one that lists it.

    Raises:
        ManifestError: the manifest is malformed, or the file has changed.
    """
    if (path.parent / MANIFEST_FILE).exists():
        _compare(path.parent, {name: f for name, f in _read(path.parent).items() if name == path.name})


def renew(path: Path) -> None:
    """Tell the manifests that list a file that it was replaced on purpose.

    Raises:
        OutputError: a manifest cannot be written.
        ManifestError: a manifest is malformed.
    """
    for folder in path.parents[:_LEVELS]:
        manifest = folder / MANIFEST_FILE
        if manifest == path or not manifest.exists():
            continue
        files, name = _read(folder), path.relative_to(folder).as_posix()
        if name in files:
            _write(folder, {**files, name: _entry(path)})
            renew(manifest)


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def _text(files: Files) -> str:
    return json.dumps({"format": _FORMAT, "version": _VERSION, "files": files}, indent=2) + "\n"


def _write(folder: Path, files: Files) -> None:
    write_file(folder / MANIFEST_FILE, lambda path: path.write_text(_text(files), encoding="utf-8"))


def _read(folder: Path) -> Files:
    """The entries of a manifest that is, byte for byte, one that we would write."""
    path = folder / MANIFEST_FILE
    try:
        found = read_json(path, "manifest")
        files = found.get("files")
        whole = isinstance(files, dict) and all(_is_entry(n, e) for n, e in files.items())
        if whole and isinstance(files, dict) and path.read_bytes() == _text(files).encode():
            return files
        reason = f"it is not one of version {_VERSION} that prune wrote"
    except ModelFileError as err:
        reason = str(err)
    raise ManifestError(
        f"the manifest {plain(path)} is damaged: {plain(reason)}",
        hint="copy the folder again; without the manifest, nothing tells what has changed",
    )


def _is_entry(name: str, entry: Any) -> bool:
    path = PurePosixPath(name)
    return (
        path.parts != ()
        and not path.is_absolute()
        and ".." not in path.parts
        and "\0" not in name
        and isinstance(entry, dict)
        and list(entry) == ["size", "sha256"]
        and type(entry["size"]) is int
        and isinstance(entry["sha256"], str)
        and _DIGEST.fullmatch(entry["sha256"]) is not None
    )


def _compare(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    complaints = [c for name, entry in files.items() if (c := _complaint(folder / name, name, entry))]
    if complaints:
        more = f", and {len(complaints) - 1} more" if len(complaints) > 1 else ""
        raise ManifestError(
            f"{plain(folder)} is not as it was written: {complaints[0]}{more}",
            hint=f"copy the folder again; if you changed it yourself, remove its {MANIFEST_FILE}",
        )


def _complaint(path: Path, name: str, entry: Mapping[str, Any]) -> str:
    """What is wrong with a file; empty if it is as it was written."""
    told = plain(name)
    try:
        if not path.exists():
            return f"{told} is missing"
        size = regular_size(path)
        if size != entry["size"]:
            return f"{told} has {size:,} bytes in place of {entry['size']:,}"
        return "" if sha256(path) == entry["sha256"] else f"{told} has changed"
    except OSError as err:
        return f"{told} cannot be read: {err.strerror}"
    except ModelFileError as err:
        return plain(err)
