"""Hostile files through the command line's own functions: none runs, each ends with a clear line and exit 2.

All of them, each in a process of its own with limits of time and memory, are run by
``benchmarks/reliability_files.py``; here those that take milliseconds, and a few in a real process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from front.commands import terminal
from tests.hostile import Case, cases
from tests.hostile.case import Payload
from tests.hostile.runner import command_line, forked, listening, run_case

ROOT = Path(__file__).parents[1]
CASES = cases()
# One of each kind in a process of its own, as a user starts it.
REAL = (
    "pickle: os.system",
    "legacy pickle: inst",
    "archive: bomb",
    "graph: power",
    "folder: remote code",
    "special: pipe",
)
SHARE = 3  # of the routes of pickles, which take the same way, every third


def quick() -> list[Case]:
    """What is run here."""
    by_route = [c for c in CASES if c.name.startswith("pickle: ") and "." in c.name]
    left_out = {c.name for i, c in enumerate(by_route) if i % SHARE}
    return [c for c in CASES if not c.slow and c.name not in left_out]


@pytest.fixture(scope="module")
def port() -> Iterator[tuple[int, Callable[[], bool]]]:
    with listening() as found:
        yield found


def test_there_are_more_than_two_hundred() -> None:
    assert len(CASES) >= 200
    assert len({c.name for c in CASES}) == len(CASES)
    assert all(c.why for c in CASES)


@pytest.mark.parametrize("case", [pytest.param(c, id=re.sub(r"[^\w .:-]", "_", c.name)) for c in quick()])
def test_a_hostile_file_is_one_clear_line(
    case: Case, tmp_path: Path, port: tuple[int, Callable[[], bool]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, payload = tmp_path / "case", Payload(tmp_path / "canary", port[0])
    folder.mkdir()
    case.make(folder, payload)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(terminal.console, "width", 4000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as cli.main does
        with pytest.raises(SystemExit) as end:
            command_line()(list(case.command), prog_name="prune")
    told = "".join(capsys.readouterr())
    assert not payload.canary.exists() and not (folder / "evil").exists() and not port[1]()
    assert end.value.code == 2 or (case.harmless and end.value.code == 0), told
    if end.value.code == 2:
        assert "prune itself failed" not in told and "Traceback" not in told
        assert case.says in told
        assert (
            len([line for line in told.splitlines() if line.startswith("error:")]) == 1
            or case.command[0] == "gate"
        )


@pytest.mark.parametrize("name", REAL)
def test_a_real_process_says_the_same(name: str, tmp_path: Path) -> None:
    case = next((c for c in CASES if c.name == name), None)
    if case is None:
        pytest.skip("needs transformers")
    payload = Payload(tmp_path / "canary", 9)
    (tmp_path / "case").mkdir()
    case.make(tmp_path / "case", payload)
    done = subprocess.run(
        [sys.executable, "-m", "cli", *case.command], cwd=tmp_path / "case", capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and not payload.canary.exists()
    assert re.fullmatch(r"error: .+\n(hint: .+\n)?", done.stderr), done.stderr
    assert case.says in done.stderr


# The runner itself: what it is there for, it finds.


def _evil(folder: Path, payload: Payload) -> None:
    (folder / "m.pt").write_text("not a model\n")


def test_the_runner_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.hostile import runner

    case = Case("c", "w", _evil, says="it is text")
    hold: list[bytes] = []
    behaviours: dict[str, Callable[[], object]] = {
        "ran": lambda: (tmp_path / "ran" / "canary").touch(),
        "wrote outside": lambda: (tmp_path / "wrote outside" / "stray").touch(),
        "took 600": lambda: hold.append(b"x" * (600 << 20)),
        "exit code -9": lambda: os.kill(os.getpid(), 9),
        "traceback": lambda: 1 // 0,
    }
    for fault, behave in behaviours.items():

        def command(words: tuple[str, ...], act: Callable[[], object] = behave) -> int:
            act()
            print("error: m.pt: it is text")
            return 2

        monkeypatch.setattr(runner, "_command", command)
        with listening() as (number, knocked):
            found = run_case(case, tmp_path / fault, number, knocked)
        assert any(f.startswith(fault) for f in found.faults), (fault, found)
        assert len(found.faults) == 1 or fault in ("exit code -9", "traceback")


def test_what_waits_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code, *_ = forked(lambda: len((tmp_path / "pipe").read_bytes()), tmp_path, limit=1.0)
    assert code == -14
