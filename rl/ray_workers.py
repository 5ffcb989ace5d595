"""Workers of a Ray cluster: one single-threaded actor for each of its cores (extra ``ray``).

The package must be installed on every machine of the cluster. Scores are the same ones as here where the
processors are alike. An actor gets plans once it has answered a first call: where others keep the cluster
busy, it may wait for a core for ever, and a plan must not wait with it.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from graph.errors import PlanError, PruneError, WorkerError
from rl.parcel import Parcel, pack
from rl.processes import LOSSES, Note
from rl.scorer import Keep, Score, Scorer

# Read when Ray is imported: else any call after a connection is lost would start a cluster on this machine.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
_TRIES = 3  # to connect
_PATIENCE = 300.0  # seconds for the first actor to come up: a cluster that grows starts a machine first


class _Actor:
    """Scores plans on a machine of the cluster."""

    def __init__(self, parcel: Parcel, flat: np.ndarray) -> None:
        torch.set_num_threads(1)
        self.scorer = parcel.open(torch.from_numpy(flat.copy()))  # Ray's memory is read-only

    def ready(self) -> None:
        """The answer says that the actor runs."""

    def score(self, keep: Keep) -> tuple[float, float] | tuple[str, str]:
        """Accuracy and loss, or an error and its hint."""
        try:
            found = self.scorer(keep)
        except PruneError as err:
            return str(err), err.hint
        return found.accuracy, found.loss


class RayWorkers:
    """Workers of a Ray cluster: one for each core that it has when it is joined.

    Args:
        scorer: what they are to do.
        address: ``ray://HOST:PORT``; None for a cluster of this machine alone.
        note: is told of lost workers.
        patience: seconds to wait for a worker where none has come up.

    Raises:
        WorkerError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self, scorer: Scorer, address: str | None, note: Note, *, patience: float = _PATIENCE
    ) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # its types do not hold
        except ImportError as err:
            raise WorkerError(
                "--workers ray: Ray is not installed", hint="pip install 'prune-networks[ray]'"
            ) from err
        self.ray = ray
        self._cut_off = (ConnectionError, ray.exceptions.RayError)
        self.note, self.patience = note, patience
        self._started = not ray.is_initialized()
        if self._started:
            try:
                _connect(ray, address)
            except (*self._cut_off, RuntimeError, ValueError, OSError) as err:
                raise WorkerError(
                    f"no Ray cluster at {address or 'this machine'}: {_last_line(err)}",
                    hint="start one with `ray start --head`, its port for clients is 10001; "
                    "where it asks for a token, set RAY_AUTH_MODE=token here",
                ) from err
        parcel, flat = pack(scorer)
        self._given = (ray.put(parcel), ray.put(flat.numpy()))
        self._make = ray.remote(num_cpus=1)(_Actor)
        self.count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._calls: dict[Any, tuple[Any, int | None]] = {}  # each with its actor and plan; none: its first
        self._losses = 0

    def map(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order."""
        try:
            return self._map(keeps)
        except self._cut_off as err:
            self._dismiss()
            raise WorkerError(
                f"the Ray cluster was lost: {_last_line(err)}",
                hint="a run can be resumed, with any --workers: its scores so far are in its folder",
            ) from err
        except BaseException:
            self._dismiss()  # an actor may still be at a plan that nobody waits for
            raise

    def _map(self, keeps: Sequence[Keep]) -> list[Score]:
        waiting = deque(range(len(keeps)))
        found: dict[int, Score] = {}
        while len(found) < len(keeps):
            if not self.ray.is_initialized():
                raise ConnectionError("Ray is no longer connected")
            self._staff(min(self.count, len(keeps) - len(found)))
            while waiting and self._idle:
                actor, following = self._idle.pop(), waiting.popleft()
                self._calls[actor.score.remote(keeps[following])] = (actor, following)
            working = any(task is not None for _, task in self._calls.values())
            done, _ = self.ray.wait(list(self._calls), timeout=None if working else self.patience)
            if not done:
                raise WorkerError(
                    f"no worker came up on the Ray cluster within {self.patience:g} s",
                    hint="other jobs may hold all of its cores: `ray status` tells",
                )
            actor, task = self._calls.pop(done[0])
            try:
                reply = self.ray.get(done[0])
            except self.ray.exceptions.RayError as err:
                if task is not None:
                    waiting.appendleft(task)
                self._lost(actor, err)
                continue
            self._idle.append(actor)
            if task is None:
                continue
            first, second = reply
            if isinstance(first, str):
                raise PlanError(first, hint=second)
            found[task] = Score(first, second)
            self._losses = 0
        return [found[i] for i in range(len(keeps))]

    def _staff(self, count: int) -> None:
        """Ask for actors until there are so many."""
        while len(self._actors) < count:
            actor = self._make.remote(*self._given)
            self._actors.append(actor)
            self._calls[actor.ready.remote()] = (actor, None)

    def _lost(self, actor: Any, err: Exception) -> None:
        self._actors.remove(actor)
        self.ray.kill(actor)  # an error may have left it alive
        self._losses += 1
        if self._losses > LOSSES:
            raise WorkerError(
                f"{self._losses} workers were lost in turn: {_last_line(err)}",
                hint="the package must be installed on every machine of the cluster",
            ) from err
        self.note("a worker of the cluster was lost; another one takes its place")

    def _dismiss(self) -> None:
        with suppress(*self._cut_off):
            for actor in self._actors:
                if self.ray.is_initialized():  # actors end with the connection, too
                    self.ray.kill(actor)
        self._actors, self._idle, self._calls = [], [], {}

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        self._dismiss()
        if self._started:
            self.ray.shutdown()
            self._started = False


def _connect(ray: Any, address: str | None) -> None:
    """Join a cluster, or start one here where there is no address.

    A cluster forks a process for each client, which may die at birth (gRPC does not survive every fork): a
    client that gets none asks again.
    """
    options = {} if address else {"include_dashboard": False}
    for left in reversed(range(_TRIES)):
        try:
            with _same_signals():
                ray.init(address, log_to_driver=False, logging_level="error", **options)
            return
        except (ConnectionAbortedError, RuntimeError):
            if not left or not address:
                raise
            ray.shutdown()


@contextmanager
def _same_signals() -> Iterator[None]:
    """Ray would take SIGTERM over, which ends a run such that it can be resumed."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _last_line(err: Exception) -> str:
    """Of an error that quotes a traceback: what went wrong."""
    return (str(err).strip().splitlines() or [type(err).__name__])[-1].strip()
