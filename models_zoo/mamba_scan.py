"""The selective scan of Mamba-1 in four forms: step by step, as a loop operator, by doubling, in blocks.

All compute, for each channel and each of its states (Gu and Dao 2023, arXiv:2312.00752, section 3),

    h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t,    y_t = C_t . h_t

Nothing is ever divided by a decay, and no decay above one is formed, so that no form can overflow.

Shapes: B batch, L length, D channels, N states; S steps of a block. States lie as (N, D) inside, channels
last, for then every broadcast runs along contiguous memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models_zoo.mamba_parts import over_time

_CACHE_ELEMENTS = 1 << 17  # of a block's buffer on a CPU, of which two fit into its cache
_DEVICE_ELEMENTS = 1 << 26  # the same on an accelerator, where it bounds memory
_LANES = 32  # stretches of a block that an accelerator runs side by side


def recurrent_scan(
    u_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, h_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, one step at a time: what the other forms are measured against.

    Computes in the state's type of numbers, which may be wider than that of the inputs.

    Args:
        u_BLD: inputs.
        dt_BLD: time steps, positive.
        A_DN: rates, negative.
        B_BLN: how inputs enter the states.
        C_BLN: how states are read.
        h_BDN: the state before the first step.

    Returns:
        Outputs (B, L, D) and the state after the last step (B, D, N).
    """
    outputs = []
    u, dt, A_DN, into, read = (t.to(h_BDN.dtype) for t in (u_BLD, dt_BLD, A_DN, B_BLN, C_BLN))
    for t in range(u.shape[1]):
        h_BDN, y_BD = _step(A_DN, h_BDN, u[:, t], dt[:, t], into[:, t], read[:, t])
        outputs.append(y_BD)
    return torch.stack(outputs, 1).to(u_BLD.dtype), h_BDN


def _step(
    A_DN: Tensor, h_BDN: Tensor, u_BD: Tensor, dt_BD: Tensor, B_BN: Tensor, C_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """The next state and its output (B, D)."""
    decay_BDN = torch.exp(dt_BD[..., None] * A_DN)
    h_BDN = decay_BDN * h_BDN + (dt_BD * u_BD)[..., None] * B_BN[:, None]
    return h_BDN, (h_BDN * C_BN[:, None]).sum(-1)  # a product would need the batch's size in a loop


def loop_scan(
    u_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, h_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition as one loop operator, for exported graphs of any length.

    Args and Returns: as `recurrent_scan`.
    """
    return over_time(partial(_step, A_DN), h_BDN, (u_BLD, dt_BLD, B_BLN, C_BLN))


def doubling_scan(
    u_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, h_BDN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The scan in log2(L) rounds over the whole sequence (Hillis and Steele 1986), for exported graphs.

    In each round a step takes over what the step 1, 2, 4, ... places before it has gathered. The graph is
    small and free of loops over time; the memory is that of all states, (B, L, D, N).

    Args and Returns: as `recurrent_scan`; the state is zero when left out.
    """
    decay = torch.exp(dt_BLD[..., None] * A_DN)  # (B, L, D, N)
    h = (dt_BLD * u_BLD)[..., None] * B_BLN[:, :, None, :]
    if h_BDN is not None:  # one more step in front, which adds the state; nobody looks at its decay
        decay, h = F.pad(decay, (0, 0, 0, 0, 1, 0)), torch.cat([h_BDN[:, None], h], 1)
    shift = 1
    while shift < h.shape[1]:
        before = (0, 0, 0, 0, shift, 0)
        h = h + decay * F.pad(h[:, :-shift], before)
        if 2 * shift < h.shape[1]:
            decay = decay * F.pad(decay[:, :-shift], before)  # zero where the sequence began
        shift *= 2
    h = h if h_BDN is None else h[:, 1:]
    return (h @ C_BLN[..., None]).squeeze(-1), h[:, -1]


def chunked_scan(
    u_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, h_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """The scan in blocks of time, of which only one has its states in memory, forward and backward.

    Between the passes it keeps the inputs and the state at each block's start; the backward pass computes
    the states of a block anew. Computes in float32 where the inputs are narrower.

    Args and Returns: as `recurrent_scan`.
    """
    kind = torch.promote_types(u_BLD.dtype, torch.float32)
    tensors = [t.to(kind) for t in (u_BLD, dt_BLD, A_DN, B_BLN, C_BLN, h_BDN)]
    y_BLD, last_BDN = _ChunkedScan.apply(*tensors)  # type: ignore[no-untyped-call]
    return y_BLD.to(u_BLD.dtype), last_BDN


class _ChunkedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        u, dt, A_ND, into, read, h_BND = _time_first(*tensors)
        y_LBD = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        starts = []
        keep = any(ctx.needs_input_grad)
        for begin, end, lanes in _blocks(u, A_ND):
            if keep:
                starts.append(h_BND)
            _, h_SBND = _states(u[begin:end], dt[begin:end], A_ND, into[begin:end], h_BND, lanes)
            torch.matmul(read[begin:end, :, None], h_SBND[1:], out=y_LBD[begin:end, :, None])
            h_BND = h_SBND[-1].clone()  # a view would keep the whole block alive
        ctx.save_for_backward(*tensors, *starts)
        return y_LBD.transpose(0, 1), h_BND.transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BLD: Tensor, dlast_BDN: Tensor) -> tuple[Tensor, ...]:
        tensors, starts = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        u, dt, A_ND, into, read, _ = _time_first(*tensors)
        dy = dy_BLD.transpose(0, 1)
        dt_next = F.pad(dt, (0, 0, 0, 0, 0, 1))  # after the last step the state no longer decays
        du, ddt, dinto, dread = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in
                                 (u, dt, into, read))  # fmt: skip
        dA_ND = torch.zeros_like(A_ND)
        dh_BND = dlast_BDN.transpose(1, 2)  # of the state after the block
        for (begin, end, lanes), start_BND in reversed(list(zip(_blocks(u, A_ND), starts, strict=True))):
            now = slice(begin, end)
            _, h_SBND = _states(u[now], dt[now], A_ND, into[now], start_BND, lanes)
            decay = torch.exp(dt_next[begin : end + 1, :, None] * A_ND)  # (S + 1, B, N, D)
            # What reaches each state: from its own output, and from the state after it.
            g = read[now, ..., None] * dy[now, :, None]  # (S, B, N, D)
            g[-1].addcmul_(decay[-1], dh_BND)
            _recur_(decay[1:] if lanes == 1 else decay[1:].clone(), g, lanes, backward=True)
            dh_BND = g[0].clone()
            dread[now] = (h_SBND[1:] @ dy[now, ..., None]).squeeze(-1)
            dinto[now] = (g @ (dt[now] * u[now])[..., None]).squeeze(-1)
            dux = (into[now, :, None] @ g).squeeze(2)  # of dt * u, (S, B, D)
            rate = g.mul_(decay[:-1]).mul_(h_SBND[:-1])  # of dt * A, (S, B, N, D)
            du[now] = dux * dt[now]
            ddt[now] = (rate * A_ND).sum(2).addcmul_(dux, u[now])
            dA_ND += rate.mul_(dt[now, :, None]).sum((0, 1))
        dh_BDN = (torch.exp(dt[0][:, None] * A_ND) * dh_BND).transpose(1, 2)
        back = (t.transpose(0, 1) for t in (dinto, dread))
        return du.transpose(0, 1), ddt.transpose(0, 1), dA_ND.t(), *back, dh_BDN


def _time_first(
    u_BLD: Tensor, dt_BLD: Tensor, A_DN: Tensor, B_BLN: Tensor, C_BLN: Tensor, h_BDN: Tensor
) -> tuple[Tensor, ...]:
    """The same tensors as (L, B, ...), A as (N, D) and the state as (B, N, D)."""
    sequences = [t.transpose(0, 1).contiguous() for t in (u_BLD, dt_BLD, B_BLN, C_BLN)]
    u, dt, into, read = sequences
    return u, dt, A_DN.t().contiguous(), into, read, h_BDN.transpose(1, 2)


def _blocks(u_LBD: Tensor, A_ND: Tensor) -> Iterator[tuple[int, int, int]]:
    """Begin, end and lanes of each block of time."""
    length, batch, _ = u_LBD.shape
    elements = batch * A_ND.numel()
    if u_LBD.is_cpu:
        steps, lanes = max(4, min(64, _CACHE_ELEMENTS // elements)), 1
    else:
        steps, lanes = max(1, min(_LANES, _DEVICE_ELEMENTS // (_LANES * elements))), _LANES
    begin = 0
    while begin < length:
        rest = length - begin
        if rest < steps * lanes:  # a last, shorter block, in as many whole lanes as it has
            lanes = max(1, rest // steps)
        end = min(length, begin + steps * lanes)
        yield begin, end, lanes
        begin = end


def _states(
    u: Tensor, dt: Tensor, A_ND: Tensor, into: Tensor, h_BND: Tensor, lanes: int
) -> tuple[Tensor, Tensor]:
    """Decays (S, B, N, D), used up if there are several lanes, and the states before and after each step."""
    decay = (dt[:, :, None] * A_ND).exp_()
    h = torch.empty((len(u) + 1, *h_BND.shape), dtype=u.dtype, device=u.device)  # (S + 1, B, N, D)
    h[0] = h_BND
    torch.mul((dt * u)[:, :, None], into[..., None], out=h[1:])
    h[1].addcmul_(decay[0], h[0])
    _recur_(decay, h[1:], lanes)
    return decay, h


def _recur_(decay: Tensor, h: Tensor, lanes: int, *, backward: bool = False) -> None:
    """In place ``h[t] += decay[t] * h[t - 1]`` for t = 1, 2, ..., or from the end back with ``h[t + 1]``.

    With several lanes, equal stretches of the block run side by side, each as if nothing came before it, and
    then hand over: ``2 S / lanes + lanes`` operations in place of S, as suits a device that starts slowly.
    """
    if lanes == 1:
        _walk_(decay, h, 0, backward)
        return
    decay, h = (t.view(lanes, -1, *t.shape[1:]) for t in (decay, h))
    _walk_(decay, h, 1, backward, gather=True)
    edge = 0 if backward else -1
    order = range(lanes - 2, -1, -1) if backward else range(1, lanes)
    for k in order:
        h[k].addcmul_(decay[k], h[k + 1 if backward else k - 1][edge])


def _walk_(decay: Tensor, h: Tensor, dim: int, backward: bool, gather: bool = False) -> None:
    """The recurrence along one dimension; `gather` leaves in `decay` the product of all decays so far."""
    order = slice(None, None, -1) if backward else slice(None)
    states, factors = h.unbind(dim)[order], decay.unbind(dim)[order]
    for t in range(1, len(states)):
        states[t].addcmul_(factors[t], states[t - 1])
        if gather:
            factors[t].mul_(factors[t - 1])
