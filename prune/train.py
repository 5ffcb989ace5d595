"""Training a zoo network from scratch, for a machine without trained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graph.errors import ArchitectureError, first_line
from models_zoo import registry, vgg
from models_zoo.data import DataSet
from prune.evaluation import Evaluation, evaluate
from prune.files import check_output_file
from prune.load import save_model
from prune.placement import CPU, on
from prune.tune import EpochResult, fit
from prune.tune_config import SCRATCH, SCRATCH_PLAIN, SCRATCH_TEXT, SCRATCH_TRANSFORMER, TuneConfig

_PLAIN = (vgg.vgg11, vgg.vgg16)


def recipe(name: str) -> TuneConfig:
    """How a zoo network is trained from scratch.

    Raises:
        ArchitectureError: no such network.
    """
    entry = registry.find(name)
    if entry.is_language_model:
        return SCRATCH_TEXT
    if entry.build in _PLAIN:
        return SCRATCH_PLAIN
    return SCRATCH_TRANSFORMER if entry.name in registry.VISION_TRANSFORMERS else SCRATCH


def build_for(name: str, data: DataSet, *, seed: int = 0, **args: object) -> tuple[nn.Module, dict[str, Any]]:
    """Build a zoo network with the channels, classes and input size of a data set.

    Args:
        name: of the network.
        data: what it is to be trained on.
        seed: of the initial weights.
        **args: further arguments of the network.

    Returns:
        The module and the arguments it was built with.

    Raises:
        ArchitectureError: unknown network or arguments, or data of another kind than it takes.
    """
    entry = registry.find(name)
    if entry.is_language_model != data.is_text:
        kinds = ("images", "text")
        known = registry.LANGUAGE_MODELS if data.is_text else registry.ZOO | registry.VISION_TRANSFORMERS
        raise ArchitectureError(
            f"{entry.name} takes {kinds[entry.is_language_model]}, {data.name} is {kinds[data.is_text]}",
            hint=f"choose one of: {', '.join(known)}"
            if data.is_text
            else "give --data pystdlib or text:PATH, or a network for images",
        )
    if entry.masks != (data.unit == "pixels"):
        raise ArchitectureError(
            f"{entry.name} gives a class to {'each pixel' if entry.masks else 'a whole image'}, "
            f"{data.name} has labels of {data.unit}",
            hint="seg_tiny goes with --data shapes and maskfolder:PATH, the others with classes of images",
        )
    arguments: dict[str, Any] = (
        {"vocab_size": len(data.classes)}
        if data.is_text
        else {"num_classes": len(data.classes), "in_channels": data.input_shape[0]}
    )
    if "image_size" in registry.arguments(name):
        arguments["image_size"] = data.input_shape[1]
    if "length" in registry.arguments(name):
        arguments["length"] = data.input_shape[0]
    if decided := sorted(args.keys() & arguments.keys()):
        raise ArchitectureError(f"{entry.name}: the data decide {', '.join(decided)}", hint="leave it out")
    arguments.update(args)
    if "small_input" in registry.arguments(name) and max(data.input_shape[1:]) < 96:
        arguments.setdefault("small_input", True)
    torch.manual_seed(seed)
    module = registry.build(entry.name, **arguments)
    kind = torch.int64 if data.is_text else torch.float32
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(2, *data.input_shape, dtype=kind))
    except RuntimeError as err:
        raise ArchitectureError(
            f"{entry.name} does not run on images of shape {data.input_shape}: {first_line(err)}",
            hint="choose a CIFAR network (resnet20, vgg16, ...) for small images",
        ) from err
    return module, arguments


def train(
    name: str,
    data: DataSet,
    config: TuneConfig,
    output: Path,
    *,
    device: torch.device = CPU,
    force: bool = False,
    on_epoch: Callable[[EpochResult], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    **args: object,
) -> Evaluation:
    """Train a zoo network and write it with its metadata.

    Args:
        name: of the network.
        data: what it is trained on.
        config: how.
        output: file to write.
        device: trains.
        force: replace a file of an earlier run.
        on_epoch: is told of each epoch.
        on_step: is told of each step: how many of how many.
        **args: further arguments of the network.

    Returns:
        What it is worth on the test split.

    Raises:
        PruneError: unknown network, unwritable output, or a training that diverges.
    """
    check_output_file(output, force)
    module, arguments = build_for(name, data, seed=config.seed, **args)
    with on(device, module):
        tuned = fit(module, data, config, on_epoch=on_epoch, on_step=on_step)
        result = evaluate(module, data.test)
    save_model(
        output,
        module,
        arch=registry.find(name).name,
        arch_args=arguments,
        input_shape=data.input_shape,
        data=data.name,
        metrics={
            "test_accuracy": result.accuracy,
            "search_accuracy": tuned.best_accuracy,
            "epochs": config.epochs,
            "seed": config.seed,
        }
        | ({"test_bits": result.bits, "test_perplexity": result.perplexity} if data.is_text else {}),
    )
    return result
