"""What ``prune compress`` is asked to do, and whoever wants to see it at work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from graph.errors import UsageError
from graph.suggest import suggestion
from models_zoo.data import DataSet
from prune.demands import Demand
from prune.depth import BlockConfig
from prune.importance import CRITERIA, Criterion
from prune.load import ModelSource
from prune.placement import CPU
from prune.selection import Selection
from prune.states import StateConfig
from prune.trials import Trial
from prune.tune import EpochResult
from prune.tune_config import TuneConfig

_LATENCY_ROUND_TO = 4  # onnxruntime's fast layout for convolutions wants multiples of it


class Listener(Protocol):
    """Whoever wants to see a run: the command line draws bars, tests collect."""

    def stage(self, title: str) -> None:
        """A stage begins."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def trial(self, trial: Trial) -> None:
        """A plan was scored."""

    def epoch(self, result: EpochResult) -> None:
        """An epoch of fine-tuning ended."""

    def step(self, done: int, total: int) -> None:
        """A step of fine-tuning, or the timing of an operator, ended."""


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """What ``prune compress`` is asked to do.

    Attributes:
        source: the model.
        demands: the limits, one for each limited quantity; see ``prune.demands``. There may be none where
            ``states`` or ``blocks`` says how many of these stay.
        output: folder of the results.
        data: name of the data set, ``none``, or the data set itself; the model file's own when left out.
        planner: ``search``, or a baseline that follows from the weights: ``uniform``, ``global``. The search
            when left out, ``uniform`` without data.
        importance: criterion that ranks the channels of a group; left out, magnitude, or in a search on
            images the one that suits the network, see ``rl.ranking``.
        selection: what may be pruned, and how much stays.
        round_to: kept counts are multiples of this; left out, 4 where the latency is limited, else 1, and
            blocks for channels of convolutions, see ``prune.alignment``.
        states: how many and which states of a Mamba stay.
        blocks: how many and which residual blocks stay.
        device: computes scores, fits and training; the rest is the CPU's.
        reconstruct: whether the weights that remain may be fitted to what the whole model made, see
            ``prune.reconstruct``.
        tune: how to fine-tune; 0 epochs leave it out.
        tune_text: the same for language models; as ``tune`` when left out.
        seed: of everything random.
        search: words of the command line that say how the planner searches, for the report.
        force: replace files of an earlier run.
        temporary: the output goes away with whoever asked for it.
        resume: go on with the unfinished run in ``output``, which must be the same one.
        options: what the command line was told, by name, as JSON data, for whoever resumes the run.
        verify: prove equality in float64 before anything is written.
    """

    source: ModelSource
    demands: tuple[Demand, ...]
    output: Path
    data: str | DataSet | None = None
    planner: str | None = None
    importance: Criterion | None = None
    selection: Selection = field(default_factory=Selection)
    round_to: int | None = None
    states: StateConfig = field(default_factory=StateConfig)
    blocks: BlockConfig = field(default_factory=BlockConfig)
    device: torch.device = CPU
    reconstruct: bool = True
    tune: TuneConfig = field(default_factory=TuneConfig)
    tune_text: TuneConfig | None = None
    seed: int = 0
    search: tuple[str, ...] = ()
    force: bool = False
    temporary: bool = False
    resume: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    verify: bool = True

    def __post_init__(self) -> None:
        if self.importance is not None and self.importance not in CRITERIA:
            raise UsageError(
                f"--importance {self.importance}: unknown", hint=suggestion(self.importance, CRITERIA)
            )
        if self.round_to is not None and self.round_to < 1:
            raise UsageError(f"--round-to {self.round_to}: must be at least 1")
        if self.blocks.text is not None and self.limits_latency:
            raise UsageError("--blocks and --latency do not go together", hint="limit --flops in its place")
        named = self.source.module is not None or self.source.is_named
        if not named and self.output.resolve() == self.source.path.resolve():
            raise UsageError(f"the output {self.output} is the model itself", hint="name another folder")

    def tuning(self, data: DataSet | None) -> TuneConfig:
        """How to fine-tune on a data set."""
        return self.tune_text if data is not None and data.is_text and self.tune_text else self.tune

    @property
    def limits_latency(self) -> bool:
        """Whether the latency is among the limits."""
        return any(d.name == "latency" for d in self.demands)

    @property
    def criterion(self) -> Criterion:
        """What ranks the channels of a group, before the search tries others."""
        return self.importance or "magnitude"

    @property
    def multiple(self) -> int:
        """Kept counts are multiples of this."""
        return self.round_to or (_LATENCY_ROUND_TO if self.limits_latency else 1)

    @property
    def aligns(self) -> bool:
        """Whether channels of convolutions are kept in blocks: nobody says otherwise."""
        return self.round_to is None
