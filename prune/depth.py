"""Depth: how many and which residual blocks of a model stay, decided before anything else is.

A block is a residual branch of the program. What it is worth is measured where it is missed:

| criterion | a block goes that |
|---|---|
| ``loss`` | raises the loss on the search split least when it goes, after those that went before it |
| ``similarity`` | turns the stream least: mean over the records of 1 - cos(before, after), all at once (ShortGPT's block influence, arXiv:2403.03853) |

A model without some of its blocks is a model like any other: what follows - states, channels, the proof,
fine-tuning - knows nothing of them.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.errors import UsageError
from graph.program import Program, ProgramModule, execute
from graph.residual import Branch, residual_branches, without_branches, zeroing
from graph.suggest import suggestion
from models_zoo.data import DataSet
from models_zoo.mamba_lm import MambaLM
from models_zoo.text import LENGTH
from prune.counts import check_count, kept_count
from prune.evaluation import evaluate
from prune.load import LoadedModel
from prune.smaller_mamba import shorter_mamba
from prune.verify import Verification, compared

BlockCriterion = Literal["loss", "similarity"]
BLOCK_CRITERIA: tuple[BlockCriterion, ...] = get_args(BlockCriterion)
_WINDOWS, _IMAGES = 64, 512  # of the search split that blocks are judged on: windows of 256 tokens, or images


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What a user wants of the blocks.

    Attributes:
        text: the share of the blocks that stays, or their number, as the user gave it; None for all.
        criterion: what judges them.

    Raises:
        UsageError: an unknown criterion.
        TargetError: the text is no share and no number.
    """

    text: str | None = None
    criterion: BlockCriterion = "loss"

    def __post_init__(self) -> None:
        if self.criterion not in BLOCK_CRITERIA:
            raise UsageError(
                f"--block-criterion {self.criterion}: unknown",
                hint=suggestion(self.criterion, BLOCK_CRITERIA),
            )
        if self.text is not None:
            check_count("--blocks", self.text, "blocks")

    def kept(self, blocks: int) -> int:
        """How many of a number of blocks stay.

        Raises:
            TargetError: none would stay, or all.
        """
        assert self.text is not None
        return kept_count("--blocks", self.text, blocks, "blocks")


@dataclass(frozen=True)
class Depth:
    """Which blocks went.

    Attributes:
        config: what was asked.
        blocks: names of all, in the order in which they run.
        dropped: places of those that went, in the order in which they did.
        scores: what each of these was worth when it went: the loss without it, or how far it turned the
            stream.
        whole: the loss with all blocks; None where no loss was measured.
        records: how many the blocks were judged on.
        max_error: of the proof that what is left computes what the whole computes with the branches that went
            at zero; None where it did not run.
    """

    config: BlockConfig
    blocks: tuple[str, ...]
    dropped: tuple[int, ...]
    scores: tuple[float, ...]
    whole: float | None
    records: int
    max_error: float | None = None

    @property
    def kept(self) -> tuple[int, ...]:
        """Places of the blocks that stay."""
        return tuple(i for i in range(len(self.blocks)) if i not in self.dropped)

    @staticmethod
    def from_json(data: Mapping[str, Any], config: BlockConfig) -> Depth:
        """Read what ``to_json`` wrote."""
        return Depth(
            config,
            tuple(data["blocks"]),
            tuple(int(d["place"]) for d in data["dropped"]),
            tuple(float(d["score"]) for d in data["dropped"]),
            data["loss_of_all"],
            int(data["records"]),
            data["max_error"],
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "asked": self.config.text,
            "criterion": self.config.criterion,
            "blocks": list(self.blocks),
            "dropped": [
                {"name": self.blocks[i], "place": i, "score": s}
                for i, s in zip(self.dropped, self.scores, strict=True)
            ],
            "loss_of_all": self.whole,
            "records": self.records,
            "max_error": self.max_error,
        }


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model that can be left out one by one.

    Attributes:
        loaded: the whole model.
        program: captured from it.
        branches: its residual branches, in the order in which they run.
    """

    loaded: LoadedModel
    program: Program
    branches: tuple[Branch, ...]

    @staticmethod
    def of(loaded: LoadedModel, program: Program) -> Blocks:
        """Find the blocks of a model.

        Raises:
            UsageError: there are not several.
        """
        branches = residual_branches(program)
        if len(branches) < 2:
            raise UsageError(
                f"{loaded.path} has {len(branches) or 'no'} residual block{'s' * (not branches)}: "
                "--blocks needs several",
                hint="--blocks is for networks that add what a block computes to what it was given",
            )
        return Blocks(loaded, program, branches)

    def without(self, dropped: Sequence[int]) -> nn.Module:
        """The model without some of its blocks, by their places; a Mamba's layers are numbered anew."""
        own = self.loaded.module
        if isinstance(own, MambaLM):
            layers = [i for i in range(own.sizes.n_layer) if i not in dropped]
            return shorter_mamba(own, layers)
        return ProgramModule(without_branches(self.program, [self.branches[i] for i in dropped]))

    def proof(self, depth: Depth, shorter: Program) -> Verification:
        """That what is left computes what the whole computes with the branches that went at zero."""
        return compared(self.program, zeroing(self.branches[i] for i in depth.dropped), shorter)


def judge(config: BlockConfig, blocks: Blocks, data: DataSet, on_step: Callable[[int, int], None]) -> Depth:
    """Judge the blocks of a model: those go that are missed least.

    Args:
        config: what the user wants.
        blocks: of the model.
        data: its search split judges.
        on_step: called after each measurement with how many were made, and how many there are.

    Raises:
        TargetError: none would stay, or all.
    """
    count = len(blocks.branches)
    gone = count - config.kept(count)
    records = _WINDOWS * LENGTH // data.input_shape[0] if data.is_text else _IMAGES
    records = max(1, min(records, len(data.search)))
    whole: float | None = None
    if config.criterion == "similarity":
        at_once = max(1, 2048 // data.input_shape[0]) if data.is_text else 128
        batches = ((x,) for x, _ in data.search.batches(at_once, limit=records))
        turned = turned_by(blocks.program, blocks.branches, batches)
        dropped = sorted(range(count), key=lambda i: turned[i])[:gone]
        scores = [turned[i] for i in dropped]
    else:
        whole = evaluate(blocks.loaded.module, data.search, limit=records).loss
        dropped, scores = _missed_least(blocks, gone, data, records, on_step)
    names = tuple(b.name for b in blocks.branches)
    return Depth(config, names, tuple(dropped), tuple(scores), whole, records)


def _missed_least(
    blocks: Blocks, gone: int, data: DataSet, records: int, on_step: Callable[[int, int], None]
) -> tuple[list[int], list[float]]:
    """The blocks that go, each the one without which the loss is least, and these losses."""
    count = len(blocks.branches)
    total, done = sum(count - k for k in range(gone)), 0
    dropped: list[int] = []
    scores: list[float] = []
    for _ in range(gone):
        losses: dict[int, float] = {}
        for i in sorted(set(range(count)) - set(dropped)):
            loss = evaluate(blocks.without([*dropped, i]), data.search, limit=records).loss
            losses[i] = loss if loss == loss else float("inf")
            done += 1
            on_step(done, total)
        best = min(losses, key=lambda i: losses[i])
        dropped.append(best)
        scores.append(losses[best])
    return dropped, scores


def turned_by(
    program: Program, branches: Sequence[Branch], batches: Iterable[Sequence[Tensor]]
) -> list[float]:
    """For each branch the mean of 1 - cos between the stream before and after it.

    Args:
        program: the whole.
        branches: of it.
        batches: the inputs of the program, record by record.
    """
    sums, seen = [0.0] * len(branches), 0
    wanted = {name for b in branches for name in (b.stream, b.add)}
    for inputs in batches:
        env: dict[str, Any] = {}
        with torch.no_grad():
            for node in execute(program, program.tensors, inputs, env=env):
                for name in program.last_uses.get(node.name, ()):
                    if name not in wanted:
                        del env[name]
        for i, b in enumerate(branches):
            sums[i] += len(inputs[0]) * float(1 - _cosine(env[b.stream], env[b.add]))
        seen += len(inputs[0])
    return [s / seen for s in sums]


def _cosine(before: Tensor, after: Tensor) -> Tensor:
    """Mean cosine over all places between their channels: dimension 1 of images, else the last one."""
    return F.cosine_similarity(before, after, dim=1 if before.dim() == 4 else -1).mean()
