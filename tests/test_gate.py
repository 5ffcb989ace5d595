"""The gate: what is kept, what is broken, and what cannot be judged, which is never a pass."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from prune.gate import judge, worst
from prune.gate_budgets import BUDGETS, Budgets, parse_budgets, read_budgets
from tests.reports import write_report

pytestmark = pytest.mark.smoke


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_report(tmp_path / "run" / "report.json")


def status(file: Path, **given: Any) -> str:
    return judge(str(file), parse_budgets({k.replace("_", "-"): v for k, v in given.items()})).status


@pytest.mark.parametrize(
    ("name", "kept", "broken"),
    [
        ("max-macs", "1M", "999999"),
        ("max-macs-ratio", "50%", 0.499),
        ("max-params", 50_000, "49.9k"),
        ("max-size", "0.202MB", "201kB"),
        ("max-latency-ratio", 0.8, "79%"),
        ("max-memory", "201kB", "0.2MB"),
        ("min-accuracy", 0.91, "91.1%"),
        ("max-accuracy-drop", 0.01, "0.9%"),
        ("min-speedup", "1.25x", 1.26),
    ],
)
def test_a_budget_is_kept_at_its_limit_and_broken_behind_it(
    file: Path, name: str, kept: Any, broken: Any
) -> None:
    assert judge(str(file), parse_budgets({name: kept})).status == "pass"
    found = judge(str(file), parse_budgets({name: broken}))
    assert found.status == "broken"
    assert found.checks[0].budget == name and found.checks[0].value


def test_every_budget_is_tried_above() -> None:
    mark = test_a_budget_is_kept_at_its_limit_and_broken_behind_it.pytestmark[0]  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == set(BUDGETS)


def test_a_folder_stands_for_its_report(file: Path) -> None:
    assert status(file.parent, max_macs="1M") == "pass"


def test_ratios_are_computed_not_believed(file: Path) -> None:
    data = json.loads(file.read_text())
    data["ratios"]["macs"] = 0.1
    file.write_text(json.dumps(data))
    assert status(file, max_macs_ratio=0.4) == "broken"


def test_a_missing_figure_never_passes(file: Path) -> None:
    write_report(file, accuracy=None)
    found = judge(str(file), parse_budgets({"min-accuracy": 0.5, "max-macs": "1M"}))
    assert found.status == "unjudged"
    assert [c.status for c in found.checks] == ["pass", "unjudged"]
    assert "nothing was measured on data" in found.checks[1].told


def test_a_broken_budget_decides_whatever_is_missing(file: Path) -> None:
    write_report(file, accuracy=None)
    assert status(file, min_accuracy=0.5, max_macs=1) == "broken"
    assert worst(["unjudged", "broken", "pass"]) == "broken"
    assert worst(["pass", "unjudged"]) == "unjudged"
    assert worst([]) == "unjudged"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-1", '"9"', "true", "1" * 4000, "[]", "0.5"])
def test_figures_that_are_none_never_pass(file: Path, text: str) -> None:
    data = json.loads(file.read_text())
    data["pruned"]["macs"] = "@"
    file.write_text(json.dumps(data).replace('"@"', text))
    found = judge(str(file), parse_budgets({"max-macs": "100G"}))
    assert (found.status, found.kind) == ("unjudged", "unreadable")
    assert found.error and "\n" not in found.error and len(found.error) < 500


def test_zero_never_divides(file: Path) -> None:
    write_report(file, onnx_ms={"median": 1e-9})
    data = json.loads(file.read_text())
    data["pruned"]["onnx_ms"]["median"] = 0
    data["original"]["macs"] = 0
    file.write_text(json.dumps(data))
    assert status(file, min_speedup=1.1) == "unjudged"
    assert status(file, max_macs_ratio=0.5) == "unjudged"


def test_what_is_no_file_cannot_be_judged(tmp_path: Path) -> None:
    found = judge(str(tmp_path / "absent.json"), Budgets({"max-macs": 1.0}))
    assert (found.status, found.kind) == ("unjudged", "unreadable")
    assert "No such file" in found.error


def test_a_baseline_allows_no_regression(file: Path, tmp_path: Path) -> None:
    same = write_report(tmp_path / "base.json")
    assert status(file, baseline=str(same)) == "pass"
    write_report(file, macs=1_010_000, accuracy=0.905)
    found = judge(str(file), parse_budgets({"baseline": str(same)}))
    broken = {c.budget for c in found.checks if c.status == "broken"}
    assert broken == {"max-regression macs", "max-regression accuracy"}
    assert status(file, baseline=str(same), max_regression="1%") == "pass"
    assert status(file, baseline=str(same), max_regression="0.9%") == "broken"


def test_a_baseline_is_missed_where_it_knows_more(file: Path, tmp_path: Path) -> None:
    base = write_report(tmp_path / "base.json")
    write_report(file, accuracy=None)
    assert status(file, baseline=str(base)) == "unjudged"
    assert status(base, baseline=str(file)) == "pass"
    assert status(file, baseline=str(tmp_path / "absent")) == "unjudged"


def test_latency_is_not_compared_with_another_day(file: Path, tmp_path: Path) -> None:
    base = write_report(tmp_path / "base.json")
    write_report(file, onnx_ms={"median": 100.0})
    assert status(file, baseline=str(base)) == "pass"


def test_a_file_that_was_only_found_names_no_code(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("evil.pt2", "w") as archive:
        archive.writestr("evil/archive_format", "pt2")
    Path("prune.toml").write_text('[gate]\nbaseline = "evil.pt2"\n')
    for budgets, told in (
        (read_budgets({}, None), "is a .pt2 program"),
        (read_budgets({}, Path("prune.toml")), "cannot be loaded"),
        (read_budgets({"baseline": "evil.pt2"}, None), "cannot be loaded"),
    ):
        found = judge(str(file), budgets, trust_code=True)
        assert found.status == "unjudged" and told in found.checks[0].told
