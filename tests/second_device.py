"""What another device computes for a run, beside what the CPU does; run in a process of its own.

python tests/second_device.py DEVICE [LIBRARY]: LIBRARY is tests/second_device.cpp, built, which makes the
device. Prints JSON: by name what the CPU found, and what the device did.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from graph.axes import infer
from graph.capture import capture
from graph.program import ProgramModule
from models_zoo.data import load_embedded
from prune.budget import Budget
from prune.evaluation import evaluate
from prune.importance import magnitude, taylor
from prune.mend import Mender
from prune.placement import CPU, on, placed_axes
from prune.plan import make_plan
from prune.slicing import Slicer
from prune.surgery import cut
from prune.train import build_for
from prune.tune import fit
from prune.tune_config import TuneConfig
from prune.widths import WidthSpace
from rl.reward import Evaluator
from rl.scorer import Scorer, chunks
from rl.side_by_side import SideBySide
from rl.training import TrainingConfig, train_policy


def load_device(library: str, name: str) -> None:
    """Make the device that a library registers known under a name."""
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(name)
    module: Any = ModuleType(f"torch.{name}")
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    torch._register_device_module(name, module)
    torch.utils.generate_methods_for_privateuse1_backend()


def found(device: torch.device) -> dict[str, list[float]]:
    """Scores, gradients, fits and training of a small network."""
    data = load_embedded("digits")
    torch.manual_seed(0)
    module, _ = build_for("resnet20", data, width=8)
    fit(module, data, TuneConfig(epochs=1, lr=0.1))
    axes = infer(capture(module.eval(), [torch.randn(2, *data.input_shape)]))
    space = WidthSpace(axes)
    budget = Budget.of(space, macs=space.base_macs // 2)
    random = np.random.default_rng(0)
    plans = [
        make_plan(space, budget.project(random.uniform(0.2, 1, space.bundles)), magnitude(axes), "random")
        for _ in range(4)
    ]
    keeps = [plan.keep_mask(axes) for plan in plans]
    result: dict[str, list[float]] = {}
    with Evaluator(axes, data, images=64, device=device) as evaluator:
        result["scores"] = [s for score in evaluator.many(keeps) for s in (score.accuracy, score.loss)]
        result["one score"] = [evaluator(axes.closed(np.ones(axes.classes, dtype=np.bool_))).loss]
    scorer = Scorer(placed_axes(axes, device), tuple(c.to(device) for c in chunks(axes, data, 64)))
    beside = SideBySide(scorer, most=2, timed=False)
    result["side by side"] = [score.loss for score in beside.map(keeps)]
    assert beside._pays
    result["gradients"] = taylor(axes, data.train.batches(64, limit=128), device).tolist()
    mender = Mender(axes, data, device=device)
    result["fits"] = [mender.finalist(plans)[1]]
    mended = mender.mended(keeps[0], cut(axes, keeps[0]))
    assert {t.device for p in (mended.program, mended.usual) for t in p.tensors.values()} == {CPU}
    for name, way in {"by surgery": functools.partial(cut, axes), "by slices": Slicer(axes)}.items():
        tensors = mender.mended(keeps[0], way(keeps[0])).usual.tensors.values()
        result[name] = [float(t.double().square().sum()) for t in tensors]
    student, teacher = ProgramModule(mended.program), ProgramModule(axes.program)
    with on(device, student, teacher):
        result["before"] = [evaluate(student, data.test).loss]
        fit(student, data, TuneConfig(epochs=1), teacher=teacher, initial=mended.usual.tensors)
        result["after"] = [evaluate(student, data.test).loss]
    assert {t.device for m in (student, teacher) for t in m.state_dict().values()} == {CPU}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        asked = TrainingConfig(
            on=("resnet20",), data="digits", output=path, episodes=1, targets=(0.5,), epochs=1, images=64,
            device=device,
        )  # fmt: skip
        result["policy"] = [train_policy(asked).origin.gain]
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        load_device(sys.argv[2], sys.argv[1])
    print(json.dumps([found(CPU), found(torch.device(sys.argv[1]))]))
