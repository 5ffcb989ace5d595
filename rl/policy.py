"""The policy's eyes: the multi-stage graph encoder as a features extractor of stable-baselines3.

The encoder is trained end to end with the agent. The topology is a constant of the extractor; its weights
do not depend on the number of layers.
"""

from __future__ import annotations

from typing import cast

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from graph.encoder import DECISIONS, MultiStageEncoder
from graph.topology import Topology


class GraphFeatures(BaseFeaturesExtractor):
    """Observation -> embedding of the bundle at hand, of its block and of the network, and the state.

    Shapes: ``kept``, ``decided``, ``at`` (batch, bundles), ``state`` (batch, figures)
    -> (batch, 3 x width + figures).

    Args:
        observation_space: of ``PruningEnv``.
        topology: of the network that the environment prunes.
        width: size of each embedding.
    """

    def __init__(self, observation_space: spaces.Dict, topology: Topology, *, width: int = 32) -> None:
        figures = cast(tuple[int], observation_space["state"].shape)[0]
        super().__init__(observation_space, features_dim=3 * width + figures)
        self.topology = topology
        self.encoder = MultiStageEncoder(width=width)
        self.normalise = nn.LayerNorm(3 * width)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Embed a batch of observations."""
        shares = self.topology.motifs  # (bundles, motifs)
        made = shares.sum(dim=0).clamp(min=1e-6)
        of_motif = torch.stack(
            [(observations[key] @ shares) / made for key in ("kept", "decided", "at")], dim=-1
        )
        assert of_motif.shape[-1] == DECISIONS
        motifs, blocks, network = self.encoder(self.topology, of_motif)
        at = observations["at"] @ shares  # (batch, motifs): where the bundle at hand lies
        here = torch.einsum("bm,bmw->bw", at, motifs)
        around = torch.einsum("bm,bmw->bw", at, blocks)
        embedded = self.normalise(torch.cat([here, around, network], dim=-1))
        return torch.cat([embedded, observations["state"]], dim=-1)
