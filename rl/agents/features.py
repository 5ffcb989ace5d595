"""What graph agents share: a batch may hold several networks, each is embedded with its own graph."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from graph.topology import Topology
from rl.env import STATE


class GraphFeatures(BaseFeaturesExtractor):
    """Observation -> embedding and state; the topologies are constants, no weight depends on them.

    Args:
        observation_space: of ``PruningEnv``.
        topologies: of the networks that the environment prunes.
        embedded: size of the embedding.
    """

    def __init__(
        self, observation_space: spaces.Dict, topologies: tuple[Topology, ...], embedded: int
    ) -> None:
        super().__init__(observation_space, features_dim=embedded + len(STATE))
        self.topologies = topologies
        self.embedded = embedded

    def embed(self, topology: Topology, kept: Tensor, prior: Tensor, at: Tensor) -> Tensor:
        """Embed one network.

        Args:
            topology: of it.
            kept: keep ratios, decided ones and else the prior's (batch, bundles).
            prior: keep ratios that action 0 means (batch, bundles).
            at: index of the bundle at hand (batch,); the number of bundles at the end of an episode.

        Returns:
            (batch, embedded).
        """
        raise NotImplementedError

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Embed a batch of observations: (batch, embedded + figures of the state)."""
        networks = observations["network"][:, 0].long()
        result: Tensor | None = None
        for index in sorted(set(networks.tolist())):
            topology = self.topologies[index]
            rows = (networks == index).nonzero()[:, 0]
            n = topology.motifs.shape[0]
            found = self.embed(
                topology,
                observations["kept"][rows, :n],
                observations["prior"][rows, :n],
                observations["at"][rows, 0].long(),
            )
            if len(rows) == len(networks):
                result = found
                break
            base = found.new_zeros(len(networks), self.embedded) if result is None else result
            result = base.index_copy(0, rows, found)
        assert result is not None
        return torch.cat([result, observations["state"]], dim=-1)


def extractor(kind: type[BaseFeaturesExtractor], **arguments: Any) -> dict[str, Any]:
    """The arguments of an SB3 policy that name its features extractor."""
    return {"features_extractor_class": kind, "features_extractor_kwargs": arguments}
