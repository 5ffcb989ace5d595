"""AGMC's encoder and decoder: a graph convolution over the operations, and an LSTM that walks the bundles.

AGMC (Yu et al. 2020, arXiv:2011.12641) embeds the computational graph, whose nodes are feature maps and whose
edges are operations, by a graph convolution, and lets an LSTM emit one embedding per layer. No size depends
on the number of layers. Deviations from the reference code, and why:

- nodes have real features (``graph.topology``) and messages depend on the operation; there features are
  random and the twelve types of edges are not used;
- a convolution is one edge; there it goes by a node for each of its filters, so that the graph grows with
  widths;
- the network's embedding is the state that the LSTM starts from, and a step reads the mean embedding of the
  values that make a bundle's channels;
- decisions are fed back to the decoder instead of encoding the graph anew at each step: one pass serves a
  batch;
- the bundles' embeddings are scaled over the network to mean 0 and variance 1, as AMC scales its figures, and
  added to what the decoder emits: without, all bundles look alike to an agent that has seen few episodes, and
  it never learns to treat them differently (docs/results.md, "Agents by themselves");
- the convolution is ``OperationConv`` with tanh in place of GCNConv with ReLU.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from graph.encoder import OperationConv, both_ways, pool
from graph.topology import NODE_FEATURES, OPERATIONS, Topology

_LEAST = 1e-6  # variance of embeddings that differ
FED_BACK = ("last ratio", "last prior", "prior")  # what the decoder reads beside a bundle's embedding


class EncoderDecoder(nn.Module):
    """Embeds each bundle of a network in the light of what was decided before it.

    Encoder: x = tanh(W features), then ``rounds`` graph convolutions over the values of the program; the mean
    over all values, through a linear layer and tanh, is the embedding of the network (AGMC's reference code:
    size 30, mean pooling, linear, tanh).

    Decoder: an LSTM that starts from the network's embedding and reads, bundle by bundle, the mean embedding
    of the values that make its channels, the ratio chosen last, and what the prior has for the last and for
    this. What it emits is added to that mean embedding.

    Args:
        width: size of each embedding.
        rounds: of messages.
    """

    def __init__(self, *, width: int = 30, rounds: int = 2) -> None:
        super().__init__()
        self.entry = nn.Linear(len(NODE_FEATURES), width)
        self.rounds = nn.ModuleList(OperationConv(width, width, 2 * len(OPERATIONS)) for _ in range(rounds))
        self.start = nn.Linear(width, 2 * width)
        self.decoder = nn.LSTM(width + len(FED_BACK), width, batch_first=True)

    def encode(self, topology: Topology) -> tuple[Tensor, Tensor]:
        """Embeddings of the bundles (bundles, width), scaled over these, and of the network (width,)."""
        data = topology.stages[0]
        edge_index, edge_attr = both_ways(data.edge_index, data.edge_attr)
        x = torch.tanh(self.entry(data.x))
        for convolution in self.rounds:
            x = convolution(x, edge_index, edge_attr)
        return scaled(topology.motifs @ pool(x, data.assign)), x.mean(dim=0)

    def forward(self, topology: Topology, kept: Tensor, prior: Tensor, at: Tensor) -> Tensor:
        """Embed the bundle at hand.

        Args:
            topology: of the network.
            kept: keep ratios (batch, bundles); only those before ``at`` are read.
            prior: keep ratios that the action 0 means (batch, bundles).
            at: index of the bundle at hand (batch,).

        Returns:
            (batch, width).
        """
        bundles, network = self.encode(topology)
        batch, n = kept.shape
        first = torch.ones_like(kept[:, :1])
        fed = [torch.cat([first, kept[:, :-1]], 1), torch.cat([first, prior[:, :-1]], 1), prior]
        steps = torch.cat([bundles.expand(batch, -1, -1), torch.stack(fed, dim=-1)], dim=-1)
        hidden, cell = torch.tanh(self.start(network)).chunk(2)
        state = (hidden.expand(1, batch, -1).contiguous(), cell.expand(1, batch, -1).contiguous())
        decoded, _ = self.decoder(steps, state)
        here = at.clamp(max=n - 1)
        return cast(Tensor, bundles[here] + decoded[torch.arange(batch), here])


def scaled(x: Tensor) -> Tensor:
    """Each column with mean 0 and variance 1 over the rows; a column that is the same in all of them is 0."""
    x = x - x.mean(dim=0)
    return x * (x.square().mean(dim=0) + _LEAST).rsqrt()
