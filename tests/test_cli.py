"""The command line as a user meets it: the main job, and a clear line for every bad input."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_page import check
from typer.testing import CliRunner

import cli
from front.commands import terminal
from graph.errors import ArchitectureError
from models_zoo import registry
from prune import __version__, load_native, load_pruned
from prune.importance import CRITERIA
from prune.load import load_model

ROOT = Path(__file__).parents[1]
CIFAR = ROOT.parent / "shared" / "data" / "cifar10-part"


def run(*args: object) -> tuple[int, str]:
    """Exit code and everything printed, with line breaks of the terminal's width undone."""
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module", autouse=True)
def _wide_terminal() -> None:
    terminal.console.width = terminal.stderr.width = 200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "resnet20.pt"
    code, out = run("zoo", "train", "resnet20", "--data", "digits", "--epochs", 6, "-o", path)
    assert code == 0, out
    return path


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "half"
    code, out = run(
        "compress", model, "--flops", 0.5, "-o", path, "--episodes", 4, "--epochs", 2, "--images", 64
    )
    assert code == 0, out
    assert "verified: equal to the masked original" in out
    return path


@pytest.mark.smoke
def test_help_is_quick_and_states_the_convention() -> None:
    code, out = run("--help")
    assert code == 0
    assert "FLOPs = 2 x MACs" in out
    done = subprocess.run(
        [sys.executable, "-c", "import cli, sys; print('torch' in sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


def test_a_trained_file_needs_nothing_else(model: Path) -> None:
    content = torch.load(model, weights_only=True)
    assert content["arch"] == "resnet20"
    assert content["data"] == "digits"
    assert tuple(content["input_shape"]) == (1, 8, 8)
    assert content["metrics"]["test_accuracy"] > 0.3


def test_compress_writes_every_file(folder: Path) -> None:
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "graph.json", "manifest.json", "model.onnx", "model.pt2", "model.safetensors", "native.safetensors",
        "plan.json", "report.html", "report.json",
    }  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    assert (report["format"], report["schema"]) == ("prune-report", 2)
    assert 0.49 <= report["ratios"]["macs"] <= 0.5
    assert report["original"]["flops"] == 2 * report["original"]["macs"]
    assert report["verification"]["max_error"] <= 1e-9
    assert report["onnx"]["max_error"] <= 1e-4
    baselines = {"uniform", "global-magnitude", "global-sum", "global-per-cost", "global-taylor"}
    assert set(report["search"]["best"]) == {*baselines, "gnn-rl", "refinement"}
    assert report["search"]["winner"] in report["search"]["best"]
    assert report["plan"]["importance"] in CRITERIA
    assert len(report["search"]["trials"]) == 7 + 4
    layers = {layer["name"]: layer for layer in report["plan"]["layers"]}
    assert list(layers)[0] == "conv1" and list(layers)[-1] == "linear" and len(layers) == 20
    for name in ("layer1.0.conv1", "layer3.2.conv1"):
        assert layers[name]["channels"] == report["plan"]["groups"][name]
        assert layers[name]["kind"] == report["plan"]["kinds"][name] == "channel"
    assert layers["linear"] == {"name": "linear", "channels": [10, 10], "kind": None}
    assert report["environment"]["prune"] == __version__
    assert report["tune"]["history"][0]["search_loss"] > 0
    assert all(t["macs"] <= report["limits"][0]["limit"] for t in report["search"]["trials"])
    assert report["native"]["runs"] and report["native"]["file"] == "native.safetensors"
    assert report["accuracy"]["mended"] in ("recalibrated", "reconstructed")


def test_compress_writes_a_page_and_report_writes_it_again(folder: Path, tmp_path: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    report = json.loads((folder / "report.json").read_text())
    found = check(html)
    accuracy = report["pruned"]["accuracy"]
    assert f"{accuracy:.2%}" in found.cells and report["model"]["sha256"] in found.cells
    assert all(name in found.cells for name in report["plan"]["groups"])
    code, out = run("report", folder, "-o", tmp_path / "again.html", "--plots", tmp_path / "plots")
    assert code == 0 and "again.html" in out and "search.png" in out
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == html
    code, out = run("report", folder / "report.json")
    assert code == 2 and "report.html exists" in out and "--force" in out
    code, out = run("--quiet", "report", folder / "report.json", "--force")
    assert (code, out) == (0, "") and (folder / "report.html").read_text(encoding="utf-8") == html
    code, out = run("report", folder, "--force", "--json")
    assert json.loads(out) == {"file": str(folder / "report.html"), "plots": None}


def test_report_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    for text, says in (
        ('{"format": "prune-report", "schema": 2, "limits": 3}', "limits is 3, no list"),
        ('{"format": "prune-report", "schema": 9}', "schema 9"),
        ("{", "is not JSON"),
    ):
        (tmp_path / "report.json").write_text(text)
        code, out = run("report", tmp_path, "--plots", tmp_path / "plots")
        assert code == 2 and says in out and out.startswith("error:") and "hint:" in out, out
        assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_pruned_model_loads_trains_and_agrees_with_its_exports(folder: Path) -> None:
    from prune.onnx_model import run_onnx

    module = load_pruned(folder)
    x = torch.randn(3, 1, 8, 8)
    before = module(x)
    np.testing.assert_allclose(run_onnx(folder / "model.onnx", x), before.detach().numpy(), atol=1e-4)
    module.train()
    loss = module(x).square().mean()
    torch.autograd.backward(loss)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer.step()
    assert not torch.equal(module.eval()(x), before)


def test_the_class_of_the_model_is_loaded_back(folder: Path) -> None:
    module = registry.build("resnet20", in_channels=1)
    before = {k: t.clone() for k, t in module.state_dict().items()}
    made = load_native(folder, module.train())
    assert type(made) is type(module) and made.training
    assert all(torch.equal(t, before[k]) for k, t in module.state_dict().items())
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(x), load_pruned(folder)(x))
    stored = load_file(folder / "native.safetensors")
    assert stored.keys() == made.state_dict().keys()
    assert all(torch.equal(t, stored[k]) for k, t in made.state_dict().items())
    with pytest.raises(ArchitectureError, match="is not the model that was pruned"):
        load_native(folder, registry.build("resnet32", in_channels=1, width=8))


def test_eval_agrees_across_the_three_forms(model: Path, folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    expected = f"accuracy {report['pruned']['accuracy']:.2%}"
    for args in ([folder], [folder / "model.onnx", "--data", "digits"]):
        code, out = run("eval", *args)
        assert code == 0
        assert expected in out
    code, out = run("eval", model)
    assert code == 0
    assert f"accuracy {report['original']['accuracy']:.2%}" in out


@pytest.mark.parametrize("name", ["out.onnx", "out.pt2"])
def test_export(folder: Path, tmp_path: Path, name: str) -> None:
    code, out = run("export", folder, "-o", tmp_path / name)
    assert code == 0, out
    assert (tmp_path / name).stat().st_size > 1000
    code, out = run("export", folder, "-o", tmp_path / name)
    assert code == 2
    assert "exists" in out


def test_inspect(model: Path) -> None:
    code, out = run("inspect", model, "--ops")
    assert code == 0
    assert "output of the model" in out
    assert "2 x MACs" in out
    code, out = run("inspect", model, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["flops"] == 2 * found["macs"]
    assert {g["name"] for g in found["groups"]} >= {"conv1", "layer1.0.conv1", "layer2.0.conv2"}


def test_the_same_seed_gives_the_same_plan_and_weights(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        code, out = run(
            "compress", model, "--flops", 0.4, "-o", tmp_path / name, "--episodes", 6, "--epochs", 1,
            "--images", 64, "--seed", 3,
        )  # fmt: skip
        assert code == 0, out
    assert (tmp_path / "a/plan.json").read_bytes() == (tmp_path / "b/plan.json").read_bytes()
    a, b = (load_pruned(tmp_path / n).state_dict() for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_macs_exclude_and_round_to(model: Path, tmp_path: Path) -> None:
    code, out = run(
        "compress", model, "--macs", "1.5M", "-o", tmp_path / "o", "--episodes", 0, "--epochs", 0,
        "--images", 64, "--exclude", "layer1.*", "--round-to", 4, "--importance", "taylor",
    )  # fmt: skip
    assert code == 0, out
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["pruned"]["macs"] <= 1_500_000
    widths = report["plan"]["groups"]
    assert all(kept % 4 == 0 for kept, _ in widths.values())
    assert not any(name.startswith("layer1.") for name in widths)


def test_all_limits_at_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out = run(
        "compress", model, "--flops", 0.7, "--params", "60%", "--memory", 0.9, "--latency", "1s",
        "-o", tmp_path / "o", "--episodes", 0, "--no-tune", "--images", 64,
    )  # fmt: skip
    assert code == 2 and "has only" in out  # the model takes less than a second
    code, out = run(
        "compress", model, "--flops", 0.7, "--params", "60%", "--memory", 0.9, "--latency", 0.97,
        "-o", tmp_path / "o", "--planner", "uniform", "--no-tune",
    )  # fmt: skip
    assert code == 0, out
    report = json.loads((tmp_path / "o/report.json").read_text())
    limits = {limit["quantity"]: limit for limit in report["limits"]}
    assert list(limits) == ["macs", "params", "memory", "latency"]
    for name in ("macs", "params", "memory"):
        assert limits[name]["pruned"] == limits[name]["predicted"] <= limits[name]["limit"]
    assert limits["memory"]["original"] == report["original"]["memory_bytes"]
    assert (limits["params"]["option"], limits["params"]["asked"]) == ("--params", "60%")
    check = report["latency_check"]
    assert isinstance(check["held"], bool) and 1 <= len(check["checks"]) <= 4
    assert "predicted" in out and "thread for each" in out
    assert all(kept % 4 == 0 for kept, _ in report["plan"]["groups"].values())
    assert not list((tmp_path / "o").glob("original*")) and not list((tmp_path / "o").glob("candidate*"))
    assert {"--flops", "--params", "--memory", "--latency"} <= set(report["command"])


def test_a_curve_by_another_agent_whose_points_tell_how_to_repeat_them(model: Path, tmp_path: Path) -> None:
    options = ("--agent", "agmc", "--policy", "none", "--episodes", 8, "--reward", "loss", "--images", 64)
    code, out = run(
        "compress", model, "--pareto", "0.4,0.7", "--params", 0.9, "-o", tmp_path / "curve", *options,
        "--workers", 2, "--no-tune",
    )  # fmt: skip
    assert code == 0, out
    assert {p.name for p in (tmp_path / "curve").iterdir() if p.is_dir()} == {"0.40", "0.70"}
    command = json.loads((tmp_path / "curve/0.40/report.json").read_text())["command"]
    assert " ".join(map(str, options)) in " ".join(command)
    command[command.index("-o") + 1] = str(tmp_path / "again")
    code, out = run(*command[1:])
    assert code == 0, out
    for point in ("0.70", "0.40"):  # the narrower one was told of the wider one's plan
        first, again = ((tmp_path / f / point / "plan.json").read_text() for f in ("curve", "again"))
        assert first == again


def _bad_files(folder: Path, model: Path) -> dict[str, Path]:
    """Every kind of file that is no model."""
    files = {"missing": folder / "none.pt"}
    for name, content in {
        "empty.pt": b"",
        "text.pt": b"hello, this is no model",
        "page.pt": b"<!doctype html><html></html>",
        "cut.pt": model.read_bytes()[:5000],
    }.items():
        (folder / name).write_bytes(content)
        files[name] = folder / name
    state = torch.load(model, weights_only=True)["state_dict"]
    torch.save(state, folder / "state.pt")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "script.pt")
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), folder / "program.pt2")
    return files | {n: folder / n for n in ("state.pt", "module.pt", "script.pt", "program.pt2")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_bad_models_end_with_a_clear_line_and_nothing_written(model: Path, tmp_path: Path) -> None:
    expected = {
        "missing": "none.pt", "empty.pt": "empty", "text.pt": "not a model", "page.pt": "not a model",
        "cut.pt": "cut.pt", "state.pt": "--arch", "module.pt": "--trust-code", "script.pt": "--trust-code",
        "program.pt2": "--trust-code",
    }  # fmt: skip
    for name, path in _bad_files(tmp_path, model).items():
        code, out = run("compress", path, "--flops", 0.5, "-o", tmp_path / "out")
        assert code == 2, (name, out)
        assert "error: " in out, (name, out)
        assert expected[name] in out, (name, out)
        assert not list(tmp_path.glob("*out*")), name


def _case(*args: object, says: str) -> object:
    return pytest.param(args, says, id=" ".join(str(a) for a in args))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        _case("--flops", "0", says="greater than 0"),
        _case("--flops", "1.5", says="below 1"),
        _case("--flops", "abc", says="not a number"),
        _case("--flops", "nan", says="greater than 0"),
        _case("--flops", "900G", says="has only"),
        _case("--flops", "0.0001", says="lowest reachable"),
        _case("--params", "0", says="greater than 0"),
        _case("--params", "0.5%%", says="--params 0.5%%: not a number"),
        _case("--params", "900G", says="has only"),
        _case("--params", "0.0001", says="lowest reachable"),
        _case("--flops", "0.5", "--params", "0.0001", says="--params 0.0001"),
        _case("--memory", "nan", says="greater than 0"),
        _case("--memory", "5ms", says="not a number"),
        _case("--memory", "0.001", says="lowest reachable"),
        _case("--latency", "1.5", says="below 1"),
        _case("--latency", "5", says="below 1"),
        _case("--latency", "-3ms", says="greater than 0"),
        _case(says="at least one of --flops"),
        _case("--flops", "0.5", "--macs", "0.5", says="either --flops or --macs"),
        _case("--flops", "0.5", "--data", "nonsense", says="digits"),
        _case("--flops", "0.5", "--data", "glyphs:2", says="glyphs"),
        _case("--flops", "0.5", "--data", "cifar10:/nonexistent", says="/nonexistent"),
        _case("--flops", "0.5", "--exclude", "nothing.*", says="no module of the model matches"),
        _case("--flops", "0.5", "--importance", "luck", says="magnitude"),
        _case("--flops", "0.5", "--input-shape", "banana", says="not a shape"),
        _case("--flops", "0.5", "--arch-args", "{", says="--arch-args"),
        _case("--flops", "0.5", "--lr", "-1", says="lr must be"),
        _case("--flops", "0.5", "--arch", "resnet56", says="resnet56"),
        _case("--flops", "0.5", "--arch", "vgg99", says="unknown architecture"),
    ],
)
def test_bad_options(model: Path, tmp_path: Path, args: tuple[object, ...], says: str) -> None:
    code, out = run("compress", model, "-o", tmp_path / "out", *args)
    assert code == 2, out
    assert "error: " in out
    assert says in out
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_name_the_keys(model: Path, tmp_path: Path) -> None:
    torch.save(torch.load(model, weights_only=True)["state_dict"], tmp_path / "state.pt")
    code, out = run("inspect", tmp_path / "state.pt", "--arch", "resnet32")
    assert code == 2
    assert "layer1.3.conv1.weight" in out
    code, out = run(
        "inspect", tmp_path / "state.pt", "--arch", "resnet20", "--input-shape", "1x8x8", "--json"
    )
    assert code == 0, out


def test_outputs_are_not_overwritten_without_force(model: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    (tmp_path / "file").write_text("a file")
    for name, says in {"full": "--force", "file": "is a file"}.items():
        code, out = run("compress", model, "--flops", 0.5, "-o", tmp_path / name)
        assert code == 2, out
        assert says in out
    code, out = run("compress", model, "--flops", 0.5, "-o", model)
    assert code == 2
    assert load_model(model).arch == "resnet20"
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep me"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder that not even root can write")
def test_unwritable_output(model: Path) -> None:
    code, out = run("compress", model, "--flops", 0.5, "-o", "/proc/self/out")
    assert code == 2
    assert "error: " in out
    assert "/proc/self" in out


def test_a_cifar_folder_with_missing_batches_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "data_batch_1.bin").write_bytes(bytes(3073))
    code, out = run("compress", model, "--flops", 0.5, "--data", f"cifar10:{tmp_path / 'cifar'}")
    assert code == 2
    assert "data_batch_2" in out


@pytest.mark.skipif(not CIFAR.is_dir(), reason="the real CIFAR-10 part is not here")
def test_data_of_another_shape_is_refused(model: Path, tmp_path: Path) -> None:
    code, out = run("compress", model, "--flops", 0.5, "--data", f"cifar10:{CIFAR}", "-o", tmp_path / "o")
    assert code == 2
    assert "3x32x32" in out


def test_zoo_train_takes_arguments_of_the_architecture(tmp_path: Path) -> None:
    path = tmp_path / "narrow.pt"
    code, out = run(
        "zoo",
        "train",
        "resnet20",
        "--arch-args",
        '{"width": 4}',
        "--data",
        "digits",
        "--epochs",
        1,
        "-o",
        path,
    )
    assert code == 0, out
    code, out = run("inspect", path, "--json")
    assert code == 0, out
    assert json.loads(out)["params"] < 20_000  # of 270,000


def test_zoo_train_refuses_bad_input(tmp_path: Path) -> None:
    for args, says in {
        ("resnet21",): "resnet20",
        ("resnet20", "--data", "nothing"): "digits",
        ("resnet20", "-o", str(tmp_path)): "is a folder",
        ("resnet20", "--arch-args", '{"width": "broad"}'): "positive whole number",
        ("resnet20", "--arch-args", '{"depth": 3}'): "takes no argument 'depth'",
        ("resnet20", "--arch-args", '{"num_classes": 3}'): "the data decide num_classes",
        ("resnet20", "--arch-args", '{"config": 3, "output": 1}'): "takes no argument",
        ("resnet20", "--arch-args", "[8]"): "must be a JSON object",
        ("mobilenet_v2", "--arch-args", '{"width_mult": 1e300}'): "cannot be built with",
        ("vit_tiny", "--arch-args", '{"heads": 5}'): "a width of 96 does not part into 5 heads",
    }.items():
        code, out = run("zoo", "train", *args)
        assert code == 2, out
        assert says in out


def test_zoo_list() -> None:
    code, out = run("zoo", "list")
    assert code == 0
    assert "resnet110" in out
    assert "shufflenet_v2" in out


def test_data_tell_what_a_model_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare weights of the user's own network: no shape has to be given beside the data."""
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    net = importlib.import_module("own_net").net()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    own = (tmp_path / "w.pt", "--arch", "own_net:net")
    code, out = run("compress", *own, "--data", "digits", "--flops", 0.5, "--dry-run")
    assert code == 0 and "digits: " in out, out
    code, out = run("eval", *own, "--data", "digits")
    assert code == 0 and "360 test images of digits" in out, out
    code, out = run("compress", *own, "--flops", 0.5, "--data", "none")
    assert code == 2 and "nothing tells the shape" in out and "or --data" in out, out
