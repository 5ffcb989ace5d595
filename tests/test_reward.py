"""Rewards: what a plan scores, that nobody's help changes it, and that no loss of a worker costs a score."""

from __future__ import annotations

import errno
import functools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from networks import CASES, random_plan
from torch import Tensor, nn
from torch.nn import functional as F

from graph.axes import Axes, infer
from graph.capture import capture
from graph.errors import PlanError, UsageError, WorkerError
from graph.program import Node, run
from models_zoo import registry
from models_zoo.data import DataSet, TensorSplit, load_embedded
from prune.journal import Journal
from prune.masks import Masks
from prune.onepass import overrides
from prune.slicing import Slicer
from prune.surgery import cut
from rl.processes import Processes
from rl.reward import Evaluator
from rl.scorer import Keep, Score, Scorer, chunks
from rl.workers import find_workers


class Sealed(TensorSplit):
    """A split that nobody may read."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> NoReturn:
        raise AssertionError("this split was asked for its length")

    def batches(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("this split was read")


def noise(size: int = 4, classes: int = 3, count: int = 40) -> DataSet:
    """Random images to score on; no other split may be read."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator)
    search = TensorSplit(images, labels, mean=(0.5,) * 3, std=(0.25,) * 3)
    names = tuple(map(str, range(classes)))
    return DataSet("noise", Sealed(), search, Sealed(), names, (3, size, size))


def axes_of(module: nn.Module, shape: tuple[int, ...] = (2, 3, 4, 4)) -> Axes:
    return infer(capture(module.eval(), [torch.randn(shape)]))


@functools.cache
def case_axes(name: str) -> Axes:
    return axes_of(CASES[name].build())


@functools.cache
def resnet() -> Axes:
    torch.manual_seed(0)
    return axes_of(registry.build("resnet20", in_channels=1, width=8), (2, 1, 8, 8))


def plans(count: int) -> list[Keep]:
    return [random_plan(resnet(), seed).keep_mask(resnet()) for seed in range(count)]


def masked(axes: Axes, keep: Keep, images: Tensor) -> Tensor:
    """Outputs of the whole program with masks, every batch norm on the statistics of these images."""

    def normalise(
        function: Callable[..., Any], node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        x, weight, bias, *_, eps, _ = args
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        return (x - mean) / (var + eps).sqrt() * weight.view(shape) + bias.view(shape)

    norms = {
        n.name: normalise for n in axes.program.nodes if n.base == "batch_norm" and n.args[3] is not None
    }
    with torch.no_grad():
        result = run(
            axes.program, axes.program.tensors, [images], overrides={**norms, **Masks(axes, keep).overrides}
        )
    assert isinstance(result, Tensor)
    return result


def check_against_masks(axes: Axes, data: DataSet, seeds: range) -> None:
    count = len(data.search)
    scorer = Scorer(axes, chunks(axes, data, count))
    images, labels = next(iter(data.search.batches(count)))
    for seed in seeds:
        keep = random_plan(axes, seed).keep_mask(axes)
        logits, score = masked(axes, keep, images), scorer(keep)
        assert score.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4, abs=1e-5)
        accuracy = float((logits.argmax(1) == labels).double().mean())
        assert score.accuracy == pytest.approx(accuracy, abs=1.01 / count)  # two logits may be equal


@pytest.mark.parametrize("name", [n for n in CASES if n != "several outputs"])
def test_a_score_is_that_of_the_masked_program(name: str) -> None:
    axes = case_axes(name)
    (output,) = axes.program.outputs
    check_against_masks(axes, noise(classes=axes.shapes[output].shape[1]), range(2))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet20", {}, 32),
        ("vgg11", {}, 32),
        ("mobilenet_v2", {"num_classes": 3, "width_mult": 0.25}, 64),
        ("shufflenet_v2", {"num_classes": 3}, 64),
    ],
)
def test_scores_of_the_papers_networks(name: str, options: dict[str, Any], size: int) -> None:
    torch.manual_seed(0)
    axes = axes_of(registry.build(name, **options), (2, 3, size, size))
    check_against_masks(axes, noise(size, 3, count=16), range(1))


@pytest.mark.parametrize("name", CASES)
def test_slices_are_those_of_surgery(name: str) -> None:
    axes = case_axes(name)
    slicer = Slicer(axes)
    for seed in range(4):
        keep = random_plan(axes, seed).keep_mask(axes)
        fast, slow = slicer(keep), cut(axes, keep)
        assert fast.nodes == slow.nodes
        assert fast.tensors.keys() == slow.tensors.keys()
        assert all(torch.equal(t, slow.tensors[k]) for k, t in fast.tensors.items())


def test_only_programs_that_split_channels_into_rows_take_the_long_way() -> None:
    direct = {name for name in CASES if Slicer(case_axes(name)).direct}
    assert {"chain", "residual", "concatenation", "depthwise", "flatten", "padded shortcut"} <= direct
    assert {"shuffle", "attention", "grouped", "interleaved pair"}.isdisjoint(direct)


@pytest.mark.parametrize("shape", [(64, 5, 6, 6), (7, 3, 5, 5), (64, 12), (16, 6, 9), (8, 4, 2, 3, 3)])
def test_statistics_are_exact(shape: tuple[int, ...]) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
            self.first, self.second = kind(shape[1]), kind(shape[1], affine=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)) + x)

    module = Norm()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[:, 0] += 1000.0  # the mean of the squares says nothing about this channel's variance
    before = x.clone()
    program = capture(module.eval(), [x])
    with torch.inference_mode():
        found = run(program, program.tensors, [x], overrides=overrides(program))
    expected = module.double().train()(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(found[:, 1:].double(), expected[:, 1:], rtol=0, atol=1e-5)
    assert torch.equal(x, before)


def test_nothing_is_written_into_the_program_or_the_images() -> None:
    scorer = Scorer(resnet(), chunks(resnet(), load_embedded("digits"), 32))
    weights = {k: t.clone() for k, t in resnet().program.tensors.items()}
    images = [c.images.clone() for c in scorer.chunks]
    scorer(np.ones(resnet().classes, dtype=bool))
    assert all(torch.equal(t, weights[k]) for k, t in resnet().program.tensors.items())
    assert all(torch.equal(c.images, i) for c, i in zip(scorer.chunks, images, strict=True))


def test_large_images_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.scorer._CHUNK_BYTES", 1)
    data = noise(count=100)
    found = chunks(case_axes("chain"), data, 100)
    assert [len(c.labels) for c in found] == [25, 25, 25, 25]
    x, y = next(data.search.batches(100))
    assert torch.equal(torch.cat([c.images for c in found]), x)
    assert torch.equal(torch.cat([c.labels for c in found]), y)


def test_scores_are_remembered_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, keeps = load_embedded("digits"), plans(3)
    first = Evaluator(resnet(), data, images=32)
    first.journal = Journal(tmp_path / "journal.jsonl").part("0.70")
    scores = first.many([*keeps, keeps[0]])
    assert first.evaluations == 3 and scores[3] is scores[0] is first(keeps[0].copy())
    first.journal.root.close()

    other = Evaluator(resnet(), data, images=33)  # other images: the journal has no answers for it
    other.journal = Journal(tmp_path / "journal.jsonl").part("0.70")
    assert other(keeps[0]) != scores[0]

    def never(*_: object) -> None:
        raise AssertionError("scored anew")

    monkeypatch.setattr("rl.scorer.Scorer.__call__", never)
    # The part that scored them counts them again, as it did the first time; the next one never did.
    for part, evaluations in (("0.70", 3), ("0.50", 0)):
        again = Evaluator(resnet(), data, images=32)
        again.journal = Journal(tmp_path / "journal.jsonl").part(part)
        assert again.many(keeps) == scores[:3] and again.evaluations == evaluations


# Workers


@pytest.fixture
def pool() -> Iterator[tuple[Processes, list[str]]]:
    notes: list[str] = []
    scorer = Scorer(resnet(), chunks(resnet(), load_embedded("digits"), 64))
    workers = Processes(scorer, 2, notes.append, patience=0.0)
    yield workers, notes
    workers.close()
    assert multiprocessing.active_children() == []


def once_at_work(found: list[Any], act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as each of these workers has a plan."""

    def watch() -> None:
        while any(worker.task is None for worker in found):
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_workers_score_as_this_process_does_and_lose_nothing(pool: tuple[Processes, list[str]]) -> None:
    workers, notes = pool
    keeps = plans(8)
    expected = [workers.scorer(keep) for keep in keeps]
    assert len({s.loss for s in expected}) == 8
    assert workers.map(keeps) == expected
    pids = [w.process.pid for w in workers.workers]
    assert len(pids) == 2 and os.getpid() not in pids

    victim = pids[0]
    assert victim is not None
    os.kill(victim, signal.SIGSTOP)  # it takes a plan and does not come back
    killer = once_at_work(workers.workers[:1], lambda: os.kill(victim, signal.SIGKILL))
    assert workers.map(keeps) == expected
    killer.join()
    assert len(notes) == 1 and "exit code -9" in notes[0]
    assert victim not in [w.process.pid for w in workers.workers]

    idle = workers.workers[0].process.pid
    assert idle is not None
    os.kill(idle, signal.SIGKILL)
    assert workers.map(keeps[::-1]) == expected[::-1]
    assert len(notes) == 2


def test_an_interrupt_ends_the_workers(pool: tuple[Processes, list[str]]) -> None:
    workers, _ = pool
    keeps = plans(4)
    workers.map(keeps[:2])
    for worker in workers.workers:
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGSTOP)
    # A shell that starts the tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        once_at_work(workers.workers[:], lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            workers.map(keeps)
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []


def test_a_worker_that_cannot_be_started_is_told_and_ctrl_c_works_again(
    pool: tuple[Processes, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", full)
    with pytest.raises(WorkerError, match="no worker can be started: Resource temporarily"):
        pool[0].map(plans(2))
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_a_plan_that_cannot_be_cut_is_told_from_a_worker() -> None:
    axes = case_axes("grouped")
    uneven = random_plan(axes, 0).keep_mask(axes)
    uneven[list(axes.groups[0].units)] = False
    uneven[axes.groups[0].units[0]] = True  # one of the four rows keeps a channel, the others none
    workers = Processes(Scorer(axes, chunks(axes, noise(), 40)), 2, print, patience=0.0)
    try:
        with pytest.raises(PlanError, match="does not fit the smaller shapes"):
            workers.map([uneven, uneven])
    finally:
        workers.close()


def test_workers_that_never_come_up_are_given_up(
    pool: tuple[Processes, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    workers, notes = pool
    workers._staff(0)
    assert workers._parcel is not None
    workers._parcel = replace(workers._parcel, length=workers._parcel.length + 10**6)
    with pytest.raises(WorkerError, match="4 workers were lost in turn"):
        workers.map(plans(2))
    assert len(notes) == 3
    assert "Traceback" in capfd.readouterr().err  # the reason


def test_workers_start_when_they_pay_and_not_for_one_plan() -> None:
    scorer = Scorer(resnet(), chunks(resnet(), load_embedded("digits"), 16))
    patient, asked_once = Processes(scorer, 2, print), Processes(scorer, 2, print, patience=0.0)
    assert patient.map(plans(3)) == [scorer(k) for k in plans(3)]
    assert asked_once.map(plans(1)) == [scorer(plans(1)[0])]
    assert not patient.workers and not asked_once.workers


@pytest.mark.parametrize("text", ["0", "-1", "two", "ray://", "ray", "1.5"])
def test_workers_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--workers"):
        find_workers(text, Scorer(resnet(), chunks(resnet(), load_embedded("digits"), 4)), print)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError) as caught:
        Evaluator(resnet(), load_embedded("digits"), images=4, workers="ray:")
    assert "prune-networks[ray]" in caught.value.hint


def test_a_score_is_worth_minus_its_error() -> None:
    assert math.isclose(Score(0.75, 1.0).reward, -0.25)
