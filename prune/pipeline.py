"""The pipeline: from a model to a smaller, fine-tuned, verified and exported one, stage by stage.

Without data there is nothing to search by and nothing to tune on: the plan then follows from the weights
alone, and no accuracy is claimed. All else is the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from graph.channels import Axes
from graph.cost import costs
from graph.errors import ModelFileError, UsageError
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from profilers.latency import Latency, compare, environment, onnx_call, torch_call
from prune.baselines import BASELINES, Ratios, baseline_plan
from prune.command import repeated
from prune.export import OnnxCheck, export_onnx, export_pt2, save_tensors, save_weights
from prune.files import OutputFolder, write_json
from prune.importance import CRITERIA, Criterion, Scores, score
from prune.load import LoadedModel, ModelSource
from prune.native import NativeResult, native_module
from prune.plan import Plan, WidthSpace, make_plan, parse_target
from prune.pruned import GRAPH_FILE, NATIVE_FILE, PLAN_FILE, REPORT_FILE, WEIGHTS_FILE
from prune.recalibrate import recalibrated
from prune.report import ModelFigures, Report
from prune.sections import (
    accuracy_section,
    data_section,
    model_section,
    native_section,
    plan_section,
    proof_section,
    search_section,
    tune_section,
)
from prune.selection import Selection
from prune.subject import NO_DATA, Subject, check_batch, find_data, open_model
from prune.surgery import prune_program
from prune.trials import Planner, Problem, SearchResult, Trial
from prune.tune import EpochResult, Evaluation, TuneConfig, TuneResult, evaluate, fit
from prune.verify import Verification, check, verify

_CALIBRATION_IMAGES = 2048
_TAYLOR_IMAGES = 1024
_SEARCH = "search"
# Running the user's own module in float64 and looking for its sizes is an extra: it must not cost much.
_NATIVE_MACS = 20_000_000_000
_NATIVE_SECONDS = 30.0


class Listener(Protocol):
    """Whoever wants to see a run: the command line draws bars, tests collect."""

    def stage(self, title: str) -> None:
        """A stage begins."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def trial(self, trial: Trial) -> None:
        """A plan was scored."""

    def epoch(self, result: EpochResult) -> None:
        """An epoch of fine-tuning ended."""

    def step(self, done: int, total: int) -> None:
        """A step of fine-tuning ended."""


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """What ``prune compress`` is asked to do.

    Attributes:
        source: the model.
        target: as the user gave it, such as ``0.5`` or ``120M``.
        output: folder of the results.
        unit: of the target, ``flops`` or ``macs``.
        data: name of the data set, or ``none``; the model file's own when left out.
        planner: ``search``, or a baseline that follows from the weights: ``uniform``, ``global``. The search
            when left out, ``uniform`` without data.
        importance: criterion that ranks the channels of a group.
        selection: what may be pruned, and how much stays.
        round_to: kept counts are multiples of this.
        tune: how to fine-tune; 0 epochs leave it out.
        seed: of everything random.
        force: replace files of an earlier run.
        verify: prove equality in float64 before anything is written.
    """

    source: ModelSource
    target: str
    output: Path
    unit: str = "flops"
    data: str | None = None
    planner: str | None = None
    importance: Criterion = "magnitude"
    selection: Selection = field(default_factory=Selection)
    round_to: int = 1
    tune: TuneConfig = field(default_factory=TuneConfig)
    seed: int = 0
    force: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        if self.importance not in CRITERIA:
            raise UsageError(f"--importance {self.importance}: unknown", hint="one of " + ", ".join(CRITERIA))
        if self.round_to < 1:
            raise UsageError(f"--round-to {self.round_to}: must be at least 1")
        if not self.source.is_named and self.output.resolve() == self.source.path.resolve():
            raise UsageError(f"the output {self.output} is the model itself", hint="name another folder")


def compress(
    config: CompressConfig,
    planner: Planner,
    listener: Listener,
    *,
    baselines: Mapping[str, Ratios] = BASELINES,
) -> Report:
    """Prune a model to a target, fine-tune it, export it and report.

    Args:
        config: what to do.
        planner: searches for the plan; ``rl.search.planner`` makes one.
        listener: sees the run.
        baselines: what ``config.planner`` may name instead.

    Returns:
        The report; the files are in ``config.output`` by then, or nothing is.

    Raises:
        PruneError: any of the named failures; nothing is written then.
    """
    start = time.perf_counter()
    _check_planner(config, baselines)
    with OutputFolder(config.output, config.force) as out:
        listener.stage("loading the model")
        subject = open_model(config.source, config.selection)
        space = subject.space(round_to=config.round_to)
        target = parse_target(config.target, space.base_macs, unit=config.unit)
        space.check_target(target)
        data = find_data(config.data, subject.loaded)
        check_batch(subject.program, data, config.source.model)
        method = _method(config, data)
        for note in (*subject.notes, *_data_notes(config, data)):
            listener.note(note)

        original = ProgramModule(subject.program)
        base: Evaluation | None = None
        if data is not None:
            listener.stage("measuring the original")
            base = _sound(evaluate(original, data.test), subject.loaded)

        listener.stage("searching" if method == _SEARCH else "planning")
        scores = _scores(subject.axes, config.importance, data)
        if method == _SEARCH and data is not None:
            found = planner(Problem(subject.axes, space, target, scores, data, listener.trial))
        else:
            found = _planned(baseline_plan(method, baselines, space, scores, target))
        plan = found.plan

        listener.stage("removing channels")
        pruned, proof = _operate(subject.axes, plan, verify_result=config.verify)
        before: Evaluation | None = None
        uniform: float | None = None
        if data is not None:
            pruned = _recalibrate(pruned, data)
            before = evaluate(ProgramModule(pruned), data.test)
            uniform = _uniform_accuracy(subject.axes, space, target, scores, data)

        student = ProgramModule(pruned)
        tuned: TuneResult | None = None
        after = before
        if config.tune.epochs and data is not None:
            listener.stage("fine-tuning")
            tuned = fit(
                student, data, config.tune, teacher=original, on_epoch=listener.epoch, on_step=listener.step
            )
            after = evaluate(student, data.test)

        listener.stage("exporting")
        final = student.updated()
        write_results(out.staging, final, plan, subject.loaded)
        checked = export_all(out.staging, student, final)

        listener.stage("trying the model's own class")
        native = _native(subject, final, out.staging / NATIVE_FILE)

        listener.stage("measuring latency")
        figures = _measure(subject, original, student, final, (base, before, after), out.staging)
        report = Report(
            command=repeated(config),
            environment=environment(),
            model=model_section(subject.loaded),
            data=data_section(data),
            target={"text": config.target, "unit": config.unit, "macs": target},
            original=figures["original"],
            pruned=figures["pruned"],
            accuracy=accuracy_section(base, uniform, before, after),
            search=search_section(found),
            plan=plan_section(plan, subject.minimum),
            tune=tune_section(tuned, config.tune),
            verification=proof_section(proof),
            onnx={
                "opset": checked.opset,
                "max_error": checked.max_error,
                "comparisons": checked.comparisons,
            },
            native=native_section(native),
            seed=config.seed,
            seconds=time.perf_counter() - start,
        )
        write_json(out.staging / REPORT_FILE, report.to_json())
    return report


def _check_planner(config: CompressConfig, baselines: Mapping[str, Ratios]) -> None:
    if config.planner not in (None, _SEARCH, *baselines):
        raise UsageError(
            f"--planner {config.planner}: unknown", hint=f"one of {', '.join((_SEARCH, *baselines))}"
        )


def _method(config: CompressConfig, data: DataSet | None) -> str:
    """Who makes the plan.

    Raises:
        UsageError: what is asked for needs data, and there is none.
    """
    if data is None:
        for option, value in (("--planner", config.planner), ("--importance", config.importance)):
            if value in (_SEARCH, "taylor"):
                raise UsageError(
                    f"{option} {value} needs data, and {config.source.model} has none",
                    hint="name it: --data digits, cifar10:PATH, imagefolder:PATH or package.module:factory",
                )
    return config.planner or (_SEARCH if data is not None else "uniform")


def _data_notes(config: CompressConfig, data: DataSet | None) -> tuple[str, ...]:
    if data is not None:
        return data.notes
    asked = config.data == NO_DATA
    return (
        f"{'--data none' if asked else 'no data is named (--data)'}: the plan follows from the weights "
        "alone, nothing is fine-tuned, and nothing is measured for accuracy",
    )


def _planned(plan: Plan) -> SearchResult:
    """The outcome where nothing was searched for."""
    return SearchResult(plan, (), {}, 0, 0, 0.0)


def write_results(folder: Path, program: Program, plan: Plan, loaded: LoadedModel) -> None:
    """Write the pruned program: graph, weights and plan."""
    write_json(folder / GRAPH_FILE, program.to_json())
    save_weights(program, folder / WEIGHTS_FILE, {"arch": loaded.arch, "pruned": "true"})
    write_json(folder / PLAN_FILE, plan.to_json())


def export_all(folder: Path, module: ProgramModule, program: Program) -> OnnxCheck:
    """Write ``model.onnx`` and ``model.pt2``, each checked against the module."""
    example = program.random_inputs(2)
    export_pt2(module, example, folder / "model.pt2", dynamic_batch=program.dynamic_batch)
    return export_onnx(module, example, folder / "model.onnx", dynamic_batch=program.dynamic_batch)


def _sound(found: Evaluation, loaded: LoadedModel) -> Evaluation:
    if not found.loss < float("inf"):
        raise ModelFileError(
            f"{loaded.path}: the outputs are not finite", hint="check the weights and the input normalisation"
        )
    return found


def _scores(axes: Axes, criterion: Criterion, data: DataSet | None) -> Scores:
    if criterion != "taylor" or data is None:
        return score(axes, criterion, ())
    limit = min(_TAYLOR_IMAGES, len(data.train))
    return score(axes, criterion, data.train.batches(128, shuffle=True, limit=limit))


def _operate(axes: Axes, plan: Plan, *, verify_result: bool) -> tuple[Program, Verification | None]:
    """Surgery, the recount and the proof."""
    pruned = prune_program(axes, plan)
    recounted = costs(pruned).macs
    if recounted != plan.macs:
        raise AssertionError(f"the pruned program has {recounted} MACs, the plan says {plan.macs}")
    if not verify_result:
        return pruned, None
    proof = verify(axes, plan.keep_mask(axes), pruned)
    check(proof)
    return pruned, proof


def _recalibrate(program: Program, data: DataSet) -> Program:
    images = (
        x for x, _ in data.train.batches(128, shuffle=True, limit=min(_CALIBRATION_IMAGES, len(data.train)))
    )
    return replace(program, tensors=recalibrated(program, program.tensors, images))


def _uniform_accuracy(axes: Axes, space: WidthSpace, target: int, scores: Scores, data: DataSet) -> float:
    """Test accuracy of the uniform plan before fine-tuning, for comparison in the report."""
    plan = make_plan(space, space.project([1.0] * space.bundles, target), scores, "uniform")
    pruned, _ = _operate(axes, plan, verify_result=False)
    return evaluate(ProgramModule(_recalibrate(pruned, data)), data.test).accuracy


def _native(subject: Subject, final: Program, path: Path) -> NativeResult:
    """The user's own module with the pruned weights, if it runs with them; its state dict is written."""
    if subject.costs.macs > _NATIVE_MACS:
        return NativeResult(None, reason=f"not tried: over {_NATIVE_MACS / 1e9:.0f} GMACs for one record")
    found = native_module(subject.loaded.module, subject.program, final, seconds=_NATIVE_SECONDS)
    if found.module is not None:
        state = {k: v for k, v in found.module.state_dict().items() if isinstance(v, Tensor)}
        save_tensors(state, path, {"arch": subject.loaded.arch, "pruned": "true"})
    return found


def _measure(
    subject: Subject,
    original: ProgramModule,
    student: ProgramModule,
    final: Program,
    accuracies: tuple[Evaluation | None, Evaluation | None, Evaluation | None],
    folder: Path,
) -> dict[str, ModelFigures]:
    """Costs, sizes and latencies of both models, measured in turn on one record."""
    whole_onnx = folder / "original.onnx"
    example = subject.program.random_inputs(2)
    export_onnx(original, example, whole_onnx, dynamic_batch=subject.program.dynamic_batch)
    one = subject.program.random_inputs(1)
    files = {"original": whole_onnx, "pruned": folder / "model.onnx"}
    # Apart from each other: onnxruntime's threads spin on for a while and would slow torch's next call.
    modules: dict[str, nn.Module] = {"original": original, "pruned": student}
    in_torch = compare({name: torch_call(module, *one) for name, module in modules.items()})
    in_onnx = compare({name: onnx_call(path, *map(Tensor.numpy, one)) for name, path in files.items()})
    onnx_bytes = {name: path.stat().st_size for name, path in files.items()}
    for path in folder.glob("original.onnx*"):
        path.unlink()
    counts = {"original": subject.costs, "pruned": costs(final)}
    base, before, after = (e.accuracy if e is not None else None for e in accuracies)
    return {
        name: ModelFigures(
            macs=counts[name].macs,
            params=counts[name].params,
            peak_activation_bytes=counts[name].peak_activation_bytes,
            onnx_bytes=onnx_bytes[name],
            torch_ms=_latency(in_torch[name]),
            onnx_ms=_latency(in_onnx[name]),
            accuracy=base if name == "original" else after,
            accuracy_before_tuning=base if name == "original" else before,
        )
        for name in ("original", "pruned")
    }


def _latency(found: Latency) -> dict[str, float]:
    return {"median": found.median_ms, "p10": found.p10_ms, "p90": found.p90_ms}
