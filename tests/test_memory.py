"""Peak memory against allocations that are known to the byte."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from profilers.memory import LiveStorages, PeakByPart, memory_meter

KB = 4 * 250  # bytes of 250 floats


def test_a_chain_holds_its_operand_and_its_result() -> None:
    meter = LiveStorages()
    with meter:
        x = torch.zeros(250)
        x = x + 1
        x = x + 1
        assert meter.live_bytes == KB
        del x
        assert meter.live_bytes == 0
    assert meter.take_peak_bytes() == 2 * KB


def test_views_and_results_in_place_are_no_new_memory() -> None:
    weight = torch.zeros(10, 25)
    with LiveStorages() as meter:
        assert weight.t()[2:].view(-1, 10).shape == (23, 10) and meter.live_bytes == 0
        other = torch.zeros(250)
        other.add_(1).view(10, 25).mul_(2)
        assert meter.live_bytes == KB
        kept = other.view(25, 10)
        del other
        assert kept.shape == (25, 10) and meter.live_bytes == KB  # the view keeps it alive
    assert memory_meter(torch.device("cpu")).live_bytes == 0


def test_what_was_there_before_does_not_count_when_it_goes() -> None:
    before = torch.zeros(1000)
    with LiveStorages() as meter:
        small = before[:1] + 1
        del before
        assert meter.live_bytes == 4
        del small
        assert meter.live_bytes == 0


def test_parts_tell_by_how_much_they_raise_the_level() -> None:
    meter = LiveStorages()
    peaks = PeakByPart(meter)
    with meter, peaks.scope("whole"):
        held = torch.zeros(250)
        with peaks.scope("outer"):
            with peaks.scope("inner"):
                temporary = torch.zeros(500)
                del temporary
            held = torch.cat([held, torch.zeros(250)])
        with peaks.scope("late"):
            last = held + 1
    assert peaks.peaks["inner"] == 2 * KB
    assert peaks.peaks["outer"] == 3 * KB  # 250 more, and the sum of both, beside what was held
    assert peaks.peaks["late"] == last.numel() * 4 == 2 * KB
    assert peaks.peaks["whole"] == 4 * KB


def test_the_same_part_again_keeps_its_highest() -> None:
    meter = LiveStorages()
    peaks = PeakByPart(meter)
    with meter:
        for count in (10, 1000, 10):
            with peaks.scope("a"):
                torch.zeros(count)
    assert peaks.peaks == {"a": 4000}


def test_a_network_holds_two_layers_at_a_time() -> None:
    def run(layers: int) -> int:
        net = nn.Sequential(*[nn.Linear(50, 50) for _ in range(layers)])
        x, meter = torch.zeros(5, 50), LiveStorages()
        with torch.no_grad(), meter:
            net(x)
        return meter.take_peak_bytes()

    assert run(3) == run(9) == 2 * KB  # without gradients nothing piles up

    class Keeps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found = [x]
            for _ in range(4):
                found.append(found[-1] + 1)
            return torch.stack(found)

    meter = LiveStorages()
    with meter:
        Keeps()(torch.zeros(250))
    assert meter.take_peak_bytes() == 10 * KB  # five, and their stack
