"""Coverage: how much of everything is captured, pruned to half, proved and exported, and what holds it up.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py [--only a,b,c,d] [--limit N] [--jobs 2] [-o FILE]

Parts: (a) every network of the zoo, (b) architectures of the transformers library, (c) awkward modules,
(d) random networks by seed. Beside each model, in the same run, Torch-Pruning with its defaults. Every model
is measured in a process of its own with a limit of processor time (and of eight times that in all), so that a
hang is a result on a busy machine as on a quiet one. Results go line by line to
FILE with the ending .jsonl, and a run that was interrupted goes on there as long as the code is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Not benchmarks/ itself, where this file would hide the package of its name.
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks import coverage_ours, coverage_peer  # noqa: E402

SIDES = ("prune", "torch-pruning")
PEER_LIMIT_S = 25
LIMITS_S = {"a": 600, "b": 600, "c": 120, "d": 120}
PATIENCE = 8  # times the processor time, for a process that waits
RANDOM = 1000
ONNX_EVERY = 20  # of the random networks
CAPTIONS = {
    "a": "zoo",
    "b": "transformers architectures",
    "c": "awkward modules",
    "d": "random networks",
}


@dataclass(frozen=True)
class Task:
    """One model on one side.

    Attributes:
        part: a, b, c or d.
        name: of the model within its part.
        side: ``prune`` or ``torch-pruning``.
    """

    part: str
    name: str
    side: str

    @property
    def key(self) -> str:
        """Names the task in the results."""
        return f"{self.part}/{self.name}/{self.side}"

    @property
    def limit_s(self) -> int:
        """How much of the processor's time it may take."""
        return LIMITS_S[self.part] if self.side == "prune" else PEER_LIMIT_S


def names(part: str) -> list[str]:
    """The models of a part."""
    if part == "a":
        from models_zoo import registry

        return registry.names()
    if part == "b":
        from benchmarks.architectures import BY_NAME

        return list(BY_NAME)
    if part == "c":
        from benchmarks.awkward import MODULES

        return list(MODULES)
    return [str(seed) for seed in range(RANDOM)]


def build(part: str, name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model in eval mode and its inputs."""
    if part == "a":
        from benchmarks.awkward.case import scramble
        from models_zoo import registry

        torch.manual_seed(0)
        entry = registry.find(name)
        module = registry.build(entry.name).eval()
        scramble(module)
        return module, (torch.randn(2, *entry.input_shape),)
    if part == "b":
        from benchmarks import architectures

        return architectures.build(name)
    if part == "c":
        from benchmarks.awkward import MODULES

        return MODULES[name].build()
    from benchmarks import random_networks

    return random_networks.generate(int(name))


def work(task: Task, pipe: Connection) -> None:
    """Measure one model in this process; every finding is sent as soon as it is there."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (task.limit_s, task.limit_s + 1))  # then the system ends it
    start = time.process_time()
    try:
        module, example = build(task.part, task.name)
        if task.side == "prune":
            onnx = task.part != "d" or int(task.name) % ONNX_EVERY == 0
            seed = int(hashlib.sha256(task.name.encode()).hexdigest()[:8], 16)
            coverage_ours.measure(module, example, pipe.send, onnx=onnx, seed=seed)
        else:
            coverage_peer.measure(module, example, pipe.send)
    except Exception as err:  # noqa: BLE001 - whatever fails is the finding
        lines = str(err).splitlines() or [""]
        where = traceback.extract_tb(err.__traceback__)[-1]
        line = lines[0].replace(f"{Path(torch.__file__).parent.parent}/", "")  # no path of this machine
        told = f"{type(err).__name__}: {line[:300]}"
        pipe.send({"error": told, "where": f"{Path(where.filename).name}:{where.lineno}"})
    pipe.send({"seconds": time.process_time() - start, "ended": True})


def run(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Measure all, each in a process of its own; yields each when it has ended or was ended."""
    context = multiprocessing.get_context("fork")  # everything that is imported here is there at once
    waiting = list(reversed(tasks))
    running: dict[Connection, tuple[Task, Any, float, dict[str, Any]]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            task = waiting.pop()
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(task, theirs), daemon=True)
            process.start()
            theirs.close()
            running[mine] = (task, process, time.perf_counter() + PATIENCE * task.limit_s, {})
        ready = wait(list(running), timeout=0.2)
        for pipe, (task, process, deadline, found) in list(running.items()):
            over = late = False
            if pipe in ready:
                try:
                    found.update(pipe.recv())
                except EOFError:
                    over = True
            elif late := time.perf_counter() > deadline:
                over = True
            if over or found.get("ended"):
                process.join(1)
                process.kill()  # one that lingers on
                process.join()
                if not found.pop("ended", False):
                    late = late or process.exitcode == -signal.SIGXCPU
                    found.setdefault("error", f"no end in {task.limit_s} s" if late else "the process died")
                pipe.close()
                del running[pipe]
                yield task, found


def warm() -> None:
    """Import and run once what all workers need, so that each of them does not have to."""
    import torch_pruning  # noqa: F401

    from benchmarks.awkward import MODULES
    from profilers.onnx_runtime import onnxruntime  # noqa: F401

    torch.set_num_threads(1)
    module, example = MODULES["frozen"].build()
    coverage_ours.measure(module, example, lambda _: None, onnx=True, seed=0)


def fingerprint() -> str:
    """Of all code that the results depend on."""
    digest = hashlib.sha256()
    for room in ("graph", "models_zoo", "profilers", "prune", "benchmarks"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """What the results were obtained with."""
    from profilers.latency import environment

    packages = ("transformers", "torch-pruning", "onnx", "onnxscript", "numpy")
    return {**environment(), **{p: version(p) for p in packages}}


def stored(path: Path, header: Mapping[str, Any], fresh: bool) -> dict[str, dict[str, Any]]:
    """The results that an earlier run of the same code left; starts the file anew otherwise."""
    if not fresh and path.exists():
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        if lines and lines[0] == header:
            return {line["key"]: line["found"] for line in lines[1:]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(header) + "\n")
    return {}


Results = Mapping[str, dict[str, Any]]


def summary(part: str, results: Results) -> dict[str, Any]:
    """The figures of one part."""
    keys = [k for k in results if k.startswith(f"{part}/") and k.endswith("/prune")]
    ours = [results[k] for k in keys]
    theirs = [results.get(k.removesuffix("prune") + "torch-pruning", {}) for k in keys]
    proved = [f for f in ours if f.get("reached") == 1.0 or "random_error" in f]
    peers = Counter(
        "wrong" if coverage_peer.wrong(p, f.get("conclusive", False)) else p.get("result", "fails")
        for p, f in zip(theirs, ours, strict=True)
        if p
    )
    return {
        "models": len(ours),
        "captured": sum(bool(f.get("captured")) for f in ours),
        "verified": sum(not coverage_ours.failed(f) for f in proved),
        "half": sum(bool(f.get("half")) for f in ours),
        "nearest": sum(bool(f.get("nearest")) for f in ours),
        "lowest_at_most_half": sum(f.get("lowest", 1.0) <= 0.5 for f in ours),
        "prunable": _mean([1 - f["lowest"] for f in ours if "lowest" in f]),
        "onnx_tried": sum("onnx_error" in f or f.get("stage") == "native" and "error" in f for f in ours),
        "native_tried": sum("native" in f for f in ours),
        "native": sum(bool(f.get("native")) for f in ours),
        "onnx": sum("onnx_error" in f for f in ours),
        "wrong": sum(coverage_ours.failed(f) or f.get("capture_error", 0.0) > 1e-3 for f in ours),
        "worst_error": max((_worst(f) for f in ours), default=0.0),
        "seconds": _mean([f["seconds"] for f in ours if "seconds" in f]),
        "torch_pruning": dict(peers),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _worst(found: Mapping[str, Any]) -> float:
    return max(float(found.get("verify_error", 0.0)), float(found.get("random_error", 0.0)))


def reasons(results: Results) -> list[tuple[str, int, int]]:
    """Why channels are pinned: (reason, models, channels of parameters), most models first."""
    models: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    for found in results.values():
        for reason, count in found.get("pinned", {}).items():
            models[reason] += 1
            channels[reason] += count
    return [(r, n, channels[r]) for r, n in models.most_common()]


def unsupported(results: Results) -> list[tuple[str, int, int]]:
    """Operators without a rule: (operator, models, channels), most models first."""
    models: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    for found in results.values():
        for op, count in found.get("unsupported", {}).items():
            models[op] += 1
            channels[op] += count
    return [(o, n, channels[o]) for o, n in models.most_common()]


HEADER = (
    f"{'part':<29} {'models':>6} {'captured':>8} {'verified':>8} {'0.5±1%':>7} {'nearest':>7} "
    f"{'prunable':>8} {'own module':>10} {'ONNX':>9} {'wrong':>5} {'s each':>6}   "
    "Torch-Pruning: runs, wrong, no-op, other outputs, fails, hangs"
)


def row(part: str, told: Mapping[str, Any]) -> str:
    """One line of the table."""
    peer = told["torch_pruning"]
    kinds = ("runs", "wrong", "no-op", "other outputs", "fails", "hangs")
    return (
        f"{part} {CAPTIONS[part]:<27} {told['models']:>6} {told['captured']:>8} {told['verified']:>8} "
        f"{told['half']:>7} {told['nearest']:>7} {told['prunable']:>8.3f} "
        f"{told['native']:>5}/{told['native_tried']:<4} {told['onnx']:>4}/{told['onnx_tried']:<4} "
        f"{told['wrong']:>5} {told['seconds']:>6.1f}   " + ", ".join(str(peer.get(k, 0)) for k in kinds)
    )


def troubles(results: Results) -> Iterator[str]:
    """One line for each model with which something is not as it should be."""
    for key, found in results.items():
        if not key.endswith("/prune"):
            continue
        name = key.removesuffix("/prune")
        if "error" in found:
            yield f"{name}: after {found.get('stage', 'start')}: {found['error']} ({found.get('where', '')})"
        elif coverage_ours.failed(found):
            yield f"{name}: WRONG by {_worst(found):.1e} (untouched: {found.get('untouched')})"
        elif found.get("capture_error", 0.0) > 1e-3:
            yield f"{name}: the program differs from the model by {found['capture_error']:.1e}"
        elif not found.get("nearest"):
            pins = sorted(found.get("pinned", {}).items(), key=lambda p: -p[1])
            told = [f"{r} ({n})" for r, n in pins if "output of the model" not in r][:3]
            yield f"{name}: lowest {found['lowest']:.3f}, reached {found['reached']:.3f}: {'; '.join(told)}"


def show(results: Results, parts: Sequence[str]) -> dict[str, Any]:
    """Print the tables; the summary as data."""
    summaries = {p: summary(p, results) for p in parts}
    pins, missing = reasons(results), unsupported(results)
    print("\n".join(troubles(results)))
    print(HEADER)
    for part in parts:
        print(row(part, summaries[part]))
    print("\nwhat is pinned, and why: models, channels of parameters, reason")
    for reason, models, channels in pins[:25]:
        print(f"{models:6} {channels:8}  {reason}")
    print("\noperators without a rule: models, channels, operator")
    for op, models, channels in missing:
        print(f"{models:6} {channels:8}  {op}")
    return {"summary": summaries, "pinned": pins, "unsupported": missing}


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d", help="parts, such as c or a,c")
    parser.add_argument("--names", default="", help="models, separated by commas")
    parser.add_argument("--limit", type=int, default=RANDOM, help="models of each part")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--fresh", action="store_true", help="do not go on with an interrupted run")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/coverage.json"))
    options = parser.parse_args()
    parts = [p for p in "abcd" if p in options.only.split(",")]
    chosen = {n for n in options.names.split(",") if n}
    sides = SIDES[:1] if options.no_peer else SIDES
    tasks = [
        Task(part, name, side)
        for part in parts
        for name in names(part)[: options.limit]
        if not chosen or name in chosen
        for side in sides
    ]
    header = {"code": fingerprint(), "versions": versions()}
    stream = options.output.with_suffix(".jsonl")
    results = stored(stream, header, options.fresh)
    todo = [t for t in tasks if t.key not in results]
    print(f"{len(todo)} of {len(tasks)} measurements to do, results go to {stream}", flush=True)
    if todo:
        warm()
    with stream.open("a") as file:
        for count, (task, found) in enumerate(run(todo, options.jobs), start=1):
            results[task.key] = found
            file.write(json.dumps({"key": task.key, "found": found}) + "\n")
            file.flush()
            if sys.stderr.isatty() or count % 50 == 0:
                print(f"{count}/{len(todo)} {task.key}", file=sys.stderr, flush=True)
    wanted = {t.key: results[t.key] for t in tasks}
    told = show(wanted, parts)
    data = {"command": " ".join(["python", "benchmarks/coverage.py", *sys.argv[1:]]), **header, **told,
            "results": wanted}  # fmt: skip
    options.output.write_text(json.dumps(data, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
