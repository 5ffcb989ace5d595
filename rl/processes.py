"""Processes: workers on this machine, each of which scores one plan at a time.

A worker that dies loses nothing: its plan goes to another one, and a new worker takes its place.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from graph.errors import PlanError, PruneError, WorkerError
from graph.shortage import is_out_of_memory
from rl.parcel import Parcel, mapped, pack
from rl.scorer import Keep, Score, Scorer

Note = Callable[[str], None]
LOSSES = 3  # so many workers may be lost, one after the other, without a score between
_PATIENCE = 5.0  # seconds of scoring here before workers are started, which takes about as long
_BYTES_FILE = "tensors"


class _Worker:
    """A process that scores one plan at a time, and the plan that it is at."""

    def __init__(self, parcel: Parcel, path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        # Ctrl-C is for the process that asks, also while this one starts.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.connection, theirs = context.Pipe()
            arguments = (theirs, parcel, path)
            self.process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
            self.process.start()
        except OSError as err:
            raise WorkerError(
                f"no worker can be started: {err.strerror or err}",
                hint="fewer --workers need less; --workers 1 scores in the process itself",
            ) from err
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # else the pipe would not end with the process
        self.task: int | None = None

    def give(self, task: int, keep: Keep) -> None:
        self.task = task
        self.connection.send_bytes(np.packbits(keep).tobytes())

    def end(self) -> None:
        self.connection.close()
        self.process.kill()  # it holds nothing that would be lost
        self.process.join()
        self.process.close()


class Processes:
    """Workers on this machine.

    To start them takes seconds, so that they are started once as much time went into scores as that takes;
    until then, and where one plan comes alone, plans are scored here.

    Args:
        scorer: what they are to do.
        count: how many.
        note: is told of lost workers.
        folder: for what they share; the system's for temporary files when left out.
        patience: seconds of scoring here before they are started.
    """

    def __init__(
        self,
        scorer: Scorer,
        count: int,
        note: Note,
        folder: Path | None = None,
        *,
        patience: float = _PATIENCE,
    ) -> None:
        self.scorer, self.count, self.note, self.patience = scorer, count, note, patience
        self._home = folder
        self.workers: list[_Worker] = []
        self._parcel: Parcel | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._losses = 0

    def map(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order."""
        found: list[Score] = []
        while len(found) < len(keeps) and (self.patience > 0 or len(keeps) - len(found) < 2):
            start = time.perf_counter()
            found.append(self.scorer(keeps[len(found)]))
            self.patience -= time.perf_counter() - start
        try:
            return found + self._shared(keeps[len(found) :])
        except BaseException:
            self._dismiss()  # a worker may still be at a plan that nobody waits for
            raise

    def _shared(self, keeps: Sequence[Keep]) -> list[Score]:
        waiting = deque(range(len(keeps)))
        found: dict[int, Score] = {}
        while len(found) < len(keeps):
            self._staff(min(self.count, len(keeps) - len(found)))
            for worker in [w for w in self.workers if w.task is None]:
                if waiting:
                    task = waiting.popleft()
                    try:
                        worker.give(task, keeps[task])
                    except OSError:
                        self._lost(worker, waiting)
            busy = {w.connection: w for w in self.workers if w.task is not None}
            for connection in wait(list(busy), timeout=None if busy else 0):
                worker = busy[connection]  # type: ignore[index]
                try:
                    reply = worker.connection.recv_bytes()
                except (EOFError, OSError):
                    self._lost(worker, waiting)
                    continue
                assert worker.task is not None
                found[worker.task] = _score(reply)
                worker.task, self._losses = None, 0
        return [found[i] for i in range(len(keeps))]

    def _staff(self, count: int) -> None:
        """Start workers until there are so many."""
        if self._parcel is None:
            self._parcel, flat = pack(self.scorer)
            self._folder = tempfile.TemporaryDirectory(prefix="prune-", dir=self._home)
            flat.numpy().tofile(Path(self._folder.name) / _BYTES_FILE)
        assert self._folder is not None
        while len(self.workers) < count:
            self.workers.append(_Worker(self._parcel, Path(self._folder.name) / _BYTES_FILE))

    def _lost(self, worker: _Worker, waiting: deque[int]) -> None:
        """A worker is dead: its plan comes next."""
        self.workers.remove(worker)
        assert worker.task is not None
        waiting.appendleft(worker.task)
        worker.process.join(1)
        code = worker.process.exitcode
        worker.end()
        self._losses += 1
        if self._losses > LOSSES:
            raise WorkerError(
                f"{self._losses} workers were lost in turn, the last one with exit code {code}",
                hint="fewer --workers need less memory; --workers 1 scores in the process itself",
            )
        self.note(f"a worker was lost (exit code {code}); its plan goes to another one")

    def _dismiss(self) -> None:
        while self.workers:
            self.workers.pop().end()

    def close(self) -> None:
        """End the processes and remove the file that they share."""
        self._dismiss()
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._parcel = None


def _serve(connection: Connection, parcel: Parcel, path: Path) -> None:
    """A worker's life: plans come, scores go, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as it was blocked while this process started
    torch.set_num_threads(1)
    scorer = parcel.open(mapped(path, parcel.length))
    classes = parcel.axes.classes
    while True:
        try:
            packed = np.frombuffer(connection.recv_bytes(), dtype=np.uint8)
        except (EOFError, OSError):
            return
        try:
            score = scorer(np.unpackbits(packed, count=classes).astype(bool))
            reply: dict[str, float | str] = {"accuracy": score.accuracy, "loss": score.loss}
        except PruneError as err:
            reply = {"error": str(err), "hint": err.hint}
        except (MemoryError, RuntimeError) as err:
            if not is_out_of_memory(err):
                raise
            return  # lost, as if the system had killed it
        connection.send_bytes(json.dumps(reply).encode())


def _score(reply: bytes) -> Score:
    data = json.loads(reply)
    if "error" in data:
        raise PlanError(data["error"], hint=data["hint"])
    return Score(data["accuracy"], data["loss"])
