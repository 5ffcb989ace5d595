"""Runs that are cut short, as a user meets them: what is said, and that ``--resume`` ends the same."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import run

from benchmarks.reliability_kills import ARCH, SAME, differences, make_model, timeless
from front.commands import terminal
from graph.errors import ResumeError
from models_zoo import digits
from prune.identity import must_be_the_same, of_data
from prune.journal import Journal
from prune.unfinished import HOME, is_unfinished

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def _wide_terminal() -> None:
    terminal.console.width = terminal.stderr.width = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.pt"
    make_model(path)
    return path


def resume(folder: object, *more: object) -> tuple[int, str]:
    """The network is a function of a module: that it may run is said anew each time."""
    return run("compress", "--resume", folder, "--trust-code", *more)


def compress(model: Path, folder: Path, *more: object) -> tuple[int, str]:
    quick = ("--episodes", 2, "--images", 16, "--epochs", 1, "--workers", 1)
    return run("compress", model, "--arch", ARCH, "--flops", 0.5, *quick, "-o", folder, *more)


@pytest.fixture(scope="module")
def broken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose run failed after its search, for a learning rate that explodes."""
    folder = tmp_path_factory.mktemp("broken") / "run"
    code, out = compress(model, folder, "--lr", 1e30)
    assert code == 2
    assert "error: the loss became" in out and "hint: lower the learning rate" in out
    assert f"go on with: prune compress --resume {folder}" in out
    assert {p.name for p in folder.iterdir()} == {HOME}
    return folder


@pytest.fixture
def unfinished(broken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(broken, tmp_path / "run"))


@pytest.mark.slow
def test_what_failed_goes_on_with_another_learning_rate(
    model: Path, unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = resume(unfinished, "--json", "--lr", 0.01)
    assert code == 0, out
    code, out = compress(model, tmp_path / "again", "--lr", 0.01)
    assert code == 0, out
    for name in SAME:
        assert (unfinished / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    mine, other = (
        timeless(json.loads((f / "report.json").read_text())) for f in (unfinished, tmp_path / "again")
    )
    assert mine.pop("command") != other.pop("command")  # the folders
    assert mine == other and not (unfinished / HOME).exists()

    code, out = resume(unfinished)
    assert code == 0 and f"the run in {unfinished} is finished: graph.json" in out
    code, out = resume(unfinished, "--json")
    assert json.loads(out) == json.loads((unfinished / "report.json").read_text())


def test_a_run_is_not_started_over_by_accident(model: Path, unfinished: Path) -> None:
    code, out = compress(model, unfinished)
    assert code == 2 and "holds an unfinished run" in out
    assert f"prune compress --resume {unfinished}" in out and "--force starts over" in out
    code, out = compress(model, unfinished, "--force", "--lr", 1e30)
    assert code == 2 and "the loss became" in out and is_unfinished(unfinished)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--episodes", 3), "was started with --episodes 2, not with --episodes 3"),
        (("--seed", 1), "was started without --seed, not with --seed 1"),
        (("--data", "glyphs"), "was started without --data, not with --data glyphs"),
        (("--macs", 0.5), "was started with --flops 0.5, not without --flops"),
        (("--no-reconstruct",), "was started without --reconstruct, not with --no-reconstruct"),
        (("-o", "elsewhere"), "-o elsewhere is not"),
        (("other.pt",), "was started with MODEL"),
    ],
)
def test_another_run_is_not_resumed(unfinished: Path, words: tuple[object, ...], says: str) -> None:
    code, out = resume(unfinished, *words)
    assert code == 2 and says in out, out
    assert is_unfinished(unfinished)


def test_another_model_of_the_same_name_is_refused(model: Path, unfinished: Path, tmp_path: Path) -> None:
    state = unfinished / HOME / "run.json"
    other = tmp_path / "net.pt"
    state.write_text(state.read_text().replace(str(model), str(other)))
    code, out = resume(unfinished)
    assert code == 2 and "no such file" in out and is_unfinished(unfinished)
    make_model(other, seed=1)
    code, out = resume(unfinished)
    assert code == 2 and f"the model {other} is not what it was when the run was started" in out, out
    assert is_unfinished(unfinished)


def test_other_data_of_the_same_name_is_refused() -> None:
    journal = Journal()
    must_be_the_same(journal, "data", "digits", of_data(digits.load()))
    must_be_the_same(journal, "data", "digits", of_data(digits.load()))
    with pytest.raises(ResumeError, match="the data digits is not what it was"):
        must_be_the_same(journal, "data", "digits", of_data(digits.load(seed=1)))


def test_a_damaged_state_is_told(model: Path, unfinished: Path) -> None:
    state = unfinished / HOME / "run.json"
    state.write_text(state.read_text()[:-20])
    for out in (resume(unfinished), compress(model, unfinished)):
        assert out[0] == 2 and "run.json is damaged" in out[1] and "--force starts over" in out[1]


def test_damaged_answers_are_found_out_anew(unfinished: Path) -> None:
    journal = unfinished / HOME / "journal.jsonl"
    journal.write_text(journal.read_text().replace('["search"', '["seerch"'))
    code, out = resume(unfinished)
    assert code == 2 and "the loss became" in out
    assert "note: 1 damaged lines of the journal are found out anew" in out


def test_code_is_trusted_anew(unfinished: Path) -> None:
    code, out = run("compress", "--resume", unfinished)
    assert code == 2 and "would run code, and nobody said that it may" in out and "--trust-code" in out
    assert is_unfinished(unfinished)


def test_what_does_not_go_with_resume(unfinished: Path) -> None:
    code, out = resume(unfinished, "--dry-run")
    assert code == 2 and "--dry-run and --resume do not go together" in out
    assert is_unfinished(unfinished)


def test_blocks_are_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "residual_net.py").write_text(
        "import torch\nfrom test_depth import Images\n\n"
        "def net():\n    torch.manual_seed(0)\n    return Images()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shape, plan = ("--input-shape", "1x8x8", "--data", "digits"), ("--blocks", 2, "--flops", 0.5)
    words = (*shape, *plan, "--planner", "uniform", "--epochs", 1, "-o", tmp_path / "a")
    code, out = run("compress", "residual_net:net", *words, "--lr", 1e30)
    assert code == 2 and "go on with" in out, out
    monkeypatch.setattr("prune.preparation.judge", lambda *_: pytest.fail("judged again"))
    code, out = resume(tmp_path / "a", "--lr", 0.01)
    assert code == 0 and "blocks kept: 2 of 3" in out, out


def test_settings_of_the_working_folder_do_not_count(
    unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prune.toml").write_text("[compress]\nepisodes = 7\n")
    monkeypatch.chdir(tmp_path)
    code, out = resume("run")
    assert code == 2 and "the loss became" in out  # it went on, as it was started
    assert f"note: the run was started in {ROOT}" in out or "note: the run was started in" in out


def test_nothing_to_resume(tmp_path: Path) -> None:
    code, out = run("compress", "--resume", tmp_path / "none")
    assert code == 2 and "holds no unfinished run" in out and "start one" in out
    code, out = run("compress")
    assert code == 2 and "no model is named" in out
    assert list(tmp_path.iterdir()) == []


def test_bad_input_leaves_nothing(model: Path, tmp_path: Path) -> None:
    code, out = compress(model, tmp_path / "a", "--exclude", "nothing*")
    assert code == 2 and "go on with" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_nothing_is_lost(model: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # the kernel refuses as it does on a full disk
    try:
        code, out = compress(model, tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and "cannot be written: File too large" in out and "hint: free some space" in out
    assert f"go on with: prune compress --resume {tmp_path / 'a'}" in out
    assert Journal(tmp_path / "a" / HOME / "journal.jsonl").damaged == 0


@pytest.mark.slow
def test_kills_and_an_interrupt_change_nothing(tmp_path: Path) -> None:
    """Real processes and SIGKILL; benchmarks/reliability_kills.py does the same at every moment."""
    code = """
import json, sys
from dataclasses import asdict
from benchmarks.reliability_kills import *
lab = Lab(Path(sys.argv[1]), warm=False)
halves = [c for c in lab.calls if c.startswith("write") and " score " in c]
tuned = [c for c in lab.calls if c.startswith("write") and " training " in c]
moved = [c for c in lab.calls if c.startswith("replace") and "results/plan.json" in c and "partial" not in c]
moments = [Moment("half", 0, halves[4]), Moment("ctrl-c", 0.1)]
moments += [Moment("call", 0, tuned[1]), Moment("call", 0, moved[0])]
print(json.dumps(asdict(lab.chain(moments))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    chain = json.loads(done.stdout.splitlines()[-1])
    assert chain["wrong"] == [] and [c["wrong"] for c in chain["cuts"]] == [[], [], [], []]
    assert [c["code"] for c in chain["cuts"]] == [-9, 130, -9, -9]
    assert [c["state"] for c in chain["cuts"]] == ["unfinished"] * 4


@pytest.mark.slow
def test_a_curve_goes_on_at_the_point_that_failed(model: Path, tmp_path: Path) -> None:
    words = (
        "--arch",
        ARCH,
        "--pareto",
        "0.7,0.5",
        "--episodes",
        2,
        "--images",
        16,
        "--workers",
        1,
        "--epochs",
        1,
    )
    code, out = run("compress", model, *words, "-o", tmp_path / "a", "--lr", 1e30)
    assert code == 2 and "go on with" in out
    code, out = resume(tmp_path / "a", "--no-tune")
    assert code == 0, out
    code, out = run("compress", model, *words, "-o", tmp_path / "b", "--no-tune")
    assert code == 0, out
    for point in ("0.70", "0.50"):
        found = differences(tmp_path / "a" / point, tmp_path / "b" / point)
        assert found == ["report: command differs"]  # the folders
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in (tmp_path / "b").iterdir()}
