"""Scores of states: what each state of a Mamba is worth, measured on calibration text.

A state counts for all channels at once: it is one column of A, and one row of B and of C. The higher its
score, the better it stays. With h the state, w how strongly the mixer's output takes a channel (its gate, and
the length of its column in the output projection), and means or sums over time and channels:

| criterion | score of a state |
|---|---|
| ``delta`` | mean of abs(exp(dt A) - 1): how much of it a step replaces (PerfMamba, arXiv:2511.22849); in Mamba-2, where all states of a head share A, times abs(B) |
| ``contribution`` | sum of abs(C h) |
| ``moment`` | sum of h^2 |
| ``output`` | sum of (w C h)^2: the energy that it adds to the mixer's output |
| ``observability`` | sum over channels of mean(h^2) mean((w C)^2): how far it is driven times how well it is seen, as in balanced truncation (for Mamba-2 GHOST, arXiv:2602.11408) |
| ``elimination`` | when it goes, if always the state goes whose loss, with all that went before, changes the sum of w C h least |
| ``taylor`` | sum over tokens of (C dloss/dC)^2, the first-order change of the loss (arXiv:1906.10771) |
| ``magnitude`` | length of the row that makes its B, times that of C |
| ``random`` | drawn from the seed |

Shapes: B batch, L length, D channels of a group, G groups that share B and C (one in Mamba-1), N states; S
steps of a block of time.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models_zoo.mamba1 import Mamba1Mixer
from models_zoo.mamba_lm import MambaLM
from models_zoo.mamba_trace import Mixer, Trace, traces

StateCriterion = Literal[
    "delta",
    "contribution",
    "moment",
    "output",
    "observability",
    "elimination",
    "taylor",
    "magnitude",
    "random",
]
STATE_CRITERIA: tuple[StateCriterion, ...] = (
    "output", "elimination", "observability", "contribution", "moment", "taylor", "delta", "magnitude",
    "random",
)  # fmt: skip
BLIND: tuple[StateCriterion, ...] = ("magnitude", "random")  # need no text
StateScores = tuple[NDArray[np.float64], ...]  # (G, N) of each layer
Batches = Iterable[tuple[Tensor, Tensor]]


class Block(NamedTuple):
    """A group's states over a block of time.

    Attributes:
        decay: exp(dt A), (S, B, N, D).
        h: states after each step, (S, B, N, D).
        into: B, (S, B, N).
        read: C, (S, B, N).
        weight: w, (S, B, D).
        shared: all states have the same decay.
    """

    decay: Tensor
    h: Tensor
    into: Tensor
    read: Tensor
    weight: Tensor
    shared: bool


def _delta(b: Block) -> Tensor:
    replaced = (1 - b.decay).sum(-1)  # (S, B, N)
    return (replaced * b.into.abs() if b.shared else replaced).sum((0, 1))


def _contribution(b: Block) -> Tensor:
    return (b.h.abs().sum(-1) * b.read.abs()).sum((0, 1))


def _moment(b: Block) -> Tensor:
    return b.h.square().sum((0, 1, 3))


def _output(b: Block) -> Tensor:
    return ((b.h * b.weight[:, :, None]).square().sum(-1) * b.read.square()).sum((0, 1))


def _driven_and_seen(b: Block) -> Tensor:
    seen = torch.einsum("sbn,sbd->nd", b.read.square(), b.weight.square())
    return torch.stack([b.h.square().sum((0, 1)), seen])  # (2, N, D)


def _gram(b: Block) -> Tensor:
    passed = b.h * b.read[..., None] * b.weight[:, :, None]  # (S, B, N, D)
    rows = passed.movedim(2, 0).flatten(1)
    return rows @ rows.t()


_MEASURES: Mapping[StateCriterion, Callable[[Block], Tensor]] = {
    "delta": _delta,
    "contribution": _contribution,
    "moment": _moment,
    "output": _output,
    "observability": _driven_and_seen,
    "elimination": _gram,
}


def state_scores(
    model: MambaLM, criterion: StateCriterion, batches: Batches = (), *, seed: int = 0
) -> StateScores:
    """What each state of each layer is worth.

    Args:
        model: in eval mode; left as it is.
        criterion: how to judge.
        batches: of calibration text, tokens and the tokens after them, (B, L) each; not needed for
            ``magnitude`` and ``random``.
        seed: of ``random``.
    """
    if criterion == "random":
        random = np.random.default_rng(seed)
        return tuple(random.random(s.shape) for s in _magnitudes(model))
    if criterion == "magnitude":
        return _magnitudes(model)
    if criterion == "taylor":
        return _taylor(model, batches)
    sums = _measured(model, batches, _MEASURES[criterion])
    if criterion == "observability":
        return tuple((s[:, 0] * s[:, 1]).sum(-1).numpy() for s in sums)
    if criterion == "elimination":
        return tuple(np.stack([eliminated(gram.numpy()) for gram in s]) for s in sums)
    return tuple(s.numpy() for s in sums)


def _measured(model: MambaLM, batches: Batches, measure: Callable[[Block], Tensor]) -> list[Tensor]:
    """Sums of a measure over all blocks of time, in float64: (G, ...) of each layer."""
    sums: list[Tensor] = []
    with torch.no_grad():
        for ids, _ in batches:
            for index, (mixer, found, _) in enumerate(traces(model, ids)):
                new = _over_time(mixer, found, measure)
                sums[index : index + 1] = [sums[index] + new] if index < len(sums) else [new]
    return sums


def _over_time(mixer: Mixer, found: Trace, measure: Callable[[Block], Tensor]) -> Tensor:
    weights = found.weights(mixer)
    shared = not isinstance(mixer, Mamba1Mixer)
    groups = []
    for group in range(len(found.A)):
        into, read, weight = (t[:, :, group].transpose(0, 1) for t in (found.into, found.read, weights))
        groups.append(
            sum(
                measure(Block(decay, h, into[now], read[now], weight[now], shared)).double()
                for now, decay, h in found.blocks(group)
            )
        )
    return torch.stack(groups)  # type: ignore[arg-type]  # of tensors: no sequence is empty


def _magnitudes(model: MambaLM) -> StateScores:
    found = []
    for mixer in model.modules():
        if not isinstance(mixer, Mixer):
            continue
        with torch.no_grad():
            if isinstance(mixer, Mamba1Mixer):
                lengths = mixer.x_proj.weight[mixer.dt_rank :].norm(dim=1).view(2, 1, -1)
            else:
                both = 2 * mixer.ngroups * mixer.d_state
                taps = mixer.conv1d.weight[-both:].flatten(1).norm(dim=1)
                rows = mixer.in_proj.weight[2 * mixer.d_inner :][:both].norm(dim=1)
                lengths = (rows * taps).view(2, mixer.ngroups, -1)
            found.append((lengths[0] * lengths[1]).double().numpy())
    return tuple(found)


def _taylor(model: MambaLM, batches: Batches) -> StateScores:
    sums = [np.zeros_like(s) for s in _magnitudes(model)]
    for ids, after in batches:
        with torch.enable_grad():
            passes = list(traces(model, ids))
            reads = [found.read for _, found, _ in passes]
            logits = model.lm_head(model.backbone.norm_f(passes[-1][2]))
            loss = F.cross_entropy(logits.flatten(0, 1), after.flatten(), reduction="sum")
            slopes = torch.autograd.grad(loss, reads)
        for total, read, slope in zip(sums, reads, slopes, strict=True):
            total += (read.detach() * slope).double().square().sum((0, 1)).numpy()
    return tuple(sums)


def eliminated(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores that grow in the order in which states go.

    Always the state goes whose loss makes the error, the squared sum of all that went, smallest; its score is
    the largest error so far.

    Args:
        gram: inner products of what the states pass on, (N, N).
    """
    count = len(gram)
    scores, gone = np.zeros(count), np.zeros(count, dtype=bool)
    error, cross = 0.0, np.zeros(count)  # of all that went; of each with their sum
    for step in range(count):
        after = np.where(gone, np.inf, error + 2 * cross + np.diag(gram))
        state = int(after.argmin())
        error = float(after[state])
        cross += gram[state]
        gone[state] = True
        # Errors may cancel as more states go: the order is kept by the steps.
        scores[state] = max(error, float(scores.max()) * (1 + 1e-9 * (step + 1)))
    return scores
