"""Mamba language models: a stack of blocks between an embedding and a head, with a cache and its step form.

Parameters have the names of `mamba_ssm`'s checkpoints: ``backbone.layers.0.mixer.in_proj.weight``.

Shapes: B batch, L length, M width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models_zoo.mamba1 import Mamba1Mixer
from models_zoo.mamba2 import Mamba2Mixer
from models_zoo.mamba_config import MambaConfig
from models_zoo.mamba_parts import LayerState

Cache = tuple[LayerState, ...]  # what a model remembers: one state for each layer


class Block(nn.Module):
    """A residual step: norm, mixer, sum."""

    def __init__(self, config: MambaConfig, layer: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.mixer = Mamba1Mixer(config, layer) if config.version == 1 else Mamba2Mixer(config, layer)

    def forward(self, x_BLM: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """Outputs (B, L, M) and the state after the last step."""
        y, after = self.mixer(self.norm(x_BLM), state)
        return x_BLM + y, after


class Backbone(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm_f = nn.RMSNorm(config.d_model, config.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids_BL: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Features (B, L, M) and the cache after the last step."""
        x, after = self.embedding(ids_BL), []
        for index, layer in enumerate(self.layers):
            x, state = layer(x, None if cache is None else cache[index])
            after.append(state)
        return self.norm_f(x), tuple(after)


class MambaLM(nn.Module):
    """A language model.

    Args:
        config: its sizes. The weights are new ones, drawn from torch's generator as `mamba_ssm` draws them.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.sizes = config
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("out_proj.weight"):  # so that the residual stream does not grow with depth
                    parameter.div_(math.sqrt(config.n_layer))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, L, V) of each next token, for tokens (B, L)."""
        logits: Tensor = self.lm_head(self.backbone(input_ids)[0])
        return logits

    def extend(self, ids_BL: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """The same for the continuation of a sequence.

        Args:
            ids_BL: the next tokens; one of them is a step of decoding.
            cache: what an earlier call returned; None at the beginning.

        Returns:
            Logits (B, L, V), and the cache for the next call.
        """
        features, cache = self.backbone(ids_BL, cache)
        return self.lm_head(features), cache

    def empty_cache(self, batch: int) -> Cache:
        """The cache of a sequence that has not begun."""
        sizes, like = self.sizes, self.lm_head.weight
        return tuple(
            LayerState(
                like.new_zeros(batch, channels, sizes.d_conv - 1),
                like.new_zeros(batch, *sizes.state_shape(layer)),
            )
            for layer, channels in enumerate(sizes.conv_channels)
        )

    @torch.no_grad()
    def generate(
        self,
        ids_BL: Tensor,
        steps: int,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue a text.

        Args:
            ids_BL: its tokens, at least one.
            steps: how many to add.
            temperature: of the draw; 0 takes the likeliest.
            generator: of the draw.

        Returns:
            All tokens, (B, L + steps).
        """
        logits, cache = self.extend(ids_BL)
        found = [ids_BL]
        for _ in range(steps):
            last = logits[:, -1].float()
            if temperature > 0:
                token = torch.multinomial((last / temperature).softmax(-1), 1, generator=generator)
            else:
                token = last.argmax(-1, keepdim=True)
            found.append(token)
            logits, cache = self.extend(token, cache)
        return torch.cat(found, 1)


class MambaStep(nn.Module):
    """One step of decoding with its states as plain inputs and outputs, for export.

    Args:
        model: shared, not copied.
    """

    def __init__(self, model: MambaLM) -> None:
        super().__init__()
        self.model = model
        layers = range(model.sizes.n_layer)
        self.input_names = ["token", *(f"conv_{i}" for i in layers), *(f"ssm_{i}" for i in layers)]

    def example(self, batch: int) -> list[Tensor]:
        """Inputs at the beginning of a sequence: tokens (B,), then what `LayerState` names, by layer."""
        cache = self.model.empty_cache(batch)
        token = torch.arange(batch) % self.model.sizes.vocab_size
        return [token, *(s.conv for s in cache), *(s.ssm for s in cache)]

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, V) after a token (B,), and the states for the next call, in the order they came in."""
        layers = len(states) // 2
        cache = tuple(map(LayerState, states[:layers], states[layers:]))
        logits, after = self.model.extend(token[:, None], cache)
        return logits[:, 0], *(s.conv for s in after), *(s.ssm for s in after)


class MambaAnyLength(nn.Module):
    """A whole sequence of any length, for export: the state space runs in a loop operator.

    Args:
        model: shared, not copied.
    """

    def __init__(self, model: MambaLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, L, V) for tokens (B, L)."""
        mixers = [m for m in self.model.modules() if isinstance(m, Mamba1Mixer | Mamba2Mixer)]
        before = [m.any_length for m in mixers]
        try:
            for mixer in mixers:
                mixer.any_length = True
            logits: Tensor = self.model(input_ids)
            return logits
        finally:
            for mixer, value in zip(mixers, before, strict=True):
                mixer.any_length = value
