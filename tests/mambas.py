"""Small Mambas for the tests: ours and those of transformers, with weights that make the signals count."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from models_zoo.mamba_config import MambaConfig, Version
from models_zoo.mamba_lm import MambaLM

VOCAB = 40


def config(version: Version, **changes: Any) -> MambaConfig:
    own: dict[str, Any] = {} if version == 1 else {"headdim": 8, "ngroups": 2, "chunk_size": 16}
    sizes = {"d_model": 16, "n_layer": 2, "vocab_size": VOCAB, "d_state": 5} | own | changes
    return MambaConfig(version=version, **sizes)


M = TypeVar("M", bound=nn.Module)


def stirred(module: M, seed: int = 0) -> M:
    """Rates, time steps, gates and norms far from their first values: a slip in any of them shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith("A_log"):
                p.uniform_(-1, 2, generator=generator)
            elif name.endswith(("dt_bias", "dt_proj.bias")):
                p.uniform_(-3, 1, generator=generator)
            elif p.dim() > 1:
                p.normal_(std=1.5 * p[0].numel() ** -0.5, generator=generator)
            else:
                p.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def model(version: Version, **changes: Any) -> MambaLM:
    return stirred(MambaLM(config(version, **changes)))


def theirs(version: Version, **changes: Any) -> Any:
    """The same sizes in transformers."""
    import transformers

    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 5}
    if version == 1:
        return stirred(transformers.MambaForCausalLM(transformers.MambaConfig(**sizes | changes)))
    sizes |= {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 16}
    return stirred(transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**sizes | changes)))


def ids(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
