"""The multi-stage graph encoder: from a topology and the ratios chosen so far to embeddings.

Stage 0 embeds the values of the program once; their mean over a motif, joined with what has been decided
about it, enters stage 1; and so on up to one vector for the whole network (GNN-RL,
arXiv:2102.03214). No size depends on the number of layers: the same weights embed any network.

Deviations from the reference code, and why:

- a node of stage 0 is a value (a feature map) and not a filter, and a convolution is an edge and no motif
  graph of its own with a node for each input channel: the graph's size then follows the number of operations
  and not of channels, and what a filter's graph would tell (its size, its weights) are features;
- an edge carries what operation it is; there it is the embedding of the convolution's motif;
- node features are real (``graph.topology``); there they are random, drawn anew at each step;
- messages in three stages in place of two, and a pooling over sections. Where module names say how a network
  is built, blocks and sections are read off these; else repeated neighbours are contracted, which gives one
  level of blocks, and sections are runs of equal spatial size;
- decisions enter at stage 1, so that stage 0 is embedded once for a whole batch of them;
- no dropout, which would disturb PPO's ratio of new to old probabilities.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter

from graph.topology import NODE_FEATURES, OPERATIONS, Topology

# Of each motif's channels: the share kept, the share the prior keeps, whether decided, whether at hand.
DECISIONS = ("kept", "prior", "decided", "at hand")


class OperationConv(MessagePassing):  # type: ignore[misc]
    r"""A graph convolution whose edges are operations.

    x'_i = tanh(U x_i + sum over j in N(i) of W (x_j * E e_ji) / sqrt(d_i d_j))

    Source: the second stage in GNN-RL's reference code (message = Linear(x_j * e), summed, normalised by
    degree, tanh). Deviation: the node itself goes through a matrix of its own in place of a self-loop, so
    that depth does not wash it out.

    Shapes: x (..., nodes, inputs), edge_index (2, edges), edge_attr (edges, operations)
    -> (..., nodes, outputs).
    """

    def __init__(self, inputs: int, outputs: int, operations: int) -> None:
        super().__init__(aggr="add", node_dim=-2)
        self.own = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(operations, inputs)
        self.neighbour = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """One round of messages."""
        degree = torch.zeros(x.shape[-2], dtype=x.dtype, device=x.device)
        degree.index_add_(0, edge_index[1], torch.ones(edge_index.shape[1], dtype=x.dtype, device=x.device))
        scale = (degree[edge_index[0]].clamp(min=1) * degree[edge_index[1]].clamp(min=1)).rsqrt()
        received = self.propagate(edge_index, x=x, gate=self.gate(edge_attr) * scale[:, None])
        return torch.tanh(self.own(x) + cast(Tensor, received))

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        """Nothing: torch-geometric would write ``propagate`` anew into a temporary file, and leave that."""

    def message(self, x_j: Tensor, gate: Tensor) -> Tensor:
        """What one neighbour sends along one operation."""
        return cast(Tensor, self.neighbour(x_j * gate))


class MultiStageEncoder(nn.Module):
    """Embeds a network at every stage of its hierarchy.

    Args:
        width: size of each embedding.
        rounds: message-passing rounds per stage.
    """

    def __init__(self, *, width: int = 32, rounds: int = 2) -> None:
        super().__init__()
        self.width = width
        operations = 2 * len(OPERATIONS)  # along the data flow and against it
        self.entry = nn.Linear(len(NODE_FEATURES), width)
        self.decided = nn.Linear(width + len(DECISIONS), width)
        self.stages = nn.ModuleList(
            nn.ModuleList(OperationConv(width, width, operations) for _ in range(rounds)) for _ in range(3)
        )

    def forward(self, topology: Topology, decisions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed one network under a batch of partial decisions.

        Args:
            topology: of the network.
            decisions: (batch, motifs, len(DECISIONS)).

        Returns:
            Embeddings of the motifs (batch, motifs, width), of each motif's block (same shape) and of the
            whole network (batch, width).
        """
        first, second, third, _ = topology.stages
        values = self._rounds(0, torch.tanh(self.entry(first.x)), first)
        motifs = pool(values, first.assign)
        motifs = motifs.expand(decisions.shape[0], -1, -1)
        motifs = torch.tanh(self.decided(torch.cat([motifs, decisions], dim=-1)))
        motifs = self._rounds(1, motifs, second)
        blocks = self._rounds(2, pool(motifs, second.assign), third)
        return motifs, blocks[..., second.assign, :], pool(blocks, third.assign).mean(dim=-2)

    def _rounds(self, stage: int, x: Tensor, data: Any) -> Tensor:
        edge_index, edge_attr = both_ways(data.edge_index, data.edge_attr)
        for convolution in cast(nn.ModuleList, self.stages[stage]):
            x = convolution(x, edge_index, edge_attr)
        return x


def both_ways(edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
    """Edges along the data flow and against it, told apart by their attributes (edges, 2 x operations)."""
    none = torch.zeros_like(edge_attr)
    return (
        torch.cat([edge_index, edge_index.flip(0)], dim=1),
        torch.cat([torch.cat([edge_attr, none], 1), torch.cat([none, edge_attr], 1)], dim=0),
    )


def pool(x: Tensor, assign: Tensor) -> Tensor:
    """Mean over the nodes that are contracted into one."""
    return cast(Tensor, scatter(x, assign, dim=x.dim() - 2, reduce="mean"))
