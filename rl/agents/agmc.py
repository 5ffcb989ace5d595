"""AGMC: DDPG on the embeddings of a graph encoder and an LSTM decoder (Yu et al. 2020, arXiv:2011.12641).

Size 30 of the embeddings, hidden layers of 300, learning rates 1e-4 and 1e-3, tau 0.01, batch 64, discount 1
and the truncated normal noise of 0.5 x 0.95^k are the reference code's. Replayed observations hold the
decisions and the position, not the embedding: it is computed anew in each update, so the encoder and the
decoder learn end to end, the critic's through its loss and the actor's through the critic. Deviations: those
of ``graph.decoder`` (real node features, operations on the edges, decisions fed back), a handful of figures
of the state beside the embedding, and an exact limit of MACs where the reference code corrects once.
"""

from __future__ import annotations

from gymnasium import spaces
from torch import Tensor

from graph.decoder import EncoderDecoder
from graph.topology import Topology
from rl.agents.features import GraphFeatures

WIDTH = 30


class DecoderFeatures(GraphFeatures):
    """The decoder's embedding of the bundle at hand."""

    def __init__(
        self, observation_space: spaces.Dict, topologies: tuple[Topology, ...], width: int = WIDTH
    ) -> None:
        super().__init__(observation_space, topologies, width)
        self.network = EncoderDecoder(width=width)

    def embed(self, topology: Topology, kept: Tensor, prior: Tensor, at: Tensor) -> Tensor:
        """See ``GraphFeatures.embed``."""
        embedded: Tensor = self.network(topology, kept, prior, at)
        return embedded
