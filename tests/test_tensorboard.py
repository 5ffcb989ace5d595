"""Event files of TensorBoard: read back, they hold what the run told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from test_resume import compress

from benchmarks.reliability_kills import make_model
from front.tensorboard import board
from graph.errors import OutputError, UsageError
from prune.evaluation import Evaluation
from prune.trials import Trial
from prune.tune import EpochResult


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.heard.append(name)


def trial(index: int, accuracy: float, worth: float) -> Trial:
    return Trial("agmc", index, 1000 + index, accuracy, 2.0, 0.0, (0.5,), worth)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_plans_and_epochs_are_curves(tmp_path: Path) -> None:
    told = Told()
    with board(tmp_path / "run", told) as seen:
        seen.stage("searching")
        for index, accuracy in enumerate((0.25, 0.75, 0.5)):
            seen.trial(trial(index, accuracy, accuracy - 1))
        assert len(list((tmp_path / "run").iterdir())) == 1, "it can be watched while the run goes on"
        seen.epoch(EpochResult(1, 2, 1.5, Evaluation(0.5, 1.25, 10), 0.125, 1.0))
        seen.epoch(EpochResult(2, 2, 1.0, Evaluation(0.75, 0.5, 10), 0.0625, 1.0))
        seen.step(1, 2)
        seen.note("a note")
    found = scalars(tmp_path / "run")
    assert found == {
        "search/accuracy": [(1, 0.25), (2, 0.75), (3, 0.5)],
        "search/reward": [(1, -0.75), (2, -0.25), (3, -0.5)],
        "search/best_reward": [(1, -0.75), (2, -0.25), (3, -0.25)],
        "search/loss": [(1, 2.0), (2, 2.0), (3, 2.0)],
        "search/macs": [(1, 1000.0), (2, 1001.0), (3, 1002.0)],
        "tune/loss": [(1, 1.5), (2, 1.0)],
        "tune/search_loss": [(1, 1.25), (2, 0.5)],
        "tune/search_accuracy": [(1, 0.5), (2, 0.75)],
        "tune/lr": [(1, 0.125), (2, 0.0625)],
    }
    assert told.heard == ["stage", *["trial"] * 3, "epoch", "epoch", "step", "note"]


def test_points_of_a_curve_are_apart(tmp_path: Path) -> None:
    with board(tmp_path, Told()) as seen:
        for name in ("0.70", "0.50"):
            seen.stage(f"point {name}")
            seen.stage("searching")
            seen.trial(trial(1, 0.5, -0.5))
    assert scalars(tmp_path)["0.50/search/accuracy"] == [(1, 0.5)]
    assert {tag.split("/")[0] for tag in scalars(tmp_path)} == {"0.70", "0.50"}


def test_a_resumed_run_goes_on_with_its_curves(tmp_path: Path) -> None:
    for resume, kept in ((False, [1]), (True, [1, 2]), (False, [3])):
        with board(tmp_path, Told(), resume=resume) as seen:
            for epoch in kept[-1:]:
                seen.epoch(EpochResult(epoch, 3, 1.5, Evaluation(0.5, 1.25, 10), 0.125, 1.0))
    assert [step for step, _ in scalars(tmp_path)["tune/loss"]] == [3]  # started over: the others are hidden


def test_the_events_may_lie_beside_the_results(tmp_path: Path) -> None:
    """``--tensorboard runs`` with the default output ``runs/NAME``."""
    net, runs = tmp_path / "net.pt", tmp_path / "runs"
    make_model(net)
    code, told = compress(net, runs / "a", "--tensorboard", runs)
    assert code == 0, told
    assert scalars(runs / "a")["tune/loss"]
    code, told = compress(net, runs / "b", "--tensorboard", runs, "--exclude", "nothing*")
    assert code == 2 and not (runs / "b").exists()
    code, told = compress(net, tmp_path / "c", "--tensorboard", tmp_path / "c" / "events")
    assert code == 0 and scalars(tmp_path / "c" / "events" / "c")["tune/loss"], told


def test_without_a_folder_nothing_is_between() -> None:
    told = Told()
    with board(None, told) as seen:
        assert seen is told


def test_what_is_in_the_way_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"), board(tmp_path / "file" / "x", Told()):
        pass
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UsageError) as caught, board(tmp_path, Told()):
        pass
    assert "tensorboard is not installed" in str(caught.value) and "pip install" in caught.value.hint
