"""Plots and tables as files: real pictures, tables that read back, names that do no harm."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from page_reports import REPORT, report, write_curve
from PIL import Image
from test_page import HOSTILE, everywhere

from prune.pictures import KINDS, Skyline, pictures
from prune.plot_files import write_plots
from prune.stored import of_report, read_stored
from prune.svg import labelled
from prune.tables import Number, Table

PLOTS = {
    "network", "search", "plans", "sensitivity-accuracy", "sensitivity-loss", "tuning-loss", "tuning-accuracy"
}  # fmt: skip
TABLES = {"figures", "groups", "layers", "plans", "trials", "sensitivity", "limits", "epochs", "attributes"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_picture_twice_and_every_table_once(tmp_path: Path) -> None:
    names = write_plots(of_report(report()), tmp_path)
    assert set(names) == {f"{p}.{e}" for p in PLOTS for e in ("png", "svg")} | {f"{t}.csv" for t in TABLES}
    assert {p.name for p in tmp_path.iterdir()} == set(names)
    for name in PLOTS:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.format == "PNG" and min(image.size) > 300
            assert len(np.unique(np.asarray(image.convert("L")))) > 20
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")


def test_the_same_report_gives_the_same_files(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        names = write_plots(of_report(report()), folder)
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_tables_hold_the_reports_numbers_in_full(tmp_path: Path) -> None:
    odd = report()
    odd["search"]["trials"][3]["accuracy"] = None
    write_plots(of_report(odd), tmp_path)
    figures = {row[""]: row for row in rows(tmp_path / "figures.csv")}
    assert (figures["MACs"]["original"], figures["MACs"]["pruned"]) == ("2516608", "1256530")
    assert float(figures["MACs"]["change"]) == 1_256_530 / 2_516_608
    trials = rows(tmp_path / "trials.csv")
    assert len(trials) == len(REPORT["search"]["trials"]) and trials[3]["accuracy"] == ""
    assert [float(t["reward"]) for t in trials] == [t["worth"] for t in REPORT["search"]["trials"]]
    widths = {row["group"]: (int(row["kept"]), int(row["of"])) for row in rows(tmp_path / "groups.csv")}
    assert widths == {"conv1": (16, 16), "layer1.0.conv1": (5, 16), "fc": (20, 64)}


def test_states_are_a_table_of_their_own(tmp_path: Path) -> None:
    layers = [{"name": "layers.0.mixer", "states": 16, "kept": [[0, 2, 3, 8]]}]
    names = write_plots(of_report(report(states={"layers": layers})), tmp_path)
    assert "states.csv" in names
    assert rows(tmp_path / "states.csv") == [
        {"layer": "layers.0.mixer", "kept": "4", "of": "16", "share": "0.25"}
    ]


def test_a_curve_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    names = write_plots(read_stored(write_curve(tmp_path / "curve")), tmp_path / "plots")
    stems = {"pareto-accuracy", "pareto-latency", "network-0.60", "network-0.40"}
    assert set(names) == {f"{s}.{e}" for s in stems for e in ("png", "svg")} | {"pareto.csv"}
    assert [row["point"] for row in rows(tmp_path / "plots" / "pareto.csv")] == ["original", "0.60", "0.40"]


@pytest.mark.parametrize("name", ["".join(HOSTILE[:9]), "_$\\frac{ x^2$"])
def test_a_name_is_no_formula_and_no_markup(tmp_path: Path, name: str) -> None:
    data = everywhere(report(), name) | {"format": "prune-report", "schema": 2, "command": []}
    for file in write_plots(of_report(data), tmp_path):
        if file.endswith(".svg"):
            ElementTree.parse(tmp_path / file)


def test_a_cell_is_no_formula_of_a_spreadsheet() -> None:
    table = Table(
        "t", "", ("a", "b"), (("=cmd|x", Number(-1.5)), ("+1", Number(None)), ('@a,"b"', Number(2)))
    )
    assert list(csv.reader(table.csv().splitlines())) == [
        ["a", "b"], ["'=cmd|x", "-1.5"], ["'+1", ""], ["'@a,\"b\"", "2"],
    ]  # fmt: skip


def test_kinds_are_those_of_the_groups() -> None:
    from typing import get_args

    from graph.groups import Kind

    assert get_args(Kind) == KINDS
    (network,) = (p for p in pictures(of_report(report())) if isinstance(p, Skyline))
    assert network.kinds == ("channel", "residual", "mlp") and network.top == 64


@pytest.mark.parametrize(
    ("low", "high", "unit", "says"),
    [
        (0, 60, "whole", ["0", "20", "40", "60"]),
        (1, 3, "whole", ["1", "2", "3"]),
        (0.4984, 0.5, "share", ["49.85%", "49.90%", "49.95%", "50.00%"]),
        (-0.82, -0.26, "plain", ["-0.8", "-0.6", "-0.4"]),
        (0, 12, "plain", ["0.0", "2.5", "5.0", "7.5", "10.0"]),
    ],
)
def test_labels_are_round_and_short(low: float, high: float, unit: str, says: list[str]) -> None:
    found = labelled(low, high, unit)
    assert [text for _, text in found] == says
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in found)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (Number(None), "–"), (Number(math.nan), "NaN"), (Number(-math.inf, "ms"), "-infinite"),
        (Number(1e300), "1e+300"), (Number(0.936, "share"), "93.60%"), (Number(4.0, "ms"), "4.000 ms"),
        (Number(12.345, "ms"), "12.3 ms"), (Number(90, "seconds"), "90.0 s"),
        (Number(600, "seconds"), "10.0 min"),
    ],
)  # fmt: skip
def test_numbers_are_told(number: Number, says: str) -> None:
    assert str(number) == says
