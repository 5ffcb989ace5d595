"""Mamba language models of the zoo: small ones, that learn real text on a laptop in minutes."""

from __future__ import annotations

from models_zoo.mamba_config import MambaConfig
from models_zoo.mamba_lm import MambaLM


def mamba1_tiny(vocab_size: int = 256, d_model: int = 128, n_layer: int = 2, d_state: int = 16) -> MambaLM:
    """A Mamba-1 for bytes."""
    return MambaLM(
        MambaConfig(version=1, d_model=d_model, n_layer=n_layer, vocab_size=vocab_size, d_state=d_state)
    )


def mamba2_tiny(
    vocab_size: int = 256, d_model: int = 128, n_layer: int = 2, d_state: int = 64, headdim: int = 32
) -> MambaLM:
    """A Mamba-2 for bytes."""
    return MambaLM(
        MambaConfig(
            version=2,
            d_model=d_model,
            n_layer=n_layer,
            vocab_size=vocab_size,
            d_state=d_state,
            headdim=headdim,
        )
    )
