"""Training: every step the largest subnetwork, the smallest one and random ones share one gradient.

The sandwich rule and in-place distillation are those of Yu and Huang (2019, arXiv:1903.05134): the largest
learns from the labels, the others also from what the largest makes of the same records. RaFFM
(arXiv:2310.00247) and SuperSAM (arXiv:2501.08504) train transformers so. A network that was trained before
teaches better as it came: the largest itself is kept near it, and no subnetwork follows a moving teacher.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.errors import UsageError
from graph.suggest import suggestion
from models_zoo.data import DataSet
from prune.distillation import distilled
from prune.evaluation import Evaluation, evaluate
from prune.files import refused
from prune.identity import digest, must_be_the_same, of_data
from prune.journal import Journal
from prune.lock import Lock
from prune.targets import labelled
from prune.tune import EpochResult, TuneResult, fit
from prune.tune_config import TuneConfig
from prune.tune_state import Checkpoints
from supernet.elastic import Subnet
from supernet.net import ElasticModule, Supernet

Teacher = Literal["auto", "original", "largest"]
TEACHERS: tuple[str, ...] = get_args(Teacher)
_KNOWS = 0.5  # a network with less than this share of an even bet's loss has been trained
TRAINING = ".training"  # folder of an unfinished training
SANDWICH = TuneConfig(
    epochs=10, lr=5e-4, batch_size=64, weight_decay=0.05, optimizer="adamw", temperature=2.0
)


@dataclass(frozen=True, kw_only=True)
class SandwichConfig:
    """How a supernet is trained.

    Attributes:
        tune: epochs, rate and so on; ``distill`` is the share of the loss that comes from the teacher.
        random: subnetworks drawn in each step, beside the largest and the smallest.
        removal: with which probability the least salient layer goes in a random one; 0 keeps all.
        teacher: ``original``, the network as it was before, teaches all; ``largest``, as it is in each step,
            the others (in-place distillation); ``auto`` is the former where the network knows something.

    Raises:
        UsageError: a value out of range.
    """

    tune: TuneConfig = SANDWICH
    random: int = 2
    removal: float = 0.5
    teacher: Teacher = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.random <= 16:
            raise UsageError(f"--random {self.random}: from 0 to 16 subnetworks", hint="such as --random 2")
        if not 0 <= self.removal <= 1:
            raise UsageError(f"--removal {self.removal}: a probability", hint="such as --removal 0.5")
        if self.teacher not in TEACHERS:
            raise UsageError(f"--teacher {self.teacher}: unknown", hint=suggestion(self.teacher, TEACHERS))


@dataclass
class Sandwich:
    """The losses of a batch: the largest, the smallest, random ones.

    Attributes:
        net: the supernet.
        config: how.
        original: the network as it was, where it is the teacher of all.
    """

    net: Supernet
    config: SandwichConfig
    original: nn.Module | None = None
    _smallest: Subnet = field(init=False)

    def __post_init__(self) -> None:
        self._smallest = self.net.elastic.smallest

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """One loss after another; the module ends as the largest again."""
        assert isinstance(module, ElasticModule)
        elastic = self.net.elastic
        module.subnet = elastic.largest
        logits, labels = labelled(module, x, y)
        if self.original is None:
            wanted = logits.detach()
            yield F.cross_entropy(logits, labels)
        else:
            with torch.no_grad():
                wanted, _ = labelled(self.original, x, y)
            yield self._distilled(logits, labels, wanted)
        others = [self._smallest]
        others += [elastic.random(self.config.removal) for _ in range(self.config.random)]
        for subnet in others:
            module.subnet = subnet
            logits, labels = labelled(module, x, y)
            yield self._distilled(logits, labels, wanted)
        module.subnet = elastic.largest

    def _distilled(self, logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
        tune = self.config.tune
        cross_entropy = F.cross_entropy(logits, labels)
        return distilled(cross_entropy, logits, wanted, share=tune.distill, temperature=tune.temperature)


def ends(module: nn.Module, data: DataSet) -> tuple[Evaluation, Evaluation]:
    """The largest and the smallest subnetwork on the search split."""
    assert isinstance(module, ElasticModule)
    found = []
    for subnet in (module.elastic.largest, module.elastic.smallest):
        module.subnet = subnet
        found.append(evaluate(module, data.search))
    module.subnet = module.elastic.largest
    return found[0], found[1]


def teacher_of(net: Supernet, data: DataSet, wish: Teacher) -> nn.Module | None:
    """The network as it came, where it is to teach.

    Args:
        net: the supernet before its training.
        data: judged on ``search``.
        wish: ``auto`` looks whether it has been trained, that is, has at most half the loss of an even bet on
            all classes. A supernet that has learnt from itself goes on so.
    """
    if wish == "largest":
        return None
    module = net.teacher
    if wish == "original" or net.original is not None:
        return module
    if "trained" in net.origin:
        return None
    x, y = next(iter(data.search.batches(2)))
    with torch.no_grad():
        classes = labelled(module, x, y)[0].shape[1]
    return module if evaluate(module, data.search).loss < _KNOWS * math.log(classes) else None


def _mean(module: nn.Module, data: DataSet) -> Evaluation:
    """What an epoch is worth: the mean of both ends."""
    large, small = ends(module, data)
    both = {
        name: (getattr(large, name) + getattr(small, name)) / 2
        for name in ("accuracy", "loss", "mean_iou", "mean_dice")
        if getattr(large, name) is not None
    }
    return replace(large, **both)


@contextmanager
def kept(folder: Path | None, net: Supernet, data: DataSet) -> Iterator[Journal]:
    """Where a training keeps how far it came, as long as supernet and data are the same.

    Args:
        folder: is made where it is not there, and goes where no checkpoint came; None keeps nothing.
        net: the supernet as it is before.
        data: what the training sees.

    Raises:
        ResumeError: a training of another supernet, or on other data, is there.
        OutputError: another process is at it.
    """
    journal, lock = Journal(), None
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise refused(folder, err) from err
        lock = Lock(folder / "lock", folder.parent)
        journal = Journal(folder / "journal.jsonl")
    try:
        must_be_the_same(journal, "model", "the supernet", digest(net.program.tensors.values()))
        must_be_the_same(journal, "data", data.name, of_data(data))
        yield journal
    finally:
        journal.close()
        if folder is not None and not any(folder.glob("*.safetensors")):  # nothing to go on from
            shutil.rmtree(folder)
            with suppress(OSError):
                folder.parent.rmdir()
        if lock is not None:
            lock.close()


def train_supernet(
    net: Supernet,
    data: DataSet,
    config: SandwichConfig,
    folder: Path | None,
    *,
    on_epoch: Callable[[EpochResult], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Supernet, TuneResult]:
    """Train a supernet; a training that was cut short goes on where it was.

    Args:
        net: left as it was.
        data: trained on ``train``, judged on ``search``.
        config: how.
        folder: keeps how far it came; the caller removes it once the result is safe. None keeps nothing.
        on_epoch: called after each epoch.
        on_step: called after each step.
        note: is told what the user should know.

    Raises:
        TrainingError: the loss is no longer a finite number.
        ResumeError: an unfinished training of another supernet, or on other data, is in the folder.
        OutputError: another process is at it.
    """
    module = ElasticModule(net)
    with kept(folder, net, data) as journal:
        teacher = teacher_of(net, data, config.teacher)
        drawn = {
            "random": config.random,
            "removal": config.removal,
            "teacher": "largest" if teacher is None else "original",
        }
        if journal.recall("sandwich", lambda: drawn) != drawn:
            note("the options of the sandwich are other ones: what follows is trained with the new ones")
        tuned = fit(
            module,
            data,
            config.tune,
            losses=Sandwich(net, config, teacher),
            judge=lambda m: _mean(m, data),
            on_epoch=on_epoch,
            on_step=on_step,
            note=note,
            checkpoints=Checkpoints(journal, note),
        )
    trained = net.with_weights(module.updated().tensors)
    told = {
        "epochs": config.tune.epochs,
        "best_epoch": tuned.best_epoch,
        "tune": asdict(config.tune),
        **drawn,
    }
    original = net.original
    if teacher is not None and original is None:
        original = net.program.tensors
    return replace(trained, origin={**trained.origin, "trained": told}, original=original), tuned
