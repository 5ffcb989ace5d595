"""Tensor files: what is written comes back, and a damaged file is one clear line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from graph.capture import capture
from graph.errors import ModelFileError
from graph.program import Program
from prune.tensor_files import load_weights, save_weights


def program_of_two() -> Program:
    return capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), [torch.zeros(2, 3, 8, 8)])


def test_weights_come_back(tmp_path: Path) -> None:
    program = program_of_two()
    base = torch.arange(12.0).reshape(3, 4)
    program = replace(
        program, tensors={**program.tensors, "view": base.T, "tied": base, "again": base, "part": base[1:]}
    )
    save_weights(program, tmp_path / "m.safetensors", {"format": "prune"})
    found = load_weights(tmp_path / "m.safetensors")
    assert set(found) == set(program.tensors)
    assert all(torch.equal(found[k], t) for k, t in program.tensors.items())


@pytest.mark.parametrize("content", [None, b"", b"<html>", b"\xff" * 64])
def test_malformed_weights_are_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match="m.safetensors") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_truncated_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(program_of_two(), path, {})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        load_weights(path)
