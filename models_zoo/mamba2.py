"""The mixer of Mamba-2: Dao and Gu 2024, arXiv:2405.21060, section 7. Names are those of `mamba_ssm`.

Shapes: B batch, L length, M width of the model, H heads of P channels (D = H P in all), G groups, N states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_zoo.mamba_config import MambaConfig
from models_zoo.mamba_parts import (
    LayerState,
    causal_conv,
    depthwise,
    first_time_steps,
    is_exporting,
    undecayed,
)
from models_zoo.mamba_ssd import chunked_ssd, loop_ssd, recurrent_ssd

_CPU_CHUNK = 32  # small products that stay in the cache beat large ones on a CPU
_SEGMENT = 16  # chunks at once where nothing is kept for a backward pass


class GatedRMSNorm(nn.Module):
    """The RMS norm of gated channels, over each group of them.

    Args:
        channels: D.
        groups: G.
        eps: added to the mean square.
    """

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.groups, self.eps = groups, eps

    def forward(self, y_BLD: Tensor, z_BLD: Tensor) -> Tensor:
        """Gate (B, L, D) by (B, L, D), then normalise."""
        gated = y_BLD * F.silu(z_BLD)
        if self.groups == 1:
            return F.rms_norm(gated, gated.shape[-1:], self.weight, self.eps)
        parts = gated.reshape(*gated.shape[:-1], self.groups, -1)  # (B, L, G, D / G)
        return F.rms_norm(parts, parts.shape[-1:], None, self.eps).flatten(-2) * self.weight


class Mamba2Mixer(nn.Module):
    """Project all at once, convolve, scan, gate and normalise, contract; each stage is a method.

    Args:
        config: sizes of the model.
        layer: which of its layers this is.

    Attributes:
        any_length: export the scan as a loop operator; otherwise as one graph for the example's length.
    """

    def __init__(self, config: MambaConfig, layer: int) -> None:
        super().__init__()
        D, H, channels = config.d_inner, config.n_heads, config.conv_channels[layer]
        self.d_state, self.ngroups, self.headdim = config.states[layer], config.ngroups, config.headdim
        self.chunk_size, self.dt_limit = config.chunk_size, config.dt_limit
        self.d_inner, self.n_heads = D, H
        self.any_length = False
        self.in_proj = nn.Linear(config.d_model, D + channels + H, bias=config.bias)
        self.conv1d = depthwise(channels, config.d_conv, config.conv_bias)
        self.dt_bias = undecayed(first_time_steps(H))
        self.A_log = undecayed(torch.empty(H).uniform_(1, 16).log())
        self.D = undecayed(torch.ones(H))
        self.norm = GatedRMSNorm(D, config.ngroups, config.norm_eps)
        self.out_proj = nn.Linear(D, config.d_model, bias=config.bias)

    def forward(self, x_BLM: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """Mix a sequence, or its continuation where a state is given.

        Returns:
            Outputs (B, L, M) and the state after the last step.
        """
        z, xBC, dt = self.expand(x_BLM)
        xBC, conv = self.convolve(xBC, None if state is None else state.conv)
        x, into, read = self.select(xBC)
        y, ssm = self.scan(x, dt, into, read, None if state is None else state.ssm)
        return self.contract(y, z), LayerState(conv, ssm)

    def expand(self, x_BLM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the gate (B, L, D) and of the convolution (B, L, D + 2 G N), and time steps (B, L, H)."""
        both = 2 * self.ngroups * self.d_state
        z, xBC, dt = self.in_proj(x_BLM).split([self.d_inner, self.d_inner + both, self.n_heads], -1)
        dt = F.softplus(dt + self.dt_bias)
        low, high = self.dt_limit
        return z, xBC, dt if (low, high) == (0.0, math.inf) else dt.clamp(low, high)

    def convolve(self, xBC: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """`causal_conv` with the mixer's own weights."""
        return causal_conv(self.conv1d, xBC, before)

    def select(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (B, L, H, P), and B and C (B, L, G, N), of a sequence (B, L, D + 2 G N)."""
        both = self.ngroups * self.d_state
        x, into, read = torch.split(xBC, [self.d_inner, both, both], -1)
        into, read = (t.reshape(*t.shape[:-1], self.ngroups, self.d_state) for t in (into, read))
        return x.reshape(*x.shape[:-1], self.n_heads, self.headdim), into, read

    def scan(
        self, x_BLHP: Tensor, dt_BLH: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, h_BHPN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The state space with its skip connection: outputs (B, L, D) and the last state (B, H, P, N)."""
        A_H = -torch.exp(self.A_log)
        length = x_BLHP.shape[1]
        if h_BHPN is not None and length == 1:
            y, h = recurrent_ssd(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, h_BHPN)
        elif self.any_length and is_exporting():
            if h_BHPN is None:
                h_BHPN = x_BLHP.new_zeros(x_BLHP.shape[0], *x_BLHP.shape[2:], self.d_state)
            y, h = loop_ssd(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, h_BHPN)
        elif torch.is_grad_enabled() or is_exporting():
            y, h = chunked_ssd(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, h_BHPN, chunk=self._chunk(x_BLHP))
        else:
            y, h = self._segments(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, h_BHPN)
        y = y + x_BLHP * self.D[:, None]
        return y.flatten(-2), h

    def _segments(
        self, x: Tensor, dt: Tensor, A_H: Tensor, into: Tensor, read: Tensor, h: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The block form a few chunks at a time, so that memory for them does not grow with the length."""
        chunk = self._chunk(x)
        outputs = []
        for begin in range(0, x.shape[1], _SEGMENT * chunk):
            now = slice(begin, begin + _SEGMENT * chunk)
            y, h = chunked_ssd(x[:, now], dt[:, now], A_H, into[:, now], read[:, now], h, chunk=chunk)
            outputs.append(y)
        assert h is not None  # there is at least one step
        return torch.cat(outputs, 1), h

    def _chunk(self, x: Tensor) -> int:
        return min(_CPU_CHUNK, self.chunk_size) if x.is_cpu and not is_exporting() else self.chunk_size

    def contract(self, y_BLD: Tensor, z_BLD: Tensor) -> Tensor:
        """Gate, normalise and project back to (B, L, M)."""
        out: Tensor = self.out_proj(self.gate(y_BLD, z_BLD))
        return out

    def gate(self, y_BLD: Tensor, z_BLD: Tensor) -> Tensor:
        """What the gate lets through, normalised, (B, L, D)."""
        out: Tensor = self.norm(y_BLD, z_BLD)
        return out
