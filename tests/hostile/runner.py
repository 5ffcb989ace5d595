"""The runner: one case in a process of its own, with limits, and what became of it.

The process is a fork of one that has imported everything, so that a case takes milliseconds; it calls the very
function that the command ``prune`` calls. What counts against a case: a traceback, another exit code than 2, a
signal, too much time or memory, a canary, a knock at the port, a file that was changed or made outside.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.hostile.case import Case, Payload

SECONDS = 10.0  # of the processor: the machine may be busy
WALL_SECONDS = 90.0  # after which whatever waits is ended
BASE_BYTES = 512 << 20  # for Python's objects and for libraries that are imported on the way
_ADDRESSES = 24 << 30  # a hard end, should the rest fail


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        name: of the case.
        code: exit code; below zero the signal that ended it.
        line: the error that it told.
        seconds: of the processor, until it ended.
        peak_bytes: memory that it took beyond what it began with.
        faults: what counts against the program; empty if nothing does.
    """

    name: str
    code: int
    line: str
    seconds: float
    peak_bytes: int
    faults: tuple[str, ...] = field(default=())

    @property
    def refused(self) -> bool:
        """Whether it ended with a clear line and exit code 2."""
        return self.code == 2 and not self.faults


@contextmanager
def listening() -> Iterator[tuple[int, Callable[[], bool]]]:
    """A port of this machine, and whether anybody has knocked since."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        def knocked() -> bool:
            try:
                server.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield server.getsockname()[1], knocked


def preload() -> None:
    """Import what commands import, so that forks have it."""
    import onnx  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import cli  # noqa: F401
    from prune import gate, inspection, page, subject  # noqa: F401
    from rl import policy  # noqa: F401

    torch.set_num_threads(1)  # threads do not survive a fork
    command_line()
    gc.collect()
    gc.freeze()  # or each fork would copy the pages that its collector marks


def run_case(case: Case, root: Path, port: int, knocked: Callable[[], bool]) -> Outcome:
    """Make a case and meet it with its command.

    Args:
        case: what to run.
        root: an empty folder for it alone.
        port: that payloads knock at.
        knocked: whether one did.
    """
    folder = root / "case"
    folder.mkdir(parents=True)
    payload = Payload(root / "canary", port)
    case.make(folder, payload)
    before = _outside(root)
    honest = max(case.honest_bytes, _stored(folder))
    code, told, seconds, peak = forked(lambda: _command(case.command), folder)
    faults = list(_faults(case, code, told))
    if seconds > SECONDS:
        faults.append(f"took {seconds:.1f} s")
    if peak > BASE_BYTES + 2 * honest:
        faults.append(f"took {peak >> 20} MB for {honest >> 20} MB")
    if payload.canary.exists() or (folder / "evil").exists():
        faults.append("ran")
    if knocked():
        faults.append("opened a connection")
    if _outside(root) - before - {payload.canary}:
        faults.append(f"wrote outside: {sorted(_outside(root) - before)[0]}")
    errors = [line for line in told.splitlines() if line.startswith("error:")]
    return Outcome(case.name, code, errors[0] if errors else told[-300:], seconds, peak, tuple(faults))


def _faults(case: Case, code: int, told: str) -> Iterator[str]:
    lines = [line for line in told.splitlines() if line.startswith("error:")]
    if "Traceback" in told:
        yield "traceback"
    if code == 0 and case.harmless:
        return
    if code != 2:
        yield f"exit code {code}"
    if "prune itself failed" in told:
        yield "an error that nobody named"
    if len(lines) != 1 and not (code == 2 and case.command[0] == "gate" and not lines):
        yield f"{len(lines)} lines of error"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", told):
        yield "control characters"
    if case.says and case.says not in told:
        yield f"does not say {case.says!r}"
    if lines and len(lines[0]) > 2100:
        yield "a line without an end"


@cache
def command_line() -> Callable[..., object]:
    """What ``prune`` calls, once for all forks: to put it together takes longer than most cases."""
    from typer.main import get_command

    import cli
    from front.commands import terminal

    terminal.console.width = terminal.stderr.width = 4000
    return get_command(cli.app)


def _command(words: tuple[str, ...]) -> int:
    """The command line in this process; its exit code."""
    sys.argv = ["prune", *words]
    warnings.simplefilter("ignore")  # as cli.main does
    try:
        command_line()(list(words), prog_name="prune")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def forked(call: Callable[[], int], folder: Path, limit: float = WALL_SECONDS) -> tuple[int, str, float, int]:
    """Call a function in a fork of this process.

    Args:
        call: returns the exit code.
        folder: the working directory.
        limit: seconds by the clock, after which the fork is ended.

    Returns:
        Exit code or the signal below zero, all that was printed, seconds of the processor, and bytes of memory that were taken.
    """
    with tempfile.TemporaryFile() as out:
        pid = os.fork()
        if not pid:
            _child(call, folder, out.fileno(), limit)
        _, end, used = os.wait4(pid, 0)
        seconds = used.ru_utime + used.ru_stime
        out.seek(0)
        told = out.read().decode(errors="replace")
    told, _, peak = told.rpartition("\npeak ")
    return os.waitstatus_to_exitcode(end), told, seconds, int(peak) if peak.isdigit() else 0


def _child(call: Callable[[], int], folder: Path, out: int, limit: float) -> None:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115 - others may have taken them
        os.chdir(folder)
        signal.setitimer(signal.ITIMER_REAL, limit)  # ends the process where nobody handles it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
        begun = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        try:
            code = call()
        except Exception:  # noqa: BLE001 - what a user would see
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, f"\npeak {max(0, status('VmHWM') - begun)}".encode())
    finally:
        os._exit(code)


def status(name: str) -> int:
    """A figure of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _stored(folder: Path) -> int:
    """Bytes that the disk holds of a folder."""
    return sum(p.lstat().st_blocks * 512 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _outside(root: Path) -> set[Path]:
    """Everything beside the folder of the case."""
    return {p for p in root.rglob("*") if not p.is_relative_to(root / "case")}
