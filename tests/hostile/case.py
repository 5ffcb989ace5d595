"""Cases: a hostile file, why it is one, and the command that meets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Payload:
    """What code in a file would do if it ran.

    Attributes:
        canary: file that it creates, outside of the folder of the case.
        port: of this machine, at which it knocks.
    """

    canary: Path
    port: int

    @property
    def shell(self) -> str:
        """A command of the shell."""
        return f"touch '{self.canary}'"

    @property
    def python(self) -> str:
        """A statement of Python."""
        return (
            f"open({str(self.canary)!r}, 'w').close(); import socket; "
            f"socket.create_connection(('127.0.0.1', {self.port}), 1)"
        )

    @property
    def expression(self) -> str:
        """An expression of Python."""
        return f"exec({self.python!r})"


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: unique.
        why: what it would do, or what is wrong with it.
        make: writes it into a folder, which is the working directory of the command.
        command: words of the command line; by default ``inspect m.pt``.
        says: what the one line of the error must contain.
        honest_bytes: memory that the content may take, where that is more than the bytes on the disk.
        slow: it takes a process of its own, or seconds: the tests leave it to the benchmark.
        harmless: it may also be accepted, for it does no harm.
    """

    name: str
    why: str
    make: Callable[[Path, Payload], object]
    command: tuple[str, ...] = ("inspect", "m.pt")
    says: str = ""
    honest_bytes: int = 0
    slow: bool = False
    harmless: bool = False
