"""What happens inside a mixer, for both versions in the same terms: its stages, and its states over time.

Shapes: B batch, L length, M width of the model, G groups that share B and C (one in Mamba-1), D channels of a
group, N states; S steps of a block of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models_zoo.mamba1 import Mamba1Mixer
from models_zoo.mamba2 import Mamba2Mixer
from models_zoo.mamba_lm import Block, MambaLM

Mixer = Mamba1Mixer | Mamba2Mixer
_ELEMENTS = 1 << 21  # states of a block of time, over which statistics are taken at once


@dataclass(frozen=True)
class Trace:
    """One pass through a mixer.

    Attributes:
        u: inputs of the states, (B, L, G, D).
        dt: time steps, (B, L, G, D).
        A: rates, (G, D, N); all states of a channel have the same one in Mamba-2.
        into: how inputs enter, (B, L, G, N).
        read: how states are read, (B, L, G, N).
        y: outputs of the scan with its skip connection, (B, L, G D).
        gated: what the output projection takes, (B, L, G D).
        out: what the mixer returns, (B, L, M).
    """

    u: Tensor
    dt: Tensor
    A: Tensor
    into: Tensor
    read: Tensor
    y: Tensor
    gated: Tensor
    out: Tensor

    def blocks(self, group: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The states of a group over time, a block at a time.

        Yields:
            Which steps, then of each the decays and the states after it, (S, B, N, D) each, which are
            overwritten when the next block is asked for.
        """
        u, dt, into = (t[:, :, group].transpose(0, 1) for t in (self.u, self.dt, self.into))  # (L, B, ...)
        A_ND = self.A[group].t()
        length, batch, _ = u.shape
        steps = max(1, _ELEMENTS // (batch * A_ND.numel()))
        h_BND = u.new_zeros(batch, *A_ND.shape)
        for begin in range(0, length, steps):
            now = slice(begin, min(length, begin + steps))
            decay = torch.exp(dt[now, :, None] * A_ND)
            h = (dt[now] * u[now])[:, :, None] * into[now, ..., None]
            h[0].addcmul_(decay[0], h_BND)
            for t in range(1, len(h)):
                h[t].addcmul_(decay[t], h[t - 1])
            yield now, decay, h
            h_BND = h[-1].clone()

    def weights(self, mixer: Mixer) -> Tensor:
        """How strongly the mixer's output takes each output of the scan, (B, L, G, D).

        This is its gate, in Mamba-2 with the norm behind it held fixed, times the length of its column in the
        output projection.
        """
        pull: Tensor = mixer.out_proj.weight.norm(dim=0)  # (G D,)
        passed = torch.where(self.y == 0, torch.zeros_like(self.y), self.gated / self.y)
        weights = passed.abs() * pull
        return weights.view(*weights.shape[:2], len(self.A), -1)


def traces(model: MambaLM, ids_BL: Tensor) -> Iterator[tuple[Mixer, Trace, Tensor]]:
    """Run a model over tokens, layer by layer.

    Yields:
        The layer's mixer, its pass, and the residual stream behind it, (B, L, M).
    """
    x_BLM = model.backbone.embedding(ids_BL)
    for layer in model.backbone.layers:
        assert isinstance(layer, Block)
        found = trace(layer.mixer, layer.norm(x_BLM))
        x_BLM = x_BLM + found.out
        yield layer.mixer, found, x_BLM


def trace(mixer: Mixer, x_BLM: Tensor) -> Trace:
    """Run a mixer over a whole sequence, and keep what its stages yield.

    Args:
        mixer: of either version.
        x_BLM: what it is given, normalised.
    """
    if isinstance(mixer, Mamba1Mixer):
        u, z = mixer.expand(x_BLM)
        u, _ = mixer.convolve(u, None)
        dt, into, read = mixer.select(u)
        read = read.unsqueeze(2)
        y, _ = mixer.scan(u, dt, into, read.squeeze(2), None)  # from the one that is kept: it takes gradients
        gated = mixer.gate(y, z)
        A = -torch.exp(mixer.A_log)[None]
        u, dt, into = (t.unsqueeze(2) for t in (u, dt, into))
        return Trace(u, dt, A, into, read, y, gated, mixer.out_proj(gated))
    z, xBC, dt = mixer.expand(x_BLM)
    xBC, _ = mixer.convolve(xBC, None)
    x, into, read = mixer.select(xBC)  # (B, L, H, P) and (B, L, G, N)
    y, _ = mixer.scan(x, dt, into, read, None)
    gated = mixer.gate(y, z)
    groups, width = mixer.ngroups, mixer.headdim
    A_HP = -torch.exp(mixer.A_log)[:, None].expand(-1, width)
    A = A_HP.reshape(groups, -1, 1).expand(-1, -1, mixer.d_state)
    dt = dt[..., None].expand(-1, -1, -1, width).reshape(*dt.shape[:2], groups, -1)
    return Trace(x.reshape(*x.shape[:2], groups, -1), dt, A, into, read, y, gated, mixer.out_proj(gated))
