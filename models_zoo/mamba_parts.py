"""What the blocks of Mamba-1 and Mamba-2 share: the state of a layer, the causal convolution, first weights.

Shapes: B batch, L length, C channels, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_DT_MIN, _DT_MAX, _DT_FLOOR = 1e-3, 0.1, 1e-4  # the time steps that a new model begins with


class LayerState(NamedTuple):
    """What a layer remembers between two calls.

    Attributes:
        conv: the last K - 1 inputs of the convolution, (B, C, K - 1).
        ssm: the recurrent state, (B, D, N), or (B, H, P, N) in Mamba-2.
    """

    conv: Tensor
    ssm: Tensor


def is_exporting() -> bool:
    """Whether a graph is being captured, in which a loop over time would be written out step by step."""
    return torch.compiler.is_exporting()


def over_time(
    step: Callable[..., tuple[Tensor, Tensor]], h: Tensor, sequences: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """A recurrence as torch's loop operator, which stays one node in a graph and becomes ONNX's Scan.

    Args:
        step: takes the state and the sequences' values at one time, (B, ...); returns state and output.
        h: the state before the first step.
        sequences: (B, L, ...) each.

    Returns:
        Outputs (B, L, ...) and the state after the last step.
    """
    from torch._higher_order_ops.scan import scan  # loads torch's compiler

    last, outputs = scan(lambda h, now: step(h, *now), h, tuple(t.transpose(0, 1) for t in sequences))
    return outputs.transpose(0, 1), last


def causal_conv(conv: nn.Conv1d, x_BLC: Tensor, before_BCK: Tensor | None) -> tuple[Tensor, Tensor]:
    """A depthwise convolution over time that sees the present and the K - 1 steps before, then SiLU.

    Args:
        conv: the layer, whose weight is (C, 1, K); its padding is not used.
        x_BLC: inputs.
        before_BCK: the K - 1 inputs before the first; zeros when None.

    Returns:
        Outputs (B, L, C) and the last K - 1 inputs, (B, C, K - 1).
    """
    taps, length = conv.kernel_size[0], x_BLC.shape[1]
    if before_BCK is None:
        whole = F.pad(x_BLC, (0, 0, taps - 1, 0))
    else:
        whole = torch.cat([before_BCK.transpose(1, 2), x_BLC], 1)  # (B, K - 1 + L, C)
    last_BCK = whole[:, length:].transpose(1, 2)
    if x_BLC.is_cpu and not is_exporting():  # torch's own depthwise convolution is several times slower here
        first, taken = whole[:, :length], conv.weight[:, 0]
        y = first * taken[:, 0] if conv.bias is None else torch.addcmul(conv.bias, first, taken[:, 0])
        for k in range(1, taps):
            y.addcmul_(whole[:, k : k + length], taken[:, k])  # in place: memory is what costs here
        return F.silu(y, inplace=not torch.is_grad_enabled()), last_BCK
    y = F.conv1d(whole.transpose(1, 2), conv.weight, conv.bias, groups=conv.groups).transpose(1, 2)
    return F.silu(y), last_BCK


def depthwise(channels: int, taps: int, bias: bool) -> nn.Conv1d:
    """The layer that holds the weights of `causal_conv`."""
    return nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1, bias=bias)


def first_time_steps(count: int) -> Tensor:
    """Biases whose softplus is a time step, drawn evenly on a log scale from 0.001 to 0.1."""
    low, high = math.log(_DT_MIN), math.log(_DT_MAX)
    dt = torch.exp(torch.rand(count) * (high - low) + low).clamp(min=_DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def undecayed(values: Tensor) -> nn.Parameter:
    """A parameter that weight decay is to leave alone: rates and time steps mean something at zero."""
    parameter = nn.Parameter(values)
    parameter._no_weight_decay = True  # type: ignore[attr-defined]  # as mamba_ssm marks it
    return parameter
