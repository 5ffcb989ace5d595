"""The pipeline: from a model file to a smaller, fine-tuned, verified and exported model, stage by stage."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from graph.axes import Axes, infer
from graph.capture import capture
from graph.cost import Costs, costs
from graph.errors import DataError, ModelFileError, UsageError
from graph.program import Program, ProgramModule
from models_zoo.data import DataSet
from profilers.latency import Latency, compare, environment, onnx_call, torch_call
from prune.data import load_data
from prune.export import OnnxCheck, export_onnx, export_pt2, save_weights
from prune.files import OutputFolder, write_json
from prune.importance import CRITERIA, Criterion, Scores, score
from prune.load import LoadedModel, load_model
from prune.plan import Plan, WidthSpace, make_plan, parse_target
from prune.pruned import GRAPH_FILE, PLAN_FILE, WEIGHTS_FILE
from prune.recalibrate import recalibrated
from prune.report import ModelFigures, Report
from prune.surgery import prune_program
from prune.trials import Planner, Problem, SearchResult, Trial
from prune.tune import EpochResult, Evaluation, TuneConfig, TuneResult, evaluate, fit
from prune.verify import Verification, check, verify

_CALIBRATION_IMAGES = 2048
_TAYLOR_IMAGES = 1024


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
        model: path of the model file.
        target: as the user gave it, such as ``0.5`` or ``120M``.
        output: folder of the results.
        unit: of the target, ``flops`` or ``macs``.
        data: name of the data set; the model file's own when left out.
        arch: architecture for a bare state dict.
        arch_args: arguments of the architecture.
        input_shape: (C, H, W); the model file's or the architecture's own when left out.
        importance: criterion that ranks the channels of a group.
        exclude: patterns of modules whose channels stay.
        round_to: kept counts are multiples of this.
        tune: how to fine-tune; 0 epochs leave it out.
        seed: of everything random.
        force: replace files of an earlier run.
        trust_code: load files that run code.
        verify: prove equality in float64 before anything is written.
    """

    model: Path
    target: str
    output: Path
    unit: str = "flops"
    data: str | None = None
    arch: str | None = None
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    importance: Criterion = "magnitude"
    exclude: tuple[str, ...] = ()
    round_to: int = 1
    tune: TuneConfig = field(default_factory=TuneConfig)
    seed: int = 0
    force: bool = False
    trust_code: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        if self.importance not in CRITERIA:
            raise UsageError(f"--importance {self.importance}: unknown", hint="one of " + ", ".join(CRITERIA))
        if self.round_to < 1:
            raise UsageError(f"--round-to {self.round_to}: must be at least 1")
        if self.output.resolve() == self.model.resolve():
            raise UsageError(f"the output {self.output} is the model file itself", hint="name a folder")


@dataclass(frozen=True)
class Subject:
    """A loaded model as a program with its axes and costs."""

    loaded: LoadedModel
    axes: Axes
    costs: Costs

    @property
    def program(self) -> Program:
        """The whole program."""
        return self.axes.program


def open_model(
    model: Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    trust_code: bool = False,
    exclude: tuple[str, ...] = (),
) -> Subject:
    """Load a model, capture it and find its groups.

    Raises:
        PruneError: any of the named failures of loading and capturing.
    """
    loaded = load_model(model, arch=arch, arch_args=arch_args, input_shape=input_shape, trust_code=trust_code)
    program = capture(loaded.module, [torch.randn(2, *loaded.input_shape)])
    return Subject(loaded, infer(program, exclude=_excluded(program, exclude)), costs(program))


def _excluded(program: Program, patterns: tuple[str, ...]) -> dict[str, str]:
    """Tensors of the modules that match a pattern, with the reason.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    result: dict[str, str] = {}
    for pattern in patterns:
        matching = [
            name
            for name in program.tensors
            if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.rpartition(".")[0], pattern)
        ]
        if not matching:
            raise UsageError(
                f"--exclude {pattern}: no module of the model matches", hint="`prune inspect` lists them"
            )
        result |= dict.fromkeys(matching, f"excluded by {pattern}")
    return result


def load_matching_data(name: str | None, loaded: LoadedModel) -> DataSet:
    """The data set for a model: the one named, or the one that the model file names.

    Raises:
        DataError: none is named, or its images have another shape than the model takes.
    """
    spec = name or loaded.data
    if spec is None:
        raise DataError(
            f"{loaded.path} does not say which data it was trained on",
            hint="name it: --data digits, glyphs, cifar10:PATH, imagefolder:PATH or package.module:factory",
        )
    data = load_data(spec)
    if tuple(data.input_shape) != tuple(loaded.input_shape):
        raise DataError(
            f"data {spec} has images of shape {tuple(data.input_shape)}, "
            f"the model takes {tuple(loaded.input_shape)}",
            hint="name data that fits, or give --input-shape",
        )
    return data


def compress(config: CompressConfig, planner: Planner, listener: Listener) -> Report:
    """Prune a model to a target, fine-tune it, export it and report.

    Args:
        config: what to do.
        planner: finds the plan; ``rl.search.planner`` makes one.
        listener: sees the run.

    Returns:
        The report; the files are in ``config.output`` by then, or nothing is.

    Raises:
        PruneError: any of the named failures; nothing is written then.
    """
    start = time.perf_counter()
    with OutputFolder(config.output, config.force) as out:
        listener.stage("loading the model")
        subject = open_model(
            config.model,
            arch=config.arch,
            arch_args=config.arch_args,
            input_shape=config.input_shape,
            trust_code=config.trust_code,
            exclude=config.exclude,
        )
        space = WidthSpace(subject.axes, round_to=config.round_to)
        target = parse_target(config.target, space.base_macs, unit=config.unit)
        space.check_target(target)
        data = load_matching_data(config.data, subject.loaded)
        for note in (*subject.program.notes, *data.notes, *_unknown(subject)):
            listener.note(note)

        listener.stage("measuring the original")
        original = ProgramModule(subject.program)
        base = _sound(evaluate(original, data.test), subject.loaded)

        listener.stage("searching")
        scores = _scores(subject.axes, config.importance, data)
        found = planner(Problem(subject.axes, space, target, scores, data, listener.trial))
        plan = found.plan

        listener.stage("removing channels")
        pruned, proof = _operate(subject.axes, plan, verify_result=config.verify)
        pruned = _recalibrate(pruned, data)
        before = evaluate(ProgramModule(pruned), data.test)
        uniform = _uniform_accuracy(subject.axes, space, target, scores, data)

        student = ProgramModule(pruned)
        tuned: TuneResult | None = None
        after = before
        if config.tune.epochs:
            listener.stage("fine-tuning")
            tuned = fit(
                student, data, config.tune, teacher=original, on_epoch=listener.epoch, on_step=listener.step
            )
            after = evaluate(student, data.test)

        listener.stage("exporting")
        final = student.updated()
        write_results(out.staging, final, plan, subject.loaded)
        checked = export_all(out.staging, student, final)

        listener.stage("measuring latency")
        figures = _measure(subject, original, student, final, base, before, after, out.staging)
        report = Report(
            command=_command(config),
            environment=environment(),
            model=_about(subject.loaded),
            data={"name": data.name, "notes": list(data.notes), **_sizes(data)},
            target={"text": config.target, "unit": config.unit, "macs": target},
            original=figures["original"],
            pruned=figures["pruned"],
            accuracy={
                "split": "test",
                "records": base.records,
                "original": base.accuracy,
                "uniform_before_tuning": uniform,
                "before_tuning": before.accuracy,
                "after_tuning": after.accuracy,
            },
            search=_search_section(found),
            plan={"method": plan.method, "ratio": plan.ratio, "groups": _group_widths(plan)},
            tune=_tune_section(tuned, config.tune),
            verification=_proof_section(proof),
            onnx={
                "opset": checked.opset,
                "max_error": checked.max_error,
                "comparisons": checked.comparisons,
            },
            seed=config.seed,
            seconds=time.perf_counter() - start,
        )
        write_json(out.staging / "report.json", report.to_json())
    return report


def write_results(folder: Path, program: Program, plan: Plan, loaded: LoadedModel) -> None:
    """Write the pruned program: graph, weights and plan."""
    write_json(folder / GRAPH_FILE, program.to_json())
    save_weights(program, folder / WEIGHTS_FILE, {"arch": loaded.arch, "pruned": "true"})
    write_json(folder / PLAN_FILE, plan.to_json())


def export_all(folder: Path, module: ProgramModule, program: Program) -> OnnxCheck:
    """Write ``model.onnx`` and ``model.pt2``, each checked against the module."""
    example = program.random_inputs(2)[0]
    export_pt2(module, example, folder / "model.pt2", dynamic_batch=program.dynamic_batch)
    return export_onnx(module, example, folder / "model.onnx", dynamic_batch=program.dynamic_batch)


def _unknown(subject: Subject) -> list[str]:
    costs_note = [
        f"{op} ({count} times) has no cost rule: its MACs are not counted"
        for op, count in subject.costs.unknown.items()
    ]
    rules_note = [
        f"{op} has no rule: the {count} channels that enter it stay"
        for op, count in subject.axes.unsupported.items()
    ]
    return costs_note + rules_note


def _sound(found: Evaluation, loaded: LoadedModel) -> Evaluation:
    if not found.loss < float("inf"):
        raise ModelFileError(
            f"{loaded.path}: the outputs are not finite", hint="check the weights and the input normalisation"
        )
    return found


def _scores(axes: Axes, criterion: Criterion, data: DataSet) -> Scores:
    batches = data.train.batches(128, shuffle=True, limit=min(_TAYLOR_IMAGES, len(data.train)))
    return score(axes, criterion, batches if criterion == "taylor" else ())


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


def _measure(
    subject: Subject,
    original: ProgramModule,
    student: ProgramModule,
    final: Program,
    base: Evaluation,
    before: Evaluation,
    after: Evaluation,
    folder: Path,
) -> dict[str, ModelFigures]:
    """Costs, sizes and latencies of both models, measured in turn on one image."""
    whole_onnx = folder / "original.onnx"
    example = subject.program.random_inputs(2)[0]
    export_onnx(original, example, whole_onnx, dynamic_batch=subject.program.dynamic_batch)
    one = example[:1] if subject.program.dynamic_batch else example
    files = {"original": whole_onnx, "pruned": folder / "model.onnx"}
    # Apart from each other: onnxruntime's threads spin on for a while and would slow torch's next call.
    in_torch = compare({"original": torch_call(original, one), "pruned": torch_call(student, one)})
    in_onnx = compare({name: onnx_call(path, one.numpy()) for name, path in files.items()})
    onnx_bytes = {name: path.stat().st_size for name, path in files.items()}
    whole_onnx.unlink()
    counts = {"original": subject.costs, "pruned": costs(final)}
    accuracies = {"original": base.accuracy, "pruned": after.accuracy}
    return {
        name: ModelFigures(
            macs=counts[name].macs,
            params=counts[name].params,
            peak_activation_bytes=counts[name].peak_activation_bytes,
            onnx_bytes=onnx_bytes[name],
            torch_ms=_latency(in_torch[name]),
            onnx_ms=_latency(in_onnx[name]),
            accuracy=accuracies[name],
            accuracy_before_tuning=before.accuracy if name == "pruned" else base.accuracy,
        )
        for name in ("original", "pruned")
    }


def _latency(found: Latency) -> dict[str, float]:
    return {"median": found.median_ms, "p10": found.p10_ms, "p90": found.p90_ms}


def _about(loaded: LoadedModel) -> dict[str, Any]:
    return {
        "path": loaded.path,
        "sha256": loaded.sha256,
        "arch": loaded.arch,
        "arch_args": dict(loaded.arch_args),
        "input_shape": list(loaded.input_shape),
        "metrics": dict(loaded.metrics),
    }


def _sizes(data: DataSet) -> dict[str, int]:
    return {"train": len(data.train), "search": len(data.search), "test": len(data.test)}


def _search_section(found: SearchResult) -> dict[str, Any]:
    winner = found.best[found.plan.method]
    uniform = found.best.get("uniform")
    return {
        "winner": found.plan.method,
        "gain_over_uniform": winner.accuracy - uniform.accuracy if uniform else None,
        "images": found.images,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "best": {
            name: {
                "accuracy": t.accuracy,
                "loss": t.loss,
                "macs": t.macs,
                "plans": sum(o.method == name for o in found.trials),
            }
            for name, t in found.best.items()
        },
        "trials": [t.to_json() for t in found.trials],
    }


def _group_widths(plan: Plan) -> dict[str, list[int]]:
    return {name: [len(kept), plan.widths[name]] for name, kept in plan.kept.items()}


def _tune_section(tuned: TuneResult | None, config: TuneConfig) -> dict[str, Any]:
    if tuned is None:
        return {"epochs": 0}
    return {
        "epochs": config.epochs,
        "lr": config.lr,
        "batch_size": config.batch_size,
        "distill": config.distill,
        "best_epoch": tuned.best_epoch,
        "best_search_accuracy": tuned.best_accuracy,
        "seconds": tuned.seconds,
        "history": [
            {"epoch": e.epoch, "loss": e.loss, "accuracy": e.accuracy, "lr": e.lr, "seconds": e.seconds}
            for e in tuned.history
        ],
    }


def _proof_section(proof: Verification | None) -> dict[str, Any]:
    if proof is None:
        return {"ran": False}
    return {"ran": True, "max_error": proof.max_error, "limit": proof.limit, "records": proof.records}


def _command(config: CompressConfig) -> list[str]:
    """The command line that repeats the run."""
    words = ["prune", "compress", str(config.model), f"--{config.unit}", config.target]
    options = {
        "--data": config.data,
        "--arch": config.arch,
        "--importance": config.importance,
        "--epochs": config.tune.epochs,
        "--lr": config.tune.lr,
        "--seed": config.seed,
        "-o": config.output,
    }
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    for pattern in config.exclude:
        words += ["--exclude", pattern]
    return words
