"""Declared sizes: what torch's own layers say about the shapes of their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from prune.attributes import Change, join

Sizes = dict[str, Any]


def declared(layer: nn.Module, groups: int | None = None) -> Sizes:
    """The attributes of a layer that follow from the shapes of its weights.

    Args:
        layer: any module; what is no layer of torch's declares nothing.
        groups: of a convolution or a group norm; the layer's own when left out.
    """
    for kinds, rule in _RULES:
        if isinstance(layer, kinds):
            return {k: v for k, v in rule(layer, groups).items() if hasattr(layer, k)}
    return {}


def declared_changes(
    old: nn.Module, new: nn.Module, groups: Mapping[str, int], fewer: Mapping[str, int]
) -> list[Change]:
    """What torch's layers have to declare after surgery.

    Args:
        old: the module as it was.
        new: a copy of it with the pruned weights.
        groups: those of the convolutions and group norms in the original program, by the path of the layer.
        fewer: those in the pruned one.
    """
    found = []
    parts = dict(new.named_modules())
    for path, part in old.named_modules():
        # A program's groups may be those of another call that counts as the layer's (a functional one).
        known = path in groups and groups[path] in (getattr(part, n, 0) for n in ("groups", "num_groups"))
        before, after = declared(part), declared(parts[path], fewer[path] if known else None)
        for name, value in before.items():
            # A class of the user's own may mean something else by the name.
            if after[name] != value and getattr(part, name) == value:
                found.append(Change(join(path, name), value, after[name]))
    return found


def _shape(layer: Any, *names: str) -> list[int]:
    """The shape of the first of these tensors that the layer has."""
    found = (_stored(layer, name) for name in names)
    return next((list(t.shape) for t in found if t is not None), [])


def _stored(layer: Any, name: str) -> Any:
    """A tensor, or the one from which a weight norm and its like compute it; computing might change it."""
    made = getattr(layer, "parametrizations", {})
    if name in made:
        return getattr(made[name], "original1", getattr(made[name], "original", None))
    older = (getattr(layer, name + suffix, None) for suffix in ("_v", "_orig"))
    return next((t for t in older if t is not None), getattr(layer, name, None))


def _named(weight: str, *names: str) -> Callable[[Any, int | None], Sizes]:
    """The attributes that are the first sizes of a tensor."""
    return lambda layer, _: dict(zip(names, _shape(layer, *weight.split()), strict=False))


def _convolution(layer: Any, groups: int | None) -> Sizes:
    outer, inner = _shape(layer, "weight")[:2]
    groups = groups or layer.groups
    if layer.transposed:
        return {"in_channels": outer, "out_channels": inner * groups, "groups": groups}
    return {"in_channels": inner * groups, "out_channels": outer, "groups": groups}


def _layer_norm(layer: Any, groups: int | None) -> Sizes:
    shape = _shape(layer, "weight")
    return {"normalized_shape": tuple(shape)} if shape else {}


def _group_norm(layer: Any, groups: int | None) -> Sizes:
    shape = _shape(layer, "weight")
    return {"num_groups": groups or layer.num_groups} | ({"num_channels": shape[0]} if shape else {})


def _recurrent(layer: Any, groups: int | None) -> Sizes:
    inner, outer = _shape(layer, "weight_ih_l0", "weight_ih"), _shape(layer, "weight_hh_l0", "weight_hh")
    sizes = {"input_size": inner[1], "hidden_size": inner[0] // _gates(layer)}
    return sizes | ({"proj_size": outer[1]} if getattr(layer, "proj_size", 0) else {})


def _gates(layer: nn.Module) -> int:
    if isinstance(layer, (nn.LSTM, nn.LSTMCell)):
        return 4
    return 3 if isinstance(layer, (nn.GRU, nn.GRUCell)) else 1


def _attention(layer: Any, groups: int | None) -> Sizes:
    width = _shape(layer.out_proj, "weight")[0]
    keys, values = _shape(layer, "k_proj_weight"), _shape(layer, "v_proj_weight")
    fused = _shape(layer, "in_proj_weight")
    return {"embed_dim": width, "kdim": (fused or keys)[1], "vdim": (fused or values)[1]}


_RULES: tuple[tuple[Any, Callable[[Any, int | None], Sizes]], ...] = (
    (nn.modules.conv._ConvNd, _convolution),
    (nn.Linear, _named("weight", "out_features", "in_features")),
    (nn.Bilinear, _named("weight", "out_features", "in1_features", "in2_features")),
    (nn.modules.batchnorm._NormBase, _named("weight running_mean", "num_features")),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _named("weight", "num_embeddings", "embedding_dim")),
    (nn.PReLU, _named("weight", "num_parameters")),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    (nn.MultiheadAttention, _attention),
)
