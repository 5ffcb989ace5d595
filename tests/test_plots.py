"""Plots: real images with something on them, the same for the same profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from profilers.plots import OTHERS, draw_roofline, draw_scaling, draw_shares, write_plots
from tests.profiles import measurement, part, profile


def colours(path: Path) -> int:
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


def test_over_length_there_are_three_plots_always_the_same(tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    for folder in (first, again):
        folder.mkdir()
        names = write_plots(profile(), "component", folder)
    assert names == sorted(f"{n}.{e}" for n in ("share", "scaling", "roofline") for e in ("png", "svg"))
    assert {p.name for p in first.iterdir()} == set(names)
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
        if name.endswith("png"):
            assert colours(first / name) > 20
        else:
            text = (first / name).read_text()
            assert text.startswith("<?xml") and "in_proj" in text
    assert "scan $ [x]" in (first / "share.svg").read_text()  # a name is no formula


def test_one_length_gives_bars(tmp_path: Path) -> None:
    one = replace(profile(), measurements=(measurement("net", "forward", None),))
    assert write_plots(one, "component", tmp_path) == [
        "roofline.png", "roofline.svg", "share.png", "share.svg",
    ]  # fmt: skip
    assert colours(tmp_path / "share.png") > 20


def test_shares_fill_the_axis_and_growth_stands_in_the_legend() -> None:
    figure = draw_shares(profile(), "component")
    for ax in figure.axes:
        tops = {}
        for bar in ax.patches:
            tops[bar.get_x()] = max(tops.get(bar.get_x(), 0.0), bar.get_y() + bar.get_height())
        assert list(tops.values()) == [pytest.approx(100)] * 3
    told = [t.get_text() for t in draw_scaling(profile(), "component").axes[0].get_legend().get_texts()]
    assert told[0].startswith("whole") and "L^{1.00}" in told[1] and "L^{2.00}" in told[2]


def test_the_roofline_has_a_mark_for_each_part_and_a_hollow_one_where_fusing_would_help() -> None:
    ax = draw_roofline(profile(), "component").axes[0]
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    assert len(marks) == 3  # in_proj, the scan, and the scan at its least bytes
    assert {round(float(m.get_xdata()[0]), 3) for m in marks} == {round(1e6 / 6e4, 3), 0.2, 2.0}


def test_many_parts_are_summed_up() -> None:
    one = profile()
    many = tuple(part(f"p{i}", 1.0 + i, 10, 10, 10) for i in range(12))
    crowded = replace(
        one, measurements=tuple(replace(m, views={"component": many}) for m in one.measurements)
    )
    labels = [t.get_text() for t in draw_shares(crowded, "component").legends[0].get_texts()]
    assert labels == ["p6", "p7", "p8", "p9", "p10", "p11", OTHERS]
