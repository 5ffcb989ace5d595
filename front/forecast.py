"""The forecast: what a run of ``prune compress`` would do, what it can reach and how long it would take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from front.pieces import Piece, pieces_of, timed
from front.request import Request
from models_zoo.data import DataSet
from models_zoo.mamba_lm import MambaLM
from prune.budget import Budget, exact_quantities
from prune.config import Listener
from prune.pareto import folder_name
from prune.preparation import SEARCH, asked_blocks, check_planner, judges_states, method_of
from prune.report import count, size
from prune.states import state_starts
from prune.subject import check_batch, find_data, open_model
from prune.unfinished import is_unfinished
from prune.widths import WidthSpace

FILES = (
    "model.onnx", "model.pt2", "model.safetensors", "graph.json", "plan.json", "report.json", "report.html",
    "native.safetensors, if the model's own class runs with the pruned weights",
)  # fmt: skip
CURVE_FILES = ("pareto.json", "pareto.csv", "pareto.svg", "report.html")


@dataclass(frozen=True)
class Reach:
    """What widths can reach of a quantity.

    Attributes:
        quantity: ``macs``, ``params`` or ``memory``.
        lowest: the least that any plan uses.
        whole: what the whole model uses.
        limits: the most that the run allows, for each point; empty where it is not limited.
    """

    quantity: str
    lowest: float
    whole: float
    limits: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run would do.

    Attributes:
        model: its architecture.
        data: name of the data set; None without one.
        groups: how many widths can be chosen.
        work: the choices that were made, by name.
        reach: what is possible.
        pieces: what takes long.
        open: what takes time as well and cannot be timed beforehand.
        output: folder of the results.
        exists: it holds something already.
        unfinished: that is a run that was cut short.
        files: that would be in it.
        notes: what the user should know.
    """

    model: str
    data: str | None
    groups: int
    work: dict[str, str]
    reach: tuple[Reach, ...]
    pieces: tuple[Piece, ...]
    open: tuple[str, ...]
    output: Path
    exists: bool
    unfinished: bool
    files: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole run, about."""
        return sum(piece.total for piece in self.pieces)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        pieces = [asdict(piece) | {"total": piece.total} for piece in self.pieces]
        found = asdict(self) | {"output": str(self.output), "pieces": pieces, "seconds": self.seconds}
        return {"format": "prune-forecast", "schema": 1, **found}

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """For a terminal: title, header, rows."""
        reach: list[tuple[str, ...]] = []
        for found in self.reach:
            told = size if found.quantity == "memory" else count
            limits = ", ".join(told(limit) for limit in found.limits) or "-"
            share = f"{found.lowest / max(1, found.whole):.4f}"
            reach.append((found.quantity, told(found.lowest), share, told(found.whole), limits))
        pieces: list[tuple[str, ...]] = [
            (p.name, f"{p.times:.0f}", _duration(p.seconds), str(p.at_once), _duration(p.total))
            for p in self.pieces
        ]
        return [
            ("what would be done", ("", ""), list(self.work.items())),
            ("what can be reached", ("", "lowest", "share", "whole model", "limit"), reach),
            ("how long it would take", ("", "times", "once", "at a time", "together"), pieces),
        ]

    def lines(self) -> list[str]:
        """What belongs under the tables."""
        found = [f"about {_duration(self.seconds)} in all, on this machine as busy as it is now"]
        found += [f"not among it: {', '.join(self.open)}"] if self.open else []
        found += [f"would be written to {self.output}: {', '.join(self.files)}"]
        if self.unfinished:
            found += ["the folder holds an unfinished run: --resume goes on with it, --force starts over"]
        elif self.exists:
            found += ["the folder is not empty: --force would replace its files"]
        return [*found, "nothing was written (--dry-run)"]


def forecast(request: Request, listener: Listener) -> Forecast:
    """Say what a run would do.

    Args:
        request: the run.
        listener: sees the stages.

    Raises:
        PruneError: the run would fail for the same reason: the model cannot be loaded, the limits are out of
            reach, the data do not fit.
    """
    config = request.config
    check_planner(config)
    request.search.saved()  # a policy that is not sound is told as the run would
    listener.stage("loading the model")
    loading, subject = timed(lambda: open_model(config.source, config.selection))
    space = subject.space(round_to=config.multiple, align=config.aligns)
    budgets = _budgets(request, space)
    asked_blocks(config, subject)
    data = find_data(config.data, subject.loaded)
    check_batch(subject.program, data, config.source.model)
    method = method_of(config, data)
    for budget in budgets:
        if budget.bounds and config.blocks.text is None:  # without some blocks less is reachable
            budget.check_reachable()
    free = config.states.text is None and judges_states(config, subject, data, request.points)
    starts = len(state_starts(space)) if free else 0
    listener.stage("timing the pieces")
    timings = pieces_of(request, subject, budgets[-1], data, method, starts)
    pieces = [Piece("load and capture", 1, loading), *timings]
    waits = ["latencies of the models"]
    waits += ["timing of operators, minutes the first time"] if config.limits_latency else []
    waits += ["judging blocks; with fewer of them all is quicker, and less can be reached"] * bool(
        config.blocks.text
    )
    waits += ["judging and compensating states"] if config.states.is_given else []
    waits += ["what the agent learns between plans"] if method == SEARCH and config.demands else []
    files: tuple[str, ...] = CURVE_FILES if request.points else FILES
    files += tuple(f"{folder_name(point)}/ with all files of a run" for point in request.points)
    checkpoint = isinstance(subject.loaded.module, MambaLM) and not request.points
    return Forecast(
        model=subject.loaded.arch,
        data=data.name if data is not None else None,
        groups=space.bundles,
        work=_work(request, data, method, space, starts),
        reach=_reach(space, budgets),
        pieces=tuple(pieces),
        open=tuple(waits),
        output=config.output,
        exists=config.output.is_dir() and any(config.output.iterdir()),
        unfinished=is_unfinished(config.output),
        files=(*files, "checkpoint/") if checkpoint else files,
        notes=subject.notes,
    )


def _budgets(request: Request, space: WidthSpace) -> list[Budget]:
    """The exact limits, for each point of a curve, the narrowest last."""
    exact = [d for d in request.config.demands if d.name != "latency"]
    return [Budget.from_demands(space, [point, *exact]) for point in request.points] or [
        Budget.from_demands(space, exact)
    ]


def _reach(space: WidthSpace, budgets: list[Budget]) -> tuple[Reach, ...]:
    found = []
    for name, quantity in exact_quantities(space).items():
        limits = [b.limit for budget in budgets for b in budget.bounds if b.quantity.name == name]
        lowest = float(quantity.value(space.widths(space.narrowest))) if space.bundles else quantity.whole
        found.append(Reach(name, lowest, quantity.whole, tuple(limits)))
    return tuple(found)


def _work(
    request: Request, data: DataSet | None, method: str, space: WidthSpace, starts: int
) -> dict[str, str]:
    config, search = request.config, request.search
    limits = [*(p.text for p in request.points), *(str(d) for d in config.demands)]
    limits += [f"--states {config.states.text}"] if config.states.text is not None else []
    limits += [f"--blocks {config.blocks.text}"] if config.blocks.text is not None else []
    tuning = config.tuning(data)
    work = {
        "limits": ", ".join(limits),
        "groups with a choice of width": str(space.bundles),
        "data": "none"
        if data is None
        else f"{data.name}: {len(data.train)} to train, {len(data.search)} to "
        f"search, {len(data.test)} to test",
    }
    if method == SEARCH and config.demands or request.points and method == SEARCH:
        plans = f"{search.proposals} plan{'s' * (search.proposals != 1)}"
        plans += f" beside {search.baseline_plans + starts} of the baselines"
        plans += " and the best of the wider point" if request.points else ""
        each = f"each on {request.images} records, by {request.workers} workers"
        work["search"] = f"{search.agent}, {plans}, {each}"
    else:
        work["plan"] = (
            method
            if config.demands or request.points
            else "the states alone"
            if config.blocks.text is None
            else "states and blocks alone"
        )
    work["fine-tuning"] = (
        f"{tuning.epochs} epochs, batches of {tuning.batch_size}, peak learning rate {tuning.lr:g}"
        if data is not None and tuning.epochs
        else "none"
    )
    return work | {"seed": str(config.seed), "proof in float64": "yes" if config.verify else "no"}


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
