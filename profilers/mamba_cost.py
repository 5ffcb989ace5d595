"""Costs of a Mamba block in closed form, component by component: FLOPs, and the bytes that must move.

Two FLOPs for each multiply-add. Projections, the convolution and Mamba-2's products are what torch's own
counter counts for the same operators. Where it counts nothing:

* Mamba-1's scan over a sequence: 9 B L D N, the count that its authors gave for the associative scan (2 L
  combinations of 3 FLOPs, and 3 to enter and leave; state-spaces/mamba#110), plus 2 B L D for the skip
  connection. The sequential form, which a step of decoding takes, needs 7 D N: dt A, exp, decay, dt u B,
  sum, and two for C h.
* Mamba-2's block form (arXiv:2405.21060, section 6) in chunks of Q steps, of which there are K:
  2 K Q (G Q N + Q D + 2 D N): scores, outputs within the chunk, what it adds to the state and what it reads
  of it. A single chunk reads nothing.
  A step of decoding needs 5 D N: decay, B x, sum, and two for C h.
* Element-wise: 3 for a gate with SiLU, 4 for an RMS norm. Other activations count nothing.

Sizes are read off the weights, so that pruned models, whose layers differ, are counted as they are.

Shapes: T = B L tokens, M width of the model, D inner channels, C channels of the convolution, N states, G
groups, H heads, K taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from models_zoo.mamba1 import Mamba1Mixer
from models_zoo.mamba2 import Mamba2Mixer
from models_zoo.mamba_lm import Block, MambaLM

IN_PROJ, CONV, SELECT = "in_proj", "conv1d", "x_proj, dt_proj"
SCAN, GATE, OUT_PROJ = "SSM scan", "gate and norm", "out_proj"
EMBED = "embedding, head"
COMPONENTS = (IN_PROJ, CONV, SELECT, SCAN, GATE, OUT_PROJ, EMBED)


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs, and bytes that must move where nothing within the component goes through memory."""

    flops: int = 0
    least_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.least_bytes + other.least_bytes)


def mamba_costs(model: MambaLM, batch: int, length: int, *, decode: bool = False) -> Mapping[str, Cost]:
    """The cost of each of ``COMPONENTS``, all layers together.

    Args:
        model: its weights give the sizes and the bytes of a number.
        batch: B.
        length: L of a sequence without a past; not used for a step of decoding.
        decode: one token with a cache instead of a sequence.
    """
    T = batch if decode else batch * length
    size = model.lm_head.weight.element_size()
    V, M = model.lm_head.weight.shape
    norm = Cost(4 * T * M, size * (2 * T * M + M))
    total = dict.fromkeys(COMPONENTS, Cost())
    total[GATE] += norm  # the last one
    looked_up = min(T, V) * M  # rows of the table
    total[EMBED] = Cost(2 * T * V * M, size * (looked_up + 2 * T * M + V * M + T * V) + 8 * T)
    for layer in blocks(model):
        mixer = layer.mixer
        found = (
            _mamba1(mixer, batch, length, decode)
            if isinstance(mixer, Mamba1Mixer)
            else _mamba2(mixer, batch, length, decode)
        )
        for name, cost in found.items():
            total[name] += cost
        total[GATE] += norm
    return total


def blocks(model: MambaLM) -> list[Block]:
    """The layers of a model."""
    return [layer for layer in model.backbone.layers if isinstance(layer, Block)]


def _mamba1(mixer: Mamba1Mixer, batch: int, length: int, decode: bool) -> dict[str, Cost]:
    T = batch if decode else batch * length
    D, N = mixer.A_log.shape
    size = mixer.A_log.element_size()
    select = 2 * T * (mixer.x_proj.weight.numel() + mixer.dt_proj.weight.numel())
    states = 2 * batch * D * N if decode else batch * D * N
    scan_bytes = size * (T * (3 * D + 2 * N) + D * N + D + states)
    return {
        **_projections(mixer, T, size),
        SELECT: Cost(select, size * (T * (2 * D + 2 * N) + _weights(mixer.x_proj, mixer.dt_proj))),
        SCAN: Cost((7 if decode else 9) * T * D * N + 2 * T * D, scan_bytes),
        GATE: Cost(3 * T * D, size * 3 * T * D),
    }


def _mamba2(mixer: Mamba2Mixer, batch: int, length: int, decode: bool) -> dict[str, Cost]:
    T = batch if decode else batch * length
    D, N, G, H = mixer.d_inner, mixer.d_state, mixer.ngroups, mixer.n_heads
    size = mixer.A_log.element_size()
    if decode:
        scan = 5 * T * D * N
    else:
        Q = min(mixer._chunk(mixer.A_log), length)  # the device decides; a last, shorter chunk is padded
        chunks = -(-length // Q)
        within = 2 * Q * (G * Q * N + Q * D + D * N)
        scan = batch * chunks * (within + 2 * Q * D * N * (chunks > 1))
    states = 2 * batch * D * N if decode else batch * D * N
    return {
        **_projections(mixer, T, size),
        SELECT: Cost(),  # B, C and dt come with in_proj
        SCAN: Cost(scan + 2 * T * D, size * (T * (2 * D + H + 2 * G * N) + 2 * H + states)),
        GATE: Cost((3 + 4) * T * D, size * (3 * T * D + D)),
    }


def _projections(mixer: Mamba1Mixer | Mamba2Mixer, T: int, size: int) -> dict[str, Cost]:
    """What both versions have."""
    out, M = mixer.in_proj.weight.shape
    C, _, taps = mixer.conv1d.weight.shape
    D = mixer.out_proj.weight.shape[1]
    return {
        IN_PROJ: Cost(2 * T * out * M, size * (T * (M + out) + _weights(mixer.in_proj))),
        CONV: Cost(2 * T * C * taps, size * (2 * T * C + _weights(mixer.conv1d))),
        OUT_PROJ: Cost(2 * T * M * D, size * (T * (M + D) + _weights(mixer.out_proj))),
    }


def _weights(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())
