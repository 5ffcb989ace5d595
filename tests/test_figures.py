"""Figures: read from reports and models of anybody, with one clear line where there is nothing to read."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graph.capture import capture
from graph.cost import costs
from graph.errors import ModelFileError, PruneError, UntrustedCodeError
from graph.program import ProgramModule
from prune.export import export_onnx, export_pt2
from prune.figures import FIGURES, read_figures
from tests.reports import write_report


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_report(tmp_path / "report.json")


def test_a_report_has_every_figure_of_both_models(file: Path) -> None:
    found = read_figures(file)
    assert found.kind == "report"
    assert set(found.values) == set(found.original) == set(FIGURES)
    assert (found.values["macs"], found.original["macs"]) == (1_000_000, 2_000_000)
    assert found.widths == {"conv1": 8, "conv2": 16}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    example = torch.randn(2, 3, 8, 8)
    program = capture(net, [example])
    export_onnx(ProgramModule(program), example, folder / "m.onnx")
    export_pt2(ProgramModule(program), example, folder / "m.pt2")
    return folder, costs(program)


def test_onnx_and_pt2_are_counted_alike(exported: tuple[Path, Any]) -> None:
    folder, cost = exported
    onnx = read_figures(folder / "m.onnx")
    pt2 = read_figures(folder / "m.pt2", trust_code=True)
    for found, name in ((onnx, "m.onnx"), (pt2, "m.pt2")):
        assert (found.values["macs"], found.values["params"]) == (cost.macs, cost.params)
        assert found.values["size"] == (folder / name).stat().st_size
    assert pt2.values["memory"] == cost.memory_bytes
    assert onnx.widths == pt2.widths == {"0": 6, "3": 4}
    assert "accuracy" not in onnx.values and "not counted" in onnx.why_missing("accuracy")


def test_the_name_of_a_file_means_nothing(exported: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes((exported[0] / "m.onnx").read_bytes())
    assert read_figures(tmp_path).kind == "ONNX file"


def test_a_pt2_needs_trust(exported: tuple[Path, Any]) -> None:
    with pytest.raises(UntrustedCodeError):
        read_figures(exported[0] / "m.pt2")


def external(path: Path, location: str) -> Path:
    """An ONNX file whose weight is elsewhere."""
    import onnx
    from onnx import TensorProto, helper

    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 2], data_location=TensorProto.EXTERNAL)
    w.external_data.add(key="location", value=location)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    model: onnx.ModelProto = helper.make_model(graph, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_counts_and_stays_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.data").write_bytes(bytes(24))
    path = external(folder / "m.onnx", "w.data")
    found = read_figures(path)
    assert found.values == {"params": 6, "macs": 6, "size": path.stat().st_size + 24}
    (tmp_path / "secret").write_bytes(bytes(24))
    os.symlink(tmp_path / "secret", folder / "link")
    os.link(tmp_path / "secret", folder / "hard")
    for location in ("../secret", str(tmp_path / "secret"), "link", "hard", "absent", "a\0b", "x" * 5000):
        with pytest.raises(ModelFileError, match="external data|not valid ONNX"):
            read_figures(external(folder / "m.onnx", location))


def hostile() -> Iterator[tuple[str, bytes]]:
    deep = 200_000
    yield from {
        "empty": b"",
        "text": b"hello",
        "null": b"null",
        "array": b"[1, 2]",
        "deep arrays": b"[" * deep + b"]" * deep,
        "deep objects": b'{"a":' * deep,
        "truncated": b'{"format": "prune-report", "schema": 2, "original"',
        "not utf-8": b'{"format": "\xff\xfe"}',
        "long number": b'{"schema": ' + b"9" * 10_000 + b"}",
        "other format": b'{"format": "prune-pareto"}',
        "format is a list": b'{"format": ["prune-report"]}',
        "older schema": b'{"format": "prune-report", "schema": 1}',
        "schema with a line break": b'{"format": "prune-report", "schema": "2\\n::error::x"}',
        "no sections": b'{"format": "prune-report", "schema": 2}',
        "sections are lists": b'{"format": "prune-report", "schema": 2, "pruned": [], "original": []}',
        "byte order mark": b"\xef\xbb\xbf{}",
    }.items()


@pytest.mark.parametrize(("name", "text"), [pytest.param(n, t, id=n) for n, t in hostile()])
def test_hostile_reports_are_told_in_one_line(name: str, text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text)
    with pytest.raises(ModelFileError) as caught:
        read_figures(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert caught.value.hint


def test_a_huge_report_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ModelFileError, match="more than"):
        read_figures(path)


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path, tmp_path / "a\0b", tmp_path / ("x" * 500)):
        with pytest.raises(ModelFileError):
            read_figures(path)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


BAD = [
    "NaN",
    "1e999",
    "-1",
    "null",
    "true",
    "[]",
    "{}",
    '"\\u0000\\n::error::\\ud800"',
    "1" * 4000,
    "0.5",
    "1e-400",
]


def test_every_value_replaced_by_every_bad_one(file: Path) -> None:
    text = file.read_text()
    places = [p for p in leaves(json.loads(text)) if p and p[0] in ("original", "pruned", "plan", "schema")]
    tried = 0
    for place in places:
        data = json.loads(text)
        spot = data
        for key in place[:-1]:
            spot = spot[key]
        spot[place[-1]] = "@"
        for bad in BAD:
            file.write_text(json.dumps(data).replace('"@"', bad))
            tried += 1
            try:
                found = read_figures(file)
            except PruneError as err:
                assert str(err).isprintable()
                continue
            assert all(0 <= v <= 10**18 for v in (*found.values.values(), *found.original.values()))
    assert tried > 300


def test_random_damage_is_no_crash(file: Path) -> None:
    rng, text = random.Random(0), file.read_bytes()
    for _ in range(500):
        damaged = bytearray(text[: rng.randrange(1, len(text))] if rng.random() < 0.2 else text)
        for _ in range(rng.randrange(4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            read_figures(file)
        except PruneError as err:
            assert "\n" not in str(err)
