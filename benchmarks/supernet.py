"""Subnetworks of a trained supernet against the same sizes made in other ways.

    python benchmarks/supernet.py -o digits                       # a ViT, and extraction from a ViT-B
    python benchmarks/supernet.py -o shapes --data shapes --by params --shares 0.35 0.5 0.7
                                                                  # a segmenter whose encoder is like SAM's
    python benchmarks/supernet.py -o pystdlib --data pystdlib     # a GPT on bytes

A transformer is trained from scratch for `--base` epochs. Then, at each of `--shares` of its MACs (or of its
parameters, `--by params`):

- `subnetwork`: a supernet of it is trained for `--sandwich` epochs, once for all sizes; TPE searches it on
  the search split; `tuned`: the one found is trained alone for `--tune` epochs, the original its teacher;
- `from scratch`: the same shape with fresh weights, trained as long as all of that together;
- `Torch-Pruning`: the trained network, cut by torch-pruning (group Taylor, its own choice of widths), then
  fine-tuned with the original as its teacher;
- `magnitude`: the same shape as the subnetwork, cut by magnitude out of the trained network without a
  supernet; raw, and fine-tuned likewise.

Each baseline is fine-tuned for `--tune` epochs and its part of the sandwich, a step of which runs four
subnetworks and serves all of `--shares`. All but those from scratch have the original as their teacher.
`original, tuned` is the whole network after as many epochs, itself its teacher. Quality is accuracy, mean
IoU, or bits per byte, on the test split, which nothing else sees. Latency: one record, onnxruntime, one
thread, all in turns. A seed that is done is not done again.

Writes `supernet.json`, `supernet.md` and `supernet.png`.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# Not benchmarks/ itself, where graph.py would hide the package of its name.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from torch import nn  # noqa: E402

from graph.capture import capture  # noqa: E402
from graph.cost import costs  # noqa: E402
from graph.program import Program, ProgramModule  # noqa: E402
from models_zoo.data import DataSet  # noqa: E402
from prune.data import load_data  # noqa: E402
from prune.demands import parse_demand  # noqa: E402
from prune.evaluation import Evaluation, evaluate  # noqa: E402
from prune.inputs import InputRequest  # noqa: E402
from prune.load import ModelSource  # noqa: E402
from prune.subject import Subject, open_model  # noqa: E402
from prune.targets import labelled  # noqa: E402
from prune.train import build_for  # noqa: E402
from prune.tune import fit  # noqa: E402
from prune.tune_config import SCRATCH_TRANSFORMER, TuneConfig  # noqa: E402
from supernet.agents import SearchConfig  # noqa: E402
from supernet.elastic import ElasticConfig, Subnet  # noqa: E402
from supernet.latency import onnx_latencies  # noqa: E402
from supernet.limits import Limits  # noqa: E402
from supernet.net import Supernet, make_supernet  # noqa: E402
from supernet.search import search  # noqa: E402
from supernet.training import SANDWICH, SandwichConfig, train_supernet  # noqa: E402

SHAPE = {"width": 64, "depth": 4, "heads": 4}
NETWORKS = {"images": "vit_tiny", "pixels": "seg_tiny", "bytes": "gpt_tiny"}
Row = dict[str, Any]


def subject_of(module: nn.Module, data: DataSet) -> Subject:
    """A trained module as a subject."""
    request = InputRequest(shape=data.input_shape, dtype="int64" if data.is_text else None)
    return open_model(ModelSource(model=NETWORKS[data.unit], module=module, request=request))


def supernet_of(module: nn.Module, data: DataSet, *, blind: bool = False) -> Supernet:
    """A supernet of a module: prioritized by Taylor, or blindly by magnitude."""
    return make_supernet(subject_of(module, data), ElasticConfig(), None if blind else data, origin={})


def tuned(program: Program, teacher: nn.Module | None, data: DataSet, config: TuneConfig) -> ProgramModule:
    """A program after training."""
    module = ProgramModule(program)
    fit(module, data, config, teacher=teacher)
    return module


def torch_pruned(module: nn.Module, data: DataSet, share: float, by: str) -> nn.Module:
    """The network at no more than a share of its MACs, or parameters, by torch-pruning."""
    import torch_pruning as tp

    x, _ = next(iter(data.train.batches(2)))
    whole = size(capture(module, [x]), by)
    low, high, best = 0.0, 0.95, None
    for _ in range(8):
        ratio = (low + high) / 2
        found = cut_by_torch_pruning(tp, module, data, ratio)
        if size(capture(found, [x]), by) <= share * whole:
            best, high = found, ratio
        else:
            low = ratio
    assert best is not None
    return best


def size(program: Program, by: str) -> int:
    """What a limit is about."""
    found = costs(program)
    return found.params if by == "params" else found.macs


def cut_by_torch_pruning(tp: Any, module: nn.Module, data: DataSet, ratio: float) -> nn.Module:
    """Everything but the classes at one ratio, as in torch-pruning's example of transformers."""
    found: Any = copy.deepcopy(module)
    encoder = getattr(found, "encoder", found)
    x, y = next(iter(data.train.batches(16 if data.is_text else 256, shuffle=True)))
    nn.functional.cross_entropy(*labelled(found, x, y)).backward()
    heads = {
        linear: block.attention.heads
        for block in encoder.blocks
        for linear in (block.attention.query, block.attention.key, block.attention.value)
    }
    pruner = tp.pruner.BasePruner(
        found,
        x[:1],
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=ratio,
        ignored_layers=[getattr(found, "head", None)],
        num_heads=heads,
        prune_num_heads=False,
        unwrapped_parameters=[(encoder.positions, 2)],
    )
    pruner.step()
    for block in encoder.blocks:
        block.attention.head_width = block.attention.query.out_features // block.attention.heads
    found.zero_grad()
    return found


def one_seed(args: argparse.Namespace, data: DataSet, seed: int, tell: Callable[[str], None]) -> list[Row]:
    """All rows of one seed."""
    network = NETWORKS[data.unit]
    base = replace(
        SCRATCH_TRANSFORMER, epochs=args.base, lr=2e-3, batch_size=16 if data.is_text else 32, seed=seed
    )
    epochs = round(args.sandwich * 4 / len(args.shares)) + args.tune
    alone = replace(base, epochs=epochs, lr=args.tune_lr, temperature=2.0)
    tell("training the original")
    module, _ = build_for(network, data, seed=seed, **SHAPE)
    fit(module, data, base)
    fresh, _ = build_for(network, data, seed=seed + 100, **SHAPE)
    whole = subject_of(module, data)
    rows: list[Row] = []
    programs: dict[str, Program] = {}

    def add(name: str, share: float, program: Program, model: nn.Module) -> None:
        found, cost = evaluate(model, data.test), costs(program)
        programs.setdefault(f"{name} {share:g}", program)
        rows.append({
            "seed": seed, "way": name, "share": share, "quality": quality(found), **found.to_json(),
            "macs": cost.macs, "params": cost.params,
            "macs_ratio": cost.macs / whole.costs.macs, "params_ratio": cost.params / whole.costs.params,
        })  # fmt: skip
        tell(
            f"{name} {share:g}: {found.told()} at {rows[-1]['macs_ratio']:.1%} of the MACs, "
            f"{rows[-1]['params_ratio']:.1%} of the parameters"
        )

    add("original", 1.0, whole.program, module)
    add("original, tuned", 1.0, whole.program, tuned(whole.program, module, data, alone))
    start = time.process_time()
    sandwich = replace(SANDWICH, epochs=args.sandwich, lr=2e-3, batch_size=base.batch_size, seed=seed)
    config = SandwichConfig(tune=sandwich)
    net, _ = train_supernet(supernet_of(module, data), data, config, None)
    tell(f"supernet trained in {time.process_time() - start:.0f} s of processor time")
    add("supernet, whole", 1.0, net.program, ProgramModule(net.program))
    plain, blank = supernet_of(module, data, blind=True), supernet_of(fresh, data, blind=True)
    for share in args.shares:
        limits = Limits(net, [parse_demand(f"--{args.by}", f"{share}")])
        found = search(net, data, limits, SearchConfig(trials=args.trials, seed=seed))
        subnet: Subnet = found.best.subnet
        mine = net.extract(subnet)
        add("subnetwork", share, mine, ProgramModule(mine))
        rows[-1]["search_seconds"] = found.seconds
        last = replace(alone, epochs=args.tune)
        add("subnetwork, tuned", share, mine, tuned(mine, module, data, last))
        longer = replace(base, epochs=base.epochs + alone.epochs)
        add("from scratch", share, mine, tuned(blank.extract(subnet), None, data, longer))
        try:
            pruned = subject_of(torch_pruned(module, data, share, args.by), data).program
            add("Torch-Pruning", share, pruned, tuned(pruned, module, data, alone))
        except Exception as err:  # noqa: BLE001 - what it fails with is the finding
            tell(f"Torch-Pruning {share:g} fails: {type(err).__name__}: {err}")
        sliced = plain.extract(subnet)
        add("magnitude, raw", share, sliced, ProgramModule(sliced))
        add("magnitude", share, sliced, tuned(sliced, module, data, alone))
    chosen = {n: p for n, p in programs.items() if n.startswith(("original 1", "subnetwork ", "Torch"))}
    times = onnx_latencies(chosen)
    for row in rows:
        if (latency := times.get(f"{row['way']} {row['share']:g}")) is not None:
            row["latency_ms"] = latency.median_ms
    return rows


def quality(found: Evaluation) -> float:
    """What counts on this kind of data: accuracy or mean IoU in %, or bits per byte."""
    if found.is_text:
        return found.bits
    return 100 * (found.accuracy if found.mean_iou is None else found.mean_iou)


def extraction() -> Row:
    """How long cutting a subnetwork out of a ViT-B takes (transformers' ViTModel, random weights)."""
    import transformers

    model = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False).eval()
    subject = open_model(ModelSource(model="vit-b", module=model))
    net = make_supernet(subject, ElasticConfig(), None, origin={})
    start = time.perf_counter()
    _ = net.cutter
    ready, seconds = time.perf_counter() - start, []
    for seed in range(10):
        torch.manual_seed(seed)
        subnet = net.elastic.random()
        start = time.perf_counter()
        net.extract(subnet)
        seconds.append(time.perf_counter() - start)
    error = net.proof(subnet, net.extract(subnet)).max_error
    return {
        "params": subject.costs.params, "direct": net.cutter.direct, "ready_seconds": ready,
        "median_seconds": statistics.median(seconds), "worst_seconds": max(seconds), "max_error": error,
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """Means over the seeds, in Markdown."""
    lines = [
        "| way | share | quality | spread | MACs | parameters | latency |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["way"], r["share"]) for r in rows):
        mine = [r for r in rows if (r["way"], r["share"]) == key]
        met = [r["quality"] for r in mine]
        times = [r["latency_ms"] for r in mine if "latency_ms" in r]
        lines.append(
            f"| {key[0]} | {key[1]:g} | {statistics.mean(met):.2f} | {min(met):.2f} to {max(met):.2f} "
            f"| {100 * statistics.mean(r['macs_ratio'] for r in mine):.1f} % "
            f"| {100 * statistics.mean(r['params_ratio'] for r in mine):.1f} % "
            f"| {f'{statistics.mean(times):.3f} ms' if times else ''} |"
        )
    return "\n".join(lines) + "\n"


def picture(rows: list[Row], label: str, path: Path) -> None:
    """Quality against the share of the MACs, a line for each way."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for way in dict.fromkeys(r["way"] for r in rows):
        mine = [r for r in rows if r["way"] == way and r["share"] < 1]
        shares = sorted({r["share"] for r in mine})
        heights = [statistics.mean(r["quality"] for r in mine if r["share"] == s) for s in shares]
        if mine:
            axes.plot([100 * s for s in shares], heights, marker="o", label=way)
        else:
            whole = statistics.mean(r["quality"] for r in rows if r["way"] == way)
            axes.axhline(whole, ls=":", color="0.5")
            axes.annotate(way, (30, whole), fontsize=7)
    axes.set(xlabel="share asked for, %", ylabel=f"test: {label}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--by", choices=("flops", "params"), default="flops", help="what shares are of")
    parser.add_argument("--base", type=int, default=36)
    parser.add_argument("--sandwich", type=int, default=30)
    parser.add_argument("--tune", type=int, default=28)
    parser.add_argument("--tune-lr", type=float, default=2e-3, help="of all that is fine-tuned")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--no-vit-b", action="store_true", help="leave out the extraction of a ViT-B")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data, path = load_data(args.data), args.output / "supernet.json"
    settings = {k: v for k, v in vars(args).items() if k not in ("output", "seeds", "no_vit_b")}
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if earlier and earlier["settings"] != settings:
        sys.exit(f"{path} is of other settings: {earlier['settings']}")
    rows, large = earlier.get("rows", []), earlier.get("vit_b")
    if large is None and not args.no_vit_b:
        large = extraction()
    for seed in args.seeds:
        if any(r["seed"] == seed for r in rows):
            continue
        start = time.process_time()
        rows += one_seed(args, data, seed, lambda text, s=seed: print(f"seed {s}: {text}", flush=True))
        print(f"seed {seed} took {time.process_time() - start:.0f} s of processor time")
        about = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        told = {"about": about, "settings": settings, "rows": rows, "vit_b": large}
        path.write_text(json.dumps(told, indent=2) + "\n")
    text = table(rows)
    if large is not None:
        text += f"\nViT-B: cut out in {1000 * large['median_seconds']:.1f} ms (worst of ten "
        text += f"{1000 * large['worst_seconds']:.1f} ms), proof {large['max_error']:.1e}\n"
    (args.output / "supernet.md").write_text(text)
    label = {"images": "accuracy, %", "pixels": "mean IoU, %", "bytes": "bits per byte"}[data.unit]
    picture(rows, label, args.output / "supernet.png")
    print(text)


if __name__ == "__main__":
    main()
