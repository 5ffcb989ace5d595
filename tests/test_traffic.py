"""Bytes that operators move, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from profilers.traffic import TrafficByPart, touched_bytes

X = torch.ones(10, 20)  # 800 bytes
W = torch.ones(30, 20)  # 2400 bytes
ROW = torch.ones(20)
SOUND, FILTER = torch.ones(1, 2, 8), torch.ones(3, 2, 3)
TABLE = torch.ones(1000, 4)
IDS = torch.tensor([3, 5])

CASES: dict[str, tuple[Callable[[], Any], int, int]] = {
    "a view moves nothing": (lambda: X.t()[2:].view(-1, 5, 2).unsqueeze(0).expand(3, -1, -1, -1), 0, 0),
    "reading once, writing once": (lambda: X + 1, 800, 800),
    "both operands": (lambda: X * ROW, 880, 800),
    "the same operand twice": (lambda: X * X, 800, 800),
    "a broadcast operand is read once": (lambda: X[:1].expand(50, 20) + 1, 80, 4000),
    "a product": (lambda: X @ W.t(), 3200, 1200),
    "in place": (lambda: X.clone().mul_(2), 1600, 1600),
    "overwriting reads the source alone": (lambda: torch.empty(10, 20).copy_(X), 800, 800),
    "filling reads nothing": (lambda: torch.empty(10, 20).fill_(1.0), 0, 800),
    "an empty tensor is not written": (lambda: torch.empty(10, 20), 0, 0),
    "out is written, not read": (lambda: torch.add(X, X, out=torch.empty(10, 20)), 800, 800),
    "a look-up reads the rows it takes": (lambda: F.embedding(IDS, TABLE), 32 + 16, 32),
    "indices": (lambda: TABLE[IDS], 32 + 16, 32),
    "a copy where a view cannot be": (lambda: X.t().reshape(-1), 800, 800),
    "a convolution": (lambda: F.conv1d(SOUND, FILTER), 64 + 72, 72),
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_traffic(name: str) -> None:
    call, read, written = CASES[name]
    with torch.no_grad(), TrafficByPart() as traffic:
        call()
    assert (traffic.read[""], traffic.written[""]) == (read, written)


def test_the_innermost_part_is_charged() -> None:
    traffic = TrafficByPart()
    with traffic:
        X.neg()
        with traffic.scope("a"):
            X.neg()
            with traffic.scope("b"):
                X.neg()
            X.neg()
    assert traffic.read == {"": 800, "a": 1600, "b": 800}


def test_touched_bytes() -> None:
    assert touched_bytes(torch.ones(3, 1).expand(3, 100)) == 12
    assert touched_bytes(torch.ones(0, 5)) == 0
    assert touched_bytes(torch.ones(4, 4, dtype=torch.bfloat16)[::2]) == 16
