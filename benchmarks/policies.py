"""The honest table: our search, our baselines and Torch-Pruning on the same weights, data and MACs.

    OMP_NUM_THREADS=1 python benchmarks/policies.py resnet20 resnet56 mobilenet_v2@digits
        --data cifar10:PATH --weights-dir DIR [--targets 0.5,0.3] [--methods ...] [--seeds 0] [--epochs 5]
        [--episodes 100] [--tune-on DATA] [--test-on imagefolder:PATH?size=32] [--draw-test 40000] [-o FILE]

NETWORK is a name for which DIR holds NAME-cifar10.safetensors, or NAME@DATA: the zoo's network, trained first
(``--train-epochs``, kept beside FILE). Each method gives a smaller network, measured on the test images

- as it was cut: nothing is touched but the channels;
- recalibrated: batch norm on 2,000 training images, the same ones for all;
- reconstructed, which only ours can be: the weights that remain are fitted on 1,024 of these, no labels;
- tuned: with the same epochs, schedule, data, seed, teacher and optimiser for all; ours from reconstructed
  weights where the teacher is asked about mixtures, else from recalibrated ones, and as reconstructed where
  training is worse on the search images, as in ``prune compress``.

With ``--tune-on`` fine-tuning takes the training images of another data set, such as the JPEG copy of all of
CIFAR-10 beside a lossless part; "larger test" is the tuned network on the test images of that one, or of the
one of ``--test-on``, or on as many glyphs as ``--draw-test`` says, drawn with another seed.

Methods: ``default`` is what ``prune compress`` does (GNN-RL from the policy that comes along, then a
refinement, then the best plans fitted), ``default+any-widths`` that without blocks of channels,
``default+magnitude`` that with channels by magnitude alone; ``agmc`` and ``amc`` do the same with that
agent from the best baseline, ``evolution`` with the refinement alone; ``random`` scores as many random
plans and takes the best of these. ``uniform``, ``global-magnitude`` (L2), ``global-l1``, ``global-sum`` (not
divided by a group's mean), ``global-per-cost`` (that divided by the root of the price), ``global-taylor`` and
``global-bn-scale`` need no search. Those of ``tp-`` are Torch-Pruning's (extra ``bench``).

Latency is that of the cut network in onnxruntime, one thread and one image, in turns with the original.
Results go line by line to FILE with the ending .jsonl; what an interrupted run has done is not done again as
long as code and options are the same. Table, JSON and plot (.png) tell all that is there, of earlier
commands, too; a command without NETWORK only tells.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Not benchmarks/ itself, where this file would hide a module of its name.
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.policies_peer import PEERS, pruned_peer  # noqa: E402
from graph import topology  # noqa: E402
from graph.capture import capture  # noqa: E402
from graph.cost import costs  # noqa: E402
from graph.errors import first_line  # noqa: E402
from graph.program import Program, ProgramModule  # noqa: E402
from models_zoo import glyphs  # noqa: E402
from models_zoo.data import DataSet  # noqa: E402
from profilers.device import find_device  # noqa: E402
from profilers.latency import environment, paired_ratio  # noqa: E402
from prune.baselines import global_ratios  # noqa: E402
from prune.budget import Budget  # noqa: E402
from prune.data import load_data  # noqa: E402
from prune.evaluation import evaluate  # noqa: E402
from prune.importance import bn_scale, magnitude, taylor  # noqa: E402
from prune.load import ModelSource, save_model  # noqa: E402
from prune.mend import Mender  # noqa: E402
from prune.placement import on  # noqa: E402
from prune.plan import Plan, make_plan  # noqa: E402
from prune.recalibrate import recalibrated  # noqa: E402
from prune.reconstruct import calibration, reconstructed  # noqa: E402
from prune.subject import must_find_data, open_model  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.train import build_for, recipe  # noqa: E402
from prune.trials import Problem  # noqa: E402
from prune.tune import fit  # noqa: E402
from prune.tune_config import TuneConfig, settled  # noqa: E402
from rl.precision import PRECISION  # noqa: E402
from rl.reward import Evaluator  # noqa: E402
from rl.search import SearchConfig, search  # noqa: E402
from supernet.latency import onnx_calls  # noqa: E402

CHANGES = ("any-widths", "magnitude")
SEARCHES = ("default", "agmc", "amc", "evolution", "random", *(f"default+{name}" for name in CHANGES))
PLANNED = (
    "uniform", "global-magnitude", "global-l1", "global-sum", "global-per-cost", "global-taylor",
    "global-bn-scale",
)  # fmt: skip
OURS = (*SEARCHES, *PLANNED)
ABOUT = (
    "original", "data", "test_images", "tuned_on", "larger_test_on", "original_larger_test",
    "larger_test_images",
)  # fmt: skip
STEPS = ("cut", "recalibrated", "reconstructed", "tuned", "larger test")
CALIBRATION = GRADIENTS = 2000  # training images
# Networks that train in minutes: a quarter of the published widths.
SMALL: Mapping[str, Mapping[str, object]] = {
    "mobilenet_v1": {"width_mult": 0.25},
    "mobilenet_v2": {"width_mult": 0.25},
    "shufflenet_v1": {"width_mult": 0.25},
    "shufflenet_v2": {"width_mult": 0.5},
    "vgg16": {"width": 16},
}
# What the figures of a peer depend on; ours depend on everything.
SHARED = (
    "models_zoo", "prune/tune.py", "prune/tune_config.py", "prune/evaluation.py", "prune/placement.py",
    "prune/distillation.py", "prune/recalibrate.py", "graph/capture.py", "benchmarks/policies_peer.py",
)  # fmt: skip
Rows = dict[str, dict[str, Any]]


class Subject:
    """One trained network with its data."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        arch, _, data = name.partition("@")
        published = options.weights_dir / f"{arch}-cifar10.safetensors"
        path = _trained(arch, data, options) if data else published
        self.model = open_model(ModelSource(model=str(path), arch=None if data else arch))
        self.data = must_find_data(data or options.data, self.model.loaded)
        self.space = self.model.space()
        self.options = options
        batches = self.data.train.batches(128, shuffle=True, limit=min(CALIBRATION, len(self.data.train)))
        self.calibration = [x for x, _ in batches]
        self.fitted_on = calibration(self.model.program, self.data.train)
        self.device = find_device(options.device)
        self.evaluator = Evaluator(self.model.axes, self.data, precision=PRECISION, device=self.device)
        self.mender = Mender(self.model.axes, self.data, device=self.device)
        self.tuning_data = must_find_data(options.tune_on, self.model.loaded) if options.tune_on else None
        self.larger = must_find_data(named, self.model.loaded) if (named := _larger(options)) else None
        if options.draw_test:
            self.larger = replace(glyphs.load(seed=1, sizes=(1, 1, options.draw_test)), name="glyphs, seed 1")
        self.folder = tempfile.TemporaryDirectory()  # its file goes when the subject does
        self.call = onnx_calls({"original": self.model.program}, Path(self.folder.name))["original"]
        whole = ProgramModule(self.model.program)
        self.original = self.accuracy(whole, self.data)
        self.about = {"original": self.original, "data": self.data.name, "test_images": len(self.data.test)}
        if self.tuning_data is not None:
            self.about["tuned_on"] = self.tuning_data.name
        if self.larger is not None:
            self.about["larger_test_on"] = self.larger.name
            self.about["original_larger_test"] = self.accuracy(whole, self.larger)
            self.about["larger_test_images"] = len(self.larger.test)

    def accuracy(self, module: ProgramModule, data: DataSet) -> float:
        """Of a network, on the test images."""
        with on(self.device, module):
            return evaluate(module, data.test).accuracy

    def measure(self, method: str, target: float, seed: int) -> dict[str, Any]:
        """All figures of one method."""
        start, started = time.process_time(), time.perf_counter()
        if method in PEERS:
            batches = self.data.train.batches(128, shuffle=True, limit=GRADIENTS)
            module = pruned_peer(method, self.model.loaded.module, self.data.input_shape, target, batches)
            cut, plan = capture(module, self.model.loaded.inputs.example()), None
        else:
            plan = self.plan(method, target, seed)
            cut = prune_program(self.model.axes, plan)
        programs = {
            "cut": cut,
            "recalibrated": replace(cut, tensors=recalibrated(cut, cut.tensors, self.calibration)),
        }
        if plan is not None:
            keep = plan.keep_mask(self.model.axes)
            programs["reconstructed"] = reconstructed(self.model.axes, keep, cut, self.fitted_on)
        cpu, wall = time.process_time() - start, time.perf_counter() - started
        modules = {step: ProgramModule(program) for step, program in programs.items()}
        found = {step: self.accuracy(module, self.data) for step, module in modules.items()}
        if wants_tuning(method, self.options):
            options = self.options
            tuning = TuneConfig(epochs=options.epochs, lr=options.lr, seed=seed, mixup=not options.no_mixup)
            data = replace(self.data, train=(self.tuning_data or self.data).train)
            whole = modules.get("reconstructed", modules["recalibrated"])
            teacher = self.teacher
            with on(self.device, whole, *([teacher] if teacher else [])):
                tuning = settled(tuning, teacher, data.train)
                initial = modules["recalibrated"].state_dict() if "reconstructed" in modules else None
                fit(whole, data, tuning, teacher=teacher, initial=initial)
            found["tuned"] = self.accuracy(whole, self.data)
            if self.larger is not None:
                found["larger test"] = self.accuracy(whole, self.larger)
        return {
            "macs": costs(cut).macs / self.space.base_macs,
            "accuracy": found,
            "winner": plan.method if plan is not None else method,
            "episodes": self.options.episodes if method in SEARCHES else 0,
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "latency": self.latency(cut),
        }

    def latency(self, cut: Program) -> dict[str, float]:
        """How long a smaller network takes beside the original."""
        with tempfile.TemporaryDirectory() as folder:
            return asdict(paired_ratio(self.call, onnx_calls({"cut": cut}, Path(folder))["cut"]))

    @property
    def teacher(self) -> ProgramModule | None:
        """The original, where fine-tuning is to learn from it."""
        return ProgramModule(self.model.program) if self.options.distill else None

    def plan(self, method: str, target: float, seed: int) -> Plan:
        """The plan of one of our methods."""
        axes, (name, _, change) = self.model.axes, method.partition("+")
        space = self.model.space(align=False) if change == "any-widths" else self.space
        budget = Budget.of(space, macs=int(target * space.base_macs))
        if method in SEARCHES:
            reranks = change != "magnitude"
            problem = Problem(
                axes,
                space,
                budget,
                magnitude(axes),
                self.data,
                lambda _: None,
                reranks=reranks,
                device=self.device,
            )
            agent = SearchConfig.agent if name == "default" else name
            config = SearchConfig(agent=agent, episodes=self.options.episodes, seed=seed)
            found = search(problem, topology.build(axes), self.evaluator, config)
            own = [p for p in found.finalists if method != "random" or p.method == "random"]
            return self.mender.finalist(own)[0]
        scores = magnitude(axes)
        if method == "global-taylor":
            batches = self.data.train.batches(128, shuffle=True, limit=GRADIENTS)
            scores = taylor(axes, batches)
        elif method == "global-bn-scale":
            scores = bn_scale(axes)
        elif method == "global-l1":
            roots = {name: tensor.abs().sqrt() for name, tensor in axes.program.tensors.items()}
            scores = magnitude(replace(axes, program=replace(axes.program, tensors=roots)))
        per_cost = method == "global-per-cost"
        relative = method != "global-sum" and not per_cost
        wish = global_ratios(space, scores, budget, relative=relative, by_price=0.5 * per_cost)
        if method == "uniform":
            wish = np.ones(space.bundles)
        return make_plan(space, budget.project(wish), scores, method)


def _trained(arch: str, data_name: str, options: argparse.Namespace) -> Path:
    """The file of a zoo network, trained if it is not there."""
    plain = re.sub(r"\W+", "-", data_name)
    path: Path = options.output.parent / f"{arch}-{plain}-{options.train_epochs}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = load_data(data_name)
        module, arguments = build_for(arch, data, **SMALL.get(arch, {}))
        tuned = fit(module, data, replace(recipe(arch), epochs=options.train_epochs))
        save_model(
            path,
            module,
            arch=arch,
            arch_args=arguments,
            input_shape=data.input_shape,
            data=data_name,
            metrics={"search_accuracy": tuned.best_accuracy, "epochs": options.train_epochs},
        )
    return path


def _larger(options: argparse.Namespace) -> str | None:
    """The data set of the larger test, if there is one."""
    named: str | None = options.test_on or options.tune_on
    return named


def wants_tuning(method: str, options: argparse.Namespace) -> bool:
    """Whether a method is to be fine-tuned."""
    return bool(options.epochs) and method not in options.untuned


def fingerprint(options: argparse.Namespace, *, peers: bool) -> str:
    """Of the code and options that the figures of all our methods, or of all of the peers', depend on."""
    digest = hashlib.sha256()
    roots = SHARED if peers else ("graph", "models_zoo", "prune", "rl", "profilers", "supernet", __file__)
    for root in roots:
        path = ROOT / root
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            digest.update(file.read_bytes() if file.suffix in (".py", ".safetensors") else b"")
    for file in sorted(options.weights_dir.glob("*-cifar10.safetensors")):
        digest.update(file.name.encode() + file.read_bytes())
    names = ["epochs", "lr", "distill", "no_mixup", "data", "tune_on", "test_on", "train_epochs", "device"]
    names += ["draw_test"] if options.draw_test else []
    names += [] if peers else ["episodes"]
    values = [str(getattr(options, n)) for n in names]
    digest.update(json.dumps([*values, torch.__version__]).encode())
    return digest.hexdigest()[:16]


def stored(path: Path) -> Rows:
    """What earlier runs left, whole lines only; what a killed one left of a line goes."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return {row["key"]: row for row in map(json.loads, whole.splitlines())}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One method over the seeds: means, and the deviation where there is more than one."""
    steps = [s for s in STEPS if all(s in r["accuracy"] for r in rows)]
    return {
        "macs": statistics.mean(r["macs"] for r in rows),
        "episodes": rows[0]["episodes"],
        "cpu_seconds": statistics.mean(r["cpu_seconds"] for r in rows),
        "wall_seconds": statistics.mean(r["wall_seconds"] for r in rows),
        "latency": statistics.median(r["latency"]["ratio"] for r in rows),
        "seeds": len(rows),
        "accuracy": {s: statistics.mean(r["accuracy"][s] for r in rows) for s in steps},
        "deviation": {s: statistics.pstdev(r["accuracy"][s] for r in rows) for s in steps},
        "winners": [r["winner"] for r in rows],
    }


def ready(found: Mapping[str, Any]) -> float:
    """Accuracy before fine-tuning: ours reconstructed, Torch-Pruning's recalibrated, which it does not do."""
    accuracy = found["accuracy"]
    return float(accuracy.get("reconstructed", accuracy["recalibrated"]))


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table for each network and target."""
    console = Console(width=130)
    for title, found in results.items():
        columns = ("delta", "latency", "episodes", "CPU s", "wall s")
        table = Table("method", "MACs", *STEPS, *columns, title=title)
        for method, row in found["methods"].items():
            if "error" in row:
                table.add_row(method, row["error"])
                continue
            cells = [_cell(row, s) for s in STEPS]
            last = row["accuracy"].get("tuned")
            delta = "" if last is None else f"{100 * (last - found['original']):+.2f}"
            times = (f"{row['cpu_seconds']:.0f}", f"{row['wall_seconds']:.0f}")
            last_cells = (f"{row['latency']:.2f}", str(row["episodes"]), *times)
            table.add_row(method, f"{row['macs']:.3f}", *cells, delta, *last_cells)
        table.caption = (
            f"original {found['original']:.2%} on {found['test_images']} test images of {found['data']}"
        )
        if "tuned_on" in found:
            table.caption += f"; tuned on {found['tuned_on']}"
        if "larger_test_on" in found:
            table.caption += (
                f"; {found['original_larger_test']:.2%} on the {found['larger_test_images']} of "
                f"{found['larger_test_on']}"
            )
        console.print(table)


def _cell(row: Mapping[str, Any], step: str) -> str:
    if step not in row["accuracy"]:
        return "-"
    spread = f" ± {100 * row['deviation'][step]:.2f}" if len(row["winners"]) > 1 else ""
    return f"{100 * row['accuracy'][step]:.2f}{spread}"


def plot(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Before and after fine-tuning, one panel for each network and target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(results), figsize=(1 + 4 * len(results), 4.5), layout="constrained", squeeze=False, sharey=True
    )
    for axis, (title, found) in zip(axes[0], results.items(), strict=True):
        rows = {m: r for m, r in found["methods"].items() if "error" not in r}
        for place, (label, value) in enumerate(
            {"before fine-tuning": ready, "tuned": lambda r: r["accuracy"].get("tuned", 0.0)}.items()
        ):
            at = [i + 0.4 * place for i in range(len(rows))]
            axis.barh(at, [100 * value(r) for r in rows.values()], 0.4, label=label)
        axis.axvline(100 * found["original"], color="black", linewidth=0.8)
        axis.set_yticks([i + 0.2 for i in range(len(rows))], list(rows))
        axis.invert_yaxis()
        axis.set_title(title)
        axis.set_xlabel("test accuracy, %")
    axes[0][0].legend()
    figure.savefig(path, dpi=150)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--data", help="of the published weights: cifar10:PATH")
    parser.add_argument("--weights-dir", type=Path, default=Path("."))
    parser.add_argument("--targets", default="0.5", help="shares of the MACs")
    parser.add_argument("--methods", default=",".join((*OURS, *PEERS)))
    parser.add_argument("--untuned", default="random", help="methods that are not fine-tuned, to save time")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning; 0: none")
    parser.add_argument("--lr", type=float, default=TuneConfig().lr)
    parser.add_argument("--distill", action="store_true", help="fine-tune all with the original as teacher")
    parser.add_argument(
        "--no-mixup", action="store_true", help="with --distill: no mixtures of images in any case"
    )
    parser.add_argument("--tune-on", help="data whose training images fine-tuning takes; left out: the same")
    parser.add_argument("--test-on", help="data for the larger test; left out: that of --tune-on")
    parser.add_argument(
        "--draw-test",
        type=int,
        default=0,
        help="glyphs for the larger test of networks NAME@glyphs, in place of --test-on",
    )
    parser.add_argument("--episodes", type=int, default=SearchConfig.episodes)
    parser.add_argument("--train-epochs", type=int, default=20, help="for networks NAME@DATA")
    parser.add_argument("--device", default="cpu", help="scores, fits and trains; a peer prunes on the CPU")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/policies.json"))
    options = parser.parse_args()
    if options.draw_test and not all(name.endswith("@glyphs") for name in options.networks):
        parser.error("--draw-test goes with networks NAME@glyphs alone")
    options.untuned = options.untuned.split(",")
    return options


def main() -> None:
    """Run what is not there yet, print the tables, write JSON and plot."""
    options = parse()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peer's
    methods = options.methods.split(",")
    if unknown := [m for m in methods if m not in (*OURS, *PEERS)]:
        sys.exit(f"unknown methods {', '.join(unknown)}; known: {', '.join((*OURS, *PEERS))}")
    seeds = [int(s) for s in options.seeds.split(",")]
    targets = [float(t) for t in options.targets.split(",")]
    ours, theirs = (fingerprint(options, peers=peers) for peers in (False, True))
    codes = dict.fromkeys(OURS, ours) | dict.fromkeys(PEERS, theirs)
    stream = options.output.with_suffix(".jsonl")
    stream.parent.mkdir(parents=True, exist_ok=True)
    rows = stored(stream)
    with stream.open("a") as file:
        for name in options.networks:
            subject: Subject | None = None
            for target in targets:
                for seed in seeds:
                    for method in methods:
                        key = f"{name}/{target:g}/{method}/{seed}/{codes[method]}"
                        if key in rows and not (wants_tuning(method, options) and _lacks_tuning(rows[key])):
                            continue
                        subject = subject or Subject(name, options)
                        rows[key] = _measured(subject, method, target, seed) | {"key": key}
                        file.write(json.dumps(rows[key]) + "\n")
                        file.flush()
                        found = rows[key].get("accuracy", rows[key].get("error"))
                        print(key, found, file=sys.stderr, flush=True)
    results = told(rows, codes)
    if not results:
        sys.exit(f"{stream} holds nothing of this code and these options; name networks")
    show(results)
    data = {
        "command": " ".join(["python", "benchmarks/policies.py", *sys.argv[1:]]),
        "environment": environment(),
        "results": results,
    }
    options.output.write_text(json.dumps(data, indent=1) + "\n")
    plot(options.output.with_suffix(".png"), results)


def _measured(subject: Subject, method: str, target: float, seed: int) -> dict[str, Any]:
    """The figures of a method; where a peer fails, its message is the finding."""
    about = subject.about
    try:
        return about | subject.measure(method, target, seed)
    except Exception as err:
        if method not in PEERS:
            raise
        return about | {"error": f"{type(err).__name__}: {first_line(err)[:80]}"}


def _lacks_tuning(row: Mapping[str, Any]) -> bool:
    return "error" not in row and "tuned" not in row["accuracy"]


def told(rows: Rows, codes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """All networks and targets that rows of these codes are about, methods in their order."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for method, code in codes.items():
        for key, row in rows.items():
            name, target, of, _, made_by = key.rsplit("/", 4)
            if of == method and made_by == code:
                found.setdefault(f"{name} at {target}", {}).setdefault(method, []).append(row)
    results = {}
    for title, by_method in sorted(found.items()):
        first = next(iter(by_method.values()))[0]
        methods = {
            m: summary(whole)
            if (whole := [r for r in runs if "error" not in r])
            else {"error": runs[0]["error"]}
            for m, runs in by_method.items()
        }
        results[title] = {k: first[k] for k in ABOUT if k in first} | {"methods": methods}
    return results


if __name__ == "__main__":
    main()
