"""Budgets of the gate: read from options and files, with a clear line for each slip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graph.errors import UsageError
from prune.gate_budgets import parse_budgets, read_budgets

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    ("given", "told", "hint"),
    [
        ({"max-mac": 1}, "unknown budget", "max-macs"),
        ({"max-macs": "many"}, "no limit", "60M"),
        ({"max-macs": float("nan")}, "no limit", "60M"),
        ({"max-macs": float("inf")}, "no limit", "60M"),
        ({"max-macs": "infinity"}, "no limit", "60M"),
        ({"max-macs": True}, "no limit", "60M"),
        ({"max-macs": [1]}, "no limit", "60M"),
        ({"max-macs": "1MB"}, "no limit", "60M"),
        ({"max-macs": 0}, "greater than 0", "60M"),
        ({"max-size": "-1MB"}, "greater than 0", "1.5MB"),
        ({"min-accuracy": 90}, "is a share", "0.9 or 90%"),
        ({"max-accuracy-drop": 1}, "is a share", "0.01 or 1%"),
        ({"max-regression": "1%"}, "needs a baseline", "baseline"),
        ({"baseline": 3}, "no file", "name"),
        ({}, "no budget", "max-macs-ratio"),
    ],
)
def test_a_slip_is_told(given: dict[str, Any], told: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budgets(given)
    assert told in str(caught.value) and hint in caught.value.hint


def test_budgets_of_a_file_and_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "prune.toml").write_text('[gate]\nmax-macs = "2M"\nbaseline = "base.json"\n')
    found = read_budgets({"max-macs": "3M", "max-params": None}, Path("ci/prune.toml"))
    assert found.limits == {"max-macs": 3e6}
    assert found.baseline == Path("ci/base.json")
    (tmp_path / "pyproject.toml").write_text('[tool.prune.gate]\nmin-speedup = "1.1x"\n')
    assert read_budgets({}, None).limits == {"min-speedup": 1.1}
    (tmp_path / "prune.toml").write_text("[gate]\nmin-sped = 2\n")
    with pytest.raises(UsageError, match=r"prune.toml: min-sped: unknown budget") as caught:
        read_budgets({}, None)
    assert "min-speedup" in caught.value.hint
