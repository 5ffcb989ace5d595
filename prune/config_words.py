"""Options of a file as words of the command line, which go before those that the user typed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph.errors import UsageError
from graph.suggest import suggestion
from prune.escaping import plain
from prune.settings import Settings

# One of these on the command line replaces the others of a file: they say the same thing in other ways.
_SAME = (frozenset({"flops", "macs", "pareto"}),)
_FLAGS_ONLY = ("config", "resume", "json", "help")
_OBJECTS = ("arch-args",)
# What runs no code of the working directory, by the name before the colon.
_HARMLESS = {
    "data": ("cifar10", "imagefolder", "maskfolder", "text", "tokens"),
    "arch": ("timm", "torchvision"),
    "MODEL": ("hf", "timm", "torchvision"),
}


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        is_flag: it takes no value.
        multiple: it may be given several times.
        negative: the forms that switch a flag off: ``--no-tune``.
    """

    is_flag: bool
    multiple: bool
    negative: tuple[str, ...] = ()


def named_file(args: Sequence[str], option: str = "--config") -> Path | None:
    """The file that an option names, the last one as usual."""
    found = None
    words = _before_end(args)
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            found = word.partition("=")[2]
        elif word == option and index + 1 < len(words):
            found = words[index + 1]
    return None if found is None else Path(found)


def config_words(settings: Settings, options: Mapping[str, Option], args: Sequence[str]) -> list[str]:
    """The words that a table of a file stands for.

    Args:
        settings: the table.
        options: of the command, by name, without dashes.
        args: what the user typed; lists given there replace those of the file, and so does whatever says
            the same in another way.

    Raises:
        UsageError: an unknown name, a value of the wrong kind, or one that would run code and is from a file
            that nobody named.
    """
    typed = {w.removeprefix("--").partition("=")[0] for w in _before_end(args) if w.startswith("--")}
    words = []
    for name, value in settings.values.items():
        where = f"{settings.path}: {plain(name)}"
        if name not in options or name in _FLAGS_ONLY:
            known = [n for n in options if n not in _FLAGS_ONLY]
            raise UsageError(f"{settings.path}: unknown option {plain(name)}", hint=suggestion(name, known))
        if name not in typed:
            _check_harmless(settings, name, value)
        option = options[name]
        replaced = any(name in group and group & typed - {name} for group in _SAME)
        if replaced or (option.multiple and name in typed):
            continue
        words += _words(where, name, value, option)
    return words


def _check_harmless(settings: Settings, name: str, value: Any) -> None:
    if name == "trust-code":
        raise UsageError(f"{settings.path}: trust-code is no option of a file", hint="give --trust-code")
    if settings.named:
        return
    if runs_code(name, value):
        allowed = settings.allowed_by or f"--config {settings.path}"
        raise UsageError(
            f"{settings.path}: {name} = {plain(value)} would run code, and nobody said that it may",
            hint=f"if you trust it: {allowed}, or --{name} {plain(value)}",
        )


def runs_code(name: str, value: Any) -> bool:
    """Whether an option, or the argument ``MODEL``, imports code or connects to other machines."""
    before, colon, _ = str(value).partition(":")
    return (name in _HARMLESS and bool(colon) and before not in _HARMLESS[name]) or (
        name == "workers" and before == "ray"
    )


def _words(where: str, name: str, value: Any, option: Option) -> list[str]:
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where} = {plain(value)}: must be true or false", hint=f"{name} = true")
        return [f"--{name}"] if value else list(option.negative[:1])
    if option.multiple:
        values = value if isinstance(value, list) else [value]
    elif isinstance(value, dict) and name in _OBJECTS:
        values = [json.dumps(value)]
    else:
        values = [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            kind = "a text or a number" if not option.multiple else "texts"
            raise UsageError(f"{where} = {plain(one)}: must be {kind}", hint="as on the command line")
    return [f"--{name}={one}" for one in values]


def _before_end(args: Sequence[str]) -> Sequence[str]:
    """The words before ``--``, behind which there are no options."""
    return args[: args.index("--")] if "--" in args else args
