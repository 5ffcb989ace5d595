"""Stages: a model is watched part by part while it runs as it is.

A seam is a method of one of the model's modules. While seams are open, each call of such a method runs within
a scope that times it, or counts what it allocates or moves. Nothing is computed otherwise than without.
"""

from __future__ import annotations

from collections import Counter
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
        synchronize: waits until the device has done its work.
        clock: gives seconds.

    Attributes:
        seconds: by part.
        calls: by part.
    """

    def __init__(self, synchronize: Callable[[], None], clock: Callable[[], float]) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._synchronize, self._clock = synchronize, clock
        self._inner: list[float] = []  # of each part that is running: seconds of the parts within

    @contextmanager
    def scope(self, part: str) -> Iterator[None]:
        """A part runs."""
        self._synchronize()
        self._inner.append(0.0)
        start = self._clock()
        try:
            yield
        finally:
            self._synchronize()
            spent = self._clock() - start
            self.seconds[part] += spent - self._inner.pop()  # type: ignore[assignment]
            self.calls[part] += 1
            if self._inner:
                self._inner[-1] += spent
