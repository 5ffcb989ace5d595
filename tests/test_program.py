"""Programs: captured modules that run, train, are stored and read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graph.capture import capture
from graph.errors import CaptureError, ProgramError
from graph.program import Program, ProgramModule


class Small(nn.Module):
    """Batch norm, dropout, in-place operators, a constant and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.again2 = nn.Conv2d(8, 8, 3, padding=1)
        self.again2.weight = self.again.weight
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu_()
        x = self.again2(self.again(x)) + x
        x += 1.0
        x = x.masked_fill(x > 4, float("inf")).clamp(max=4)
        return self.linear(self.drop(x.mean((2, 3)).to(torch.float32)))


@pytest.fixture
def module() -> Small:
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def program(module: Small) -> Program:
    return capture(module, [torch.randn(2, 3, 6, 6)])


@pytest.mark.smoke
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_eval_is_the_module(module: Small, program: Program, batch: int) -> None:
    x = torch.randn(batch, 3, 6, 6)
    assert module.training  # capture restores the mode
    torch.testing.assert_close(ProgramModule(program)(x), module.eval()(x))


def test_train_switches_dropout_and_batch_norm(module: Small, program: Program) -> None:
    mine = ProgramModule(program).train()
    x = torch.randn(4, 3, 6, 6)
    torch.manual_seed(1)
    got = mine(x)
    torch.manual_seed(1)
    wanted = module.train()(x)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(mine.bn.running_mean, module.bn.running_mean)
    torch.autograd.backward(got.sum())
    torch.autograd.backward(wanted.sum())
    torch.testing.assert_close(mine.conv.weight.grad, module.conv.weight.grad)
    assert not torch.equal(mine(x), mine(x))


def test_names_and_ties(module: Small, program: Program) -> None:
    names = set(dict(ProgramModule(program).named_parameters()))
    assert names <= set(dict(module.named_parameters(remove_duplicate=False)))
    assert sum(name.startswith("again") and name.endswith("weight") for name in names) == 1


def test_json_round_trip(program: Program) -> None:
    text = json.dumps(program.to_json(), allow_nan=False)
    assert Program.from_json(json.loads(text), program.tensors) == program


def _damage(data: dict[str, Any], how: str) -> None:
    last = data["nodes"][-1]
    if how == "twice":
        data["nodes"].append(last)
    elif how == "undefined":
        last["args"] = [{"ref": "nobody"}]
    elif how == "version":
        data["version"] = 99
    elif how == "output":
        data["output"] = {"ref": "nobody"}
    elif how == "shape":
        next(iter(data["tensors"].values()))["shape"] = [1, 2, 3]
    else:
        last["op"] = how


@pytest.mark.parametrize(
    "how",
    ["twice", "undefined", "version", "output", "shape", "aten.from_file.default", "aten.relu_.default",
     "builtin.eval", "os.system", "aten.nothing.default", "aten.__class__.default"],
)  # fmt: skip
def test_malformed_programs_are_refused(program: Program, how: str) -> None:
    data = json.loads(json.dumps(program.to_json()))
    _damage(data, how)
    with pytest.raises(ProgramError):
        Program.from_json(data, program.tensors)


@pytest.mark.parametrize("data", [None, [], {}, {"format": "prune-program"}, "text", 3])
def test_other_data_is_refused(data: object) -> None:
    with pytest.raises(ProgramError):
        Program.from_json(data, {})


class Branches(nn.Module):
    """Control flow on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class FixedBatch(nn.Module):
    """A view that names the batch size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 12)


def test_control_flow_names_the_line() -> None:
    with pytest.raises(CaptureError, match=r"test_program\.py:\d+"):
        capture(Branches(), [torch.randn(2, 3)])


def test_a_fixed_batch_is_noted() -> None:
    program = capture(FixedBatch(), [torch.randn(2, 3, 4)])
    assert not program.dynamic_batch
    assert "fixed to 2" in program.notes[0]


def test_in_place_on_a_slice() -> None:
    class Slices(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[:, :1] += 1
            return y

    x = torch.randn(2, 3)
    torch.testing.assert_close(ProgramModule(capture(Slices(), [x]))(x), Slices()(x))
