"""Seams: parts are seen, nothing else changes, and time goes to the part that spends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from profilers.stages import Seam, Stopwatch, opened


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def first(self, x: Tensor) -> Tensor:
        return self.inner(x) + 1

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.first(x)


def test_calls_run_in_the_scope_of_their_part_and_everything_is_put_back() -> None:
    net, x, seen = Two(), torch.ones(2, 3), []

    @contextmanager
    def scope(part: str) -> Iterator[None]:
        seen.append(f"<{part}")
        yield
        seen.append(f"{part}>")

    before = net(x)
    seams = [Seam("all", net), Seam("first", net, "first"), Seam("linear", net.inner)]
    with opened(seams, scope):
        assert torch.equal(net(x), before)
    assert seen == ["<all", "<first", "<linear", "linear>", "first>", "all>"]
    seen.clear()
    assert torch.equal(net(x), before) and not seen
    assert "first" not in vars(net) and "forward" not in vars(net)


def test_seams_close_after_a_failure_and_a_missing_method_is_named() -> None:
    net = Two()
    watch = Stopwatch(None, lambda: 0.0)
    with pytest.raises(RuntimeError), opened([Seam("all", net)], watch.scope):
        net(torch.ones(2, 5))
    assert "forward" not in vars(net) and watch.calls["all"] == 1
    with pytest.raises(AttributeError, match="absent"), opened([Seam("a", net, "absent")], watch.scope):
        pass


def test_an_outer_part_is_not_charged_for_an_inner_one() -> None:
    now = iter([0.0, 1.0, 4.0, 10.0])
    watch = Stopwatch(None, lambda: next(now))
    with watch.scope("outer"), watch.scope("inner"):
        pass
    assert watch.seconds == {"inner": 3.0, "outer": 7.0}
    assert watch.calls == {"inner": 1, "outer": 1}


def test_the_device_is_waited_for_on_both_sides() -> None:
    events: list[str] = []
    watch = Stopwatch(lambda: events.append("sync"), lambda: float(len(events)))
    with watch.scope("a"):
        events.append("work")
    assert events == ["sync", "work", "sync"] and watch.seconds["a"] == 2.0
