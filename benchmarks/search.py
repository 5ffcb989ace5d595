"""Search: the best plan after so many episodes, for each agent, with and without a trained policy.

    OMP_NUM_THREADS=1 python benchmarks/search.py --model FILE --data NAME [--arch NAME] [--target 0.5]
        [--methods gnn-rl+policy,gnn-rl,agmc,amc,evolution,random] [--episodes 100] [--seeds 0,1,2] [-o FILE]

A method with ``+policy`` starts from the policy that comes with prune, or from ``--policy FILE``; the others
from fresh weights. All start at the best of the same baselines, are scored on the same images and may score
equally many plans. Runs go line by line to FILE with the ending .jsonl; a benchmark that was interrupted goes
on there as long as code and options are the same. Beside it: the table, the JSON and the plot as .png.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Not benchmarks/ itself, where this file would hide a module of its name.
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch  # noqa: E402

from graph import topology  # noqa: E402
from graph.program import ProgramModule  # noqa: E402
from prune.budget import Budget  # noqa: E402
from prune.importance import magnitude  # noqa: E402
from prune.load import ModelSource  # noqa: E402
from prune.plan import Plan  # noqa: E402
from prune.recalibrate import recalibrated  # noqa: E402
from prune.subject import must_find_data, open_model  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.trials import Problem  # noqa: E402
from prune.tune import Evaluation, evaluate  # noqa: E402
from rl import policy  # noqa: E402
from rl.reward import Evaluator  # noqa: E402
from rl.search import AGENTS, BASELINES, SearchConfig, search  # noqa: E402

METHODS = ("gnn-rl+policy", "gnn-rl", "agmc", "amc", "evolution", "random")
Runs = Mapping[str, dict[str, Any]]


class Bench:
    """One network, one data set, one target."""

    def __init__(self, options: argparse.Namespace) -> None:
        source = ModelSource(model=str(options.model), arch=options.arch)
        subject = open_model(source)
        data = must_find_data(options.data, subject.loaded)
        space = subject.space()
        self.options = options
        self.problem = Problem(
            subject.axes,
            space,
            Budget.of(space, macs=int(options.target * space.base_macs)),
            magnitude(subject.axes),
            data,
            lambda _: None,
        )
        self.graph = topology.build(subject.axes)
        self.evaluator = Evaluator(subject.axes, data, images=options.images)
        limit = min(len(data.train), options.calibration)
        self.calibration = [x for x, _ in data.train.batches(128, shuffle=True, limit=limit)]
        self.test = data.test

    def run(self, method: str, seed: int) -> dict[str, Any]:
        """Search once; what each plan was worth, and what the best one gets on the test images."""
        name, _, start = method.partition("+")
        config = SearchConfig(
            agent=name,
            episodes=self.options.episodes,
            seed=seed,
            reward=self.options.reward,
            policy=self.options.policy if start else policy.NONE,
            refine=self.options.refine,
        )
        cpu = time.process_time()
        found = search(self.problem, self.graph, self.evaluator, config)
        cpu = time.process_time() - cpu
        baselines = [t for t in found.trials if t.method in BASELINES]
        own = [t for t in found.trials if t.method not in BASELINES]
        test = self.tested(found.plan)
        return {
            "baselines": {t.method: [t.accuracy, t.loss] for t in baselines},
            "accuracy": [t.accuracy for t in own],
            "loss": [t.loss for t in own],
            "by": [t.method for t in own],
            "winner": found.plan.method,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "cpu_seconds": cpu,
        }

    def tested(self, plan: Plan) -> Evaluation:
        """Accuracy and loss on the test images, batch norm recalibrated on training images."""
        program = prune_program(self.problem.axes, plan)
        program = dataclasses.replace(
            program, tensors=recalibrated(program, program.tensors, self.calibration)
        )
        return evaluate(ProgramModule(program), self.test, limit=self.options.test_images)


def best_so_far(run: Mapping[str, Any], reward: str) -> list[float]:
    """The best worth after each episode, the baselines before the first."""
    worths = [a - 1 for a in run["accuracy"]] if reward == "error" else [-x for x in run["loss"]]
    start = [a - 1 if reward == "error" else -x for a, x in run["baselines"].values()]
    best, curve = max(start), []
    for worth in worths:
        best = max(best, worth)
        curve.append(best)
    return curve


def episodes_to(curve: Sequence[float], goal: float) -> int | None:
    """After how many episodes a curve reaches a goal; None if it never does."""
    return next((i for i, worth in enumerate(curve, start=1) if worth >= goal), None)


def summary(runs: Runs, methods: Sequence[str], seeds: Sequence[int], reward: str) -> dict[str, Any]:
    """The figures of each method over the seeds."""
    curves = {m: [best_so_far(runs[f"{m}/{s}"], reward) for s in seeds] for m in methods}
    goals = [c[-1] for c in curves["random"]] if "random" in curves else []
    goal = statistics.median(goals) if goals else None
    result = {}
    for method in methods:
        finals = [c[-1] for c in curves[method]]
        reached = [episodes_to(c, goal) for c in curves[method]] if goal is not None else []
        tests = [runs[f"{method}/{s}"]["test_accuracy"] for s in seeds]
        result[method] = {
            "best": statistics.mean(finals),
            "best_spread": statistics.pstdev(finals),
            "test_accuracy": statistics.mean(tests),
            "test_spread": statistics.pstdev(tests),
            "episodes_to_random": [r for r in reached],
            "cpu_seconds": statistics.mean(runs[f"{method}/{s}"]["cpu_seconds"] for s in seeds),
        }
    return result


def table(told: Mapping[str, Any], runs: Runs, reward: str) -> str:
    """The summary for people."""
    first = next(iter(runs.values()))
    lines = [f"baselines: {', '.join(f'{n} {a:.2%} / {x:.4f}' for n, (a, x) in first['baselines'].items())}"]
    what = "minus the error" if reward == "error" else "minus the loss"
    lines.append(f"{'method':<16} {'best, ' + what:<24} {'test accuracy':<18} {'to random:':<14} CPU s")
    for method, f in told.items():
        reached = "/".join("-" if e is None else str(e) for e in f["episodes_to_random"])
        lines.append(
            f"{method:<16} {f['best']:<+9.4f} ± {f['best_spread']:<12.4f} {f['test_accuracy']:<7.2%} "
            f"± {f['test_spread']:<8.2%} {reached:<14} {f['cpu_seconds']:.1f}"
        )
    return "\n".join(lines)


def plot(path: Path, runs: Runs, methods: Sequence[str], seeds: Sequence[int], reward: str) -> None:
    """Best worth over episodes: the mean of the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for method in methods:
        curves = [best_so_far(runs[f"{method}/{s}"], reward) for s in seeds]
        columns = list(zip(*curves, strict=True))
        episodes = range(1, len(columns) + 1)
        (line,) = axis.plot(episodes, [statistics.mean(c) for c in columns], label=method)
        axis.fill_between(
            episodes, [min(c) for c in columns], [max(c) for c in columns], color=line.get_color(), alpha=0.12
        )
    axis.set_xlabel("plans scored")
    axis.set_ylabel("best so far, minus the " + reward)
    axis.legend()
    figure.savefig(path, dpi=150)


def fingerprint(options: argparse.Namespace) -> str:
    """Of all code and options that the results depend on."""
    digest = hashlib.sha256()
    for room in ("graph", "models_zoo", "prune", "rl"):
        for path in sorted(p for p in (ROOT / room).rglob("*") if p.suffix in (".py", ".safetensors")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    names = ("target", "episodes", "images", "calibration", "test_images", "reward", "refine", "data", "arch")
    digest.update(json.dumps([str(getattr(options, n)) for n in names]).encode())
    for path in (options.model, Path(options.policy)):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]


def stored(path: Path, header: Mapping[str, Any], fresh: bool) -> dict[str, dict[str, Any]]:
    """The runs that an earlier benchmark of the same code left; starts the file anew otherwise."""
    if not fresh and path.exists():
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        if lines and lines[0] == header:
            return {line["key"]: line["found"] for line in lines[1:]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(header) + "\n")
    return {}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="file of a trained network")
    parser.add_argument("--arch", help="of bare weights")
    parser.add_argument("--data", help="left out: the data that the model names")
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--episodes", type=int, default=100, help="plans that each method may score")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, default=512, help="search images that score a plan")
    parser.add_argument("--calibration", type=int, default=256, help="training images for batch norm")
    parser.add_argument("--test-images", type=int, default=2000, help="for the winner of each run")
    parser.add_argument("--reward", default=SearchConfig.reward, choices=("error", "loss"))
    parser.add_argument("--refine", type=float, default=SearchConfig.refine, help="share of the refinement")
    parser.add_argument("--policy", default=policy.DEFAULT, help="file, for methods with +policy")
    parser.add_argument("--fresh", action="store_true", help="do not go on with an interrupted run")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/search.json"))
    return parser.parse_args()


def main() -> None:
    """Run, print the table, write JSON and plot."""
    options = parse()
    torch.set_num_threads(1)
    methods = [m for m in options.methods.split(",") if m]
    seeds = [int(s) for s in options.seeds.split(",")]
    for method in methods:
        name, plus, _ = method.partition("+")
        if method not in METHODS and not (plus and name in AGENTS):
            sys.exit(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    header = {"code": fingerprint(options), "torch": torch.__version__}
    stream = options.output.with_suffix(".jsonl")
    runs = stored(stream, header, options.fresh)
    todo = [(m, s) for s in seeds for m in methods if f"{m}/{s}" not in runs]
    print(f"{len(todo)} of {len(methods) * len(seeds)} runs to do, results go to {stream}", flush=True)
    bench = Bench(options) if todo else None
    with stream.open("a") as file:
        for method, seed in todo:
            assert bench is not None
            key = f"{method}/{seed}"
            runs[key] = bench.run(method, seed)
            file.write(json.dumps({"key": key, "found": runs[key]}) + "\n")
            file.flush()
            best = best_so_far(runs[key], options.reward)[-1]
            print(f"{key}: {best:+.4f}, test {runs[key]['test_accuracy']:.2%}", file=sys.stderr, flush=True)
    wanted = {f"{m}/{s}": runs[f"{m}/{s}"] for m in methods for s in seeds}
    told = summary(wanted, methods, seeds, options.reward)
    print(table(told, wanted, options.reward))
    data = {
        "command": " ".join(["python", "benchmarks/search.py", *sys.argv[1:]]),
        **header,
        "summary": told,
        "runs": wanted,
    }
    options.output.write_text(json.dumps(data, indent=1) + "\n")
    plot(options.output.with_suffix(".png"), wanted, methods, seeds, options.reward)


if __name__ == "__main__":
    main()
