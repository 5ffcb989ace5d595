"""Interrupts: Ctrl-C and SIGTERM end a command within two seconds, whatever it is at.

Python's own handler runs between two of its instructions, so that a long operator of torch keeps it waiting,
and libraries that catch everything swallow what it raises. So a thread waits beside it, which the system's
handler wakes at once: where the command has not ended a second after the signal, or a second signal comes,
the process ends on the spot. Nothing is lost by that: whatever is on the disk is whole at any moment.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 1.0  # seconds for an orderly end: workers, half-made files


@contextmanager
def interruptible(farewell: Callable[[], str]) -> Iterator[None]:
    """Turn both signals into ``KeyboardInterrupt``, and into the end of the process where that is slow.

    Args:
        farewell: what to print where the process ends on the spot; empty when it was printed already.
    """
    awake, asleep = os.pipe()
    os.set_blocking(asleep, False)
    done = threading.Event()
    threading.Thread(target=_watch, args=(awake, done, farewell), daemon=True).start()
    before = {s: signal.signal(s, _stop) for s in _SIGNALS}
    wakeup = signal.set_wakeup_fd(asleep, warn_on_full_buffer=False)
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    except SystemExit as err:
        interrupted = err.code == EXIT_CODE
        raise
    finally:
        if not interrupted:  # else the end of the interpreter is watched, too
            done.set()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.write(asleep, b"\0")


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(awake: int, done: threading.Event, farewell: Callable[[], str]) -> None:
    while not done.is_set() and os.read(awake, 1)[0] not in _SIGNALS:
        pass
    if not done.is_set():
        select.select([awake], [], [], _GRACE)
    if not done.is_set():
        text = farewell()
        if text:
            show_cursor = "\x1b[?25h" if os.isatty(2) else ""
            os.write(2, f"\n{show_cursor}{text}\n".encode())
        os._exit(EXIT_CODE)
