"""Residual branches: which are found, what they are called, and what is left without them."""

from __future__ import annotations

import pytest
import torch
from mambas import model as mamba
from torch import Tensor, nn
from torch.nn import functional as F

from graph.capture import capture
from graph.program import ProgramModule
from graph.residual import residual_branches, without_branches, zeroing
from prune.verify import compared


class Half(nn.Module):
    """A residual layer that is no module of its own; branches with weights, without, in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.relu(self.a(x))  # one
        x = self.b(x) + x  # two: the stream stands last
        x = x + torch.tanh(x)  # no weights of its own
        x = self.c(x) + self.bias  # no stream
        return x + x.mean(1, keepdim=True) * self.gain  # of another shape


def test_a_branch_is_what_is_added_to_a_stream_that_it_reads() -> None:
    program = capture(Half().eval(), [torch.zeros(2, 6)])
    found = residual_branches(program)
    assert [b.name for b in found] == ["a", "b"]
    assert found[0].tensors == {"a.weight", "a.bias"} and found[1].tensors == {"b.weight", "b.bias"}


def test_what_is_left_is_the_whole_with_branches_at_zero() -> None:
    module = Half().eval()
    program = capture(module, [torch.zeros(2, 6)])
    a, b = residual_branches(program)
    short = without_branches(program, [a, b])
    short.check()
    assert not {"a.weight", "a.bias", "b.weight"} & set(short.tensors) and "c.weight" in short.tensors
    assert compared(program, zeroing([a, b]), short).max_error == 0
    x = torch.randn(3, 6)
    with torch.no_grad():
        y = x + torch.tanh(x)
        y = module.c(y) + module.bias
        torch.testing.assert_close(ProgramModule(short)(x), y + y.mean(1, keepdim=True) * module.gain)
    other = without_branches(program, [b])
    assert compared(program, zeroing([a]), other).max_error > 1e-3, "another branch is another model"


def test_layers_of_a_transformer_are_two_branches_each() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.1, norm_first=True)
    program = capture(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), [torch.zeros(2, 5, 16)]
    )
    found = residual_branches(program)
    assert [b.name for b in found] == [
        "layers.0.self_attn", "layers.0.linear1", "layers.1.self_attn", "layers.1.linear1",
    ]  # fmt: skip
    short = without_branches(program, found[1:3])
    assert compared(program, zeroing(found[1:3]), short).max_error <= 1e-12


@pytest.mark.parametrize("version", [1, 2])
def test_layers_of_a_mamba(version: int) -> None:
    lm = mamba(version, n_layer=3)  # type: ignore[arg-type]
    program = capture(lm, [torch.zeros(2, 12, dtype=torch.int64)])
    found = residual_branches(program)
    assert [b.name for b in found] == [f"backbone.layers.{i}" for i in range(3)]
    for i, branch in enumerate(found):
        prefix = f"backbone.layers.{i}."
        assert {n for n in program.tensors if n.startswith(prefix)} <= branch.tensors
