"""Workers of a Ray cluster: one single-threaded actor for each of its cores (extra ``ray``).

The package must be installed on every machine of the cluster. Scores are the same ones as here where the
processors are alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graph.errors import PlanError, PruneError, WorkerError
from rl.parcel import Parcel, pack
from rl.scorer import Keep, Score, Scorer
from rl.workers import LOSSES, Note


class _Actor:
    """Scores plans on a machine of the cluster."""

    def __init__(self, parcel: Parcel, flat: np.ndarray) -> None:
        torch.set_num_threads(1)
        self.scorer = parcel.open(torch.from_numpy(flat.copy()))  # Ray's memory is read-only

    def score(self, keep: Keep) -> tuple[float, float] | tuple[str, str]:
        """Accuracy and loss, or an error and its hint."""
        try:
            found = self.scorer(keep)
        except PruneError as err:
            return str(err), err.hint
        return found.accuracy, found.loss


class RayWorkers:
    """Workers of a Ray cluster.

    Args:
        scorer: what they are to do.
        address: ``ray://HOST:PORT``; None for a cluster of this machine alone.
        note: is told of lost workers.

    Raises:
        WorkerError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, scorer: Scorer, address: str | None, note: Note) -> None:
        try:
            import ray
        except ImportError as err:
            raise WorkerError(
                "--workers ray: Ray is not installed", hint="pip install 'prune-networks[ray]'"
            ) from err
        self.ray: Any = ray
        self.note = note
        self._started = not ray.is_initialized()
        if self._started:
            options = {} if address else {"include_dashboard": False}
            try:
                ray.init(address, log_to_driver=False, logging_level="error", **options)
            except (ConnectionError, RuntimeError, ValueError, OSError) as err:
                raise WorkerError(
                    f"no Ray cluster at {address or 'this machine'}: {(str(err).splitlines() or ['?'])[0]}",
                    hint="start one with `ray start --head`, its port for clients is 10001",
                ) from err
        parcel, flat = pack(scorer)
        self._given = (ray.put(parcel), ray.put(flat.numpy()))
        self._make = ray.remote(num_cpus=1)(_Actor)
        self.count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._actors: list[Any] = []
        self._losses = 0

    def map(self, keeps: Sequence[Keep]) -> list[Score]:
        """Score plans, in their order."""
        waiting = deque(range(len(keeps)))
        found: dict[int, Score] = {}
        running: dict[Any, tuple[int, Any]] = {}
        while len(found) < len(keeps):
            while len(self._actors) < min(self.count, len(keeps) - len(found)):
                self._actors.append(self._make.remote(*self._given))
            busy = {id(actor) for _, actor in running.values()}
            for actor in [a for a in self._actors if id(a) not in busy]:
                if waiting:
                    task = waiting.popleft()
                    running[actor.score.remote(keeps[task])] = (task, actor)
            done, _ = self.ray.wait(list(running), num_returns=1)
            task, actor = running.pop(done[0])
            try:
                first, second = self.ray.get(done[0])
            except self.ray.exceptions.RayActorError as err:
                waiting.appendleft(task)
                self._actors.remove(actor)
                self._lost(err)
                continue
            if isinstance(first, str):
                raise PlanError(first, hint=second)
            found[task] = Score(first, second)
            self._losses = 0
        return [found[i] for i in range(len(keeps))]

    def _lost(self, err: Exception) -> None:
        self._losses += 1
        if self._losses > LOSSES:
            raise WorkerError(
                f"{self._losses} workers were lost in turn: {(str(err).splitlines() or ['?'])[0]}",
                hint="the package must be installed on every machine of the cluster",
            ) from err
        self.note("a worker of the cluster was lost; its plan goes to another one")

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        for actor in self._actors:
            self.ray.kill(actor)
        self._actors = []
        if self._started:
            self.ray.shutdown()
            self._started = False
