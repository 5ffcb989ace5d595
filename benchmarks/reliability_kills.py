"""Kills a run of ``prune compress`` at many moments, resumes it, and compares it with an unbroken one.

    python -m benchmarks.reliability_kills -o benchmarks/results/reliability_kills.json

The moments: before each call that changes a file of the run, halfway through each write of the journal, at
random times, and at random times of processes that are started afresh, each with its own order of sets. What
is killed is forked from a process that has imported everything, since an import takes longer than the run;
the kill is SIGKILL. A run is killed several times (--chain) before it may end, so that what was resumed is
killed, too. After each kill every file must be whole, and the end must be the same plan, weights, exports and
report as the unbroken run's, times aside, with nothing else left behind. Some moments are Ctrl-C, that is,
SIGINT, instead: how long does it take to end, with which exit code, and does it say how to go on?
"""

from __future__ import annotations

import argparse
import copy
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
from collections.abc import Callable, Sequence
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
from prune.tune import fit
from prune.tune_config import TuneConfig
from prune.unfinished import is_unfinished

ROOT = Path(__file__).resolve().parent.parent
ARCH = f"{__name__ if __name__ != '__main__' else 'benchmarks.reliability_kills'}:network"
SAME = ("plan.json", "graph.json", "model.safetensors", "native.safetensors", "model.onnx")
CALLS = ("write", "fsync", "replace", "unlink", "ftruncate", "pwrite")  # on files
_IMPORTS = 8.0  # seconds that a process takes to import everything, about
_TIMES = ("seconds", "torch_ms", "onnx_ms", "speedup_torch", "speedup_onnx")


@dataclass(frozen=True)
class Moment:
    """When and how a run is cut short.

    Attributes:
        kind: ``call`` (killed before it), ``half`` (in the middle of what it writes), ``time``, ``fresh``
            (the same, of a process that imports everything itself), ``ctrl-c`` (SIGINT instead).
        share: of the unbroken run's time; of a call its place among all of them.
        call: the call, with its number among those of the same name.
    """

    kind: str
    share: float
    call: str = ""


@dataclass(frozen=True)
class Cut:
    """What came of one moment.

    Attributes:
        moment: when the run was cut short.
        resumed: whether it had been cut short before.
        state: what was there then: ``nothing``, ``unfinished`` or ``finished``.
        code: exit code, negative for a signal.
        seconds: from the signal to the end of the process.
        wrong: files that are not whole, or another end than the signal should have.
    """

    moment: Moment
    resumed: bool
    state: str
    code: int
    seconds: float
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """A run that was cut short again and again, and then left to end.

    Attributes:
        cuts: in turn.
        wrong: what differs from the unbroken run.
    """

    cuts: tuple[Cut, ...]
    wrong: tuple[str, ...]


def network(num_classes: int = 10) -> CifarResNet:
    """A ResNet of 8 layers and 8 channels, for images of 1 channel."""
    return CifarResNet(8, num_classes, 1, 8)


def make_model(path: Path, seed: int = 0) -> None:
    """Train the network for two epochs and write it."""
    data = load_embedded("digits")
    torch.manual_seed(seed)
    module = network()
    fit(module, data, TuneConfig(epochs=2, lr=0.1))
    save_model(path, module, arch=ARCH, arch_args={}, input_shape=data.input_shape, data="digits", metrics={})


def command(model: Path, folder: Path) -> list[str]:
    """The run: every stage, as short as it can be."""
    words = ["compress", str(model), "--arch", ARCH, "--flops", "0.5", "-o", str(folder), "--workers", "1"]
    # ARCH is a function of a module: whoever resumes must say again that it may run, as the report tells.
    return [*words, "--episodes", "8", "--epochs", "2", "--images", "32", "--trust-code"]


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
        self._asked: list[str] = []
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            where = _place(args[0])
            if kwargs.get("dir_fd") is not None:
                where = f"{_place(kwargs['dir_fd'])}/{where}"
            if not where.startswith(self.folder) or os.path.isdir(where):
                return call(*args, **kwargs)
            told = re.sub(r"partial-\d+", "partial-PID", f"{name} {where.removeprefix(self.folder)}")
            if name == "write":  # of the journal: the first question that is answered
                told += " " + json.loads(bytes(args[1]).splitlines()[0])[0]
                self._asked = told.split()[2:]
            elif name == "fsync" and where.endswith(".jsonl"):
                told += " " + " ".join(self._asked)
            told += f" #{sum(n.startswith(told) for n in self.names) + 1}"
            self.names.append(told)
            if self.moment is not None and self.moment.call == told:
                if self.moment.kind == "half":
                    call(args[0], args[1][: len(args[1]) // 2])
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
            report = {"calls": calls.names, "modules": sorted(sys.modules)}
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
    for told in (report, other):
        told["command"][told["command"].index("-o") + 1] = "FOLDER"
    found += [f"report: {key} differs" for key in other if report.get(key) != other[key]]
    names, others = ({str(p.relative_to(f)) for p in f.rglob("*")} for f in (folder, wanted))
    return found + [f"{name} is left over or missing" for name in sorted(names ^ others)]


# The experiment


class Lab:
    """A model, an unbroken run, and as many broken ones as one likes.

    Args:
        home: an empty folder.
        warm: time the unbroken run once more, when everything that it needs is imported.
    """

    def __init__(self, home: Path, *, warm: bool = True) -> None:
        self.home, self.model = home, home / "model.pt"
        self.folder, self.wanted, self.log = home / "run", home / "wanted", home / "log"
        make_model(self.model)
        for _ in range(1 + warm):
            shutil.rmtree(self.wanted, ignore_errors=True)
            start = time.perf_counter()
            self._run(command(self.model, self.folder), check=True)
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

    def part(self, number: int) -> Lab:
        """The same laboratory with a folder of its own."""
        found = copy.copy(self)
        found.folder, found.log = self.home / f"run-{number}", self.home / f"log-{number}"
        return found

    def _run(self, words: list[str], *, check: bool) -> int:
        code = ended(forked(words, self.folder, self.log))
        if check and code:
            raise RuntimeError(f"exit code {code}: {self.log.read_text()[-2000:]}")
        return code

    def moments(self, times: int, fresh: int, ctrl_c: int, seed: int = 0) -> list[Moment]:
        """Before each call, halfway through each write of the journal, and at random times, well spread."""
        total, draw = len(self.calls), random.Random(seed)
        found = [Moment("call", i / total, name) for i, name in enumerate(self.calls)]
        found += [Moment("half", m.share, m.call) for m in found if m.call.startswith("write ")]
        for kind, count in (("time", times), ("fresh", fresh), ("ctrl-c", ctrl_c)):
            found += [Moment(kind, (i + draw.random()) / count) for i in range(count)]
        return sorted(found, key=lambda m: m.share)

    def chain(self, moments: Sequence[Moment]) -> Chain:
        """Start a run, cut it short at each moment in turn and resume it, let it end, and compare."""
        shutil.rmtree(self.folder, ignore_errors=True)
        words, cuts = command(self.model, self.folder), []
        again = ["compress", "--resume", str(self.folder), "--trust-code"]
        for moment in moments:
            cuts.append(self._cut(words, moment, resumed=words == again))
            if cuts[-1].state == "nothing":
                code = self._run(again, check=False)
                if code != 2 or "holds no unfinished run" not in self.log.read_text():
                    return Chain(tuple(cuts), (f"resuming nothing: exit code {code}",))
            else:
                words = again
        last_is_fresh = moments[-1].kind == "fresh"
        code = fresh(words, self.log).wait() if last_is_fresh else self._run(words, check=False)
        if code:
            return Chain(tuple(cuts), (f"exit code {code}: {self.log.read_text()[-500:]}",))
        return Chain(tuple(cuts), tuple(differences(self.folder, self.wanted)))

    def _cut(self, words: list[str], moment: Moment, *, resumed: bool) -> Cut:
        start, sent = time.perf_counter(), signal.SIGINT if moment.kind == "ctrl-c" else signal.SIGKILL
        if moment.call:
            code = ended(forked(words, self.folder, self.log, moment))
        else:
            if moment.kind == "fresh":
                pid, seconds = fresh(words, self.log).pid, self.seconds + _IMPORTS
            else:
                pid, seconds = forked(words, self.folder, self.log), self.seconds
            time.sleep(moment.share * seconds)
            start = time.perf_counter()
            os.kill(pid, sent)
            code = ended(pid)
        seconds = time.perf_counter() - start
        state = "nothing"
        if is_unfinished(self.folder):
            state = "unfinished"
        elif (self.folder / "report.json").exists():
            state = "finished"
        wrong = not_whole(self.folder) if self.folder.exists() else []
        if code not in (0, EXIT_CODE if sent == signal.SIGINT else -sent):
            wrong.append(f"exit code {code}")
        told = "".join(self.log.read_text().split())
        if code == EXIT_CODE and state == "unfinished":
            wanted = f"interrupted; go on with: prune compress --resume {self.folder}"
            if "".join(wanted.split()) not in told:
                wrong.append(f"it does not say how to go on: {told[-200:]}")
        return Cut(moment, resumed, state, code, seconds, tuple(wrong))


def work(lab: Lab, part: int, chains: Sequence[Sequence[Moment]], out: Path) -> int:
    """Cut runs short in a process of its own, and write a line of JSON for each; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()  # as if each were started from a terminal of its own
        with out.open("w", encoding="utf-8") as file:
            for moments in chains:
                entry = asdict(lab.part(part).chain(moments))
                file.write(json.dumps(entry) + "\n")
                print(told(entry), flush=True)
        code = 0
    except BaseException as err:  # noqa: BLE001 - the parent must not go on in the child
        print(f"{type(err).__name__}: {err}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def told(entry: dict[str, Any]) -> str:
    """A result in words."""
    lines = []
    for cut in entry["cuts"]:
        moment = cut["moment"]
        when = moment["call"] or f"{moment['share']:.0%}"
        end = f"exit code {cut['code']} after {cut['seconds']:.2f} s" if moment["kind"] == "ctrl-c" else ""
        lines.append(f"{moment['kind']} {when}: {cut['state']} {end} {'; '.join(cut['wrong'])}".rstrip())
    return "\n".join([*lines, "  in the end: " + ("; ".join(entry["wrong"]) or "the same")])


def main() -> None:
    """Run it, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=24)
    parser.add_argument("--fresh", type=int, default=4)
    parser.add_argument("--ctrl-c", type=int, default=12)
    parser.add_argument("--chain", type=int, default=4, help="cuts of one run before it may end")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        lab = Lab(home)
        print(f"unbroken run: {lab.seconds:.1f} s, {len(lab.calls)} calls that change a file", flush=True)
        moments = lab.moments(options.times, options.fresh, options.ctrl_c)
        count = -(-len(moments) // options.chain)
        planned = [moments[i::count] for i in range(count)]  # each over the whole run
        pids = [work(lab, i, planned[i :: options.jobs], home / f"{i}.jsonl") for i in range(options.jobs)]
        failed = any([ended(pid) for pid in pids])
        chains = [json.loads(line) for path in sorted(home.glob("*.jsonl")) for line in path.open()]
    cuts = [cut for chain in chains for cut in chain["cuts"]]
    rows = Counter((c["moment"]["kind"], c["code"], c["state"]) for c in cuts)
    print("cut short at | exit code | found then | moments")
    for (kind, code, state), count in sorted(rows.items()):
        print(f"{kind} | {code} | {state} | {count}")
    slowest = max((c["seconds"] for c in cuts if c["code"] == EXIT_CODE), default=0.0)
    wrong = [w for found in (*cuts, *chains) for w in found["wrong"]]
    kills = sum(c["code"] == -signal.SIGKILL for c in cuts)
    print(f"{kills} kills in {len(chains)} runs, {len(wrong)} things wrong; slowest Ctrl-C {slowest:.2f} s")
    if options.output is not None:
        data = {"unbroken_seconds": lab.seconds, "calls": lab.calls, "chains": chains}
        write_json(options.output, data)
    sys.exit(1 if failed or wrong else 0)


if __name__ == "__main__":
    main()
