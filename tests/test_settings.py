"""Settings: which file is read, and what is said about one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from graph.errors import UsageError
from prune.settings import Settings, read_settings

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_is_nothing() -> None:
    assert read_settings("gate", None) == Settings()


def test_its_own_file_goes_before_the_shared_one() -> None:
    Path("pyproject.toml").write_text("[tool.prune.gate]\nmax-macs = 1\n[tool.other]\nx = 1\n[project]\n")
    assert read_settings("gate", None).values == {"max-macs": 1}
    Path("prune.toml").write_text("[compress]\nseed = 1\n")
    assert read_settings("gate", None) == Settings(Path("pyproject.toml"), {"max-macs": 1})
    Path("prune.toml").write_text("[gate]\nmax-macs = 2\n")
    found = read_settings("gate", None)
    assert (found.path, found.values, found.named) == (Path("prune.toml"), {"max-macs": 2}, False)


def test_a_named_file_is_the_only_one() -> None:
    Path("prune.toml").write_text("[gate]\nmax-macs = 2\n")
    Path("ci").mkdir()
    Path("ci/other.toml").write_text("[gate]\nmax-macs = 3\n")
    found = read_settings("gate", Path("ci/other.toml"))
    assert (found.values, found.named, found.folder) == ({"max-macs": 3}, True, Path("ci"))
    with pytest.raises(UsageError, match=r"ci/other.toml has no table \[compress\]"):
        read_settings("compress", Path("ci/other.toml"))
    Path("ci/pyproject.toml").write_text("")
    with pytest.raises(UsageError, match=r"no table \[tool.prune.compress\]"):
        read_settings("compress", Path("ci/pyproject.toml"))


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        ("[gates]\nx = 1", "unknown table gates", "did you mean [gate]?"),
        ("max-macs = 1", "unknown key max-macs", "[compress]"),
        ("gate = 1", "unknown key gate", "[gate]"),
        ("[gate", "is not TOML", ""),
        ("x = " + "[" * 100_000, "is not TOML", ""),
        ("\n" * (1 << 21), "is larger", ""),
        ('["a\\u001b\\nb"]\n', "unknown table a\\x1b\\nb", ""),
    ],
)
def test_a_wrong_file_is_told_by_name(text: str, told: str, hint: str) -> None:
    Path("prune.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_settings("gate", None)
    assert "prune.toml" in str(caught.value) and told in str(caught.value) and hint in caught.value.hint


def test_what_is_no_file_is_told() -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_settings("gate", Path("absent.toml"))
    Path("prune.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        read_settings("gate", None)
