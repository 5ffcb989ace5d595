"""Latency: how long a model really takes on this machine.

Candidates that are to be compared are timed in turns, A B A B, so that a machine that grows slower or busier
in the meantime is unfair to none of them. The median is the figure; the 10th and 90th percentile tell how far
to trust it.
"""

from __future__ import annotations

import copy
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graph.errors import ModelFileError, first_line
from profilers.onnx_runtime import onnxruntime

_SILENT = 4  # onnxruntime's level "fatal"; what matters arrives as an exception


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall-clock time of one call, in milliseconds, over ``runs`` calls."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


def measure(
    call: Callable[[], object], *, warmup: int = 5, repeats: int = 30, min_seconds: float = 0.5
) -> Latency:
    """Time one candidate; arguments as in ``compare``."""
    return compare({"": call}, warmup=warmup, repeats=repeats, min_seconds=min_seconds)[""]


def compare(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 5,
    repeats: int = 30,
    min_seconds: float = 0.5,
) -> dict[str, Latency]:
    """Time several candidates in turns.

    Args:
        calls: by name; each runs to its end before it returns (``torch_call`` and ``onnx_call`` make such).
        warmup: rounds before the clock starts: caches fill, kernels are chosen.
        repeats: rounds at the least.
        min_seconds: of measured time per candidate at the least; quick calls get more rounds.

    Raises:
        ValueError: ``repeats`` is less than one.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warmup):
        for call in calls.values():
            call()
    total = 0.0
    rounds = 0
    with no_garbage_collection():
        while rounds < repeats or total < min_seconds * len(calls):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
                total += times[name][-1]
            rounds += 1
    return {name: summary(seconds) for name, seconds in times.items()}


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """How long one candidate takes beside another.

    Attributes:
        ratio: of the medians; the median of several rounds.
        noise: half the distance between the largest and the smallest of the rounds' ratios.
        base_ms: median latency of what it is compared with.
        ms: its own.
    """

    ratio: float
    noise: float
    base_ms: float
    ms: float


def paired_ratio(
    base: Callable[[], object], call: Callable[[], object], *, rounds: int = 5, min_seconds: float = 0.2
) -> PairedRatio:
    """Time a call in turn with another, in several rounds, so as to know how far the ratio can be trusted."""
    found = [
        compare({"base": base, "call": call}, warmup=2, repeats=10, min_seconds=min_seconds)
        for _ in range(rounds)
    ]
    ratios = np.array([f["call"].median_ms / f["base"].median_ms for f in found])
    base_ms, ms = (float(np.median([f[k].median_ms for f in found])) for k in ("base", "call"))
    return PairedRatio(float(np.median(ratios)), float(np.ptp(ratios)) / 2, base_ms, ms)


def torch_call(module: nn.Module, *inputs: Tensor) -> Callable[[], object]:
    """A call that runs a copy of ``module`` in eval mode, without gradients, to its end."""
    frozen = copy.deepcopy(module).eval()

    def call() -> object:
        with torch.no_grad():
            y = frozen(*inputs)
        if inputs and inputs[0].is_cuda:
            torch.cuda.synchronize(inputs[0].device)
        return y

    return call


def onnx_call(path: Path, *inputs: NDArray[Any], threads: int | None = None) -> Callable[[], object]:
    """A call that runs an ONNX file on inputs in the order of the file; see ``onnx_session``."""
    session = onnx_session(path, threads=threads)
    feed = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
    return lambda: session.run(None, feed)


def onnx_session(model: Path | bytes, *, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        model: a file that we wrote, or whose external data ``prune.onnx_model`` has checked; or its bytes.
        threads: for each operator; one per core when left out.

    Raises:
        ModelFileError: onnxruntime refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _SILENT
    # Threads that wait for the next run would slow whoever is timed in turn with this session.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        given = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as err:  # noqa: BLE001 - a dozen classes without a common base of their own
        told = "the model" if isinstance(model, bytes) else model
        raise ModelFileError(
            f"onnxruntime cannot load {told}: {first_line(err)}",
            hint="check that it is an ONNX file and whole",
        ) from err


def environment() -> dict[str, str]:
    """What a latency depends on besides the model: versions, processor, cores and threads."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": version("onnxruntime"),
        "cpu": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "platform": platform.platform(),
    }


def channel_block() -> int:
    """How many channels onnxruntime's layout for convolutions holds together; 1 where it has none."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return 1
    try:
        return 16 if "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split() else 8
    except OSError:
        return 8


def cpu_model() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def summary(seconds: Sequence[float]) -> Latency:
    """Median and percentiles of measured seconds."""
    p10, median, p90 = np.percentile(np.array(seconds) * 1e3, [10, 50, 90])
    return Latency(float(median), float(p10), float(p90), len(seconds))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now rather than in the middle of a measurement."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
