"""The Pareto mode: several shares of the FLOPs in one run, which share all that they can.

The model is loaded, captured and measured once. The points are planned from the widest to the narrowest; each
search is told its neighbour's best plan, and a planner that keeps its scores runs no plan twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from graph.errors import TargetError
from profilers.latency import compare, onnx_call
from prune.command import repeated
from prune.config import CompressConfig, Listener
from prune.curve import Curve, Point
from prune.demands import Demand, parse_demand
from prune.manifest import write_manifest
from prune.page import PAGE_FILE, write_page
from prune.pipeline import OnCurve, complete, run_folder
from prune.plan import kept_ratios
from prune.preparation import Prepared, prepare
from prune.report import ModelFigures, Report
from prune.stored import read_stored
from prune.trials import Planner, SearchResult

NEIGHBOUR = "neighbour"  # the method of plans that follow from the wider point's best


def parse_shares(text: str) -> tuple[Demand, ...]:
    """Read the points of a curve, ``0.3,0.5,0.7`` or ``30%,50%``, widest first.

    Raises:
        TargetError: fewer than two, one twice, or one that is no share.
    """
    hint = "at least two different shares of the FLOPs, such as --pareto 0.3,0.5,0.7"
    try:
        demands = [parse_demand("--flops", part) for part in text.split(",")]
    except TargetError as err:
        raise TargetError(f"--pareto {text}: {str(err).removeprefix('--flops ')}", hint=hint) from err
    shares = [d.share for d in demands if d.share is not None]
    if len(shares) < len(demands):
        raise TargetError(f"--pareto {text}: absolute figures are no points of a curve", hint=hint)
    if len(set(shares)) < max(2, len(shares)):
        raise TargetError(f"--pareto {text}: these are not several points", hint=hint)
    return tuple(sorted(demands, key=lambda d: -(d.share or 0)))


def pareto(
    config: CompressConfig,
    points: Sequence[Demand],
    planner: Planner,
    listener: Listener,
) -> Curve:
    """Prune a model to several shares of its FLOPs, one folder of results for each, and draw the curve.

    Args:
        config: what to do; its demands hold at every point, and none of them may limit the MACs.
        points: from ``parse_shares``.
        planner: searches for the plans; one that shares its scores between calls saves most of the time.
        listener: sees the run.

    Raises:
        PruneError: any of the named failures; as ``prune.pipeline.compress``.
    """
    for demand in config.demands:
        if demand.name == "macs":
            raise TargetError(
                f"--pareto and {demand} limit the same quantity", hint=f"leave {demand.option} out"
            )
    found: list[tuple[str, Report, SearchResult]] = []
    with run_folder(config, points) as out:
        for note in out.notes:
            listener.note(note)
        ready = prepare(config, listener, out.staging, out.journal, points)
        command = repeated(config, points, ready.data)
        starts: dict[str, Sequence[float]] = {}
        for point in points:
            name = folder_name(point)
            listener.stage(f"point {name}")
            (out.staging / name).mkdir()
            report, result = complete(
                ready,
                replace(config, demands=(point, *config.demands)),
                planner,
                listener,
                out.staging / name,
                out.journal.part(name),
                point=OnCurve(name, command, starts),
            )
            starts = {NEIGHBOUR: [float(r) for r in kept_ratios(ready.space, result.plan)]}
            found.append((name, report, result))
        listener.stage("timing all points in turn")
        curve = _curve(ready, found, out.staging)
        curve.write(out.staging, command)
        write_page(read_stored(out.staging), out.staging / PAGE_FILE)
        ready.remove_files()
        for folder in (*(out.staging / name for name, *_ in found), out.staging):
            write_manifest(folder)
    return curve


def folder_name(point: Demand) -> str:
    """Of the results of a point: 0.40, or as many digits as it takes."""
    share = point.share or 0.0
    return f"{share:.2f}" if abs(round(share, 2) - share) < 1e-9 else f"{share:g}"


def _curve(ready: Prepared, found: Sequence[tuple[str, Report, SearchResult]], folder: Path) -> Curve:
    one = [x.numpy() for x in map(Tensor.contiguous, ready.subject.program.random_inputs(1))]
    files = {name: folder / name / "model.onnx" for name, *_ in found}
    calls = {n: onnx_call(p, *one) for n, p in {"original": ready.original_onnx(), **files}.items()}
    timed = compare(calls)

    def point(name: str, figures: ModelFigures, method: str, evaluations: int, seconds: float) -> Point:
        return Point(
            name,
            figures.macs,
            figures.params,
            figures.memory_bytes,
            figures.accuracy_before_tuning,
            figures.accuracy,
            timed[name].median_ms,
            method,
            evaluations,
            seconds,
        )

    first = found[0][1].original
    return Curve(
        (
            point("original", first, "", 0, ready.seconds),
            *(
                point(n, r.pruned, s.plan.method, s.evaluations, r.seconds - ready.seconds)
                for n, r, s in found
            ),
        )
    )
