"""Tune: one plain training loop, with or without a teacher.

Stochastic gradient descent with Nesterov momentum, or AdamW for language models, a cosine schedule after a
short linear warmup, and at the end the weights of the last epoch that is as good as any on the search split,
by accuracy, or of text by loss; the test split is never seen.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.adapter import prediction
from graph.errors import DataError, MemoryLimitError, TrainingError
from graph.shortage import is_out_of_memory
from models_zoo.data import DataSet
from prune.distillation import Mixture, distilled
from prune.evaluation import Evaluation, eval_mode, evaluate, even
from prune.journal import Journal
from prune.placement import device_of, has_bfloat16, ordered_for
from prune.targets import labelled
from prune.tune_config import TuneConfig
from prune.tune_state import Checkpoints, Progress

_CLIP = 5.0  # largest gradient norm; a healthy run stays below it, a cut network's first steps may not
_SEED_STRIDE = 1_000_003  # keeps the epochs of one seed apart from those of the next


# The losses of a batch: (module, records, labels) -> one after another
Losses = Callable[[nn.Module, Tensor, Tensor], Iterable[Tensor]]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch.

    Attributes:
        epoch: counted from 1.
        epochs: how many were asked for.
        loss: mean training loss over the epoch, the teacher's part included.
        found: on the search split after the epoch.
        lr: learning rate of the epoch's last step.
        seconds: wall time of training and evaluation.
    """

    epoch: int
    epochs: int
    loss: float
    found: Evaluation
    lr: float
    seconds: float

    @property
    def accuracy(self) -> float:
        """On the search split, 0 to 1."""
        return self.found.accuracy


@dataclass(frozen=True, slots=True)
class TuneResult:
    """A whole run.

    Attributes:
        history: every epoch that ran.
        best_epoch: whose weights the module has now, the last of those as good as any; 0 where all were
            clearly worse than the untouched model.
        best_accuracy: of that epoch on the search split, 0 to 1.
        seconds: wall time.
    """

    history: tuple[EpochResult, ...]
    best_epoch: int
    best_accuracy: float
    seconds: float


def fit(
    module: nn.Module,
    data: DataSet,
    config: TuneConfig,
    *,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
    checkpoints: Checkpoints | None = None,
    initial: Mapping[str, Tensor] | None = None,
    losses: Losses | None = None,
    judge: Callable[[nn.Module], Evaluation] | None = None,
) -> TuneResult:
    """Train a module in place and leave it in eval mode with the weights of the last epoch as good as any.

    As good as any are epochs that the search split does not show to be worse than its best one, by two
    standard errors of the difference. The last of them is taken since along the schedule the steps become
    small, which the few images of a search split hardly tell (docs/results.md).

    With a teacher the loss is that of ``prune.distillation``. The untouched module then counts as epoch 0: if
    all epochs are clearly worse than it, the training is undone. A smaller difference shows nothing, all the
    less as the teacher may know the images of the search split, and what was just cut out of it still does.

    On CUDA the student computes in bfloat16 where the device can. On a CPU the same seed gives the same
    weights, also where the training goes on from a checkpoint. A batch that does not fit into memory goes in
    parts whose gradients add up, as few of them as fit; each is mixed by itself.

    Args:
        module: as for `evaluate`; trained on the device that it is on.
        data: trained on ``train``, judged on ``search``.
        config: how.
        teacher: on the same device, with outputs of the same shape; not changed.
        on_epoch: called after each epoch.
        on_step: called after each step with the steps done and the steps in all.
        note: is told what the user should know.
        checkpoints: where the training goes on from, and leaves how far it came.
        initial: the module's state to begin from, where it is not the present one, which stays epoch 0.
        losses: of a batch, in place of the one above; each is differentiated before the next one is asked
            for. What they draw they draw from torch's global generator.
        judge: what an epoch is worth; as ``evaluate`` on the search split when left out.

    Raises:
        TrainingError: the loss is not finite (the weights are then those taken so far), nothing
            is trainable, or the teacher's outputs have another shape.
        MemoryLimitError: two records are too many for the memory.
        DataError: fewer than two training records, or labels that the model has no output for.
    """
    start = time.perf_counter()
    device, ordered = device_of(module), ordered_for(module, teacher)
    per_epoch = _steps(len(data.train), config.batch_size)
    total = per_epoch * config.epochs
    optimizer = _optimizer(module, config)
    best = _Best(patience=config.patience)
    keeper, told = checkpoints or Checkpoints(Journal()), asdict(config)
    # Whether the module as it is counts as an epoch.
    untouched = any(given is not None for given in (teacher, losses, initial)) or not config.epochs
    losses = losses or (lambda module, x, y: [_loss(module, teacher, x, y, config)])
    judge = judge or (lambda module: evaluate(module, data.search, device=device))
    with _seeded(config.seed, device), eval_mode(teacher):
        at = _resumed(keeper.load(told, module, optimizer), best)
        if at is not None:
            note(f"the training goes on after {at.epoch} of {config.epochs} epochs")
        elif untouched:
            best.offer(0, module, judge(module))
        if at is None and config.epochs and initial is not None:
            module.load_state_dict(dict(initial))
        at = at or Progress()
        while at.epoch < config.epochs and not best.patience_is_over(at.epoch):
            begin, epoch = time.perf_counter(), at.epoch + 1
            module.train()
            seed = config.seed * _SEED_STRIDE + epoch
            _seed_data(seed)
            batches = data.train.batches(config.batch_size, shuffle=True, augment=True, seed=seed)
            for index, (x, y) in enumerate(keeper.watched(batches)):
                if index < at.batches:  # done before the run was cut short
                    continue
                if len(y) < 2:  # a last batch of one record: batch norm cannot take its variance
                    continue
                at.rate = config.lr * _schedule(at.step, total, config.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = at.rate
                value = _gradients(module, ordered(x.to(device)), y.to(device), losses, at, note)
                _finite(value, epoch, config, best, module)
                nn.utils.clip_grad_norm_(module.parameters(), _CLIP)
                optimizer.step()
                at.loss_sum += value
                at.step, at.batches = at.step + 1, index + 1
                if on_step is not None:
                    on_step(at.step, total)
                if keeper.due:
                    keeper.save(told, best.noted(at), module, optimizer, best.state)
            found = judge(module)
            _finite(found.loss, epoch, config, best, module)
            seconds = time.perf_counter() - begin
            result = EpochResult(epoch, config.epochs, at.loss_sum / per_epoch, found, at.rate, seconds)
            best.offer(epoch, module, found)
            at.history.append(asdict(result))
            at.epoch, at.batches, at.loss_sum = epoch, 0, 0.0
            keeper.save(told, best.noted(at), module, optimizer, best.state)
            if on_epoch is not None:
                on_epoch(result)
    module.load_state_dict(best.state)
    module.eval()
    history = tuple(EpochResult(**(e | {"found": Evaluation(**e["found"])})) for e in at.history)
    return TuneResult(history, best.epoch, best.accuracy, time.perf_counter() - start)


def _resumed(loaded: tuple[Progress, dict[str, Tensor]] | None, best: _Best) -> Progress | None:
    if loaded is None:
        return None
    at, state = loaded
    if at.best:
        best.resume(at.best, state)
    return at


def _gradients(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    losses: Losses,
    at: Progress,
    note: Callable[[str], None],
) -> float:
    """The loss of a batch, and its gradients in the parameters.

    Raises:
        MemoryLimitError: two records are too many.
    """
    while True:
        parts = min(at.parts, len(y) // 2)
        value = 0.0
        try:
            module.zero_grad()
            for some, labels in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
                for each in losses(module, some, labels):
                    loss = each * (len(labels) / len(y))
                    value += loss.item()
                    if not math.isfinite(value):
                        return value
                    loss.backward()  # type: ignore[no-untyped-call]
            return value
        except (MemoryError, RuntimeError) as err:
            if not is_out_of_memory(err):
                raise
            if len(y) // (2 * parts) < 2:
                raise MemoryLimitError(
                    f"out of memory in a step of {-(-len(y) // parts)} records", hint="give it more memory"
                ) from err
        at.parts = 2 * parts
        note(f"out of memory: batches of {len(y)} go in {at.parts} parts from here on")


def _finite(loss: float, epoch: int, config: TuneConfig, best: _Best, module: nn.Module) -> None:
    if not math.isfinite(loss):
        if best.state:
            module.load_state_dict(best.state)
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch} at a peak learning rate of {config.lr:g}",
            hint=f"lower the learning rate, for example to {config.lr / 10:g}",
        )


class _Best:
    """The epoch that is taken so far and its weights: the last one as good as any.

    Attributes:
        epoch: which one.
        found: what it is worth.
        state: its weights.
        top: what the best epoch is worth.
        since: which one that is.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.epoch = self.since = 0
        self.found: Evaluation | None = None
        self.top: Evaluation | None = None
        self.state: dict[str, Tensor] = {}

    @property
    def accuracy(self) -> float:
        return -1.0 if self.found is None else self.found.accuracy

    def offer(self, epoch: int, module: nn.Module, found: Evaluation) -> None:
        if self.top is None or found.rank > self.top.rank:
            self.top, self.since = found, epoch
        elif not even(found, self.top):
            return
        self.epoch, self.found = epoch, found
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def noted(self, at: Progress) -> Progress:
        """Where a run stands, with what is known of its epochs."""
        if self.found is None or self.top is None:
            return replace(at, best={})
        known = {"epoch": self.epoch, "found": asdict(self.found)}
        return replace(at, best=known | {"since": self.since, "top": asdict(self.top)})

    def resume(self, best: Mapping[str, Any], state: dict[str, Tensor]) -> None:
        """Know again what was noted."""
        self.epoch, self.since, self.state = best["epoch"], best["since"], state
        self.found, self.top = Evaluation(**best["found"]), Evaluation(**best["top"])

    def patience_is_over(self, epoch: int) -> bool:
        return self.patience is not None and epoch - self.since >= self.patience


def _steps(records: int, batch_size: int) -> int:
    """Steps per epoch, without a last batch of one record."""
    steps = records // batch_size + (records % batch_size >= 2)
    if not steps:
        raise DataError(f"{records} training records are too few", hint="give at least two")
    return steps


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: up in a line, then down along half a cosine."""
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def _optimizer(module: nn.Module, config: TuneConfig) -> torch.optim.Optimizer:
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise TrainingError(
            "the model has nothing to train: no parameter takes a gradient", hint="unfreeze some parameters"
        )
    decays = {p: p.dim() > 1 and not getattr(p, "_no_weight_decay", False) for p in trainable}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if decays[p]], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if not decays[p]], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def _loss(module: nn.Module, teacher: nn.Module | None, x: Tensor, y: Tensor, config: TuneConfig) -> Tensor:
    if not config.distill:
        teacher = None
    mixture = Mixture.drawn(x) if teacher is not None and config.mixup else None
    if mixture is not None:
        x = mixture.images(x)
    half = has_bfloat16(x.device)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
        logits_NK, y_N = labelled(module, x, y)
    logits_NK = logits_NK.float()
    if mixture is None:
        cross_entropy = F.cross_entropy(logits_NK, y_N)
    else:
        cross_entropy = mixture.cross_entropy(logits_NK, y)
    if teacher is None:
        return cross_entropy
    with torch.no_grad():
        wanted_NK = prediction(teacher(x)).flatten(0, -2)
    share, temperature = config.distill, config.temperature
    return distilled(cross_entropy, logits_NK, wanted_NK, share=share, temperature=temperature)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw dropout from a seed; the caller's generators go on afterwards as if nothing had happened."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _seed_data(seed: int) -> None:
    """Seed what a user's own data may draw from, so that an epoch that goes on in its midst sees the same."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
