"""Networks of other libraries by name: ``timm:NAME`` and ``torchvision:NAME``, where the user has these.

Each library is imported when a model of it is asked for. Weights come from a file of the user's, or from the
library itself if the user says so; else they are random.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from graph.errors import ArchitectureError, first_line

LIBRARIES = ("timm", "torchvision")


def is_library(name: str) -> bool:
    """Whether an architecture's name begins with a library."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def create(name: str, args: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Build a network of a library.

    Args:
        name: such as ``timm:resnet18``.
        args: passed on to the library: ``num_classes`` and the like.
        pretrained: with the library's own weights, which it downloads.

    Raises:
        ArchitectureError: the library is missing, does not know the name, or fails.
    """
    library, _, model = name.partition(":")
    if not model:
        raise ArchitectureError(
            f"{name}: the name of the network is missing", hint=f"such as {library}:resnet18"
        )
    module = _library(library)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)  # random weights are the same in every run
            if library == "timm":
                built = module.create_model(model, pretrained=pretrained, **args)
            else:
                weights = {"weights": "DEFAULT"} if pretrained else _without_weights(module, model)
                built = module.get_model(model, **{**weights, **args})
    except Exception as err:  # noqa: BLE001 - the library raises what it likes
        near = get_close_matches(model, _names(library, module), 3)
        raise ArchitectureError(
            f"{library} cannot build {model!r}: {type(err).__name__}: {first_line(err)}",
            hint=f"did you mean {', '.join(f'{library}:{n}' for n in near)}?"
            if near and model not in near
            else "check the name, --arch-args and, for --pretrained, the network connection",
        ) from err
    if not isinstance(built, nn.Module):
        raise ArchitectureError(
            f"{name} is a {type(built).__name__}, not an nn.Module", hint="name a network"
        )
    return built


def _without_weights(module: Any, model: str) -> dict[str, None]:
    """Arguments for random weights; some networks would download those of their backbone."""
    builder = getattr(module, "get_model_builder", lambda _: None)(model)
    takes = inspect.signature(builder).parameters if callable(builder) else {}
    return dict.fromkeys(n for n in ("weights", "weights_backbone") if n == "weights" or n in takes)


def record_shape(name: str, module: nn.Module) -> tuple[int, ...]:
    """The shape of one image that a network is made for."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if isinstance(size, (tuple, list)) and len(size) == 3 and all(isinstance(n, int) for n in size):
        return tuple(size)
    return (3, 299, 299) if name == "torchvision:inception_v3" else (3, 224, 224)


def _library(name: str) -> Any:
    try:
        return importlib.import_module("timm" if name == "timm" else "torchvision.models")
    except ImportError as err:
        raise ArchitectureError(
            f"{name}: needs the package {name}", hint=f"python -m pip install {name}"
        ) from err


def _names(library: str, module: Any) -> list[str]:
    try:
        return list(module.list_models())
    except Exception:  # noqa: BLE001 - only a hint depends on it
        return []
