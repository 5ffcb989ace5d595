"""How fast a fine-tuning step is, beside the usual loop.

    OMP_NUM_THREADS=1 python benchmarks/training.py [NAME ...] [--target 0.5] [--steps 8] [--repeats 3]
        [-o FILE]

The usual loop takes images as data loaders give them, channel by channel; ours (``prune.tune.fit``) pixel by
pixel. Both train the same smaller network, cut to a share of the MACs by magnitude, with the original as
teacher on batches of 128 images of 32 x 32 pixels, in turns, with one thread; seconds are those of the
processor, the least of the repeats. Weights and images are random: they do not change the time. Results are
stored after each network.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Not benchmarks/ itself, where a file may have the name of a room.
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from benchmarks.reward import noise  # noqa: E402
from graph.axes import infer  # noqa: E402
from graph.capture import capture  # noqa: E402
from graph.program import ProgramModule  # noqa: E402
from models_zoo.data import DataSet  # noqa: E402
from profilers.latency import environment  # noqa: E402
from prune.baselines import global_ratios  # noqa: E402
from prune.budget import Budget  # noqa: E402
from prune.distillation import distilled  # noqa: E402
from prune.evaluation import Evaluation  # noqa: E402
from prune.importance import magnitude  # noqa: E402
from prune.plan import make_plan  # noqa: E402
from prune.surgery import prune_program  # noqa: E402
from prune.train import build_for  # noqa: E402
from prune.tune import fit  # noqa: E402
from prune.tune_config import TuneConfig  # noqa: E402
from prune.widths import WidthSpace  # noqa: E402

NAMES = ("resnet20", "resnet56", "vgg16", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2")
BATCH, CLASSES, WARMUP = 128, 10, 2
CONFIG = TuneConfig(epochs=1, batch_size=BATCH)


class Pair:
    """A network and its smaller one.

    Args:
        target: share of the MACs of the smaller one.
    """

    def __init__(self, name: str, data: DataSet, target: float) -> None:
        torch.manual_seed(0)
        module, _ = build_for(name, data)
        axes = infer(capture(module.eval(), [torch.randn(2, *data.input_shape)]))
        space, scores = WidthSpace(axes), magnitude(axes)
        budget = Budget.of(space, macs=int(target * space.base_macs))
        plan = make_plan(space, budget.project(global_ratios(space, scores, budget)), scores, "magnitude")
        self.teacher = ProgramModule(axes.program).eval()
        self.small = prune_program(axes, plan)
        self.data = data

    def ours(self) -> float:
        """Seconds of a step of ``fit``."""
        ends: list[float] = []
        fit(
            ProgramModule(self.small),
            self.data,
            CONFIG,
            teacher=self.teacher,
            on_step=lambda *_: ends.append(time.process_time()),
            judge=lambda _: Evaluation(0.0, 0.0, 1),
        )
        return (ends[-1] - ends[WARMUP - 1]) / (len(ends) - WARMUP)

    def usual(self) -> float:
        """Seconds of a step of the usual loop: the same loss, gradient norm and optimiser."""
        module = ProgramModule(self.small).train()
        optimizer = torch.optim.SGD(
            module.parameters(),
            lr=CONFIG.lr,
            momentum=CONFIG.momentum,
            weight_decay=CONFIG.weight_decay,
            nesterov=True,
        )
        ends: list[float] = []
        for x, y in self.data.train.batches(BATCH, shuffle=True):
            optimizer.zero_grad()
            self.loss(module, x, y).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            ends.append(time.process_time())
        return (ends[-1] - ends[WARMUP - 1]) / (len(ends) - WARMUP)

    def loss(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Half of the labels, half of the teacher."""
        logits = module(x)
        with torch.no_grad():
            wanted = self.teacher(x)
        cross_entropy = F.cross_entropy(logits, y)
        return distilled(cross_entropy, logits, wanted, share=CONFIG.distill, temperature=CONFIG.temperature)


def show(results: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("network", "usual loop", "ours", "times", title="seconds of a fine-tuning step")
    for name, found in results.items():
        table.add_row(
            name,
            f"{found['usual_s']:.3f}",
            f"{found['ours_s']:.3f}",
            f"{found['times']:.2f}",
        )
    Console(width=100).print(table)


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/training.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    data = noise((3, 32, 32), CLASSES, BATCH * (options.steps + WARMUP))
    results: dict[str, Any] = {}
    for name in options.names:
        pair = Pair(name, data, options.target)
        times = [(pair.usual(), pair.ours()) for _ in range(options.repeats)]
        usual, ours = (min(each) for each in zip(*times, strict=True))
        results[name] = {"usual_s": usual, "ours_s": ours, "times": usual / ours}
        stored = {
            "command": f"OMP_NUM_THREADS=1 python benchmarks/training.py {' '.join(options.names)} "
            f"--target {options.target} --steps {options.steps} --repeats {options.repeats}",
            "environment": environment(),
            "results": results,
        }
        options.output.write_text(json.dumps(stored, indent=2) + "\n")
    show(results)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
