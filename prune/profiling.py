"""Profiling of a loaded model: its program at each length, measured, and the files of a profile."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from graph.errors import UsageError
from graph.program import Program, ProgramModule
from models_zoo.mamba_lm import MambaLM
from profilers.device import find_device, find_dtype, threads
from profilers.latency import environment
from profilers.operators import profile_program
from profilers.plots import write_plots
from profilers.profile import Measurement, Profile
from profilers.roofline import measure_roofline
from profilers.watch import Budget
from prune.files import OutputFolder, write_json
from prune.inputs import ModelInputs
from prune.load import LoadedModel, ModelSource, load
from prune.pruned import GRAPH_FILE
from prune.subject import program_of


@dataclass(frozen=True, kw_only=True)
class ModelProfileConfig:
    """What to measure of a model.

    Attributes:
        source: the model.
        lengths: of the sequence; the input's own when empty.
        batch: records at once.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: of weights and inputs.
        threads: of a CPU; torch's own number when None.
        depth: parts of a module's path that are told apart; all when None.
        budget: how long to measure each length.
    """

    source: ModelSource
    lengths: tuple[int, ...] = ()
    batch: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    depth: int | None = None
    budget: Budget = Budget()


def profile_model(
    config: ModelProfileConfig, words: Sequence[str], on_step: Callable[[str], None] = lambda _: None
) -> Profile:
    """Measure a model operator by operator.

    Args:
        config: what to measure.
        words: of the command, for the record.
        on_step: is told what happens next.

    Raises:
        PruneError: any of the named failures of loading, capturing and running it.
    """
    device, dtype = find_device(config.device), find_dtype(config.dtype)
    on_step(f"loading {config.source.model}")
    loaded = load(config.source)
    lengths = config.lengths or (None,)
    inputs = [loaded.inputs if n is None else at_length(loaded, n) for n in lengths]
    measurements: list[Measurement] = []
    notes = [*loaded.notes]
    with threads(config.threads, config.budget.clock, device):
        on_step("measuring the roofline")
        roofline = measure_roofline(device, dtype, clock=config.budget.clock)
        for length, given in zip(lengths, inputs, strict=True):
            at = "" if length is None else f" at length {length}"
            on_step("capturing the model" + at)
            program = program_of(_typed(replace(loaded, inputs=given), dtype))
            on_step("measuring" + at)
            found, told = profile_program(
                program,
                subject=config.source.stem,
                batch=config.batch,
                length=length or _length(program),
                device=device,
                dtype=dtype,
                depth=config.depth,
                budget=config.budget,
            )
            measurements.append(found)
            fixed = () if found.batch == config.batch else (f"the batch is fixed to {found.batch}",)
            notes += [n for n in (*program.notes, *told, *fixed) if n not in notes]
        machine = environment()
    return Profile(
        command=shlex.join(words),
        settings={"model": config.source.model, "arch": loaded.arch, "batch": config.batch}
        | {"dtype": config.dtype, "device": config.device, "lengths": list(config.lengths)}
        | asdict(config.budget),
        environment=machine,
        roofline=roofline,
        measurements=tuple(measurements),
        notes=tuple(notes),
    )


def _typed(loaded: LoadedModel, dtype: torch.dtype) -> LoadedModel:
    """The model in another type of numbers, which its captured casts then have; a program as it is."""
    if dtype is torch.float32 or isinstance(loaded.module, ProgramModule):
        return loaded
    name = str(dtype).removeprefix("torch.")
    items = tuple(
        replace(i, dtype=name, value=None if i.value is None else i.value.to(dtype))
        if i.dtype.startswith("float")
        else i
        for i in loaded.inputs.items
    )
    return replace(loaded, module=loaded.module.to(dtype), inputs=replace(loaded.inputs, items=items))


def open_mamba(model: str) -> MambaLM:
    """A Mamba language model of the user's.

    Args:
        model: a file, or the folder of a checkpoint with or without ``hf:`` before it.

    Raises:
        UsageError: it is another model.
        PruneError: any of the named failures of loading.
    """
    folder = Path(model)
    name = f"hf:{model}" if folder.is_dir() and not (folder / GRAPH_FILE).is_file() else model
    module = load(ModelSource(model=name)).module
    if not isinstance(module, MambaLM):
        raise UsageError(
            f"--model {model} is no Mamba but a {type(module).__name__}",
            hint=f"any other model is profiled by operator: prune profile {name}",
        )
    return module


def at_length(loaded: LoadedModel, length: int) -> ModelInputs:
    """The inputs of a sequence model at another length.

    The length is the second dimension of the first input, of tokens (B, L) or of vectors (B, L, F); other
    inputs of the same length follow.

    Raises:
        UsageError: the inputs are no sequence, or the model is a program, whose lengths are fixed.
    """
    inputs = loaded.inputs
    first = inputs.items[0]
    if isinstance(loaded.module, ProgramModule) or inputs.fixed:
        raise UsageError(
            f"--lengths: {loaded.path} is a program, which keeps the length that it was captured at",
            hint="profile the model that it was made from, or leave out --lengths",
        )
    if len(first.shape) != 3 and (len(first.shape) != 2 or first.dtype.startswith("float")):
        raise UsageError(
            f"--lengths: {loaded.path} takes no sequence but {inputs.told()}",
            hint="sequences are tokens (batch x length) or vectors (batch x length x features)",
        )
    before = first.shape[1]
    items = tuple(
        replace(i, shape=(i.shape[0], length, *i.shape[2:]), value=None) if i.shape[1:2] == (before,) else i
        for i in inputs.items
    )
    return replace(inputs, items=items)


def _length(program: Program) -> int | None:
    """The length of a program's tokens; None where it takes none."""
    first = program.inputs[0]
    return first.shape[1] if len(first.shape) == 2 and first.dtype.startswith("int") else None


def write_profile(profile: Profile, view: str, path: Path, *, force: bool = False) -> list[str]:
    """Write ``profile.json``, ``profile.csv`` and the plots to a folder.

    Returns:
        Names of the files.

    Raises:
        OutputError: it cannot be written, or holds files and ``force`` is not given.
    """
    with OutputFolder(path, force) as out:
        write_json(out.staging / "profile.json", profile.to_json())
        (out.staging / "profile.csv").write_text(profile.to_csv(), encoding="utf-8")
        names = write_plots(profile, view, out.staging)
    return sorted(["profile.json", "profile.csv", *names])
