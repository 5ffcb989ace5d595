"""How long it takes to capture a model, to find its groups and to cut it to half, and how much memory.

    OMP_NUM_THREADS=1 python benchmarks/graph.py [NAME ...] [-o benchmarks/results/graph.json]

Each model runs in a process of its own: the peak of its memory is its own, and a peer that hangs is stopped
and reported as such. Beside each, in the same run, Torch-Pruning with its defaults on the same model: its
dependency graph stands under "capture", all of its groups under "groups", one step of its pruner at ratio 0.5
under "surgery", and the result must run forward.

The stages are timed after a tiny model went through all of them, so that they hold no imports; how long that
took is told as "start". Memory is the peak of the resident set from before the first stage to after the last,
less what the process held before the model was made, over the bytes of the model's parameters and buffers
(which are in it). "plan" scores all weights and projects the widths onto the target.
The float64 proof runs after all that.

    python benchmarks/graph.py --profile NAME    the functions in which the time goes
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import json
import os
import pstats
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A script's own folder comes first in the search path, where this file would hide the package `graph`.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

TARGET = 0.5  # share of the MACs, or the least that can be reached
MEMORY_LIMIT = 2.5  # times the model


class DenseLayer(nn.Module):
    """Takes all earlier features of its block, adds ``growth`` channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        """The new channels."""
        x = torch.cat(list(earlier), 1)
        x = self.conv1(F.relu(self.norm1(x)))
        y: Tensor = self.conv2(F.relu(self.norm2(x)))
        return y


class DenseNet(nn.Module):
    """Huang et al. 2017, arXiv:1608.06993: every layer reads the concatenation of all before it."""

    def __init__(self, growth: int, blocks: Sequence[int], stem: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.norm0 = nn.BatchNorm2d(stem)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        width = stem
        for depth in blocks:
            layers = [DenseLayer(width + i * growth, growth) for i in range(depth)]
            self.blocks.append(nn.ModuleList(layers))
            width += depth * growth
            if len(self.blocks) < len(blocks):
                norm = nn.BatchNorm2d(width)
                self.transitions.append(nn.Sequential(norm, nn.ReLU(), nn.Conv2d(width, width // 2, 1)))
                width //= 2
        self.norm5 = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, 1000)
        self.concatenations = sum(blocks) + len(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        x = F.max_pool2d(F.relu(self.norm0(self.stem(x))), 3, 2, 1)
        for index, block in enumerate(self.blocks):
            features = [x]
            for layer in block.children():
                features.append(layer(features))
            x = torch.cat(features, 1)
            if index < len(self.transitions):
                x = F.avg_pool2d(self.transitions[index](x), 2)
        y: Tensor = self.classifier(F.relu(self.norm5(x)).mean((2, 3)))
        return y


@dataclass(frozen=True)
class Case:
    """A model to time.

    Attributes:
        build: makes the module, from tensors to a tensor.
        example: its input; the batch is 2.
        limit_s: what all stages may take together, where there is a goal.
        library: the module that defines it, to be imported first.
    """

    build: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    limit_s: float | None = None
    library: str | None = None


def _image() -> Tensor:
    return torch.randn(2, 3, 224, 224)


def _text() -> Tensor:
    return torch.randint(0, 8000, (2, 128))


def _resnet50() -> nn.Module:
    from models_zoo import registry

    return registry.build("resnet50")


def _vit() -> nn.Module:
    import transformers

    from graph.adapter import adapt

    return adapt(transformers.ViTForImageClassification(transformers.ViTConfig()), ["pixel_values"])


def _llama() -> nn.Module:
    import transformers

    from graph.adapter import adapt

    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=24,
        num_attention_heads=16, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    return adapt(transformers.LlamaForCausalLM(config), ["input_ids"])


def _gpt2() -> nn.Module:
    import transformers

    from graph.adapter import adapt

    config = transformers.GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    return adapt(transformers.GPT2LMHeadModel(config), ["input_ids"])


CASES: dict[str, Case] = {
    "resnet50": Case(_resnet50, _image, 3.0),
    "vit-b16": Case(_vit, _image, 4.0, "transformers.models.vit.modeling_vit"),
    "llama-304m": Case(_llama, _text, 8.0, "transformers.models.llama.modeling_llama"),
    "gpt2-355m": Case(_gpt2, _text, 8.0, "transformers.models.gpt2.modeling_gpt2"),
    "densenet121": Case(lambda: DenseNet(32, (6, 12, 24, 16), 64), _image),
    "densenet161": Case(lambda: DenseNet(48, (6, 12, 36, 24), 96), _image),
    "densenet201": Case(lambda: DenseNet(32, (6, 12, 48, 32), 64), _image),
}


def tiny() -> nn.Module:
    """What is run first, so that imports and caches are not counted."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4), nn.Linear(4, 2)
    )


class Clock:
    """Seconds of stages, one after another.

    Attributes:
        stages: wall time of each.
        cpu: the processor's time of each, all threads together: it tells more on a loaded machine.
    """

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.last = time.perf_counter(), time.process_time()

    def stop(self, stage: str) -> None:
        """The stage ends here."""
        now = time.perf_counter(), time.process_time()
        self.stages[stage], self.cpu[stage] = now[0] - self.last[0], now[1] - self.last[1]
        self.last = now


def cut(module: nn.Module, example: Tensor, prove: bool, sample: Callable[[], None]) -> dict[str, Any]:
    """Cut a model to the target with this project.

    Args:
        module: to be cut; left as it was.
        example: its input.
        prove: check in float64 that the result is right.
        sample: called when the stages are over.
    """
    from graph.axes import infer
    from graph.capture import capture
    from graph.cost import costs
    from prune.budget import Budget
    from prune.importance import magnitude
    from prune.plan import make_plan
    from prune.surgery import prune_program
    from prune.verify import verify
    from prune.widths import WidthSpace

    clock = Clock()
    program = capture(module, [example])
    clock.stop("capture")
    axes = infer(program)
    clock.stop("groups")
    space = WidthSpace(axes)
    target = max(int(TARGET * space.base_macs), space.lowest_macs)
    levels = Budget.of(space, macs=target).project([1.0] * space.bundles)
    plan = make_plan(space, levels, magnitude(axes), "uniform")
    clock.stop("plan")
    pruned = prune_program(axes, plan)
    clock.stop("surgery")
    sample()
    error = verify(axes, plan.keep_mask(axes), pruned).max_error if prove else None
    return {
        "stages": clock.stages,
        "cpu_stages": clock.cpu,
        "groups": len(axes.groups),
        "nodes": len(program.nodes),
        "kept_macs": costs(pruned).macs / space.base_macs,
        "verify_error": error,
    }


def peer(module: nn.Module, example: Tensor, prove: bool, sample: Callable[[], None]) -> dict[str, Any]:
    """Cut a model with Torch-Pruning; its head is excluded, as its guide says. Arguments as of ``cut``."""
    import torch_pruning as tp

    module.eval()
    head = [m for m in module.modules() if isinstance(m, nn.Linear)][-1:]
    clock = Clock()
    graph = tp.DependencyGraph().build_dependency(module, example)
    clock.stop("capture")
    groups = sum(1 for _ in graph.get_all_groups(ignored_layers=head))
    clock.stop("groups")
    pruner = tp.pruner.MagnitudePruner(
        module, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=TARGET,
        ignored_layers=head,
    )  # fmt: skip
    clock.stop("plan")
    pruner.step()
    clock.stop("surgery")
    sample()
    with torch.no_grad():
        module(example)
    return {"stages": clock.stages, "cpu_stages": clock.cpu, "groups": groups}


SIDES = {"prune": cut, "torch-pruning": peer}


def resident_bytes(field: str) -> int:
    """A figure of this process in the kernel's own account: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not tell {field}")


def work(side: str, name: str, prove: bool) -> dict[str, Any]:
    """Time one model in this process."""
    torch.manual_seed(0)
    case, run = CASES[name], SIDES[side]
    start = time.perf_counter()
    example = torch.randn(2, 3, 8, 8)
    (small := tiny())(example)  # the lazy layer learns its size
    run(small, example, False, lambda: None)
    started = time.perf_counter() - start
    if case.library is not None:
        importlib.import_module(case.library)  # not to be counted to the model's memory
    before = resident_bytes("VmRSS")
    module = case.build().eval()
    size = sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])
    parameters = sum(p.numel() for p in module.parameters())
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, without the model's own making
    peak: list[int] = []
    try:
        found = run(module, case.example(), prove, lambda: peak.append(resident_bytes("VmHWM") - before))
    except Exception as err:  # noqa: BLE001 - whatever fails is the finding
        lines = str(err).splitlines()
        return {"result": f"{type(err).__name__}: {lines[0] if lines else ''}"}
    return {
        "result": "runs",
        "parameters": parameters,
        "model_bytes": size,
        "peak_bytes": peak[0],
        "memory_ratio": peak[0] / size,
        "start_s": started,
        "total_s": sum(found["stages"].values()),
        "cpu_s": sum(found["cpu_stages"].values()),
        "concatenations": getattr(module, "concatenations", None),
        **found,
    }


def child(side: str, name: str, limit_s: float, prove: bool) -> dict[str, Any]:
    """Time one model in a process of its own; a hang is an answer, too."""
    command = [sys.executable, __file__, name, "--side", side, *([] if prove else ["--no-verify"])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"result": f"no end in {limit_s:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return {"result": f"died: {told}"}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def row(name: str, side: str, found: Mapping[str, Any]) -> str:
    """One line of the table."""
    if found["result"] != "runs":
        return f"{name:<12} {side:<14} {found['result'][:100]}"
    stages = "".join(f"{s:9.2f}" for s in found["stages"].values())
    limit = CASES[name].limit_s if side == "prune" else None
    goal = "" if limit is None else f"{'<' if found['total_s'] < limit else 'MISSED'} {limit:g}"
    kept = "" if found.get("kept_macs") is None else f"{found['kept_macs']:.4f}"
    error = found.get("verify_error")
    return (
        f"{name:<12} {side:<14} {found['parameters'] / 1e6:7.1f} {found['groups']:6d}{stages} "
        f"{found['total_s']:8.2f} {found['cpu_s']:7.2f} {goal:<9} {found['memory_ratio']:6.2f} "
        f"{found['start_s']:6.1f} {kept:>7} {'' if error is None else f'{error:.0e}':>7}"
    )


HEADER = (
    f"{'model':<12} {'by':<14} {'M par.':>7} {'groups':>6} {'capture':>8} {'groups':>8} {'plan':>8} "
    f"{'surgery':>8} {'total s':>8} {'cpu s':>7} {'goal':<9} {'memory':>6} {'start':>6} "
    f"{'kept':>7} {'proof':>7}"
)


def concatenations(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Seconds per concatenation of the networks that have them: flat where nothing grows quadratically."""
    lines = []
    for name, sides in results.items():
        for side, found in sides.items():
            if found.get("concatenations"):
                per = {s: 1000 * t / found["concatenations"] for s, t in found["stages"].items()}
                told = ", ".join(f"{s} {t:.1f}" for s, t in per.items())
                lines.append(
                    f"{name:<12} {side:<14} {found['concatenations']:4d} concatenations, ms each: {told}"
                )
    return lines


def profile(name: str) -> None:
    """Print the functions in which the time goes."""
    module, example = CASES[name].build().eval(), CASES[name].example()
    (small := tiny())(torch.randn(2, 3, 8, 8))
    cut(small, torch.randn(2, 3, 8, 8), False, lambda: None)
    profiler = cProfile.Profile()
    profiler.enable()
    found = cut(module, example, False, profiler.disable)
    for order in ("tottime", "cumulative"):
        pstats.Stats(profiler).sort_stats(order).print_stats(60)
    print(found)


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *CASES], metavar="NAME", help=", ".join(CASES))
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/graph.json"))
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a model")
    parser.add_argument("--peer-limit", type=float, default=120.0, help="the same for the peer, or 0")
    parser.add_argument("--no-verify", action="store_true", help="leave the float64 proof out")
    parser.add_argument("--profile", action="store_true", help="of the one model that is named")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.names or list(CASES)
    if options.profile:
        profile(names[0])
        return
    if options.side:
        print(json.dumps(work(options.side, names[0], not options.no_verify)))
        return

    from profilers.latency import environment

    print(HEADER, flush=True)
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        for side, limit in (("prune", options.limit), ("torch-pruning", options.peer_limit)):
            if limit > 0:
                found = child(side, name, limit, not options.no_verify)
                results.setdefault(name, {})[side] = found
                print(row(name, side, found), flush=True)
    for line in concatenations(results):
        print(line)
    for name, sides in results.items():
        if sides["prune"].get("memory_ratio", 0.0) > MEMORY_LIMIT:
            print(f"{name}: {sides['prune']['memory_ratio']:.2f} x the model in memory, the limit is 2.5")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    data = {"command": " ".join(["python", "benchmarks/graph.py", *options.names]),
            "environment": {**environment(), "load": os.getloadavg()}, "results": results}  # fmt: skip
    options.output.write_text(json.dumps(data, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
