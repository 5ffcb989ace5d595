"""The mixer of Mamba-1: Gu and Dao 2023, arXiv:2312.00752, section 3.4. Names are those of `mamba_ssm`.

Shapes: B batch, L length, M width of the model, D inner channels, N states, R rank of the time step.
"""

from __future__ import annotations

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
from models_zoo.mamba_scan import chunked_scan, doubling_scan, loop_scan, recurrent_scan


class Mamba1Mixer(nn.Module):
    """Expand, convolve, select, scan, gate, contract; each stage is a method.

    Args:
        config: sizes of the model.
        layer: which of its layers this is.

    Attributes:
        any_length: export the scan as a loop operator; otherwise as one graph for the example's length.
    """

    def __init__(self, config: MambaConfig, layer: int) -> None:
        super().__init__()
        assert config.dt_rank is not None  # of version 1
        D, N, R = config.d_inner, config.states[layer], config.dt_rank
        self.d_state, self.dt_rank = N, R
        self.any_length = False
        self.in_proj = nn.Linear(config.d_model, 2 * D, bias=config.bias)
        self.conv1d = depthwise(D, config.d_conv, config.conv_bias)
        self.x_proj = nn.Linear(D, R + 2 * N, bias=False)
        self.dt_proj = nn.Linear(R, D)
        self.A_log = undecayed(torch.arange(1.0, N + 1).log().repeat(D, 1))
        self.D = undecayed(torch.ones(D))
        self.out_proj = nn.Linear(D, config.d_model, bias=config.bias)
        nn.init.uniform_(self.dt_proj.weight, -(R**-0.5), R**-0.5)
        self.dt_proj.bias = undecayed(first_time_steps(D))

    def forward(self, x_BLM: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """Mix a sequence, or its continuation where a state is given.

        Returns:
            Outputs (B, L, M) and the state after the last step.
        """
        u, z = self.expand(x_BLM)
        u, conv = self.convolve(u, None if state is None else state.conv)
        dt, into, read = self.select(u)
        y, ssm = self.scan(u, dt, into, read, None if state is None else state.ssm)
        return self.contract(y, z), LayerState(conv, ssm)

    def expand(self, x_BLM: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the convolution and of the gate, (B, L, D) each."""
        u, z = self.in_proj(x_BLM).chunk(2, -1)
        return u, z

    def convolve(self, u_BLD: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """`causal_conv` with the mixer's own weights."""
        return causal_conv(self.conv1d, u_BLD, before)

    def select(self, u_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Time steps (B, L, D), and B and C (B, L, N)."""
        rank, into, read = self.x_proj(u_BLD).split([self.dt_rank, self.d_state, self.d_state], -1)
        return F.softplus(self.dt_proj(rank)), into, read

    def scan(
        self, u_BLD: Tensor, dt_BLD: Tensor, B_BLN: Tensor, C_BLN: Tensor, h_BDN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The state space with its skip connection: outputs (B, L, D) and the last state (B, D, N)."""
        A_DN = -torch.exp(self.A_log)
        single = h_BDN is not None and u_BLD.shape[1] == 1
        if is_exporting() and not (single or self.any_length):
            y, h = doubling_scan(u_BLD, dt_BLD, A_DN, B_BLN, C_BLN, h_BDN)
        else:
            if h_BDN is None:
                h_BDN = u_BLD.new_zeros(u_BLD.shape[0], *A_DN.shape)
            form = recurrent_scan if single else loop_scan if is_exporting() else chunked_scan
            y, h = form(u_BLD, dt_BLD, A_DN, B_BLN, C_BLN, h_BDN)
        return y + u_BLD * self.D, h

    def contract(self, y_BLD: Tensor, z_BLD: Tensor) -> Tensor:
        """Gate and project back to (B, L, M)."""
        out: Tensor = self.out_proj(self.gate(y_BLD, z_BLD))
        return out

    def gate(self, y_BLD: Tensor, z_BLD: Tensor) -> Tensor:
        """What the gate lets through, (B, L, D)."""
        return y_BLD * F.silu(z_BLD)
