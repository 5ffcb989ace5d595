"""Profiles as values, as JSON, as CSV and as tables."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from graph.errors import ModelFileError, UsageError
from profilers.profile import COLUMNS, Profile, largest
from profilers.tables import check_view, lines, parse_lengths, quantity, tables
from tests.profiles import ROOF, part, profile

pytestmark = pytest.mark.smoke


def test_what_follows_from_counts_and_times() -> None:
    found = part("a", 2.0, 4_000_000, 300_000, 100_000)
    assert found.moved_bytes == 400_000 and found.intensity == 10
    assert found.flops_per_s == pytest.approx(2e9) and found.bytes_per_s == pytest.approx(2e8)
    assert found.roofline_share(ROOF) == pytest.approx(0.04 / 2.0)  # 0.04 ms by FLOPs and by bytes alike
    nothing = part("a", 0.0, 0, 0, 0)
    assert nothing.intensity == nothing.flops_per_s == nothing.roofline_share(ROOF) == 0


def test_shares_add_up_and_throughput_counts_tokens() -> None:
    m = profile().measurements[0]
    assert sum(m.shares("component").values()) == pytest.approx(1)
    assert m.tokens_per_s == pytest.approx(1e3 * 128 / m.whole.median_ms)
    assert m.overhead == pytest.approx(0.1)
    assert m.flops == 64 * 1_100_000 and m.moved_bytes == 64 * 560_010


def test_growth_over_length_leaves_decoding_out() -> None:
    fits = profile().growth("Mamba-1", "component")
    assert set(fits) == {"in_proj", "scan $ [x]", "rest", "whole", "peak_bytes"}
    assert fits["in_proj"].exponent == pytest.approx(1) and fits["scan $ [x]"].exponent == pytest.approx(2)
    assert fits["rest"].exponent == pytest.approx(0) and fits["peak_bytes"].exponent == pytest.approx(1)
    assert 1.5 < fits["whole"].exponent < fits["whole"].tail < 2
    assert profile((64,)).growth("Mamba-1", "component") == {}


def test_json_and_back() -> None:
    before = profile()
    text = json.dumps(before.to_json(), allow_nan=False)
    assert Profile.from_json(json.loads(text)) == before
    data = json.loads(text)
    assert (data["format"], data["version"]) == ("prune-profile", 1)
    first = data["measurements"][0]["views"]["component"][0]
    assert first["intensity"] == pytest.approx(1e6 / 6e4) and first["bound"] == "compute"
    assert data["growth"]["Mamba-2"]["component"]["in_proj"]["exponent"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: [], "is no profile"),
        (lambda d: d | {"format": "prune-plan"}, "is no profile"),
        (lambda d: d | {"version": 2}, "version 2"),
        (lambda d: {k: v for k, v in d.items() if k != "roofline"}, "broken: 'roofline'"),
        (lambda d: d | {"measurements": [{"views": 3}]}, "broken"),
        (lambda d: d | {"measurements": 3}, "broken"),
    ],
)
def test_what_is_no_profile_is_said_in_one_line(change: Any, told: str) -> None:
    with pytest.raises(ModelFileError, match=told) as caught:
        Profile.from_json(change(profile().to_json()), "p.json")
    assert str(caught.value).startswith("p.json") and caught.value.hint


def test_csv_has_a_row_for_each_part_and_each_run() -> None:
    rows = list(csv.DictReader(io.StringIO(profile().to_csv())))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 8 * (1 + 3)
    whole, scan = rows[0], rows[2]
    assert (whole["view"], whole["part"], whole["share"]) == ("whole", "whole", "1.0")
    assert (scan["subject"], scan["mode"], scan["length"], scan["part"]) == (
        "Mamba-1", "prefill", "64", "scan $ [x]",
    )  # fmt: skip
    assert float(scan["latency_ms"]) == 0.5 * 64**2 and scan["bytes_read"] == str(400_000 * 64)
    assert scan["tokens_per_s"] == "" and float(whole["tokens_per_s"]) > 0
    for view in ("component",):
        own = [float(r["share"]) for r in rows if r["view"] == view and r["length"] == "256"]
        assert sum(own) == pytest.approx(2)  # of two models


def test_a_csv_of_a_model_without_length_leaves_the_cell_empty() -> None:
    one = replace(profile().measurements[0], length=None)
    row = next(csv.DictReader(io.StringIO(replace(profile(), measurements=(one,)).to_csv())))
    assert row["length"] == ""


def test_many_lengths_are_parted_so_that_a_narrow_window_shows_them() -> None:
    lengths = tuple(64 << k for k in range(9))
    (_, head, rows), (title, more, last) = [
        t for t in tables(profile(lengths), "component") if "Mamba-1: share" in t[0]
    ]
    assert head[1:] + more[1:-2] == tuple(map(str, lengths)) and max(len(head), len(more)) <= 7
    assert [row[0] for row in rows] == [row[0] for row in last] and title.endswith("growth")
    assert dict((row[0], row[-2:]) for row in last)["in_proj"] == ("1.00 ±0.00", "1.00")
    assert all(len(row) == len(head) for row in rows) and all(len(row) == len(more) for row in last)


def test_tables_show_the_longest_length_decoding_and_growth() -> None:
    found = tables(profile(), "component")
    assert [title for title, _, _ in found] == [
        "Mamba-1, prefill, batch 2, 256 tokens",
        "Mamba-1, decode, batch 2",
        "Mamba-1: share of the time over length; growth",
        "Mamba-2, prefill, batch 2, 256 tokens",
        "Mamba-2, decode, batch 2",
        "Mamba-2: share of the time over length; growth",
    ]
    for _, header, rows in found:
        assert all(len(row) == len(header) for row in rows)
    growth = {row[0]: row[1:] for row in found[2][2]}
    assert growth["in_proj"][-2:] == ("1.00 ±0.00", "1.00") and growth["peak, bytes"][0] == "64k"
    assert any("a note" in line for line in lines(profile(), "component"))


def test_top_sums_up_what_is_left() -> None:
    _, _, rows = tables(profile((64,)), "component", top=1)[0]
    assert [row[0] for row in rows] == ["scan $ [x]", "2 more", "whole"]
    assert [p.name for p in largest(profile().measurements[0].views["component"], 2)] == [
        "scan $ [x]", "in_proj",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "lengths"),
    [("64", (64,)), ("256,64,64", (64, 256)), ("64..512", (64, 128, 256, 512)), ("3..13", (3, 6, 12))],
)
def test_lengths(text: str, lengths: tuple[int, ...]) -> None:
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "a", "0", "-3", "64,", "5..", "9..3", "0..4", "99999999", "1e3"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--lengths") as caught:
        parse_lengths(text)
    assert caught.value.hint


def test_views_and_quantities() -> None:
    check_view("module")
    with pytest.raises(UsageError, match="--by layer"):
        check_view("layer")
    assert [quantity(v) for v in (0, 12, 1234, 5.6e6, 7e9, 8e12)] == ["0", "12", "1.23k", "5.6M", "7G", "8T"]
