"""Latency: how long subnetworks take in onnxruntime, measured on a few and foretold for the others."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from graph.program import Program, ProgramModule
from profilers.latency import Latency, compare, onnx_call
from prune.export import export_onnx
from supernet.elastic import Subnet
from supernet.net import Supernet


def onnx_latencies(programs: dict[str, Program], *, threads: int = 1) -> dict[str, Latency]:
    """Time programs in turns on one record, as ONNX in onnxruntime.

    Args:
        programs: by name.
        threads: of onnxruntime.

    Raises:
        ExportError: one has no ONNX form, or its file does not agree with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        return compare(onnx_calls(programs, Path(folder), threads=threads))


def onnx_calls(
    programs: dict[str, Program], folder: Path, *, threads: int = 1
) -> dict[str, Callable[[], object]]:
    """Calls that run programs on one record, as ONNX in onnxruntime.

    Args:
        programs: by name.
        folder: where their files go; it has to stay as long as the calls are used.
        threads: of onnxruntime.

    Raises:
        ExportError: one has no ONNX form, or its file does not agree with it.
    """
    calls: dict[str, Callable[[], object]] = {}
    for name, program in programs.items():
        path = folder / f"{len(calls)}.onnx"
        export_onnx(ProgramModule(program), program.random_inputs(2), path)
        inputs = [x.numpy() for x in program.random_inputs(1)]
        calls[name] = onnx_call(path, *inputs, threads=threads)
    return calls


class LatencyModel:
    """Foretells milliseconds from multiply-adds and layers, in a line through measured subnetworks.

    Args:
        net: the supernet.
        on_stage: told what is done.

    Attributes:
        measured: the subnetworks that were timed, with their milliseconds.
        error: largest error, as a share, on one of these that the line was drawn without.
        seconds: that all this took.
    """

    def __init__(self, net: Supernet, on_stage: Callable[[str], None] = lambda _: None) -> None:
        start = time.perf_counter()
        self.net = net
        elastic = net.elastic
        on_stage("timing subnetworks in onnxruntime")
        depths = {len(elastic.layers), elastic.least_layers}
        chosen = dict.fromkeys(elastic.at(share, kept) for kept in depths for share in (1.0, 0.5, 0.0))
        programs = {str(i): net.extract(s) for i, s in enumerate(chosen)}
        times = onnx_latencies(programs)
        self.measured = {s: times[str(i)].median_ms for i, s in enumerate(chosen)}
        rows = np.array([self._features(s) for s in self.measured])
        wanted = np.array(list(self.measured.values()))
        scaled = rows / wanted[:, None]  # relative errors count
        self._factors = _line(scaled)
        others = [np.arange(len(scaled)) != i for i in range(len(scaled))]
        self.error = max(abs(float(scaled[~o][0] @ _line(scaled[o])) - 1) for o in others)
        self.seconds = time.perf_counter() - start

    def __call__(self, subnet: Subnet) -> float:
        """Milliseconds that a subnetwork is likely to take."""
        return float(self._features(subnet) @ self._factors)

    def _features(self, subnet: Subnet) -> NDArray[np.float64]:
        layers = len(self.net.elastic.layers) - len(subnet.dropped)
        return np.array([1.0, self.net.elastic.cost(subnet).macs / 1e6, layers])


def _line(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors, none below 0: more work never takes less time."""
    return np.asarray(nnls(scaled, np.ones(len(scaled)))[0])
