"""Confinement: whatever the child does, the answer is one error, soon."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from graph.errors import ModelFileError
from profilers import confined as module
from profilers.confined import confined


def length(path: Path) -> Any:
    return {"length": path.stat().st_size}


def refuse(path: Path) -> Any:
    raise ModelFileError(f"{path} is bad", hint="another")


def crash(path: Path) -> Any:
    os.abort()


def fail(path: Path) -> Any:
    raise RuntimeError("a bug")


def devour(path: Path) -> Any:
    return len(bytearray(1 << 40))


def spin(path: Path) -> Any:
    while True:
        pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    return path


def test_the_answer_comes_back(file: Path) -> None:
    assert confined("tests.test_confined:length", file) == {"length": 3}


def test_an_error_of_ours_comes_back(file: Path) -> None:
    with pytest.raises(ModelFileError, match="is bad") as caught:
        confined("tests.test_confined:refuse", file)
    assert caught.value.hint == "another"


@pytest.mark.parametrize("name", ["crash", "devour", "fail"])
def test_a_crash_is_an_error_of_the_file(name: str, file: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read with"):
        confined(f"tests.test_confined:{name}", file)


def test_what_takes_for_ever_is_ended(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 2)
    start = time.process_time()
    with pytest.raises(ModelFileError, match="in 2 s"):
        confined("tests.test_confined:spin", file)
    assert time.process_time() - start < 60


def test_nothing_is_imported_from_the_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('evil')")
    root = str(Path(__file__).parents[1])
    monkeypatch.setattr("sys.path", [root, *[p for p in __import__("sys").path if p not in ("", root)]])
    monkeypatch.chdir(tmp_path)
    assert confined("tests.test_confined:length", file) == {"length": 3}


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        confined("tests.test_confined:length", tmp_path / "absent")
