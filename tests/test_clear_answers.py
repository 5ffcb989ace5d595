"""Inputs that want a clear answer, by item; each test is named after its item.

| item | what | tests here | and in |
|---|---|---|---|
| 1 | missing, folder, empty, truncated, unreadable; text, HTML, Git-LFS pointer | `test_item_1` | `test_load.py` |
| 2 | ending against content; encrypted; bomb; duplicate or `../` members; oversized, stride 0 | `test_item_2` | `test_hostile.py` |
| 3 | pickle with unknown globals; whole module; TorchScript; `.pt2`; legacy tar | `test_item_3` | `test_load.py` |
| 4 | state dict without architecture; missing, extra, ill-shaped keys; `module.`; Lightning | `test_item_4` | `test_load.py` |
| 5 | NaN or Inf weights or outputs; no parameters; fp16, quantized, pruned; shared; train mode; frozen; device | `test_item_5` | `test_export.py`, `test_parity.py` |
| 6 | control flow; unknown operator; wrong shape or type; several inputs; dead branches | `test_item_6` | `test_capture.py`, `test_forms.py` |
| 7 | `--flops`; out of reach; nothing prunable; empty or one-class data | `test_item_7` | `test_cli.py`, `test_budget.py` |
| 8 | output exists, read-only, full, equals the input; two runs | `test_item_8` | `test_files.py` |
| 9 | resume with another model, data, seed, version or config; corrupt checkpoint | with what resumes | |
| 10 | ONNX: opset, `.data`, parity, no onnxruntime; baseline missing or malformed | `test_item_10` | `test_export.py`, `test_onnx_model.py`, `test_gate.py` |
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import cli
from front.commands import terminal
from prune.load import load_model
from tests.hostile import cases
from tests.hostile.case import Payload
from tests.hostile.honest import network, onnx_model, state, torch_file, write_run, zoo_file

CASES = {c.name: c for c in cases()}
NAMED = ("--arch", "resnet20", "--arch-args", '{"width": 4}')
NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Branches(Net):
    def forward(self, x):
        if x.sum() > 0:
            return super().forward(x)
        return super().forward(-x)


class Dead(Net):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(5, 5)

    def forward(self, x):
        self.fc(torch.relu(self.conv(x)).mean((2, 3)) * 2)
        return super().forward(x)


class Odd(Net):
    def forward(self, x):
        return torch.linalg.svdvals(self.conv(x)).mean((1, 2))[:, None] + super().forward(x)


class Two(Net):
    def forward(self, x, y):
        return super().forward(x + y)


class Dict(Net):
    def forward(self, batch):
        return super().forward(batch["x"])


class Infinite(Net):
    def forward(self, x):
        return super().forward(x) / 0.0


class Empty(nn.Module):
    def forward(self, x):
        return x * 2


class Shared(Net):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = self.a

    def forward(self, x):
        return self.fc(self.b(torch.relu(self.a(torch.relu(self.conv(x)).mean((2, 3))))))


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class Training(Net):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.train()

    def forward(self, x):
        return self.drop(super().forward(x))


class Pinned(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(x)
"""


def run(*args: object) -> tuple[int, str]:
    """Exit code, and everything printed in one line."""
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    return result.exit_code, " ".join(result.output.split())


def refused(*args: object, says: str) -> str:
    code, told = run(*args)
    assert code == 2 and says in told and told.count("error:") == 1, (code, told)
    assert "prune itself failed" not in told and "Traceback" not in told
    return told


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of networks."""
    for screen in (terminal.console, terminal.stderr):
        monkeypatch.setattr(screen, "width", 4000)
    where = tmp_path / "work"
    where.mkdir()
    monkeypatch.chdir(where)
    monkeypatch.syspath_prepend(str(where))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    (where / "nets.py").write_text(NETS)
    return where


def meet(name: str, folder: Path) -> None:
    if name not in CASES:
        pytest.skip("needs transformers")
    case = CASES[name]
    case.make(folder, Payload(folder.parent / "canary", 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(*case.command, says=case.says)
    assert not (folder.parent / "canary").exists()


@pytest.mark.parametrize("name", [
    "special: missing", "special: folder", "special: empty", "special: text", "special: page", "special: pointer",
    "special: pipe", "archive: directory cut", "safetensors: length of 4 GB",
])  # fmt: skip
def test_item_1_what_is_no_file_or_no_model(name: str, folder: Path) -> None:
    meet(name, folder)


def test_item_1_unreadable(folder: Path) -> None:
    (folder / "m.pt").write_bytes(zoo_file())
    (folder / "m.pt").chmod(0)
    if os.geteuid():
        refused("inspect", "m.pt", says="Permission denied")
        return
    # root reads everything: a process of nobody's does not
    folder.chmod(0o755)
    told = "import os, sys; os.setuid(65534); sys.path[:0] = sys.argv[1:2]\n" \
           "from pathlib import Path; from prune.checkpoint import check_readable\n" \
           "check_readable(Path('m.pt'))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", told, str(Path(__file__).parents[1])], capture_output=True, text=True
    )
    if "Permission denied" not in done.stderr and "ModuleNotFoundError" in done.stderr:
        pytest.skip("nobody cannot read the checkout")
    assert "ModelFileError" in done.stderr and "Permission denied" in done.stderr


@pytest.mark.parametrize("name", [
    "safetensors that is a pickle: exec", "archive: encrypted", "archive: bomb", "archive: parent folder",
    "archive: twice data.pkl", "tensor: stride 0", "tensor: storage of 2^34", "safetensors: shape of 2^62",
])  # fmt: skip
def test_item_2_content_against_name_and_size(name: str, folder: Path) -> None:
    meet(name, folder)


def test_item_2_the_content_decides(folder: Path) -> None:
    (folder / "m.safetensors").write_bytes(zoo_file(".pt"))
    (folder / "m.pt").write_bytes(zoo_file(".safetensors"))
    for name in ("m.safetensors", "m.pt"):
        code, told = run("inspect", name)
        assert code == 0, told


@pytest.mark.parametrize("name", [
    "pickle: os.system", "pickle: models_zoo.resnet_cifar.CifarResNet", "archive: TorchScript by name",
    "archive: pt2 by name", "archive: tar", "bare pickle: exec",
])  # fmt: skip
def test_item_3_code_in_files(name: str, folder: Path) -> None:
    meet(name, folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_item_3_unknown_globals_are_listed(zipped: bool, folder: Path) -> None:
    (folder / "m.pt").write_bytes(torch_file({"a": network(), "b": Path}, zipped=zipped))
    told = refused("inspect", "m.pt", says="models_zoo.resnet_cifar.CifarResNet")
    assert "pathlib.Path" in told and "torch.nn.modules.conv.Conv2d" in told and "--trust-code" in told


@pytest.mark.parametrize(
    "name", ["weights: no architecture", "weights: half", "weight: extra", "weight: another shape"]
)
def test_item_4_weights_that_do_not_fit(name: str, folder: Path) -> None:
    meet(name, folder)


@pytest.mark.parametrize("form", ["module.", "state_dict", "lightning"])
def test_item_4_wrappers_are_accepted(form: str, folder: Path) -> None:
    prefixed = {f"{'module' if form == 'module.' else 'model'}.{k}": v for k, v in state().items()}
    content = {"module.": prefixed, "state_dict": {"state_dict": state()},
               "lightning": {"epoch": 3, "pytorch-lightning_version": "2.0", "state_dict": prefixed}}[form]  # fmt: skip
    (folder / "m.pt").write_bytes(torch_file(content))
    assert run("inspect", "m.pt", *NAMED, "--input-shape", "3x32x32")[0] == 0


@pytest.mark.parametrize("name", [
    "weight: NaN", "weight: infinite", "weight: quantized", "weight: meta", "tensor: storage on another device",
])  # fmt: skip
def test_item_5_weights_that_are_none(name: str, folder: Path) -> None:
    meet(name, folder)


def test_item_5_no_parameters(folder: Path) -> None:
    refused("inspect", "nets:Empty", "--input-shape", "1x8x8", says="no parameters")


def test_item_5_outputs_that_are_no_numbers(folder: Path) -> None:
    refused("export", "nets:Infinite", "--input-shape", "1x8x8", "-o", "x.onnx", says="finite")
    assert not (folder / "x.onnx").exists()


@pytest.mark.parametrize("name", ["Shared", "Frozen", "Training"])
def test_item_5_shared_frozen_and_training_models_are_accepted(name: str, folder: Path) -> None:
    code, told = run("export", f"nets:{name}", "--input-shape", "1x8x8", "-o", "x.onnx")
    assert code == 0 and "equal" in told or "differ" in told or "x.onnx" in told


def test_item_5_half_precision_and_pruned_models_are_accepted(folder: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state().items()}
    (folder / "m.pt").write_bytes(torch_file(half))
    found = load_model("m.pt", arch="resnet20", arch_args={"width": 4})
    assert all(p.dtype is torch.float32 for p in found.module.parameters())
    write_run(folder / "run")
    assert run("inspect", "run")[0] == 0


def test_item_6_control_flow_names_the_line(folder: Path) -> None:
    told = refused("inspect", "nets:Branches", "--input-shape", "1x8x8", says="nets.py")
    assert "if x.sum() > 0" in told or "line" in told


def test_item_6_an_unknown_operator_is_named_and_pins(folder: Path) -> None:
    code, told = run("inspect", "nets:Odd", "--input-shape", "1x8x8")
    assert code == 0 and "svd" in told and "stay" in told


@pytest.mark.parametrize(("args", "says"), [
    (("--input-shape", "3x8x8"), "it was given"), (("--input-shape", "banana"), "not a shape"),
    (("--input-shape", "1x8x8", "--input-dtype", "int64"), "it was given"),
    (("--input-shape", "1x8x8", "--input-dtype", "float99"), "unknown"),
])  # fmt: skip
def test_item_6_wrong_inputs(args: tuple[str, ...], says: str, folder: Path) -> None:
    refused("inspect", "nets:Net", *args, says=says)


def test_item_6_several_inputs(folder: Path) -> None:
    refused("inspect", "nets:Two", "--input-shape", "1x8x8", says="takes 2: x, y")
    (folder / "s.json").write_text('{"x": {"shape": [2, 1, 8, 8]}, "y": {"shape": [2, 1, 8, 8]}}')
    assert run("inspect", "nets:Two", "--input-spec", "s.json")[0] == 0
    (folder / "s.json").write_text('{"x": {"shape": [2, 1, 8, 8]}, "z": {"shape": [2, 1, 8, 8]}}')
    refused("inspect", "nets:Two", "--input-spec", "s.json", says="takes no input 'z'")


def test_item_6_an_input_that_is_a_dict(folder: Path) -> None:
    refused("inspect", "nets:Dict", "--input-shape", "1x8x8", says="nets.py")


def test_item_6_dead_branches_are_accepted(folder: Path) -> None:
    assert run("inspect", "nets:Dead", "--input-shape", "1x8x8")[0] == 0


@pytest.mark.parametrize("value", ["0", "-0.5", "1.5", "150%", "nan", "inf", "half", "1e-9"])
def test_item_7_senseless_targets(value: str, folder: Path) -> None:
    told = refused(
        "compress", "nets:Net", "--input-shape", "1x8x8", f"--flops={value}", "-o", "out", says="error:"
    )
    assert "flops" in told.lower() and not (folder / "out").exists()


def test_item_7_percent_is_a_share(folder: Path) -> None:
    from prune.demands import parse_demand

    assert parse_demand("--flops", "50%").share == 0.5


def test_item_7_out_of_reach_says_what_is_not(folder: Path) -> None:
    told = refused(
        "compress", "nets:Net", "--input-shape", "1x8x8", "--flops", "0.5", "--limit", "conv=8", "-o", "out", says="error:"
    )  # fmt: skip
    assert "prun" in told or "reach" in told


def test_item_7_nothing_prunable(folder: Path) -> None:
    refused("compress", "nets:Pinned", "--input-shape", "8", "--flops", "0.5", "-o", "out", says="error:")


def test_item_7_empty_and_one_class_data(folder: Path) -> None:
    (folder / "m.pt").write_bytes(zoo_file())
    (folder / "d" / "a").mkdir(parents=True)
    refused("eval", "m.pt", "--data", "imagefolder:d", says="no images")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "d" / "a" / "0.png")
    refused("eval", "m.pt", "--data", "imagefolder:d", says="1 class")


def test_item_8_outputs(folder: Path) -> None:
    (folder / "m.pt").write_bytes(zoo_file())
    before = (folder / "m.pt").read_bytes()
    (folder / "x.onnx").write_bytes(b"mine")
    refused("export", "m.pt", "-o", "x.onnx", says="exists")
    refused("compress", "m.pt", "--flops", "0.5", "-o", "m.pt", "--force", says="m.pt")
    refused("export", "m.pt", "-o", "/proc/x.onnx", says="cannot be written")
    assert (folder / "m.pt").read_bytes() == before and (folder / "x.onnx").read_bytes() == b"mine"


def test_item_8_two_runs_in_one_folder(folder: Path) -> None:
    from prune.run_folder import RunFolder

    (folder / "m.pt").write_bytes(zoo_file())
    with pytest.raises(KeyboardInterrupt), RunFolder(Path("out"), {}):
        refused("compress", "m.pt", "--flops", "0.5", "-o", "out", says="another run, process")
        raise KeyboardInterrupt


@pytest.mark.parametrize("opset", ["1", "99999"])
def test_item_10_unsupported_opset(opset: str, folder: Path) -> None:
    refused("export", "nets:Net", "--input-shape", "1x8x8", "-o", "x.onnx", "--opset", opset, says="error:")
    assert not (folder / "x.onnx").exists()


@pytest.mark.parametrize("name", ["onnx: data in the parent folder", "onnx: data of a link"])
def test_item_10_data_elsewhere(name: str, folder: Path) -> None:
    meet(name, folder)


def test_item_10_no_parity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prune import export

    monkeypatch.setattr(export, "ONNX_TOLERANCE", -1.0)
    monkeypatch.setattr(
        export, "compare", lambda *a, **k: (_ for _ in ()).throw(export.ExportError("differs by 3.0"))
    )
    refused("export", "nets:Net", "--input-shape", "1x8x8", "-o", "x.onnx", says="differs")
    assert not (folder / "x.onnx").exists()


def test_item_10_no_onnxruntime(folder: Path) -> None:
    (folder / "onnxruntime.py").write_text("raise ImportError('no onnxruntime here')")
    done = subprocess.run(
        [sys.executable, "-m", "cli", "export", "nets:Net", "--input-shape", "1x8x8", "-o", "x.onnx"],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[1]}"},
    )  # fmt: skip
    assert done.returncode == 2 and "onnxruntime" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"format": "prune-report", "schema": 99}', b"<html>"]
)
def test_item_10_a_baseline_that_is_missing_or_malformed(content: bytes | None, folder: Path) -> None:
    write_run(folder / "run")
    if content is not None:
        (folder / "base.json").write_bytes(content)
    code, told = run("gate", "run", "--baseline", "base.json")
    assert code == 2 and "base.json" in told and "Traceback" not in told


def test_item_10_a_good_file_passes(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(onnx_model().SerializeToString())
    assert run("gate", "m.onnx", "--max-macs", "1M")[0] == 0
    assert isinstance(network(), nn.Module)
