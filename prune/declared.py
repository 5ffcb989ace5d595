"""Declared sizes: what torch's own layers say about the shapes of their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Sizes = dict[str, Any]


def declared(module: nn.Module, weights: Callable[[str], Tensor | None], groups: int | None) -> Sizes:
    """The attributes of a layer that follow from its weights.

    Args:
        module: any; what is no layer of torch's declares nothing.
        weights: finds a parameter or buffer of the layer by its name; ``None`` where it has none.
        groups: of a convolution or a group norm, where it is known.
    """
    for kinds, rule in _RULES:
        if isinstance(module, kinds):
            return {k: v for k, v in rule(module, weights, groups).items() if hasattr(module, k)}
    return {}


Weights = Callable[[str], Tensor | None]


def _first(weights: Weights, *names: str) -> Tensor | None:
    return next((w for n in names if (w := weights(n)) is not None), None)


def _convolution(module: Any, weights: Weights, groups: int | None) -> Sizes:
    # A parametrized weight has its own shape in none of the parameters but these.
    weight = _first(weights, "weight", "weight_v", "parametrizations.weight.original1",
                    "parametrizations.weight.original")  # fmt: skip
    if weight is None:
        return {}
    groups = module.groups if groups is None else groups
    outer, inner = (int(s) for s in weight.shape[:2])
    if module.transposed:
        return {"in_channels": outer, "out_channels": inner * groups, "groups": groups}
    return {"in_channels": inner * groups, "out_channels": outer, "groups": groups}


def _linear(module: Any, weights: Weights, groups: int | None) -> Sizes:
    weight = _first(weights, "weight", "weight_v", "parametrizations.weight.original1",
                    "parametrizations.weight.original")  # fmt: skip
    return {} if weight is None else {"out_features": weight.shape[0], "in_features": weight.shape[1]}


def _bilinear(module: Any, weights: Weights, groups: int | None) -> Sizes:
    weight = weights("weight")
    names = ("out_features", "in1_features", "in2_features")
    return {} if weight is None else dict(zip(names, map(int, weight.shape), strict=True))


def _channels(module: Any, weights: Weights, groups: int | None) -> Sizes:
    weight = _first(weights, "weight", "running_mean")
    return {} if weight is None else {"num_features": weight.shape[0]}


def _normalised(module: Any, weights: Weights, groups: int | None) -> Sizes:
    weight = weights("weight")
    return {} if weight is None else {"normalized_shape": tuple(weight.shape)}


def _group_norm(module: Any, weights: Weights, groups: int | None) -> Sizes:
    weight = weights("weight")
    sizes = {} if weight is None else {"num_channels": weight.shape[0]}
    return sizes if groups is None else {**sizes, "num_groups": groups}


def _embedding(module: Any, weights: Weights, groups: int | None) -> Sizes:
    weight = weights("weight")
    return {} if weight is None else {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}


def _prelu(module: Any, weights: Weights, groups: int | None) -> Sizes:
    weight = weights("weight")
    return {} if weight is None else {"num_parameters": weight.shape[0]}


def _recurrent(module: Any, weights: Weights, groups: int | None) -> Sizes:
    inner, outer = _first(weights, "weight_ih_l0", "weight_ih"), _first(weights, "weight_hh_l0", "weight_hh")
    if inner is None or outer is None:
        return {}
    gates = {"LSTM": 4, "GRU": 3}.get(type(module).__name__.removesuffix("Cell"), 1)
    sizes = {"input_size": inner.shape[1], "hidden_size": outer.shape[0] // gates}
    projection = weights("weight_hr_l0")
    return sizes if projection is None else {**sizes, "proj_size": projection.shape[0]}


def _attention(module: Any, weights: Weights, groups: int | None) -> Sizes:
    fused, out = weights("in_proj_weight"), weights("out_proj.weight")
    key, value = weights("k_proj_weight"), weights("v_proj_weight")
    if out is None:
        return {}
    sizes = {"embed_dim": out.shape[0]}
    if fused is not None:
        return {**sizes, "kdim": fused.shape[1], "vdim": fused.shape[1]}
    if key is None or value is None:
        return sizes
    return {**sizes, "kdim": key.shape[1], "vdim": value.shape[1]}


_RULES: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any, Weights, int | None], Sizes]], ...] = (
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.Linear,), _linear),
    ((nn.Bilinear,), _bilinear),
    ((nn.modules.batchnorm._NormBase,), _channels),
    ((nn.LayerNorm, nn.RMSNorm), _normalised),
    ((nn.GroupNorm,), _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.PReLU,), _prelu),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    ((nn.MultiheadAttention,), _attention),
)
