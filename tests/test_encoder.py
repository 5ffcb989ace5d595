"""The topology and both encoders: any network, any numbering of its nodes."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data

from graph import topology
from graph.axes import infer
from graph.capture import capture
from graph.decoder import EncoderDecoder
from graph.encoder import DECISIONS, MultiStageEncoder
from graph.topology import LAYER_FEATURES, Topology, repeats
from models_zoo import registry


@functools.cache
def graph_of(name: str) -> Topology:
    torch.manual_seed(0)
    entry = registry.find(name)
    return topology.build(infer(capture(registry.build(name), [torch.randn(2, *entry.input_shape)])))


def renumbered(found: Topology) -> Topology:
    """The same network with the nodes of its first stage in another order."""
    first = found.stages[0]
    order = torch.randperm(len(first.x), generator=torch.Generator().manual_seed(1))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    moved = Data(
        x=first.x[order],
        edge_index=place[first.edge_index],
        edge_attr=first.edge_attr,
        assign=first.assign[order],
        num_nodes=len(order),
    )
    return replace(found, stages=(moved, *found.stages[1:]))


def motifs_renumbered(found: Topology) -> tuple[Topology, torch.Tensor]:
    """The same network with its motifs in another order, and where each of them went."""
    first, second, *rest = found.stages
    count = int(second.num_nodes or 0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
    place = torch.empty_like(order)
    place[order] = torch.arange(count)
    first, second = first.clone(), second.clone()
    first.assign = place[first.assign]
    second.edge_index, second.assign = place[second.edge_index], second.assign[order]
    moved = replace(
        found, stages=(first, second, *rest), motifs=found.motifs[:, order], layers=found.layers[order]
    )
    return moved, order


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_the_multi_stage_encoder_ignores_the_numbering(name: str) -> None:
    torch.manual_seed(0)
    encoder = MultiStageEncoder(width=8)
    found = graph_of(name)
    torch.testing.assert_close(found.motifs.sum(dim=1), torch.ones(len(found.motifs)))
    count = int(found.stages[1].num_nodes or 0)
    decisions = torch.rand(2, count, len(DECISIONS))
    motifs, blocks, network = encoder(found, decisions)
    assert motifs.shape == blocks.shape == (2, count, 8) and network.shape == (2, 8)
    for again in zip((motifs, blocks, network), encoder(renumbered(found), decisions), strict=True):
        torch.testing.assert_close(*again)
    moved, order = motifs_renumbered(found)
    motifs_moved, blocks_moved, network_moved = encoder(moved, decisions[:, order])
    torch.testing.assert_close(motifs_moved, motifs[:, order])
    torch.testing.assert_close(blocks_moved, blocks[:, order])
    torch.testing.assert_close(network_moved, network)
    other = encoder(found, decisions.flip(0))[0]
    assert not torch.allclose(other, motifs)  # decisions matter


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_the_encoder_decoder_ignores_the_numbering(name: str) -> None:
    torch.manual_seed(0)
    network = EncoderDecoder(width=8)
    found = graph_of(name)
    n = len(found.motifs)
    kept, prior, at = torch.rand(3, n), torch.rand(3, n), torch.tensor([0, n // 2, n])
    embedded = network(found, kept, prior, at)
    assert embedded.shape == (3, 8)
    torch.testing.assert_close(network(renumbered(found), kept, prior, at), embedded)
    torch.testing.assert_close(network(motifs_renumbered(found)[0], kept, prior, at), embedded)


def test_the_decoder_reads_what_was_decided_and_nothing_that_follows() -> None:
    torch.manual_seed(0)
    network = EncoderDecoder(width=8)
    found = graph_of("resnet20")
    n, at = len(found.motifs), 4
    kept, prior = torch.rand(1, n), torch.rand(1, n)
    embedded = network(found, kept, prior, torch.tensor([at]))
    later, earlier = kept.clone(), kept.clone()
    later[0, at:] = 0.5
    earlier[0, at - 1] += 0.3
    torch.testing.assert_close(network(found, later, prior, torch.tensor([at])), embedded)
    assert not torch.allclose(network(found, earlier, prior, torch.tensor([at])), embedded)


def test_operations_on_the_edges_matter() -> None:
    torch.manual_seed(0)
    found = graph_of("resnet20")
    first = found.stages[0].clone()
    first.edge_attr = first.edge_attr.roll(1, dims=1)
    other = replace(found, stages=(first, *found.stages[1:]))
    network = EncoderDecoder(width=8)
    assert not torch.allclose(network.encode(found)[0], network.encode(other)[0])


def test_figures_of_layers_are_those_of_the_network() -> None:
    found = graph_of("resnet20")
    rows = [dict(zip(LAYER_FEATURES, row.tolist(), strict=True)) for row in found.layers]
    convs = [r for r in rows if r["kernel"] == 3]
    assert convs[0] == {
        "filters": 16, "channels": 3, "height": 32, "width": 32, "stride": 1, "kernel": 3,
        "MACs": 32 * 32 * 16 * 3 * 9,
    }  # fmt: skip
    assert sum(r["stride"] == 2 for r in convs) == 2
    assert max(r["filters"] for r in convs) == 64


def test_repeated_sequences_become_blocks_where_modules_have_no_names() -> None:
    assert repeats(["a", *"bc" * 3, "d"]) == [0, 1, 1, 2, 2, 3, 3, 4]
    assert repeats([*"exy" * 4]) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert repeats(["a", "b", "c"]) == [0, 1, 2]
    assert repeats([]) == []


def test_a_program_without_names_has_a_hierarchy_too() -> None:
    torch.manual_seed(0)
    program = capture(registry.build("mobilenet_v2"), [torch.randn(2, 3, 224, 224)])
    bare = replace(program, nodes=tuple(replace(n, module="") for n in program.nodes))
    sizes = [int(s.num_nodes or 0) for s in topology.build(infer(bare)).stages]
    assert sizes == sorted(sizes, reverse=True)
    assert 15 <= sizes[2] <= 35 and 2 <= sizes[3] < sizes[2]  # 17 inverted residuals, five resolutions
