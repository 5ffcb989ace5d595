"""Unfinished runs of somebody else's, which ``--resume`` would go on with: options, journal, results."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prune.unfinished import HOME, RUN_FILE, Unfinished
from tests.hostile.case import Case, Payload
from tests.hostile.honest import zoo_file

RESUME = ("compress", "--resume", "run")


def _run(options: dict[str, Any] | None = None, **changes: object) -> Callable[[Path, Payload], Path]:
    """An unfinished run; options may hold CANARY, which becomes a command of the shell."""

    def make(folder: Path, payload: Payload) -> Path:
        (folder / "m.pt").write_bytes(zoo_file())
        (folder / "evil.py").write_text(payload.python)
        home = folder / "run" / HOME
        home.mkdir(parents=True)
        found = Unfinished.new({"MODEL": "m.pt", "flops": "0.5"} | (options or {}), "run", False).to_json()
        text = json.dumps(found | changes).replace("CANARY", payload.shell)
        (home / RUN_FILE).write_text(text)
        return home

    return make


def _with(change: Callable[[Path], object], **options: Any) -> Callable[[Path, Payload], object]:
    return lambda folder, payload: change(_run(options)(folder, payload))


def _line(key: str, value: object) -> str:
    said = json.dumps([key, value], separators=(",", ":"))
    return json.dumps([key, value, f"{zlib.crc32(said.encode()):08x}"], separators=(",", ":")) + "\n"


def _linked(home: Path) -> None:
    """Results that would be moved through a link, out of the folder."""
    (home.parents[1].parent / "target").mkdir()
    (home.parent / "sub").symlink_to(home.parents[1].parent / "target")
    (home / "results" / "sub").mkdir(parents=True)
    (home / "results" / "sub" / "authorized_keys").write_text("evil")
    (home / "journal.jsonl").write_text(_line("moving", ["sub/authorized_keys"]))


def _text(text: bytes) -> Callable[[Path], object]:
    return lambda home: (home / RUN_FILE).write_bytes(text)


def cases() -> Iterator[Case]:
    """Hostile unfinished runs."""
    made: dict[str, tuple[str, Callable[[Path, Payload], object], str]] = {
        "model to import": ("calls any function", _run({"MODEL": "os:system", "arch-args": '{"command": "CANARY"}'}), "would run code"),
        "model of the folder": ("imports a module that lies about", _run({"MODEL": "evil:net"}), "would run code"),
        "architecture to import": ("calls any function", _run({"arch": "os:system", "arch-args": '{"command": "CANARY"}'}), "would run code"),
        "data to import": ("imports a module", _run({"data": "evil:data"}), "would run code"),
        "workers elsewhere": ("connects", _run({"workers": "ray:127.0.0.1:1"}), "would run code"),
        "trusts itself": ("allows code", _run({"MODEL": "evil:net", "trust-code": True}), "would run code"),
        "unknown option": ("no option", _run({"evil": 1}), "unknown option"),
        "option of a list": ("no value", _run({"flops": [1]}), "must be"),
        "model of a number": ("no name", _run({"MODEL": 7}), "no model"),
        "versions of a list": ("no table", _run(versions=[1]), "damaged"),
        "threads of text": ("no number", _run(threads="many"), "damaged"),
        "another version": ("of the future", _run(version=9), "damaged"),
        "not JSON": ("garbage", _with(_text(b"{")), "damaged"),
        "deep": ("nested 100,000 times", _with(_text(b'{"a":' * 100_000)), "damaged"),
        "large": ("17 MB", _with(_text(b'{"a":"' + b"x" * (17 << 20) + b'"}')), "damaged"),
        "a list": ("no table", _with(_text(b"[]")), "damaged"),
        "pipe": ("waits for ever", _with(lambda home: ((home / RUN_FILE).unlink(), os.mkfifo(home / RUN_FILE))), "regular file"),
        "journal of a pipe": ("waits for ever", _with(lambda home: os.mkfifo(home / "journal.jsonl")), "regular file"),
        "journal of zeros": ("never ends", _with(lambda home: (home / "journal.jsonl").symlink_to("/dev/zero")), "regular file"),
        "results that leave": ("a link in the folder leads out", _with(_linked), "leads out"),
        "another output": ("a folder elsewhere", _run(output="../elsewhere", versions={"prune": "0"}), "was started by"),
        "missing": ("nothing to go on with", lambda f, p: (f / "run").mkdir(), "no unfinished run"),
    }  # fmt: skip
    for name, (why, make, says) in made.items():
        yield Case(f"resume: {name}", why, make, RESUME, says=says)
