"""Demands: what a user may write as a limit, and what is no limit."""

from __future__ import annotations

import pytest

from graph.errors import TargetError
from prune.demands import parse_demand, parse_demands

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    ("option", "text", "share", "amount"),
    [
        ("--flops", "0.5", 0.5, None), ("--flops", "50%", 0.5, None), ("--flops", " 12.5 % ", 0.125, None),
        ("--flops", "1M", None, 5e5), ("--flops", "0.0006G", None, 3e5), ("--macs", "400k", None, 4e5),
        ("--macs", "300000", None, 3e5), ("--macs", "2e6", None, 2e6), ("--params", "1.2M", None, 1.2e6),
        ("--params", "5e-1", 0.5, None), ("--memory", "8MB", None, 8e6), ("--memory", "8 MiB", None, 2**23),
        ("--memory", "4096", None, 4096), ("--memory", "0.3", 0.3, None), ("--latency", "5ms", None, 5.0),
        ("--latency", "0.7", 0.7, None), ("--latency", "800us", None, 0.8), ("--latency", ".01s", None, 10.0),
    ],
)  # fmt: skip
def test_demands(option: str, text: str, share: float | None, amount: float | None) -> None:
    demand = parse_demand(option, text)
    assert demand.share == (pytest.approx(share) if share else None)
    assert demand.amount == (pytest.approx(amount) if amount else None)


@pytest.mark.parametrize("option", ["--flops", "--macs", "--params", "--memory", "--latency"])
@pytest.mark.parametrize(
    "text",
    [
        "0",
        "1",
        "1.5",
        "-0.5",
        "abc",
        "",
        "nan",
        "inf",
        "-inf",
        "0%",
        "100%",
        "M",
        "5X",
        "1,5",
        "%",
        "--",
        "5 5",
    ],
)
def test_what_is_no_demand_names_option_and_value(option: str, text: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_demand(option, text)
    assert f"{option} {text}" in str(caught.value)
    assert f"{option} 0.5" in caught.value.hint


def test_units_belong_to_their_quantity() -> None:
    for option, text in (("--flops", "5ms"), ("--params", "3MB"), ("--memory", "2s"), ("--latency", "4M")):
        with pytest.raises(TargetError, match="not a number"):
            parse_demand(option, text)
    with pytest.raises(TargetError, match="below 1"):
        parse_demand("--latency", "5000")  # of what?


def test_demands_go_together_but_not_twice() -> None:
    both = parse_demands({"--flops": "0.5", "--macs": None, "--params": 0.3, "--latency": "3ms"})
    assert [d.name for d in both] == ["macs", "params", "latency"]
    with pytest.raises(TargetError, match="at least one of --flops, --latency$"):
        parse_demands({"--flops": None, "--latency": None})
    with pytest.raises(TargetError, match="at least one of --flops, --macs, --params, --memory, --latency"):
        parse_demands({})
    with pytest.raises(TargetError, match="limit the same quantity") as caught:
        parse_demands({"--flops": "0.5", "--macs": "0.4"})
    assert "either --flops or --macs" in caught.value.hint


@pytest.mark.parametrize(
    ("option", "amount", "told"),
    [
        ("--flops", 60e6, "120M"), ("--params", 12_341.0, "12.4K"), ("--params", 500.0, "0.5K"),
        ("--memory", 8e6, "8MB"), ("--latency", 0.06321, "0.0633ms"), ("--latency", 12.0, "12ms"),
    ],
)  # fmt: skip
def test_amounts_are_told_as_the_option_takes_them(option: str, amount: float, told: str) -> None:
    demand = parse_demand(option, 0.5)
    assert demand.in_units(amount) == told
    again = parse_demand(option, told).amount
    assert again is not None and amount <= again <= 1.01 * amount
