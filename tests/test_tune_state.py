"""Training that is cut short goes on as if nothing had happened; memory and loss that run out are told."""

from __future__ import annotations

import functools
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from graph.errors import OutputError, TrainingError
from models_zoo import digits
from models_zoo.data import DataSet, TensorSplit
from prune.journal import Journal
from prune.tune import TuneResult, fit
from prune.tune_config import FINE_TUNE_TEXT, TuneConfig
from prune.tune_state import Checkpoints

ROOT = Path(__file__).resolve().parent.parent
SGD = TuneConfig(epochs=3, lr=0.1, batch_size=32)
ADAM = replace(FINE_TUNE_TEXT, epochs=3, batch_size=32, lr=0.01)


class Cut(Exception):
    """The process ends here."""


@functools.cache
def data() -> DataSet:
    whole = digits.load()
    assert isinstance(whole.train, TensorSplit)
    train = TensorSplit(whole.train.images[:160], whole.train.labels[:160], mean=(0.305,), std=(0.376,))
    return replace(whole, train=train)  # 5 steps to an epoch


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
    )


def teacher() -> nn.Module:
    return network().eval()


def timeless(result: TuneResult) -> TuneResult:
    history = tuple(replace(epoch, seconds=0.0) for epoch in result.history)
    return replace(result, history=history, seconds=0.0)


def trained(config: TuneConfig, journal: Journal, cut: int | None = None) -> tuple[nn.Module, TuneResult]:
    """A module trained with a checkpoint after each step, until a step that is its last."""

    def step(done: int, total: int) -> None:
        if done == cut:
            raise Cut

    module = network()
    checkpoints = Checkpoints(journal, seconds=0.0)
    return module, fit(module, data(), config, teacher=teacher(), on_step=step, checkpoints=checkpoints)


def same(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(x, y) for x, y in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize("config", [SGD, ADAM], ids=["sgd", "adamw"])
def test_training_goes_on_from_every_step(tmp_path: Path, config: TuneConfig) -> None:
    wanted, result = trained(config, Journal())
    assert [e.epoch for e in result.history] == [1, 2, 3] and not same(wanted, network())
    path = tmp_path / "journal.jsonl"
    for cut in range(1, 16):  # each leg does one step more than the one before, and is cut short then
        with pytest.raises(Cut):
            trained(config, Journal(path), cut)
        assert len(list(tmp_path.glob("*.safetensors"))) == (cut > 1)
    module, found = trained(config, Journal(path))
    assert same(module, wanted) and timeless(found) == timeless(result)
    again, found = trained(config, Journal(path))  # nothing is left to do
    assert same(again, wanted) and timeless(found) == timeless(result)


def test_early_stopping_stays_stopped(tmp_path: Path) -> None:
    config = replace(SGD, lr=1e-9, epochs=9, patience=2)
    wanted, result = trained(config, Journal(tmp_path / "journal.jsonl"))
    assert len(result.history) < 9
    module, found = trained(config, Journal(tmp_path / "journal.jsonl"))
    assert same(module, wanted) and timeless(found) == timeless(result)


@pytest.mark.parametrize(
    ("draw", "step"),
    [
        pytest.param(lambda x: x + torch.randn_like(x), 3, id="torch"),  # back to the start of the epoch
        pytest.param(lambda x: x + np.random.rand(), 4, id="numpy"),
        pytest.param(lambda x: x * random.random(), 4, id="python"),
    ],
)
def test_an_epoch_that_draws_from_a_global_generator_goes_on(
    tmp_path: Path, draw: Callable[[Tensor], Tensor], step: int
) -> None:
    class Noisy:
        def __len__(self) -> int:
            return 96

        def batches(self, batch_size: int, **how: object) -> object:
            for x, y in data().train.batches(batch_size, limit=96):
                yield draw(x), y

    noisy = replace(data(), train=Noisy())  # type: ignore[arg-type]

    def run(journal: Journal, cut: int | None = None) -> nn.Module:
        def stop(done: int, total: int) -> None:
            if done == cut:
                raise Cut

        module = network()
        fit(module, noisy, SGD, on_step=stop, checkpoints=Checkpoints(journal, seconds=0.0))
        return module

    wanted = run(Journal())
    with pytest.raises(Cut):
        run(Journal(tmp_path / "journal.jsonl"), cut=5)  # the second of three steps in epoch 2
    assert Journal(tmp_path / "journal.jsonl").get("training")["at"]["step"] == step
    np.random.seed(7), random.seed(7)  # as another process would find them
    assert same(run(Journal(tmp_path / "journal.jsonl")), wanted)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_is_told_and_the_training_starts_over(tmp_path: Path, damage: str) -> None:
    wanted, _ = trained(SGD, Journal())
    with pytest.raises(Cut):
        trained(SGD, Journal(tmp_path / "journal.jsonl"), 8)
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-10])
    else:
        file.unlink()
    notes: list[str] = []
    module = network()
    checkpoints = Checkpoints(Journal(tmp_path / "journal.jsonl"), notes.append)
    fit(module, data(), SGD, teacher=teacher(), checkpoints=checkpoints)
    assert len(notes) == 1 and str(file) in notes[0] and "starts over" in notes[0]
    assert same(module, wanted)


def test_other_options_start_over(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        trained(SGD, Journal(tmp_path / "journal.jsonl"), 8)
    config = replace(SGD, lr=0.05)
    module, _ = trained(config, Journal(tmp_path / "journal.jsonl"))
    assert same(module, trained(config, Journal())[0])


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with pytest.raises(Cut):
        trained(SGD, Journal(path), 8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # the kernel refuses as it does on a full disk
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large") as caught:
            trained(SGD, Journal(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in caught.value.hint
    (file,) = tmp_path.glob("*.safetensors")
    assert load_file(file) and Journal(path).get("training")["at"]["step"] == 7
    assert same(trained(SGD, Journal(path))[0], trained(SGD, Journal())[0])


def test_a_loss_that_explodes_keeps_the_best_weights() -> None:
    class Explodes(nn.Module):
        """Fine until its third epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.steps = network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += self.training
            return self.inner(x) * (float("nan") if self.steps > 10 else 1.0)

    module = Explodes()
    two = network()
    with pytest.raises(TrainingError, match="the loss became nan in epoch 3") as caught:
        fit(module, data(), SGD)
    assert "lower the learning rate" in caught.value.hint
    fit(two, data(), SGD, on_epoch=lambda e: None)
    best = Explodes()
    best.steps = -1000
    history = fit(best, data(), SGD).history
    assert history[1].accuracy > history[0].accuracy  # so that the second epoch is the best of the first two
    with pytest.raises(Cut):

        def stop(result: object) -> None:
            if result.epoch == 2:  # type: ignore[attr-defined]
                raise Cut

        second = Explodes()
        fit(second, data(), SGD, on_epoch=stop)
    assert same(module, second)


def test_batches_that_do_not_fit_go_in_parts() -> None:
    """A process with little memory left trains on, and says in how many parts; with less it says so."""
    code = """
import resource
from test_tune_state import *
from graph.capture import capture
from graph.errors import MemoryLimitError
from graph.program import ProgramModule

class Hungry(nn.Module):
    def __init__(self, mebibytes):
        super().__init__()
        self.inner, self.mebibytes = nn.Linear(64, 10), mebibytes  # for each record
    def forward(self, x):
        wide = x.flatten(1)[:, :1].expand(-1, self.mebibytes << 18).clone()
        return self.inner(x.flatten(1)) + 0 * wide.mean(1, keepdim=True)

config = replace(SGD, epochs=1)
fit(network(), data(), config)  # whatever is loaded at first use
program = ProgramModule(capture(Hungry(24).eval(), [torch.zeros(2, *data().input_shape)]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
print(len(fit(Hungry(24), data(), config, note=print).history), "epoch")
try: fit(Hungry(400), data(), config, note=print)
except MemoryLimitError as err: print(err, "|", err.hint)
print(len(fit(program, data(), config, note=print).history), "epoch of the program")
"""
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
    ).stdout  # fmt: skip
    assert "out of memory: batches of 32 go in 2 parts from here on" in told and "1 epoch" in told
    assert "out of memory in a step of 2 records | give it more memory" in told
    assert "1 epoch of the program" in told
