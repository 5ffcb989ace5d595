"""Search: the best plan after so many episodes, for each agent, with and without a trained policy.

    OMP_NUM_THREADS=1 python benchmarks/search.py --model FILE --data NAME [--arch NAME] [--target 0.5]
        [--methods gnn-rl+policy,agmc,gnn-rl,amc,evolution,random] [--episodes 100] [--seeds 0,1,2] [-o FILE]

A method is an agent, ``evolution`` or ``random``, with what is changed about it, for ablations:

- ``+policy``: starts from the policy that comes along for this agent, or from ``--policy FILE``; the former
  is left where its plan is worse than the best baseline;
- ``+cold``: starts from the uniform plan, not from the best of all baselines;
- ``+unpriced``: starts without the baselines that divide by what a channel costs;
- ``+alone``: the agent scores all of the plans, none is left to the refinement;
- ``+loss``: goes by the loss, not by the error;
- ``+fitted``: each plan is scored once its weights are fitted, as those of the best are in the end;
- ``+magnitude``, ``+taylor``, ``+bn-scale``, ``+contribution``, ``+members``: which channels of a group go is
  decided by this one, in place of the best of four that compete; the last is the magnitude with an equal say
  for each layer of the group;
- ``+unguided``: the refinement scores every child that it makes, no surrogate chooses among them;
- ``+proxy``: it makes four for each that it scores: the one that keeps most magnitude;
- ``+steady``: the deviation of GNN-RL's actions does not fall;
- ``+frozen``: the agent never learns: noise around what it starts from, which learning has to beat.

All are scored on the same images and may score equally many plans. ``random`` stands for its own plans alone,
the others for the baselines that they start from, too. "Fitted": of each run the best plans and the best of
each method get their weights fitted, as ``prune compress`` does, and the search split decides.

Runs go line by line to FILE with the ending .jsonl; a benchmark that was interrupted goes on there as long as
code and options are the same. Beside it: the table, the JSON and the plot as .png.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
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

from benchmarks.search_changes import RANKS, Fitted, changed  # noqa: E402
from graph import topology  # noqa: E402
from graph.program import ProgramModule  # noqa: E402
from prune.budget import Budget  # noqa: E402
from prune.evaluation import Evaluation, evaluate  # noqa: E402
from prune.importance import magnitude  # noqa: E402
from prune.load import ModelSource  # noqa: E402
from prune.mend import Mender  # noqa: E402
from prune.plan import Plan  # noqa: E402
from prune.recalibrate import recalibrated  # noqa: E402
from prune.subject import must_find_data, open_model  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.trials import Problem  # noqa: E402
from rl import policy  # noqa: E402
from rl.baselines import BASELINES, PER_COST  # noqa: E402
from rl.precision import PRECISION  # noqa: E402
from rl.reward import Evaluator  # noqa: E402
from rl.scorer import PlanScorer  # noqa: E402
from rl.search import METHODS as SEARCHES  # noqa: E402
from rl.search import SearchConfig, search  # noqa: E402

METHODS = ("agmc", "gnn-rl+policy", "gnn-rl", "amc", "evolution", "random")
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "policy": {},
    "cold": {"baselines": ("uniform",)},
    "unpriced": {"baselines": tuple(b for b in BASELINES if b != PER_COST)},
    "alone": {"refine": 0.0},
    "loss": {"reward": "loss"},
    **dict.fromkeys(("fitted", "proxy", "unguided", "steady", "frozen", *RANKS), {}),
}
Runs = Mapping[str, dict[str, Any]]


class Bench:
    """One network, one data set, one target."""

    def __init__(self, options: argparse.Namespace) -> None:
        source = ModelSource(model=str(options.model), arch=options.arch)
        subject = open_model(source)
        data = must_find_data(options.data, subject.loaded)
        space = subject.space(align=not options.any_widths)
        self.options = options
        self.problem = Problem(
            subject.axes,
            space,
            Budget.of(space, macs=int(options.target * space.base_macs)),
            magnitude(subject.axes),
            data,
            lambda _: None,
            reranks=True,
        )
        self.graph = topology.build(subject.axes)
        self.evaluator = Evaluator(subject.axes, data, images=options.images, precision=PRECISION)
        limit = min(len(data.train), options.calibration)
        self.calibration = [x for x, _ in data.train.batches(128, shuffle=True, limit=limit)]
        self.test = data.test
        self.mender = Mender(subject.axes, data)
        self.fitting = Fitted(subject.axes, data, self.mender, options.images)

    def run(self, method: str, seed: int) -> dict[str, Any]:
        """Search once; what each plan was worth, and what the best one gets on the test images."""
        name, *changes = method.split("+")
        config = SearchConfig(
            agent=name,
            episodes=self.options.episodes,
            seed=seed,
            policy=self.options.policy if "policy" in changes else policy.NONE,
        )
        config = dataclasses.replace(config, **{k: v for c in changes for k, v in CHANGES[c].items()})
        evaluator: PlanScorer = self.fitting if "fitted" in changes else self.evaluator
        ranks = [RANKS[c](self.problem.axes, self.problem.data) for c in changes if c in RANKS]
        problem = dataclasses.replace(
            self.problem, scores=[self.problem.scores, *ranks][-1], reranks=not ranks
        )
        cpu = time.process_time()
        with changed(changes):
            found = search(problem, self.graph, evaluator, config)
        cpu = time.process_time() - cpu
        baselines = [t for t in found.trials if t.method in BASELINES and name != "random"]
        own = [t for t in found.trials if t.method not in BASELINES]
        plans = [p for p in found.finalists if name != "random" or p.method == name]
        test = self.tested(max(plans, key=lambda p: found.best[p.method].rank))
        return {
            "baselines": [[t.accuracy, t.loss] for t in baselines],
            "accuracy": [t.accuracy for t in own],
            "loss": [t.loss for t in own],
            "by": [t.method for t in own],
            "winner": found.plan.method,
            "notes": list(found.notes),
            "fitted_accuracy": self.fitted(plans).accuracy if self.options.fit else None,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "cpu_seconds": cpu,
        }

    def fitted(self, plans: Sequence[Plan]) -> Evaluation:
        """Of the plan that is best once its weights are fitted."""
        plan = self.mender.finalist(plans)[0]
        keep = plan.keep_mask(self.problem.axes)
        program = self.mender.mended(keep, prune_program(self.problem.axes, plan)).program
        return evaluate(ProgramModule(program), self.test, limit=self.options.test_images)

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
    start = [a - 1 if reward == "error" else -x for a, x in run["baselines"]]
    best, curve = max(start, default=-math.inf), []
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
        fitted = [runs[f"{method}/{s}"]["fitted_accuracy"] for s in seeds]
        result[method] = {
            "best": statistics.mean(finals),
            "best_spread": statistics.pstdev(finals),
            "test_accuracy": statistics.mean(tests),
            "test_spread": statistics.pstdev(tests),
            "fitted_accuracy": statistics.mean(fitted) if None not in fitted else None,
            "fitted_spread": statistics.pstdev(fitted) if None not in fitted else None,
            "episodes_to_random": [r for r in reached],
            "cpu_seconds": statistics.mean(runs[f"{method}/{s}"]["cpu_seconds"] for s in seeds),
        }
    return result


def table(told: Mapping[str, Any], runs: Runs, reward: str) -> str:
    """The summary for people."""
    starts = [max(a for a, _ in r["baselines"]) for r in runs.values() if r["baselines"]]
    lines = [f"best baseline: {max(starts):.2%} of the search images"] if starts else []
    what = "minus the error" if reward == "error" else "minus the loss"
    lines.append(f"{'method':<20} {'best, ' + what:<24} {'test':<18} {'fitted':<18} {'to random':<12} CPU s")
    for method, f in told.items():
        reached = "/".join("-" if e is None else str(e) for e in f["episodes_to_random"])
        fitted = "-"
        if f["fitted_accuracy"] is not None:
            fitted = f"{f['fitted_accuracy']:.2%} ± {f['fitted_spread']:.2%}"
        lines.append(
            f"{method:<20} {f['best']:<+9.4f} ± {f['best_spread']:<12.4f} {f['test_accuracy']:.2%} "
            f"± {f['test_spread']:<8.2%} {fitted:<18} {reached:<12} {f['cpu_seconds']:.1f}"
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
    names = (
        "target", "episodes", "images", "calibration", "test_images", "any_widths", "fit", "data", "arch",
    )  # fmt: skip
    digest.update(json.dumps([str(getattr(options, n)) for n in names]).encode())
    for path in (options.model, Path(options.policy or "")):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]


def stored(path: Path, header: Mapping[str, Any], fresh: bool) -> dict[str, dict[str, Any]]:
    """The runs that an earlier benchmark of the same code left; starts the file anew otherwise."""
    if not fresh and path.exists():
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]  # what a killed run left of a line goes
        lines = [json.loads(line) for line in whole.splitlines()]
        if lines and lines[0] == header:
            path.write_text(whole)
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
    parser.add_argument("--images", type=int, default=256, help="search images that score a plan")
    parser.add_argument("--calibration", type=int, default=256, help="training images for batch norm")
    parser.add_argument("--test-images", type=int, default=2000, help="for the winner of each run")
    parser.add_argument("--any-widths", action="store_true", help="in place of blocks of channels")
    parser.add_argument("--reward", default="error", choices=("error", "loss"), help="what is told")
    parser.add_argument("--no-fit", dest="fit", action="store_false", help="leave the column fitted out")
    parser.add_argument("--policy", help="file, for methods with +policy")
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
        name, *changes = method.split("+")
        if name not in SEARCHES or any(c not in CHANGES for c in changes):
            sys.exit(f"unknown method {method!r}; known: {', '.join(SEARCHES)}, with +{', +'.join(CHANGES)}")
        if "policy" in changes and policy.find(options.policy, name) is None:
            sys.exit(f"{method}: no policy of {name} comes along; name one with --policy FILE")
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
