"""The grammar: how words of the command line become options, besides typer's own ways."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from front.commands.failures import clear_failures
from front.commands.resumption import stored_options
from front.commands.terminal import console, stderr


class Anywhere(TyperGroup):
    """Takes the options of every command before its name or behind it, and tells how commands fail."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put these options before the name."""
        end = args.index("--") if "--" in args else len(args)
        common = {"-v", "--verbose", "-q", "--quiet", "--debug"}
        first = [a for a in args[:end] if a in common]
        return super().parse_args(ctx, [*first, *(a for a in args[:end] if a not in common), *args[end:]])

    def invoke(self, ctx: Any) -> Any:
        """Run a command; its failures are told here, whichever it is."""
        with clear_failures():
            return super().invoke(ctx)


class ModelByDefault(TyperGroup):
    """``prune profile MODEL`` is ``prune profile model MODEL``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command where no other is."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["model", *args]
        return super().parse_args(ctx, args)


class Configured(TyperCommand):
    """Reads options from a file, too; those of the command line win."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the words of the file before those of the user, which win."""
        if not ctx.resilient_parsing and "--help" not in args:
            found, words = _file_words(str(self.name), self.params, args)
            try:
                return super().parse_args(ctx, [*words, *args])
            except typer.BadParameter as err:
                if words:
                    err.message += f" ({found} has options, too)"
                raise
        return super().parse_args(ctx, args)


def _file_words(section: str, params: list[Any], args: list[str]) -> tuple[Path | None, list[str]]:
    """A file, and the words of the command line that it stands for."""
    from prune.config_words import Option, config_words, named_file
    from prune.settings import Settings, read_settings

    options = {
        name.removeprefix("--"): Option(p.is_flag, p.multiple, tuple(p.secondary_opts))
        for p in params
        for name in p.opts
        if name.startswith("--")
    }
    folder = named_file(args, "--resume")
    if folder is None:
        found = read_settings(section, named_file(args))
    else:  # the run knows all that a file told it
        trusted = "--trust-code" in args
        found = Settings(*stored_options(folder), named=trusted, allowed_by="--trust-code")
    words = config_words(found, options, args)
    if words and not console.quiet and folder is None:
        stderr.print(f"options of {found.path}: {escape(shlex.join(words))}", soft_wrap=True)
    return found.path, words
