"""The gate's formats: right where all is well, and no way out of them for whoever writes names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from graph.errors import OutputError
from prune.gate import Check, Judged
from prune.gate import judge as judge_file
from prune.gate_budgets import parse_budgets
from prune.gate_formats import append_summary, as_github, as_json, as_junit, as_markdown, verdict
from tests.reports import write_report

pytestmark = pytest.mark.smoke

EVIL = "a\r\n::error::pwned|`<img src=x>`\\| [x](javascript:y) @you \x1b[31m\x00\ud800\u202e%0A::set-output,:"


@pytest.fixture
def judged(tmp_path: Path) -> list[Judged]:
    file = write_report(tmp_path / "report.json", accuracy=None)
    budgets = parse_budgets({"max-macs": "1M", "max-params": "1k", "min-accuracy": "90%"})
    return [judge_file(str(file), budgets)]


@pytest.fixture
def evil() -> list[Judged]:
    return [Judged(EVIL, "report", (Check(EVIL, EVIL, EVIL, "broken", EVIL),))]


def test_json_has_numbers(judged: list[Judged]) -> None:
    data = json.loads(as_json(judged))
    assert (data["format"], data["result"]) == ("prune-gate", "broken")
    found = {c["budget"]: c for c in data["files"][0]["checks"]}
    assert (found["max-macs"]["limit"], found["max-macs"]["value"]) == (1e6, 1e6)
    assert found["max-params"]["result"] == "broken"
    assert found["min-accuracy"]["value"] is None


def test_junit_counts_failures_and_errors(judged: list[Judged]) -> None:
    suite = ElementTree.fromstring(as_junit(judged))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    outcomes = {case.get("name"): [child.tag for child in case] for case in suite}
    assert outcomes == {"max-macs": [], "max-params": ["failure"], "min-accuracy": ["error"]}


def test_annotations_for_what_is_not_kept(judged: list[Judged]) -> None:
    lines = as_github(judged).splitlines()
    assert len(lines) == 2 and all(line.startswith("::error file=") for line in lines)
    kept = Judged("r.json", "report", (judged[0].checks[0],))
    assert as_github([kept]) == "::notice file=r.json,title=prune gate::kept: max-macs"


def test_markdown_is_a_table(judged: list[Judged]) -> None:
    rows = [line for line in as_markdown(judged).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert "| max-macs | at most 1.00 M | 1.00 M | ✅ kept |" in rows


def test_the_verdict_is_that_of_all_files(judged: list[Judged], tmp_path: Path) -> None:
    kept = Judged("r.json", "report", (judged[0].checks[0],))
    lost = judge_file(str(tmp_path / "absent"), parse_budgets({"max-macs": 1}))
    assert verdict([kept]) == "pass"
    assert verdict([kept, lost]) == "unjudged"
    assert verdict([kept, lost, *judged]) == "broken"


def test_no_name_ends_an_annotation(evil: list[Judged]) -> None:
    (line,) = as_github(evil).split("\n")
    assert not any(ord(c) < 32 for c in line)
    properties, message = re.fullmatch(r"::error (.*?)::(.*)", line).groups()  # type: ignore[union-attr]
    assert properties.count(",") == 1 and ":" not in properties  # two properties: file and title
    assert "%0A" not in message.replace("%250A", "")


def test_no_name_leaves_its_element(evil: list[Judged]) -> None:
    text = as_junit(evil)
    root = ElementTree.fromstring(text.encode())
    assert len(list(root.iter())) == 4
    assert "\\x00" in (root[0].get("name") or "")


def test_no_name_leaves_its_cell(evil: list[Judged]) -> None:
    text = as_markdown(evil)
    (row,) = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert row.count("|") == 5
    for raw in ("<img", "](", "`", "@you", "\x1b", "\\"):
        assert raw not in text
    assert text.encode()  # no surrogate is left


def test_json_keeps_names_as_they_are(evil: list[Judged]) -> None:
    text = as_json(evil)
    assert text.isascii() and json.loads(text)["files"][0]["file"] == EVIL


def test_the_summary_is_added_to(
    judged: list[Judged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    append_summary(judged)
    assert file.read_text() == "before\n" + as_markdown(judged) + "\n"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    with pytest.raises(OutputError, match="GITHUB_STEP_SUMMARY"):
        append_summary(judged)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    append_summary(judged)
