"""Topology: a program as a hierarchy of graphs for a GNN.

GNN-RL (Yu et al. 2022, arXiv:2102.03214) sees a network as repeated motifs that are contracted
level by level. Here stage 0 holds the values of the program as nodes and its operators as edges; stage 1
contracts each convolution or linear layer with what follows it into one motif; stage 2 contracts motifs
into blocks, stage 3 blocks into sections of the network. Blocks and sections come from the module names where
these say how the network is built; else blocks are repeated sequences of motifs, and sections the blocks
of one spatial size, wherever they come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graph.channels import Axes
from graph.cost import costs
from graph.program import INPUT, TENSOR, Node
from graph.rules import CONTRACTIONS

STAGES = 4
_FAMILIES: tuple[tuple[str, frozenset[str]], ...] = (
    ("convolution", frozenset({"conv1d", "conv2d", "conv3d"})),
    ("product", frozenset({"linear", "mm", "addmm", "bmm", "matmul"})),
    ("normalisation", frozenset({"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"})),
    ("activation", frozenset({"relu", "relu6", "hardtanh", "silu", "gelu", "sigmoid", "hardswish", "tanh"})),
    ("addition", frozenset({"add", "sub"})),
    ("multiplication", frozenset({"mul", "div"})),
    ("concatenation", frozenset({"cat", "stack"})),
    ("reduction", frozenset({"mean", "sum", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"})),
    ("split", frozenset({"split", "split_with_sizes", "chunk", "slice", "select", "getitem"})),
    ("movement", frozenset({"view", "reshape", "transpose", "permute", "flatten", "pad", "constant_pad_nd"})),
)
OPERATIONS = (*(name for name, _ in _FAMILIES), "other")
NODE_FEATURES = (
    "log2 channels", "log2 positions", "depth", "MACs share", "parameter share", "activation share",
    "weight mean", "weight deviation", "weight kurtosis", "kernel", "stride", "depthwise", "grouped",
    "prunable share",
)  # fmt: skip

LAYER_FEATURES = ("filters", "channels", "height", "width", "stride", "kernel", "MACs")


@dataclass(frozen=True, eq=False)
class Topology:
    """A program as four graphs, each contracting the one before.

    Attributes:
        stages: one PyG ``Data`` per stage. ``x`` (nodes, features) is set at stage 0 alone, ``edge_attr``
            (edges, operations) says which operation an edge is, ``assign`` (nodes,) names each node's node
            in the next stage.
        motifs: for each bundle a row over the motifs (stage 1): the share of its channels made there.
        macs_share: for each bundle the share of MACs in the layers that it touches.
        layers: for each motif the raw figures of the layer that starts it (motifs, LAYER_FEATURES).
    """

    stages: tuple[Data, ...]
    motifs: Tensor
    macs_share: Tensor
    layers: Tensor

    @property
    def bundle_layers(self) -> Tensor:
        """For each bundle the mean figures of the layers that make its channels (bundles, LAYER_FEATURES)."""
        return self.motifs @ self.layers


def operation(node: Node) -> int:
    """The index of a node's operation in ``OPERATIONS``."""
    for index, (_, bases) in enumerate(_FAMILIES):
        if node.base in bases:
            return index
    return len(_FAMILIES)


def build(axes: Axes) -> Topology:
    """The hierarchy of a program.

    Args:
        axes: of the program; its groups say which channels can be decided on.
    """
    program = axes.program
    values = [n for n in program.nodes if n.op != TENSOR and isinstance(axes.shapes[n.name], Tensor)]
    index = {n.name: i for i, n in enumerate(values)}
    skipped = {n.name: n for n in program.nodes if n.name not in index and n.op != TENSOR}
    edges, kinds = [], []
    for node in values:
        for ref in node.refs:
            source = skipped[ref].refs[0] if ref in skipped and skipped[ref].refs else ref
            if source in index:
                edges.append((index[source], index[node.name]))
                kinds.append(operation(node))
    motif = _motifs(values, index, skipped)
    heads = _heads(values, motif)
    named = _named(heads)
    block = named or repeats([_signature(axes, h) for h in heads])
    section = _sections(axes, heads, block, by_name=named is not None)
    block_section = np.zeros(max(block, default=0) + 1, dtype=np.int64)
    for b, s in zip(block, section, strict=True):
        block_section[b] = s
    stage0 = _stage(edges, kinds, motif)
    stage0.x = _features(axes, values)
    stage1 = _contracted(stage0, block)
    stage2 = _contracted(stage1, block_section.tolist())
    stage3 = _contracted(stage2, [0] * (max(section, default=0) + 1))
    motifs = _bundle_motifs(axes, values, motif, len(heads))
    shares = _macs_share(axes, heads, motifs)
    return Topology((stage0, stage1, stage2, stage3), motifs, shares, _layers(axes, heads))


def _stage(edges: list[tuple[int, int]], kinds: list[int], assign: list[int]) -> Data:
    index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    attributes = torch.nn.functional.one_hot(
        torch.tensor(kinds, dtype=torch.int64), num_classes=len(OPERATIONS)
    ).float()
    return Data(
        edge_index=index,
        edge_attr=attributes.reshape(-1, len(OPERATIONS)),
        assign=torch.tensor(assign, dtype=torch.int64),
        num_nodes=len(assign),
    )


def _contracted(stage: Data, assign: list[int]) -> Data:
    """The next stage: edges inside a node vanish, parallel ones add up their operations."""
    pairs = stage.assign[stage.edge_index]
    outside = pairs[0] != pairs[1]
    unique, inverse = torch.unique(pairs[:, outside], dim=1, return_inverse=True)
    attributes = torch.zeros(unique.shape[1], len(OPERATIONS))
    attributes.index_add_(0, inverse, stage.edge_attr[outside])
    return Data(
        edge_index=unique,
        edge_attr=attributes / attributes.sum(1, keepdim=True).clamp(min=1),
        assign=torch.tensor(assign, dtype=torch.int64),
        num_nodes=len(assign),
    )


def _motifs(values: list[Node], index: dict[str, int], skipped: dict[str, Node]) -> list[int]:
    """Each contraction starts a motif; every other value joins the motif of its latest operand."""
    motif: list[int] = []
    count = 0
    for node in values:
        operands = [
            index[s]
            for ref in node.refs
            if (s := skipped[ref].refs[0] if ref in skipped and skipped[ref].refs else ref) in index
        ]
        if node.base in CONTRACTIONS or not operands:
            motif.append(count)
            count += 1
        else:
            motif.append(motif[max(operands)])
    return motif


def _heads(values: list[Node], motif: list[int]) -> list[Node]:
    """The node that starts each motif."""
    heads: dict[int, Node] = {}
    for node, m in zip(values, motif, strict=True):
        heads.setdefault(m, node)
    return [heads[m] for m in sorted(heads)]


def _named(heads: list[Node]) -> list[int] | None:
    """The block of each motif by module names.

    None where names do not tell: a network whose layers are one flat list (VGG) would be a single block, one
    whose layers are wrapped each (MobileNet) as many blocks as motifs.
    """
    block = _numbered([_prefix(h, 1) for h in heads])
    most = max(Counter(block).values(), default=0)
    return None if _too_many(block, heads) or 2 * most > len(heads) else block


def _sections(axes: Axes, heads: list[Node], block: list[int], *, by_name: bool) -> list[int]:
    """The section of each motif: by module names where blocks are and these are few, else by spatial size."""
    section = _numbered([_prefix(h, 2) for h in heads])
    if not by_name or _too_many(section, set(block)):
        sizes = [axes.shapes[h.name].shape[2:] for h in heads]
        section = _numbered([str(tuple(sizes[block.index(b)])) for b in block])
    return section


def _too_many(numbers: list[int], of: Collection[Any]) -> bool:
    """Whether so many different numbers contract too little: more than two thirds of what there is."""
    return 3 * len(set(numbers)) > 2 * len(of)


def _prefix(head: Node, drop: int) -> str:
    """The module path without its last ``drop`` parts; the first part at least."""
    parts = head.module.split(".") if head.module else []
    return ".".join(parts[: max(1, len(parts) - drop)])


def _numbered(names: list[str]) -> list[int]:
    """Number names in the order in which they come."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def _signature(axes: Axes, head: Node) -> str:
    """What makes motifs alike: the operator, its kernel, and whether it has groups."""
    tensors = {n.name: axes.program.tensors[n.args[0]] for n in axes.program.nodes if n.op == TENSOR}
    weight = next((tensors[r] for r in head.refs if r in tensors and tensors[r].dim() > 1), None)
    groups = head.arg(6, "groups", 1) if head.base in _FAMILIES[0][1] else 1
    return f"{head.base} {tuple(weight.shape[2:]) if weight is not None else ()} {groups > 1}"


def repeats(signatures: list[str]) -> list[int]:
    """Contract repeated sequences: for each element the number of its block, ascending.

    The most frequent pair of neighbours becomes one, wherever it occurs, until three fifths of the elements
    are left or no pair occurs twice: so conv-conv becomes the basic block and expand-depthwise-project the
    inverted residual, whatever the modules were called (GNN-RL: frequent motifs, contracted).
    """
    symbols, lengths = list(signatures), [1] * len(signatures)
    while 5 * len(symbols) > 3 * len(signatures):
        pair, count = _most_frequent(symbols)
        if count < 2:
            break
        merged: list[str] = []
        sizes: list[int] = []
        at = 0
        while at < len(symbols):
            found = tuple(symbols[at : at + 2]) == pair
            merged.append("(" + " ".join(symbols[at : at + 2]) + ")" if found else symbols[at])
            sizes.append(sum(lengths[at : at + 1 + found]))
            at += 1 + found
        symbols, lengths = merged, sizes
    return [block for block, size in enumerate(lengths) for _ in range(size)]


def _most_frequent(symbols: list[str]) -> tuple[tuple[str, str], int]:
    """The pair of neighbours that occurs most often, the first of equals, without counting overlaps twice."""
    counts: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], int] = {}
    for at, pair in enumerate(zip(symbols, symbols[1:], strict=False)):
        if last.get(pair, -2) < at - 1:
            counts[pair] += 1
            last[pair] = at
    return max(counts.items(), key=lambda entry: entry[1], default=(("", ""), 0))


def _features(axes: Axes, values: list[Node]) -> Tensor:
    """Static features of each value, in the order of ``NODE_FEATURES``."""
    program = axes.program
    whole = costs(program)
    by_node = {o.node: o for o in whole.ops}
    tensor_of = {n.name: program.tensors[n.args[0]] for n in program.nodes if n.op == TENSOR}
    total_bytes = max(1, sum(o.activation_bytes for o in whole.ops))
    group_of = axes.group_of_class()
    rows = []
    for position, node in enumerate(values):
        shape = axes.shapes[node.name].shape
        cost = by_node.get(node.name)
        weight = next((tensor_of[r] for r in node.refs if r in tensor_of and tensor_of[r].dim() > 1), None)
        channels = shape[1] if len(shape) > 1 else 1
        field = axes.fields.get(node.name, {}).get(1)
        prunable = float((group_of[field.labels] >= 0).mean()) if field is not None else 0.0
        stats = _statistics(weight) if weight is not None else (0.0, 0.0, 0.0)
        is_conv = node.base in ("conv1d", "conv2d", "conv3d")
        groups = int(node.arg(6, "groups", 1)) if is_conv else 1
        stride = node.arg(3, "stride", [1]) if is_conv else [1]
        rows.append(
            [
                math.log2(max(1, channels)) / 10,
                math.log2(max(1, math.prod(shape[2:]))) / 16,
                position / len(values),
                cost.macs / max(1, whole.macs) if cost else 0.0,
                cost.params / max(1, whole.params) if cost else 0.0,
                cost.activation_bytes / total_bytes if cost else 0.0,
                *stats,
                weight.shape[-1] / 7 if weight is not None and is_conv else 0.0,
                max(stride) / 2 if is_conv else 0.0,
                float(groups > 1 and groups == channels),
                float(1 < groups < channels),
                prunable,
            ]
        )
    return torch.tensor(rows, dtype=torch.float32)


def _statistics(weight: Tensor) -> tuple[float, float, float]:
    """Scale-free statistics of a weight: mean size, deviation and kurtosis of its filters' norms."""
    if weight.device.type == "meta":
        return 0.0, 0.0, 0.0
    norms = weight.detach().float().flatten(1).norm(dim=1)
    mean = float(norms.mean())
    centred = (norms - norms.mean()) / (norms.std(unbiased=False) + 1e-12)
    spread = float(norms.std(unbiased=False)) / (mean + 1e-12)
    return math.tanh(mean), min(spread, 3.0), math.tanh(float((centred**4).mean()) / 10)


def _bundle_motifs(axes: Axes, values: list[Node], motif: list[int], count: int) -> Tensor:
    """For each bundle, the share of its channels that each motif makes."""
    bundle_of = np.full(len(axes.groups) + 1, -1, dtype=np.int64)
    for index, bundle in enumerate(axes.bundles):
        bundle_of[list(bundle.groups)] = index
    group_of = axes.group_of_class()
    shares = np.zeros((len(axes.bundles), count))
    for node, m in zip(values, motif, strict=True):
        field = axes.fields.get(node.name, {})
        if node.op == INPUT or node.base not in CONTRACTIONS or not field:
            continue
        for found in field.values():
            bundles = bundle_of[group_of[found.labels.ravel()]]
            shares[:, m] += np.bincount(bundles[bundles >= 0], minlength=len(shares))
    return torch.from_numpy(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)).float()


def _macs_share(axes: Axes, heads: list[Node], motifs: Tensor) -> Tensor:
    """For each bundle the share of MACs in the motifs that make its channels."""
    by_node = {o.node: o.macs for o in costs(axes.program).ops}
    macs = torch.tensor([float(by_node.get(h.name, 0)) for h in heads])
    return (motifs > 0).float() @ (macs / macs.sum().clamp(min=1))


def _layers(axes: Axes, heads: list[Node]) -> Tensor:
    """What AMC knows of a layer (arXiv:1802.03494, equation 1), in the order of ``LAYER_FEATURES``."""
    program = axes.program
    macs = {o.node: o.macs for o in costs(program).ops}
    tensor_of = {n.name: program.tensors[n.args[0]] for n in program.nodes if n.op == TENSOR}
    rows = []
    for node in heads:
        weight = next((tensor_of[r] for r in node.refs if r in tensor_of and tensor_of[r].dim() > 1), None)
        sizes = [*axes.shapes[node.name].shape[2:4], 1, 1]
        is_conv = node.base in _FAMILIES[0][1]
        filters, channels = (weight.shape[0], weight.shape[1]) if weight is not None else (0, 0)
        stride = max(node.arg(3, "stride", [1])) if is_conv else 1
        kernel = weight.shape[-1] if weight is not None and is_conv else 1
        rows.append([filters, channels, sizes[0], sizes[1], stride, kernel, macs.get(node.name, 0)])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, len(LAYER_FEATURES))
