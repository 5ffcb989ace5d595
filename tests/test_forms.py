"""The forms of a model from end to end: .pt2, the folder of a run, a factory; several inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from collected import Collected, no_search, quick_clocks
from torch import Tensor, nn
from torch.export import Dim
from typer.testing import CliRunner

import cli
from front.commands import terminal
from graph.errors import CaptureError, DataError, ModelFileError, UntrustedCodeError, UsageError
from graph.program import ProgramModule
from prune.config import CompressConfig
from prune.demands import parse_demand
from prune.export import export_onnx, export_pt2
from prune.input_spec import read_input_spec
from prune.inputs import InputRequest
from prune.inspection import export_model, inspect, measure
from prune.load import ModelSource, load
from prune.onnx_model import OnnxModel
from prune.pipeline import compress
from prune.pruned import load_pruned
from prune.report import Report
from prune.selection import Selection, parse_limit
from prune.subject import open_model

FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))

class Two(nn.Module):
    def __init__(self, words=50):
        super().__init__()
        self.words = nn.Embedding(words, 12)
        self.hidden = nn.Linear(12, 24)
        self.gate = nn.Linear(5, 24)
        self.head = nn.Linear(24, 3)
        self.side = nn.Linear(24, 2)

    def forward(self, tokens, features, scale=None):
        y = self.hidden(self.words(tokens).mean(1)).relu() * self.gate(features).sigmoid()
        if scale is not None:
            y = y * scale
        return self.head(y), self.side(y)

def seeded(kind=Net, **args):
    torch.manual_seed(0)
    return kind(**args).eval()

def net():
    return seeded()

def two(words=50):
    return seeded(Two, words=words)

def broken():
    raise ValueError("no luck")
"""
SPEC = {
    "tokens": {"shape": [1, 6], "dtype": "int64"},
    "features": {"shape": [1, 5]},
}


@pytest.fixture(scope="module", autouse=True)
def code(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("code")
    (folder / "myforms.py").write_text(FACTORIES)
    (folder / "spec.json").write_text(json.dumps(SPEC))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import myforms  # type: ignore[import-not-found]

        terminal.console.width = terminal.stderr.width = 200
        yield myforms, folder


@pytest.fixture(scope="module", autouse=True)
def _quick_clocks() -> Iterator[None]:
    with quick_clocks():
        yield


def prune(source: ModelSource, output: Path, target: str = "0.6", **options: Any) -> tuple[Report, Collected]:
    seen = Collected()
    demands = (parse_demand("--flops", target),)
    config = CompressConfig(source=source, demands=demands, output=output, **options)
    return compress(config, no_search, seen), seen


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def check_batches(folder: Path, given: Callable[[int], tuple[Tensor, ...]], names: list[str]) -> None:
    """The three files of a run agree at batch sizes that no example had."""
    module = load_pruned(folder)
    exported = torch.export.load(folder / "model.pt2").module()
    model = OnnxModel(folder / "model.onnx")
    assert [i.name for i in onnx.load(folder / "model.onnx").graph.input] == names
    for batch in (1, 3, 7):
        inputs = given(batch)
        wanted = module(*inputs)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        got = exported(*inputs)
        for a, b, c in zip(
            wanted, got if isinstance(got, tuple | list) else (got,), model.run(*inputs), strict=True
        ):
            assert len(a) == batch
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(a.detach(), c, atol=1e-4, rtol=1e-4)


# .pt2


def saved_pt2(path: Path, module: nn.Module, args: Any, kwargs: Any = None, sizes: Any = None) -> ModelSource:
    torch.export.save(torch.export.export(module, args, kwargs, dynamic_shapes=sizes), path)
    return ModelSource(model=str(path), trust_code=True)


IMAGES = (torch.randn(2, 3, 12, 12),)


@pytest.mark.parametrize("size", [Dim("b"), Dim("b", min=2, max=64), Dim.AUTO], ids=["free", "range", "auto"])
def test_a_free_batch_of_a_pt2_survives(code: Any, tmp_path: Path, size: Any) -> None:
    source = saved_pt2(tmp_path / "m.pt2", code[0].net(), IMAGES, sizes={"x": {0: size}})
    subject = open_model(source)
    assert subject.program.dynamic_batch and subject.loaded.inputs.told() == "x 2x3x12x12 float32"
    assert "conv.weight" in subject.program.tensors
    x = torch.randn(5, 3, 12, 12)
    torch.testing.assert_close(ProgramModule(subject.program)(x), code[0].net()(x))


def test_a_pt2_is_pruned(code: Any, tmp_path: Path) -> None:
    source = saved_pt2(tmp_path / "m.pt2", code[0].net(), IMAGES, sizes={"x": {0: Dim("b")}})
    report, seen = prune(source, tmp_path / "out")
    assert report.verification["max_error"] <= 1e-9 and 0.5 <= report.ratios()["macs"] <= 0.6
    assert report.accuracy["original"] is None and report.tune == {"epochs": 0}
    assert "no data is named" in " ".join(seen.notes)
    check_batches(tmp_path / "out", lambda n: (torch.randn(n, 3, 12, 12),), ["input"])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_of_a_pt2_stays(code: Any, tmp_path: Path, batch: int) -> None:
    source = saved_pt2(tmp_path / "m.pt2", code[0].net(), (torch.randn(batch, 3, 12, 12),))
    subject = open_model(source)
    assert not subject.program.dynamic_batch and subject.program.inputs[0].shape == (batch, 3, 12, 12)
    with pytest.raises(DataError, match="images of shape|only batches"):
        prune(source, tmp_path / "out2", data="digits")
    if batch == 1:
        report, seen = prune(source, tmp_path / "out")
        assert report.verification["max_error"] <= 1e-9
        assert any("fixed to 1" in note for note in seen.notes)
        assert OnnxModel(tmp_path / "out/model.onnx").batch == 1


def test_keywords_constants_and_several_outputs_of_a_pt2(code: Any, tmp_path: Path) -> None:
    class Rich(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = code[0].two()

        def forward(
            self, tokens: Tensor, pair: Any, flag: bool = True, none: Any = None
        ) -> dict[str, Tensor]:
            a, b = self.two(tokens, pair[0] + pair[1])
            return {"a": a, "b": b} if flag else {"a": a}

    free = {0: Dim("b")}
    sizes = {"tokens": free, "pair": [free, free], "flag": None, "none": None}
    args = (torch.randint(0, 50, (2, 6)),)
    rest = {"pair": [torch.randn(2, 5), torch.randn(2, 5)], "flag": True, "none": None}
    source = saved_pt2(tmp_path / "m.pt2", Rich().eval(), args, rest, sizes)
    program = open_model(source).program
    assert [(s.dtype, s.low, s.high) for s in program.inputs][0] == ("int64", 0, 50)
    assert len(program.inputs) == 3 and program.dynamic_batch and len(program.outputs) == 2
    given = program.random_inputs(4)
    wanted = Rich().eval()(given[0], given[1:])
    got = ProgramModule(program)(*given)
    assert torch.equal(got[0], wanted["a"]) and torch.equal(got[1], wanted["b"])


def test_a_pt2_needs_trust_and_its_own_shapes(code: Any, tmp_path: Path) -> None:
    source = saved_pt2(tmp_path / "m.pt2", code[0].net(), IMAGES)
    with pytest.raises(UntrustedCodeError):
        load(ModelSource(model=source.model))
    with pytest.raises(UsageError, match="takes x 2x3x12x12"):
        load(ModelSource(model=source.model, trust_code=True, request=InputRequest(shape=(3, 8, 8))))

    class Scalar(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y

    bad = saved_pt2(tmp_path / "s.pt2", Scalar(), (torch.ones(2, 2), torch.tensor(3.0)))
    with pytest.raises(ModelFileError, match="a number as a tensor"):
        load(bad)


# Several inputs


@pytest.fixture(scope="module")
def spec(code: Any) -> InputRequest:
    return InputRequest(inputs=read_input_spec(code[1] / "spec.json"))


@pytest.fixture(scope="module")
def pruned(code: Any, spec: InputRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("run") / "two"
    report, _ = prune(ModelSource(model="myforms:two", request=spec), folder)
    return folder, report


def pair(batch: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 50, (batch, 6)), torch.randn(batch, 5)


def test_two_inputs_and_two_outputs_from_end_to_end(pruned: tuple[Path, Report]) -> None:
    folder, report = pruned
    assert report.verification["max_error"] <= 1e-9 and 0.5 <= report.ratios()["macs"] <= 0.6
    assert report.model["inputs"][0] == {"name": "tokens", "shape": [2, 6], "dtype": "int64"}
    assert load_pruned(folder).program.inputs[0].high == 50
    check_batches(folder, pair, ["tokens", "features"])


def test_a_file_of_weights_with_a_factory_of_several_inputs(
    code: Any, spec: InputRequest, tmp_path: Path
) -> None:
    torch.save(code[0].two(9).state_dict(), tmp_path / "w.pt")
    source = ModelSource(
        model=str(tmp_path / "w.pt"), arch="myforms:two", arch_args={"words": 9}, request=spec
    )
    assert open_model(source).program.inputs[0].high == 9
    named = ModelSource(model="myforms:two", arch_args={"words": 9}, weights=tmp_path / "w.pt", request=spec)
    given = (torch.randint(0, 9, (2, 6)), torch.randn(2, 5))
    assert all(
        torch.equal(a, b)
        for a, b in zip(load(source).module(*given), load(named).module(*given), strict=True)
    )


def test_export_of_plain_modules_names_the_arguments(code: Any, tmp_path: Path) -> None:
    module = code[0].two()
    check = export_onnx(module, pair(1), tmp_path / "m.onnx")
    assert check.comparisons == 15 and OnnxModel(tmp_path / "m.onnx").inputs == ("tokens", "features")
    export_pt2(module, list(pair(2)), tmp_path / "m.pt2")
    fixed = export_onnx(module, pair(2), tmp_path / "f.onnx", dynamic_batch=False)
    assert fixed.comparisons == 5
    tokens, features = pair(5)
    wanted = module(tokens, features)
    for a, b in zip(wanted, OnnxModel(tmp_path / "f.onnx").run(tokens, features), strict=True):
        torch.testing.assert_close(a.detach(), b, atol=1e-4, rtol=1e-4)


def test_images_do_not_fit_a_model_of_two_inputs(
    pruned: tuple[Path, Report], spec: InputRequest, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="gives one input for each label") as caught:
        prune(ModelSource(model="myforms:two", request=spec), tmp_path / "o", data="digits")
    assert "--data none" in caught.value.hint and not (tmp_path / "o").exists()
    for name in ("", "model.onnx"):
        with pytest.raises(DataError, match="gives one input for each label"):
            measure(ModelSource(model=str(pruned[0] / name)), "digits", "test")


# The folder of a run


def test_a_run_is_a_model_like_any_other(pruned: tuple[Path, Report], tmp_path: Path) -> None:
    folder, first = pruned
    source = ModelSource(model=str(folder))
    found = inspect(open_model(source))
    assert found.subject.costs.macs == first.pruned.macs
    assert found.to_json()["inputs"][0] == {
        "name": "tokens", "shape": [2, 6], "dtype": "int64", "low": 0, "high": 50,
    }  # fmt: skip
    report, _ = prune(source, tmp_path / "again", "0.7")
    assert report.original.macs == first.pruned.macs and report.ratios()["macs"] <= 0.7
    assert report.model["arch"] == "myforms:two"
    check_batches(tmp_path / "again", pair, ["tokens", "features"])
    for name in ("m.onnx", "m.pt2"):
        assert "wrote" in export_model(source, tmp_path / name).told()
    assert OnnxModel(tmp_path / "m.onnx").inputs == ("tokens", "features")


def test_what_a_run_refuses(pruned: tuple[Path, Report], spec: InputRequest, tmp_path: Path) -> None:
    folder = str(pruned[0])
    with pytest.raises(UsageError, match="is the model itself"):
        prune(ModelSource(model=folder), pruned[0], force=True)
    with pytest.raises(UsageError, match="--arch does not go with"):
        load(ModelSource(model=folder, arch="resnet20"))
    with pytest.raises(UsageError, match="--input-shape"):
        load(ModelSource(model=folder, request=InputRequest(shape=(1, 9))))
    with pytest.raises(DataError, match="does not say which data"):
        measure(ModelSource(model=folder), None, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=r"without graph\.json"):
        load(ModelSource(model=str(tmp_path / "empty")))
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ModelFileError) as caught:
        load(ModelSource(model=str(tmp_path / "empty")))
    assert f"hf:{tmp_path / 'empty'}" in caught.value.hint


# Without data


def test_options_without_data(code: Any, tmp_path: Path) -> None:
    source = ModelSource(model="myforms:net", request=InputRequest(shape=(3, 12, 12)))
    report, _ = prune(
        source, tmp_path / "limit", "0.8", importance="bn-scale", data="none",
        selection=Selection(limits=(parse_limit("conv=12"),)),
    )  # fmt: skip
    assert report.plan["method"] == "uniform" and report.plan["minimum"] == {"conv": 12}
    assert report.plan["groups"]["conv"] == [12, 16]
    with pytest.raises(UsageError, match="--planner globl: unknown"):
        prune(source, tmp_path / "o", planner="globl")
    for options in ({"planner": "search"}, {"importance": "taylor"}, {"importance": "magnitude-taylor"}):
        with pytest.raises(UsageError, match="needs data") as caught:
            prune(source, tmp_path / "o", **options)
        assert "--data" in caught.value.hint and not (tmp_path / "o").exists()


def test_the_command_line_without_data(code: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code_, told = run(
        "compress", "myforms:two", "--flops", 0.6, "-o", out, "--input-spec", code[1] / "spec.json",
        "--planner", "global", "--only", "hidden", "--limit", "hidden=0.4",
    )  # fmt: skip
    assert code_ == 0, told
    assert "note: no data is named (--data)" in told and "nothing was measured for accuracy" in told
    assert "verified: equal to the masked original" in told and "accuracy before" not in told
    report = json.loads((out / "report.json").read_text())
    assert report["data"]["name"] is None and report["pruned"]["accuracy"] is None
    assert report["plan"]["method"] == "global" and report["search"]["trials"] == []
    for words in (["--planner", "global"], ["--only", "hidden"], ["--limit", "hidden=0.4"]):
        assert " ".join(words) in " ".join(report["command"])
    # The words that the report keeps repeat the run.
    again = [str(w) for w in report["command"][1:]]
    again[again.index("-o") + 1] = str(tmp_path / "again")
    code_, told = run(*again)
    assert code_ == 0, told
    assert (out / "plan.json").read_bytes() == (tmp_path / "again/plan.json").read_bytes()
    code_, told = run("eval", out)
    assert code_ == 2 and "does not say which data" in told
    code_, told = run("inspect", out)
    assert code_ == 0 and "inputs: tokens 2x6 int64, features 2x5 float32" in told


def _case(*args: object, says: str) -> object:
    return pytest.param(args, says, id=" ".join(str(a) for a in args))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        _case("myforms:none", says="AttributeError"),
        _case("myforms:broken", says="no luck"),
        _case("no_such:net", says="ModuleNotFoundError"),
        _case("hf:nowhere", says="no such folder"),
        _case("nowhere", says="no such file"),
        _case("myforms:net", says="--input-shape"),
        _case("myforms:net", "--input-shape", "banana", says="not a shape"),
        _case("myforms:net", "--input-shape", "3x12x12", "--input-dtype", "text", says="--input-dtype text"),
        _case("myforms:net", "--input-shape", "4x12x12", says="does not run on"),
        _case("myforms:net", "--input-shape", "3x12x12", "--only", "covn", says="did you mean conv"),
        _case("myforms:net", "--input-shape", "3x12x12", "--exclude", "zzz", says="--exclude zzz"),
        _case("myforms:net", "--input-shape", "3x12x12", "--limit", "conv", says="not a limit"),
        _case("myforms:net", "--input-shape", "3x12x12", "--limit", "conv=1.0", says="no choice of widths"),
        _case("myforms:net", "--input-shape", "3x12x12", "--planner", "luck", says="--planner luck"),
        _case("myforms:net", "--input-shape", "3x12x12", "--planner", "search", says="needs data"),
        _case("resnet20", "--planner", "global", "--agent", "amc", says="--agent amc and --planner global"),
        _case("myforms:net", "--input-shape", "3x12x12", "--agent", "amc", says="--agent amc needs data"),
        _case("myforms:net", "--input-shape", "3x12x12", "--episodes", 9, says="--episodes 9 needs data"),
        _case("myforms:net", "--planner", "uniform", "--no-sensitivity", says="--input-shape"),
        _case("myforms:net", "--input-shape", "3x12x12", "--importance", "taylor", says="needs data"),
        _case("myforms:net", "--input-shape", "3x12x12", "--data", "digits", says="images of shape 1x8x8"),
        _case("myforms:net", "--weights", "none.pt", says="no such file"),
        _case("myforms:two", "--input-shape", "1x6", says="takes 2: tokens, features"),
        _case("myforms:two", "--input-spec", "none.json", says="no such file"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, args: tuple[object, ...], says: str) -> None:
    code_, told = run("compress", *args, "--flops", 0.6, "-o", tmp_path / "out")
    assert code_ == 2, told
    assert "error: " in told and says in told
    assert not list(tmp_path.iterdir())


def test_a_model_that_refuses_its_input_says_what_it_was_given() -> None:
    with pytest.raises(CaptureError) as caught:
        open_model(ModelSource(model="myforms:net", request=InputRequest(shape=(5, 9, 9))))
    assert "it was given input 2x5x9x9 float32" in caught.value.hint
