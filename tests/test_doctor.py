"""The doctor: on this machine, and on ones where something is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from prune import doctor
from prune.doctor import Diagnosis, Finding, examine

ROOT = Path(__file__).resolve().parent.parent


def test_this_machine_is_healthy() -> None:
    found = examine()
    states = {f.name: f for f in found.findings}
    assert found.healthy, [f for f in found.findings if f.state == "broken"]
    assert states["torch"].found == torch.__version__
    assert states["onnxruntime"].state == "ok"
    assert "agrees with torch" in states["capture and ONNX export"].found
    assert int(found.machine["cores"]) > 0 and found.machine["threads of torch"].isdecimal()
    assert not {"pytest", "ruff", "torch-pruning"} & states.keys()
    data = json.loads(json.dumps(found.to_json()))
    assert (data["format"], data["healthy"]) == ("prune-doctor", True)


def test_nothing_is_reported(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    code = "from prune.doctor import examine; assert examine().healthy"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    left = [p for p in tmp_path.rglob("*") if p.name == ".ses" or "onnxruntime" in str(p)]
    assert not left


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is installed and cannot be imported, beside our own metadata that asks for more."""
    wanted = [
        "shattered>=1.0", "pillow>=9999", "nowhere-to-be>=1", 'absent-extra[more]>=2; extra == "ray"',
        'absent-tool; extra == "dev"',
    ]  # fmt: skip
    for name, version, requires in (("prune_networks", "9.9", wanted), ("shattered", "1.2", [])):
        lines = [f"Requires-Dist: {text}" for text in requires]
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        head = ["Metadata-Version: 2.4", f"Name: {name.replace('_', '-')}", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
        (info / "top_level.txt").write_text(f"{name}\n")
    (tmp_path / "shattered.py").write_text("raise RuntimeError('in pieces\\nmore')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_is_broken_or_missing_is_told_with_the_cure(broken: Path) -> None:
    found = {f.name: f for f in doctor._packages()}
    assert found["prune"] == Finding("prune", "ok", "9.9")
    assert found["shattered"].state == "broken" and found["shattered"].found.endswith("in pieces")
    assert found["pillow"].state == "broken" and "9999 is needed" in found["pillow"].found
    assert found["nowhere-to-be"].state == "broken"
    extra = found["absent-extra"]
    assert extra.state == "missing" and extra.hint == "python -m pip install 'absent-extra>=2'"
    assert "absent-tool" not in found
    assert not Diagnosis({}, tuple(found.values())).healthy
    assert Diagnosis({}, (extra,)).healthy


def test_an_export_that_fails_is_the_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    import prune.export

    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("no exporter\nat all")

    monkeypatch.setattr(prune.export, "export_onnx", fails)
    found = doctor._round_trip()
    assert found.state == "broken" and found.found == "RuntimeError: no exporter" and found.hint


def test_a_cache_that_cannot_be_written_is_no_illness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor._cache() == Finding("cache", "ok", str(tmp_path / "prune"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert doctor._cache().state == "missing"


def test_versions_compare_by_number() -> None:
    assert doctor._numbers("2.13.0+cpu") == (2, 13, 0)
    assert doctor._numbers("2.9") < doctor._numbers("2.10")
    assert metadata.version("torch")
