"""The difference of two runs or models: ratios, widths, and names that cannot do any harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune.diff import Difference, as_json, as_markdown, compare
from prune.figures import Figures
from tests.reports import HALF, figures, report, write_report

pytestmark = pytest.mark.smoke


@pytest.fixture
def found(tmp_path: Path) -> Difference:
    a = write_report(tmp_path / "a" / "report.json")
    plan = {"groups": {"conv1": [8, 16], "conv2": [12, 32], "conv3": [1, 2]}}
    pruned = figures(**HALF | {"macs": 1_500_000, "accuracy": 0.9})
    (tmp_path / "b.json").write_text(json.dumps(report(figures(), pruned, plan=plan)))
    return compare(str(a.parent), str(tmp_path / "b.json"))


def test_figures_side_by_side(found: Difference) -> None:
    rows = {row[0]: row[1:] for row in found.figure_rows()}
    assert rows["MACs"] == ("1.00 M", "1.50 M", "1.500 x")
    assert rows["accuracy"] == ("91.00%", "90.00%", "-1.00 points")


def test_only_widths_that_differ(found: Difference) -> None:
    assert found.width_rows() == [("conv2", "16", "12", "0.750 x")]
    assert "only B has conv3" in found.lines()


def test_json_and_markdown(found: Difference) -> None:
    data = json.loads(as_json(found))
    assert (data["format"], data["figures"]["macs"]) == ("prune-diff", [1_000_000, 1_500_000])
    assert (data["widths"], data["only_b"]) == ({"conv2": [16, 12]}, ["conv3"])
    text = as_markdown(found)
    assert "| MACs | 1.00 M | 1.50 M | 1.500 x |" in text and "| conv2 | 16 | 12 | 0.750 x |" in text


def test_the_same_twice(tmp_path: Path) -> None:
    file = str(write_report(tmp_path / "report.json"))
    same = compare(file, file)
    assert same.widths == {} and len(same.tables()) == 1
    assert "all 2 widths that both have are the same" in same.lines()


def test_groups_are_not_compared_with_layers(found: Difference) -> None:
    model = Figures("m.onnx", "ONNX file", {"macs": 0.0}, widths={"conv1": 3})
    mixed = Difference(found.a, model)
    assert mixed.widths == {} and mixed.alone == ([], [])
    assert any("not compared" in line for line in mixed.lines())
    assert ("MACs", "1.00 M", "0", "0.000 x") in mixed.figure_rows()
    assert ("MACs", "0", "1.00 M", "") in Difference(model, found.a).figure_rows()


def test_names_do_no_harm() -> None:
    name = "a|b\n\x1b[31m`<x>@you\ud800"
    evil = Difference(
        Figures(name, "report", {"macs": 1.0}, widths={name: 1, "x" + name: 2}),
        Figures(name, "report", {"macs": 1.0}, widths={name: 2}),
    )
    assert all(cell.isprintable() for row in evil.width_rows() for cell in row)
    assert all(line.isprintable() for line in evil.lines())
    text = as_markdown(evil)
    (row,) = [line for line in text.splitlines() if line.startswith("| a")]
    assert row.count("|") == 5 and "<x>" not in text and text.encode()
    assert json.loads(as_json(evil))["widths"] == {name: [1, 2]}
