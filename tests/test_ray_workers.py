"""Workers of a Ray cluster: a real one is started, kept busy, robbed of actors and killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from graph import topology
from graph.axes import Axes, infer
from graph.capture import capture
from graph.errors import WorkerError
from models_zoo import registry
from models_zoo.data import load_embedded
from prune.budget import Budget
from prune.importance import magnitude
from prune.plan import make_plan
from prune.trials import Problem, SearchResult, Trial
from prune.widths import WidthSpace
from rl.ray_workers import RayWorkers
from rl.reward import Evaluator
from rl.scorer import Scorer, chunks
from rl.search import SearchConfig, search

ray = pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Address and process group of a cluster with two cores."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a token may lie in the home of whoever runs the tests
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray")  # a short name: sockets lie in it
    words = ["start", "--head", "--block", "--num-cpus=2", "--port=0", f"--ray-client-server-port={port}",
             "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]  # fmt: skip
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"GRPC_POLL_STRATEGY": "poll"},  # gRPC's usual one may not survive Ray's forks
    )
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "1")  # of this process alone
    try:
        until = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < until and head.poll() is None, "no cluster"
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{port}", head.pid
    finally:
        ray.shutdown()
        if head.poll() is None:
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def foreign(cores: int) -> Any:
    """Somebody else's actor, once it runs."""

    class Foreign:
        def ready(self) -> None:
            pass

    actor = ray.remote(num_cpus=cores)(Foreign).remote()
    ray.get(actor.ready.remote())
    return actor


def searched(axes: Axes, workers: str) -> SearchResult:
    data, space = load_embedded("digits"), WidthSpace(axes)
    budget = Budget.of(space, macs=space.base_macs // 2)
    problem = Problem(axes, space, budget, magnitude(axes), data, lambda _: None)
    with Evaluator(axes, data, images=64, workers=workers) as evaluator:
        return search(
            problem, topology.build(axes), evaluator, SearchConfig(agent="evolution", episodes=8, seed=3)
        )


def trials_of(result: SearchResult) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in result.trials]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_scores_as_this_process_does_loses_nothing_and_waits_for_nobody(
    cluster: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, group = cluster
    torch.manual_seed(0)
    axes = infer(capture(registry.build("resnet20", in_channels=1, width=8), [torch.randn(2, 1, 8, 8)]))
    scorer = Scorer(axes, chunks(axes, load_embedded("digits"), 64))
    chance = np.random.default_rng(0)
    space = WidthSpace(axes)
    scores = magnitude(axes)
    keeps = [
        make_plan(space, space.levels(chance.uniform(0.3, 1, space.bundles)), scores, "").keep_mask(axes)
        for _ in range(6)
    ]
    expected = [scorer(keep) for keep in keeps]
    assert len({s.loss for s in expected}) == 6

    notes: list[str] = []
    handler = signal.getsignal(signal.SIGTERM)
    init, failures = ray.init, [ConnectionAbortedError("died at birth"), RuntimeError("died at birth")]

    def flaky(*args: object, **options: object) -> object:
        if failures:
            raise failures.pop()
        return init(*args, **options)

    monkeypatch.setattr(ray, "init", flaky)
    workers = RayWorkers(scorer, address, notes.append, patience=1.0)
    assert not failures
    monkeypatch.setattr(ray, "init", init)
    assert signal.getsignal(signal.SIGTERM) is handler
    everything = foreign(2)
    with pytest.raises(WorkerError, match="no worker came up on the Ray cluster within 1 s") as caught:
        workers.map(keeps)
    assert "ray status" in caught.value.hint
    ray.kill(everything)

    half = foreign(1)
    workers.patience = 300.0
    assert workers.map(keeps) == expected
    assert len(workers._actors) == 2 and len(workers._idle) == 1  # the other one still waits for its core
    ray.kill(workers._idle[0])
    ray.kill(half)
    assert workers.map(keeps) == expected
    assert len(notes) == 1

    workers._dismiss()  # else they would hold both cores
    alone = searched(axes, "1")
    shared = searched(axes, address)
    assert trials_of(shared) == trials_of(alone) and shared.plan == alone.plan

    os.killpg(group, signal.SIGKILL)
    with pytest.raises(WorkerError, match="the Ray cluster was lost") as caught:
        workers.map(keeps)
    assert "resumed" in caught.value.hint
    workers.close()
    workers.close()
    assert not ray.is_initialized()
