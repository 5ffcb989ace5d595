"""The scripts that compare policies and searches run, remember what they did, and tell it."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models_zoo.data import load_embedded
from prune.load import save_model
from prune.train import build_for
from prune.tune import fit
from prune.tune_config import SCRATCH

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
Run = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a tiny network lies, under the name of published weights."""
    path = tmp_path_factory.mktemp("benchmarks")
    data = load_embedded("digits")
    torch.manual_seed(0)
    module, arguments = build_for("resnet20", data, width=4)
    fit(module, data, replace(SCRATCH, epochs=1))
    save_model(
        path / "resnet20-cifar10.safetensors",
        module,
        arch="resnet20",
        arch_args=arguments,
        input_shape=data.input_shape,
        data="digits",
        metrics={},
    )
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script as the command line does, but in this process, which has torch imported already."""
    threads = torch.get_num_threads()

    def script(name: str, *arguments: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
        found = capsys.readouterr()
        return found.out, found.err

    return script


@pytest.mark.slow
def test_policies(run: Run, folder: Path) -> None:
    output = folder / "policies.json"  # one method: each exports the original and itself to ONNX
    command = [
        "policies.py", "resnet20", "--data", "digits", "--weights-dir", folder, "--epochs", 1,
        "--methods", "default", "--episodes", 2, "--test-on", "digits", "-o", output,
    ]  # fmt: skip
    shown, done = run(*command)
    assert [line.split("/")[2] for line in done.splitlines()] == ["default"]
    lines = output.with_suffix(".jsonl").read_text()
    told = json.loads(output.read_text())["results"]
    assert list(told) == ["resnet20 at 0.5"]
    found = told["resnet20 at 0.5"]
    assert found["test_images"] == len(load_embedded("digits").test)
    assert list(found["methods"]) == ["default"]
    row = found["methods"]["default"]
    assert 0.45 < row["macs"] <= 0.5 and row["episodes"] == 2 and row["latency"] > 0
    assert list(row["accuracy"]) == ["cut", "recalibrated", "reconstructed", "tuned", "larger test"]
    assert row["accuracy"]["larger test"] == row["accuracy"]["tuned"]  # the same images
    assert found["larger_test_images"] == found["test_images"]
    (line,) = [line for line in shown.splitlines() if " default " in line]
    assert [f"{100 * a:.2f}" for a in row["accuracy"].values()] == [c.strip() for c in line.split("│")[3:8]]
    assert output.with_suffix(".png").stat().st_size > 0

    shown_again, done = run(*command)  # all is there already
    assert done == "" and shown_again == shown
    assert output.with_suffix(".jsonl").read_text() == lines
    assert json.loads(output.read_text())["results"] == told


def test_search(run: Run, folder: Path) -> None:
    output, methods = folder / "search.json", ["gnn-rl+policy", "random"]
    command = [
        "search.py", "--model", folder / "resnet20-cifar10.safetensors", "--data", "digits", "--seeds", "3",
        "--methods", ",".join(methods), "--episodes", 3, "--images", 32, "--calibration", 64,
        "--test-images", 64, "-o", output,
    ]  # fmt: skip
    shown, done = run(*command)
    assert shown.startswith("2 of 2 runs to do")
    keys = [f"{method}/3" for method in methods]
    assert [line.split(":")[0] for line in done.splitlines()] == keys
    lines = output.with_suffix(".jsonl").read_text()
    told = json.loads(output.read_text())
    assert set(told["runs"]) == set(keys) and list(told["summary"]) == methods
    for method in methods:
        found = told["runs"][f"{method}/3"]
        assert len(found["accuracy"]) == len(found["loss"]) == 3
        best = max([*found["accuracy"], *(a for a, _ in found["baselines"])]) - 1
        assert told["summary"][method]["best"] == pytest.approx(best)
        (line,) = [line for line in shown.splitlines() if line.startswith(method + " ")]
        assert f"{told['summary'][method]['best']:+.4f}" in line
    assert output.with_suffix(".png").stat().st_size > 0

    shown_again, done = run(*command)
    assert shown_again.startswith("0 of 2 runs to do") and done == ""
    assert shown_again.splitlines()[1:] == shown.splitlines()[1:]
    assert output.with_suffix(".jsonl").read_text() == lines
    assert json.loads(output.read_text()) == told

    output.with_suffix(".jsonl").write_text("".join(lines.splitlines(keepends=True)[:-1]))  # interrupted
    shown_again, done = run(*command)
    assert shown_again.startswith("1 of 2 runs to do") and done.split(":")[0] == keys[-1]
