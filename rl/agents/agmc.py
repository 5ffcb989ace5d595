"""AGMC: DDPG on the embeddings of a graph encoder and an LSTM decoder (Yu et al. 2020, arXiv:2011.12641).

As the reference code has it: embeddings of size 30, hidden layers of 300, learning rates 1e-4 (actor) and
1e-3 (critic), tau 0.01, batch 64, discount 1, noise from a truncated normal that decays by 0.95 each episode.
Replayed observations hold the decisions and the position, not the embedding: it is computed anew in each
update, so the encoder and the decoder learn end to end, the critic's through its loss and the actor's through
the critic. The learner is AMC's (``rl.agents.ddpg``). Deviations, and why:

- those of ``graph.decoder``: real node features, operations on the edges, decisions fed back, embeddings
  scaled over the network;
- the noise begins at 0.2 without a warm-up; the reference code has 0.5 after 25 episodes. Action 0 is a good
  plan here, and many actions that are each half a unit off make a bad one;
- eight figures of the state stand beside the embedding: the graph alone does not say what the limits leave;
- the limits are kept exactly, by bounded actions and a projection; the reference code corrects once, in
  proportion, which does not guarantee the target;
- the reward is the share of the best baseline's error (or loss) that a plan saves, one scale for all
  networks; the reference code has -(100 - accuracy).
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
