"""Kills a run of ``prune compress`` at many moments, resumes it, and compares it with an unbroken one.

    python -m benchmarks.reliability_kills -o benchmarks/results/reliability_kills.json

The moments: before each call with which the run changes the disk (and after the last), halfway through each
write of the journal, random times, and random times of processes that are started afresh, each with its own
order of sets. Whatever is killed is forked from a process that has imported everything, since an import takes
longer than the run; the kill is SIGKILL. After each one every file must be whole, and ``--resume`` must end
with the same plan, weights, exports and report, times aside, and leave nothing else behind. Then the same run
is interrupted by SIGINT at random times: how long it takes to end, and whether it can be resumed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load_file

import cli
from models_zoo.data import load_embedded
from models_zoo.resnet_cifar import CifarResNet
from prune.files import write_json
from prune.interrupts import EXIT_CODE
from prune.load import save_model
from prune.run_folder import is_unfinished
from prune.tune import TuneConfig, fit

ROOT = Path(__file__).resolve().parent.parent
ARCH = f"{__name__ if __name__ != '__main__' else 'benchmarks.reliability_kills'}:network"
SAME = ("plan.json", "graph.json", "model.safetensors", "native.safetensors", "model.onnx")
CALLS = ("write", "fsync", "replace", "unlink", "ftruncate", "pwrite")  # on files
_TIMES = ("seconds", "torch_ms", "onnx_ms", "speedup_torch", "speedup_onnx")


@dataclass(frozen=True)
class Moment:
    """When a run is killed.

    Attributes:
        kind: ``call`` (before it), ``half`` (of a write), ``time`` (seconds since its start), ``fresh`` (the
            same in a process of its own).
        at: number of the call, or the share of the unbroken run's time.
    """

    kind: str
    at: float


@dataclass(frozen=True)
class Outcome:
    """What came of one.

    Attributes:
        moment: when it was killed.
        call: the call before which that was.
        state: what was there then: ``nothing``, ``unfinished`` or ``finished``.
        wrong: what differs from the unbroken run, or is not whole; empty if all is well.
        seconds: that resuming took.
    """

    moment: Moment
    call: str
    state: str
    wrong: tuple[str, ...]
    seconds: float


def network(num_classes: int = 10) -> CifarResNet:
    """A ResNet of 8 layers and 8 channels, for images of 1 channel."""
    return CifarResNet(8, num_classes, 1, 8)


def make_model(path: Path) -> None:
    """Train the network for two epochs and write it."""
    data = load_embedded("digits")
    torch.manual_seed(0)
    module = network()
    fit(module, data, TuneConfig(epochs=2, lr=0.1))
    save_model(path, module, arch=ARCH, arch_args={}, input_shape=data.input_shape, data="digits", metrics={})


def command(model: Path, folder: Path) -> list[str]:
    """The run: every stage, as short as it can be."""
    words = ["compress", str(model), "--arch", ARCH, "--flops", "0.5", "-o", str(folder), "--workers", "1"]
    return [*words, "--episodes", "8", "--epochs", "2", "--images", "32"]


# Killing


class Calls:
    """Counts the calls that change a folder, and kills the process at one of them.

    Args:
        folder: calls on other places do not count.
        moment: when to kill; never when None.
    """

    def __init__(self, folder: Path, moment: Moment | None = None) -> None:
        self.folder, self.moment = str(folder), moment
        self.names: list[str] = []
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            where = _place(args[0])
            if kwargs.get("dir_fd") is not None:
                where = f"{_place(kwargs['dir_fd'])}/{where}"
            if not where.startswith(self.folder) or os.path.isdir(where):
                return call(*args, **kwargs)
            at, moment = len(self.names), self.moment
            self.names.append(f"{name} {where.removeprefix(self.folder)}")
            if moment is not None and moment.at == at:
                if moment.kind == "half":
                    call(args[0], args[1][: len(args[1]) // 2])
                if moment.kind in ("call", "half"):
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted


def _place(path: Any) -> str:
    return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(os.fspath(path))


def forked(words: Sequence[str], folder: Path, log: Path, moment: Moment | None = None) -> int:
    """Start a command in a process of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        calls = Calls(folder, moment)
        sys.argv = ["prune", *words]
        try:
            cli.main()
        except SystemExit as err:
            code = err.code if isinstance(err.code, int) else int(err.code is not None)
        if moment is None:
            names = [re.sub(r"partial-\d+", "partial-PID", name) for name in calls.names]
            report = {"calls": names, "modules": sorted(sys.modules)}
            log.with_suffix(".calls").write_text(json.dumps(report))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fresh(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command as a user does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "random"}
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *words], stdout=out, stderr=out, cwd=ROOT, env=environment
        )


# Looking


def not_whole(folder: Path) -> list[str]:
    """Files of a folder that are only half there; places for files in the making do not count."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if any(".partial-" in part for part in path.relative_to(folder).parts):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".jsonl":
                for line in path.read_bytes().split(b"\n")[:-1]:  # a last line may be torn
                    json.loads(line)
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".onnx":
                onnx.checker.check_model(onnx.load(path))
            elif path.suffix == ".pt2":
                with zipfile.ZipFile(path) as archive:
                    assert archive.testzip() is None
            elif path.suffix == ".html":
                assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        except Exception as err:  # noqa: BLE001 - whatever a reader says to half a file
            found.append(f"{path.relative_to(folder)}: {err!r}"[:200])
    return found


def timeless(report: Any) -> Any:
    """A report without its times."""
    if isinstance(report, dict):
        return {k: timeless(v) for k, v in report.items() if k not in _TIMES}
    return [timeless(v) for v in report] if isinstance(report, list) else report


def differences(folder: Path, wanted: Path) -> list[str]:
    """What a resumed run ended with that the unbroken one did not."""
    both = {name: [(place / name).read_bytes() for place in (folder, wanted)] for name in SAME}
    found = [f"{name} differs" for name, (mine, theirs) in both.items() if mine != theirs]
    report, other = (timeless(json.loads((p / "report.json").read_text())) for p in (folder, wanted))
    found += [f"report: {key} differs" for key in other if report.get(key) != other[key]]
    names, others = ({str(p.relative_to(f)) for p in f.rglob("*")} for f in (folder, wanted))
    return found + [f"{name} is left over or missing" for name in sorted(names ^ others)]


# The experiment


class Lab:
    """A model, an unbroken run, and as many broken ones as one likes.

    Args:
        home: an empty folder.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.model = home, home / "model.pt"
        self.folder, self.wanted, self.log = home / "run", home / "wanted", home / "log"
        make_model(self.model)
        for _ in range(2):  # the first one imports what it needs
            shutil.rmtree(self.wanted, ignore_errors=True)
            start = time.perf_counter()
            self._run(command(self.model, self.folder))
            self.seconds = time.perf_counter() - start
            self.folder.rename(self.wanted)
            told = json.loads(self.log.with_suffix(".calls").read_text())
            self.calls: list[str] = told["calls"]
            for name in told["modules"]:
                if name != "__main__" and not name.startswith(("torch.classes", "torch.ops")):
                    try:
                        importlib.import_module(name)
                    except Exception:  # noqa: BLE001 - made while something ran, no file
                        continue

    def _run(self, words: list[str], moment: Moment | None = None) -> int:
        code = ended(forked(words, self.folder, self.log, moment))
        if moment is None and code:
            raise RuntimeError(f"exit code {code}: {self.log.read_text()[-2000:]}")
        return code

    def moments(self, times: int, fresh: int, seed: int = 0) -> list[Moment]:
        """All calls, all writes of the journal, and random times, none of them near another."""
        calls = [Moment("call", i) for i in range(len(self.calls))]
        halves = [Moment("half", i) for i, name in enumerate(self.calls) if name.startswith("write ")]
        draw = random.Random(seed)
        at = [Moment("time", (i + draw.random()) / times) for i in range(times)]
        return calls + halves + at + [Moment("fresh", (i + draw.random()) / fresh) for i in range(fresh)]

    def kill(self, moment: Moment) -> Outcome:
        """Kill a run at a moment, look at what is there, resume it, and compare."""
        shutil.rmtree(self.folder, ignore_errors=True)
        words, call = command(self.model, self.folder), ""
        if moment.kind in ("call", "half"):
            code, call = self._run(words, moment), self.calls[int(moment.at)]
        elif moment.kind == "time":
            code = self._killed_after(forked(words, self.folder, self.log), moment.at * self.seconds)
        else:
            process = fresh(words, self.log)
            code = self._killed_after(process.pid, moment.at * self._fresh_seconds)
        wrong = [] if code in (-signal.SIGKILL, 0) else [f"exit code {code}"]
        wrong += not_whole(self.folder) if self.folder.exists() else []
        state = "nothing"
        if is_unfinished(self.folder):
            state = "unfinished"
        elif (self.folder / "report.json").exists():
            state = "finished"
        start = time.perf_counter()
        wrong += self._resumed(state, in_fresh_process=moment.kind == "fresh")
        return Outcome(moment, call, state, tuple(wrong), time.perf_counter() - start)

    @property
    def _fresh_seconds(self) -> float:
        """A process that imports everything itself takes so long, about."""
        return self.seconds + 8.0

    def _killed_after(self, pid: int, seconds: float) -> int:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return ended(pid)

    def _resumed(self, state: str, *, in_fresh_process: bool = False) -> list[str]:
        """Go on and compare; where nothing was there yet, that must be said, and the run starts again."""
        again = ["compress", "--resume", str(self.folder)]
        if state == "nothing":
            code = ended(forked(again, self.folder, self.log))
            if code != 2 or "holds no unfinished run" not in self.log.read_text():
                return [f"resuming nothing: exit code {code}"]
            again = command(self.model, self.folder)
        if in_fresh_process:
            code = fresh(again, self.log).wait()
        else:
            code = ended(forked(again, self.folder, self.log))
        if code:
            return [f"resuming: exit code {code}: {self.log.read_text()[-500:]}"]
        return differences(self.folder, self.wanted)

    def interrupt(self, share: float) -> tuple[float, int, list[str]]:
        """Interrupt a run: seconds until it ended, its exit code, and what is wrong after resuming it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        pid = forked(command(self.model, self.folder), self.folder, self.log)
        time.sleep(share * self.seconds)
        start = time.perf_counter()
        os.kill(pid, signal.SIGINT)
        code = ended(pid)
        seconds = time.perf_counter() - start
        told = " ".join(self.log.read_text().split())
        wrong = []
        unfinished = is_unfinished(self.folder)
        if (
            code == EXIT_CODE
            and unfinished
            and f"go on with: prune compress --resume {self.folder}" not in told
        ):
            wrong.append(f"it does not say how to go on: {told[-200:]}")
        if code not in (0, EXIT_CODE):
            wrong.append(f"exit code {code}")
        done = (self.folder / "report.json").exists()
        wrong += self._resumed("unfinished" if unfinished else "finished" if done else "nothing")
        return seconds, code, wrong


def experiment(
    home: Path, *, times: int, fresh: int, interrupts: int, part: int = 0, parts: int = 1
) -> Iterator[dict[str, Any]]:
    """Kill and interrupt, one after the other: first what the unbroken run was like, then what came of each.

    Args:
        home: an empty folder.
        times: kills at random times.
        fresh: kills at random times of processes started afresh.
        interrupts: by SIGINT, at random times.
        part: of the moments only every so manieth, beginning with this one.
        parts: that they are shared out to.
    """
    lab = Lab(home)
    yield {"unbroken_seconds": lab.seconds, "calls": len(lab.calls)}
    for moment in lab.moments(times, fresh)[part::parts]:
        yield asdict(lab.kill(moment))
    draw = random.Random(1)
    for share in [(i + draw.random()) / interrupts for i in range(interrupts)][part::parts]:
        seconds, code, wrong = lab.interrupt(share)
        yield {"share": share, "ended_after_seconds": seconds, "code": code, "wrong": wrong}


def work(part: int, home: Path, options: argparse.Namespace) -> int:
    """One process's share of the experiment, as lines of JSON; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        (home / f"{part}").mkdir()
        found = experiment(
            home / f"{part}", times=options.times, fresh=options.fresh, interrupts=options.interrupts,
            part=part, parts=options.jobs,
        )  # fmt: skip
        with (home / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            for entry in found:
                file.write(json.dumps(entry) + "\n")
                print(told(entry), flush=True)
        code = 0
    except BaseException as err:  # noqa: BLE001 - the parent must not go on in the child
        print(f"{type(err).__name__}: {err}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def told(entry: dict[str, Any]) -> str:
    """A result in words."""
    end = "; ".join(entry.get("wrong", ())) or "the same"
    if "moment" in entry:
        moment = entry["moment"]
        return f"{moment['kind']} {moment['at']:.2f} {entry['call']}: {entry['state']}, {end}"
    if "code" in entry:
        return f"SIGINT: {entry['ended_after_seconds']:.2f} s, exit code {entry['code']}, {end}"
    return f"unbroken run: {entry['unbroken_seconds']:.1f} s, {entry['calls']} calls that change a file"


def main() -> None:
    """Run it, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=24)
    parser.add_argument("--fresh", type=int, default=4)
    parser.add_argument("--interrupts", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        failed = [code for code in map(ended, [work(i, home, options) for i in range(options.jobs)]) if code]
        entries = [json.loads(line) for path in sorted(home.glob("*.jsonl")) for line in path.open()]
    kills = [e for e in entries if "moment" in e]
    ends = [e for e in entries if "code" in e]
    rows = Counter((e["moment"]["kind"], e["state"], "wrong" if e["wrong"] else "same") for e in kills)
    print("killed at | found then | ended | moments")
    for (kind, state, end), count in sorted(rows.items()):
        print(f"{kind} | {state} | {end} | {count}")
    slowest = max((e["ended_after_seconds"] for e in ends if e["code"] == EXIT_CODE), default=0.0)
    print(f"{len(kills)} kills; {len(ends)} interrupts, the slowest ended after {slowest:.2f} s")
    if options.output is not None:
        write_json(options.output, {"entries": entries})
    if failed or any(e["wrong"] for e in kills + ends):
        sys.exit(1)


if __name__ == "__main__":
    main()
