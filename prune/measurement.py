"""Measurement: what the original and the pruned model cost, weigh and take, each in turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from graph.cost import costs
from graph.program import Program
from profilers.latency import Latency, compare, onnx_call, torch_call
from prune.budget import Budget
from prune.evaluation import Evaluation
from prune.plan import Plan, kept_widths
from prune.preparation import Prepared
from prune.report import ModelFigures


def measured(
    ready: Prepared,
    student: nn.Module,
    final: Program,
    accuracies: tuple[Evaluation | None, Evaluation | None],
    folder: Path,
) -> dict[str, ModelFigures]:
    """Costs, sizes and latencies of both models, measured in turn on one record.

    Args:
        ready: the original.
        student: the pruned model as it is evaluated.
        final: its program.
        accuracies: of it on the test split, before and after fine-tuning; None without data.
        folder: holds its ``model.onnx``.

    Returns:
        Of ``original`` and ``pruned``.
    """
    one = ready.subject.program.random_inputs(1)
    files = {"original": ready.original_onnx(), "pruned": folder / "model.onnx"}
    # Apart from each other: onnxruntime's threads spin on for a while and would slow torch's next call.
    modules: dict[str, nn.Module] = {"original": ready.reference, "pruned": student}
    in_torch = compare({name: torch_call(module, *one) for name, module in modules.items()})
    in_onnx = compare({name: onnx_call(path, *map(Tensor.numpy, one)) for name, path in files.items()})
    counts = {"original": ready.whole.costs, "pruned": costs(final)}
    base = ready.base
    before, after = (e.accuracy if e is not None else None for e in accuracies)
    return {
        name: ModelFigures(
            macs=counts[name].macs,
            params=counts[name].params,
            peak_activation_bytes=counts[name].peak_activation_bytes,
            memory_bytes=counts[name].memory_bytes,
            onnx_bytes=files[name].stat().st_size,
            torch_ms=_latency(in_torch[name]),
            onnx_ms=_latency(in_onnx[name]),
            accuracy=(base.accuracy if base else None) if name == "original" else after,
            accuracy_before_tuning=(base.accuracy if base else None) if name == "original" else before,
        )
        for name in ("original", "pruned")
    }


def used_of(
    ready: Prepared, budget: Budget, plan: Plan, figures: Mapping[str, ModelFigures]
) -> dict[str, dict[str, float]]:
    """What was counted or timed of each quantity, for ``original`` and ``pruned``.

    Args:
        ready: the original.
        budget: the limits.
        plan: of the pruned model.
        figures: as ``measured`` returns them.

    Raises:
        AssertionError: what was counted of a limited quantity is not as predicted.
    """
    used = {name: f.quantities() for name, f in figures.items()}
    widths = kept_widths(ready.subject.axes, plan)
    for bound in budget.bounds:
        name = bound.quantity.name
        if name != "latency" and used["pruned"][name] != bound.quantity.value(widths):
            raise AssertionError(f"the pruned program uses {used['pruned'][name]} {name}, not as predicted")
    if ready.clock is not None:  # on the scale on which the limit was set, whatever else runs by now
        share = used["pruned"]["latency"] / used["original"]["latency"]
        used["original"]["latency"] = ready.clock.base_ms
        used["pruned"]["latency"] = share * ready.clock.base_ms
    return used


def _latency(found: Latency) -> dict[str, float]:
    return {"median": found.median_ms, "p10": found.p10_ms, "p90": found.p90_ms}
