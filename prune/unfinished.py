"""Unfinished runs: what one says of itself, and whether what is asked for now can go on with it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graph.errors import ModelFileError, ResumeError
from prune import __version__
from prune.files import read_json

HOME = ".unfinished"  # in the folder of the results
RUN_FILE = "run.json"
PYTHON = "python"  # among the options of a run that was not started by the command line
_FORMAT, _VERSION = "prune-run", 1
_PACKAGES = ("torch", "numpy", "stable-baselines3", "torch-geometric", "onnxruntime")


@dataclass(frozen=True)
class Unfinished:
    """What an unfinished run says of itself.

    Attributes:
        options: what it was told, by name.
        output: the folder, as it was named.
        force: it may replace files.
        versions: of the packages that its results depend on.
        folder: where it was started; names of files are relative to it.
        threads: of torch, since sums depend on their number.
    """

    options: Mapping[str, Any]
    output: str
    force: bool
    versions: Mapping[str, str]
    folder: str
    threads: int

    @staticmethod
    def read(path: Path) -> Unfinished | None:
        """The unfinished run of a folder; None where there is none.

        Raises:
            ResumeError: it is damaged.
        """
        file = path / HOME / RUN_FILE
        if not file.exists():
            return None
        try:
            data = read_json(file, "unfinished run")
            if (data["format"], data["version"]) != (_FORMAT, _VERSION):
                raise ValueError("of another format")
            return Unfinished(
                dict(data["options"]), str(data["output"]), bool(data["force"]), dict(data["versions"]),
                str(data["folder"]), int(data["threads"]),
            )  # fmt: skip
        except (ModelFileError, KeyError, TypeError, ValueError) as err:
            raise ResumeError(
                f"{file} is damaged: {err}", hint="it cannot be resumed; --force starts over"
            ) from err

    @staticmethod
    def new(options: Mapping[str, Any], output: str, force: bool) -> Unfinished:
        """A run that starts here and now."""
        versions = {"prune": __version__} | {name: _version(name) for name in _PACKAGES}
        return Unfinished(options, output, force, versions, os.getcwd(), torch.get_num_threads())

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"format": _FORMAT, "version": _VERSION, **vars(self)}

    def check(self, now: Unfinished, late: tuple[str, ...], path: Path) -> None:
        """Whether what is asked for now can go on with this run.

        Args:
            now: as a run would start now.
            late: options that may be others, since they count only for what is not yet done.
            path: of the folder, for the message.

        Raises:
            ResumeError: the version of a package differs, which is told first since options may go with it,
                or an option does.
        """
        for name, version in self.versions.items():
            if now.versions.get(name) != version:
                raise ResumeError(
                    f"the run in {path} was started by {name} {version}, this is {now.versions.get(name)}",
                    hint="go on with that version; --force starts over",
                )
        for name in dict.fromkeys((*self.options, *now.options)):
            before, wanted = self.options.get(name), now.options.get(name)
            if before != wanted and name not in late:
                raise ResumeError(
                    f"the run in {path} was started {_told(name, before)}, not {_told(name, wanted)}",
                    hint="resume it as it was started; --force starts over, and so does another folder",
                )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # under another name, such as onnxruntime-gpu
        return "unknown"


def _told(name: str, value: Any) -> str:
    option = name if name.isupper() else f"--{name}"  # MODEL is an argument
    if value is False:
        return f"with --no-{name}"
    return f"without {option}" if value is None else f"with {option}" + ("" if value is True else f" {value}")


def is_unfinished(path: Path) -> bool:
    """Whether a folder holds a run that can be resumed."""
    return (path / HOME / RUN_FILE).exists()
