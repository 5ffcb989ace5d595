"""Ctrl-C ends a command whatever it is at: in one operator of torch, or in code that catches everything."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prune.interrupts import EXIT_CODE, interruptible

ROOT = Path(__file__).resolve().parent.parent
START = "import sys, time; from prune.interrupts import interruptible\n"
STUBBORN = """
with interruptible(lambda: "go on with: prune again"):
    told = 0
    while True:
        try: told = told or print("ready", flush=True) or 1; time.sleep(60)
        except KeyboardInterrupt: print("swallowed", flush=True)
"""
IN_TORCH = """
import torch
matrix = torch.randn(5000, 5000)
with interruptible(lambda: "go on with: prune again"):
    told = 0
    while True:  # each time minutes with no instruction of Python in between
        try: told = told or print("ready", flush=True) or 1; torch.linalg.svd(matrix)
        except KeyboardInterrupt: pass
"""
POLITE = """
with interruptible(lambda: "never said"):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt: sys.exit(130)
"""


def stopped(code: str, *signals: signal.Signals) -> tuple[int, str, str]:
    """Exit code and output of a process that gets signals once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in signals:
        process.send_signal(number)
        if number != signals[-1]:
            assert process.stdout.readline() == "swallowed\n"
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [STUBBORN, IN_TORCH], ids=["stubborn", "in torch"])
def test_what_does_not_end_is_ended(code: str, number: signal.Signals) -> None:
    returned, _, err = stopped(code, number)
    assert returned == EXIT_CODE and err == "\ngo on with: prune again\n"


def test_a_second_signal_ends_at_once() -> None:
    returned, _, err = stopped(STUBBORN.replace("60", "600"), signal.SIGINT, signal.SIGINT)
    assert returned == EXIT_CODE and "go on with" in err


def test_what_ends_by_itself_says_its_own(tmp_path: Path) -> None:
    assert stopped(POLITE, signal.SIGINT) == (EXIT_CODE, "", "")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(lambda: ""):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1
