"""Tune: one plain training loop, with or without a teacher.

Stochastic gradient descent with Nesterov momentum, or AdamW for language models, a cosine schedule after a
short linear warmup, and the weights of the best epoch at the end. "Best" is judged on the search split, by
accuracy, or of text by loss; the test split is never seen.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.adapter import prediction
from graph.errors import DataError, MemoryLimitError, TrainingError, UsageError
from graph.shortage import is_out_of_memory
from models_zoo.data import TEXT_UNITS, DataSet, Split
from models_zoo.text import TokenSplit
from prune.distillation import Mixture, distilled
from prune.journal import Journal
from prune.placement import device_of, has_bfloat16, pixelwise
from prune.segmentation import confusion, scores_of
from prune.targets import labelled
from prune.tune_state import Checkpoints, Progress

_TOKENS = 4096  # of text that are evaluated at once
_CLIP = 5.0  # largest gradient norm; a healthy run stays below it, a cut network's first steps may not
_ASKED = 2048  # training images that a teacher is asked about
_BY_HEART = 0.95  # what it must be right on to know them
_SEED_STRIDE = 1_000_003  # keeps the epochs of one seed apart from those of the next


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """How to train.

    Attributes:
        epochs: passes over the training split; 0 only evaluates.
        lr: the peak learning rate, for the batch size given.
        batch_size: records per step, at least 2 (batch norm needs two).
        momentum: of Nesterov's method; 0 is plain gradient descent.
        weight_decay: on weights; biases and normalisation parameters are left out (Goyal et al. 2017).
        distill: share of the distillation loss where there is a teacher, 0 to 1; the labels get the rest.
        temperature: softens both outputs before they are compared.
        mixup: whether a teacher is asked about mixtures of two images (``prune.distillation``).
        patience: stop after so many epochs without a better one; never when None.
        warmup: share of all steps in which the learning rate rises to its peak.
        seed: fixes order, augmentation and dropout.
        optimizer: ``sgd``, or ``adamw`` (Loshchilov and Hutter 2019), which has no use for `momentum`.

    Raises:
        UsageError: a value out of range.
    """

    epochs: int = 10
    lr: float = 0.02
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    distill: float = 0.5
    temperature: float = 4.0
    mixup: bool = False
    patience: int | None = None
    warmup: float = 0.05
    seed: int = 0
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        """Check every value."""
        allowed: dict[str, tuple[bool, str]] = {
            "epochs": (self.epochs >= 0, "at least 0"),
            "lr": (0 < self.lr < math.inf, "a positive number"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "distill": (0 <= self.distill <= 1, "in [0, 1]"),
            "temperature": (0 < self.temperature < math.inf, "a positive number"),
            "mixup": (self.mixup in (True, False), "true or false"),
            "patience": (self.patience is None or self.patience >= 1, "at least 1"),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "seed": (0 <= self.seed < 2**32, "in [0, 2**32)"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
        }
        for field in fields(self):
            good, wanted = allowed[field.name]
            if not good:
                raise UsageError(
                    f"{field.name.replace('_', ' ')} must be {wanted}, not {getattr(self, field.name)}",
                    hint=f"the default is {field.default}",
                )


SCRATCH = TuneConfig(epochs=20, lr=0.1)
SCRATCH_PLAIN = TuneConfig(epochs=20, lr=0.03)  # deep, no shortcuts: at 0.1 these hardly start to learn
SCRATCH_TRANSFORMER = TuneConfig(epochs=20, lr=1e-3, batch_size=64, weight_decay=0.05, optimizer="adamw")
SCRATCH_TEXT = TuneConfig(epochs=1, lr=4e-3, batch_size=16, weight_decay=0.1, optimizer="adamw")
FINE_TUNE = TuneConfig(mixup=True)
FINE_TUNE_TEXT = replace(SCRATCH_TEXT, lr=1e-3)


# The losses of a batch: (module, records, labels) -> one after another
Losses = Callable[[nn.Module, Tensor, Tensor], Iterable[Tensor]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is on a split.

    Attributes:
        accuracy: share of the labels that have the largest output, 0 to 1; of text the tokens foreseen.
        loss: mean cross entropy in nats; not finite where the outputs are not.
        records: how many labels were looked at: images, bytes or tokens.
        unit: which of these.
        bytes_per_token: of text, where it is known.
        mean_iou: of masks the mean intersection over union of the classes.
        mean_dice: of masks the mean Dice coefficient.
    """

    accuracy: float
    loss: float
    records: int
    unit: str = "images"
    bytes_per_token: float | None = None
    mean_iou: float | None = None
    mean_dice: float | None = None

    @property
    def is_text(self) -> bool:
        """Whether it is of a language model."""
        return self.unit in TEXT_UNITS

    @property
    def bits(self) -> float:
        """The loss in bits: for each byte of a text where that is known, else for each label."""
        return self.loss / math.log(2) / (self.bytes_per_token or 1.0)

    @property
    def perplexity(self) -> float:
        """Of each label: e to the loss."""
        return math.exp(min(self.loss, 700.0))

    @property
    def rank(self) -> tuple[float, float]:
        """The greater, the better: by accuracy or mean IoU, of equal ones by loss; text by loss alone."""
        if self.is_text:
            return (-self.loss, 0.0)
        return (self.accuracy if self.mean_iou is None else self.mean_iou, -self.loss)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; a loss that is not finite is null."""
        finite = math.isfinite(self.loss)
        found: dict[str, Any] = {
            "accuracy": self.accuracy,
            "loss": self.loss if finite else None,
            "records": self.records,
            "unit": self.unit,
        }
        if self.is_text and finite:
            found |= {"bits": self.bits, "perplexity": self.perplexity}
        if self.mean_iou is not None:
            found |= {"mean_iou": self.mean_iou, "mean_dice": self.mean_dice}
        return found

    def told(self) -> str:
        """The figures that count, in words."""
        if self.mean_iou is not None:
            return f"mIoU {self.mean_iou:.2%}, Dice {self.mean_dice:.2%}, accuracy {self.accuracy:.2%}"
        if not self.is_text:
            return f"accuracy {self.accuracy:.2%}"
        label = "byte" if self.unit == "bytes" else "token"
        return f"{self.bits:.4f} bits per {self.each}, perplexity {self.perplexity:.3f} per {label}"

    @property
    def each(self) -> str:
        """What ``bits`` are counted for: byte, token or image."""
        return "byte" if self.bytes_per_token else self.unit.removesuffix("s")


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
        best_epoch: whose weights the module has now; 0 where all were clearly worse than the untouched model.
        best_accuracy: of that epoch on the search split, 0 to 1.
        seconds: wall time.
    """

    history: tuple[EpochResult, ...]
    best_epoch: int
    best_accuracy: float
    seconds: float


def evaluate(
    module: nn.Module,
    split: Split,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Measure accuracy and loss in eval mode, without gradients; the module's mode is restored.

    Args:
        module: takes (B, C, H, W), returns logits (B, K); or takes (B, L), returns (B, L, K).
        split: what to look at, in its stored order.
        batch_size: records at once; the result does not depend on it, but for rounding. 256 images, or the
            windows that hold 4,096 tokens, when left out.
        limit: only the first records, so many.
        device: where the module is; found from its weights when left out.

    Raises:
        DataError: no records, or labels that the model has no output for.
    """
    place = torch.device(device) if device is not None else device_of(module)
    correct, loss, records, unit, rate = 0, 0.0, 0, "images", None
    pairs: Tensor | None = None  # of masks: how many pixels of each class were given to each
    at_once = 256
    if isinstance(split, TokenSplit):
        rate, at_once = split.bytes_per_token, max(1, _TOKENS // split.length)
        unit = "bytes" if rate == 1 else "tokens"
    size = batch_size or at_once
    try:
        with torch.no_grad(), _eval_mode(module):
            for x, y in split.batches(size, limit=limit):
                masks = y.dim() == 3
                logits, y = labelled(module, pixelwise(x.to(place)), y.to(place))  # (B, K), (B,)
                if masks:
                    more = confusion(logits.argmax(1), y, logits.shape[1])
                    unit, pairs = "pixels", more if pairs is None else pairs + more
                loss += F.cross_entropy(logits, y, reduction="sum").item()
                correct += int((logits.argmax(1) == y).sum())
                records += len(y)
    except (MemoryError, RuntimeError) as err:
        if size == 1 or not is_out_of_memory(err):
            raise
        records = -1
    if records < 0:  # out of the handler, which holds what the failed batch made
        return evaluate(module, split, batch_size=size // 2, limit=limit, device=device)
    if not records:
        raise DataError("there are no records to evaluate on", hint="give a larger limit or more data")
    masks_met = None if pairs is None else scores_of(pairs)
    return Evaluation(
        correct / records,
        loss / records,
        records,
        unit,
        rate,
        None if masks_met is None else masks_met.mean_iou,
        None if masks_met is None else masks_met.mean_dice,
    )


def knows_by_heart(teacher: nn.Module, split: Split) -> bool:
    """Whether a teacher is right on nearly all images of a split, the first 2,048 at most, as they are.

    Then what it says of them is little more than their labels, and it pays to ask it about mixtures; of
    images that it is unsure of it tells more, and mixtures only make them harder (docs/results.md).

    Args:
        teacher: as for `evaluate`.
        split: what it may have been trained on.
    """
    return evaluate(teacher, split, limit=min(_ASKED, len(split))).accuracy >= _BY_HEART


def settled(config: TuneConfig, teacher: nn.Module | None, split: Split) -> TuneConfig:
    """The configuration with mixtures only of images, and where a teacher that counts knows them by heart."""
    if not config.mixup or not config.distill or teacher is None:
        return replace(config, mixup=False)
    record, _ = next(iter(split.batches(1, limit=1)))
    return replace(config, mixup=Mixture.suits(record) and knows_by_heart(teacher, split))


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
    """Train a module in place and leave it in eval mode with the weights of its best epoch.

    With a teacher the loss is that of ``prune.distillation``. The untouched module then counts as epoch 0: if
    the search split shows all epochs to be worse than it, by two standard errors of the difference, the
    training is undone. A smaller difference shows nothing, all the less as the teacher may know the images of
    the search split, and what was just cut out of it still does.

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
        TrainingError: the loss is not finite (the weights are then those of the best epoch so far), nothing
            is trainable, or the teacher's outputs have another shape.
        MemoryLimitError: two records are too many for the memory.
        DataError: fewer than two training records, or labels that the model has no output for.
    """
    start = time.perf_counter()
    device = device_of(module)
    per_epoch = _steps(len(data.train), config.batch_size)
    total = per_epoch * config.epochs
    optimizer = _optimizer(module, config)
    best = _Best(patience=config.patience)
    keeper, told = checkpoints or Checkpoints(Journal()), asdict(config)
    # Whether the module as it is counts as an epoch.
    untouched = any(given is not None for given in (teacher, losses, initial)) or not config.epochs
    losses = losses or (lambda module, x, y: [_loss(module, teacher, x, y, config)])
    judge = judge or (lambda module: evaluate(module, data.search, device=device))
    with _seeded(config.seed, device), _eval_mode(teacher):
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
                value = _gradients(module, pixelwise(x.to(device)), y.to(device), losses, at, note)
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
        best.epoch, best.found, best.state = at.best["epoch"], Evaluation(**at.best["found"]), state
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
    """The best epoch so far and its weights."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.epoch = 0
        self.found: Evaluation | None = None
        self.state: dict[str, Tensor] = {}

    @property
    def accuracy(self) -> float:
        return -1.0 if self.found is None else self.found.accuracy

    def offer(self, epoch: int, module: nn.Module, found: Evaluation) -> None:
        first = self.epoch == 0  # so far the best one is the untouched module
        if self.found is None or found.rank > self.found.rank or (first and _even(found, self.found)):
            self.epoch, self.found = epoch, found
            self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def noted(self, at: Progress) -> Progress:
        """Where a run stands, with what is known of its best epoch."""
        found = {} if self.found is None else {"epoch": self.epoch, "found": asdict(self.found)}
        return replace(at, best=found)

    def patience_is_over(self, epoch: int) -> bool:
        return self.patience is not None and epoch - self.epoch >= self.patience


def _even(a: Evaluation, b: Evaluation) -> bool:
    """Whether two accuracies on the same images lie within two standard errors of their difference."""
    if a.is_text or a.mean_iou is not None:  # these go by other figures
        return False
    variance = (a.accuracy * (1 - a.accuracy) + b.accuracy * (1 - b.accuracy)) / a.records
    return abs(a.accuracy - b.accuracy) <= 2 * math.sqrt(variance)


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


@contextmanager
def _eval_mode(module: nn.Module | None) -> Iterator[None]:
    """Put a module into eval mode for a while."""
    was_training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        yield
    finally:
        if module is not None:
            module.train(was_training)
