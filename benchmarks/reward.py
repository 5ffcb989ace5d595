"""How fast plans are scored, beside the usual loop and Torch-Pruning's, and how rightly they are ranked.

    OMP_NUM_THREADS=1 python benchmarks/reward.py [NAME ...] [--data cifar10:PATH --weights-dir DIR]
        [--ranks 50] [--repeats 3] [--device cuda] [-o FILE]

The usual loop scores a plan so: copy the module, cut the channels out of the copy, measure the batch-norm
statistics on 2,048 training images, score 1,000 search images, all in batches of 128 with torch's defaults.
Batches cost the same, so one of each kind is timed and multiplied. Both loops run in turn with ours, with one
thread each; seconds are those of the processor, the least of the repeats, so that a busy machine changes them
little. Ours is timed in float32 and in bfloat16, which ``prune compress`` takes where the processor has
instructions for it. ``--ranks`` scores that many different plans of half of the MACs with fewer and more
images, and in bfloat16, and correlates them with the accuracy on all search images, statistics from 512
training images. ``--device`` scores 64 plans there, too, one by one and side by side, wall time, and tells
how far losses lie from those of the CPU.

Weights are DIR/NAME-cifar10.safetensors where there is such a file, else random; images are the data set's
where they fit the network, else noise. Results are stored after each network.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Not benchmarks/ itself, where a file may have the name of a room.
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy.stats import kendalltau, spearmanr  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from graph.axes import infer  # noqa: E402
from graph.capture import capture  # noqa: E402
from graph.channels import Axes  # noqa: E402
from graph.errors import first_line  # noqa: E402
from graph.program import ProgramModule, run  # noqa: E402
from models_zoo import registry  # noqa: E402
from models_zoo.data import DataSet, TensorSplit  # noqa: E402
from profilers.device import find_device, told  # noqa: E402
from profilers.latency import environment  # noqa: E402
from prune.baselines import global_ratios  # noqa: E402
from prune.budget import Budget  # noqa: E402
from prune.data import load_data  # noqa: E402
from prune.importance import magnitude, taylor  # noqa: E402
from prune.load import ModelSource, load  # noqa: E402
from prune.placement import placed_axes  # noqa: E402
from prune.plan import Plan, make_plan  # noqa: E402
from prune.recalibrate import recalibrated  # noqa: E402
from prune.slicing import Slicer  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.widths import WidthSpace  # noqa: E402
from rl.precision import is_native, lowered  # noqa: E402
from rl.processes import Processes  # noqa: E402
from rl.reward import IMAGES  # noqa: E402
from rl.scorer import Scorer, chunks  # noqa: E402
from rl.side_by_side import SideBySide  # noqa: E402

NAMES = ("resnet20", "resnet56", "vgg16", "mobilenet_v2", "shufflenet_v2")
BATCH, CALIBRATION, SEARCH = 128, 2048, 1000
COUNTS = (64, 128, 256, 512)  # images that ranks are compared for


def noise(shape: tuple[int, int, int], classes: int, count: int) -> DataSet:
    """Random images: as slow to score as real ones."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator)
    split = TensorSplit(images, labels, mean=(0.5,) * 3, std=(0.25,) * 3)
    return DataSet("noise", split, split, split, tuple(map(str, range(classes))), shape)


def subject(name: str, options: argparse.Namespace) -> tuple[nn.Module, DataSet, bool]:
    """The network, the images, and whether both are real."""
    entry = registry.find(name)
    weights = options.weights_dir / f"{name}-cifar10.safetensors" if options.weights_dir else None
    if weights is not None and weights.is_file() and options.data:
        return load(ModelSource(model=str(weights), arch=name)).module, load_data(options.data), True
    torch.manual_seed(0)
    module = registry.build(name).eval()
    classes = module(torch.randn(1, *entry.input_shape)).shape[1]
    return module, noise(entry.input_shape, classes, max(IMAGES, BATCH)), False


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


class Loop:
    """The usual loop around one way of cutting a copy.

    Args:
        cut: returns the smaller module.
        data: gives one batch.
    """

    def __init__(self, cut: Callable[[], nn.Module], data: DataSet) -> None:
        self.cut = cut
        self.images, self.labels = next(iter(data.search.batches(BATCH, limit=BATCH)))
        self.made: nn.Module | None = None

    def _cut(self) -> None:
        self.made = self.cut()

    def _forward(self, training: bool) -> None:
        assert self.made is not None
        self.made.train(training)
        with torch.no_grad():
            F.cross_entropy(self.made(self.images), self.labels)

    def seconds(self) -> dict[str, float]:
        """Of one plan, in parts."""
        parts = {"cut": cpu_seconds(self._cut)}
        self._forward(False)  # the first call of new shapes prepares kernels
        parts["recalibrate"] = cpu_seconds(lambda: self._forward(True)) * CALIBRATION / BATCH
        parts["evaluate"] = cpu_seconds(lambda: self._forward(False)) * SEARCH / BATCH
        return parts | {"all": sum(parts.values())}


def peer(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy that Torch-Pruning cut to about half of the MACs (ratio 0.3 everywhere)."""
    import torch_pruning as tp

    subject = copy.deepcopy(module)
    last = [m for m in subject.modules() if isinstance(m, nn.Linear)][-1:]
    tp.pruner.BasePruner(
        subject,
        torch.randn(1, *shape),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.3,
        ignored_layers=last,
    ).step()
    return subject


def speed(name: str, module: nn.Module, axes: Axes, data: DataSet, repeats: int) -> dict[str, Any]:
    """Processor seconds per plan of all three loops, and the wall time of one and two workers."""
    space = WidthSpace(axes)
    scores = magnitude(axes)
    plans = [_plan(space, scores, wish) for wish in _wishes(space, None, 2 + repeats)]
    whole = ProgramModule(axes.program)

    def surgery() -> nn.Module:
        copy.deepcopy(whole)
        return ProgramModule(prune_program(axes, plans[0]))

    loops = {
        "usual": Loop(surgery, data),
        "torch_pruning": Loop(lambda: peer(module, data.input_shape), data),
    }
    exact = Scorer(axes, chunks(axes, data, IMAGES))
    scorers = {"ours": exact, "ours_bfloat16": lowered(exact)}
    keeps = [p.keep_mask(axes) for p in plans]
    for scorer in scorers.values():
        scorer(keeps[0])
    rows: dict[str, list[dict[str, float]]] = {key: [] for key in (*loops, *scorers)}
    for i in range(repeats):
        for key, loop in loops.items():
            try:
                rows[key].append(loop.seconds())
            except Exception as err:  # noqa: BLE001 - whatever the peer raises is the finding
                print(f"{name}: {key} fails: {type(err).__name__}: {first_line(err)[:80]}")
        for key, scorer in scorers.items():
            rows[key].append({"all": cpu_seconds(functools.partial(scorer, keeps[1 + i]))})
    best = {key: min(found, key=lambda r: r["all"]) if found else None for key, found in rows.items()}
    return {"native_bfloat16": is_native(), "cpu_s": best, "wall_s": _wall(scorers, keeps)} | {
        f"times_{key}": row["all"] / best["ours"]["all"]  # type: ignore[index]
        for key, row in best.items()
        if row is not None and key not in scorers
    }


def _wall(scorers: Mapping[str, Scorer], keeps: list[NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
    """Wall seconds per plan with one and two workers, in turn."""
    best: dict[str, dict[str, float]] = {}
    for name, scorer in scorers.items():
        found: dict[str, list[float]] = {"1": [], "2": []}
        pool = Processes(scorer, 2, print, patience=0.0)
        try:
            pool.map(keeps[:2])  # starts them
            ways = {"1": lambda s=scorer: [s(k) for k in keeps], "2": lambda p=pool: p.map(keeps)}
            for key in ("1", "2") * 2:
                start = time.perf_counter()
                ways[key]()
                found[key].append((time.perf_counter() - start) / len(keeps))
        finally:
            pool.close()
        best[name] = {key: min(times) for key, times in found.items()}
    return best


def elsewhere(axes: Axes, data: DataSet, device: torch.device) -> dict[str, dict[str, float]]:
    """Wall seconds per plan on a device, one by one and side by side, and how many go at one time.

    ``difference``: the largest one of losses from those of the CPU in float32, by so much of 1 + these.
    """
    space, scores = WidthSpace(axes), magnitude(axes)
    random = np.random.default_rng(0)
    wishes = [random.uniform(0.3, 1, space.bundles) for _ in range(64)]
    keeps = [_plan(space, scores, wish).keep_mask(axes) for wish in wishes]
    records = chunks(axes, data, IMAGES)
    expected = [Scorer(axes, records)(keep).loss for keep in keeps[:8]]
    there = Scorer(placed_axes(axes, device), tuple(c.to(device) for c in records))
    found = {}
    for name, scorer in {"float32": there, "bfloat16": lowered(there)}.items():
        beside = SideBySide(scorer, timed=False)
        seconds = {}
        for way, call in {
            "alone": lambda s=scorer: [s(k) for k in keeps],
            "together": lambda b=beside: b.map(keeps),
        }.items():
            call()  # prepares kernels, and finds out whether plans may go side by side
            start = time.perf_counter()
            losses = [score.loss for score in call()]
            seconds[way] = (time.perf_counter() - start) / len(keeps)
        far = [abs(a - b) / (1 + b) for a, b in zip(losses, expected, strict=False)]
        found[name] = seconds | {"at_one_time": beside.at_one_time, "difference": max(far)}
    return found


def _half(space: WidthSpace) -> Budget:
    return Budget.of(space, macs=space.base_macs // 2)


def _plan(space: WidthSpace, scores: NDArray[np.float64], wish: NDArray[np.float64]) -> Plan:
    return make_plan(space, _half(space).project(wish), scores, "benchmark")


def _wishes(space: WidthSpace, centre: NDArray[np.float64] | None, count: int) -> list[NDArray[np.float64]]:
    """Keep ratios from uniform over wild to near a good plan."""
    random = np.random.default_rng(0)
    found = [np.ones(space.bundles)]
    if centre is not None:
        found.append(centre)
    found += [random.uniform(0.1, 1, space.bundles) for _ in range(8)]
    found += [random.uniform(0.4, 1, space.bundles) for _ in range(8)]
    while centre is not None and len(found) < count:
        noise = random.normal(0, 0.05 + 0.3 * random.random(), space.bundles)
        found.append(np.clip(centre + noise, 0.05, 1))
    return found[:count]


def ranks(axes: Axes, data: DataSet, count: int) -> list[dict[str, Any]]:
    """How scores on few images order plans, against the accuracy on all search images."""
    space = WidthSpace(axes)
    by_weights = magnitude(axes)
    by_loss = taylor(axes, data.train.batches(BATCH, shuffle=True, limit=512))
    wishes = _wishes(space, global_ratios(space, by_loss, _half(space)), count)
    calibration, _ = next(iter(data.train.batches(512, shuffle=True, limit=512)))
    images, labels = next(iter(data.search.batches(SEARCH, limit=SEARCH)))
    cut = Slicer(axes)
    scorers = {(n, "float32"): Scorer(axes, chunks(axes, data, n)) for n in COUNTS}
    scorers |= {(IMAGES, "bfloat16"): lowered(scorers[IMAGES, "float32"])}
    truth: list[float] = []
    found: dict[tuple[int, str], list[tuple[float, float]]] = {key: [] for key in scorers}
    for i, wish in enumerate(wishes):
        keep = _plan(space, by_loss if i % 4 else by_weights, wish).keep_mask(axes)
        program = cut(keep)
        program = replace(program, tensors=recalibrated(program, program.tensors, [calibration]))
        with torch.no_grad():
            logits = torch.cat([_logits(program, x) for x in images.split(BATCH)])
        truth.append(float((logits.argmax(1) == labels).double().mean()))
        for key, scorer in scorers.items():
            score = scorer(keep)
            found[key].append((score.accuracy, score.loss))
    wanted = np.array(truth)
    top = wanted >= np.median(wanted)
    rows = []
    for (n, precision), pairs in found.items():
        accuracy, loss = np.array(pairs).T
        rows.append(
            {
                "images": n,
                "precision": precision,
                "spearman": float(spearmanr(accuracy, wanted)[0]),
                "kendall": float(kendalltau(accuracy, wanted)[0]),
                "kendall_of_the_better_half": float(kendalltau(accuracy[top], wanted[top])[0]),
                "kendall_by_loss": float(kendalltau(-loss, wanted)[0]),
                "regret": float(wanted.max() - wanted[accuracy.argmax()]),
            }
        )
    return rows


def _logits(program: Any, images: Tensor) -> Tensor:
    result = run(program, program.tensors, [images])
    assert isinstance(result, Tensor)
    return result


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    table = Table(
        "network", "usual loop", "Torch-Pruning", "ours", "x usual", "x Torch-Pruning", "bfloat16",
        "wall, 1 worker", "2 workers", "bfloat16, 1 worker", "2 workers", title="seconds per plan",
    )  # fmt: skip
    for name, found in results.items():
        times = {k: "fails" if v is None else f"{v['all']:.2f}" for k, v in found["speed"]["cpu_s"].items()}
        table.add_row(
            name, times["usual"], times["torch_pruning"], times["ours"],
            f"{found['speed']['times_usual']:.1f}", f"{found['speed'].get('times_torch_pruning', 0):.1f}",
            times["ours_bfloat16"],
            *(f"{s:.2f}" for walls in found["speed"]["wall_s"].values() for s in walls.values()),
        )  # fmt: skip
    console = Console(width=130)
    console.print(table)
    for name, found in results.items():
        for precision, row in found.get("device", {}).items():
            console.print(
                f"{name} on the device, {precision}: {row['alone']:.4f} s per plan one by one, "
                f"{row['together']:.4f} with {row['at_one_time']:.0f} at one time; "
                f"losses differ by {row['difference']:.1e}"
            )
        if found.get("ranks"):
            shown = Table(*found["ranks"][0], title=f"{name}: ranks of plans")
            for row in found["ranks"]:
                shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
            console.print(shown)


def main() -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--data")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--ranks", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", help="cuda: score there, too")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/reward.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the peer's
    torch.set_num_threads(1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    device = find_device(options.device) if options.device else None
    results: dict[str, Any] = {}
    for name in options.names:
        module, data, real = subject(name, options)
        axes = infer(capture(module.eval(), [torch.randn(2, *data.input_shape)]))
        results[name] = {"real": real, "speed": speed(name, module, axes, data, options.repeats)}
        if device is not None:
            results[name]["device"] = elsewhere(axes, data, device)
        if options.ranks and real:
            results[name]["ranks"] = ranks(axes, data, options.ranks)
        machine = environment() | ({"device": told(device)} if device is not None else {})
        stored = {"command": "python benchmarks/reward.py", "environment": machine, "results": results}
        options.output.write_text(json.dumps(stored, indent=2) + "\n")
    show(results)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
