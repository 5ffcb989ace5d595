"""The command line that repeats a run, as the report keeps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models_zoo.data import DataSet
from prune.demands import Demand
from prune.inputs import times
from prune.load import ModelSource
from prune.placement import CPU

if TYPE_CHECKING:
    from prune.config import CompressConfig


def repeated(config: CompressConfig, points: Sequence[Demand] = (), data: DataSet | None = None) -> list[str]:
    """The words of ``prune compress``; options that have their default are left out where it is clear.

    There are none for a model or a data set that was made in Python.

    Args:
        config: of the run.
        points: of a curve.
        data: what it ran on, which says how it was tuned; as images are when left out.
    """
    if config.source.module is not None or isinstance(config.data, DataSet):
        return []
    limits = [word for demand in config.demands for word in (demand.option, demand.text)]
    if points:
        limits = ["--pareto", ",".join(point.text for point in points), *limits]
    words = ["prune", "compress", config.source.model, *limits]
    tune = config.tuning(data)
    options = {
        "--data": config.data,
        "--planner": config.planner,
        "--importance": config.importance,
        "--round-to": config.round_to,
        "--states": config.states.text,
        "--state-criterion": config.states.criterion,
        "--state-scope": config.states.scope if config.states.scope != "layer" else None,
        "--blocks": config.blocks.text,
        "--block-criterion": config.blocks.criterion if config.blocks.criterion != "loss" else None,
        "--device": config.device if config.device != CPU else None,
        "--epochs": tune.epochs,
        "--lr": tune.lr,
        "--batch-size": tune.batch_size,
        "--seed": config.seed,
        "-o": None if config.temporary else config.output,
    }
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    words += [] if config.reconstruct else ["--no-reconstruct"]
    return words + list(config.search) + _of_source(config.source) + _of_selection(config)


def _of_source(source: ModelSource) -> list[str]:
    request = source.request
    options = {
        "--arch": source.arch,
        "--arch-args": json.dumps(dict(source.arch_args)) if source.arch_args else None,
        "--weights": source.weights,
        "--input-shape": times(request.shape) if request.shape else None,
        "--input-dtype": request.dtype,
        "--input-spec": request.path,
    }
    words = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    flags = {"--pretrained": source.pretrained, "--trust-code": source.trust_code}
    return words + [name for name, given in flags.items() if given]


def _of_selection(config: CompressConfig) -> list[str]:
    selection = config.selection
    words = []
    for name, patterns in (
        ("--exclude", selection.exclude),
        ("--only", selection.only),
        ("--limit", [limit.text for limit in selection.limits]),
        ("--kinds", [",".join(selection.kinds)] if selection.kinds else []),
    ):
        for pattern in patterns:
            words += [name, pattern]
    flags = {"--no-verify": not config.verify, "--no-compensate": not config.states.compensate}
    return words + [name for name, given in flags.items() if given]
