"""Exports in the core set of ATen: the same program comes out, trains, and is pruned alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import INPUT, Net, conv, head, prune_and_prove, random_plan, scrambled, tokens
from torch import Tensor, nn
from torch.export import Dim

from graph.axes import infer
from graph.conversion import convert
from graph.program import run


def forward(m: Net, x: Tensor) -> Tensor:
    y = F.max_pool2d(m.g(m.n(m.a(x))).relu(), 2)
    y = tokens(m.t(y) + m.d(y))
    q, k, v = (layer(m.l(y)).view(x.shape[0], -1, 2, 4).transpose(1, 2) for layer in (m.q, m.k, m.v))
    z: Tensor = m.h(m.p(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1))
    return z


def network() -> Net:
    linear = {n: nn.Linear(8, 8) for n in "qkv"}
    torch.manual_seed(0)
    layers = {"a": conv(3, 8), "n": nn.BatchNorm2d(8), "g": nn.GroupNorm(2, 8), "d": conv(8, 8, groups=8),
              "t": nn.ConvTranspose2d(8, 8, 1), "l": nn.LayerNorm(8), "p": nn.Dropout(0.1),
              "h": head(8)}  # fmt: skip
    return scrambled(Net(forward, {**layers, **linear})).eval()  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore")
def test_a_decomposed_export_is_pruned_as_the_model_is() -> None:
    module, x = network(), torch.randn(INPUT)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    low = exported.run_decompositions()
    found = {n.target._opname for n in low.graph.nodes if hasattr(n.target, "_opname")}
    assert {"convolution", "native_layer_norm", "native_group_norm"} <= found
    programs = [convert(e, [x]).program for e in (exported, low)]
    bases = {n.base for n in programs[1].nodes}
    assert {"conv2d", "conv_transpose2d", "batch_norm", "layer_norm", "group_norm", "max_pool2d"} <= bases
    assert not {b for b in bases if b.startswith(("native", "_native", "convolution"))}
    with torch.no_grad():
        assert torch.allclose(run(programs[1], programs[1].tensors, [x]), module(x), atol=1e-5)
    high, axes = infer(programs[0]), infer(programs[1])
    assert not axes.unsupported
    assert sorted(len(g.units) for g in axes.groups) == sorted(len(g.units) for g in high.groups)
    for seed in range(2):
        prune_and_prove(axes, random_plan(axes, seed), batch=1 + seed)
