"""The state space of Mamba-2, where a head has one decay: step by step, as a loop, in matrix products.

Dao and Gu 2024, arXiv:2405.21060, section 6: within a chunk the outputs are those of a masked attention with
the decays as mask; between chunks a state of each head is handed on.

Shapes: B batch, L length, H heads of P channels, G groups of R heads that share B and C, N states; K chunks
of Q steps.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from models_zoo.mamba_parts import over_time


def recurrent_ssd(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, h_BHPN: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, one step at a time: what the block form is measured against, and the form of a step.

    Computes in the state's type of numbers, which may be wider than that of the inputs.

    Args:
        x_BLHP: inputs.
        dt_BLH: time steps, positive.
        A_H: rates, negative.
        B_BLGN: how inputs enter the states.
        C_BLGN: how states are read.
        h_BHPN: the state before the first step.

    Returns:
        Outputs (B, L, H, P) and the state after the last step (B, H, P, N).
    """
    x, dt, A_H, into, read = (t.to(h_BHPN.dtype) for t in (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN))
    B_BLHN, C_BLHN = (_by_head(t, x.shape[2]) for t in (into, read))
    outputs = []
    for t in range(x.shape[1]):
        h_BHPN, y_BHP = _step(A_H, h_BHPN, x[:, t], dt[:, t], B_BLHN[:, t], C_BLHN[:, t])
        outputs.append(y_BHP)
    return torch.stack(outputs, 1).to(x_BLHP.dtype), h_BHPN


def _step(
    A_H: Tensor, h_BHPN: Tensor, x_BHP: Tensor, dt_BH: Tensor, B_BHN: Tensor, C_BHN: Tensor
) -> tuple[Tensor, Tensor]:
    """The next state and its output (B, H, P)."""
    decay_BH = torch.exp(dt_BH * A_H)
    step_BHP = dt_BH[..., None] * x_BHP
    h_BHPN = decay_BH[..., None, None] * h_BHPN + step_BHP[..., None] * B_BHN[:, :, None]
    return h_BHPN, (h_BHPN * C_BHN[:, :, None]).sum(-1)  # a product would need the batch's size in a loop


def _by_head(t_BLGN: Tensor, heads: int) -> Tensor:
    """(B, L, G, N) as (B, L, H, N)."""
    return t_BLGN.unsqueeze(3).expand(-1, -1, -1, heads // t_BLGN.shape[2], -1).flatten(2, 3)


def loop_ssd(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, h_BHPN: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition as one loop operator, for exported graphs of any length.

    Args and Returns: as `recurrent_ssd`.
    """
    by_head = (_by_head(t, x_BLHP.shape[2]) for t in (B_BLGN, C_BLGN))
    return over_time(partial(_step, A_H), h_BHPN, (x_BLHP, dt_BLH, *by_head))


def chunked_ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    h_BHPN: Tensor | None = None,
    *,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """The block form. Computes in float32 where the inputs are narrower.

    Args:
        x_BLHP: as in `recurrent_ssd`, like all that follows.
        dt_BLH: time steps.
        A_H: rates.
        B_BLGN: how inputs enter.
        C_BLGN: how states are read.
        h_BHPN: the state before the first step; zero when left out.
        chunk: Q, which need not divide the length; the whole sequence is one chunk when None.

    Returns:
        As `recurrent_ssd`.
    """
    kind = torch.promote_types(x_BLHP.dtype, torch.float32)
    x, dt, A_H, into, read = (t.to(kind) for t in (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN))
    batch, length, heads, width = x.shape
    groups, states = into.shape[2:]
    Q = length if chunk is None else min(chunk, length)
    if chunk is not None and (lacking := -length % Q):  # steps of no duration change nothing
        x, dt, into, read = (_longer(t, lacking) for t in (x, dt, into, read))

    dt = dt.reshape(batch, -1, Q, heads)  # (B, K, Q, H)
    K = dt.shape[1]
    inputs = x.reshape(batch, K, Q, heads, width) * dt[..., None]  # (B, K, Q, H, P)
    into = into.reshape(batch, K, Q, groups, states).transpose(2, 3)  # (B, K, G, Q, N)
    read = read.reshape(batch, K, Q, groups, states).transpose(2, 3)
    gathered = (dt * A_H).cumsum(2)  # (B, K, Q, H): log of the decay since the chunk began

    # Within a chunk: each step reads the inputs up to it, as far as they have not decayed.
    scores = (read @ into.transpose(-1, -2)).tril()  # (B, K, G, Q, Q)
    weights = scores.unsqueeze(3) * _decays(dt * A_H).reshape(
        batch, K, groups, -1, Q, Q
    )  # (B, K, G, R, Q, Q)
    weights = weights.flatten(2, 3)  # (B, K, H, Q, Q)
    y = (weights @ inputs.transpose(2, 3)).transpose(2, 3)  # (B, K, Q, H, P)

    # What a chunk adds to the state by its end.
    remaining = torch.exp(gathered[:, :, -1:] - gathered)  # (B, K, Q, H)
    left = _by_group(inputs * remaining[..., None], groups)  # (B, K, G, Q, R P)
    added = into.transpose(-1, -2) @ left  # (B, K, G, N, R P)

    # From chunk to chunk: the state at each one's start.
    whole = torch.exp(gathered[:, :, -1, :, None]).expand(-1, -1, -1, width)  # (B, K, H, P)
    whole = whole.reshape(batch, K, groups, 1, -1)  # (B, K, G, 1, R P)
    if h_BHPN is None:
        h = torch.zeros_like(added[:, 0])
    else:
        h = h_BHPN.to(kind).reshape(batch, groups, -1, states).transpose(2, 3)  # (B, G, N, R P)
    starts = []
    # Unbound at once: the gradient of an index would be as large as all chunks, for each of them.
    for factor, more in zip(whole.unbind(1), added.unbind(1), strict=True):
        starts.append(h)
        h = factor * h + more
    if K > 1 or h_BHPN is not None:
        carried = read @ torch.stack(starts, 1)  # (B, K, G, Q, R P)
        carried = carried.transpose(2, 3).reshape(batch, K, Q, heads, width)
        y = y + carried * torch.exp(gathered)[..., None]
    y = y.reshape(batch, K * Q, heads, width)[:, :length]
    return y.to(x_BLHP.dtype), h.transpose(2, 3).reshape(batch, heads, width, states)


def _decays(rates_BKQH: Tensor) -> Tensor:
    """The decay from step j to step i, (B, K, H, Q, Q); one where j comes after i.

    The logarithms are sums from j + 1 to i, not differences of sums from the start: far into a chunk those
    are large, and their difference would carry their rounding (arXiv:2405.21060, listing 1).
    """
    Q = rates_BKQH.shape[2]
    later = torch.ones(Q, Q, dtype=rates_BKQH.dtype, device=rates_BKQH.device).tril(-1)
    rates_BKHQ = rates_BKQH.transpose(2, 3).contiguous()  # products keep the order in memory
    return (rates_BKHQ[..., None] * later).cumsum(-2).exp()


def _by_group(t_BKQHP: Tensor, groups: int) -> Tensor:
    """(B, K, Q, H, P) as (B, K, G, Q, R P)."""
    return t_BKQHP.reshape(*t_BKQHP.shape[:3], groups, -1).transpose(2, 3)


def _longer(t: Tensor, steps: int) -> Tensor:
    """A sequence (B, L, ...) with zeros after its end."""
    return F.pad(t, (0, 0) * (t.dim() - 2) + (0, steps))
