"""``--dry-run``, ``--tensorboard`` and ``--sensitivity``, as a user gives them, on a small network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy import written
from test_tensorboard import scalars
from torch import Tensor
from typer.testing import CliRunner

import cli
import prune
from front.commands import terminal
from graph.errors import PolicyError
from models_zoo.digits import load as digits
from prune.files import read_json
from prune.stored import read_stored
from prune.tables import sensitivity
from prune.unfinished import HOME, RUN_FILE
from rl.agents.agent import Agent
from rl.ranking import CONTEST
from rl.search import SearchConfig

NETWORK = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12, 10)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))

def make():
    torch.manual_seed(0)
    return Small()
"""
COMMON = ("small:make", "--input-shape", "1x8x8", "--data", "digits", "--episodes", "12", "--epochs", "2")


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.output.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(terminal.console, "_width", 200)
    monkeypatch.setattr(terminal.stderr, "_width", 200)
    return tmp_path


def test_a_dry_run_tells_and_writes_nothing(here: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in here.iterdir() if p.name != "__pycache__"}
    code, out, both = run(
        "compress", *COMMON, "--flops", "0.5", "--seed", 3, "--workers", 1, "--dry-run", "--json"
    )
    assert code == 0, both
    found = json.loads(out)
    assert {p: p.stat().st_mtime_ns for p in here.iterdir() if p.name != "__pycache__"} == before
    macs = next(r for r in found["reach"] if r["quantity"] == "macs")
    assert macs["whole"] == 8 * 9 * 36 + 12 * 8 * 9 * 16 + 120
    assert macs["lowest"] == 9 * 36 + 9 * 16 + 10 and macs["limits"] == [macs["whole"] // 2]
    assert found["work"]["seed"] == "3" and found["groups"] == 2 and found["output"] == "runs/make-0.5"
    times = {p["name"]: p["times"] for p in found["pieces"]}
    assert (
        times["score a plan"] == SearchConfig(episodes=12).trials + CONTEST
        and times["step of fine-tuning"] == 2 * 9
    )
    assert found["work"]["search"].startswith(
        "gnn-rl, 12 plans beside 7 of the baselines, each on 256 records"
    )
    assert times["score a group cut alone"] == 6 and times["prove"] == 1
    assert all(p["seconds"] > 0 for p in found["pieces"] if p["name"] != "look at the whole network")
    assert found["seconds"] == pytest.approx(sum(p["total"] for p in found["pieces"]))
    assert "model.onnx" in found["files"] and found["exists"] is False


def test_a_dry_run_fails_where_the_run_would(here: Path) -> None:
    code, _, both = run("compress", *COMMON, "--flops", "0.001", "--dry-run")
    assert code == 2 and "cannot be reached" in both and "hint:" in both
    code, _, both = run("compress", *COMMON, "--flops", "0.5", "--precision", "half", "--dry-run")
    assert code == 2 and "--precision half: unknown" in both
    code, _, both = run("compress", *COMMON[:3], "--pareto", "0.7,0.5", "--dry-run")
    assert code == 0 and "0.70/ with all files of a run" in both and "no data" not in both
    assert "nothing was written (--dry-run)" in both and not (here / "runs").exists()


def test_the_agent_is_that_of_the_policy(here: Path) -> None:
    file = here / "policy.safetensors"
    written(file, "amc")
    quick = ("--flops", 0.5, "--images", 16, "--episodes", 0, "--workers", 1, "--no-verify")
    words = (*COMMON[:5], *quick, "--policy", file)
    code, out, both = run("compress", *words, "--dry-run", "--json")
    assert code == 0, both
    assert json.loads(out)["work"]["search"].startswith("amc, 1 plan beside 7 of the baselines")
    for extra in ((), ("--dry-run",)):
        code, _, both = run("compress", *words, "--agent", "agmc", *extra)
        assert code == 2 and "holds a policy of amc, not of agmc" in both and "--agent amc" in both
    (here / "prune.toml").write_text('[compress]\nagent = "agmc"\n')
    code, _, both = run("compress", *words)
    assert code == 2 and "not of agmc" in both
    (here / "prune.toml").unlink()

    code, _, both = run("compress", *words, "-o", "cut", "--epochs", 1, "--lr", 1e30)
    assert code == 2 and "the loss became" in both
    assert read_json(here / "cut" / HOME / RUN_FILE, "run")["options"]["agent"] == "amc"
    code, _, both = run("compress", "--resume", "cut", "--trust-code", "--agent", "agmc")
    assert code == 2 and "not of agmc" in both
    code, out, both = run("compress", "--resume", "cut", "--trust-code", "--agent", "amc", "--no-tune")
    assert code == 0 and "search by amc" in both, both
    report = read_json(here / "cut" / "report.json", "report")
    assert report["search"]["agent"] == "amc" and "--agent amc" in " ".join(report["command"])
    assert [t["method"] for t in report["search"]["trials"]][7:] == ["amc"]
    assert "Searched by amc." in (here / "cut" / "report.html").read_text()


def test_the_agent_is_that_of_the_policy_in_python_too(here: Path) -> None:
    import small

    options: dict[str, Any] = {
        "flops": 0.5, "episodes": 0, "images": 16, "tune": False, "reconstruct": False, "verify": False,
        "progress": False,
    }  # fmt: skip
    file = here / "policy.safetensors"
    written(file, "amc")
    for named, agent in ((file, "amc"), ("default", "gnn-rl")):
        search = prune.compress(small.make(), digits(), policy=named, **options).report.search
        assert search["agent"] == agent and [t["method"] for t in search["trials"]][7:] == [agent]
    with pytest.raises(PolicyError, match="holds a policy of amc, not of agmc"):
        prune.compress(small.make(), digits(), policy=str(file), agent="agmc", **options)
    for agent in ("agmc", None):
        search = prune.compress(small.make(), digits(), agent=agent, **options).report.search
        assert search["agent"] == (agent or "gnn-rl") and len(search["trials"]) == 7  # no policy was named


TRAINED = """
import torch
import small

def make():
    net = small.make()
    net.load_state_dict(torch.load("trained.pt", weights_only=True))
    return net
"""


def test_a_policy_that_is_worse_than_the_baselines_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import small

    net = small.make()
    x, y = next(iter(digits(seed=0).train.batches(1024)))
    descent = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        descent.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        descent.step()
    torch.save(net.state_dict(), "trained.pt")
    (here / "trained.py").write_text(TRAINED)
    # What a policy proposes here is nobody's choice, so it is made to propose one channel everywhere.
    monkeypatch.setattr(Agent, "plan", lambda agent, task=0: agent.tasks[task].space.narrowest.copy())
    options = ("--flops", 0.5, "--episodes", 2, "--workers", 1, "--no-tune", "--no-verify")
    code, _, both = run("compress", "trained:make", *COMMON[1:5], *options, "--agent", "gnn-rl", "-o", "out")
    assert code == 0, both
    found = read_json(here / "out" / "report.json", "report")["search"]
    [note] = found["notes"]
    first, best = found["trials"][7]["accuracy"], max(t["accuracy"] for t in found["trials"][:7])
    assert first < best and f"first plan has {first:.2%} on the search split" in note
    assert f") {best:.2%}, so the search starts from the baseline" in note and f"note: {note}" in both
    page = (here / "out" / "report.html").read_text()
    assert f"first plan has {first:.2%} on the search split" in page


def test_a_run_with_event_files_and_sensitivity(here: Path) -> None:
    code, out, both = run(
        "compress", *COMMON, "--flops", "0.5", "-o", "half", "--workers", 1, "--tensorboard", "tb", "--json",
        "--precision", "float32",
    )  # fmt: skip
    assert code == 0, both
    report = json.loads(out)
    curves = scalars(here / "tb" / "half")
    trials = report["search"]["trials"]
    assert [v for _, v in curves["search/reward"]] == pytest.approx([t["worth"] for t in trials])
    assert [v for _, v in curves["search/macs"]] == [t["macs"] for t in trials]
    assert [v for _, v in curves["tune/loss"]] == pytest.approx(
        [e["loss"] for e in report["tune"]["history"]]
    )

    assert report["search"]["precision"] == "float32" and "--precision float32" in " ".join(report["command"])

    found = report["sensitivity"]
    assert [g["name"] for g in found["groups"]] == ["a", "b"] and found["groups"][0]["layers"] == ["a", "b"]
    assert [[c["ratio"] for c in g["cuts"]] for g in found["groups"]] == [[0.75, 0.5, 0.25]] * 2
    # The same, worked out without a mask: the channels of the smallest magnitude go.
    import small  # type: ignore[import-not-found]

    net = small.make().eval()
    x, y = next(iter(digits(seed=0).search.batches(256, limit=256)))
    for index, width in enumerate((9, 6, 3)):
        assert found["groups"][1]["cuts"][index]["accuracy"] == pytest.approx(_cut(net, width, x, y))
    assert found["whole"]["accuracy"] == pytest.approx(float((net(x).argmax(1) == y).double().mean()))
    table = sensitivity(read_stored(here / "half").run)
    assert len(table.rows) == 6 and "Sensitivity" in (here / "half" / "report.html").read_text()
    assert "--sensitivity" not in " ".join(report["command"])


def _cut(net: Any, width: int, x: Tensor, y: Tensor) -> float:
    """Accuracy with the largest channels of the second layer alone; group magnitude sums all its slices."""
    with torch.no_grad():
        h = net.b(net.a(x).relu()).relu().mean((2, 3))
        worth = net.b.weight.square().sum((1, 2, 3)) + net.c.weight.square().sum(0)
        kept = torch.zeros(12)
        kept[worth.topk(width).indices] = 1
        return float((net.c(h * kept).argmax(1) == y).double().mean())


def test_sensitivity_is_measured_where_it_is_asked_for(here: Path) -> None:
    options = ("--episodes", 0, "--no-tune", "--no-reconstruct", "--no-verify", "--workers", 1)
    code, _, both = run(
        "compress", *COMMON[:5], *options, "--flops", "0.6", "-o", "out", "--sensitivity", "-q"
    )
    assert code == 0, both
    report = read_json(here / "out" / "report.json", "report")
    assert report["sensitivity"]["records"] == 256 and "--sensitivity" in report["command"]
