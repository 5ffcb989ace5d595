"""Failures: what a command that ends badly prints, and its exit code."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from rich.markup import escape

from front.commands.terminal import state, stderr

_LONGEST = 2000  # characters of a message


@dataclass
class _Interrupt:
    """What an interrupt of the command under way says.

    Attributes:
        how: to go on with it.
        possible: whether there is something to go on with by now.
        told: it was said already.
    """

    how: str = ""
    possible: Callable[[], bool] = bool
    told: bool = False


_interrupt = _Interrupt()


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turn the failures of a command into one clear line and an exit code."""
    global _interrupt
    _interrupt = _Interrupt()
    try:
        yield
    except KeyboardInterrupt as err:
        stderr.print(escape(farewell()), soft_wrap=True)
        _interrupt.told = True
        raise typer.Exit(130) from err
    except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
        raise  # typer prints what is wrong with the words of a command
    except Exception as err:
        from prune.failures import named

        known = named(err)
        if state["debug"]:
            traceback.print_exc()
        if known is None:  # not 1, with which the gate says that a budget is broken
            told = f"prune itself failed: {type(err).__name__}: {err}"
            print_error(told, "--debug shows where; please report it")
        else:
            print_error(str(known), known.hint)
        for line in getattr(err, "__notes__", ()):
            stderr.print(escape(line), soft_wrap=True)
        raise typer.Exit(2) from err


def can_go_on(how: str, possible: Callable[[], bool]) -> None:
    """The command under way can be gone on with after an interrupt.

    Args:
        how: what to tell the user.
        possible: whether there is something to go on with by now.
    """
    _interrupt.how, _interrupt.possible = how, possible


def farewell() -> str:
    """What an interrupt ends with; empty when it was said already."""
    if _interrupt.told:
        return ""
    return f"interrupted; {_interrupt.how if _interrupt.possible() else 'nothing was written'}"


def print_error(message: str, hint: str) -> None:
    """Print what is wrong, and what to do about it."""
    from prune.escaping import plain  # names in files may hold line breaks and escape sequences

    stderr.print(f"[red]error:[/red] {escape(plain(message, _LONGEST))}", soft_wrap=True)
    if hint:
        stderr.print(f"[dim]hint:[/dim] {escape(plain(hint, _LONGEST))}", soft_wrap=True)
