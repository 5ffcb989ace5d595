"""Compensation: what remains of a Mamba takes over what its removed states passed on, in closed form.

In Mamba-1, C is linear in the inputs u of the scan. So of the K states that stay, how each is read can be any
linear map of u: the best one, in the sense of least squares on calibration text, solves

    sum over time and channels of w^2 (sum_m C_m h_m - sum_k (Q_k . p) h_k)^2 -> least,   p = x_proj u,

where w says how strongly the mixer's output takes a channel. The rows of C become Q x_proj; no size changes.
In Mamba-2 a convolution and a SiLU lie between, and nothing like it is exact. Of both versions the output
projections are then fitted to the residual stream of the original, one after the other (as AMC does with the
consumers of pruned channels, arXiv:1802.03494).

Shapes: S steps, B batch, D channels, N states, K of them kept, J rows of ``x_proj``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models_zoo.mamba1 import Mamba1Mixer
from models_zoo.mamba_lm import Block, MambaLM
from models_zoo.mamba_trace import Trace, trace, traces

_RIDGE_OUT = 1e-3  # of the mean diagonal element
_RIDGE = 1e-4  # share of each diagonal element: holds the old rows where the text says little
_MOST = 4096  # unknowns of a layer's C; with more the equations would take minutes, and C stays as it is
Kept = Sequence[NDArray[np.int64]]  # positions of the states that stay, ascending, (1, K) for each layer


def compensate(
    model: MambaLM,
    smaller: nn.Module,
    kept: Kept | None,
    batches: Sequence[tuple[Tensor, Tensor]],
    whole: MambaLM | None = None,
    layers: Sequence[int] | None = None,
) -> None:
    """Fit a Mamba without some states to the original, in place: the rows of C, then the output projections.

    Args:
        model: the original.
        smaller: what is left of it, in our own class.
        kept: which states it has; None for all.
        batches: of calibration text, tokens and the tokens after them, (B, L) each.
        whole: where ``model`` came about by leaving layers out, the model with all of them.
        layers: which of its layers these are; all when left out.
    """
    mixers = [m for m in smaller.modules() if isinstance(m, Mamba1Mixer)] if kept is not None else []
    if kept is not None and mixers and len(mixers[0].x_proj.weight) * max(k.shape[1] for k in kept) <= _MOST:
        for mixer, rows in zip(mixers, compensated_reads(model, kept, batches), strict=True):
            with torch.no_grad():
                mixer.x_proj.weight[-len(rows) :] = rows
    _fit_outputs(whole or model, smaller, layers, batches)


def _fit_outputs(
    model: MambaLM, smaller: nn.Module, layers: Sequence[int] | None, batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Layer by layer, the output projection that brings the residual stream nearest to the original's.

    Before a layer that was left out the one that stays makes up for it.
    """
    whole = list(model.backbone.layers)
    blocks: list[Block] = [m for m in smaller.modules() if isinstance(m, Block)]
    ends = [*layers[1:], len(whole)] if layers is not None else range(1, len(whole) + 1)
    begin = 0
    with torch.no_grad():
        streams = [(model.backbone.embedding(ids),) * 2 for ids, _ in batches]
        for cut, end in zip(blocks, ends, strict=True):
            mixer, passed = cut.mixer, []
            width = mixer.out_proj.in_features
            square = torch.zeros(width, width, dtype=torch.float64)
            right = torch.zeros(width, mixer.out_proj.out_features, dtype=torch.float64)
            for i, (theirs, ours) in enumerate(streams):
                for layer in whole[begin:end]:
                    theirs, _ = layer(theirs)
                gated = trace(mixer, cut.norm(ours)).gated
                rows = gated.flatten(0, 1)
                square += (rows.t() @ rows).double()
                right += (rows.t() @ (theirs - ours).flatten(0, 1)).double()
                streams[i] = (theirs, ours)
                passed.append(gated)
            old = mixer.out_proj.weight.double().t()
            held = square + _RIDGE_OUT * square.diagonal().mean() * torch.eye(width, dtype=torch.float64)
            new = old + torch.linalg.solve(held, right - square @ old)
            mixer.out_proj.weight.copy_(new.t())
            begin = end
            streams = [(a, b + mixer.out_proj(g)) for (a, b), g in zip(streams, passed, strict=True)]


def compensated_reads(model: MambaLM, kept: Kept, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The rows of ``x_proj`` that make C in each layer, (K, D), fitted for the states that stay.

    Each layer is fitted to what it yields in the original, with inputs from the original.

    Args:
        model: a Mamba-1, left as it is.
        kept: which states stay.
        batches: of calibration text.
    """
    mixers = [m for m in model.modules() if isinstance(m, Mamba1Mixer)]
    sums: list[list[Tensor]] = [[] for _ in mixers]
    with torch.no_grad():
        for ids, _ in batches:
            passes = traces(model, ids)
            for mixer, states, total, (_, found, _) in zip(mixers, kept, sums, passes, strict=True):
                new = _normal_equations(mixer, found, torch.from_numpy(states[0]))
                total[:] = [a + b for a, b in zip(total, new, strict=True)] if total else new
        return [
            _solved(mixer, torch.from_numpy(states[0]), *total)
            for mixer, states, total in zip(mixers, kept, sums, strict=True)
        ]


def _normal_equations(mixer: Mamba1Mixer, found: Trace, kept: Tensor) -> list[Tensor]:
    """Matrix (J, J, K, K) and right side (J, K), in float64."""
    rows = (found.u[:, :, 0] @ mixer.x_proj.weight.t()).transpose(0, 1)  # (L, B, J)
    read, weight = found.read[:, :, 0].transpose(0, 1), found.weights(mixer)[:, :, 0].transpose(0, 1)
    J, K = rows.shape[-1], len(kept)
    matrix = torch.zeros(J * J, K * K, dtype=torch.float64)
    right = torch.zeros(J, K, dtype=torch.float64)
    for now, _, h in found.blocks(0):
        w = weight[now]
        wanted = (read[now, :, None] @ h).squeeze(2) * w  # (S, B, D)
        have = h[:, :, kept] * w[:, :, None]  # (S, B, K, D)
        p = rows[now].flatten(0, 1)
        squares = (have @ have.transpose(-1, -2)).flatten(0, 1).flatten(1)  # (S B, K K)
        matrix += ((p[:, :, None] * p[:, None]).flatten(1).t() @ squares).double()
        right += (p.t() @ (have @ wanted[..., None]).squeeze(-1).flatten(0, 1)).double()
    return [matrix.view(J, J, K, K), right]


def _solved(mixer: Mamba1Mixer, kept: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    """The new rows (K, D); ridge regression around the old ones."""
    weight: Tensor = mixer.x_proj.weight
    J, K = right.shape
    old = torch.zeros(J, K, dtype=torch.float64)
    old[mixer.dt_rank + mixer.d_state + kept, torch.arange(K)] = 1
    square = matrix.permute(0, 2, 1, 3).reshape(J * K, J * K)
    held = square + torch.diag(_RIDGE * square.diagonal() + torch.finfo(torch.float64).tiny)
    change = torch.linalg.solve(held, right.flatten() - square @ old.flatten())
    rows: Tensor = (old + change.view(J, K)).t() @ weight.double()
    return rows.to(weight.dtype)
