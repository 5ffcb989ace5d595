"""Placement: another device computes what the CPU does, and everything is back on the CPU afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_cli import run
from torch import nn
from torch.utils import cpp_extension

from front import request as requests
from front.request import Options, request
from graph.errors import UsageError
from prune.command import repeated
from prune.load import ModelSource
from prune.placement import CPU, on
from rl.training import TrainingConfig

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("c++")


def both(*words: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What the CPU and the device find."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "second_device.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = json.loads(done.stdout.splitlines()[-1])
    return expected, found


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_nothing_is_left_behind_on_the_cpu(tmp_path: Path) -> None:
    library = tmp_path / "second_device.so"
    flags = [f"-I{path}" for path in cpp_extension.include_paths()]
    links = [f"-L{path}" for path in cpp_extension.library_paths()]
    command = [
        str(COMPILER), "-shared", "-fPIC", "-std=c++20", "-O0", *flags, str(HERE / "second_device.cpp"),
        "-o", str(library), *links, "-ltorch", "-ltorch_cpu", "-lc10",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    expected, found = both("gadget", str(library))
    assert found == {name: pytest.approx(values, rel=1e-5) for name, values in expected.items()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_what_the_cpu_finds() -> None:
    expected, found = both("cuda")
    for plans in (expected, found):  # a score a little off may lead a policy to another plan
        assert -3 <= plans.pop("policy")[0] <= 1
    assert found == {name: pytest.approx(values, rel=0.05, abs=0.05) for name, values in expected.items()}


def test_modules_come_back_whatever_happens() -> None:
    module = nn.Linear(2, 2)
    weight = module.weight.detach().clone()
    with pytest.raises(KeyError), on(CPU, module):
        raise KeyError
    assert module.weight.device == CPU and torch.equal(module.weight, weight)


@pytest.mark.parametrize(("device", "told"), [("tpu", "unknown"), ("cuda:99", "torch sees")])
def test_a_device_that_is_not_there_is_refused(device: str, told: str) -> None:
    policy = ("policy", "train", "--on", "resnet20", "-o", "policy.safetensors")
    for command in (("compress", "resnet20.pt", "--flops", 0.5), ("zoo", "train", "resnet20"), policy):
        code, out = run(*command, "--device", device)
        assert code == 2 and f"error: --device {device}: {told}" in out


def test_one_process_scores_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "find_device", torch.device)
    source = ModelSource(model="resnet20.pt")
    asked = request(source, Options(flops=0.5, device="cuda:1"))
    assert asked.workers == "1" and asked.config.device == torch.device("cuda:1")
    words = repeated(asked.config)
    assert words[words.index("--device") + 1] == "cuda:1"
    assert "--device" not in repeated(request(source, Options(flops=0.5)).config)
    with pytest.raises(UsageError, match="--workers 2 and --device cuda do not go together"):
        request(source, Options(flops=0.5, device="cuda", workers=2))
    with pytest.raises(UsageError, match="--workers 2 and --device cuda do not go together"):
        TrainingConfig(
            on=("resnet20",), data=None, output=Path("policy.safetensors"), workers="2",
            device=torch.device("cuda"),
        )  # fmt: skip
    trained = TrainingConfig(
        on=("resnet20",), data=None, output=Path("policy.safetensors"), device=torch.device("cuda:1")
    )
    assert "--device cuda:1" in trained.command()
