"""Torch-Pruning at a share of the MACs: its own pruner, in one step, at the ratio nearest from below.

Torch-Pruning takes a ratio of channels and no target of MACs, so the ratio is bisected, each time on a fresh
copy. The classifier is excluded, as its guide says. Everything else has its default; methods with ``sum``
take the sum of a group's scores, undivided, which spares residual streams and is far better on ResNet-56,
those with ``mean`` the undivided mean. ``by-8`` keeps multiples of 8 channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Peer:
    """One way to use Torch-Pruning.

    Attributes:
        criterion: how channels are scored.
        everywhere: whether one threshold serves the whole network.
        options: of the importance.
        round_to: counts of channels are multiples of it.
    """

    criterion: str
    everywhere: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    round_to: int | None = None


# By default a group's mean, divided by the layer's.
_SUMS: Mapping[str, Any] = {"group_reduction": "sum", "normalizer": None}
_MEANS: Mapping[str, Any] = {"group_reduction": "mean", "normalizer": None}
PEERS: Mapping[str, Peer] = {
    "tp-global-l2": Peer("magnitude"),
    "tp-global-taylor": Peer("taylor"),
    "tp-global-bn-scale": Peer("bn-scale"),
    "tp-uniform-l2": Peer("magnitude", everywhere=False),
    "tp-sum-l2": Peer("magnitude", options=_SUMS),
    "tp-sum-taylor": Peer("taylor", options=_SUMS),
    "tp-sum-bn-scale": Peer("bn-scale", options=_SUMS),
    "tp-mean-l2": Peer("magnitude", options=_MEANS),
    "tp-mean-taylor": Peer("taylor", options=_MEANS),
    "tp-global-l2-by-8": Peer("magnitude", round_to=8),
    "tp-global-taylor-by-8": Peer("taylor", round_to=8),
}
_HALVINGS = 12  # a ratio exact to 1/4096: finer than one channel


def pruned_peer(
    method: str,
    module: nn.Module,
    shape: tuple[int, ...],
    share: float,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> nn.Module:
    """A copy of the module with at most the given share of its MACs.

    Args:
        method: one of ``PEERS``.
        module: left as it was.
        shape: of one image.
        share: of the MACs.
        batches: normalised images and labels for the gradients of the Taylor criterion.

    Raises:
        RuntimeError: even the largest ratio leaves more than the share; or whatever Torch-Pruning raises.
    """
    criterion = PEERS[method].criterion
    gradients = _gradients(module, batches) if criterion == "taylor" else {}
    limit = share * macs(module, shape)
    low, high, best = 0.0, 1.0, None
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        found = _cut(module, shape, PEERS[method], ratio, gradients)
        if macs(found, shape) <= limit:
            high, best = ratio, found
        else:
            low = ratio
    if best is None:
        raise RuntimeError(f"Torch-Pruning cannot come below {share:.0%} of the MACs")
    return best.eval()


def _cut(
    module: nn.Module,
    shape: tuple[int, ...],
    method: Peer,
    ratio: float,
    gradients: Mapping[str, Tensor],
) -> nn.Module:
    import torch_pruning as tp

    scores: dict[str, Callable[..., Any]] = {
        "magnitude": partial(tp.importance.GroupMagnitudeImportance, p=2),
        "taylor": tp.importance.GroupTaylorImportance,
        "bn-scale": tp.importance.BNScaleImportance,
    }
    subject = copy.deepcopy(module)
    for name, parameter in subject.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    tp.pruner.BasePruner(
        subject,
        torch.randn(1, *shape),
        importance=scores[method.criterion](**method.options),
        global_pruning=method.everywhere,
        pruning_ratio=ratio,
        round_to=method.round_to,
        ignored_layers=[m for m in subject.modules() if isinstance(m, nn.Linear)][-1:],
    ).step()
    subject.zero_grad(set_to_none=True)
    return subject


def _gradients(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Of the loss, summed over batches, as its guide does before it prunes by Taylor."""
    subject = copy.deepcopy(module).eval()
    for images, labels in batches:
        torch.autograd.backward(F.cross_entropy(subject(images), labels))
    return {n: p.grad for n, p in subject.named_parameters() if p.grad is not None}


def macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of convolutions and linear layers for one image; what ``graph.cost`` counts of them."""
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, result: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        counts.append(weight[0].numel() * result.numel())

    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return sum(counts)
