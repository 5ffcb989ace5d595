"""The sizes of a Mamba language model, checked once, so that the modules may trust them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from graph.errors import ArchitectureError

Version = Literal[1, 2]


@dataclass(frozen=True, kw_only=True, slots=True)
class MambaConfig:
    """What a Mamba-1 or Mamba-2 language model is made of; the names are those of ``mamba_ssm``.

    Attributes:
        version: of the block: 1 (arXiv:2312.00752) or 2 (arXiv:2405.21060).
        d_model: width of the residual stream.
        n_layer: blocks.
        vocab_size: rows of the embedding, padding included.
        d_state: states per channel (1) or per head (2): one number, or one for each layer.
        d_conv: taps of the causal convolution.
        expand: inner width over `d_model`.
        dt_rank: of the projection that makes the time step, Mamba-1; a sixteenth of `d_model` when left out.
        headdim: channels of a head, Mamba-2.
        ngroups: groups of heads that share their B and C, Mamba-2.
        chunk_size: steps that Mamba-2's block form takes at once; the result does not depend on it.
        dt_limit: range that Mamba-2 clamps the time step to.
        bias: of `in_proj` and `out_proj`.
        conv_bias: of the convolution.
        norm_eps: of every RMS norm.
        tie_embeddings: the head's weight is the embedding's.

    Raises:
        ArchitectureError: sizes that make no model.
    """

    version: Version
    d_model: int
    n_layer: int
    vocab_size: int
    d_state: int | tuple[int, ...]
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None
    headdim: int = 64
    ngroups: int = 1
    chunk_size: int = 256
    dt_limit: tuple[float, float] = (0.0, math.inf)
    bias: bool = False
    conv_bias: bool = True
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ArchitectureError(f"there is no Mamba-{self.version}", hint="the versions are 1 and 2")
        for field in fields(self):
            value = getattr(self, field.name)
            left_out = value is None and field.type == "int | None"
            if field.type in ("int", "int | None") and not left_out and not _positive(value):
                raise ArchitectureError(
                    f"{field.name} of a Mamba must be a positive whole number, not {value!r}",
                    hint="correct the configuration",
                )
        if self.version == 1 and self.dt_rank is None:
            object.__setattr__(self, "dt_rank", math.ceil(self.d_model / 16))
        if not isinstance(self.d_state, int) or isinstance(self.d_state, bool):
            self._check_states()
        elif self.d_state < 1:
            raise ArchitectureError(
                f"a Mamba with {self.d_state} states per channel remembers nothing",
                hint="keep at least one state",
            )
        if self.version == 2 and (self.d_inner % self.headdim or self.n_heads % self.ngroups):
            raise ArchitectureError(
                f"{self.d_inner} inner channels do not part into heads of {self.headdim} "
                f"in {self.ngroups} groups",
                hint="headdim must divide expand * d_model, and ngroups the number of heads",
            )
        low, high = self.dt_limit
        if not 0 <= low < high:
            raise ArchitectureError(f"dt_limit {self.dt_limit} is no range", hint="such as (0, inf)")

    def _check_states(self) -> None:
        counts = self.d_state
        if not isinstance(counts, tuple) or len(counts) != self.n_layer or not all(map(_positive, counts)):
            raise ArchitectureError(
                f"d_state {counts!r} is not one positive number, nor one for each of {self.n_layer} layers",
                hint="keep at least one state in each layer",
            )
        if len(set(counts)) == 1:  # an ordinary model, whoever counted its layers one by one
            object.__setattr__(self, "d_state", counts[0])

    @property
    def d_inner(self) -> int:
        """Channels inside a block."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """Heads of a block, Mamba-2."""
        return self.d_inner // self.headdim

    @property
    def states(self) -> tuple[int, ...]:
        """States of each layer."""
        if isinstance(self.d_state, int):
            return (self.d_state,) * self.n_layer
        return self.d_state

    @property
    def conv_channels(self) -> tuple[int, ...]:
        """Channels of each layer's convolution; Mamba-2's carries B and C as well."""
        more = 2 * self.ngroups if self.version == 2 else 0
        return tuple(self.d_inner + more * n for n in self.states)

    def state_shape(self, layer: int) -> tuple[int, ...]:
        """Shape of a layer's recurrent state without the batch: (D, N), or (H, P, N) in Mamba-2."""
        n = self.states[layer]
        return (self.d_inner, n) if self.version == 1 else (self.n_heads, self.headdim, n)


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
