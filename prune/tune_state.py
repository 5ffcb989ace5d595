"""Checkpoints of a training run: everything that its next step depends on, on the disk for good.

The weights of the model and of the epoch that is taken so far, the optimizer's and the random generators'
states are one safetensors file; where the training stands is an entry of the journal that names the file and
its SHA-256. So a checkpoint is there as a whole or not at all, and nothing is ever unpickled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from graph.errors import ModelFileError
from prune.files import sha256, write_file
from prune.journal import Journal
from prune.placement import device_of

_KEY = "training"
_MODEL, _BEST, _OPTIMIZER, _RANDOM = "model", "best", "optimizer", "random"
_SECONDS = 60.0  # of training between checkpoints within an epoch


@dataclass
class Progress:
    """Where a training run stands.

    Attributes:
        epoch: epochs that are done.
        batches: done of the next one.
        step: steps done in all.
        loss_sum: of the steps of the next epoch.
        rate: learning rate of the last step.
        parts: into how many parts a batch goes, for want of memory.
        best: the epoch that is taken so far and the best one, and what they are worth, as JSON.
        history: results of the epochs, as JSON.
    """

    epoch: int = 0
    batches: int = 0
    step: int = 0
    loss_sum: float = 0.0
    rate: float = 0.0
    parts: int = 1
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """Writes checkpoints and finds the last one.

    Args:
        journal: of the run; without a folder nothing is written.
        note: is told of a checkpoint that is damaged, or gone.
        seconds: between checkpoints within an epoch; each epoch has one at its end.
    """

    def __init__(
        self, journal: Journal, note: Callable[[str], None] = lambda _: None, *, seconds: float = _SECONDS
    ) -> None:
        self.journal, self.note, self.seconds = journal, note, seconds
        self._last = time.monotonic()
        self._exact = True

    @property
    def due(self) -> bool:
        """Whether the last one was long enough ago, and the training could go on from here."""
        long_ago = time.monotonic() - self._last >= self.seconds
        return self.journal.folder is not None and self._exact and long_ago

    def watched(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, and whether to make them draws from torch's global generator.

        Batches that do would come out otherwise in an epoch that goes on in its midst, where those already
        done are made once more: such an epoch has a checkpoint at its end alone.
        """
        before = torch.get_rng_state()
        for batch in batches:
            self._exact = self._exact and torch.equal(before, torch.get_rng_state())
            yield batch
            before = torch.get_rng_state()

    def save(
        self,
        config: Mapping[str, Any],
        at: Progress,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        best: Mapping[str, Tensor],
    ) -> None:
        """Write a checkpoint; the one before goes when it is there.

        Args:
            config: how the training goes; another one does not go on from here.
            at: where it stands.
            module: with its present weights.
            optimizer: with its state.
            best: the weights of the epoch that is taken so far.

        Raises:
            OutputError: it cannot be written; the one before stays.
        """
        folder = self.journal.folder
        if folder is None:
            return
        tensors = _named(_MODEL, module.state_dict()) | _named(_BEST, best)
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= _named(f"{_OPTIMIZER}.{index}", values)
        tensors[f"{_RANDOM}.cpu"] = torch.get_rng_state()
        if (device := device_of(module)).type == "cuda":
            tensors[f"{_RANDOM}.cuda"] = torch.cuda.get_rng_state(device)
        path = folder / f"{self.journal.name.replace('/', '-')}tune-{at.epoch}-{at.batches}.safetensors"
        data = save(tensors)  # not save_file, whose error on a full disk is none of the system's
        write_file(path, lambda temporary: temporary.write_bytes(data))
        before = self.journal.get(_KEY)
        entry = {"config": dict(config), "file": path.name, "sha256": sha256(path), "at": asdict(at)}
        self.journal.put({_KEY: entry})
        if before is not None and before["file"] != path.name:
            with suppress(OSError):
                (folder / before["file"]).unlink()
        self._last = time.monotonic()

    def load(
        self, config: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[Progress, dict[str, Tensor]] | None:
        """Put a training run back to where its last checkpoint was.

        Returns:
            Where it stands and the weights of the epoch that is taken so far; None where it starts.
        """
        entry, folder = self.journal.get(_KEY), self.journal.folder
        if entry is None or folder is None:
            return None
        if entry["config"] != dict(config):
            self.note("the options of fine-tuning are other ones: it starts over")
            return None
        path = folder / Path(entry["file"]).name
        try:
            if sha256(path) != entry["sha256"]:
                raise ModelFileError(f"{path} is damaged: it has another SHA-256 than when it was written")
        except ModelFileError as err:
            self.note(f"{err}; the training starts over")
            return None
        parts: dict[str, dict[str, Tensor]] = {_MODEL: {}, _BEST: {}, _OPTIMIZER: {}, _RANDOM: {}}
        for name, tensor in load_file(path).items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        module.load_state_dict(parts[_MODEL])
        state = optimizer.state_dict()
        for name, tensor in parts[_OPTIMIZER].items():
            index, _, key = name.partition(".")
            state["state"].setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(state)
        torch.set_rng_state(parts[_RANDOM]["cpu"])
        if "cuda" in parts[_RANDOM] and (device := device_of(module)).type == "cuda":
            torch.cuda.set_rng_state(parts[_RANDOM]["cuda"], device)
        return Progress(**entry["at"]), parts[_BEST]


def _named(part: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies that share no memory, on the CPU; what is no tensor is left out."""
    return {
        f"{part}.{name}": t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in tensors.items()
        if isinstance(t, Tensor)
    }
