"""Inputs: shapes as people type them, specifications, ranges of integers, and what a model is fed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graph.capture import capture
from graph.errors import UsageError
from graph.program import Program, run
from prune.input_spec import read_input_spec
from prune.inputs import (
    InputRequest,
    ModelInput,
    ModelInputs,
    inputs_of,
    one_input,
    parse_shape,
    settled,
    with_inputs,
)


class Two(nn.Module):
    """Tokens and a mask in, two tensors out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.places = nn.Embedding(12, 8)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor, places: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.words(tokens) + self.places(places.view(places.shape[0], -1))
        if scale is not None:
            x = x * scale
        y = self.hidden(x).relu()
        return self.head(y).mean(1), y


TOKENS = ModelInputs((ModelInput("tokens", (2, 6), "int64"), ModelInput("places", (2, 6), "int64")))


def shaped(text: str, module: nn.Module, dtype: str | None = None) -> tuple[int, ...]:
    request = InputRequest(shape=parse_shape(text), dtype=dtype)
    return settled(request, None, module, "m").items[0].shape


# Shapes


@pytest.mark.parametrize(
    ("text", "module", "shape"),
    [
        ("3x8x8", nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
        ("1x3x8x8", nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
        ("5,3,8,8", nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
        ("1x8x8", nn.Conv2d(1, 4, 3), (2, 1, 8, 8)),
        ("1x8x20", nn.Conv1d(8, 4, 3), (2, 8, 20)),
        ("8x20", nn.Conv1d(8, 4, 3), (2, 8, 20)),
        ("1x20", nn.Conv1d(1, 4, 3), (2, 1, 20)),
        ("1x20", nn.Linear(20, 4), (2, 20)),
        ("20", nn.Linear(20, 4), (2, 20)),
        ("3x4x8x8", nn.Conv3d(3, 4, 3), (2, 3, 4, 8, 8)),
        ("1x3x4x8x8", nn.Conv3d(3, 4, 3), (2, 3, 4, 8, 8)),
    ],
)
def test_a_shape_means_what_the_model_takes(text: str, module: nn.Module, shape: tuple[int, ...]) -> None:
    assert shaped(text, module) == shape


def test_tokens_are_of_another_type() -> None:
    assert shaped("1x7", nn.Embedding(9, 4), "int64") == (2, 7)
    with pytest.raises(UsageError, match="--input-dtype int65"):
        InputRequest(dtype="int65")


@pytest.mark.parametrize("text", ["", "x", "3x0x8", "-3", "banana", "1x2x3x4x5x6x7", "3x99999x99999"])
def test_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match="--input-shape"):
        parse_shape(text)


def test_one_shape_is_not_enough_for_two_inputs() -> None:
    with pytest.raises(UsageError, match="takes 2: tokens, places") as caught:
        shaped("1x6", Two())
    assert "--input-spec" in caught.value.hint


def test_nothing_tells_the_inputs() -> None:
    with pytest.raises(UsageError, match="nothing tells the shape") as caught:
        settled(InputRequest(), None, Two(), "m")
    assert "--input-shape" in caught.value.hint and "--input-spec" in caught.value.hint


# Specifications


def write(path: Path, found: object) -> Path:
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    return path


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    entries = {
        "tokens": {"shape": [1, 6], "dtype": "int64", "high": 50},
        "places": {"shape": [1, 6], "dtype": "int64", "low": 2, "high": 12},
    }
    toml = '[tokens]\nshape = [1, 6]\ndtype = "int64"\nhigh = 50\n'
    toml += '[places]\nshape = [1, 6]\ndtype = "int64"\nlow = 2\nhigh = 12\n'
    first = read_input_spec(write(tmp_path / "a.json", entries))
    assert first == read_input_spec(write(tmp_path / "a.toml", toml))
    tokens, places = first.example()
    assert tokens.shape == places.shape == (2, 6)
    assert tokens.min() >= 0 and tokens.max() < 50 and places.min() >= 2 and places.max() < 12


def test_an_example_file_gives_its_own_values(tmp_path: Path) -> None:
    tokens, scale = torch.tensor([[3, 9, 4]]), torch.rand(1, 3, 1, dtype=torch.float64)
    np.savez(tmp_path / "a.npz", tokens=tokens.numpy(), scale=scale.numpy())
    save_file({"tokens": tokens, "scale": scale}, tmp_path / "a.safetensors")
    for suffix in ("npz", "safetensors"):
        found = {i.name: i for i in read_input_spec(tmp_path / f"a.{suffix}").items}
        example = found["tokens"].example(torch.Generator())
        assert example.tolist() == [[3, 9, 4]] * 2
        assert (found["tokens"].low, found["tokens"].high) == (3, 10)
        assert found["scale"].example(torch.Generator()).dtype == torch.float32


BAD: dict[str, tuple[str, Any, str]] = {
    "kind": ("a.yaml", "a: 1", "unknown kind of file"),
    "broken json": ("a.json", "{", "not JSON"),
    "broken toml": ("a.toml", "= 1", "not TOML"),
    "list": ("a.json", [1], "a table for each input"),
    "no table": ("a.json", {"x": 3}, "a table for each input"),
    "empty": ("a.json", {}, "names no input"),
    "no shape": ("a.json", {"x": {"dtype": "int64"}}, "input 'x': the shape is missing"),
    "bad shape": ("a.json", {"x": {"shape": [1, -3]}}, "not a shape"),
    "text shape": ("a.json", {"x": {"shape": "1x3"}}, "'1x3' is not a shape"),
    "dtype": ("a.json", {"x": {"shape": [1], "dtype": "complex64"}}, "dtype 'complex64': unknown"),
    "half": ("a.json", {"x": {"shape": [1], "dtype": "float16"}}, "loaded in float32"),
    "key": ("a.json", {"x": {"shape": [1], "dtpye": "int64"}}, "unknown key 'dtpye'"),
    "low": ("a.json", {"x": {"shape": [1], "dtype": "int64", "low": "a"}}, "low is not a whole number"),
    "range": ("a.json", {"x": {"shape": [1], "dtype": "int64", "low": 3, "high": 3}}, "more than low"),
    "float range": ("a.json", {"x": {"shape": [1], "high": 3}}, "high is for integers"),
    "batches": ("a.json", {"x": {"shape": [1]}, "y": {"shape": [2]}}, "different batches: 1, 2"),
    "no npz": ("a.npz", "x", "broken or truncated"),
    "no safetensors": ("a.safetensors", "x", "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_specification_is_one_clear_line(tmp_path: Path, case: str) -> None:
    name, content, says = BAD[case]
    with pytest.raises(UsageError, match=says) as caught:
        read_input_spec(write(tmp_path / name, content))
    assert "--input-spec" in str(caught.value) and "\n" not in str(caught.value) and caught.value.hint


def test_a_missing_specification(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_input_spec(tmp_path / "none.json")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        read_input_spec(tmp_path / "a.npz")


# Names


def named(*names: str) -> InputRequest:
    return InputRequest(inputs=ModelInputs(tuple(ModelInput(n, (2, 6), "int64") for n in names), named=True))


def test_names_go_to_the_arguments_of_forward() -> None:
    found = settled(named("places", "tokens"), None, Two(), "m")
    assert found.names == ("tokens", "places") and not found.named
    # An argument is left out between two: only keywords can say so.

    class Gap(nn.Module):
        def forward(self, a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Tensor:
            return a

    assert settled(named("c", "a"), None, Gap(), "m").named


@pytest.mark.parametrize(
    ("names", "says", "hint"),
    [
        (("token", "places"), "no input 'token'", "did you mean 'tokens'"),
        (("tokens",), "also needs the input 'places'", "tokens, places, scale"),
        (("tokens", "places", "zzz"), "no input 'zzz'", "it takes"),
    ],
)
def test_names_that_do_not_fit(names: tuple[str, ...], says: str, hint: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        settled(named(*names), None, Two(), "m")
    assert hint in caught.value.hint


def test_a_specification_says_it_all() -> None:
    with pytest.raises(UsageError, match="says all about the inputs"):
        InputRequest(shape=(3,), inputs=TOKENS)


# Ranges


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    module = Two().eval()
    # Nobody tells the ranges while it is captured.
    return with_inputs(capture(module, TOKENS.example()), TOKENS)


def test_the_range_of_tokens_is_that_of_their_table(program: Program) -> None:
    assert [(s.name, s.low, s.high) for s in program.inputs] == [("tokens", 0, 50), ("places", 0, 12)]
    tokens, places = program.random_inputs(64)
    assert 40 < tokens.max() < 50 and 8 < places.max() < 12


def test_what_the_user_says_goes_before_the_table(program: Program) -> None:
    low = ModelInputs((ModelInput("tokens", (2, 6), "int64", 3, 9), TOKENS.items[1]))
    assert [(s.low, s.high) for s in with_inputs(program, low).inputs] == [(3, 9), (0, 12)]


def test_inputs_can_be_renamed(program: Program) -> None:
    other = ModelInputs(
        (ModelInput("input_ids", (2, 6), "int64"), ModelInput("places", (2, 6), "int64")), named=True
    )
    changed = with_inputs(program, other)
    assert [s.name for s in changed.inputs] == ["input_ids", "places"]
    changed.check()
    given = program.random_inputs(3)
    for a, b in zip(run(program, program.tensors, given), run(changed, changed.tensors, given), strict=True):
        assert torch.equal(a, b)
    # A name that another node has already is not taken.
    taken = next(n.name for n in program.nodes if n.op not in ("input", "tensor"))
    clash = ModelInputs((ModelInput(taken, (2, 6), "int64"), TOKENS.items[1]), named=True)
    assert with_inputs(program, clash).inputs[0].name == "tokens"


def test_a_program_survives_json_with_its_ranges(program: Program) -> None:
    data = json.loads(json.dumps(program.to_json()))
    assert Program.from_json(data, program.tensors).inputs == program.inputs
    for entry in data["inputs"]:
        del entry["low"], entry["high"]  # as files from before have it
    assert [(s.low, s.high) for s in Program.from_json(data, program.tensors).inputs] == [(0, 2)] * 2
    assert inputs_of(program).told() == "tokens 2x6 int64, places 2x6 int64"


def test_a_known_shape_can_be_changed_and_typed() -> None:
    known = one_input((3, 32, 32))
    module = nn.Conv2d(3, 4, 3)
    assert settled(InputRequest(), known, module, "m") == known
    assert settled(InputRequest(dtype="uint8"), known, module, "m").items[0].dtype == "uint8"
    assert settled(InputRequest(shape=(3, 16, 16)), known, module, "m").items[0].record == (3, 16, 16)
