"""What is measured on one model with Torch-Pruning: whether it ends, runs, removes anything, and is right.

The pruner is the one that its readme recommends (``BasePruner``, before 1.6 ``MetaPruner``, with group
magnitudes) at ratio 0.5, everything else at its default and without hints per model. Layers that make the
model's outputs are excluded, as its guide tells its users to do.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.coverage_ours import CONCLUSIVE, Report, difference, distinct, zeroed
from graph.errors import first_line


def measure(module: nn.Module, example: Sequence[Tensor], report: Report) -> None:
    """Prune with defaults, run forward, and hold the result against its own zeroed original."""
    import torch_pruning as tp

    warnings.simplefilter("ignore")
    subject = copy.deepcopy(module)
    inputs = tuple(example)
    try:  # float64 where the model can: values are then all different, and differences are errors
        tensors = distinct(subject.state_dict())
        subject = subject.double()
        subject.load_state_dict(tensors)
        inputs = tuple(t.double() if t.is_floating_point() else t for t in inputs)
        before = _run(subject, inputs)
        exact = True
    except Exception:  # noqa: BLE001 - a model that insists on float32
        subject, inputs, exact = copy.deepcopy(module), tuple(example), False
        before = _run(subject, inputs)
    original = copy.deepcopy(subject)
    outputs = _output_layers(subject, inputs)
    size = sum(p.numel() for p in subject.parameters())
    start = time.perf_counter()
    report({"result": "hangs", "exact": exact})
    try:
        pruner = tp.pruner.BasePruner(
            subject,
            inputs if len(inputs) > 1 else inputs[0],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=outputs,
        )
        pruner.step()
        report({"step_s": time.perf_counter() - start})
        after = _run(subject, inputs)
    except Exception as err:  # noqa: BLE001 - whatever the peer raises is the finding
        report({"result": "fails", "reason": f"{type(err).__name__}: {first_line(err)[:120]}"})
        return
    kept = sum(p.numel() for p in subject.parameters()) / max(1, size)
    if [a.shape for a in after] != [b.shape for b in before]:
        report({"result": "other outputs", "kept_parameters": kept})
    elif kept == 1.0:
        report({"result": "no-op"})
    else:
        report(
            {
                "result": "runs",
                "kept_parameters": kept,
                "zeros_error": _zeros(original, subject, inputs, after),
            }
        )


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [t for t in tree_leaves(module(*inputs)) if isinstance(t, Tensor)]


def _output_layers(module: nn.Module, inputs: Sequence[Tensor]) -> list[nn.Module]:
    """The layers whose result is an output as it is; if there is none, the last linear or convolution."""
    made: dict[int, nn.Module] = {}
    kept: list[Any] = []
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    layers: list[nn.Module] = [m for m in module.modules() if isinstance(m, kinds)]

    def remember(layer: nn.Module, _: Any, result: Any) -> None:
        made[id(result)] = layer
        kept.append(result)  # so that no other object gets its id

    hooks = [layer.register_forward_hook(remember) for layer in layers]
    with torch.no_grad():
        results = tree_leaves(module(*inputs))
    for hook in hooks:
        hook.remove()
    found = [made[id(r)] for r in results if id(r) in made]
    return found or layers[-1:]


def _zeros(
    original: nn.Module, pruned: nn.Module, inputs: Sequence[Tensor], after: list[Tensor]
) -> float | None:
    """Difference between the pruned network and the original with all removed weights at zero."""
    smaller = dict(pruned.named_parameters())
    weights = dict(original.named_parameters())
    with torch.no_grad():
        for name, tensor in zeroed(weights, smaller).items():
            weights[name].copy_(tensor)
    return difference(_run(original, inputs), after)


def wrong(found: dict[str, Any], conclusive: bool) -> bool:
    """Whether a peer's network runs but computes something else, where that can be told."""
    error = found.get("zeros_error")
    return bool(conclusive and found.get("exact") and error is not None and not error <= CONCLUSIVE)
