"""The Pareto mode, from end to end on a tiny network, and its curve."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from collected import quick_clocks
from typer.testing import CliRunner

import cli
from graph.errors import TargetError
from models_zoo import registry
from models_zoo.data import load_embedded
from prune import load_pruned
from prune.config import CompressConfig
from prune.curve import CURVE_FILES, Curve, Point
from prune.demands import parse_demand
from prune.load import ModelSource
from prune.pareto import NEIGHBOUR, pareto, parse_shares
from prune.train import train
from prune.trials import Problem, SearchResult, Trial
from prune.tune import EpochResult
from prune.tune_config import FINE_TUNE_TEXT, TuneConfig
from rl.search import SearchConfig, planner


class Heard:
    """A listener that counts."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.stages: list[str] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def note(self, text: str) -> None: ...

    def trial(self, trial: Trial) -> None:
        self.trials.append(trial)

    def epoch(self, result: EpochResult) -> None: ...

    def step(self, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("zoo") / "resnet20.pt"
    train("resnet20", load_embedded("digits"), TuneConfig(epochs=1, lr=0.1, seed=0), path)
    return path


def test_one_search_for_all_points(model: Path, tmp_path: Path) -> None:
    asked: list[Problem] = []
    results: list[SearchResult] = []

    def spied(problem: Problem) -> SearchResult:
        asked.append(problem)
        results.append(search(problem))
        return results[-1]

    config = CompressConfig(
        source=ModelSource(model=str(model)), demands=(parse_demand("--params", "0.8"),),
        output=tmp_path / "curve", tune=TuneConfig(epochs=0),
    )  # fmt: skip
    heard = Heard()
    with quick_clocks(), planner(SearchConfig(agent="evolution", episodes=3), images=64) as search:
        curve = pareto(config, parse_shares("0.4,0.7"), spied, heard)
    assert heard.stages.count("loading the model") == 1
    assert asked[0].axes is asked[1].axes  # captured once
    assert dict(asked[0].starts) == {} and set(asked[1].starts) == {NEIGHBOUR}
    assert NEIGHBOUR in results[1].best  # scored beside the baselines
    assert {p.name for p in (tmp_path / "curve").iterdir()} == {
        "0.40", "0.70", "manifest.json", "report.html", *CURVE_FILES,
    }  # fmt: skip
    html = (tmp_path / "curve" / "report.html").read_text(encoding="utf-8")
    assert "Point 0.40" in html and "--pareto 0.7,0.4 --params 0.8" in html
    found = json.loads((tmp_path / "curve" / "pareto.json").read_text())
    rows, command = found["points"], found["command"]
    assert [row["name"] for row in rows] == ["original", "0.70", "0.40"]
    for row, share in zip(rows[1:], (0.7, 0.4), strict=True):
        report = json.loads((tmp_path / "curve" / row["name"] / "report.json").read_text())
        assert share - 0.01 <= report["ratios"]["macs"] <= share or report["ratios"]["params"] > 0.79
        assert {limit["quantity"] for limit in report["limits"]} == {"macs", "params"}
        assert all(limit["predicted"] == limit["pruned"] <= limit["limit"] for limit in report["limits"])
        assert row["accuracy"] == report["pruned"]["accuracy"]
        assert report["point"] == row["name"] and report["command"] == command
        told = (tmp_path / "curve" / row["name"] / "report.html").read_text(encoding="utf-8")
        assert f"of which this is point {row['name']}" in told
        assert f"prune eval {tmp_path / 'curve' / row['name']}" in told
        assert load_pruned(tmp_path / "curve" / row["name"])(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with (tmp_path / "curve" / "pareto.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["macs"] for row in table] == [str(row["macs"]) for row in rows]
    assert "<svg" in (tmp_path / "curve" / "pareto.svg").read_text()
    assert curve.points[0].macs == rows[0]["macs"]


def test_the_command_of_a_curve_says_how_text_is_tuned(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for index in range(30):
        (tmp_path / "text" / f"{index}.txt").write_text(f"line {index}\n" * 40)
    out, small = tmp_path / "curve", {"width": 16, "depth": 1, "heads": 2}
    torch.save(registry.build("gpt_tiny", **small).state_dict(), tmp_path / "m.pt")
    words = (
        "compress", str(tmp_path / "m.pt"), "--arch", "gpt_tiny", "--arch-args", json.dumps(small),
        "--data", f"text:{tmp_path / 'text'}?length=32", "--planner", "uniform", "--pareto", "0.9,0.8",
        "--input-shape", "32", "--no-tune", "--no-reconstruct", "-o", str(out),
    )  # fmt: skip
    with quick_clocks():
        done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    command = " ".join(json.loads((out / "pareto.json").read_text())["command"])
    assert f"--lr {FINE_TUNE_TEXT.lr} --batch-size {FINE_TUNE_TEXT.batch_size}" in command


def point(name: str, macs: int, accuracy: float | None) -> Point:
    return Point(name, macs, 1, 1, accuracy, accuracy, 1.0, "", 0, 0.0)


@pytest.mark.smoke
def test_dominated_points() -> None:
    curve = Curve(
        (point("original", 100, 0.9), point("a", 70, 0.8), point("b", 50, 0.85), point("c", 30, 0.7))
    )
    assert [p.name for p in curve.points if curve.dominated(p)] == ["a"]
    twins = Curve((point("a", 50, 0.8), point("b", 50, 0.8)))
    assert not any(twins.dominated(p) for p in twins.points)
    unknown = Curve((point("original", 100, None), point("a", 70, None)))
    assert not any(unknown.dominated(p) for p in unknown.points)


@pytest.mark.smoke
def test_curves_without_data_are_drawn_too(tmp_path: Path) -> None:
    Curve((point("original", 100, None), point("a", 70, None))).write(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(CURVE_FILES)


@pytest.mark.smoke
def test_shares() -> None:
    assert [d.share for d in parse_shares("0.3, 70%,0.5")] == [0.7, 0.5, 0.3]
    for text in ("", "0.5", "0.5,0.5", "0.5,nan", "0.5,1.5", "0.5,x", "0.5,2M", "0.5,,0.3"):
        with pytest.raises(TargetError, match="--pareto") as caught:
            parse_shares(text)
        assert "--pareto 0.3,0.5,0.7" in caught.value.hint


def test_what_does_not_go_together(tmp_path: Path) -> None:
    torch.save(registry.build("resnet20").state_dict(), tmp_path / "m.pt")
    for args, says in (
        (["--pareto", "0.3,0.5", "--flops", "0.4"], "limit the same quantity"),
        (["--pareto", "0.3"], "several points"),
        (["--pareto", "0.3,0.0001"], "lowest reachable"),
    ):
        given = ["compress", str(tmp_path / "m.pt"), "--arch", "resnet20", "-o", str(tmp_path / "o"), *args]
        result = CliRunner().invoke(cli.app, given)
        assert result.exit_code == 2 and says in " ".join(result.output.split()), result.output
    assert not (tmp_path / "o").exists()
