"""`prune profile` as a user meets it, at tiny sizes; and a clear line for every bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import cli
from front.commands import terminal
from graph.errors import PruneError
from profilers.mamba import MambaSizes
from profilers.mamba_cost import COMPONENTS
from profilers.profile import COLUMNS, Profile
from prune.load import save_model
from prune.mamba import save_mamba
from prune.profiling import open_mamba

TINY = ["--d-model", "32", "--layers", "1", "--d-state", "4", "--headdim", "16"]
QUICK = ["--repeats", "1", "--seconds", "0"]
FILES = ["profile.csv", "profile.json"]
PLOTS = [f"{n}.{e}" for n in ("roofline", "scaling", "share") for e in ("png", "svg")]


class Tagger(nn.Module):
    """Tokens in (B, L), scores out; any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embed(ids).cumsum(1))
        return scores


def tagger() -> nn.Module:
    return Tagger()


TAGGER = f"{__name__}:tagger"
TOKENS = ["--input-shape", "1x16", "--input-dtype", "int64"]


def run(*args: object) -> tuple[int, str]:
    """Exit code and everything printed, with line breaks of the terminal's width undone."""
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module", autouse=True)
def _wide_terminal() -> None:
    terminal.console.width = terminal.stderr.width = 200


def read(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "profile.json").read_text())
    return data


def test_mamba_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, told = run("profile", "mamba", *TINY, *QUICK, "--lengths", "8..32", "-o", out)
    assert code == 0, told
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, *PLOTS])
    for name in COMPONENTS:
        assert name in told
    assert "Mamba-2: share of the time over length" in told and "check, by the quick runs" in told
    found = Profile.from_json(read(out))
    assert found.subjects == ("Mamba-1", "Mamba-2") and [m.length for m in found.series("Mamba-1")] == [
        8,
        16,
        32,
    ]
    with (out / "profile.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 2 * 4 * (1 + len(COMPONENTS) + 1)
    for name in PLOTS:
        if name.endswith("png"):
            with Image.open(out / name) as image:
                assert image.convert("L").getextrema() == (0, 255) or image.convert("L").getextrema()[0] < 50
    code, told = run("profile", "mamba", *TINY, *QUICK, "--lengths", "8", "-o", out)
    assert code == 2 and "is not empty" in told  # before anything is measured


def test_one_version_one_mode_as_json() -> None:
    args = [
        "--version",
        2,
        "--mode",
        "decode",
        "--batch",
        3,
        "--clock",
        "cpu",
        "--dtype",
        "bfloat16",
        "--json",
    ]
    code, told = run("profile", "mamba", *TINY, *QUICK, *args)
    assert code == 0, told
    (only,) = json.loads(told)["measurements"]
    assert (only["subject"], only["mode"], only["tokens"]) == ("Mamba-2", "decode", 3)


def test_a_mamba_of_the_users(tmp_path: Path) -> None:
    from models_zoo.mamba_zoo import mamba1_tiny

    path = tmp_path / "mine.safetensors"
    save_model(
        path, mamba1_tiny(), arch="mamba1_tiny", arch_args={}, input_shape=(16,), data=None, metrics={}
    )
    code, told = run("profile", "mamba", "--model", path, *QUICK, "--lengths", "8", "--mode", "prefill")
    assert code == 0, told
    assert "mine, prefill, batch 1, 8 tokens" in told
    code, told = run("profile", "mamba", "--model", path, "--d-model", 64)
    assert code == 2 and "has its own version and sizes" in told


@pytest.mark.parametrize("layout", ["transformers", "mamba_ssm"])
def test_a_checkpoint_in_either_layout(layout: Any, tmp_path: Path) -> None:
    save_mamba(
        tmp_path / "mine", MambaSizes(version=2, d_model=32, layers=1, headdim=16).build(), layout=layout
    )
    args = ["--model", tmp_path / "mine", *QUICK, "--lengths", "8", "--mode", "prefill", "--json"]
    code, told = run("profile", "mamba", *args)
    assert code == 0, told
    (model,) = json.loads(told)["settings"]["models"].items()
    assert model[0] == "mine" and (model[1]["version"], model[1]["d_model"], model[1]["layers"]) == (2, 32, 1)


def test_any_model_by_operator_and_by_module(tmp_path: Path) -> None:
    out = tmp_path / "out"
    resnet = ["models_zoo.resnet_cifar:resnet20", "--input-shape", "3x8x8"]
    code, told = run("profile", *resnet, *QUICK, "-o", out, "--top", 3)
    assert code == 0, told
    assert "conv2d" in told and " more " in told and "records/s" in told
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*FILES, *(p for p in PLOTS if "scaling" not in p)]
    )
    assert set(read(out)["measurements"][0]["views"]) == {"op", "module", "node"}
    code, told = run("profile", *QUICK, "--by", "module", "--depth", 1, *resnet)
    assert code == 0 and "layer1" in told and "layer1.0" not in told


def test_lengths_of_a_sequence_model(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, told = run("profile", TAGGER, *TOKENS, *QUICK, "--lengths", "8,32", "-o", out)
    assert code == 0, told
    first, second = read(out)["measurements"]
    assert (first["length"], second["length"]) == (8, 32) and (out / "scaling.png").is_file()
    flops = [sum(p["flops"] for p in m["views"]["op"]) for m in (first, second)]
    assert flops == [2 * 8 * 8 * 3, 2 * 32 * 8 * 3]
    code, told = run("profile", TAGGER, *TOKENS, *QUICK)
    assert code == 0 and "16 tokens" in told


def test_vectors_have_a_length_too() -> None:
    args = ["--arch-args", '{"in_features": 4, "out_features": 2}', "--input-shape", "10x4", "--lengths", "5"]
    code, told = run("profile", "torch.nn:Linear", *args, *QUICK, "--json")
    assert code == 0, told
    (only,) = json.loads(told)["measurements"]
    assert only["length"] == 5 and sum(p["flops"] for p in only["views"]["op"]) == 2 * 5 * 4 * 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nosuch.pt"], "no such file"),
        ([TAGGER], "nothing tells the shape"),
        ([TAGGER, *TOKENS, "--lengths", "x"], "--lengths x"),
        ([TAGGER, *TOKENS, "--by", "layer"], "--by layer"),
        ([TAGGER, *TOKENS, "--dtype", "int8"], "--dtype int8"),
        ([TAGGER, *TOKENS, "--device", "cuda:9"], "--device cuda:9"),
        ([TAGGER, *TOKENS, "--clock", "sun"], "--clock sun"),
        (
            ["models_zoo.resnet_cifar:resnet20", "--input-shape", "3x8x8", "--lengths", "8"],
            "takes no sequence",
        ),
        (["mamba", "--lengths", "0"], "0 is not between"),
        (["mamba", "--lengths", "8", "--full"], "--full names the lengths already"),
        (["mamba", "--mode", "train"], "mode train"),
        (["mamba", "--version", "2", "--d-model", "40"], "heads of 64"),
        (["mamba", "--device", "tpu"], "--device tpu"),
        (["mamba", "--clock", "cpu", "--threads", "2"], "--clock cpu"),
        (["mamba", "--model", "nosuch"], "nosuch"),
    ],
)
def test_bad_input_is_one_line_with_a_hint(args: list[str], told: str) -> None:
    code, out = run("profile", *args)
    assert code == 2 and told in out and out.count("error:") == 1 and "hint:" in out


def test_another_model_is_no_mamba(tmp_path: Path) -> None:
    from models_zoo.resnet_cifar import resnet20

    path = tmp_path / "r.pt"
    save_model(path, resnet20(), arch="resnet20", arch_args={}, input_shape=(3, 8, 8), data=None, metrics={})
    code, out = run("profile", "mamba", "--model", path)
    assert code == 2 and "is no Mamba" in out and f"prune profile {path}" in out


def test_a_program_keeps_its_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "t.pt2"
    torch.export.save(torch.export.export(Tagger(), (torch.zeros(2, 16, dtype=torch.int64),)), path)
    code, out = run("profile", path, "--trust-code", "--lengths", "8")
    assert code == 2 and "keeps the length" in out


@pytest.mark.smoke
def test_the_help_names_both() -> None:
    code, told = run("profile", "--help")
    assert code == 0 and "mamba" in told and "model" in told
    code, told = run("profile", "mamba", "--help")
    assert code == 0 and "--full" in told and "16384" in told


def test_a_folder_without_configuration_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match=r"holds no config\.json"):
        open_mamba(str(tmp_path))
