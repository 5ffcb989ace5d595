"""Integer inputs that constrain each other, masks that decide sizes, tables without rows: all prune."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graph.axes import infer
from graph.capture import capture
from graph.program import Program
from prune.budget import Budget
from prune.importance import magnitude
from prune.plan import make_plan
from prune.surgery import prune_program
from prune.verify import verify
from prune.widths import WidthSpace


class Boxes(nn.Module):
    """Looks up the height of boxes given by their corners."""

    def __init__(self) -> None:
        super().__init__()
        self.heights = nn.Embedding(50, 8)
        self.hidden = nn.Linear(8, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, boxes: Tensor) -> Tensor:
        """boxes: (B, T, 2), the top and the bottom of each."""
        out: Tensor = self.out(self.hidden(self.heights(boxes[..., 1] - boxes[..., 0])).relu().sum(1))
        return out


class Languages(nn.Module):
    """Sends the records of each language through a layer of their own, as X-MOD does."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 6)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 6)) for _ in range(2)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, T)."""
        x = self.tokens(ids)
        new = torch.zeros_like(x)
        for number, adapter in enumerate(self.adapters):
            chosen = ids % 2 == number
            new[chosen] += adapter(x[chosen])
        return new.mean(1)


class Unused(nn.Module):
    """Holds a table without rows."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.zeros(0, 6))
        self.hidden = nn.Linear(6, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, 6)."""
        x = torch.cat([self.memory.expand(x.shape[0], -1, -1), x], 1)
        out: Tensor = self.out(self.hidden(x).relu().mean(1))
        return out


def assert_half(program: Program) -> None:
    axes = infer(program)
    space = WidthSpace(axes)
    target = max(space.base_macs // 2, space.lowest_macs)
    levels = Budget.of(space, macs=target).project(np.ones(space.bundles))
    plan = make_plan(space, levels, magnitude(axes), "uniform")
    assert plan.macs < space.base_macs
    assert verify(axes, plan.keep_mask(axes), prune_program(axes, plan)).max_error <= 1e-9


def test_corners_of_a_box() -> None:
    torch.manual_seed(0)
    corners = torch.randint(0, 20, (2, 5, 2)).cumsum(-1)
    program = capture(Boxes().eval(), [corners])
    assert [s.alike for s in program.inputs] == [True]
    (drawn,) = program.random_inputs(4)
    assert (drawn == drawn[:, :1, :1]).all() and len(torch.unique(drawn)) > 1
    assert Program.from_json(program.to_json(), program.tensors).inputs == program.inputs
    assert_half(program)


@pytest.mark.parametrize("ids", [torch.arange(10).reshape(2, 5), torch.zeros(2, 5, dtype=torch.long)])
def test_tokens_may_be_any(ids: Tensor) -> None:
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 12), nn.Linear(12, 4)).eval(), [ids])
    assert [s.alike for s in program.inputs] == [False]
    assert_half(program)


def test_a_mask_decides_how_many_records_go_on() -> None:
    torch.manual_seed(0)
    assert_half(capture(Languages().eval(), [torch.arange(10).reshape(2, 5)]))


def test_a_table_without_rows() -> None:
    torch.manual_seed(0)
    assert_half(capture(Unused().eval(), [torch.randn(2, 4, 6)]))
