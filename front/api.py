"""The Python API: ``prune.compress``, ``prune.inspect`` and ``prune.evaluate``, the commands as functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from rich.console import Console

from front import notebook
from front.request import Limit, Options, request
from front.result import Result
from front.screen import Screen
from front.source import Model, Shape, opened
from graph.errors import DataError, UsageError
from prune.evaluation import Evaluation
from prune.evaluation import evaluate as measure
from prune.given import Examples
from prune.inspection import Inspection
from prune.inspection import inspect as look
from prune.load import load
from prune.loaders import Data
from prune.pipeline import compress as run
from prune.selection import Texts, parse_selection
from prune.subject import NO_DATA, must_find_data, open_model
from prune.unfinished import PYTHON
from rl.precision import PRECISION
from rl.reward import IMAGES


def compress(
    model: Model,
    data: Data | None = None,
    *,
    flops: Limit = None,
    macs: Limit = None,
    params: Limit = None,
    memory: Limit = None,
    latency: Limit = None,
    states: Limit = None,
    blocks: Limit = None,
    output: str | Path | None = None,
    inputs: Examples | None = None,
    input_shape: Shape | None = None,
    input_dtype: str | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    pretrained: bool = False,
    planner: str | None = None,
    agent: str | None = None,
    policy: str | Path | None = None,
    episodes: int = 100,
    reward: str = "error",
    images: int = IMAGES,
    precision: str = PRECISION,
    workers: str | int = 1,
    device: str = "cpu",
    importance: str | None = None,
    state_criterion: str | None = None,
    state_scope: str = "layer",
    block_criterion: str = "loss",
    compensate: bool = True,
    exclude: Texts = None,
    only: Texts = None,
    limit: Texts = None,
    kinds: Texts = None,
    round_to: int | None = None,
    reconstruct: bool = True,
    tune: bool = True,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    verify: bool = True,
    sensitivity: bool | None = None,
    force: bool = False,
    resume: bool = False,
    trust_code: bool = False,
    progress: bool = True,
) -> Result:
    """Prune a trained model until all limits hold, fine-tune it, prove it and export it.

    All options have the names, the meanings and the defaults of the flags of ``prune compress``, but for
    ``workers``: other processes are only started where they are asked for, since a script would have to be
    guarded by ``if __name__ == "__main__"``.

    Args:
        model: a module, which stays as it is; or what the command line takes: a file, a folder, ``hf:DIR``,
            ``timm:NAME``, ``package.module:factory``.
        data: what it is searched, tuned and measured on: ``(train, test)`` or ``(train, search, test)``, each
            a Dataset or DataLoader of torch or a pair of tensors (images, class numbers); one of these, of
            which the test images are then a part; a ``DataSet``; or a name as for ``--data``. Without data
            the plan follows from the weights, and nothing is fine-tuned.
        flops: limit, as a share (0.5) or a figure ("120M"); like ``macs``, ``params``, ``memory`` ("8MB") and
            ``latency`` ("5ms").
        macs: the same in multiply-adds.
        params: limit of the parameters.
        memory: limit of weights and activations for one record.
        latency: limit of the latency of one record in onnxruntime on this machine.
        states: of Mambas, the share or number of states that stays in every layer.
        blocks: share or number of the residual blocks that stays.
        output: folder for the results. Left out, they are in a temporary folder; ``Result.save`` keeps them.
        inputs: examples of what the model takes: a tensor, a tuple of them, or a dict by name; the first
            dimension is the batch. Needed where neither data nor the model itself tells.
        input_shape: of the one input, for one record or a batch of one, as for ``--input-shape``.
        input_dtype: of the one input.
        arch: architecture of bare weights.
        arch_args: its arguments.
        weights: file with the weights of a network that is named.
        pretrained: take the weights that timm or torchvision has for it.
        planner: ``search``, or without one ``uniform`` or ``global``.
        agent: who searches; left out, the agent of ``policy``, else ``gnn-rl``.
        policy: trained policy to start from: a file, ``default`` or ``none``; left out, the one
            that comes along for the agent, where there is one.
        episodes: plans to score beside the baselines.
        reward: ``error`` or ``loss``.
        images: search images that score each plan.
        precision: of these scores: ``auto``, ``float32`` or ``bfloat16``.
        workers: processes that score plans.
        device: ``cpu``, ``cuda`` or ``cuda:1``: where scores, fits and fine-tuning are computed, wherever a
            module that is given lies.
        importance: ranks the channels of a group; left out, ``magnitude``, or in a search on images the
            criterion that suits the network.
        state_criterion: ranks states.
        state_scope: ``layer`` or ``global``.
        block_criterion: ``loss`` or ``similarity``: which blocks go.
        compensate: with ``states`` or ``blocks`` alone, fit what is left of a Mamba to the original.
        exclude: patterns of modules that keep their channels.
        only: patterns of modules of which alone channels are pruned.
        limit: least shares or numbers of channels, ``"layer1.*=0.5"``.
        kinds: only groups of these kinds are pruned.
        round_to: kept counts are multiples of this; left out, blocks of 4 to 16 for channels of convolutions
            (``prune.alignment``), of all else 1, or 4 with ``latency``.
        reconstruct: fit the weights that remain.
        tune: fine-tune, where there is data.
        epochs: of fine-tuning.
        lr: peak learning rate of fine-tuning.
        batch_size: records per step of fine-tuning.
        seed: of everything random.
        verify: prove equality with the masked original in float64.
        sensitivity: score each group cut alone, for the report.
        force: replace files of an earlier run in ``output``.
        resume: go on with the run in ``output`` that was cut short, given the same model, data and options.
        trust_code: load files that run code when loaded.
        progress: show the stages and bars, in a terminal or a notebook.

    Returns:
        The pruned module with its program, its plan and its report.

    Raises:
        PruneError: any of the named failures, with a hint; options are told under the names of their flags.
    """
    source, found = opened(
        model,
        data,
        inputs,
        input_shape=input_shape,
        input_dtype=input_dtype,
        arch=arch,
        arch_args=arch_args,
        weights=weights,
        pretrained=pretrained,
        trust_code=trust_code,
    )
    options = Options(
        flops=flops,
        macs=macs,
        params=params,
        memory=memory,
        latency=latency,
        states=states,
        blocks=blocks,
        planner=planner,
        agent=agent,
        policy=policy,
        episodes=episodes,
        reward=reward,
        images=images,
        precision=precision,
        workers=workers,
        device=device,
        importance=importance,
        state_criterion=state_criterion,
        state_scope=state_scope,
        block_criterion=block_criterion,
        compensate=compensate,
        exclude=exclude,
        only=only,
        limit=limit,
        kinds=kinds,
        round_to=round_to,
        reconstruct=reconstruct,
        tune=tune,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        verify=verify,
        sensitivity=sensitivity,
    )
    if resume and output is None:
        raise UsageError("resume=True: of which run?", hint="name its folder: output=...")
    temporary = Path(mkdtemp(prefix="prune-")) if output is None else None
    try:
        folder = temporary / "run" if temporary is not None else Path(str(output))
        asked = request(
            source,
            options,
            data=found,
            output=folder,
            force=force,
            temporary=temporary is not None,
            resume=resume,
            identity={PYTHON: True} | options.given() if temporary is None else None,
        )
        screen = Screen(Console(quiet=not progress), trials=asked.trials)
        with asked.planner(screen.note) as planned, screen.running():
            report = run(asked.config, planned, screen)
        return Result(source, report, folder, temporary)
    except BaseException:
        if temporary is not None:
            rmtree(temporary, ignore_errors=True)
        raise


@dataclass(frozen=True, repr=False)
class Overview(Inspection):
    """What a model costs, and what of it can be pruned; shown as tables in a notebook."""

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        tables = "".join(notebook.table(*found) for found in self.tables(ops=False))
        return tables + notebook.lines(self.lines())


def inspect(
    model: Model,
    inputs: Examples | None = None,
    *,
    input_shape: Shape | None = None,
    input_dtype: str | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    pretrained: bool = False,
    exclude: Texts = None,
    only: Texts = None,
    limit: Texts = None,
    kinds: Texts = None,
    trust_code: bool = False,
) -> Overview:
    """What a model costs, which channels can go together, and what is pinned and why.

    Args:
        model: as for ``compress``, like all others.
        inputs: examples of what it takes.
        input_shape: of the one input.
        input_dtype: of the one input.
        arch: architecture of bare weights.
        arch_args: its arguments.
        weights: file with the weights of a network that is named.
        pretrained: take the library's own weights.
        exclude: patterns of modules that keep their channels.
        only: patterns of modules of which alone channels are pruned.
        limit: least shares or numbers of channels.
        kinds: only groups of these kinds are pruned.
        trust_code: load files that run code when loaded.

    Raises:
        PruneError: the model cannot be loaded or captured.
    """
    source, _ = opened(
        model,
        None,
        inputs,
        input_shape=input_shape,
        input_dtype=input_dtype,
        arch=arch,
        arch_args=arch_args,
        weights=weights,
        pretrained=pretrained,
        trust_code=trust_code,
    )
    found = look(open_model(source, parse_selection(exclude, only, limit, kinds)))
    return Overview(found.subject, found.space)


def evaluate(
    model: Model,
    data: Data | None = None,
    *,
    split: str = "test",
    inputs: Examples | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> Evaluation:
    """Accuracy and loss of a model; of a language model bits and perplexity, too.

    Args:
        model: as for ``compress``, like ``data``, ``inputs``, ``arch``, ``arch_args`` and ``trust_code``.
        data: of which one split is looked at; left out, what the model's file names.
        split: ``test`` or ``search``.
        inputs: examples of what the model takes.
        arch: architecture of bare weights.
        arch_args: its arguments.
        trust_code: load files that run code when loaded.

    Raises:
        PruneError: the model cannot be loaded, or the data do not fit it.
    """
    if split not in ("test", "search"):
        raise UsageError(f"split={split!r}: unknown", hint="test or search")
    source, found = opened(model, data, inputs, arch=arch, arch_args=arch_args, trust_code=trust_code)
    if found == NO_DATA:
        raise DataError("accuracy is measured on data", hint="name a data set")
    loaded = load(source)
    sets = must_find_data(found, loaded)
    return measure(loaded.module, sets.test if split == "test" else sets.search)
