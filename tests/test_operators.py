"""Programs measured node by node: counts against torch's own counter, sums against the whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from graph.capture import capture
from graph.errors import UsageError
from graph.program import INPUT, TENSOR, Program, run
from models_zoo.resnet_cifar import resnet20
from profilers.operators import VIEWS, profile_program, scoped
from profilers.profile import Measurement
from profilers.stages import Stopwatch
from profilers.watch import REST, Budget

CPU = torch.device("cpu")
ONCE = Budget(repeats=1, seconds=0.0, warmup=0)


class Attention(nn.Module):
    """Two heads over vectors (B, L, 8), and tokens in front."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return x + self.out(y)


def images() -> tuple[nn.Module, Tensor]:
    return resnet20(), torch.randn(2, 3, 8, 8)


def tokens() -> tuple[nn.Module, Tensor]:
    return Attention(), torch.randint(11, (2, 6))


def profiled(make: Callable[[], tuple[nn.Module, Tensor]], batch: int = 3) -> tuple[Program, Measurement]:
    torch.manual_seed(0)
    module, x = make()
    program = capture(module.eval(), [x])
    found, notes = profile_program(program, subject="net", batch=batch, device=CPU, budget=ONCE)
    assert notes == ()
    return program, found


@pytest.mark.parametrize("make", [images, tokens])
def test_flops_are_those_of_torch(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    module, x = make()
    _, found = profiled(make)
    with torch.no_grad(), warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.cat([x, x])[:3])
    counted = counter.get_total_flops()
    if make is tokens and counted < found.flops:  # torch does not count the CPU's own attention kernel
        counted += 2 * (2 * 3 * 2 * 6 * 6 * 4)
    assert found.flops == counted > 0


@pytest.mark.parametrize("make", [images, tokens])
def test_watched_nodes_compute_what_the_model_computes(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    torch.manual_seed(0)
    module, x = make()
    program = capture(module.eval(), [x])
    watch = Stopwatch(None, lambda: 0.0)
    names = [n.name for n in program.nodes if n.op not in (INPUT, TENSOR)]
    with torch.no_grad():
        y = run(program, program.tensors, [x], overrides={n: scoped(watch.scope, n) for n in names})
        torch.testing.assert_close(y, module(x))
    assert watch.calls == dict.fromkeys(names, 1)


@pytest.mark.parametrize("make", [images, tokens])
def test_every_view_adds_up_to_the_same(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    program, found = profiled(make)
    nodes = [n for n in program.nodes if n.op not in (INPUT, TENSOR)]
    assert tuple(found.views) == VIEWS
    for parts in found.views.values():
        assert parts[-1].name == REST and parts[-1].moved_bytes == 0
        assert sum(p.calls for p in parts[:-1]) == len(nodes)
        assert sum(p.flops for p in parts) == found.flops
        assert sum(p.moved_bytes for p in parts) == found.moved_bytes > 0
        assert max(p.peak_bytes for p in parts) <= found.peak_bytes
        spent = sum(p.latency.median_ms for p in parts)
        assert spent == pytest.approx(found.watched.median_ms)  # of one run, what there is is all there is
    assert found.weight_bytes == sum(t.numel() * t.element_size() for t in program.tensors.values())
    assert found.tokens == 3 and found.whole.runs == 1


def test_bytes_and_peak_of_a_small_program_by_hand() -> None:
    def make() -> tuple[nn.Module, Tensor]:
        return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Flatten(), nn.Linear(20, 5)), torch.zeros(2, 10)

    _, found = profiled(make, batch=1)
    parts = {p.name: p for p in found.views["module"]}
    assert (parts["0"].bytes_read, parts["0"].bytes_written) == (4 * (10 + 200 + 20), 80)
    assert (parts["1"].bytes_read, parts["1"].bytes_written) == (80, 80)
    assert parts["2"].moved_bytes == 0  # a view
    assert (parts["3"].bytes_read, parts["3"].flops) == (4 * (20 + 100 + 5), 200)
    assert found.peak_bytes == 160 and parts["1"].peak_bytes == 80


def test_depth_cuts_the_paths_of_modules() -> None:
    program = capture(resnet20().eval(), [torch.randn(2, 3, 8, 8)])
    found, _ = profile_program(program, subject="net", device=CPU, depth=1, budget=ONCE)
    names = {p.name for p in found.views["module"]}
    assert {"conv1", "layer1", "layer2", "layer3"} <= names and not any("." in n for n in names)


def test_other_types_of_numbers() -> None:
    program = capture(nn.Linear(4, 4), [torch.zeros(2, 4)])
    wide, _ = profile_program(program, subject="n", device=CPU, dtype=torch.float64, budget=ONCE)
    narrow, _ = profile_program(program, subject="n", device=CPU, dtype=torch.bfloat16, budget=ONCE)
    assert wide.weight_bytes == 4 * narrow.weight_bytes and wide.moved_bytes == 4 * narrow.moved_bytes


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)


def test_a_type_that_an_operator_does_not_take_is_said() -> None:
    program = capture(Fixed(), [torch.eye(3).repeat(2, 1, 1)])
    with pytest.raises(UsageError, match="--dtype float16") as caught:
        profile_program(program, subject="n", device=CPU, dtype=torch.float16, budget=ONCE)
    assert caught.value.hint


def test_an_operator_without_a_cost_is_named() -> None:
    program = capture(Fixed(), [torch.eye(3).repeat(2, 1, 1)])
    _, notes = profile_program(program, subject="n", device=CPU, budget=ONCE)
    assert len(notes) == 1 and "inv" in notes[0] and "not counted" in notes[0]
