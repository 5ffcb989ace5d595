"""Supernets: layers, order, slices; every subnetwork computes what the whole computes without the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graph.axes import infer
from graph.capture import capture
from graph.cost import costs
from graph.errors import UsageError
from graph.program import ProgramModule
from models_zoo.registry import build
from prune.importance import magnitude
from prune.inputs import InputRequest
from prune.load import ModelSource, load
from prune.subject import Subject
from prune.verify import compared
from supernet.elastic import ElasticConfig, Subnet
from supernet.layers import find_layers
from supernet.net import ElasticModule, Supernet, make_supernet
from supernet.priority import _order, prioritize, reordered

VIT = {"image_size": 8, "in_channels": 1, "width": 16, "depth": 3, "heads": 4, "mlp_ratio": 2}
ALL = ElasticConfig(kinds=("head", "mlp", "residual"), least_depth=0.3)


class Grouped(nn.Module):
    """Two layers of attention with grouped queries, whose head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.RMSNorm(16), "q": nn.Linear(16, 16), "k": nn.Linear(16, 8),
                    "v": nn.Linear(16, 8), "o": nn.Linear(16, 16), "norm2": nn.RMSNorm(16),
                    "gate": nn.Linear(16, 24), "up": nn.Linear(16, 24), "down": nn.Linear(24, 16),
                }
            )
            for _ in range(2)
        )  # fmt: skip

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        B, T, _ = x.shape
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            y = layer["norm"](x)
            q = layer["q"](y).view(B, T, 4, 4).transpose(1, 2)
            k, v = (layer[n](y).view(B, T, 2, 4).transpose(1, 2) for n in "kv")
            k, v = (t[:, :, None].expand(B, 2, 2, T, 4).reshape(B, 4, T, 4) for t in (k, v))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["o"](y.transpose(1, 2).reshape(B, T, 16))
            y = layer["norm2"](x)
            x = x + layer["down"](nn.functional.silu(layer["gate"](y)) * layer["up"](y))
        return x @ self.embedding.weight.T


def post_norm() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.1)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "vit": lambda: (build("vit_tiny", **VIT), torch.zeros(2, 1, 8, 8)),
    "segmenter": lambda: (build("seg_tiny", image_size=8, width=16, depth=2), torch.zeros(2, 3, 8, 8)),
    "gpt": lambda: (
        build("gpt_tiny", vocab_size=13, length=12, width=16, depth=2, heads=4),
        torch.zeros(2, 12, dtype=torch.int64),
    ),
    "grouped queries": lambda: (Grouped(), torch.zeros(2, 6, dtype=torch.int64)),
    "post-norm": lambda: (post_norm(), torch.zeros(2, 5, 16)),
}


def subject(module: nn.Module, x: Tensor) -> Subject:
    """Captured with weights that are no zeros and ones."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    program = capture(module.eval(), [x])
    request = InputRequest(shape=tuple(x.shape[1:]), dtype=str(x.dtype).removeprefix("torch."))
    loaded = load(ModelSource(model="network", module=module, request=request))
    return Subject(loaded, infer(program), costs(program))


def made(name: str, config: ElasticConfig = ALL) -> Supernet:
    torch.manual_seed(0)
    return make_supernet(subject(*NETWORKS[name]()), config, None, origin={})


def choices(net: Supernet, count: int = 4) -> list[Subnet]:
    torch.manual_seed(2)
    return [net.elastic.smallest, *(net.elastic.random() for _ in range(count))]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_subnetwork_is_the_whole_without_the_rest(name: str) -> None:
    net = made(name)
    assert net.max_error <= 1e-12 and all(n.startswith("no elastic width of kind") for n in net.notes)
    kinds = {c.kind for c in net.elastic.choices}
    assert {"head", "mlp"} <= kinds, kinds
    assert len(net.elastic.layers) >= 2 and net.cutter.direct
    for subnet in choices(net):
        program = net.extract(subnet)
        assert net.proof(subnet, program).max_error <= 1e-9, subnet
        found, told = costs(program), net.elastic.cost(subnet)
        assert (found.macs, found.params) == (told.macs, told.params), subnet
    whole = net.extract(net.elastic.largest)
    assert compared(net.program, {}, whole).max_error == 0


def test_the_proof_sees_another_subnetwork() -> None:
    net = made("vit")
    small, large = net.elastic.smallest, net.elastic.largest
    narrow = Subnet(small.levels, ())
    shorter = Subnet(large.levels, small.dropped)
    assert net.proof(large, net.extract(shorter)).max_error > 1e-3
    assert net.proof(narrow, net.extract(large)).max_error > 1e-3
    assert net.proof(shorter, net.extract(shorter)).max_error <= 1e-9


@pytest.mark.parametrize("name", ["vit", "post-norm"])
def test_layers_are_whole_ones(name: str) -> None:
    """Two branches each; where the norm stands behind them, it goes with the layer."""
    module, x = NETWORKS[name]()
    program = capture(module.eval(), [x])
    layers = find_layers(program)
    path = "encoder.blocks" if name == "vit" else "layers"
    assert [b.name for b in layers] == [f"{path}.{i}" for i in range(3)]
    for i, layer in enumerate(layers):
        assert {n for n in program.trainable if n.startswith(f"{path}.{i}.")} == layer.tensors


def test_a_post_norm_encoder_without_a_layer_is_one_with_fewer() -> None:
    module = post_norm().eval()
    net = make_supernet(subject(module, torch.zeros(2, 5, 16)), ALL, None, origin={})
    assert isinstance(module, nn.TransformerEncoder)
    del module.layers[1]
    x = torch.randn(2, 5, 16)
    short = Subnet(net.elastic.largest.levels, (1,))
    with torch.no_grad():
        torch.testing.assert_close(ProgramModule(net.extract(short))(x), module(x))


def test_units_stand_in_the_order_of_their_salience() -> None:
    torch.manual_seed(0)
    whole = subject(*NETWORKS["vit"]())
    found = prioritize(whole.axes, magnitude(whole.axes), ("head", "mlp", "residual"))
    scores = magnitude(found.axes)
    for group in found.axes.groups:
        if group.kind != "lane":
            ranked = scores[list(group.units)]
            assert (np.diff(ranked) <= 1e-9 * ranked.max()).all(), group.name
    assert not torch.equal(
        found.axes.program.tensors["encoder.positions"], whole.program.tensors["encoder.positions"]
    )


def test_an_order_that_changes_the_function_is_refused() -> None:
    """What the proof is for: units moved without what goes with them."""
    torch.manual_seed(0)
    whole = subject(*NETWORKS["vit"]())
    order = _order(whole.axes, magnitude(whole.axes), ("head",))
    lanes = np.unique(whole.axes.derived[:, 0])
    order[lanes] = lanes  # heads move, their lanes stay
    wrong = reordered(whole.axes, order)
    right = reordered(whole.axes, _order(whole.axes, magnitude(whole.axes), ("head",)))
    assert compared(whole.program, {}, right).max_error <= 1e-12
    assert any(not torch.equal(wrong.tensors[n], right.tensors[n]) for n in right.tensors)


def test_a_subnetwork_is_a_view() -> None:
    net = made("vit")
    program = net.extract(net.elastic.smallest)
    for name, tensor in program.tensors.items():
        assert (
            tensor.untyped_storage().data_ptr() == net.program.tensors[name].untyped_storage().data_ptr()
        ), name
    narrow = program.tensors["encoder.patches.weight"]
    assert narrow.shape[0] < net.program.tensors["encoder.patches.weight"].shape[0]


def test_gradients_reach_the_slices_and_nothing_else() -> None:
    net = made("vit", ElasticConfig(kinds=("mlp",), least_depth=1.0))
    module = ElasticModule(net)
    module.subnet = net.elastic.smallest
    module(torch.randn(2, 1, 8, 8)).square().sum().backward()
    grad = module.get_parameter("encoder.blocks.0.up.weight").grad
    kept = net.elastic.choices[0].layouts[0][0]
    assert grad is not None and (grad[:kept] != 0).any() and (grad[kept:] == 0).all() and kept < len(grad)
    module.subnet = net.elastic.largest
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(x), ProgramModule(net.program)(x))


def test_rules_cut_what_slices_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    net = made("vit")
    slices = net.extract(net.elastic.smallest)
    monkeypatch.setattr(net.cutter, "direct", False)
    net.cutter._known.clear()
    by_rules = net.extract(net.elastic.smallest)
    assert by_rules.nodes == slices.nodes
    assert all(torch.equal(by_rules.tensors[n], slices.tensors[n]) for n in slices.tensors)


def test_choices() -> None:
    net = made("vit", ElasticConfig(kinds=("head", "mlp"), least=0.5, steps=4, least_depth=0.6))
    elastic = net.elastic
    assert [c.layouts for c in elastic.choices if c.kind == "mlp"] == [((16,), (24,), (32,))] * 3
    assert [c.layouts for c in elastic.choices if c.kind == "head"] == [((2,), (3,), (4,))] * 3
    assert elastic.least_layers == 2 and len(elastic.smallest.dropped) == 1
    gone = elastic.smallest.dropped[0]
    assert gone == int(np.argmin(elastic.salience))
    assert all(
        level == len(c.layouts) - 1
        for c, level in zip(elastic.choices, elastic.smallest.levels, strict=True)
        if c.layer == gone
    ), "widths of a layer that does not run are of no account"
    torch.manual_seed(0)
    drawn = {elastic.random() for _ in range(60)}
    assert len({s.dropped for s in drawn}) > 2 and len(drawn) > 40
    assert all(not elastic.random(0.0).dropped for _ in range(10))
    assert elastic.parse(elastic.smallest.to_json()) == elastic.smallest
    for wrong in ({}, {"levels": [0], "dropped": []}, {"levels": [9] * 6, "dropped": []},
                  {"levels": [0] * 6, "dropped": [0, 1]}, {"levels": "ab", "dropped": 1}):  # fmt: skip
        with pytest.raises(UsageError, match="not a subnetwork"):
            elastic.parse(wrong)


def test_uniform_widths_are_one_choice() -> None:
    net = made("vit", ElasticConfig(uniform=True))
    assert [(c.kind, len(c.groups)) for c in net.elastic.choices] == [("head", 3), ("mlp", 3)]
    subnet = net.elastic.smallest
    assert net.proof(subnet, net.extract(subnet)).max_error <= 1e-9


def test_nothing_elastic_is_told() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(UsageError, match="nothing of this model is elastic") as caught:
        make_supernet(subject(plain, torch.zeros(2, 4)), ElasticConfig(kinds=("head",)), None, origin={})
    assert "--kinds" in caught.value.hint and "no layer that can be bypassed" in str(caught.value)
    kept = ElasticConfig(kinds=("head", "expert"), least=1.0, least_depth=1.0)
    with pytest.raises(UsageError, match="--least-depth 1 keeps all of its 3 layers") as caught:
        made("vit", kept)
    assert "its 3 groups, of at most 4 units" in str(caught.value), "they are there, but no width of them"
    assert "expert: the model has no group of it" in str(caught.value)
    net = make_supernet(subject(plain, torch.zeros(2, 4)), ElasticConfig(), None, origin={})
    assert net.notes == (
        "no elastic width of kind head: the model has no group of it",
        "no layer can be bypassed: only widths are elastic",
    )
    with pytest.raises(UsageError, match="has batch norms"):
        module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        make_supernet(subject(module, torch.zeros(2, 4)), ElasticConfig(), None, origin={})


@pytest.mark.parametrize("wrong", [{"least": 0.0}, {"least_depth": 2.0}, {"steps": 0}])
def test_choices_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ElasticConfig(**wrong)  # type: ignore[arg-type]
