"""What a run keeps for the case that it is cut short: journal, lock, folder, results that move into place."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from graph.errors import OutputError, PruneError, ResumeError, TrainingError, UsageError
from prune.files import write_json
from prune.journal import Journal
from prune.lock import Lock
from prune.run_folder import RunFolder, finish
from prune.unfinished import HOME, is_unfinished

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {"flops": "0.5", "seed": 1, "limit": ["a=1"]}


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 4 KiB; the kernel refuses as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def cut_short(folder: Path, **more: object) -> None:
    """A run that was interrupted once it had found something out."""
    more = {"again": "the command", **more}
    with pytest.raises(KeyboardInterrupt), RunFolder(folder, OPTIONS, **more) as run:  # type: ignore[arg-type]
        run.journal.put({"score": [0.5, 1.25]})
        write_json(run.staging / "plan.json", {})
        raise KeyboardInterrupt


# The journal


def test_answers_come_back_with_every_digit(tmp_path: Path) -> None:
    path, value = tmp_path / "j.jsonl", {"a": [0.1 + 0.2, None, "ä", 1e-300], "b": float("inf")}
    journal = Journal(path)
    assert journal.get("x") is None and not journal.dear
    assert journal.recall("x", lambda: value) == value and not journal.dear
    journal.part("0.50").part("tune").put({"x": 2})
    journal.put({"y": 3, "z": 4})
    assert journal.dear
    journal.close()
    again = Journal(path)
    assert [again.get(k) for k in "xyz"] == [value, 3, 4] and again.damaged == 0
    assert again.recall("x", lambda: pytest.fail("asked again")) == value
    assert again.part("0.50").part("tune").get("x") == 2 and again.part("0.50").get("x") is None


@pytest.mark.parametrize("torn", range(1, 12))
def test_a_torn_line_is_cut_off_and_the_next_one_is_whole(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.put({"a": 1})
    size = path.stat().st_size
    journal.put({"b": 2})
    journal.close()
    os.truncate(path, size + torn)
    again = Journal(path)
    assert (again.get("a"), again.get("b"), again.damaged) == (1, None, 0)
    again.put({"c": 3})
    again.close()
    last = Journal(path)
    assert (last.get("a"), last.get("c"), last.damaged) == (1, 3, 0)


def test_a_damaged_line_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.put({"a": 0.25})
    journal.put({"b": 0.5})
    path.write_text(path.read_text().replace("0.25", "0.26") + "[]\nnonsense\n")
    again = Journal(path)
    assert (again.get("a"), again.get("b"), again.damaged) == (None, 0.5, 3)


def test_a_full_disk_loses_no_answer(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.put({"a": 1})
    with pytest.raises(OutputError, match="cannot be written: File too large") as caught:
        journal.put({"b": "x" * 5000})
    assert "space" in caught.value.hint
    journal.put({"c": 2})
    again = Journal(path)
    assert (again.get("a"), again.get("b"), again.get("c"), again.damaged) == (1, None, 2, 0)


# The lock


def test_a_lock_names_its_process_and_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from prune.lock import Lock\n"
        "lock = Lock(Path(sys.argv[1]), Path('runs/one')); print(os.getpid(), flush=True); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        pid = int(other.stdout.readline())
        with pytest.raises(OutputError, match=rf"another run, process {pid} on .*, is writing to runs/one"):
            Lock(path, Path("runs/one"))
        other.kill()
    Lock(path, Path("runs/one")).close()


def test_without_locks_of_the_system_the_process_number_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    path = tmp_path / "lock"
    Lock(path, tmp_path).close()  # a new one
    mine = json.loads(path.read_text())
    sleeper = subprocess.Popen(["sleep", "60"])
    with sleeper:
        since = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19]
        path.write_text(json.dumps(mine | {"pid": sleeper.pid, "since": since}))
        with pytest.raises(OutputError, match=f"process {sleeper.pid}"):
            Lock(path, tmp_path)
        path.write_text(json.dumps(mine | {"pid": sleeper.pid, "since": "7"}))  # its number, given anew
        Lock(path, tmp_path).close()
        path.write_text(json.dumps(mine | {"pid": sleeper.pid, "since": since, "host": "elsewhere"}))
        with pytest.raises(OutputError, match="on elsewhere"):
            Lock(path, tmp_path)
        sleeper.kill()
    path.write_text("")  # killed before it could write
    Lock(path, tmp_path).close()


# The folder


def test_a_run_that_ends_leaves_its_results_alone(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "one", OPTIONS) as run:
        assert is_unfinished(run.path)
        write_json(run.staging / "report.json", {})
        (run.staging / "0.50").mkdir()
        write_json(run.staging / "0.50" / "report.json", {})
        run.journal.put({"x": 1})
    assert names(run.path) == {"report.json", "0.50", "0.50/report.json"}
    assert finish(run.path)


@pytest.mark.parametrize("exists", [False, True])
def test_bad_input_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "one"
    if exists:
        folder.mkdir()
    with pytest.raises(UsageError), RunFolder(folder, OPTIONS) as run:
        run.journal.recall("model", lambda: "abc")
        raise UsageError("no")
    assert list(tmp_path.rglob("*")) == [folder] * exists


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), TrainingError("NaN"), MemoryError()])
def test_what_was_found_out_stays(tmp_path: Path, failure: BaseException) -> None:
    folder = tmp_path / "one"
    with pytest.raises(type(failure)) as caught, RunFolder(folder, OPTIONS, again="prune again") as run:
        run.journal.put({"score": 1})
        write_json(run.staging / "plan.json", {})
        raise failure
    assert caught.value.__notes__ == ["go on with: prune again"]
    assert is_unfinished(folder) and not (folder / "plan.json").exists()
    with pytest.raises(OutputError, match="holds an unfinished run") as refused:
        RunFolder(folder, OPTIONS, again="prune again").__enter__()
    assert "prune again" in refused.value.hint and "--force" in refused.value.hint
    with RunFolder(folder, OPTIONS, resume=True) as run:
        assert run.journal.get("score") == 1 and names(run.staging) == set()
        write_json(run.staging / "plan.json", {})
    assert names(folder) == {"plan.json"}


def test_a_resumed_run_loses_nothing_by_bad_input(tmp_path: Path) -> None:
    cut_short(tmp_path / "one")
    with pytest.raises(UsageError), RunFolder(tmp_path / "one", OPTIONS, resume=True):
        raise UsageError("no")
    assert is_unfinished(tmp_path / "one")


def test_force_starts_over_and_is_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    cut_short(folder)
    (folder / "report.json").write_text("old")
    (folder / "mine.txt").write_text("mine")
    cut_short(folder, force=True)
    with RunFolder(folder, OPTIONS, resume=True) as run:
        assert run.journal.get("score") is not None and run.force
        write_json(run.staging / "report.json", {})
    assert (folder / "report.json").read_text() == "{}\n" and names(folder) == {"report.json", "mine.txt"}
    with pytest.raises(OutputError, match="is not empty"):
        RunFolder(folder, OPTIONS).__enter__()
    assert names(folder) == {"report.json", "mine.txt"}


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "one", OPTIONS) as first:
        for more in ({}, {"force": True}, {"resume": True}):
            with pytest.raises(OutputError, match=f"another run, process {os.getpid()} on"):
                RunFolder(tmp_path / "one", OPTIONS, **more).__enter__()
        with pytest.raises(OutputError, match="another run"):
            finish(tmp_path / "one")
        write_json(first.staging / "report.json", {})
    assert names(tmp_path / "one") == {"report.json"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 2}, "was started with --seed 1, not with --seed 2"),
        ({"seed": None}, "was started with --seed 1, not without --seed"),
        ({"force-it": True}, "was started without --force-it, not with --force-it"),
        ({"limit": ["a=2"]}, "--limit"),
    ],
)
def test_other_options_are_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    cut_short(tmp_path / "one")
    options = {k: v for k, v in (OPTIONS | change).items() if v is not None}
    with pytest.raises(ResumeError, match=words) as caught:
        RunFolder(tmp_path / "one", options, resume=True).__enter__()
    assert caught.value.hint and is_unfinished(tmp_path / "one")


def test_options_that_count_later_may_change_and_are_remembered(tmp_path: Path) -> None:
    cut_short(tmp_path / "one", force=True)
    options = OPTIONS | {"lr": 0.1}
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "one", options, resume=True, late=("lr",)):
        raise KeyboardInterrupt
    with pytest.raises(ResumeError, match="--lr 0.1, not without"):
        RunFolder(tmp_path / "one", OPTIONS, resume=True).__enter__()
    with RunFolder(tmp_path / "one", options, resume=True) as run:
        assert run.force


def test_another_version_is_refused(tmp_path: Path) -> None:
    cut_short(tmp_path / "one")
    file = tmp_path / "one" / HOME / "run.json"
    data = json.loads(file.read_text())
    data["versions"]["torch"] = "2.12.0"
    file.write_text(json.dumps(data))
    with pytest.raises(ResumeError, match=r"was started by torch 2\.12\.0, this is 2\.") as caught:
        RunFolder(tmp_path / "one", OPTIONS, resume=True).__enter__()
    assert "that version" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "prune-run", "version": 2}'])
def test_a_damaged_state_is_told(tmp_path: Path, content: str) -> None:
    cut_short(tmp_path / "one")
    (tmp_path / "one" / HOME / "run.json").write_text(content)
    for more in ({"resume": True}, {}):
        with pytest.raises(ResumeError, match="run.json is damaged") as caught:
            RunFolder(tmp_path / "one", OPTIONS, **more).__enter__()
        assert "--force" in caught.value.hint
    with RunFolder(tmp_path / "one", OPTIONS, force=True) as run:
        assert run.journal.get("score") is None


def test_where_there_is_nothing_to_resume(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        for ask in (finish, lambda f: RunFolder(f, OPTIONS, resume=True).__enter__()):
            with pytest.raises(ResumeError, match="holds no unfinished run"):
                ask(folder)
    assert list(tmp_path.iterdir()) == []


def test_the_same_number_of_threads_sums_up(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    cut_short(tmp_path / "one")
    file = tmp_path / "one" / HOME / "run.json"
    file.write_text(file.read_text().replace(f'"threads": {before}', '"threads": 3'))
    try:
        with RunFolder(tmp_path / "one", OPTIONS, resume=True):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_another_working_folder_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_short(tmp_path / "one")
    before = os.getcwd()
    monkeypatch.chdir(tmp_path)
    with RunFolder(tmp_path / "one", OPTIONS, resume=True) as run:
        assert f"was started in {before}" in run.notes[0]


# Moving into place


@pytest.mark.parametrize("moved", range(5))
def test_a_move_that_was_cut_short_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    folder, replace, calls = tmp_path / "one", os.replace, []
    files = ["a.onnx", "plan.json", "report.html", "report.json"]

    def cut(source: Path, target: Path) -> None:
        if Path(target).parent == folder:
            if len(calls) == moved:
                raise KeyboardInterrupt
            calls.append(Path(target).name)
        replace(source, target)

    def run(**more: bool) -> None:
        with RunFolder(folder, OPTIONS, **more) as run:
            for name in reversed(files):
                (run.staging / name).write_text(f"{{}} {name}")

    monkeypatch.setattr(os, "replace", cut)
    if moved < len(files):
        with pytest.raises(KeyboardInterrupt):
            run()
        assert calls == files[:moved] and is_unfinished(folder)  # what tells of the others comes last
    else:
        run()
    monkeypatch.setattr(os, "replace", replace)
    assert finish(folder) or moved == len(files)
    assert names(folder) == set(files) and (folder / "plan.json").read_text() == "{} plan.json"


def test_a_run_may_also_be_done_again_when_its_move_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**more: bool) -> None:
        with RunFolder(tmp_path / "one", OPTIONS, **more) as run:
            write_json(run.staging / "plan.json", {})
            write_json(run.staging / "report.json", {})

    monkeypatch.setattr("prune.run_folder.sync", lambda p: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    run(resume=True)
    assert names(tmp_path / "one") == {"plan.json", "report.json"}


def test_old_reports_never_stand_beside_new_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    for name in ("model.onnx", "report.json"):
        (folder / name).write_text("old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), RunFolder(folder, OPTIONS, force=True) as run:
        (run.staging / "model.onnx").write_text("new")
        write_json(run.staging / "report.json", {})
        monkeypatch.setattr("prune.run_folder.os.replace", lambda *_: None)
        monkeypatch.setattr("prune.run_folder.sync", stop)
    assert not (folder / "report.json").exists()


def test_a_report_of_another_kind_goes_too(tmp_path: Path) -> None:
    """A curve over a single run, and the other way round: one folder has one report."""
    folder = tmp_path / "one"
    for new, old in (("report.json", "pareto.json"), ("pareto.json", "report.json")):
        with RunFolder(folder, OPTIONS, force=True) as run:
            write_json(run.staging / new, {})
        assert (folder / new).exists() and not (folder / old).exists()


def test_a_report_that_is_not_ours_stays_without_force(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "one", OPTIONS) as run:
        write_json(run.staging / "report.json", {})
        (tmp_path / "one" / "pareto.json").write_text("theirs")
    assert (tmp_path / "one" / "pareto.json").read_text() == "theirs"


def test_a_page_alone_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("")
    with pytest.raises(ResumeError, match="no unfinished run"):
        finish(tmp_path)


def test_files_that_came_in_the_meantime_are_not_lost(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    with (
        pytest.raises(OutputError, match="cannot be put in place: File exists") as caught,
        RunFolder(folder, OPTIONS, again="prune again") as run,
    ):
        (run.staging / "plan.json").write_text("ours")
        (folder / "plan.json").write_text("theirs")
    assert (folder / "plan.json").read_text() == "theirs" and str(run.staging) in caught.value.hint
    with pytest.raises(PruneError, match="File exists"), RunFolder(folder, OPTIONS, resume=True) as run:
        (run.staging / "plan.json").write_text("ours")
    (folder / "plan.json").unlink()
    assert not finish(folder)
    with RunFolder(folder, OPTIONS, resume=True) as run:
        (run.staging / "plan.json").write_text("ours")
    assert (folder / "plan.json").read_text() == "ours"


# Places that cannot be


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path / "file", "is a file"), (Path("/proc/new"), "cannot be written")):
        with pytest.raises(OutputError, match=words) as caught:
            RunFolder(path, OPTIONS).__enter__()
        assert caught.value.hint
    tmp_path.chmod(0o500)
    if not os.access(tmp_path, os.W_OK):  # root may write everywhere
        with pytest.raises(OutputError, match="Permission denied"):
            RunFolder(tmp_path / "one", OPTIONS).__enter__()
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("room", [10, 100])
def test_a_disk_that_is_full_from_the_start_gets_nothing(tmp_path: Path, room: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # for the lock, or for the options
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            RunFolder(tmp_path / "one", OPTIONS).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == set()
