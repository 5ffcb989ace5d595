"""The commands of supernets, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import cli
from front.commands import terminal
from models_zoo.registry import build
from prune.data import load_data
from prune.evaluation import evaluate
from prune.load import load_model, save_model
from prune.pruned import load_pruned

ARGS = {"image_size": 8, "in_channels": 1, "width": 16, "depth": 3, "heads": 4, "mlp_ratio": 2}


def prune(*args: object) -> Result:
    terminal.console.width = terminal.stderr.width = 300
    return CliRunner().invoke(cli.app, ["supernet", *map(str, args)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet that was built and trained for an epoch."""
    home = tmp_path_factory.mktemp("supernet")
    torch.manual_seed(0)
    save_model(
        home / "vit.pt", build("vit_tiny", **ARGS), arch="vit_tiny", arch_args=ARGS,
        input_shape=(1, 8, 8), data="digits", metrics={},
    )  # fmt: skip
    done = prune("build", home / "vit.pt", "-o", home / "net")
    assert done.exit_code == 0, done.output
    assert "layers" in done.output and "the smallest subnetwork has" in done.output
    done = prune("train", home / "net", "--epochs", 1, "--random", 1, "--batch-size", 64)
    assert done.exit_code == 0 and "largest: accuracy" in done.output, done.output
    assert not (home / "net" / ".training").exists()
    return home / "net"


def test_an_interrupted_training_is_told_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from front.screen import Screen

    epochs: list[int] = []

    def stop(self: Screen, result: object) -> None:
        epochs.append(result.epoch)  # type: ignore[attr-defined]
        if epochs == [1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "epoch", stop)
    words = ("train", folder, "-o", tmp_path / "more", "--epochs", 2, "--random", 0, "--batch-size", 256)
    done = prune(*words)
    assert done.exit_code == 130 and "the same command goes on" in done.output, done.output
    assert not (tmp_path / "more" / "supernet.json").exists()
    done = prune(*words)
    assert done.exit_code == 0 and "goes on after 1 of 2 epochs" in done.output, done.output
    assert epochs == [1, 2] and not (tmp_path / "more" / ".training").exists()
    assert prune("train", folder, "-o", tmp_path / "more").exit_code == 2, "there is one now"


def test_search_and_extract(folder: Path, tmp_path: Path) -> None:
    asked = prune("search", folder, "--flops", 0.5, "--agent", "random", "--trials", 8, "--records", 64,
                  "--plot", tmp_path / "search.png", "-o", tmp_path / "found.json")  # fmt: skip
    assert asked.exit_code == 0 and "8 subnetworks scored in" in asked.output, asked.output
    assert (tmp_path / "search.png").stat().st_size > 1000
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["best"]["macs_ratio"] <= 0.5 and found["limits"] == ["--flops 0.5"]
    done = prune("extract", folder, "--found", tmp_path / "found.json", "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["subnet"]
    assert result["macs"] == found["best"]["macs"] and result["max_error"] <= 1e-9 and not result["stock"]
    module = load_pruned(tmp_path / "out")
    assert sum(p.numel() for p in module.parameters()) == found["best"]["params"]
    for name in (folder, tmp_path / "out"):  # both say which data
        done = CliRunner().invoke(cli.app, ["eval", str(name)])
        assert done.exit_code == 0 and "of digits" in done.output, done.output
    assert load_model(tmp_path / "out").input_shape == (1, 8, 8)


def test_a_subnetwork_for_each_device(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "devices.toml").write_text("[phone]\nflops = 0.3\n[tablet]\nflops = 0.6\n")
    done = prune("extract", folder, "--budgets", tmp_path / "devices.toml", "-o", tmp_path / "out",
                 "--agent", "random", "--trials", 4, "--records", 32, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert results["phone"]["macs_ratio"] <= 0.3 < results["tablet"]["macs_ratio"] <= 0.6
    for name in results:
        load_pruned(tmp_path / "out" / name)


def test_subnetworks_are_tuned_and_an_interrupt_loses_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from front.screen import Screen

    epochs: list[int] = []

    def stop(self: Screen, result: object) -> None:
        epochs.append(result.epoch)  # type: ignore[attr-defined]
        if len(epochs) == 3:  # the first one of the second device
            raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "epoch", stop)
    (tmp_path / "devices.toml").write_text("[phone]\nflops = 0.3\n[tablet]\nflops = 0.6\n")
    few = ("--agent", "random", "--trials", 4, "--records", 32)
    out = tmp_path / "out"
    words = ("extract", folder, "--budgets", tmp_path / "devices.toml", "-o", out, *few,
             "--epochs", 2, "--lr", 2e-3, "--batch-size", 128)  # fmt: skip
    done = prune(*words)
    assert done.exit_code == 130 and "the same command goes on" in done.output, done.output
    done = prune("extract", folder, "--flops", 0.3, *few, "-o", out)
    assert done.exit_code == 2 and "is not empty" in done.output, "another command spares it"
    done = prune("extract", folder, "--flops", 0.3, *few, "-o", tmp_path / "two", "--epochs", 1)
    assert done.exit_code == 0, "an output of its own is nobody else's business"
    del epochs[3:]
    done = prune(*words)
    assert done.exit_code == 0 and "goes on after 1 of 2 epochs" in done.output, done.output
    assert epochs == [1, 2, 1, 2] and not (out / ".tuning").exists()
    assert done.output.count("tuned: accuracy") == 2 and "searching" not in done.output
    told = [json.loads((out / n / "subnet.json").read_text())["result"]["tuned"] for n in ("phone", "tablet")]
    assert all(t["after"]["loss"] < t["before"]["loss"] for t in told)
    module, data = load_pruned(out / "phone"), load_data("digits")
    assert evaluate(module, data.test).accuracy == pytest.approx(told[0]["after"]["accuracy"])
    assert prune(*words).exit_code == 2, "there is a result now"


def test_a_network_of_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built with the options that say what it takes; it has widths and no layers."""
    (tmp_path / "perceptrons.py").write_text(
        "from torch import nn\n\ndef made(width=32):\n    return nn.Sequential(nn.Flatten(), "
        "nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = prune("build", "perceptrons:made", "-o", tmp_path / "net", "--arch-args", '{"width": 16}',
                 "--input-shape", "1x8x8", "--data", "none")  # fmt: skip
    assert done.exit_code == 0 and "only widths are elastic" in done.output, done.output
    assert "mlp (1 group, 1 axis)" in done.output and "│ layers" not in done.output
    assert json.loads((tmp_path / "net" / "supernet.json").read_text())["axes"][0]["kept"][-1] == [16]
    done = prune("build", "perceptrons:made", "-o", tmp_path / "two", "--data", "none")
    assert done.exit_code == 2 and "--input-shape" in done.output, done.output


def test_a_function_is_not_taken_from_a_file(folder: Path, tmp_path: Path) -> None:
    """A folder may come from anywhere: it names data, never code."""
    shutil.copytree(folder, tmp_path / "net")
    (tmp_path / "net" / "manifest.json").unlink()
    path = tmp_path / "net" / "supernet.json"
    about = json.loads(path.read_text())
    about["origin"]["data"] = "antigravity:fly"
    path.write_text(json.dumps(about))
    done = CliRunner().invoke(cli.app, ["eval", str(tmp_path / "net")])
    assert done.exit_code == 2 and "only where you name it" in done.output, done.output
    path.write_text("[]")
    done = CliRunner().invoke(cli.app, ["eval", str(tmp_path / "net")])
    assert done.exit_code == 2 and "Traceback" not in done.output, done.output


def test_a_front(folder: Path, tmp_path: Path) -> None:
    done = prune("search", folder, "--pareto", "--agent", "random", "--trials", 8, "--records", 32,
                 "-o", tmp_path / "front.json", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    front = json.loads(done.stdout)["front"]
    assert [t["macs"] for t in front] == sorted(t["macs"] for t in front)


def test_bad_input_is_answered(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    cases: list[tuple[list[object], str, str]] = [
        (["search", folder], "give a target", "--flops 0.5"),
        (["search", folder, "--flops", 0.01], "the smallest subnetwork has", "ask for at least --flops"),
        (["search", folder], "--flops, --params, --latency, or --pareto", ""),
        (["search", folder, "--params", "1k"], "the smallest subnetwork has ", "K, or build"),
        (["search", tmp_path, "--latency", 0.5, "--agent", "gnn-rl"], "cannot do --latency 0.5", "tpe"),
        (["search", tmp_path, "--pareto", "--agent", "amc"], "cannot do --pareto", "nsga2"),
        (["search", tmp_path, "--flops", 0.5, "--plot", "x.pdf"], "neither .png nor .svg", "choose"),
        (["search", folder, "--pareto", "--data", "none"], "--pareto shows scores", "--data"),
        (["extract", folder, "-o", tmp_path / "o", "--found", "f", "--latency", 0.5], "was not timed", ""),
        (["search", folder, "--flops", 0.5, "--agent", "x"], "--agent x: unknown", "tpe"),
        (["search", folder, "--flops", 0.5, "--data", "glyphs"], "has images of shape", "name data"),
        (["search", tmp_path, "--flops", 0.5], "is no supernet", "prune supernet build"),
        (["extract", folder, "-o", tmp_path / "o"], "which subnetwork?", "--flops 0.5"),
        (["extract", folder, "-o", tmp_path / "o", "--epochs", 1], "which subnetwork?", "--flops 0.5"),
        (["extract", folder, "-o", tmp_path / "o", "--epochs", 1, "--flops", 0.01], "the smallest", "0."),
        (["extract", folder, "-o", tmp_path / "full", "--flops", 0.5], "is not empty", "--force"),
        (["extract", folder, "-o", tmp_path / "o", "--flops", 0.5, "--budgets", "b"], "two ways", "one"),
        (["train", folder, "--lr", -1], "lr must be a positive number", "default"),
        (["train", folder, "--teacher", "nobody"], "--teacher nobody: unknown", "original"),
        (["extract", folder, "-o", tmp_path / "o", "--flops", 0.5, "--epochs", 1, "--lr", 0], "lr must", ""),
        (["build", tmp_path / "none.pt", "-o", tmp_path / "o"], "none.pt", ""),
        (["build", folder.parent / "vit.pt", "-o", tmp_path / "o", "--kinds", "hat"], "no kind 'hat'", ""),
        (["build", folder.parent / "vit.pt", "-o", tmp_path / "o", "--kinds", ""], "names no kind", "head"),
        (["build", folder.parent / "vit.pt", "-o", tmp_path / "o", "--kinds", "expert", "--least-depth", 1],
         "nothing of this model is elastic", "--least-depth"),
    ]  # fmt: skip
    for args, error, hint in cases:
        done = prune(*args)
        assert not (tmp_path / "o").exists(), args
        assert done.exit_code == 2, (args, done.output)
        assert "error: " in done.output and error in done.output and hint in done.output, done.output
        assert "Traceback" not in done.output


def test_devices_are_refused_before_the_first_is_written(folder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "devices.toml", tmp_path / "out"
    few = ("--agent", "random", "--trials", 4, "--records", 32)
    path.write_text("[phone]\nflops = 0.5\n[watch]\nflops = 0.01\n")
    done = prune("extract", folder, "--budgets", path, "-o", out, *few)
    assert done.exit_code == 2 and "watch: --flops 0.01: the smallest" in done.output, done.output
    assert not out.exists() or not list(out.iterdir())
    path.write_text("[phone]\nflops = 0.5\n[watch]\nflops = 0.4\n")
    done = prune("extract", folder, "--budgets", path, "-o", out, *few)
    assert done.exit_code == 0, done.output
    assert "watch: the best of 4 that were scored in" in done.output and "accuracy" in done.output
    told = json.loads((out / "watch" / "subnet.json").read_text())["result"]["search"]
    assert told["scored"] == 4 and 0 < told["accuracy"] <= 1 and told["whole"]["records"] == 32


def test_without_data_the_plain_choice_is_taken(folder: Path, tmp_path: Path) -> None:
    done = prune("search", folder, "--flops", 0.5, "--data", "none", "-o", tmp_path / "found.json")
    assert done.exit_code == 0 and "not scored" in done.output, done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["scored"] == 0 and found["best"]["macs_ratio"] <= 0.5 and found["best"]["dropped"] == []
    (tmp_path / "devices.toml").write_text("[phone]\nflops = 0.3\n[tablet]\nflops = 0.5\n")
    done = prune("extract", folder, "--budgets", tmp_path / "devices.toml", "-o", tmp_path / "out",
                 "--data", "none", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert results["tablet"]["macs"] == found["best"]["macs"] > results["phone"]["macs"]
    assert results["phone"]["search"]["told"] == "not scored"
    load_pruned(tmp_path / "out" / "phone")
    done = prune("extract", folder, "--found", tmp_path / "found.json", "-o", tmp_path / "one")
    assert done.exit_code == 0 and "not scored" in done.output, done.output
    done = prune("extract", folder, "--flops", 0.5, "--data", "none", "--epochs", 1, "-o", tmp_path / "two")
    assert done.exit_code == 2 and "training needs data" in done.output, done.output


def test_a_limit_of_latency_is_measured(folder: Path, tmp_path: Path) -> None:
    """However fast this machine is: what is told was timed, in turns with the whole."""
    found = tmp_path / "found.json"
    done = prune("search", folder, "--latency", "900ms", "--agent", "random", "--trials", 4, "--records", 32,
                 "-o", found)  # fmt: skip
    assert done.exit_code == 0 and "one that the others foretell" in done.output, done.output
    told = json.loads(found.read_text())
    assert 0 < told["best"]["latency_ms"] <= 900 and told["whole_latency_ms"] > 0
    assert f"{told['best']['latency_ms']:.3f} ms" in done.output


def test_the_best_of_a_search_within_limits(folder: Path, tmp_path: Path) -> None:
    found = tmp_path / "front.json"
    done = prune(
        "search", folder, "--pareto", "--agent", "random", "--trials", 12, "--records", 32, "-o", found
    )
    assert done.exit_code == 0, done.output
    trials = json.loads(found.read_text())["trials"]
    words = ("extract", folder, "--found", found, "--flops")
    done = prune(*words, 0.4, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["subnet"]
    best = max(t["accuracy"] for t in trials if t["macs_ratio"] <= 0.4)
    assert result["macs_ratio"] <= 0.4 and result["search"]["scored"] == 12
    assert best - (best * (1 - best) / 32) ** 0.5 <= result["search"]["accuracy"] <= best
    found.write_text(json.dumps(json.loads(found.read_text()) | {"trials": []}))
    done = prune(*words, 0.4, "-o", tmp_path / "none")
    assert done.exit_code == 2 and "none of the 0 subnetworks" in done.output, done.output


def test_without_optuna_the_search_is_at_random(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supernet import agents

    monkeypatch.setattr(agents, "_has_optuna", lambda: False)
    words = ("search", folder, "--flops", 0.5, "--trials", 4, "--records", 32, "-o", tmp_path / "found.json")
    done = prune(*words)
    assert done.exit_code == 0 and "searched at random" in done.output, done.output
    done = prune(*words, "--agent", "tpe")
    assert done.exit_code == 2 and "needs the package optuna" in done.output
    assert "loading" not in done.output


def test_damage_is_noticed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "net")
    path = tmp_path / "net" / "supernet.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"layers": []}))
    assert "is not as it was written" in prune("search", tmp_path / "net", "--flops", 0.5).output
    (tmp_path / "net" / "manifest.json").unlink()
    done = prune("search", tmp_path / "net", "--flops", 0.5)
    assert done.exit_code == 2 and "other layers than its graph has" in done.output, done.output
