"""The topology and both encoders: any network, any numbering of its nodes."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch_geometric.nn import MessagePassing

from graph import topology
from graph.axes import infer
from graph.capture import capture
from graph.decoder import EncoderDecoder, scaled
from graph.encoder import DECISIONS, MultiStageEncoder, OperationConv
from graph.topology import LAYER_FEATURES, STAGES, Topology, repeats
from models_zoo import registry


@functools.cache
def graph_of(name: str) -> Topology:
    torch.manual_seed(0)
    entry = registry.find(name)
    return topology.build(infer(capture(registry.build(name), [torch.randn(2, *entry.input_shape)])))


def renumbered(found: Topology, stage: int) -> tuple[Topology, torch.Tensor]:
    """The same network with the nodes of one stage in another order, and which node each of them was."""
    stages = [s.clone() for s in found.stages]
    moved = stages[stage]
    order = torch.randperm(int(moved.num_nodes or 0), generator=torch.Generator().manual_seed(stage + 1))
    place = order.argsort()
    assert not torch.equal(place, torch.arange(len(place)))
    moved.edge_index, moved.assign = place[moved.edge_index], moved.assign[order]
    if stage == 0:
        moved.x = moved.x[order]
    else:
        stages[stage - 1].assign = place[stages[stage - 1].assign]
    other = replace(found, stages=tuple(stages))
    if stage == 1:
        other = replace(other, motifs=found.motifs[:, order], layers=found.layers[order])
    return other, order


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
    for stage in range(STAGES):
        moved, order = renumbered(found, stage)
        if stage != 1:  # decisions and results are about the motifs
            order = torch.arange(count)
        again = encoder(moved, decisions[:, order])
        for one, other in zip(again, (motifs[:, order], blocks[:, order], network), strict=True):
            torch.testing.assert_close(one, other)
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
    for stage in range(STAGES):
        torch.testing.assert_close(network(renumbered(found, stage)[0], kept, prior, at), embedded)


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


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_the_decoder_tells_bundles_apart(name: str) -> None:
    torch.manual_seed(0)
    network, found = EncoderDecoder(), graph_of(name)
    n = len(found.motifs)
    bundles, _ = network.encode(found)
    torch.testing.assert_close(bundles.mean(dim=0), torch.zeros(30), atol=1e-4, rtol=0)
    half = torch.full((n, n), 0.5)
    embedded = network(found, half, half, torch.arange(n))
    apart = torch.pdist(embedded)
    assert embedded.std(dim=0).median() > 0.5  # of AMC's figures, which lie in [0, 1], it is 0.3 to 0.5
    assert apart.median() > 2


def test_what_is_the_same_in_all_bundles_is_scaled_to_nothing() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 4.0], [1.0, 6.0]], requires_grad=True)
    found = scaled(x)
    torch.testing.assert_close(found[:, 0], torch.zeros(3))
    torch.testing.assert_close(found[:, 1], torch.tensor([-1.0, 0.0, 1.0]) * 1.5**0.5)
    found.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_no_code_is_written_into_a_temporary_file() -> None:
    OperationConv(2, 2, 1)
    assert OperationConv.propagate is MessagePassing.propagate


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


@pytest.mark.parametrize("name", ["vgg11", "mobilenet_v1", "shufflenet_v2", "resnet20"])
def test_each_stage_contracts_whatever_the_modules_are_called(name: str) -> None:
    sizes = [int(s.num_nodes or 0) for s in graph_of(name).stages]
    for whole, contracted in itertools.pairwise(sizes):
        assert contracted <= (5 if whole < 10 else 2 / 3 * whole)
    assert sizes[-1] > 1


def test_a_program_without_names_has_a_hierarchy_too() -> None:
    torch.manual_seed(0)
    program = capture(registry.build("mobilenet_v2"), [torch.randn(2, 3, 224, 224)])
    bare = replace(program, nodes=tuple(replace(n, module="") for n in program.nodes))
    sizes = [int(s.num_nodes or 0) for s in topology.build(infer(bare)).stages]
    assert sizes == sorted(sizes, reverse=True)
    assert 15 <= sizes[2] <= 35 and 2 <= sizes[3] < sizes[2]  # 17 inverted residuals, five resolutions
