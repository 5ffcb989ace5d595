"""Stock checkpoints: a subnetwork as a model of transformers, where a configuration can say its shape.

A configuration knows one number of layers, of heads, of hidden channels. Where a subnetwork has the same
widths in all layers, the numbers in the configuration are changed and the library's own class is built from
it; it counts only when it computes what the subnetwork computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from graph.adapter import adapt
from graph.errors import ArchitectureError
from graph.program import Program, run
from prune.huggingface import built_from
from prune.verify import difference, tensors_in
from supernet.elastic import Subnet
from supernet.net import Supernet
from supernet.segmenting import encoder_of

_LIMIT = 1e-4  # of the largest output, in float32
# Of what configurations of transformers count: the names that they give it.
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"),
    "mlp": ("intermediate_size", "n_inner", "mlp_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
    "head": ("num_attention_heads", "n_head", "num_key_value_heads", "num_heads"),
    "residual": ("hidden_size", "n_embd", "d_model"),
}
_PLACES = ("global_attn_indexes",)  # lists of numbers of layers


class NotStock(Exception):
    """A configuration cannot say the shape; the message says why."""


def stock_model(net: Supernet, subnet: Subnet, extracted: Program, settings: Mapping[str, Any]) -> Any:
    """The library's own model for a subnetwork.

    Args:
        net: the supernet.
        subnet: the choice.
        extracted: its program; of a segmenter the encoder alone counts.
        settings: the configuration of the whole.

    Raises:
        NotStock: there is none.
    """
    extracted = encoder_of(extracted) or extracted
    name = str(net.origin.get("arch", "")).removeprefix("transformers:")
    changed = _changed(net, subnet, settings)
    state = _renumbered(net, subnet, extracted)
    try:
        model = built_from(name, changed, state)
    except ArchitectureError as err:
        told = str(err).replace(f"hf:{name}", "the subnetwork")
        raise NotStock(f"no configuration of {name} has this shape: {told}") from err
    inputs = extracted.random_inputs(2)
    with torch.no_grad():
        wanted, found = run(extracted, extracted.tensors, inputs), _outputs(model, net, inputs)
    error = max(map(difference, tensors_in(wanted), tensors_in(found)), default=0.0)
    if not error <= _LIMIT:
        raise NotStock(f"{name} computes something else in this shape (by {error:.1e})")
    return model


def _outputs(model: nn.Module, net: Supernet, inputs: Sequence[Tensor]) -> Any:
    names = [s.name for s in net.program.inputs] if net.origin.get("named") else None
    return adapt(model, names)(*inputs)


def _changed(net: Supernet, subnet: Subnet, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the numbers of the subnetwork; of models of several towers, tower by tower."""
    changed = deepcopy(dict(settings))
    towers = {k: v for k, v in changed.items() if k.endswith("_config") and isinstance(v, dict)}
    towers = {k: v for k, v in towers.items() if any(n in v for n in _NAMES["layers"])}
    for key, own in towers.items():
        _set(own, net, subnet, key.removesuffix("_config"))
    if not towers:
        _set(changed, net, subnet, "")
    return changed


def _set(settings: dict[str, Any], net: Supernet, subnet: Subnet, tower: str) -> None:
    """Change the numbers of one tower.

    Raises:
        NotStock: its layers have different widths.
    """
    elastic = net.elastic
    mine = [i for i, b in enumerate(elastic.layers) if b.name.startswith(tower)]
    stays = [k for k, i in enumerate(mine) if i not in subnet.dropped]  # numbers within the tower
    for key, value in list(settings.items()):
        if key in _PLACES and isinstance(value, list):
            settings[key] = [stays.index(k) for k in value if k in stays]
        elif isinstance(value, list) and len(value) == len(mine) > 1:
            settings[key] = [value[k] for k in stays]
        elif key in _NAMES["layers"] and value == len(mine):
            settings[key] = len(stays)
    for kind in ("mlp", "head", "residual"):
        shares = {
            c.shares[level]
            for c, level in zip(elastic.choices, subnet.levels, strict=True)
            if c.kind == kind
            and c.name.startswith(tower)
            and (c.layer is None or c.layer not in subnet.dropped)
        }
        if len(shares) > 1:
            raise NotStock(f"its layers differ in their widths ({kind}), a configuration has one for all")
        share = next(iter(shares), 1.0)
        if share == 1.0:
            continue
        if kind == "head":  # which are as wide as before
            heads = next((settings[n] for n in _NAMES["head"] if settings.get(n)), None)
            width = next((settings[n] for n in _NAMES["residual"] if settings.get(n)), None)
            if heads and width and not settings.get("head_dim"):
                settings["head_dim"] = width // heads
        for name in _NAMES[kind]:
            value = settings.get(name)
            if name == "n_inner" and name in settings and value is None:
                value = 4 * settings["n_embd"]
            if isinstance(value, int):
                settings[name] = round(value * share)


def _renumbered(net: Supernet, subnet: Subnet, extracted: Program) -> dict[str, Tensor]:
    """The weights, with the numbers that layers have once others are gone."""
    names: dict[str, str | None] = {}
    counts: dict[str, int] = {}
    for index, layer in enumerate(net.elastic.layers):
        stack, _, number = layer.name.rpartition(".")
        if not number.isdigit():
            if index in subnet.dropped:
                raise NotStock("its layers are not numbered")
            continue
        place = counts.setdefault(stack, int(number))
        names[layer.name] = None if index in subnet.dropped else f"{stack}.{place}"
        counts[stack] = place + (index not in subnet.dropped)
    state = {}
    for name, tensor in extracted.tensors.items():
        if not _is_own(net, name):
            continue
        found = re.match(r"(.*?\.\d+)\.", name)
        home = found[1] if found and found[1] in names else None
        if home is None:
            state[name] = tensor
        elif (new := names[home]) is not None:
            state[new + name[len(home) :]] = tensor
    return {name: t.clone() for name, t in state.items()}


def _is_own(net: Supernet, name: str) -> bool:
    """Whether the model has a tensor, rather than its graph."""
    own = net.origin.get("tensors")
    return name in own if isinstance(own, list) else name in net.program.trainable
