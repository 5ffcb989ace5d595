"""Stages: a model is watched part by part while it runs as it is.

A seam is a method of one of the model's modules. While seams are open, each call of such a method runs within
a scope that times it, or counts what it allocates or moves. Nothing is computed otherwise than without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

Scope = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Seam:
    """A method that belongs to a part.

    Attributes:
        part: name of the part.
        owner: the module.
        method: name of the method; ``forward`` stands for the whole module.
    """

    part: str
    owner: nn.Module
    method: str = "forward"


@contextmanager
def opened(seams: Sequence[Seam], scope: Scope) -> Iterator[None]:
    """Let every call of a seam's method run within ``scope(part)``.

    Raises:
        AttributeError: a module has no such method.
    """
    with ExitStack() as stack:
        for seam in seams:
            stack.enter_context(_replaced(seam, scope))
        yield


@contextmanager
def _replaced(seam: Seam, scope: Scope) -> Iterator[None]:
    method, own = getattr(seam.owner, seam.method), vars(seam.owner)
    before = own.get(seam.method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        with scope(seam.part):
            return method(*args, **kwargs)

    own[seam.method] = watched
    try:
        yield
    finally:
        if before is None:
            del own[seam.method]
        else:
            own[seam.method] = before


class Stopwatch:
    """Seconds of each part; what a part within another takes is not the outer one's.

    Args:
        synchronize: waits until the device has done its work; None where nothing runs by itself.
        clock: gives seconds.

    Attributes:
        seconds: by part.
        calls: by part.
    """

    def __init__(self, synchronize: Callable[[], None] | None, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.synchronize, self.clock = synchronize, clock
        self.inner: list[float] = []  # of each part that is running: seconds of the parts within

    def scope(self, part: str) -> _Timed:
        """A part runs."""
        return _Timed(self, part)


class _Timed(AbstractContextManager[None]):
    """One call of a part. A plain class: it runs between operators that take microseconds."""

    __slots__ = ("part", "start", "watch")

    def __init__(self, watch: Stopwatch, part: str) -> None:
        self.watch, self.part = watch, part

    def __enter__(self) -> None:
        watch = self.watch
        watch.inner.append(0.0)
        if watch.synchronize is not None:
            watch.synchronize()
        self.start = watch.clock()

    def __exit__(self, *error: object) -> None:
        watch, part = self.watch, self.part
        if watch.synchronize is not None:
            watch.synchronize()
        spent = watch.clock() - self.start
        inner = watch.inner
        watch.seconds[part] = watch.seconds.get(part, 0.0) + spent - inner.pop()
        watch.calls[part] = watch.calls.get(part, 0) + 1
        if inner:
            inner[-1] += spent
