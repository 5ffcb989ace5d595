"""What is measured on one model with this project: captured, grouped, cut to half, proved, exported."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from graph.axes import Axes, infer
from graph.capture import capture
from graph.groups import Pinned
from graph.program import Program, ProgramModule
from prune.budget import TOLERANCE, Budget
from prune.export import export_onnx
from prune.importance import magnitude
from prune.native import native_module
from prune.plan import Plan, make_plan
from prune.surgery import prune_program
from prune.verify import LIMIT, run_program, verify
from prune.widths import WidthSpace

TARGET = 0.5
NATIVE_SECONDS = 20.0
CONCLUSIVE = 1e-6  # a zeroed network and the pruned one agree to this where zeros stay zeros

Report = Callable[[Mapping[str, Any]], None]


def measure(module: nn.Module, example: Sequence[Tensor], report: Report, *, onnx: bool, seed: int) -> None:
    """Tell stage by stage what becomes of a model, so that a hang or a crash loses only what comes after.

    Args:
        module: in eval mode.
        example: its inputs, batch of 2.
        report: takes the findings; "stage" says which one begins.
        onnx: whether to export.
        seed: of the random plan.
    """
    clock = time.perf_counter()

    def told(stage: str, **found: Any) -> None:
        nonlocal clock
        now = time.perf_counter()
        report({"stage": stage, f"{stage}_s": now - clock, **found})
        clock = now

    before = {k: t.clone() for k, t in module.state_dict().items()}
    report({"parameters": sum(p.numel() for p in module.parameters())})
    program = capture(module, list(example))
    told(
        "capture", captured=True, notes=program.notes, nodes=len(program.nodes), dynamic=program.dynamic_batch
    )
    told("compare", capture_error=_capture_error(module, example, program))
    axes = infer(program)
    told(
        "infer",
        groups=dict(Counter(g.kind for g in axes.groups)),
        bundles=len(axes.bundles),
        pinned=_reasons(axes.pinned),
        unsupported=dict(axes.unsupported),
    )
    space = WidthSpace(axes)
    lowest = space.lowest_macs / space.base_macs if space.bundles and space.base_macs else 1.0
    told("space", macs=space.base_macs, lowest=lowest)
    if not space.bundles:
        report({"reached": 1.0, "half": False, "nearest": False, "untouched": _same(module, before)})
        return
    target = max(int(TARGET * space.base_macs), space.lowest_macs)
    levels = Budget.of(space, macs=target).project([1.0] * space.bundles)
    plan = make_plan(space, levels, magnitude(axes), "uniform")
    half = TARGET - TOLERANCE <= plan.ratio <= TARGET
    told(
        "plan",
        reached=plan.ratio,
        half=half,
        nearest=half or (lowest <= TARGET and _tight(space, levels, target)),
    )
    pruned = prune_program(axes, plan)
    told("surgery")
    told("verify", verify_error=_error(axes, plan, pruned))
    told("random", random_error=_random_error(axes, space, seed))
    told("zeros", conclusive=_conclusive(program, pruned), untouched=_same(module, before))
    native = native_module(module, program, pruned, seconds=NATIVE_SECONDS)
    told(
        "native",
        native=native.module is not None,
        native_reason=native.reason,
        untouched=_same(module, before),
    )
    if onnx:
        told("onnx", **_onnx(pruned))


def _error(axes: Axes, plan: Plan, pruned: Program) -> float:
    return verify(axes, plan.keep_mask(axes), pruned).max_error


def _random_error(axes: Axes, space: WidthSpace, seed: int) -> float:
    """The proof of a plan with random widths and random channels."""
    random = np.random.default_rng(seed)
    levels = np.array([random.integers(n) for n in space.level_counts], dtype=np.int64)
    plan = make_plan(space, levels, random.random(axes.classes), "random")
    return _error(axes, plan, prune_program(axes, plan))


def _tight(space: WidthSpace, levels: np.ndarray[Any, np.dtype[np.int64]], target: int) -> bool:
    """Whether no single bundle can be one step wider: small networks have coarse steps."""
    for bundle, count in enumerate(space.level_counts):
        if levels[bundle] + 1 < count:
            wider = levels.copy()
            wider[bundle] += 1
            if space.macs(levels) < space.macs(wider) <= target:
                return False
    return True


def _reasons(pinned: Sequence[Pinned]) -> dict[str, int]:
    """How many channels of parameters each reason holds."""
    count: Counter[str] = Counter()
    for pin in pinned:
        count[pin.reason] += pin.channels
    return dict(count)


def _capture_error(module: nn.Module, example: Sequence[Tensor], program: Program) -> float:
    """Largest difference between the model and its program, relative to the largest output."""
    with torch.no_grad():
        wanted = [t for t in tree_leaves(module(*example)) if isinstance(t, Tensor)]
        got = [t for t in tree_leaves(ProgramModule(program).eval()(*example)) if isinstance(t, Tensor)]
    return difference(wanted, got)


def difference(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """Largest difference, relative to the largest element; infinite where shapes differ."""
    if [w.shape for w in wanted] != [g.shape for g in got]:
        return float("inf")
    worst = 0.0
    for w, g in zip(wanted, got, strict=True):
        if w.numel() and (w.is_floating_point() or w.is_complex()):
            both = torch.isfinite(w) & torch.isfinite(g)
            if not torch.equal(torch.isfinite(w), torch.isfinite(g)):
                return float("inf")
            w, g = w[both], g[both]
            scale = float(w.abs().max()) if w.numel() else 0.0
            worst = max(worst, float((w - g).abs().max()) / (scale or 1.0) if w.numel() else 0.0)
        elif not torch.equal(w, g):
            return float("inf")
    return worst


def _same(module: nn.Module, before: Mapping[str, Tensor]) -> bool:
    after = module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(t, after[k]) for k, t in before.items())


def zeroed(whole: Mapping[str, Tensor], smaller: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors with zeros in place of all values that the smaller ones no longer hold."""
    result = {}
    for name, tensor in whole.items():
        kept = smaller.get(name)
        if kept is not None and kept.shape != tensor.shape and tensor.is_floating_point():
            result[name] = torch.where(torch.isin(tensor, kept), tensor, torch.zeros_like(tensor))
        else:
            result[name] = tensor
    return result


def distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64, with a little noise that makes them all different."""
    generator = torch.Generator().manual_seed(0)
    return {
        k: t.double() + 1e-3 * torch.rand(t.shape, generator=generator, dtype=torch.float64)
        if t.is_floating_point()
        else t
        for k, t in tensors.items()
    }


def _conclusive(program: Program, pruned: Program) -> bool:
    """Whether zeroing what was removed gives the pruned network's outputs: true where zeros stay zeros.

    It is what a peer's result is held against: on such networks a right result passes this test, too.
    """
    names = [n for n in pruned.trainable if pruned.tensors[n].shape != program.tensors[n].shape]
    if any(len(torch.unique(program.tensors[n])) < program.tensors[n].numel() for n in names):
        return False  # equal values cannot be told apart
    tensors = {**program.tensors, **zeroed({n: program.tensors[n] for n in names}, pruned.tensors)}
    inputs = program.random_inputs(2, dtype=torch.float64)
    wanted = run_program(replace(program, tensors=tensors), inputs)
    return difference(wanted, run_program(pruned, inputs)) <= CONCLUSIVE


def _onnx(pruned: Program) -> dict[str, float]:
    """Parity in onnxruntime, relative to the largest output or 1, and the model's own rounding."""
    module = ProgramModule(pruned).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, example = Path(folder) / "pruned.onnx", pruned.random_inputs(2)
        checked = export_onnx(module, example, path, dynamic_batch=pruned.dynamic_batch)
        return {"onnx_error": checked.max_error, "onnx_rounding": checked.rounding}


def failed(found: Mapping[str, Any]) -> bool:
    """Whether something is wrong with a result: never to happen."""
    errors = [found.get("verify_error"), found.get("random_error")]
    return any(e is not None and not e <= LIMIT for e in errors) or found.get("untouched") is False
