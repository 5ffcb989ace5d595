"""Resumption: what an unfinished run knows of its own command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from graph.errors import UsageError

_NOT_OF_THE_RUN = ("model", "output", "force", "resume", "config_file", "as_json", "workers")


def given_options(context: typer.Context) -> dict[str, Any]:
    """The options that do not have their defaults, by name: what a run is, for whoever resumes it."""
    from front.request import plain

    found = {}
    for param in context.command.params:
        value = context.params.get(str(param.name))
        if param.name not in _NOT_OF_THE_RUN and value not in (None, [], ()) and value != param.default:
            name = next(o for o in param.opts if o.startswith("--")).removeprefix("--")
            found[name] = plain(value)
    return found


def stored_options(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where an unfinished run keeps its options, and those that words stand for."""
    from prune.unfinished import HOME, PYTHON, RUN_FILE, Unfinished

    found = Unfinished.read(folder)
    # To run code of a file is allowed anew each time: a folder may come from anywhere.
    left_out = ("MODEL", "trust-code")
    options = {} if found is None or PYTHON in found.options else found.options
    return folder / HOME / RUN_FILE, {n: v for n, v in options.items() if n not in left_out}


def unfinished_run(folder: Path, model: str | None, trust_code: bool) -> tuple[str | None, Path]:
    """The model that an unfinished run names, and its folder under the name that its report has.

    Raises:
        UsageError: the model would run code that nobody has allowed, or the run was started in Python.
    """
    from prune.config_words import runs_code
    from prune.pipeline import resuming
    from prune.unfinished import PYTHON, Unfinished

    found = Unfinished.read(folder)
    if found is None:
        return model, folder
    if PYTHON in found.options:
        how = resuming(folder, found.options, trust_code=trust_code)
        raise UsageError(f"the run in {folder} was started in Python", hint=f"go on with it there: {how}")
    named = Path(found.output) if Path(found.output).resolve() == folder.resolve() else folder
    stored = found.options.get("MODEL")
    if model is not None or not isinstance(stored, str):
        return model, named
    if runs_code("MODEL", stored) and not os.path.exists(stored) and not trust_code:
        raise UsageError(
            f"the run in {folder} is of {stored}, which would run code",
            hint="if you trust it: --trust-code, or name the model: prune compress MODEL --resume DIR",
        )
    return stored, named
